//! What pages of other origins may read in a browser. The tests are the browser: it asks beforehand,
//! and shows an answer to a page only if the answer names the page's origin.

use keyrelay_core::origin::Origin;
use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, Credentials, TestApp};

const APP: &str = "https://app.example.test";
const OTHER_APP: &str = "http://localhost:3000";
const NOBODYS: &str = "https://evil.example.test";

async fn set_origins(test: &TestApp, client: &Credentials, origins: &[&str]) -> Answer {
    let patch = json!([{ "op": "add", "path": "/allowedOrigin", "value": origins }]);
    test.patch(&test.super_admin, &client.path(), &patch).await
}

/// A server on which the member's pages are at [`APP`] and the stranger's at [`OTHER_APP`].
async fn with_two_apps() -> TestApp {
    let test = TestApp::start().await;
    set_origins(&test, &test.member, &[APP]).await.expect(200);
    set_origins(&test, &test.stranger, &[OTHER_APP]).await.expect(200);
    test
}

async fn preflight(test: &TestApp, path: &str, origin: &str) -> Answer {
    let request = test.request(As::Anonymous, Method::OPTIONS, path).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,idempotency-key,x-medplum").send().await
}

fn allowed_origin(answer: &Answer) -> Option<&str> {
    // No cookie of ours is ever meant for a page from elsewhere.
    assert!(!answer.headers.contains_key("access-control-allow-credentials"), "{:?}", answer.headers);
    answer.headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

async fn get_from(test: &TestApp, who: impl Into<As>, path: &str, origin: &str) -> Answer {
    test.request(who, Method::GET, path).header("origin", origin).send().await
}

#[tokio::test]
async fn a_preflight_is_answered_to_origins_of_clients_only() {
    let test = with_two_apps().await;
    for path in
        ["oauth2/token", "oauth2/revoke", "auth/login", "auth/mfa/verify", "fhir/R4/Project", "admin/x"]
    {
        for origin in [APP, OTHER_APP] {
            let answer = preflight(&test, path, origin).await.expect(204);
            assert_eq!(allowed_origin(&answer), Some(origin), "{path}");
            assert_eq!(answer.header("vary"), "Origin");
            assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD, POST, PUT, PATCH, DELETE");
            assert_eq!(
                answer.header("access-control-allow-headers"),
                "authorization,idempotency-key,x-medplum"
            );
            assert_eq!(answer.header("access-control-max-age"), "600");
        }
        for origin in [NOBODYS, "null", "*", "https://app.example.test/", "HTTPS://APP.EXAMPLE.TEST"] {
            let answer = preflight(&test, path, origin).await;
            assert!(answer.status.is_client_error(), "{path} {origin}: {}", answer.status);
            assert_eq!(allowed_origin(&answer), None, "{path} {origin}");
            assert!(!answer.headers.contains_key("access-control-allow-methods"));
            assert_eq!(answer.header("vary"), "Origin");
        }
    }
}

#[tokio::test]
async fn an_answer_is_for_pages_of_the_client_that_asked() {
    let test = with_two_apps().await;
    let token = test.bearer(&test.member).await;
    for who in [As::from(&test.member), token] {
        for (origin, allowed) in [(APP, true), (OTHER_APP, false), (NOBODYS, false)] {
            let answer = get_from(&test, &who, "auth/me", origin).await.expect(200);
            assert_eq!(allowed_origin(&answer), allowed.then_some(origin));
            assert_eq!(answer.header("vary"), "Origin");
            assert_eq!(!answer.header("access-control-expose-headers").is_empty(), allowed);
        }
    }
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", test.member.id.as_str()),
        ("client_secret", test.member.secret.as_str()),
    ];
    for (origin, allowed) in [(APP, true), (OTHER_APP, false), (NOBODYS, false)] {
        let request = test.request(As::Anonymous, Method::POST, "oauth2/token").header("origin", origin);
        let answer = request.form(&form).send().await.expect(200);
        assert_eq!(allowed_origin(&answer), allowed.then_some(origin));
    }
}

#[tokio::test]
async fn an_error_can_be_read_by_the_page_that_made_it() {
    let test = with_two_apps().await;
    let answer = get_from(&test, As::Anonymous, "auth/me", APP).await;
    answer.refused(401, "login");
    assert_eq!(allowed_origin(&answer), Some(APP));
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token").header("origin", APP);
    let answer = request.form(&[("grant_type", "nothing")]).send().await.expect(400);
    assert_eq!(allowed_origin(&answer), Some(APP));
}

