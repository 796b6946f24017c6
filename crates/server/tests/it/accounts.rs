//! One address with several accounts: each project has its own, with its own password. No account blocks another one,
//! and their number is not revealed.

use std::time::Duration;

use keyrelay_core::limits::{LOGIN_ACCOUNTS_MAX, LOGIN_FAILURES_FREE};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{
    EMAIL, PASSWORD, ann, authorize_path, claims, invite, json_post, make_ann, make_app, path_of, redeem,
    submit,
};

const OTHER_PASSWORD: &str = "five other plain words here";

/// Creates an account of the address in a project, and returns the membership.
async fn account_in(test: &TestApp, project: &str, password: &str) -> Value {
    let mut body = ann();
    body["password"] = json!(password);
    let path = format!("admin/projects/{project}/invite");
    test.request(&test.super_admin, Method::POST, &path).json(&body).send().await.expect(200).json()
}

async fn log_in(test: &TestApp, password: &str, project: Option<&str>) -> Answer {
    let mut body = json!({ "email": EMAIL, "password": password });
    if let Some(project) = project {
        body["projectId"] = json!(project);
    }
    json_post(test, As::Anonymous, "auth/login", &body).await
}

async fn choose(test: &TestApp, begun: &Answer, membership: &Value) -> Answer {
    let body = json!({ "login": begun.text_at("/login"), "profile": membership["id"] });
    json_post(test, As::Anonymous, "auth/profile", &body).await
}

async fn profile(test: &TestApp, answer: &Answer) -> Value {
    let tokens = redeem(test, &answer.text_at("/code")).await.expect(200);
    claims(&tokens.text_at("/access_token"))["profile"].clone()
}

#[tokio::test]
async fn an_account_of_another_tenant_blocks_no_login() {
    let test = TestApp::start().await;
    let own = make_ann(&test, false).await;
    let other = account_in(&test, &test.other_project, OTHER_PASSWORD).await;
    for (password, membership) in [(PASSWORD, &own), (OTHER_PASSWORD, &other)] {
        let answer = log_in(&test, password, None).await.expect(200);
        assert_eq!(profile(&test, &answer).await, membership["profile"]["reference"]);
    }
    // The answer to a wrong password is the same for two accounts, one and none.
    let wrong = log_in(&test, "not the password", None).await;
    assert!(wrong.refused(400, "invalid").contains("projectId"));
    let nobody = json!({ "email": "nobody@example.test", "password": PASSWORD });
    assert_eq!(json_post(&test, As::Anonymous, "auth/login", &nobody).await.text, wrong.text);
    // If a project is named, and at a sign-in page, only its account counts.
    log_in(&test, OTHER_PASSWORD, Some(&test.project)).await.refused(400, "invalid");
    log_in(&test, PASSWORD, Some(&test.project)).await.expect(200);
    let path = authorize_path(&make_app(&test).await, "&scope=openid");
    let form = |password| [("step", "sign-in"), ("email", EMAIL), ("password", password)];
    submit(&test, &path, "", &form(OTHER_PASSWORD)).await.expect(400);
    submit(&test, &path, "", &form(PASSWORD)).await.expect(200);
    invite(&test, &ann()).await.refused(409, "conflict");
}

#[tokio::test]
async fn accounts_with_the_same_password_offer_their_memberships() {
    let test = TestApp::start().await;
    let own = make_ann(&test, false).await;
    let other = account_in(&test, &test.other_project, PASSWORD).await;
    for chosen in [&own, &other] {
        let begun = log_in(&test, PASSWORD, None).await.expect(200);
        let offered = begun.json()["memberships"].as_array().unwrap().clone();
        assert_eq!((offered.len(), &begun.json()["code"]), (2, &Value::Null), "{offered:?}");
        let answer = choose(&test, &begun, chosen).await.expect(200);
        assert_eq!(profile(&test, &answer).await, chosen["profile"]["reference"]);
    }
    // A disabled membership is not offered and cannot be chosen.
    let begun = log_in(&test, PASSWORD, None).await.expect(200);
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    test.patch(&test.super_admin, other["user"]["reference"].as_str().unwrap(), &off).await.expect(200);
    choose(&test, &begun, &other).await.refused(400, "invalid");
    log_in(&test, PASSWORD, None).await.expect(200).text_at("/code");
}

#[tokio::test]
async fn the_second_factor_is_that_of_the_chosen_account() {
    let test = TestApp::start().await;
    let own = make_ann(&test, false).await;
    let answer = log_in(&test, PASSWORD, None).await.expect(200);
    let bearer = redeem(&test, &answer.text_at("/code")).await.expect(200).text_at("/access_token");
    let app = Authenticator::enrol(&test, &As::Bearer(bearer)).await;
    let other = account_in(&test, &test.other_project, PASSWORD).await;
    test.clock.advance(Duration::from_mins(1));

    let begun = log_in(&test, PASSWORD, None).await.expect(200);
    let answer = choose(&test, &begun, &other).await.expect(200);
    assert_eq!(profile(&test, &answer).await, other["profile"]["reference"]);

    let begun = log_in(&test, PASSWORD, None).await.expect(200);
    let answer = choose(&test, &begun, &own).await.expect(200).json();
    assert_eq!((&answer["mfaRequired"], &answer["code"]), (&json!(true), &Value::Null));
    // The choice is final.
    choose(&test, &begun, &other).await.refused(400, "invalid");
    let verify = async |token: String| {
        let body = json!({ "login": begun.text_at("/login"), "token": token });
        json_post(&test, As::Anonymous, "auth/mfa/verify", &body).await
    };
    verify(app.wrong_code(&test)).await.refused(400, "invalid");
    let answer = verify(app.code(&test)).await.expect(200);
    assert_eq!(profile(&test, &answer).await, own["profile"]["reference"]);
}

