//! Who was shown a secret, and who tried to get in, is recorded; `visibility` has the moves of secrets.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, Credentials, TestApp};

async fn records(test: &TestApp, query: &str) -> Vec<Value> {
    test.get(&test.admin, &format!("AuditEvent?{query}&_count=1000")).await.expect(200).resources()
}

async fn readings(test: &TestApp, client: &Credentials) -> usize {
    records(test, &format!("entity={}&subtype=read-secret", client.path())).await.len()
}

#[tokio::test]
async fn each_answer_that_shows_a_secret_is_recorded_and_no_other() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let path = client.path();
    let bundle =
        |kind: &str, entry: &[&Value]| json!({ "resourceType": "Bundle", "type": kind, "entry": entry });
    let get = json!({ "request": { "method": "GET", "url": path } });
    let mut expected = 0;

    let whole = test.get(&test.admin, &path).await.expect(200).json();
    expected += 1;
    assert_eq!(readings(&test, &client).await, expected);
    test.get(&test.admin, &format!("ClientApplication?_id={}", client.id)).await.expect(200);
    test.post(&test.admin, "", &bundle("batch", &[&get])).await.expect(200);
    test.post(&test.admin, "", &bundle("transaction", &[&get])).await.expect(200);
    test.put(&test.admin, &path, &whole).await.expect(200);
    expected += 4;
    assert_eq!(readings(&test, &client).await, expected);

    // Nobody is shown anything here.
    test.get(&test.admin, &format!("ClientApplication?_id={}&_elements=name", client.id)).await.expect(200);
    test.get(&test.admin, &format!("{path}/_history")).await.expect(200);
    test.get(&test.member, &path).await.expect(200);
    test.get(&test.stranger, &path).await.expect(404);
    test.get(&test.admin, &format!("{path}/$secret-status")).await.expect(200);
    let fails = json!({ "request": { "method": "DELETE", "url": path, "ifMatch": "W/\"other\"" } });
    test.post(&test.admin, "", &bundle("transaction", &[&get, &fails])).await.expect(412);
    assert_eq!(readings(&test, &client).await, expected);

    let agent = test.admin.path();
    let by_admin = records(&test, &format!("agent={agent}&subtype=read-secret&date=ge2026-01-01")).await;
    assert_eq!(by_admin.len(), expected);
    let one = &by_admin[0];
    assert_eq!(one["agent"][0]["network"]["address"], "127.0.0.1");
    assert!(!one.to_string().contains("krs_"));
    assert!(records(&test, &format!("agent={agent}&date=gt2026-01-02")).await.is_empty());
}

#[tokio::test]
async fn a_search_is_one_record_that_names_all_whose_secrets_it_shows() {
    let test = TestApp::start().await;
    let clients =
        [test.make_client(&test.project, "One").await, test.make_client(&test.project, "Two").await];
    let found = test.get(&test.admin, "ClientApplication?name=One,Two").await.expect(200).resources();
    assert_eq!(found.len(), 2);
    for client in &clients {
        let found = records(&test, &format!("entity={}&subtype=read-secret", client.path())).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["entity"].as_array().unwrap().len(), 2);
        assert_eq!(found[0]["subtype"][0]["code"], "search-type");
    }
    // A Super Admin who looks into several projects leaves a record in each.
    let elsewhere = test.make_project("Elsewhere").await;
    let other = test.make_client(&elsewhere, "One").await;
    test.get(&test.super_admin, "ClientApplication?name=One").await.expect(200);
    assert_eq!(readings(&test, &clients[0]).await, 2);
    assert_eq!(readings(&test, &other).await, 0, "of another project");
    let path = format!("AuditEvent?entity={}&subtype=read-secret", other.path());
    assert_eq!(test.get(&test.super_admin, &path).await.expect(200).resources().len(), 1);
}

#[tokio::test]
async fn where_secrets_are_shown_once_a_reading_shows_none() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretVisibility", "once").await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.get(&test.admin, &client.path()).await.expect(200);
    assert_eq!(readings(&test, &client).await, 0);
}

