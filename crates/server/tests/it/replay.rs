//! `Idempotency-Key` on what moves secrets: the same again is answered again, and nothing is done twice.

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_chaos::proxy::Mode;
use keyrelay_core::id::MembershipId;
use keyrelay_core::idempotency::{IdempotencyKey, KeptAnswerId};
use keyrelay_core::limits::KEPT_ANSWERS_PER_CLIENT_MAX;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};
use crate::bounds::with_late_body;

const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";
const MS: Duration = Duration::from_millis(1);
/// A day but for a millisecond.
const LAST_MS: Duration = Duration::from_millis(24 * 60 * 60 * 1000 - 1);

async fn call(test: &TestApp, who: &Credentials, key: &str, path: &str, body: &Value) -> Answer {
    test.fhir(who, Method::POST, path).header("idempotency-key", key).json(body).send().await
}

async fn rotate(test: &TestApp, key: &str, client: &Credentials) -> Answer {
    let path = format!("{}/$rotate-secret", client.path());
    call(test, &test.admin, key, &path, &json!({ "secret": client.secret })).await
}

async fn versions(test: &TestApp, client: &Credentials) -> usize {
    let history = test.get(&test.super_admin, &format!("{}/_history", client.path())).await;
    history.expect(200).resources().len()
}

#[track_caller]
fn is_same(first: &Answer, again: &Answer) {
    assert_eq!(first.status, again.status, "{}", again.text);
    assert!(first.text == again.text, "another body");
    for name in ["etag", "last-modified", "location", "warning", "cache-control", "content-type"] {
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
}

/// Under what the answer to the admin's request is kept.
async fn kept_under(test: &TestApp, key: &str) -> KeptAnswerId {
    let membership = test.membership_of(&test.admin).await["id"].as_str().and_then(MembershipId::parse);
    KeptAnswerId::of(membership.unwrap(), &IdempotencyKey::parse(key).unwrap())
}

#[tokio::test]
async fn the_same_again_is_answered_again_whatever_happened_since() {
    let test = TestApp::start().await;
    let node = test.beside().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    let new = old.with(&first.text_at("/secret"));
    test.clock.advance(MS);
    is_same(&first, &rotate(&test, KEY, &old).await);
    // A structured string and a bare one are the same key, and whitespace is not what is asked.
    is_same(&first, &rotate(&node, &format!("\"{KEY}\""), &old).await);
    let body = format!("{{ \"secret\" :\n\"{}\" }}", old.secret);
    let request = node.fhir(&test.admin, Method::POST, &format!("{}/$rotate-secret", old.path()));
    let request = request.header("idempotency-key", KEY).body("application/fhir+json", body);
    is_same(&first, &request.send().await);
    assert_eq!(versions(&test, &old).await, 2);
    test.rotate(&test.admin, &old.id, "secret", &old.secret).await.refused(400, "invalid");

    test.rotate(&test.admin, &old.id, "retiringSecret", &old.secret).await.expect(200);
    is_same(&first, &rotate(&test, KEY, &old).await);
    assert!(!test.lets_in(&old.id, &old.secret).await, "an answer brings nothing back");
    assert!(test.lets_in(&new.id, &new.secret).await);
    let shown = format!("AuditEvent?entity={}&subtype=read-secret", old.path());
    assert_eq!(test.get(&test.admin, &shown).await.expect(200).resources().len(), 4, "one each time");
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await;
    assert!(metrics.text.contains("\nkeyrelay_rotations_total 1\n"), "{}", metrics.text);
}

#[tokio::test]
async fn undoing_and_revoking_twice_under_a_key_is_once() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    rotate(&test, "1", &old).await.expect(200);
    for (key, operation, body) in
        [("2", "$undo-rotation", json!({})), ("3", "$revoke-secret", json!({ "slot": "retiringSecret" }))]
    {
        let path = format!("{}/{operation}", old.path());
        let first = call(&test, &test.admin, key, &path, &body).await.expect(200);
        assert_eq!(first.text_at("/secret"), old.secret);
        let count = versions(&test, &old).await;
        is_same(&first, &call(&test, &test.admin, key, &path, &body).await);
        assert_eq!(versions(&test, &old).await, count);
    }
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let other = test.make_client(&test.project, "Weekly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    let rotation = format!("{}/$rotate-secret", old.path());
    for (path, body) in [
        (rotation.clone(), json!({ "secret": first.text_at("/secret") })),
        (rotation.clone(), json!({ "secret": old.secret, "force": true })),
        (format!("{}/$undo-rotation", old.path()), json!({})),
        (format!("{}/$revoke-secret", old.path()), json!({ "slot": "secret" })),
        (format!("{}/$rotate-secret", other.path()), json!({ "secret": other.secret })),
    ] {
        let told = call(&test, &test.admin, KEY, &path, &body).await.refused(422, "business-rule");
        assert!(told.contains("nothing was changed"), "{told}");
    }
    assert_eq!((versions(&test, &old).await, versions(&test, &other).await), (2, 1));
    // What cannot be what was asked then is told as ever.
    call(&test, &test.admin, KEY, &rotation, &json!({})).await.refused(400, "invalid");
    is_same(&first, &rotate(&test, KEY, &old).await);
}

#[tokio::test]
async fn what_is_no_key_changes_nothing() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    for key in ["", "a b", "\"a", "\"\"", "\"a\";b", &"k".repeat(256)] {
        let told = rotate(&test, key, &old).await.refused(400, "invalid");
        assert!(told.contains("1 to 255 visible ASCII characters"), "{told}");
    }
    let path = format!("{}/$rotate-secret", old.path());
    let request = test.fhir(&test.admin, Method::POST, &path).header("idempotency-key", "a");
    let request = request.header("idempotency-key", "a").json(&json!({ "secret": old.secret }));
    request.send().await.refused(400, "invalid");
    // Who may not ask is told that first.
    call(&test, &test.member, "a b", &path, &json!({})).await.refused(403, "forbidden");
    assert_eq!(versions(&test, &old).await, 1);
    rotate(&test, &"k".repeat(255), &old).await.expect(200);
}

