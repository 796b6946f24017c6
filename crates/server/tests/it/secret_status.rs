//! `$secret-status`: who uses which secret, and whether the retiring one can go.

use std::time::Duration;

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::{EVIDENCE_SETTLED_AFTER, USAGE_CALLERS_KEPT, USAGE_SILENCE_MAX};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, Credentials, START, TestApp};

/// The value of a part, by the names of the parts that lead to it.
pub fn part<'a>(parameters: &'a Value, names: &[&str]) -> &'a Value {
    let mut list = &parameters["parameter"];
    let mut found = &Value::Null;
    for name in names {
        let mut parts = list.as_array().into_iter().flatten();
        found = parts.find(|part| part["name"] == *name).unwrap_or(&Value::Null);
        list = &found["part"];
    }
    let value = found.as_object().into_iter().flatten().find(|(name, _)| name.starts_with("value"));
    value.map_or(&Value::Null, |(_, value)| value)
}

/// What is said of each caller: user agent, instance, uses, refused.
fn callers(parameters: &Value, slot: &str) -> Vec<(Value, Value, Value, Value)> {
    let slots = parameters["parameter"].as_array().unwrap();
    let parts = slots.iter().find(|part| part["name"] == slot).map_or(&Value::Null, |slot| &slot["part"]);
    let of = |caller: &Value, name| part(&json!({ "parameter": caller["part"] }), &[name]).clone();
    let callers = parts.as_array().into_iter().flatten().filter(|part| part["name"] == "caller");
    callers
        .map(|caller| {
            assert_eq!(of(caller, "address"), "127.0.0.1");
            (of(caller, "userAgent"), of(caller, "instance"), of(caller, "uses"), of(caller, "refused"))
        })
        .collect()
}

/// Gets a token as a worker that says which it is.
async fn grant_as(test: &TestApp, client: &Credentials, worker: &str) -> u16 {
    let form = [("grant_type", "client_credentials")];
    let request = test.request(client, Method::POST, "oauth2/token").form(&form);
    let request = request.header("user-agent", "export/2.1").header("x-client-instance", worker);
    request.send().await.status.as_u16()
}

pub async fn status(test: &TestApp, client: &Credentials, query: &str) -> Value {
    let path = format!("{}/$secret-status{query}", client.path());
    test.get(&test.admin, &path).await.expect(200).json()
}

#[tokio::test]
async fn it_tells_who_is_still_on_the_retiring_secret_until_nobody_is() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let unused = status(&test, &old, "").await;
    assert_eq!(part(&unused, &["secret", "uses"]), 0);
    assert_eq!(part(&unused, &["secret", "lastUsed"]), &Value::Null);
    assert_eq!(part(&unused, &["retiringSecret", "id"]), &Value::Null);

    for worker in ["one", "two"] {
        assert_eq!(grant_as(&test, &old, worker).await, 200);
    }
    let rotated = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    let new = old.with(&rotated.text_at("/secret"));
    test.clock.advance(Duration::from_secs(10));
    assert_eq!(grant_as(&test, &new, "one").await, 200);
    assert_eq!(grant_as(&test, &old, "two").await, 200);
    assert_eq!(grant_as(&test, &old.with("wrong"), "three").await, 401);

    test.clock.advance(EVIDENCE_SETTLED_AFTER);
    let told = status(&test, &old, "").await;
    assert_eq!(callers(&told, "secret"), [(json!("export/2.1"), json!("one"), json!(1), json!(0))]);
    let retiring = [
        (json!("export/2.1"), json!("two"), json!(2), json!(0)),
        (json!("export/2.1"), json!("one"), json!(1), json!(0)),
    ];
    assert_eq!(callers(&told, "retiringSecret"), retiring);
    assert_eq!(callers(&told, "refused"), [(json!("export/2.1"), json!("three"), json!(0), json!(1))]);
    assert_eq!(part(&told, &["refused", "refusedLastHour"]), 1);
    assert_eq!(part(&told, &["retiringSecret", "uses"]), 3);
    assert_eq!(part(&told, &["retiringSecret", "usesLastHour"]), 3);
    assert_eq!(part(&told, &["retiringSecret", "created"]), "2026-01-01T00:00:00.000Z");
    assert_eq!(part(&told, &["retiringSecret", "lastUsed"]), "2026-01-01T00:00:10.000Z");
    assert_eq!(part(&told, &["completeUntil"]), "2026-01-01T00:05:10.000Z");
    assert_eq!(part(&told, &["retiringSecret", "safeToRetire"]), false);
    let reason = "1 of 2 callers have moved to the current secret. \
                  Still on the retiring one: 127.0.0.1 (\"export/2.1\", \"two\"), last 5 min ago. \
                  Its uses are counted only for 5 min, and 24 h were asked for.";
    assert_eq!(part(&told, &["retiringSecret", "countedSince"]), "2026-01-01T00:00:00.000Z");
    assert_eq!(part(&told, &["retiringSecret", "reason"]), reason);
    assert_ne!(part(&told, &["secret", "id"]), part(&told, &["retiringSecret", "id"]));

    // Whoever knows better says for how long a caller must have stayed away.
    let told = status(&test, &old, "?unusedFor=5m").await;
    assert_eq!(part(&told, &["retiringSecret", "safeToRetire"]), true);
    assert_eq!(grant_as(&test, &new, "two").await, 200);
    test.clock.advance(EVIDENCE_SETTLED_AFTER);
    let told = status(&test, &old, "?unusedFor=10m").await;
    assert_eq!(part(&told, &["retiringSecret", "safeToRetire"]), true);
    assert_eq!(
        part(&told, &["retiringSecret", "reason"]),
        "2 of 2 callers have moved to the current secret."
    );
}

