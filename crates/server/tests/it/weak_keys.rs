//! Keys that others than their owner can sign for: no route stores one, and a stored or fetched one authenticates
//! no client.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::id::{ClientId, VersionId};
use keyrelay_store::{Change, ResourceVersion};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{Answer, As, Credentials, TestApp};
use crate::assertion::{Key, claims, header, present, refused};
use crate::jwks_uri::KeyHost;
use crate::mtls::{by_header, grant, key_of_everybody, self_signed_by};
use crate::registration::{initial, register};

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The identity of Ed25519, as a key.
fn identity() -> Value {
    let mut point = [0; 32];
    point[0] = 1;
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": encoded(&point) })
}

/// An assertion without a private key: for the identity as key, R = identity and S = 0 fit every message.
fn signed_by_nobody(test: &TestApp, client: &str, jti: &str) -> String {
    let part = |value: &Value| encoded(value.to_string().as_bytes());
    let header = part(&json!({ "alg": "EdDSA", "kid": "k1", "typ": "JWT" }));
    let mut signature = [0; 64];
    signature[0] = 1;
    format!("{header}.{}.{}", part(&claims(test, client, jti)), encoded(&signature))
}

/// Weak keys, each with a word of the reason.
fn weak() -> Vec<(Value, &'static str)> {
    let rsa = |n: &[u8], e: &[u8]| json!({ "kty": "RSA", "n": encoded(n), "e": encoded(e), "kid": "k1" });
    let strong = |bytes: usize| {
        let mut number = vec![0; bytes];
        (number[0], number[bytes - 1]) = (0x80, 0x0d);
        number
    };
    let padded = [&[0; 128][..], &strong(128)].concat();
    let mut order_two = [0xff; 32];
    (order_two[0], order_two[31]) = (0xec, 0x7f);
    let mut twice_written = [0xff; 32];
    (twice_written[0], twice_written[31]) = (0xee, 0x7f);
    let ed25519 = |x: &[u8]| json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(x), "kid": "k1" });
    let with = |name: &str, value: Value| {
        let mut key = Key::es384().jwk("k1");
        key[name] = value;
        key
    };
    vec![
        (identity(), "small order"),
        (ed25519(&order_two), "small order"),
        (ed25519(&twice_written), "small order"),
        (ed25519(&[2; 32]), "not a point of its curve"),
        (ed25519(&[9; 31]), "32 bytes"),
        (with("y", json!(encoded(&[7; 48]))), "not a point of its curve"),
        (with("x", json!(encoded(&[7; 47]))), "another length"),
        (with("crv", json!("P-256")), "another length"),
        (with("alg", json!("RS384")), "`alg` that does not fit"),
        (with("alg", json!("ES256")), "`alg` that does not fit"),
        (with("alg", json!("none")), "`alg` that does not fit"),
        (with("d", json!("AAAA")), "private members"),
        (rsa(&strong(256), &[1]), "exponent"),
        (rsa(&strong(256), &[3]), "exponent"),
        (rsa(&strong(256), &[1, 0, 0]), "exponent"),
        (rsa(&strong(128), &[1, 0, 1]), "RSA key of 1024 bits"),
        (rsa(&padded, &[1, 0, 1]), "RSA key of 1024 bits"),
        (rsa(&strong(1025), &[1, 0, 1]), "RSA key of 8200 bits"),
        (rsa(&[0xff; 256], &[1, 0, 1]), "small factors"),
    ]
}

#[tokio::test]
async fn a_weak_key_is_refused_with_the_reason_wherever_it_is_written() {
    let test = TestApp::start().await;
    let path = test.member.path();
    let token = initial(&test, &json!({})).await;
    for (key, reason) in weak() {
        let set = json!({ "keys": [Key::es384().jwk("k0"), key] });
        let client =
            json!({ "resourceType": "ClientApplication", "name": "Export", "jwks": set.to_string() });
        let mut whole = client.clone();
        whole["id"] = json!(test.member.id);
        let operations = json!([{ "op": "add", "path": "/jwks", "value": set.to_string() }]);
        let entry =
            json!({ "request": { "method": "POST", "url": "ClientApplication" }, "resource": client });
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] });
        for answer in [
            test.post(&test.admin, "ClientApplication", &client).await,
            test.put(&test.admin, &path, &whole).await,
            test.patch(&test.admin, &path, &operations).await,
            test.post(&test.admin, "", &bundle).await,
        ] {
            let told = answer.refused(400, "invalid");
            assert!(told.contains(reason), "{key}: {told}");
        }
        let body = json!({
            "client_name": "Export",
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": set,
        });
        let answer = register(&test, &token, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text_at("/error")),
            (400, "invalid_client_metadata".into())
        );
        let told = answer.text_at("/error_description");
        assert!(told.contains(reason), "{key}: {told}");
    }
    assert_eq!(test.get(&test.admin, &path).await.expect(200).json()["jwks"], Value::Null);
}