#[tokio::test]
async fn a_refusal_is_not_kept() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    rotate(&test, KEY, &old.with("wrong")).await.refused(400, "invalid");
    let path = format!("{}/$revoke-secret", old.path());
    let revoke = json!({ "slot": "retiringSecret" });
    call(&test, &test.admin, KEY, &path, &revoke).await.refused(409, "conflict");
    rotate(&test, KEY, &old).await.expect(200);
}

#[tokio::test]
async fn of_many_at_once_one_moves_the_secret_and_all_are_answered_the_same() {
    let test = TestApp::start().await;
    let nodes = [&test, &test.beside().await];
    let old = test.make_client(&test.project, "Nightly export").await;
    let answers = join_all((0..12).map(|n| rotate(nodes[n % 2], KEY, &old))).await;
    let (first, others) = answers.split_first().unwrap();
    assert_eq!(first.status, 200, "{}", first.text);
    for answer in others {
        is_same(first, answer);
    }
    assert_eq!(versions(&test, &old).await, 2);
}

#[tokio::test]
async fn of_two_requests_at_once_under_one_key_one_is_refused() {
    let test = TestApp::start().await;
    let nodes = [&test, &test.beside().await];
    let clients = [
        test.make_client(&test.project, "Nightly export").await,
        test.make_client(&test.project, "Weekly export").await,
    ];
    let answers = join_all([0, 1].map(|n| rotate(nodes[n], KEY, &clients[n]))).await;
    let mut statuses = answers.iter().map(|answer| answer.status.as_u16()).collect::<Vec<_>>();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 422], "{answers:?}");
}