#[tokio::test]
async fn a_secret_without_any_use_is_safe_only_once_it_was_watched_for_as_long_as_asked() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    let safe = async |query| {
        let told = status(&test, &old, query).await;
        let part = |name| part(&told, &["retiringSecret", name]).clone();
        (part("safeToRetire"), part("reason").as_str().unwrap().to_owned(), part("countedSince"))
    };
    test.clock.advance(Duration::from_secs(40));
    let (is_safe, reason, since) = safe("").await;
    assert_eq!(is_safe, false);
    assert!(reason.contains("counted only for 40 s, and 24 h were asked for"), "{reason}");
    assert_eq!(since, "2026-01-01T00:00:00.000Z");
    assert_eq!(safe("?unusedFor=40s").await.0, true);
    assert_eq!(safe("?unusedFor=41s").await.0, false);
    test.clock.advance(Duration::from_hours(24));
    assert_eq!(safe("").await.0, true);
    // Nobody is remembered for longer: what is asked beyond that is not known.
    test.clock.advance(USAGE_CALLERS_KEPT);
    assert_eq!(safe("?unusedFor=30d").await.0, true);
    assert_eq!(safe("?unusedFor=31d").await, {
        let reason = "No use of the retiring secret is known. \
                      Its uses are counted only for 30 days, and 31 days were asked for.";
        (json!(false), reason.to_owned(), json!("2026-01-02T00:00:40.000Z"))
    });
}