#[tokio::test]
async fn a_weak_key_at_a_url_lets_nobody_in_and_the_good_one_beside_it_does() {
    let (test, host) = (TestApp::start().await, KeyHost::open().await);
    let patch = json!([{ "op": "add", "path": "/jwksUri", "value": host.url }]);
    test.patch(&test.admin, &test.member.path(), &patch).await.expect(200);
    let key = Key::es384();
    host.publishes(&[identity(), key.jwk("k1")]);
    refused(&present(&test, &signed_by_nobody(&test, &test.member.id, "1")).await, "by nobody");
    present(&test, &key.sign(&header(&key), &claims(&test, &test.member.id, "2"))).await.expect(200);
}

/// Writes an element as an earlier version of the server would have.
async fn store_anyway(test: &TestApp, client: &Credentials, element: &str, value: &Value) {
    let store = test.store().await;
    let id = ClientId::parse(&client.id).unwrap();
    let current = store.client(id).await.unwrap().unwrap().resource;
    let mut resource: Value = serde_json::from_str(&current.content).unwrap();
    resource[element] = value.clone();
    let next = ResourceVersion {
        version: VersionId::from(Uuid::new_v5(&Uuid::NAMESPACE_OID, value.to_string().as_bytes())),
        revision: current.revision + 1,
        content: resource.to_string(),
        ..current.clone()
    };
    let mut change = Change::new();
    change.update(next, current.version, None);
    store.commit(change).await.unwrap();
}

#[tokio::test]
async fn a_weak_key_that_is_stored_lets_nobody_in_and_hinders_no_other_change() {
    let test = TestApp::start().await;
    let (member, key) = (test.member.clone(), Key::es384());
    let set = json!({ "keys": [identity(), key.jwk("k1")] }).to_string();
    store_anyway(&test, &member, "jwks", &json!(set)).await;
    refused(&present(&test, &signed_by_nobody(&test, &member.id, "1")).await, "by nobody");
    present(&test, &key.sign(&header(&key), &claims(&test, &member.id, "2"))).await.expect(200);
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &member.path(), &off).await.expect(200);
    let more = json!({ "keys": [identity(), key.jwk("k1"), key.jwk("k2")] }).to_string();
    let patch = json!([{ "op": "add", "path": "/jwks", "value": more }]);
    test.patch(&test.admin, &member.path(), &patch).await.refused(400, "invalid");
}

async fn me(test: &TestApp, answer: &Answer) -> u16 {
    let token = As::Bearer(answer.text_at("/access_token"));
    test.request(&token, Method::GET, "auth/me").send().await.status.as_u16()
}

#[tokio::test]
async fn a_certificate_by_a_key_that_everybody_has_is_not_trusted() {
    let test = TestApp::start_configured(by_header).await;
    let (member, good) = (test.member.clone(), rcgen::KeyPair::generate().unwrap());
    let (weak, good) = (self_signed_by(&key_of_everybody()), self_signed_by(&good));
    let both = format!("{}{}", good.pem(), weak.pem());
    let patch = json!([{ "op": "add", "path": "/certificateTrustStore", "value": both }]);
    let told = test.patch(&test.admin, &member.path(), &patch).await.refused(400, "invalid");
    assert!(told.contains("The key of certificate 1 is the base point"), "{told}");
    store_anyway(&test, &member, "certificateTrustStore", &json!(both)).await;
    refused(&grant(&test, &member.id, &weak, &[]).await, "by a key that everybody has");
    let answer = grant(&test, &member.id, &good, &[]).await.expect(200);
    assert_eq!(me(&test, &answer).await, 401, "the token is bound to the certificate");
}