#[tokio::test]
async fn without_an_origin_nothing_is_said() {
    let test = with_two_apps().await;
    let answer = test.request(&test.member, Method::GET, "auth/me").send().await.expect(200);
    assert_eq!(allowed_origin(&answer), None);
    assert!(!answer.headers.contains_key("vary"));
}

#[tokio::test]
async fn an_origin_is_allowed_as_long_as_its_client_is() {
    let test = with_two_apps().await;
    preflight(&test, "oauth2/token", APP).await.expect(204);
    let set_status = |status: &'static str| json!([{ "op": "add", "path": "/status", "value": status }]);
    test.patch(&test.admin, &test.member.path(), &set_status("off")).await.expect(200);
    assert_eq!(allowed_origin(&preflight(&test, "oauth2/token", APP).await), None);
    test.patch(&test.admin, &test.member.path(), &set_status("active")).await.expect(200);
    preflight(&test, "oauth2/token", APP).await.expect(204);
    set_origins(&test, &test.member, &[NOBODYS]).await.expect(200);
    assert_eq!(allowed_origin(&preflight(&test, "oauth2/token", APP).await), None);
    preflight(&test, "oauth2/token", NOBODYS).await.expect(204);
    let other = format!("Project/{}", test.other_project);
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    preflight(&test, "oauth2/token", OTHER_APP).await.expect(204);
    test.patch(&test.super_admin, &other, &off).await.expect(200);
    assert_eq!(allowed_origin(&preflight(&test, "oauth2/token", OTHER_APP).await), None);
    test.delete(&test.admin, &test.member.path()).await.expect(200);
    assert_eq!(allowed_origin(&preflight(&test, "oauth2/token", NOBODYS).await), None);
}

#[tokio::test]
async fn the_own_origin_and_those_of_the_setting_are_always_allowed() {
    let test =
        TestApp::start_configured(|config| config.allowed_origins = vec![Origin::parse(APP).unwrap()]).await;
    let own = format!("http://{}", test.address);
    let token = test.bearer(&test.member).await;
    for origin in [APP, &own] {
        let answer = preflight(&test, "auth/login", origin).await.expect(204);
        assert_eq!(allowed_origin(&answer), Some(origin));
        let answer = get_from(&test, &token, "auth/me", origin).await.expect(200);
        assert_eq!(allowed_origin(&answer), Some(origin));
    }
}

#[tokio::test]
async fn what_is_published_is_for_all_and_pages_for_people_are_for_none() {
    let test = with_two_apps().await;
    let published = [
        ".well-known/openid-configuration",
        ".well-known/jwks.json",
        ".well-known/smart-configuration",
        "fhir/R4/.well-known/smart-configuration",
        "fhir/R4/metadata",
    ];
    for path in published {
        let answer = test.request(As::Anonymous, Method::GET, path).send().await.expect(200);
        assert_eq!(allowed_origin(&answer), Some("*"), "{path}");
        let answer = preflight(&test, path, NOBODYS).await.expect(204);
        assert_eq!(allowed_origin(&answer), Some("*"), "{path}");
    }
    for path in
        ["oauth2/authorize?client_id=x", "auth/setpassword/x", "metrics", "healthcheck", "ui/style.css"]
    {
        assert_eq!(allowed_origin(&get_from(&test, As::Anonymous, path, APP).await), None, "{path}");
        assert_eq!(allowed_origin(&preflight(&test, path, APP).await), None, "{path}");
    }
}

#[tokio::test]
async fn an_origin_in_another_spelling_is_refused_when_it_is_written() {
    let test = TestApp::start().await;
    for wrong in
        ["*", "null", "https://app.example.test/", "https://App.example.test", "app.example.test", ""]
    {
        let answer = set_origins(&test, &test.member, &[APP, wrong]).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text);
    }
    set_origins(&test, &test.member, &["*"]).await.refused(400, "invalid");
    set_origins(&test, &test.member, &[APP, OTHER_APP]).await.expect(200);
    let found = test.get(&test.admin, &format!("ClientApplication?allowed-origin={APP}")).await.expect(200);
    assert_eq!(found.resources().len(), 1);
}
