//! `retireAfter`: a retiring secret that ends by itself, on every node, to the millisecond, with nothing
//! running that would end it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::FAILURE_FORGIVEN_AFTER;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, START, TestApp};
use crate::bounds::with_late_body;
use crate::jwt;
use crate::login_grants::{Way, code_form, make_confidential, refresh_form, send};
use crate::people::{browse, make_ann};
use crate::secret_status::{part, status};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_hours(24);
/// A day but for a millisecond.
const LAST_MS: Duration = Duration::from_millis(24 * 60 * 60 * 1000 - 1);

/// Rotates with a deadline a day ahead; gives the client with its new secret.
async fn rotate_for_a_day(test: &TestApp, client: &Credentials) -> Credentials {
    let body = json!({ "resourceType": "Parameters", "parameter": [
        { "name": "retireAfter", "valueString": "24h" },
        { "name": "secret", "valueString": client.secret },
    ] });
    let rotated = rotate(test, client, &body).await.expect(200);
    assert_eq!(rotated.text_at("/retiringSecret"), client.secret);
    client.with(&rotated.text_at("/secret"))
}

async fn rotate(test: &TestApp, client: &Credentials, body: &Value) -> Answer {
    test.post(&test.admin, &format!("{}/$rotate-secret", client.path()), body).await
}

#[tokio::test]
async fn it_is_accepted_a_millisecond_before_its_deadline_and_refused_at_it_on_every_node() {
    let test = TestApp::start().await;
    let nodes = [&test, &test.beside().await];
    let old = test.make_client(&test.project, "Nightly export").await;
    let new = rotate_for_a_day(&test, &old).await;
    test.clock.advance(LAST_MS);
    for node in nodes {
        assert!(node.lets_in(&old.id, &old.secret).await);
        assert!(node.lets_in(&new.id, &new.secret).await);
        let read = node.get(&node.admin, &old.path()).await.expect(200);
        assert_eq!(read.text_at("/retiringSecret"), old.secret);
    }
    test.clock.advance(MS);
    for node in nodes {
        assert!(!node.lets_in(&old.id, &old.secret).await);
        assert!(node.lets_in(&new.id, &new.secret).await);
        let read = node.get(&node.admin, &old.path()).await.expect(200);
        assert_eq!(read.json()["retiringSecret"], Value::Null);
        assert_eq!(read.text_at("/secret"), new.secret);
        let path = format!("ClientApplication?_id={}", old.id);
        let found = node.get(&node.admin, &path).await.expect(200);
        assert_eq!(found.resources().len(), 1);
        assert!(found.text.contains(&new.secret) && !found.text.contains(&old.secret));
    }
}

#[tokio::test]
async fn from_its_deadline_on_it_can_be_neither_retired_nor_written_back() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let new = rotate_for_a_day(&test, &old).await;
    let mut before = test.get(&test.admin, &old.path()).await.expect(200).json();
    before["retiringSecret"] = Value::Null;
    before.as_object_mut().unwrap().remove("retiringSecret");
    before["secret"] = json!(old.secret);
    test.clock.advance(DAY);
    for name in ["secret", "retiringSecret"] {
        let refused = test.rotate(&test.admin, &old.id, name, &old.secret).await;
        assert_eq!(refused.refused(400, "invalid"), "Provided secret does not match client");
    }
    // Nobody brings it back by a body from before, although no move has written down yet that it ended.
    test.put(&test.admin, &old.path(), &before).await.refused(409, "conflict");

    // The next rotation takes it up: what ended is told, and the slot is free for the next one.
    let fresh = test.rotate(&test.admin, &new.id, "secret", &new.secret).await.expect(200);
    assert_eq!(fresh.text_at("/retiringSecret"), new.secret);
    assert!(!test.lets_in(&old.id, &old.secret).await);
    assert!(test.lets_in(&new.id, &new.secret).await);
    test.put(&test.admin, &old.path(), &before).await.refused(409, "conflict");
    // The secret that retires now has no deadline: nothing is left of the other's.
    test.clock.advance(DAY * 1000);
    assert!(test.lets_in(&new.id, &new.secret).await);
    let path = format!("AuditEvent?entity=ClientApplication/{}", old.id);
    let events = test.get(&test.admin, &path).await.expect(200).resources();
    let ended = events.iter().flat_map(|event| event["entity"][0]["detail"].as_array().cloned().unwrap());
    assert_eq!(ended.filter(|detail| detail["type"] == "ended").count(), 1, "{events:?}");
}

