//! Direct writes of a client: a secret is replaced only by an admin, only on purpose, and never
//! blanked or brought back.

use keyrelay_server::SecretPolicy;
use serde_json::{Value, json};

use crate::app::{Answer, Credentials, TestApp};
use crate::assertion::Key;
use crate::mtls::any_authority;

const CHOSEN: &str = "12345678901234567890123456789012";

async fn stage() -> (TestApp, Credentials) {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    (test, client)
}

async fn rotate(test: &TestApp, client: &Credentials) -> String {
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200).text_at("/secret")
}

async fn read(test: &TestApp, client: &Credentials) -> Value {
    test.get(&test.admin, &client.path()).await.expect(200).json()
}

/// Writes one element by PUT, on top of what an admin reads now.
async fn put(test: &TestApp, who: &Credentials, client: &Credentials, name: &str, value: Value) -> Answer {
    let mut body = read(test, client).await;
    body[name] = value;
    test.put(who, &client.path(), &body).await
}

#[tokio::test]
async fn a_member_writes_no_client() {
    let (test, client) = stage().await;
    let before = read(&test, &client).await;
    let named = json!([{ "op": "replace", "path": "/name", "value": "Mine" }]);
    put(&test, &test.member, &client, "name", json!("Mine")).await.refused(403, "forbidden");
    put(&test, &client, &client, "secret", json!(CHOSEN)).await.refused(403, "forbidden");
    test.patch(&test.member, &client.path(), &named).await.refused(403, "forbidden");
    test.delete(&test.member, &client.path()).await.refused(403, "forbidden");
    let body = json!({ "resourceType": "ClientApplication", "name": "Mine" });
    test.post(&test.member, "ClientApplication", &body).await.refused(403, "forbidden");
    assert_eq!(read(&test, &client).await, before);
}

#[tokio::test]
async fn a_policy_grants_writing_clients_but_never_their_secrets() {
    let (test, client) = stage().await;
    rotate(&test, &client).await;
    test.put_under_policy(&test.member, &json!({ "resource": [{ "resourceType": "ClientApplication" }] }))
        .await;
    let before = read(&test, &client).await;
    let add =
        |name: &str, value: &Value| json!([{ "op": "add", "path": format!("/{name}"), "value": value }]);
    for (name, value) in [
        ("secret", json!(CHOSEN)),
        ("secret", before["secret"].clone()),
        ("secret", before["retiringSecret"].clone()),
        ("retiringSecret", before["retiringSecret"].clone()),
    ] {
        let body = json!({ "resourceType": "ClientApplication", "id": client.id, name: value });
        let answer = test.put(&test.member, &client.path(), &body).await;
        answer.refused(403, "forbidden");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.secret");
        test.patch(&test.member, &client.path(), &add(name, &value)).await.refused(403, "forbidden");
    }
    let body = json!({ "resourceType": "ClientApplication", "secret": CHOSEN });
    test.post(&test.member, "ClientApplication", &body).await.refused(403, "forbidden");
    assert_eq!(read(&test, &client).await, before);

    // What is no secret is theirs to write.
    let mut body = before.clone();
    body.as_object_mut().unwrap().retain(|name, _| !name.to_lowercase().contains("secret"));
    body["name"] = json!("Weekly export");
    let answer = test.put(&test.member, &client.path(), &body).await.expect(200);
    assert!(!answer.text.contains("ecret\""), "{}", answer.text);
    test.patch(&test.member, &client.path(), &add("description", &json!("Weekly"))).await.expect(200);
    let after = read(&test, &client).await;
    assert_eq!((&after["name"], &after["description"]), (&json!("Weekly export"), &json!("Weekly")));
    assert_eq!((&after["secret"], &after["retiringSecret"]), (&before["secret"], &before["retiringSecret"]));
    test.delete(&test.member, &client.path()).await.expect(200);
    test.get(&test.admin, &client.path()).await.refused(410, "deleted");
}

