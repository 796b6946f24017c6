//! Requests of one project, however expensive for the database, do not keep others from authenticating, reading and
//! rotating.

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{SEARCH_SCANS_MAX, SEARCHES_PER_PROJECT_MAX};
use keyrelay_store::ReadBounds;
use reqwest::Method;
use serde_json::json;

use crate::app::{As, TestApp};

/// A search that must wait is refused at once.
const IMPATIENT: ReadBounds = ReadBounds { search: Duration::from_mins(1), wait: Duration::ZERO };

#[tokio::test]
async fn logins_and_readiness_work_while_searches_hang() {
    let test = TestApp::start_within(IMPATIENT, |_| {}).await;
    let hanging = test.store.hold_searches().await.unwrap();

    test.request(As::Anonymous, Method::GET, "readyz").send().await.expect(200);
    let token = test.bearer(&test.member).await;
    test.get(&token, &test.member.path()).await.expect(200);
    let login = json!({ "email": "nobody@example.com", "password": "wrong password" });
    test.request(As::Anonymous, Method::POST, "auth/login").json(&login).send().await.expect(400);
    let (id, secret) = (&test.member.id, &test.member.secret);
    test.rotate(&test.admin, id, "secret", secret).await.expect(200);
    let hooks = format!("admin/projects/{}/webhooks", test.project);
    test.request(&test.admin, Method::GET, &hooks).send().await.expect(200);
    test.post(&test.admin, "Practitioner", &json!({ "resourceType": "Practitioner" })).await.expect(201);

    for path in ["ClientApplication", "ClientApplication?_total=accurate"] {
        let refused = test.get(&test.admin, path).await;
        refused.refused(503, "transient");
        assert_eq!(refused.header("retry-after"), "1");
    }
    let history = format!("{}/_history", test.member.path());
    test.get(&test.admin, &history).await.refused(503, "transient");
    let create = test.fhir(&test.admin, Method::POST, "Practitioner").header("if-none-exist", "identifier=a");
    create.json(&json!({ "resourceType": "Practitioner" })).send().await.refused(503, "transient");

    drop(hanging);
    test.get(&test.admin, "ClientApplication").await.expect(200);
    test.get(&test.admin, &history).await.expect(200);
}

#[tokio::test]
async fn searches_of_one_project_leave_room_for_those_of_others() {
    let test = TestApp::start_within(IMPATIENT, |_| {}).await;
    let project = ProjectId::parse(&test.project).unwrap();
    let mut turns = Vec::new();
    for _ in 0..SEARCHES_PER_PROJECT_MAX {
        turns.push(test.store.turn(project).await.unwrap());
    }
    let history = format!("{}/_history", test.member.path());
    for path in ["ClientApplication", "Practitioner?_total=accurate", &history] {
        let refused = test.get(&test.admin, path).await;
        let told = refused.refused(429, "throttled");
        assert!(told.contains("Too many searches of your project"), "{told}");
        assert_eq!(refused.header("retry-after"), "1");
    }
    test.get(&test.stranger, "ClientApplication").await.expect(200);
    test.get(&test.stranger, &format!("{}/_history", test.stranger.path())).await.expect(200);
    turns.pop();
    test.get(&test.admin, "ClientApplication").await.expect(200);
}

/// A search that takes too long ends with a reason, and the next one is answered.
#[tokio::test]
async fn a_search_past_its_time_is_too_costly() {
    let test = TestApp::start().await;
    for n in 0..8 {
        let entries: Vec<_> = (0..50)
            .map(|m| {
                let given: Vec<_> =
                    (0..8).map(|k| format!("{}{n}-{m}-{k}", "some name ".repeat(40))).collect();
                let resource = json!({ "resourceType": "Practitioner", "name": [{ "given": given }] });
                json!({ "resource": resource, "request": { "method": "POST", "url": "Practitioner" } })
            })
            .collect();
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        test.post(&test.admin, "", &bundle).await.expect(200);
    }
    let bounds = ReadBounds { search: Duration::from_millis(1), ..ReadBounds::default() };
    let strict = test.beside_within(bounds).await;
    let costly = "Practitioner?given:contains=absent&name:contains=nobody";
    for path in [costly.to_owned(), format!("{costly}&_total=accurate")] {
        let told = strict.get(&strict.admin, &path).await.refused(403, "too-costly");
        assert!(told.contains("too long") && told.contains("Narrow it"), "{told}");
    }
    // The search of a condition is not part of the change, so no writer waits for it.
    let create = strict.fhir(&strict.admin, Method::POST, "Practitioner");
    let create = create.header("if-none-exist", "given:contains=absent&name:contains=nobody");
    create.json(&json!({ "resourceType": "Practitioner" })).send().await.refused(403, "too-costly");
    strict.get(&strict.admin, &strict.member.path()).await.expect(200);
    strict.grant(&strict.member.id, &strict.member.secret).await.expect(200);
}