#[tokio::test]
async fn an_answer_is_kept_for_a_day() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    let id = kept_under(&test, KEY).await;
    let kept = async || test.store().await.kept_answer(id, crate::app::START).await.unwrap().is_some();
    test.clock.advance(LAST_MS);
    test.app.sweep().await;
    is_same(&first, &rotate(&test, KEY, &old).await);
    test.clock.advance(MS);
    rotate(&test, KEY, &old).await.refused(400, "invalid");
    // Its place is free, whether or not it was cleared.
    let new = old.with(&first.text_at("/secret"));
    rotate(&test, KEY, &new).await.expect(200);
    test.clock.advance(LAST_MS + 2 * MS);
    assert!(kept().await);
    test.app.sweep().await;
    assert!(!kept().await);
}

#[tokio::test]
async fn of_a_client_the_newest_answers_are_kept() {
    let test = TestApp::start().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let other = test.make_client(&test.project, "Weekly export").await;
    let of_other = rotate(&test, "other", &other).await.expect(200);
    let mut asked = Vec::new();
    for n in 0..=KEPT_ANSWERS_PER_CLIENT_MAX {
        test.clock.advance(MS);
        let answer = rotate(&test, &format!("key-{n}"), &client).await.expect(200);
        let next = client.with(&answer.text_at("/secret"));
        asked.push((client, answer));
        client = next;
    }
    for (n, (asked, answer)) in asked.iter().enumerate() {
        let again = rotate(&test, &format!("key-{n}"), asked).await;
        if n == 0 {
            again.refused(400, "invalid");
        } else {
            is_same(answer, &again);
        }
    }
    is_same(&of_other, &rotate(&test, "other", &other).await);
}

#[tokio::test]
async fn where_secrets_are_shown_once_a_key_gives_the_answer_again() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretVisibility", "once").await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    let new = old.with(&first.text_at("/secret"));
    assert_eq!(first.json()["retiringSecret"], Value::Null);
    // A change of the project that leaves this as it is leaves the answer, too.
    let rename = json!([{ "op": "replace", "path": "/name", "value": "Renamed" }]);
    test.patch(&test.admin, &format!("Project/{}", test.project), &rename).await.expect(200);
    is_same(&first, &rotate(&test, KEY, &old).await);
    assert!(test.lets_in(&new.id, &new.secret).await);
    let read = test.get(&test.admin, &old.path()).await.expect(200);
    assert_eq!(read.json()["secret"], Value::Null);
}

#[tokio::test]
async fn what_was_kept_before_secrets_were_shown_once_is_gone() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let elsewhere = test.make_client(&test.other_project, "Elsewhere").await;
    let path = format!("{}/$rotate-secret", elsewhere.path());
    let body = json!({ "secret": elsewhere.secret });
    rotate(&test, KEY, &old).await.expect(200);
    let of_elsewhere = call(&test, &test.stranger, KEY, &path, &body).await.expect(200);
    test.set(&test.project, "secretVisibility", "once").await;
    rotate(&test, KEY, &old).await.refused(400, "invalid");
    let id = kept_under(&test, KEY).await;
    assert!(test.store().await.kept_answer(id, crate::app::START).await.unwrap().is_none());
    is_same(&of_elsewhere, &call(&test, &test.stranger, KEY, &path, &body).await);
}

#[tokio::test]
async fn who_may_not_ask_any_more_and_who_did_not_ask_gets_no_answer() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let operator = test.make_client(&test.project, "Second operator").await;
    test.make_admin(&operator).await;
    let (path, body) = (format!("{}/$rotate-secret", old.path()), json!({ "secret": old.secret }));
    let again = async |who: &Credentials| call(&test, who, KEY, &path, &body).await;
    let first = again(&operator).await.expect(200);
    for (who, status, code) in [
        (&test.admin, 400, "invalid"),
        (&test.super_admin, 400, "invalid"),
        (&test.member, 403, "forbidden"),
        (&test.stranger, 404, "not-found"),
    ] {
        again(who).await.refused(status, code);
    }
    let set = async |path: &str, value: bool| {
        test.patch_membership(&operator, &json!([{ "op": "add", "path": path, "value": value }])).await;
    };
    set("/admin", false).await;
    again(&operator).await.refused(403, "forbidden");
    set("/admin", true).await;
    set("/active", false).await;
    again(&operator).await.refused(401, "login");
    set("/active", true).await;
    is_same(&first, &again(&operator).await);

    test.delete(&test.admin, &old.path()).await.expect(200);
    again(&operator).await.refused(410, "deleted");
}