#[tokio::test]
async fn a_body_from_before_a_rotation_brings_nothing_back() {
    let (test, client) = stage().await;
    let mut before = read(&test, &client).await;
    before["name"] = json!("Renamed");
    rotate(&test, &client).await;
    let during = read(&test, &client).await;
    let stale = test.put(&test.admin, &client.path(), &before).await;
    assert!(stale.refused(409, "conflict").contains("before a rotation"), "{}", stale.text);
    assert_eq!(stale.text_at("/issue/0/expression/0"), "ClientApplication.secret");
    assert_eq!(read(&test, &client).await, during);

    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    let after = read(&test, &client).await;
    test.put(&test.admin, &client.path(), &before).await.refused(409, "conflict");
    let stale = test.put(&test.admin, &client.path(), &during).await;
    stale.refused(409, "conflict");
    assert_eq!(stale.text_at("/issue/0/expression/0"), "ClientApplication.retiringSecret");
    let back = json!([{ "op": "add", "path": "/secret", "value": client.secret }]);
    test.patch(&test.admin, &client.path(), &back).await.refused(409, "conflict");
    assert_eq!(read(&test, &client).await, after);
    assert!(!test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn a_secret_that_was_replaced_does_not_come_back_either() {
    let (test, client) = stage().await;
    put(&test, &test.admin, &client, "secret", json!(CHOSEN)).await.expect(200);
    put(&test, &test.admin, &client, "secret", json!(client.secret)).await.refused(409, "conflict");
    assert!(test.lets_in(&client.id, CHOSEN).await);
    assert!(!test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn a_body_without_secrets_or_with_the_current_ones_changes_none() {
    let (test, client) = stage().await;
    let new = rotate(&test, &client).await;
    let whole = read(&test, &client).await;
    let without = |names: &[&str]| {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
        body
    };
    for (n, mut body) in [
        whole.clone(),
        without(&["secret", "retiringSecret"]),
        without(&["secret"]),
        without(&["retiringSecret"]),
    ]
    .into_iter()
    .enumerate()
    {
        body["description"] = json!(format!("Number {n}"));
        let answer = test.put(&test.admin, &client.path(), &body).await.expect(200);
        assert_eq!(answer.text_at("/description"), format!("Number {n}"));
        assert_eq!(
            (answer.text_at("/secret"), answer.text_at("/retiringSecret")),
            (new.clone(), client.secret.clone())
        );
    }
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
    let moves = "subtype=rotate-secret,retire-secret,replace-secret";
    let events = test.get(&test.admin, &format!("AuditEvent?entity={}&{moves}", client.path())).await;
    assert_eq!(events.resources().len(), 1, "only the rotation");
}

#[tokio::test]
async fn a_new_value_replaces_the_current_secret_at_once() {
    let (test, client) = stage().await;
    let rotated = rotate(&test, &client).await;
    let answer = put(&test, &test.admin, &client, "secret", json!(CHOSEN)).await.expect(200);
    assert_eq!(
        (answer.text_at("/secret"), answer.text_at("/retiringSecret")),
        (CHOSEN.to_owned(), client.secret.clone())
    );
    assert!(test.lets_in(&client.id, CHOSEN).await);
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(!test.lets_in(&client.id, &rotated).await);
    let rotated = test.rotate(&test.admin, &client.id, "secret", CHOSEN).await.expect(200);
    assert_eq!(rotated.text_at("/retiringSecret"), CHOSEN);
}

#[tokio::test]
async fn a_new_client_may_bring_a_secret() {
    let test = TestApp::start().await;
    let create = |name: &'static str, value: &'static str| {
        let body = json!({ "resourceType": "ClientApplication", "name": "Moved here", name: value });
        let test = &test;
        async move { test.post(&test.admin, "ClientApplication", &body).await }
    };
    let answer = create("secret", CHOSEN).await.expect(201);
    assert_eq!(answer.text_at("/secret"), CHOSEN);
    let client = Credentials { id: answer.text_at("/id"), secret: CHOSEN.to_owned() };
    assert_eq!(read(&test, &client).await["secret"], CHOSEN);
    assert!(create("secret", "foo").await.refused(400, "invalid").contains("$rotate-secret"));
    assert!(create("retiringSecret", CHOSEN).await.refused(400, "invalid").contains("$rotate-secret"));
    assert_eq!(create("description", "No secret").await.expect(201).json().get("secret"), None);
}

#[tokio::test]
async fn a_weak_or_impossible_value_is_refused() {
    let (test, client) = stage().await;
    let before = read(&test, &client).await;
    let damaged = format!("{}x", &client.secret[..client.secret.len() - 1]);
    for (value, text) in [
        (json!(&CHOSEN[1..]), "$rotate-secret"),
        (json!("foo"), "at least 32 characters"),
        (json!(""), "empty"),
        (json!("x".repeat(1025)), "longer than 1024"),
        (json!(format!("{CHOSEN}\n")), "control character"),
        (json!(damaged), "checksum"),
        (json!(7), "string"),
        (Value::Null, "string"),
        (json!([CHOSEN]), "string"),
    ] {
        let answer = put(&test, &test.admin, &client, "secret", value.clone()).await;
        let found = answer.refused(400, "invalid");
        assert!(found.contains(text), "{value}: {found}");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.secret");
    }
    let answer = put(&test, &test.admin, &client, "retiringSecret", json!(CHOSEN)).await;
    assert!(answer.refused(400, "invalid").contains("$rotate-secret"), "{}", answer.text);
    assert_eq!(read(&test, &client).await, before);
}

#[tokio::test]
async fn the_policy_any_allows_short_values() {
    let test = TestApp::start_with(SecretPolicy::Any).await;
    let client = test.make_client(&test.project, "Nightly export").await;
    put(&test, &test.admin, &client, "secret", json!("foo")).await.expect(200);
    assert!(test.lets_in(&client.id, "foo").await);
    put(&test, &test.admin, &client, "secret", json!("")).await.refused(400, "invalid");
}

#[tokio::test]
async fn a_patch_neither_copies_nor_moves_nor_removes_a_secret() {
    let (test, client) = stage().await;
    rotate(&test, &client).await;
    let before = read(&test, &client).await;
    for operations in [
        json!([{ "op": "copy", "from": "/secret", "path": "/description" }]),
        json!([{ "op": "move", "from": "/secret", "path": "/description" }]),
        json!([{ "op": "move", "from": "/retiringSecret", "path": "/name" }]),
        json!([{ "op": "add", "path": "/defaultScope", "value": ["x"] },
               { "op": "copy", "from": "/secret", "path": "/defaultScope/0" }]),
        json!([{ "op": "copy", "from": "/retiringSecret", "path": "/secret" }]),
        json!([{ "op": "move", "from": "/retiringSecret", "path": "/secret" }]),
        json!([{ "op": "copy", "from": "/secret", "path": "/retiringSecret" }]),
        json!([{ "op": "remove", "path": "/secret" }]),
        json!([{ "op": "remove", "path": "/retiringSecret" }]),
        json!([{ "op": "replace", "path": "/secret", "value": null }]),
        json!([{ "op": "replace", "path": "/secret", "value": "" }]),
        json!([{ "op": "replace", "path": "", "value": {} }]),
    ] {
        let answer = test.patch(&test.admin, &client.path(), &operations).await;
        answer.refused(400, "invalid");
        assert_eq!(read(&test, &client).await, before, "{operations}");
    }
    // A patch that leaves the secrets alone leaves them alone.
    let operations = json!([{ "op": "replace", "path": "/name", "value": "Weekly export" }]);
    let answer = test.patch(&test.admin, &client.path(), &operations).await.expect(200);
    assert_eq!(answer.json()["secret"], before["secret"]);
    assert_eq!(answer.json()["retiringSecret"], before["retiringSecret"]);
    let operations = json!([{ "op": "replace", "path": "/secret", "value": CHOSEN }]);
    test.patch(&test.admin, &client.path(), &operations).await.expect(200);
    assert!(test.lets_in(&client.id, CHOSEN).await);
}

/// The elements that let a client in as its secret does.
const PROOFS: [&str; 3] = ["jwks", "jwksUri", "certificateTrustStore"];

/// Values that are good, but for who writes them.
fn proof(name: &str) -> Value {
    match name {
        "jwks" => json!(json!({ "keys": [Key::es384().jwk("mine")] }).to_string()),
        "jwksUri" => json!("https://keys.example.test/jwks"),
        _ => json!(any_authority()),
    }
}

#[tokio::test]
async fn who_may_not_write_a_secret_writes_no_key_either() {
    let (test, client) = stage().await;
    test.put_under_policy(&test.member, &json!({ "resource": [{ "resourceType": "ClientApplication" }] }))
        .await;
    let blind = test.make_client(&test.project, "Blind").await;
    test.make_admin(&blind).await;
    let rules = json!([{ "resourceType": "ClientApplication", "readonlyFields": ["secret"] }]);
    test.put_under_policy(&blind, &json!({ "resource": rules })).await;
    for name in PROOFS {
        let (path, value) = (format!("/{name}"), proof(name));
        let add = json!([{ "op": "add", "path": path, "value": value }]);
        let new = json!({ "resourceType": "ClientApplication", name: value });
        for who in [&test.member, &blind] {
            let mut whole = test.get(who, &client.path()).await.expect(200).json();
            whole[name] = value.clone();
            for answer in [
                test.patch(who, &test.admin.path(), &add).await,
                test.put(who, &client.path(), &whole).await,
                test.post(who, "ClientApplication", &new).await,
            ] {
                answer.refused(403, "forbidden");
                assert_eq!(answer.text_at("/issue/0/expression/0"), format!("ClientApplication.{name}"));
            }
        }
        test.patch(&test.admin, &client.path(), &add).await.expect(200);
        // One that is there stays with everything else that is written, and nobody else takes it away.
        for who in [&test.member, &blind] {
            let mut whole = test.get(who, &client.path()).await.expect(200).json();
            whole["description"] = json!(format!("{name} by {}", who.id));
            test.put(who, &client.path(), &whole).await.expect(200);
            let remove = json!([{ "op": "remove", "path": path }]);
            test.patch(who, &client.path(), &remove).await.refused(403, "forbidden");
        }
        test.patch(&test.admin, &client.path(), &json!([{ "op": "remove", "path": path }])).await.expect(200);
    }
}
