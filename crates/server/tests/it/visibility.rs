//! Where secrets may appear, and who may write them. [`crate::secret_writes`] has the writes.

use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, Credentials, TestApp};
use crate::jwt;

/// A client in the middle of a rotation, and its new secret.
async fn stage() -> (TestApp, Credentials, String) {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let new = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.text_at("/secret");
    (test, client, new)
}

/// Every way to read a client's current version; each answer is the resource or a Bundle with it.
async fn ways_to_read(test: &TestApp, who: &As, id: &str) -> Vec<Answer> {
    let path = format!("ClientApplication/{id}");
    let search = test.fhir(who, Method::POST, "ClientApplication/_search");
    let entries = [path.clone(), format!("ClientApplication?_id={id}")]
        .map(|url| json!({ "request": { "method": "GET", "url": url } }));
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
    vec![
        test.get(who, &path).await,
        test.fhir(who, Method::GET, &path).header("x-medplum", "extended").send().await,
        test.get(who, &format!("ClientApplication?_id={id}")).await,
        test.get(who, &format!("ClientApplication?_id={id}&_elements=secret,retiringSecret")).await,
        search.form(&[("_id", id)]).send().await,
        test.post(who, "", &batch).await,
        test.request(who, Method::GET, "auth/me").send().await,
    ]
}

#[tokio::test]
async fn an_admin_reads_both_secrets() {
    let (test, client, new) = stage().await;
    for who in [&test.admin, &test.super_admin] {
        let answers = ways_to_read(&test, &who.into(), &client.id).await;
        for answer in &answers[..answers.len() - 1] {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.header("cache-control"), "no-store");
            assert!(answer.text.contains(&format!("\"secret\":\"{new}\"")), "{}", answer.text);
            assert!(answer.text.contains(&format!("\"retiringSecret\":\"{}\"", client.secret)));
        }
    }
    let read = test.get(&test.admin, &format!("ClientApplication?_id={}&_elements=name", client.id)).await;
    let found = &read.expect(200).resources()[0];
    assert_eq!((found.get("secret"), found.get("retiringSecret")), (None, None));
}

#[tokio::test]
async fn nobody_else_reads_a_secret_not_even_the_client_its_own() {
    let (test, client, new) = stage().await;
    let policy = json!({ "resource": [{ "resourceType": "*" }] });
    let powerful = test.make_client(&test.project, "Powerful").await;
    test.put_under_policy(&powerful, &policy).await;
    for who in [&test.member, &client, &powerful] {
        for answer in ways_to_read(&test, &who.into(), &client.id).await {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(answer.text.contains(&who.id) || answer.text.contains(&client.id));
            for hidden in ["\"secret\"", "\"retiringSecret\"", &new, &client.secret, "sealed", "proof"] {
                assert!(!answer.text.contains(hidden), "{hidden} in {}", answer.text);
            }
        }
    }
    test.get(&test.stranger, &client.path()).await.refused(404, "not-found");
    let found = test.get(&test.stranger, &format!("ClientApplication?_id={}", client.id)).await.expect(200);
    assert!(found.resources().is_empty());
}

#[tokio::test]
async fn in_a_project_that_shows_once_nobody_reads_a_secret() {
    let (test, client, new) = stage().await;
    test.set(&test.project, "secretVisibility", "once").await;
    for who in [&test.admin, &test.super_admin] {
        for answer in ways_to_read(&test, &who.into(), &client.id).await {
            assert_eq!(answer.status, 200, "{}", answer.text);
            for hidden in ["\"secret\"", "\"retiringSecret\"", &new, &client.secret] {
                assert!(!answer.text.contains(hidden), "{hidden} in {}", answer.text);
            }
        }
    }
    // A body that was read so, and a write of it, change no secret; the answer shows none either.
    let mut body = test.get(&test.admin, &client.path()).await.json();
    body["description"] = json!("Runs at night");
    let put = test.put(&test.admin, &client.path(), &body).await.expect(200);
    assert!(!put.text.contains("ecret\""), "{}", put.text);
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
}

#[tokio::test]
async fn no_version_ever_shows_a_secret() {
    let (test, client, new) = stage().await;
    let chosen = "a chosen secret of more than 32 characters";
    let replace = json!([{ "op": "replace", "path": "/secret", "value": chosen }]);
    test.patch(&test.admin, &client.path(), &replace).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);

    for who in [&test.super_admin, &test.admin, &test.member] {
        let history = test.get(who, &format!("{}/_history", client.path())).await.expect(200);
        let versions = history.resources();
        assert_eq!(versions.len(), 4);
        let mut texts = vec![history.text.clone()];
        for version in versions {
            let version = version["meta"]["versionId"].as_str().unwrap();
            let vread = test.get(who, &format!("{}/_history/{version}", client.path())).await.expect(200);
            assert_eq!(vread.text_at("/meta/versionId"), version);
            texts.push(vread.text);
        }
        for text in &texts {
            for hidden in ["ecret\"", &client.secret, &new, chosen] {
                assert!(!text.contains(hidden), "{hidden} in {text}");
            }
        }
    }
}

