//! Batch Bundles: each entry is done as if it had come alone. [`crate::transactions`] has the others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

fn request(method: &str, url: &str) -> Value {
    json!({ "request": { "method": method, "url": url } })
}

async fn batch(test: &TestApp, entries: &Value) -> Answer {
    let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
    test.post(&test.admin, "", &bundle).await.expect(200)
}

fn statuses(answer: &Answer) -> Vec<String> {
    let entries = answer.json()["entry"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["response"]["status"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn each_entry_has_its_own_answer() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let version = test.get(&test.admin, &client.path()).await.text_at("/meta/versionId");
    let rename = json!([{ "op": "replace", "path": "/name", "value": "Renamed" }]);
    let binary = json!({
        "resourceType": "Binary",
        "contentType": "application/json-patch+json",
        "data": STANDARD.encode(rename.to_string()),
    });
    let if_match = json!({ "method": "DELETE", "url": client.path(), "ifMatch": format!("W/\"{version}\"") });
    let new = json!({ "resourceType": "AccessPolicy", "name": "All", "resource": [{ "resourceType": "*" }] });
    let once = json!({ "method": "POST", "url": "AccessPolicy", "ifNoneExist": "name=All" });
    let absolute = format!("http://{}/fhir/R4/{}", test.address, client.path());
    let entries = json!([
        request("GET", &client.path()),
        request("GET", &absolute),
        { "request": { "method": "POST", "url": "AccessPolicy" }, "resource": new },
        { "request": once, "resource": new },
        { "request": { "method": "PATCH", "url": client.path() }, "resource": binary },
        { "request": if_match },
        request("GET", "ClientApplication?name=Renamed"),
        request("DELETE", &client.path()),
        request("GET", &client.path()),
        request("GET", &test.stranger.path()),
        request("DELETE", &format!("Project/{}", test.project)),
    ]);
    let answer = batch(&test, &entries).await;
    assert_eq!(
        (answer.text_at("/resourceType"), answer.text_at("/type")),
        ("Bundle".to_owned(), "batch-response".to_owned())
    );
    let expected = ["200", "200", "201", "200", "200", "412", "200", "200", "410", "404", "403"];
    assert_eq!(statuses(&answer), expected, "{}", answer.text);
    assert_eq!(answer.text_at("/entry/0/response/etag"), format!("W/\"{version}\""));
    assert_eq!(answer.text_at("/entry/0/response/lastModified"), "2026-01-01T00:00:00.000Z");
    let created = answer.text_at("/entry/2/resource/id");
    assert!(answer.text_at("/entry/2/response/location").contains(&created));
    assert_eq!(answer.text_at("/entry/3/resource/id"), created);
    assert_eq!(answer.text_at("/entry/4/resource/name"), "Renamed");
    assert_eq!(answer.text_at("/entry/6/resource/entry/0/resource/id"), client.id);
    assert_eq!(answer.text_at("/entry/8/response/outcome/issue/0/code"), "deleted");
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_spoils_no_other() {
    let test = TestApp::start().await;
    let entries = json!([
        7,
        {},
        { "request": { "url": "ClientApplication" } },
        request("BREW", "ClientApplication"),
        json!({ "request": { "method": "GET" } }),
        request("GET", "https://elsewhere.example.test/fhir/R4/ClientApplication"),
        json!({ "request": { "method": "PATCH", "url": test.member.path() }, "resource": [] }),
        request("POST", ""),
        request("GET", &test.member.path()),
    ]);
    let answer = batch(&test, &entries).await;
    let expected = ["400", "400", "400", "400", "400", "400", "400", "404", "200"];
    assert_eq!(statuses(&answer), expected, "{}", answer.text);
    assert_eq!(
        answer.text_at("/entry/3/response/outcome/issue/0/expression/0"),
        "Bundle.entry[3].request.method"
    );
}

#[tokio::test]
async fn a_bundle_that_is_none_is_refused_whole() {
    let test = TestApp::start().await;
    let bundle = |kind: &str, entry: Value| json!({ "resourceType": "Bundle", "type": kind, "entry": entry });
    let many = vec![request("GET", "Project"); 101];
    for (body, expression) in [
        (json!({ "resourceType": "Parameters" }), "resourceType"),
        (json!({ "resourceType": "Bundle" }), "Bundle.type"),
        (bundle("history", json!([])), "Bundle.type"),
        (bundle("batch", json!({})), "Bundle.entry"),
        (bundle("batch", json!(many)), "Bundle.entry"),
    ] {
        let answer = test.post(&test.admin, "", &body).await;
        answer.refused(400, "invalid");
        assert_eq!(answer.text_at("/issue/0/expression/0"), expression);
    }
    assert!(statuses(&batch(&test, &json!(many[..100])).await).iter().all(|status| status == "200"));
}
