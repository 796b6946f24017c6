//! What one project asks for, however much the database has to do for it, does not keep others from being let
//! in, reading and rotating.

use std::time::Duration;

use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::SEARCHES_PER_PROJECT_MAX;
use keyrelay_store::ReadBounds;
use reqwest::Method;
use serde_json::json;

use crate::app::{As, TestApp};

/// Who must wait for a search is refused at once.
const IMPATIENT: ReadBounds = ReadBounds { search: Duration::from_mins(1), wait: Duration::ZERO };

#[tokio::test]
async fn while_searches_hang_everybody_is_let_in_and_the_server_is_ready() {
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

/// However long one search takes, it ends, says why, and the next is answered.
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
    strict.get(&strict.admin, &strict.member.path()).await.expect(200);
    strict.grant(&strict.member.id, &strict.member.secret).await.expect(200);
}