#[tokio::test]
async fn every_move_of_a_secret_is_told_by_an_audit_event_that_has_none() {
    let (test, client, new) = stage().await;
    let chosen = "a chosen secret of more than 32 characters";
    let replace = json!([{ "op": "replace", "path": "/secret", "value": chosen }]);
    test.patch(&test.super_admin, &client.path(), &replace).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(400);

    let path = format!("AuditEvent?entity={}", client.path());
    let answer = test.get(&test.admin, &path).await.expect(200);
    for hidden in [&client.secret, &new, chosen, "krs_"] {
        assert!(!answer.text.contains(hidden), "{hidden} in {}", answer.text);
    }
    let events = answer.resources();
    let by_code = |code: &str| {
        let mut found = events.iter().filter(|event| event["subtype"][1]["code"] == code);
        let event = found.next().unwrap_or_else(|| panic!("no {code} in {events:?}"));
        assert!(found.next().is_none());
        event
    };
    assert_eq!(events.len(), 4, "with its creation");
    let one = format!("AuditEvent/{}", events[0]["id"].as_str().unwrap());
    assert_eq!(test.get(&test.admin, &one).await.expect(200).json(), events[0]);
    let history = test.get(&test.admin, &format!("{one}/_history")).await.expect(200);
    assert_eq!(history.resources(), events[..1]);
    for (code, by, action) in [
        ("create-secret", &test.super_admin, "C"),
        ("rotate-secret", &test.admin, "E"),
        ("replace-secret", &test.super_admin, "U"),
        ("retire-secret", &test.admin, "E"),
    ] {
        let event = by_code(code);
        assert_eq!(event["agent"][0]["who"]["reference"], by.path());
        assert_eq!(event["agent"][0]["network"]["address"], "127.0.0.1");
        assert_eq!(event["entity"][0]["what"]["reference"], client.path());
        assert_eq!(
            (&event["action"], &event["recorded"]),
            (&json!(action), &json!("2026-01-01T00:00:00.000Z"))
        );
    }
    // The id by which an event names a secret is the one that tokens carry.
    let token = test.grant(&client.id, chosen).await.expect(200).text_at("/access_token");
    let details = by_code("retire-secret")["entity"][0]["detail"].as_array().unwrap();
    let named =
        |name: &str| details.iter().find(|detail| detail["type"] == name).unwrap()["valueString"].clone();
    assert_eq!(named("active"), jwt::claims(&token)["sid"]);
    assert_ne!(named("ended"), named("active"));

    test.get(&test.member, &path).await.refused(403, "forbidden");
    assert!(test.get(&test.stranger, &path).await.expect(200).resources().is_empty());
}

#[tokio::test]
async fn no_error_repeats_a_secret() {
    let (test, client, new) = stage().await;
    let path = client.path();
    let body = |name: &str| json!({ "resourceType": "ClientApplication", "id": client.id, name: new });
    let operation = |path: &str, op: &str| json!([{ "op": op, "path": path, "value": new }]);
    for answer in [
        test.put(&test.admin, &path, &body("secert")).await,
        test.put(&test.admin, &path, &body("status")).await,
        test.put(&test.admin, &path, &body("_secret")).await,
        test.put(&test.admin, &path, &body("resourceType")).await,
        test.put(&test.admin, &path, &body("id")).await,
        test.put(&test.member, &path, &body("secret")).await,
        test.put(
            &test.admin,
            &path,
            &json!({ "resourceType": "ClientApplication", "id": client.id, "secret": [new] }),
        )
        .await,
        test.patch(&test.admin, &path, &operation("/status", "add")).await,
        test.patch(&test.admin, &path, &operation("/secret", "test")).await,
        test.get(&test.admin, &format!("ClientApplication?secret={new}")).await,
        test.get(&test.admin, &format!("ClientApplication?_lastUpdated={new}")).await,
        test.post(&test.admin, "", &json!({ "resourceType": "Bundle", "type": new })).await,
        test.grant(&new, &new).await,
        test.token(As::Anonymous, &[("grant_type", &new)]).await,
    ] {
        assert!(answer.status.is_client_error(), "{} {}", answer.status, answer.text);
        assert!(!answer.text.contains(&new), "{}", answer.text);
    }
}