#[tokio::test]
async fn a_server_that_has_ended_without_a_word_leaves_a_gap_that_is_told() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    // For longer than a day there is nothing to write down. Then comes a job, and the server is killed.
    test.clock.advance(Duration::from_hours(25));
    assert_eq!(grant_as(&test, &old, "nightly").await, 200);
    let test = test.kill_and_start_again().await;
    test.clock.advance(USAGE_SILENCE_MAX + Duration::from_millis(1));
    let told = status(&test, &old, "").await;
    assert_eq!(part(&told, &["completeUntil"]), "2026-01-02T01:00:30.001Z");
    assert_eq!(part(&told, &["gapAfter"]), "2026-01-01T00:00:00.000Z");
    assert_eq!(part(&told, &["retiringSecret", "safeToRetire"]), false);
    let reason = part(&told, &["retiringSecret", "reason"]).as_str().unwrap();
    assert_eq!(
        reason,
        "No use of the retiring secret is known. Some uses after 2026-01-01T00:00:00.000Z may not have been \
         counted: a server ended out of order."
    );
    // What it did not write down is of no importance any more once all of it is longer ago than is asked.
    test.app.sweep().await;
    test.clock.advance(Duration::from_hours(24) - Duration::from_secs(31));
    assert_eq!(part(&status(&test, &old, "").await, &["retiringSecret", "safeToRetire"]), false);
    test.clock.advance(Duration::from_secs(31));
    assert_eq!(part(&status(&test, &old, "").await, &["retiringSecret", "safeToRetire"]), true);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_called_complete() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.app.refuse_changes();
    test.clock.advance(Duration::from_mins(1));
    assert_eq!(grant_as(&test, &client, "one").await, 200);
    let told = status(&test, &client, "").await;
    assert_eq!(part(&told, &["completeUntil"]), "2026-01-01T00:00:00.000Z");
    assert_eq!(part(&told, &["secret", "uses"]), 0);
    // Nor is it afterwards, although the server ended in order.
    let test = test.restart_configured(|_| {}).await;
    test.clock.advance(USAGE_SILENCE_MAX + Duration::from_millis(1));
    let told = status(&test, &client, "").await;
    assert_eq!(part(&told, &["completeUntil"]), "2026-01-01T00:01:30.001Z");
    assert_eq!(part(&told, &["gapAfter"]), "2026-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn a_secret_that_has_ended_is_counted_where_it_is_seen_again() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let rotated = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    let retiring = part(&status(&test, &old, "").await, &["retiringSecret", "id"]).clone();
    test.rotate(&test.admin, &old.id, "retiringSecret", &old.secret).await.expect(200);
    assert_eq!(grant_as(&test, &old, "forgotten").await, 401);
    let new = old.with(&rotated.text_at("/secret"));
    assert_eq!(grant_as(&test, &new, "one").await, 200);
    test.app.flush_usage().await;
    let (client, id) =
        (ClientId::parse(&old.id).unwrap(), SecretId::parse(retiring.as_str().unwrap()).unwrap());
    let usage = test.store().await.usage(client, [id, SecretId::NIL, SecretId::NIL], START).await.unwrap();
    let former = &usage[&id];
    assert_eq!(former.total.map(|total| (total.accepted, total.refused)), Some((0, 1)));
    assert_eq!(former.callers[0].caller.as_ref().unwrap().instance, "forgotten");
    assert!(!usage.contains_key(&SecretId::NIL), "it is counted once");
}

/// The minutes that are told of a secret, or of none: when, how many accepted, how many refused.
fn minutes(parameters: &Value, slot: &str) -> Vec<(String, i64, i64)> {
    let parts = parameters["parameter"].as_array().unwrap().iter().find(|part| part["name"] == slot);
    let parts = parts.unwrap()["part"].as_array().unwrap();
    let of = |minute: &Value, name| part(&json!({ "parameter": minute["part"] }), &[name]).clone();
    let told = parts.iter().filter(|part| part["name"] == "minute").map(|minute| {
        let number = |name| of(minute, name).as_i64().unwrap();
        (of(minute, "at").as_str().unwrap().to_owned(), number("accepted"), number("refused"))
    });
    told.collect()
}

