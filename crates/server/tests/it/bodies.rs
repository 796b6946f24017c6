//! Bodies of routes outside FHIR: each route has its own bound, and no unknown member is ignored.

use keyrelay_core::limits::{
    ADMIN_BODY_BYTES_MAX, AUTH_BODY_BYTES_MAX, SEARCH_FORM_BYTES_MAX, SECRET_MOVE_BYTES_MAX,
    TOKEN_FORM_BYTES_MAX,
};
use keyrelay_server::ROUTES;
use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, TestApp};
use crate::people::{EMAIL, PASSWORD, json_post, log_in, make_ann, token};

const FORM: &str = "application/x-www-form-urlencoded";

/// The routes below `/auth/` that take JSON, and one member that each of them knows.
const AUTH_ROUTES: [(&str, &str); 7] = [
    ("auth/login", "email"),
    ("auth/profile", "login"),
    ("auth/mfa/verify", "login"),
    ("auth/mfa/enroll", "token"),
    ("auth/mfa/disable", "token"),
    ("auth/changepassword", "oldPassword"),
    ("auth/revoke", "loginId"),
];

/// A JSON object of so many bytes.
fn object_of(bytes: usize) -> String {
    let frame = json!({ "junk": "" }).to_string();
    json!({ "junk": "x".repeat(bytes - frame.len()) }).to_string()
}

async fn post(test: &TestApp, who: &As, path: &str, media: &str, body: String) -> Answer {
    test.request(who, Method::POST, path).body(media, body).send().await
}

#[test]
fn each_route_outside_fhir_has_a_small_bound() {
    for route in ROUTES {
        let small = if route.path.starts_with("/fhir/R4") || route.path.starts_with("/oauth2/register") {
            continue;
        } else if route.path.starts_with("/admin/") {
            ADMIN_BODY_BYTES_MAX
        } else {
            AUTH_BODY_BYTES_MAX
        };
        assert!(route.body_bytes_max <= small, "{}", route.path);
        let only_reads = route.methods.iter().all(|method| matches!(*method, "GET" | "DELETE"));
        assert!(!only_reads || route.body_bytes_max == 0, "{}", route.path);
    }
}

#[tokio::test]
async fn a_body_above_the_bound_of_its_route_is_refused_and_one_at_the_bound_is_read() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let person = token(&test).await;
    let json = "application/json";
    for (path, _) in AUTH_ROUTES {
        let max = AUTH_BODY_BYTES_MAX;
        post(&test, &person, path, json, object_of(max)).await.refused(400, "invalid");
        let said = post(&test, &person, path, json, object_of(max + 1)).await.refused(413, "too-long");
        assert!(said.contains(&max.to_string()), "{path}: {said}");
    }
    let admin = As::from(&test.admin);
    let path = format!("admin/projects/{}/client", test.project);
    post(&test, &admin, &path, json, object_of(ADMIN_BODY_BYTES_MAX)).await.refused(400, "invalid");
    post(&test, &admin, &path, json, object_of(ADMIN_BODY_BYTES_MAX + 1)).await.refused(413, "too-long");
    for path in ["oauth2/token", "oauth2/introspect", "oauth2/revoke"] {
        let (name, max) = ("junk=", TOKEN_FORM_BYTES_MAX);
        let form = |bytes: usize| format!("{name}{}", "x".repeat(bytes - name.len()));
        assert_ne!(post(&test, &As::Anonymous, path, FORM, form(max)).await.status, 413);
        let answer = post(&test, &As::Anonymous, path, FORM, form(max + 1)).await.expect(413);
        assert!(answer.text_at("/error_description").contains(&max.to_string()), "{}", answer.text);
    }
}

#[tokio::test]
async fn an_operation_and_a_search_take_less_than_a_resource() {
    let test = TestApp::start().await;
    let admin = As::from(&test.admin);
    let path = format!("fhir/R4/{}/", test.member.path());
    for operation in ["$rotate-secret", "$undo-rotation", "$revoke-secret"] {
        let path = format!("{path}{operation}");
        let sent = |bytes| post(&test, &admin, &path, "application/json", object_of(bytes));
        sent(SECRET_MOVE_BYTES_MAX).await.refused(400, "invalid");
        sent(SECRET_MOVE_BYTES_MAX + 1).await.refused(413, "too-long");
    }
    let form = |bytes: usize| format!("_count={}", "1".repeat(bytes - "_count=".len()));
    let sent = |bytes| post(&test, &admin, "fhir/R4/ClientApplication/_search", FORM, form(bytes));
    sent(SEARCH_FORM_BYTES_MAX).await.refused(400, "invalid");
    sent(SEARCH_FORM_BYTES_MAX + 1).await.refused(413, "too-long");
    assert!(test.lets_in(&test.member.id, &test.member.secret).await);
}

#[tokio::test]
async fn a_member_that_nobody_looks_at_is_refused() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let person = token(&test).await;
    for (path, known) in AUTH_ROUTES {
        let said = json_post(&test, &person, path, &json!({ known: "x", "junk": 0 })).await;
        let said = said.refused(400, "invalid");
        assert!(said.contains("unknown member") && said.contains(known), "{path}: {said}");
    }
    let mut body = json!({ "email": EMAIL, "password": PASSWORD, "junk": vec![0; 1000] });
    json_post(&test, As::Anonymous, "auth/login", &body).await.refused(400, "invalid");
    body.as_object_mut().unwrap().remove("junk");
    for (name, wrong) in [("remember", json!("yes")), ("scope", json!(["openid"])), ("email", json!(7))] {
        let mut body = body.clone();
        body[name] = wrong;
        let answer = json_post(&test, As::Anonymous, "auth/login", &body).await;
        assert!(answer.refused(400, "invalid").starts_with(name), "{}", answer.text);
    }
    for (kind, status) in [("Practitioner", 200), ("Patient", 400)] {
        body["resourceType"] = json!(kind);
        json_post(&test, As::Anonymous, "auth/login", &body).await.expect(status);
    }
    let absent = json!({ "email": EMAIL, "password": PASSWORD, "scope": "", "nonce": "" });
    json_post(&test, As::Anonymous, "auth/login", &absent).await.expect(200);
    log_in(&test, PASSWORD).await.expect(200);
}