#[tokio::test]
async fn what_is_hidden_from_the_caller_by_now_is_not_in_the_answer() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    assert_eq!(first.text_at("/name"), "Nightly export");
    let policy = |fields: &str| {
        json!({ "name": "Narrow", "resource": [
            { "resourceType": "ClientApplication", "hiddenFields": [fields] },
            { "resourceType": "*" },
        ] })
    };
    test.put_under_policy(&test.admin, &policy("name")).await;
    let again = rotate(&test, KEY, &old).await.expect(200);
    assert_eq!((again.text_at("/secret"), &again.json()["name"]), (first.text_at("/secret"), &Value::Null));
    test.put_under_policy(&test.admin, &policy("secret")).await;
    rotate(&test, KEY, &old).await.refused(403, "forbidden");
}

#[tokio::test]
async fn who_is_shut_out_before_the_body_arrives_gets_no_answer() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = rotate(&test, KEY, &old).await.expect(200);
    let As::Bearer(token) = test.bearer(&test.admin).await else { unreachable!() };
    let demote = async {
        test.patch_membership(&test.admin, &json!([{ "op": "replace", "path": "/admin", "value": false }]))
            .await;
    };
    let path = format!("/fhir/R4/{}/$rotate-secret", old.path());
    let headers = format!("Bearer {token}\r\nIdempotency-Key: {KEY}");
    let answer = with_late_body(&test, &path, &headers, &json!({ "secret": old.secret }), demote).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(!answer.contains(&first.text_at("/secret")));
}

#[tokio::test]
async fn a_warning_is_given_again() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretOverwrite", "warn").await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let new = old.with(&rotate(&test, "1", &old).await.expect(200).text_at("/secret"));
    test.bearer(&old).await;
    let first = rotate(&test, KEY, &new).await.expect(200);
    assert!(first.header("warning").contains("was still in use"));
    is_same(&first, &rotate(&test, KEY, &new).await);
    // If-Match was about what there was then.
    let path = format!("{}/$rotate-secret", old.path());
    let request = test.fhir(&test.admin, Method::POST, &path).header("idempotency-key", KEY);
    let request = request.header("if-match", "W/\"gone\"").json(&json!({ "secret": new.secret }));
    is_same(&first, &request.send().await);
}

#[tokio::test]
async fn a_rotation_in_doubt_is_settled_by_asking_again() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    test.set(&test.project, "secretVisibility", "once").await;
    let old = test.make_client(&test.project, "Nightly export").await;
    proxy.set(Mode::LoseAnswersToCommits);
    let lose = async {
        while versions(&test, &old).await < 2 {
            tokio::task::yield_now().await;
        }
        proxy.set(Mode::Hang);
        proxy.cut();
    };
    let (answer, ()) = tokio::join!(rotate(&node, KEY, &old), lose);
    answer.refused(503, "transient");
    let again = rotate(&test, KEY, &old).await.expect(200);
    assert!(test.lets_in(&old.id, &again.text_at("/secret")).await);
    proxy.set(Mode::Pass);
    is_same(&again, &rotate(&node, KEY, &old).await);
    assert_eq!(versions(&test, &old).await, 2);
}

#[tokio::test]
async fn a_commit_that_was_not_confirmed_keeps_one_answer() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    for mode in [Mode::KeepCommits, Mode::LoseAnswersToCommits] {
        let old = test.make_client(&test.project, "Nightly export").await;
        let mut lost = proxy.commits_lost();
        proxy.set(mode);
        let heal = async {
            lost.changed().await.unwrap();
            proxy.set(Mode::Pass);
            proxy.cut();
        };
        let key = format!("{mode:?}");
        let (first, ()) = tokio::join!(rotate(&node, &key, &old), heal);
        is_same(&first.expect(200), &rotate(&test, &key, &old).await);
        assert_eq!(versions(&test, &old).await, 2);
    }
}