#[tokio::test]
async fn whoever_asks_for_them_is_told_the_minutes_that_a_chart_is_drawn_by() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    test.clock.advance(Duration::from_secs(59));
    for seconds in [1, 59, 1, 120] {
        assert_eq!(grant_as(&test, &old, "one").await, 200);
        test.clock.advance(Duration::from_secs(seconds));
    }
    let rotated = test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200);
    let new = old.with(&rotated.text_at("/secret"));
    assert_eq!(grant_as(&test, &new, "one").await, 200);
    for _ in 0..2 {
        assert_eq!(grant_as(&test, &old.with("wrong"), "one").await, 401);
    }
    let told =
        |minute: i64, accepted, refused| (format!("2026-01-01T00:0{minute}:00.000Z"), accepted, refused);
    let all = status(&test, &old, "?minutes=1500").await;
    assert_eq!(minutes(&all, "retiringSecret"), [told(0, 1, 0), told(1, 2, 0), told(2, 1, 0)]);
    assert_eq!(minutes(&all, "secret"), [told(4, 1, 0)]);
    assert_eq!(minutes(&all, "refused"), [told(4, 0, 2)]);
    // The one that is under way is the last.
    let some = status(&test, &old, "?unusedFor=1h&minutes=3").await;
    assert_eq!(minutes(&some, "retiringSecret"), [told(2, 1, 0)]);
    assert_eq!(minutes(&some, "secret"), [told(4, 1, 0)]);
    let one = status(&test, &old, "?minutes=1").await;
    assert_eq!(minutes(&one, "retiringSecret"), []);
    // Whoever does not ask for them is told the rest, and nothing else.
    let mut without = all;
    for parameter in without["parameter"].as_array_mut().unwrap() {
        if let Some(parts) = parameter.get_mut("part").and_then(Value::as_array_mut) {
            parts.retain(|part| part["name"] != "minute");
        }
    }
    assert_eq!(status(&test, &old, "").await, without);
}

#[tokio::test]
async fn a_secret_that_was_cut_short_on_its_way_into_a_deployment_is_seen() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let (half, _) = client.secret.split_at(client.secret.len() - 1);
    assert_eq!(grant_as(&test, &client.with(half), "half").await, 401);
    let told = status(&test, &client, "").await;
    assert_eq!(callers(&told, "refused"), [(json!("export/2.1"), json!("half"), json!(0), json!(1))]);
    assert_eq!(part(&told, &["refused", "refusedLastHour"]), 1);
    let query = format!("AuditEvent?entity={}&subtype=refused-proofs", client.path());
    assert_eq!(test.get(&test.admin, &query).await.resources().len(), 1);
    // Of a client that there is not, nothing is kept.
    let nobody =
        Credentials { id: "0198c2f0-1111-4222-8333-944455566677".to_owned(), secret: half.to_owned() };
    assert_eq!(grant_as(&test, &nobody, "half").await, 401);
    test.app.flush_usage().await;
    let id = ClientId::parse(&nobody.id).unwrap();
    assert!(test.store().await.usage(id, [SecretId::NIL; 3], START).await.unwrap().is_empty());
}

#[tokio::test]
async fn it_is_for_admins_and_shows_no_secret() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let path = format!("{}/$secret-status", client.path());
    assert_eq!(grant_as(&test, &client, &format!("I have {}", client.secret)).await, 200);
    let told = test.get(&test.admin, &path).await.expect(200);
    assert!(!told.text.contains(&client.secret), "{}", told.text);
    assert_eq!(callers(&told.json(), "secret")[0].1, "[withheld]");

    test.get(&test.member, &path).await.refused(403, "forbidden");
    test.get(&client, &path).await.refused(403, "forbidden");
    test.get(&test.stranger, &path).await.refused(404, "not-found");
    test.get(As::Anonymous, &path).await.refused(401, "login");
    let post = test.fhir(&test.admin, Method::POST, &path).json(&json!({})).send().await;
    post.refused(405, "not-supported");
    assert_eq!(post.header("allow"), "GET");
    for (query, why) in [
        ("?unusedFor=soon", "unusedFor is a whole number with a unit"),
        ("?unusedFor=1h&unusedFor=2h", "unusedFor is given more than once"),
        ("?minutes=0", "minutes is a whole number from 1 to 1500"),
        ("?minutes=1501", "minutes is a whole number from 1 to 1500"),
        ("?minutes=all", "minutes is a whole number from 1 to 1500"),
        ("?minutes=1&minutes=1", "minutes is given more than once"),
        ("?x=y", "Unknown parameter: there are unusedFor and minutes"),
    ] {
        let told = test.get(&test.admin, &format!("{path}{query}")).await.refused(400, "invalid");
        assert!(told.contains(why), "{query}: {told}");
    }
    test.fhir(&test.admin, Method::DELETE, &client.path()).send().await.expect(200);
    test.get(&test.admin, &path).await.refused(410, "deleted");
    test.get(&test.admin, "ClientApplication/x/$secret-status").await.refused(404, "not-found");
}