#[tokio::test]
async fn the_cost_of_a_search_is_bounded_and_a_refusal_names_the_bound() {
    let test = TestApp::start().await;
    let contains = |n: usize| {
        let all: Vec<String> = (0..n).map(|n| format!("name:contains={n}")).collect();
        format!("ClientApplication?{}", all.join("&"))
    };
    test.get(&test.admin, &contains(SEARCH_SCANS_MAX)).await.expect(200);
    let refused = [
        contains(SEARCH_SCANS_MAX + 1),
        "ClientApplication?name:contains=a,b,c,d,e,f,g,h,i".to_owned(),
        "ClientApplication?_tag=a%7C,b%7C,c%7C,d%7C,e%7C,f%7C,g%7C,h%7C,i%7C".to_owned(),
    ];
    for path in refused {
        let told = test.get(&test.admin, &path).await.refused(403, "too-costly");
        assert!(told.contains(&format!("at most {SEARCH_SCANS_MAX} values")), "{told}");
    }
    let rule = |criteria: &str| json!({ "resourceType": "ClientApplication", "criteria": criteria });
    let policy = json!({ "resourceType": "AccessPolicy", "name": "Wide", "resource": [
        rule("ClientApplication?name:contains=a,b,c,d,e"), rule("ClientApplication?name:contains=f,g,h,i"),
    ] });
    test.post(&test.admin, "AccessPolicy", &policy).await.refused(403, "too-costly");
    // A repeated value costs nothing more.
    let again = format!("ClientApplication?{}", ["name:contains=Read,Read,Read"; 64].join("&"));
    let found = test.get(&test.admin, &again).await.expect(200);
    assert_eq!(found.resources().len(), 1);
    let values: Vec<String> = (0..100).map(|n| format!("v{n}")).collect();
    let many = format!("ClientApplication?_tag={0}&_security={0}&_profile=a", values.join(","));
    test.get(&test.admin, &many).await.refused(403, "too-costly");
}

/// Of many concurrent conditional creates, one creates the resource, for each form of condition.
#[tokio::test]
async fn of_many_conditional_creates_one_makes_the_resource() {
    let test = TestApp::start().await;
    let body = json!({ "resourceType": "Practitioner", "name": [{ "family": "Only", "given": ["One"] }] });
    let conditions = ["family=Only", "given:exact=One", "family:contains=nl&given:missing=false"];
    let alone = |n: usize| {
        let request = test.fhir(&test.admin, Method::POST, "Practitioner");
        request.header("if-none-exist", conditions[n % 3]).json(&body).send()
    };
    let bundled = |n: usize| {
        let other = json!({ "resourceType": "Practitioner", "name": [{ "family": "Other" }] });
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
            { "resource": other, "request": { "method": "POST", "url": "Practitioner" } },
            { "resource": body, "request": {
                "method": "POST", "url": "Practitioner", "ifNoneExist": conditions[n % 3],
            } },
        ] });
        let test = &test;
        async move { test.post(&test.admin, "", &bundle).await }
    };
    let (alone, bundled) = tokio::join!(join_all((0..12).map(alone)), join_all((0..6).map(bundled)));
    let one = |status: &str| status.starts_with("201");
    let made = alone.iter().filter(|answer| answer.status == 201).count()
        + bundled.iter().filter(|answer| one(&answer.text_at("/entry/1/response/status"))).count();
    assert_eq!(made, 1);
    assert!(alone.iter().all(|answer| [200, 201].contains(&answer.status.as_u16())), "{alone:?}");
    assert!(bundled.iter().all(|answer| answer.status == 200), "{bundled:?}");
    let found = test.get(&test.admin, "Practitioner?family=Only").await.expect(200);
    assert_eq!(found.resources().len(), 1);
    let others = test.get(&test.admin, "Practitioner?family=Other").await.expect(200);
    assert_eq!(others.resources().len(), 6);
}
