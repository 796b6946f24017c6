//! Signing in: from which addresses, to which of several projects, and how many guesses are judged.

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::limits::LOGIN_FAILURES_FREE;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, ELSEWHERE, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{EMAIL, PASSWORD, ann, claims, json_post, log_in, make_ann, redeem, token};

async fn post_elsewhere(test: &TestApp, path: &str, body: &Value) -> Answer {
    let request = test.request_elsewhere(As::Anonymous, Method::POST, path);
    request.body("application/json", body.to_string()).send().await
}

fn login() -> Value {
    json!({ "email": EMAIL, "password": PASSWORD })
}

fn login_to(project: &str) -> Value {
    json!({ "email": EMAIL, "password": PASSWORD, "projectId": project })
}

/// Lets a member in from everywhere but [`ELSEWHERE`].
async fn keep_at_home(test: &TestApp, membership: &Value) {
    let body = json!({
        "resourceType": "AccessPolicy",
        "meta": { "project": membership["project"]["reference"] },
        "resource": [{ "resourceType": "*" }],
        "ipAccessRule": [{ "value": ELSEWHERE.to_string(), "action": "block" }],
    });
    let policy = test.post(&test.super_admin, "AccessPolicy", &body).await.expect(201).text_at("/id");
    let reference = json!({ "reference": format!("AccessPolicy/{policy}") });
    let path = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
    let attach = json!([{ "op": "add", "path": "/accessPolicy", "value": reference }]);
    test.patch(&test.super_admin, &path, &attach).await.expect(200);
}

/// A person of the whole server, and a member of the Super Admins' project and of that of `admin`; gives
/// the second membership.
async fn ann_of_two_projects(test: &TestApp) -> Value {
    let supers = test.membership_of(&test.super_admin).await["project"]["reference"].clone();
    let path = format!("admin/projects/{}/invite", supers.as_str().unwrap().trim_start_matches("Project/"));
    let mut body = ann();
    body["password"] = json!(PASSWORD);
    let first = test.request(&test.super_admin, Method::POST, &path).json(&body).send().await.expect(200);
    let user = first.text_at("/user/reference");
    let widen = json!([{ "op": "remove", "path": "/project" }]);
    test.patch(&test.super_admin, &user, &widen).await.expect(200);
    let project = format!("Project/{}", test.project);
    let body = json!({ "resourceType": "Practitioner", "meta": { "project": project } });
    let profile = test.post(&test.super_admin, "Practitioner", &body).await.expect(201).text_at("/id");
    let body = json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": project },
        "user": { "reference": user },
        "profile": { "reference": format!("Practitioner/{profile}") },
    });
    test.post(&test.super_admin, "ProjectMembership", &body).await.expect(201).json()
}

#[tokio::test]
async fn guesses_that_come_at_once_are_not_judged_at_once() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let guesses = join_all((0..4 * LOGIN_FAILURES_FREE).map(|_| log_in(&test, "not the password"))).await;
    for guess in guesses {
        guess.refused(400, "invalid");
    }
    // No more were counted than are free: the account waits for the shortest time.
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    test.clock.advance(Duration::from_secs(1));
    log_in(&test, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn people_who_sign_in_at_once_are_all_let_in() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    for answer in join_all((0..4).map(|_| log_in(&test, PASSWORD))).await {
        answer.expect(200);
    }
}

#[tokio::test]
async fn nobody_signs_in_from_an_address_that_the_policy_blocks() {
    let test = TestApp::start().await;
    let membership = make_ann(&test, false).await;
    keep_at_home(&test, &membership).await;
    let bearer = token(&test).await;
    let wrong = log_in(&test, "not the password").await;
    let blocked = post_elsewhere(&test, "auth/login", &login()).await;
    assert_eq!((blocked.status, &blocked.text), (wrong.status, &wrong.text));

    let authenticator = Authenticator::enrol(&test, &bearer).await;
    test.clock.advance(Duration::from_mins(1));
    let begun = log_in(&test, PASSWORD).await.expect(200).text_at("/login");
    let body = json!({ "login": begun, "token": authenticator.code(&test) });
    post_elsewhere(&test, "auth/mfa/verify", &body).await.refused(400, "invalid");
    json_post(&test, As::Anonymous, "auth/mfa/verify", &body).await.expect(200);
}

#[tokio::test]
async fn only_memberships_that_are_open_from_here_can_be_chosen() {
    let test = TestApp::start().await;
    let membership = ann_of_two_projects(&test).await;
    keep_at_home(&test, &membership).await;
    // Elsewhere there is one, and so no choice.
    post_elsewhere(&test, "auth/login", &login()).await.expect(200).text_at("/code");
    let begun = log_in(&test, PASSWORD).await.expect(200);
    assert_eq!(begun.json()["memberships"].as_array().unwrap().len(), 2);
    let body = json!({ "login": begun.text_at("/login"), "profile": membership["id"] });
    post_elsewhere(&test, "auth/profile", &body).await.refused(400, "invalid");
    json_post(&test, As::Anonymous, "auth/profile", &body).await.expect(200).text_at("/code");
}

#[tokio::test]
async fn a_project_that_was_named_is_not_asked_for_again() {
    let test = TestApp::start().await;
    let membership = ann_of_two_projects(&test).await;
    let chosen = json_post(&test, As::Anonymous, "auth/login", &login_to(&test.project)).await.expect(200);
    let bearer = redeem(&test, &chosen.text_at("/code")).await.expect(200).text_at("/access_token");
    let profile = |token: &str| claims(token)["profile"].clone();
    assert_eq!(profile(&bearer), membership["profile"]["reference"]);

    let authenticator = Authenticator::enrol(&test, &As::Bearer(bearer)).await;
    test.clock.advance(Duration::from_mins(1));
    let begun = json_post(&test, As::Anonymous, "auth/login", &login_to(&test.project)).await.expect(200);
    let body = json!({ "login": begun.text_at("/login"), "token": authenticator.code(&test) });
    let done = json_post(&test, As::Anonymous, "auth/mfa/verify", &body).await.expect(200);
    let bearer = redeem(&test, &done.text_at("/code")).await.expect(200).text_at("/access_token");
    assert_eq!(profile(&bearer), membership["profile"]["reference"]);
    // Without a name, there is a choice after the second factor.
    test.clock.advance(Duration::from_mins(1));
    let begun = log_in(&test, PASSWORD).await.expect(200);
    let body = json!({ "login": begun.text_at("/login"), "token": authenticator.code(&test) });
    let done = json_post(&test, As::Anonymous, "auth/mfa/verify", &body).await.expect(200);
    assert_eq!(done.json()["memberships"].as_array().unwrap().len(), 2);
}
