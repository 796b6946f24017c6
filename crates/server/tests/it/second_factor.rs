//! The second factor: set up by the person only, asked for once it is confirmed, and no easier to guess
//! for somebody who knows the password.

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::limits::LOGIN_FAILURES_FREE;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{
    PASSWORD, REDIRECT, VERIFIER, browse, json_post, log_in, make_ann, make_app, redeem, redeem_for, token,
};

async fn verify(test: &TestApp, login: &str, code: &str) -> Answer {
    let body = json!({ "login": login, "token": code });
    json_post(test, As::Anonymous, "auth/mfa/verify", &body).await
}

/// A person with a second factor, whose codes count from now on.
async fn stage() -> (TestApp, Authenticator) {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let authenticator = Authenticator::enrol(&test, &token(&test).await).await;
    test.clock.advance(Duration::from_mins(1));
    (test, authenticator)
}

#[tokio::test]
async fn a_second_factor_is_asked_for_once_it_is_confirmed() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let bearer = token(&test).await;
    let authenticator = Authenticator::offered(&test, &bearer).await;
    let wrong = json!({ "token": authenticator.wrong_code(&test) });
    json_post(&test, &bearer, "auth/mfa/enroll", &wrong).await.expect(400);
    assert_eq!(log_in(&test, PASSWORD).await.expect(200).json()["mfaRequired"], Value::Null);
    let first = authenticator.code(&test);
    json_post(&test, &bearer, "auth/mfa/enroll", &json!({ "token": first })).await.expect(200);

    let begun = log_in(&test, PASSWORD).await.expect(200);
    assert_eq!(begun.json()["mfaRequired"], true);
    assert_eq!(begun.json()["code"], Value::Null);
    let login = begun.text_at("/login");
    // A code counts once.
    verify(&test, &login, &first).await.expect(400);
    test.clock.advance(Duration::from_mins(1));
    let code = authenticator.code(&test);
    let done = verify(&test, &login, &code).await.expect(200);
    redeem(&test, &done.text_at("/code")).await.expect(200);
    verify(&test, &login, &code).await.expect(400);
}

#[tokio::test]
async fn the_password_alone_forgives_no_wrong_code() {
    let (test, authenticator) = stage().await;
    for _ in 0..LOGIN_FAILURES_FREE {
        let login = log_in(&test, PASSWORD).await.expect(200).text_at("/login");
        verify(&test, &login, &authenticator.wrong_code(&test)).await.expect(400);
    }
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    test.clock.advance(Duration::from_secs(1));
    // After the wait, password and code are accepted, one right after the other.
    let login = log_in(&test, PASSWORD).await.expect(200).text_at("/login");
    verify(&test, &login, &authenticator.code(&test)).await.expect(200);
    // And with both, all is forgiven.
    let login = log_in(&test, PASSWORD).await.expect(200).text_at("/login");
    verify(&test, &login, &authenticator.wrong_code(&test)).await.expect(400);
    log_in(&test, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn codes_that_are_guessed_at_once_are_not_judged_at_once() {
    let (test, authenticator) = stage().await;
    let login = log_in(&test, PASSWORD).await.expect(200).text_at("/login");
    let wrong = authenticator.wrong_code(&test);
    join_all((0..20).map(|_| verify(&test, &login, &wrong))).await;
    // More were not counted than are free, for the others were not compared.
    test.clock.advance(Duration::from_secs(1));
    verify(&test, &login, &authenticator.code(&test)).await.expect(200);
}

#[tokio::test]
async fn an_application_sets_up_no_second_factor_for_its_user() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let code = browse(&test, &client, "&scope=openid+user/*.cruds").await;
    let granted = redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await.expect(200);
    let application = As::Bearer(granted.text_at("/access_token"));
    let own = token(&test).await;
    let authenticator = Authenticator::offered(&test, &own).await;
    let body = json!({ "token": authenticator.code(&test) });
    for answer in [
        test.request(&application, Method::GET, "auth/mfa/status").send().await,
        json_post(&test, &application, "auth/mfa/enroll", &body).await,
        json_post(&test, &application, "auth/mfa/disable", &body).await,
    ] {
        let said = answer.refused(403, "forbidden");
        assert!(said.contains("without clientId") && !answer.text.contains("secret="), "{said}");
    }
    assert_eq!(log_in(&test, PASSWORD).await.expect(200).json()["mfaRequired"], Value::Null);
    json_post(&test, &own, "auth/mfa/enroll", &body).await.expect(200);
}