#[tokio::test]
async fn a_server_that_changes_nothing_shows_no_secret() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.app.refuse_changes();
    let answer = test.get(&test.admin, &client.path()).await.expect(200);
    assert!(!answer.text.contains(&client.secret), "{}", answer.text);
    test.request(&test.admin, Method::GET, "auth/me").send().await.expect(200);
}

#[tokio::test]
async fn a_secret_is_recorded_from_its_making_to_its_end() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    test.delete(&test.admin, &client.path()).await.expect(200);
    let made = records(&test, &format!("entity={}&subtype=create-secret", client.path())).await;
    let gone = records(&test, &format!("entity={}&subtype=delete-secret", client.path())).await;
    let [(made, gone)] = &made.iter().zip(&gone).collect::<Vec<_>>()[..] else { panic!("{made:?} {gone:?}") };
    let named = |event: &Value| event["entity"][0]["detail"].as_array().unwrap().clone();
    assert_eq!((made["action"].clone(), gone["action"].clone()), (json!("C"), json!("D")));
    let ended = named(gone);
    assert_eq!(ended.len(), 2, "both slots");
    assert!(ended.iter().any(|detail| detail["valueString"] == named(made)[0]["valueString"]));
}

#[tokio::test]
async fn refused_proofs_are_recorded_together() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let query = format!("entity={}&subtype=refused-proofs", client.path());
    for _ in 0..3 {
        test.grant(&client.id, "no secret of this client, whoever sends it").await;
    }
    test.app.flush_usage().await;
    let found = records(&test, &query).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["outcome"], "4");
    // The client is the subject only, because nobody proved to be the client.
    let agent = json!([{
        "who": { "display": "Unknown" },
        "requestor": true,
        "network": { "address": "127.0.0.1", "type": "2" },
    }]);
    assert_eq!(
        (&found[0]["agent"], &found[0]["entity"][0]["what"]["reference"]),
        (&agent, &json!(client.path()))
    );
    assert!(records(&test, &format!("agent={}&subtype=refused-proofs", client.path())).await.is_empty());
    assert_eq!(found[0]["entity"][0]["detail"][0], json!({ "type": "refused", "valueString": "3" }));

    // What follows soon waits; the end of the server writes it down.
    test.grant(&client.id, "no secret of this client, whoever sends it").await;
    test.app.flush_usage().await;
    assert_eq!(records(&test, &query).await.len(), 1);
    let test = test.restart_configured(|_| {}).await;
    assert_eq!(records(&test, &query).await.len(), 2);
    // Of whom nothing is known, nothing is kept.
    test.grant("0198c2f0-1111-4222-8333-944455566677", "no secret").await;
    test.app.flush_usage().await;
    assert_eq!(test.get(&test.super_admin, "AuditEvent?subtype=refused-proofs").await.resources().len(), 2);
}

#[tokio::test]
async fn claims_of_a_caller_are_recorded_apart_from_known_facts() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let pretended = "curl/8\t1 from 10.9.9.9";
    let form = [("grant_type", "client_credentials"), ("client_id", &client.id), ("client_secret", "none")];
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token").form(&form);
    let request = request.header("user-agent", pretended).header("x-client-instance", "w1, refused: 0");
    assert_eq!(request.send().await.status, 401);
    test.app.flush_usage().await;
    let found = records(&test, &format!("entity={}&subtype=refused-proofs", client.path())).await;
    let detail = |name: &str, value: &str| json!({ "type": name, "valueString": value });
    let expected = json!([
        { "what": { "reference": client.path() }, "detail": [detail("refused", "1")] },
        { "description": "caller", "detail": [
            detail("address", "127.0.0.1"),
            detail("refused", "1"),
            detail("userAgent", "curl/8\\u{9}1 from 10.9.9.9"),
            detail("instance", "w1, refused: 0"),
        ] },
    ]);
    assert_eq!(found[0]["entity"], expected);
    let told = test.get(&test.admin, &format!("{}/$secret-status", client.path())).await.expect(200);
    assert!(told.text.contains(r"curl/8\\u{9}1 from"), "{}", told.text);
}