#[tokio::test]
async fn a_new_password_of_an_account_ends_the_choice() {
    let test = TestApp::start().await;
    let own = make_ann(&test, false).await;
    account_in(&test, &test.other_project, PASSWORD).await;
    let begun = log_in(&test, PASSWORD, None).await.expect(200);
    let mut again = ann();
    again["upsert"] = json!(true);
    let path = format!("admin/projects/{}/invite", test.other_project);
    let link = test.request(&test.stranger, Method::POST, &path).json(&again).send().await.expect(200);
    let link = link.text_at("/extension/0/valueUrl");
    let form = [("password", OTHER_PASSWORD), ("again", OTHER_PASSWORD)];
    submit(&test, path_of(&link), "", &form).await.expect(200);
    choose(&test, &begun, &own).await.refused(400, "invalid");
    log_in(&test, PASSWORD, None).await.expect(200).text_at("/code");
}

#[tokio::test]
async fn newer_accounts_do_not_push_older_ones_out() {
    let test = TestApp::start().await;
    let own = make_ann(&test, false).await;
    let mut last = String::new();
    for n in 0..LOGIN_ACCOUNTS_MAX {
        test.clock.advance(Duration::from_secs(1));
        last = test.make_project(&format!("Tenant {n}")).await;
        account_in(&test, &last, OTHER_PASSWORD).await;
    }
    let answer = log_in(&test, PASSWORD, None).await.expect(200);
    assert_eq!(profile(&test, &answer).await, own["profile"]["reference"]);
    let offered = log_in(&test, OTHER_PASSWORD, None).await.expect(200).json()["memberships"].clone();
    assert_eq!(offered.as_array().unwrap().len(), LOGIN_ACCOUNTS_MAX - 1);
    // The newest account needs the name of its project.
    log_in(&test, OTHER_PASSWORD, Some(&last)).await.expect(200).text_at("/code");
    // An account without a password, or with a disabled membership, does not count.
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    let first = offered[0]["id"].as_str().unwrap();
    test.patch(&test.super_admin, &format!("ProjectMembership/{first}"), &off).await.expect(200);
    let offered = log_in(&test, OTHER_PASSWORD, None).await.expect(200).json()["memberships"].clone();
    assert_eq!(offered.as_array().unwrap().len(), LOGIN_ACCOUNTS_MAX - 1);
}

#[tokio::test]
async fn a_password_counts_as_a_failure_of_each_account_with_another_one() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    account_in(&test, &test.other_project, OTHER_PASSWORD).await;
    // An attacker with one account of the address cannot use it to try passwords at another one.
    for _ in 0..=LOGIN_FAILURES_FREE {
        log_in(&test, OTHER_PASSWORD, None).await.expect(200);
    }
    log_in(&test, PASSWORD, None).await.refused(400, "invalid");
    log_in(&test, PASSWORD, Some(&test.project)).await.refused(400, "invalid");
    log_in(&test, OTHER_PASSWORD, None).await.expect(200);
    test.clock.advance(Duration::from_mins(1));
    log_in(&test, PASSWORD, None).await.expect(200);
}

#[tokio::test]
async fn a_refusal_is_counted_and_waits_for_no_change() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let nobody = json!({ "email": "nobody@example.test", "password": PASSWORD });
    // Nothing can be written, so a refusal that waited for a write would get another answer, or be late.
    test.app.refuse_changes();
    let unknown = json_post(&test, As::Anonymous, "auth/login", &nobody).await;
    unknown.refused(400, "invalid");
    for _ in 0..LOGIN_FAILURES_FREE {
        let known = log_in(&test, "not the password", None).await;
        assert_eq!((known.status, &known.text), (unknown.status, &unknown.text));
    }
    let waits = log_in(&test, PASSWORD, None).await;
    assert_eq!((waits.status, &waits.text), (unknown.status, &unknown.text));
}

#[tokio::test]
async fn failures_outlive_the_server() {
    let mut test = TestApp::start().await;
    make_ann(&test, false).await;
    for _ in 0..=LOGIN_FAILURES_FREE {
        log_in(&test, "not the password", None).await.refused(400, "invalid");
    }
    let base_url = format!("http://{}/", test.address);
    test = test.restart_as(&base_url).await;
    log_in(&test, PASSWORD, None).await.refused(400, "invalid");
    test.clock.advance(Duration::from_secs(2));
    log_in(&test, PASSWORD, None).await.expect(200);
}

#[tokio::test]
async fn forgiven_failures_stay_forgiven_after_a_restart() {
    let mut test = TestApp::start().await;
    make_ann(&test, false).await;
    for _ in 1..LOGIN_FAILURES_FREE {
        log_in(&test, "not the password", None).await.refused(400, "invalid");
    }
    log_in(&test, PASSWORD, None).await.expect(200);
    let base_url = format!("http://{}/", test.address);
    test = test.restart_as(&base_url).await;
    for _ in 1..LOGIN_FAILURES_FREE {
        log_in(&test, "not the password", None).await.refused(400, "invalid");
    }
    log_in(&test, PASSWORD, None).await.expect(200);
}
