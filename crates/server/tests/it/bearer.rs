//! Access tokens on the API: only our own are accepted, and only as long as their client, its
//! membership and its project stand.

use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};
use crate::jwt;

async fn token_of_admin(test: &TestApp) -> String {
    test.grant(&test.admin.id, &test.admin.secret).await.expect(200).text_at("/access_token")
}

/// Whether a token is accepted, by FHIR and beside it.
async fn accepted(test: &TestApp, token: &As) -> bool {
    let me = test.request(token, Method::GET, "auth/me").send().await;
    let fhir = test.get(token, "ClientApplication?_count=1").await;
    assert_eq!(me.status, fhir.status);
    if me.status == 200 {
        return true;
    }
    assert_eq!(me.refused(401, "login"), fhir.refused(401, "login"));
    false
}

#[tokio::test]
async fn a_token_that_was_tampered_with_is_refused() {
    let test = TestApp::start().await;
    let token = token_of_admin(&test).await;
    assert!(accepted(&test, &As::Bearer(token.clone())).await);
    let (header, claims) = (jwt::header(&token), jwt::claims(&token));
    let with = |base: &Value, name: &str, value: Value| {
        let mut changed = base.clone();
        changed[name] = value;
        changed
    };
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let reuse = |header: &Value, claims: &Value| {
        let forged = jwt::forge(header, claims, |_| Vec::new());
        format!("{}.{signature}", forged.trim_end_matches('.'))
    };
    let unsigned = |alg: &str| jwt::forge(&with(&header, "alg", json!(alg)), &claims, |_| Vec::new());
    let other_kid = json!("0198c2f0-1111-4222-8333-944455566677");
    let super_admin = with(&claims, "client_id", json!(test.super_admin.id));
    for (what, forged) in [
        ("another client", reuse(&header, &with(&super_admin, "sub", json!(test.super_admin.id)))),
        ("another scope", reuse(&header, &with(&claims, "scope", json!("system/*.*")))),
        ("later expiry", reuse(&header, &with(&claims, "exp", json!(4_000_000_000_u32)))),
        ("another kid", reuse(&with(&header, "kid", other_kid), &claims)),
        ("another typ", reuse(&with(&header, "typ", json!("JWT")), &claims)),
        ("alg none", unsigned("none")),
        ("alg None", unsigned("None")),
        ("no signature", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("half a signature", token[..token.len() - 43].to_owned()),
        ("more", format!("{token}.{signature}")),
        ("padding", format!("{token}=")),
        ("empty", String::new()),
        ("too long", "a".repeat(9000)),
    ] {
        assert!(!accepted(&test, &As::Bearer(forged)).await, "{what}");
    }
}

#[tokio::test]
async fn a_token_by_another_key_is_refused() {
    let test = TestApp::start().await;
    let token = token_of_admin(&test).await;
    let (header, claims) = (jwt::header(&token), jwt::claims(&token));
    let jwks = test.request(As::Anonymous, Method::GET, ".well-known/jwks.json").send().await.json();
    let jwk = &jwks["keys"][0];

    let forged = jwt::forge(&header, &claims, jwt::sign_by_another_key);
    assert!(!accepted(&test, &As::Bearer(forged)).await);
    // A key that the token brings along is not to be trusted.
    for (name, value) in [("jwk", jwk.clone()), ("jku", json!("https://attacker.example.test/jwks.json"))] {
        let mut header = header.clone();
        header[name] = value;
        let forged = jwt::forge(&header, &claims, jwt::sign_by_another_key);
        assert!(!accepted(&test, &As::Bearer(forged)).await, "{name}");
    }
    // Nor is the public key a shared secret.
    for public in [jwt::point(jwk), jwk.to_string().into_bytes(), jwks.to_string().into_bytes()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &public);
        let mut header = header.clone();
        header["alg"] = json!("HS256");
        let forged = jwt::forge(&header, &claims, |message| hmac::sign(&key, message).as_ref().to_vec());
        assert!(!accepted(&test, &As::Bearer(forged)).await);
    }
    let another = TestApp::start().await;
    assert!(!accepted(&test, &As::Bearer(token_of_admin(&another).await)).await);
}

#[tokio::test]
async fn a_token_of_another_issuer_is_refused_although_the_key_is_the_same() {
    let test = TestApp::start().await;
    let base_url = format!("http://{}/", test.address);
    let token = As::Bearer(token_of_admin(&test).await);
    let test = test.restart_as("https://fhir.example.test/").await;
    assert!(!accepted(&test, &token).await);
    let test = test.restart_as(&base_url).await;
    assert!(accepted(&test, &token).await);
}

#[tokio::test]
async fn a_token_ends_with_its_hour() {
    let test = TestApp::start().await;
    let token = As::Bearer(token_of_admin(&test).await);
    test.clock.advance(Duration::from_secs(3599));
    assert!(accepted(&test, &token).await);
    test.clock.advance(Duration::from_secs(1));
    assert!(!accepted(&test, &token).await);
}

#[tokio::test]
async fn a_token_outlives_the_secret_it_was_got_with() {
    let test = TestApp::start().await;
    let client = &test.member;
    let token = test.bearer(client).await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    assert!(accepted(&test, &token).await);
}

#[tokio::test]
async fn a_token_stops_at_once_when_its_client_may_not_come_in() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let token = test.bearer(&client).await;
    let membership =
        format!("ProjectMembership/{}", test.membership_of(&client).await["id"].as_str().unwrap());
    let project = format!("Project/{}", test.project);
    for (path, element, off, on) in [
        (client.path(), "status", json!("off"), json!("active")),
        (client.path(), "status", json!("error"), json!("active")),
        (membership, "active", json!(false), json!(true)),
        (project, "active", json!(false), json!(true)),
    ] {
        let switch = async |value: &Value| {
            let patch = json!([{ "op": "add", "path": format!("/{element}"), "value": value }]);
            test.patch(&test.super_admin, &path, &patch).await.expect(200);
        };
        assert!(accepted(&test, &token).await);
        switch(&off).await;
        assert!(!accepted(&test, &token).await, "{path}");
        switch(&on).await;
    }
    assert!(accepted(&test, &token).await);
}

#[tokio::test]
async fn a_token_stops_at_once_when_what_it_stands_on_is_deleted() {
    let test = TestApp::start().await;
    let client = async |name: &str| test.make_client(&test.project, name).await;
    let (first, second, third) = (client("First").await, client("Second").await, client("Third").await);
    let membership =
        format!("ProjectMembership/{}", test.membership_of(&second).await["id"].as_str().unwrap());
    for (client, path) in
        [(&first, first.path()), (&second, membership), (&third, format!("Project/{}", test.project))]
    {
        let token = test.bearer(client).await;
        assert!(accepted(&test, &token).await);
        test.delete(&test.super_admin, &path).await.expect(200);
        assert!(!accepted(&test, &token).await, "{path}");
    }
}

#[tokio::test]
async fn a_token_has_the_role_of_the_moment() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let token = test.bearer(&client).await;
    test.rotate(&token, &client.id, "secret", &client.secret).await.refused(403, "forbidden");
    test.make_admin(&client).await;
    test.rotate(&token, &client.id, "secret", &client.secret).await.expect(200);
    test.patch_membership(&client, &json!([{ "op": "remove", "path": "/admin" }])).await;
    test.rotate(&token, &client.id, "retiringSecret", &client.secret).await.refused(403, "forbidden");
}