#[tokio::test]
async fn a_caller_by_basic_is_let_in_until_the_deadline_and_not_after_its_body_has_arrived() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Second operator").await;
    test.make_admin(&old).await;
    rotate_for_a_day(&test, &old).await;
    let body = json!({ "resourceType": "AccessPolicy", "name": "Made at the last moment" });
    test.clock.advance(LAST_MS);
    test.post(&old, "AccessPolicy", &body).await.expect(201);
    // Let in with its head, a millisecond before; its body comes at the deadline.
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", old.id, old.secret)));
    let at_last = async { test.clock.advance(MS) };
    let answer = with_late_body(&test, "/fhir/R4/AccessPolicy", &basic, &body, at_last).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    test.post(&old, "AccessPolicy", &body).await.refused(401, "login");
}

#[tokio::test]
async fn a_login_of_a_confidential_client_needs_the_secret_that_is_left() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let old = make_confidential(&test, json!({})).await;
    let new = rotate_for_a_day(&test, &old).await;
    test.clock.advance(LAST_MS);
    let code = browse(&test, &old.id, "&scope=openid+offline_access").await;
    let first = send(&test, "oauth2/token", &old, Way::Form, &code_form(&code)).await.expect(200);
    let code = browse(&test, &old.id, "&scope=openid+offline_access").await;
    test.clock.advance(MS);
    let (access, refresh) = (first.text_at("/access_token"), first.text_at("/refresh_token"));
    for way in [Way::Basic, Way::Form] {
        for (path, form) in [
            ("oauth2/token", code_form(&code).to_vec()),
            ("oauth2/token", refresh_form(&refresh).to_vec()),
            ("oauth2/introspect", vec![("token", access.as_str())]),
            ("oauth2/revoke", vec![("token", access.as_str())]),
        ] {
            let answer = send(&test, path, &old, way, &form).await.expect(401);
            assert_eq!(answer.text_at("/error"), "invalid_client", "{path} {way:?}");
        }
    }
    // A token that it got before lives on, as after a retirement.
    test.get(&As::Bearer(access), "Practitioner").await.expect(200);
    send(&test, "oauth2/token", &new, Way::Form, &code_form(&code)).await.expect(200);
    send(&test, "oauth2/token", &new, Way::Basic, &refresh_form(&refresh)).await.expect(200);
}

#[tokio::test]
async fn it_is_counted_as_a_former_secret_when_it_is_seen_again() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let token = test.bearer(&old).await;
    let id = SecretId::parse(jwt::claims(token.text())["sid"].as_str().unwrap()).unwrap();
    let new = rotate_for_a_day(&test, &old).await;
    test.clock.advance(DAY);
    let seen = async || {
        test.grant(&old.id, &old.secret).await.expect(401);
        test.app.flush_usage().await;
        let client = ClientId::parse(&old.id).unwrap();
        let usage =
            test.store().await.usage(client, [id, SecretId::NIL, SecretId::NIL], START).await.unwrap();
        assert!(!usage.contains_key(&SecretId::NIL), "it is known");
        usage[&id].total.map(|total| total.refused)
    };
    assert_eq!(seen().await, Some(1), "before a move has written it down");
    test.rotate(&test.admin, &new.id, "secret", &new.secret).await.expect(200);
    test.clock.advance(FAILURE_FORGIVEN_AFTER);
    assert_eq!(seen().await, Some(2), "and after");
}

#[tokio::test]
async fn status_tells_the_deadline_and_who_made_each_secret() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    rotate_for_a_day(&test, &old).await;
    let told = status(&test, &old, "").await;
    let by = |slot| part(&told, &[slot, "createdBy"])["reference"].clone();
    assert_eq!(by("secret"), format!("ClientApplication/{}", test.admin.id));
    assert_eq!(by("retiringSecret"), format!("ClientApplication/{}", test.super_admin.id));
    assert_eq!(part(&told, &["retiringSecret", "expires"]), "2026-01-02T00:00:00.000Z");
    assert_eq!(part(&told, &["secret", "expires"]), &Value::Null);
    test.clock.advance(DAY);
    assert_eq!(part(&status(&test, &old, "").await, &["retiringSecret", "id"]), &Value::Null);
}

#[tokio::test]
async fn a_transaction_rotates_with_a_deadline_too() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let entry = json!({
        "request": { "method": "POST", "url": format!("{}/$rotate-secret", old.path()) },
        "resource": { "resourceType": "Parameters", "parameter": [
            { "name": "secret", "valueString": old.secret },
            { "name": "retireAfter", "valueString": "24h" },
        ] },
    });
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] });
    test.fhir(&test.admin, Method::POST, "").json(&bundle).send().await.expect(200);
    assert!(test.lets_in(&old.id, &old.secret).await);
    test.clock.advance(DAY);
    assert!(!test.lets_in(&old.id, &old.secret).await);
}
