//! Guessing is slowed down, and guessing at a client does not lock that client out.

use std::time::Duration;

use keyrelay_core::limits::{
    FAILURE_FORGIVEN_AFTER, FAILURES_PER_ADDRESS_MAX, LOGIN_ATTEMPT_FORGIVEN_AFTER,
    LOGIN_ATTEMPTS_PER_ADDRESS_MAX, LOGIN_FAILURES_FREE,
};
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, TestApp};
use crate::assertion::{Key, claims, header, present, publish, refused};
use crate::jwks_uri::KeyHost;
use crate::people::{PASSWORD, log_in, make_ann};
use crate::registration::{Registered, initial, register, robot};

fn throttled(answer: &Answer) {
    assert_eq!(answer.status, 429, "{}", answer.text);
    assert_eq!(answer.header("retry-after"), FAILURE_FORGIVEN_AFTER.as_secs().to_string());
    assert_eq!(answer.header("cache-control"), "no-store");
}

/// Fails as often as one address may.
async fn guess_at(test: &TestApp, id: &str) {
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        test.grant(id, "a guess").await.expect(401);
    }
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_turned_away_for_a_while() {
    let test = TestApp::start().await;
    let token = test.bearer(&test.member).await;
    guess_at(&test, &test.member.id).await;

    // Whether the next guess is right is not told.
    for secret in ["a guess", &test.member.secret] {
        let answer = test.grant(&test.member.id, secret).await;
        throttled(&answer);
        assert_eq!(answer.text_at("/error"), "temporarily_unavailable");
        let answer = test.get(&test.member.with(secret), &test.member.path()).await;
        throttled(&answer);
        answer.refused(429, "throttled");
    }
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
    // Who has a token already has nothing to guess.
    test.get(&token, &test.member.path()).await.expect(200);

    test.clock.advance(FAILURE_FORGIVEN_AFTER);
    test.grant(&test.member.id, &test.member.secret).await.expect(200);
    test.grant(&test.member.id, "a guess").await;
    throttled(&test.grant(&test.member.id, &test.member.secret).await);
    test.clock.advance(Duration::from_hours(1));
    assert!(test.lets_in(&test.member.id, &test.member.secret).await);
}

#[tokio::test]
async fn a_client_that_others_guess_at_still_gets_in_from_elsewhere() {
    let test = TestApp::start().await;
    guess_at(&test, &test.member.id).await;
    throttled(&test.grant_elsewhere(&test.member.id, "a guess").await);
    test.grant_elsewhere(&test.member.id, &test.member.secret).await.expect(200);
    let basic = test.request_elsewhere(&test.member, Method::GET, "auth/me").send().await;
    basic.expect(200);
    // Of the other clients nothing has changed.
    test.grant_elsewhere(&test.admin.id, "a guess").await.expect(401);
    test.grant_elsewhere(&test.admin.id, &test.admin.secret).await.expect(200);
}

#[tokio::test]
async fn failures_of_people_and_clients_block_only_their_own_kind() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    // One failure fewer than blocks the address, and one failure of a person.
    for _ in 1..FAILURES_PER_ADDRESS_MAX {
        test.grant(&test.member.id, "a guess").await.expect(401);
    }
    log_in(&test, "not the password").await.refused(400, "invalid");
    test.grant(&test.stranger.id, &test.stranger.secret).await.expect(200);
    test.grant(&test.member.id, "a guess").await.expect(401);
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
    log_in(&test, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_former_secret_blocks_neither_its_client_nor_its_address() {
    let test = TestApp::start().await;
    let old = test.member.secret.clone();
    let rotated = test.rotate(&test.admin, &test.member.id, "secret", &old).await.expect(200);
    let new = rotated.text_at("/secret");
    test.rotate(&test.admin, &test.member.id, "retiringSecret", &old).await.expect(200);
    let wrong = test.grant(&test.member.id, "a guess").await.expect(401);
    // The largest number that may fail at once: each counts until it was looked up.
    let at_once = (1..FAILURES_PER_ADDRESS_MAX).map(|_| test.grant(&test.member.id, &old));
    for answer in futures_util::future::join_all(at_once).await {
        assert_eq!((answer.status, &answer.text), (wrong.status, &wrong.text));
    }
    test.app.flush_usage().await;
    // The forgotten worker retries by every way of authentication, without effect on others.
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        let answer = test.grant(&test.member.id, &old).await;
        assert_eq!((answer.status, &answer.text), (wrong.status, &wrong.text));
        test.get(&test.member.with(&old), &test.member.path()).await.refused(401, "login");
    }
    assert!(test.lets_in(&test.member.id, &new).await);
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
    test.grant_elsewhere(&test.member.id, "a guess").await.expect(401);
    // Counted as former, every time.
    test.app.flush_usage().await;
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.expect(200);
    let seen = format!("former_secret_seen_total {}", 3 * FAILURES_PER_ADDRESS_MAX - 1);
    assert!(metrics.text.contains(&seen), "{}", metrics.text);
    // Guesses are bounded as before.
    for _ in 2..FAILURES_PER_ADDRESS_MAX {
        test.grant(&test.member.id, "a guess").await.expect(401);
    }
    test.grant(&test.member.id, "a guess").await;
    throttled(&test.grant(&test.member.id, &new).await);
}

#[tokio::test]
async fn a_secret_whose_client_is_off_is_no_guess() {
    let test = TestApp::start().await;
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &test.member.path(), &off).await.expect(200);
    for _ in 0..FAILURES_PER_ADDRESS_MAX + 10 {
        test.grant(&test.member.id, &test.member.secret).await.expect(401);
    }
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        test.grant(&test.member.id, "a guess").await.expect(401);
    }
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
}

/// A worker that was forgotten presents a secret more often than an address may fail.
async fn forgotten(test: &TestApp, id: &str, secret: &str) {
    let unknown = test.grant("00000000-0000-4000-8000-000000000001", "a guess").await.expect(401);
    let answer = test.grant(id, secret).await;
    assert_eq!((answer.status, &answer.text), (unknown.status, &unknown.text));
    // From here on the secret is known.
    test.app.flush_usage().await;
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        let answer = test.grant(id, secret).await;
        assert_eq!((answer.status, &answer.text), (unknown.status, &unknown.text));
    }
}

#[tokio::test]
async fn the_last_secrets_of_a_client_that_was_deleted_are_no_guesses() {
    let test = TestApp::start().await;
    let old = test.member.secret.clone();
    let rotated = test.rotate(&test.admin, &test.member.id, "secret", &old).await.expect(200);
    let new = rotated.text_at("/secret");
    test.delete(&test.admin, &test.member.path()).await.expect(200);
    let itself = Registered::new(&test).await;
    test.request(&itself.token, Method::DELETE, &itself.path).send().await.expect(204);
    for (id, secret) in
        [(&test.member.id, &old), (&test.member.id, &new), (&itself.client.id, &itself.client.secret)]
    {
        forgotten(&test, id, secret).await;
    }
    test.delete(&test.super_admin, &format!("Project/{}", test.project)).await.expect(200);
    forgotten(&test, &test.admin.id, &test.admin.secret).await;
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
    // Each of the four rounds began with a guess.
    for _ in 4..FAILURES_PER_ADDRESS_MAX {
        test.grant(&test.member.id, "a guess").await;
    }
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
}

#[tokio::test]
async fn an_assertion_that_the_key_of_its_client_signed_is_no_guess() {
    let test = TestApp::start().await;
    let (key, other, member) = (Key::es384(), Key::es384(), test.member.clone());
    let assertion = |key: &Key, name: &str, value: serde_json::Value| {
        let mut claims = claims(&test, &member.id, "once");
        claims[name] = value;
        key.sign(&header(key), &claims)
    };
    let now = test.clock.now().epoch_seconds();
    let bad = [
        assertion(&key, "exp", json!(now)),
        assertion(&key, "aud", json!("https://elsewhere.example.test/oauth2/token")),
        assertion(&key, "iss", json!(test.admin.id)),
        assertion(&key, "jti", json!("once")),
    ];
    publish(&test, &member, &[key.jwk("k1")]).await;
    present(&test, &bad[3]).await.expect(200);
    let fail = async |more: Option<&str>| {
        for _ in 0..FAILURES_PER_ADDRESS_MAX {
            for assertion in bad.iter().map(String::as_str).chain(more) {
                refused(&present(&test, assertion).await, assertion);
            }
        }
    };
    fail(None).await;
    // The same of a client whose keys are at a URL, once they are known.
    let host = KeyHost::open().await;
    host.publishes(&[key.jwk("k1")]);
    let at_url =
        json!([{ "op": "remove", "path": "/jwks" }, { "op": "add", "path": "/jwksUri", "value": host.url }]);
    test.patch(&test.admin, &member.path(), &at_url).await.expect(200);
    present(&test, &assertion(&key, "jti", json!("twice"))).await.expect(200);
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    fail(None).await;
    test.patch(&test.admin, &member.path(), &off).await.expect(200);
    fail(Some(&assertion(&key, "jti", json!("off")))).await;
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
    let guess = assertion(&other, "exp", json!(now));
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        refused(&present(&test, &guess).await, "signed by another key");
    }
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
}

#[tokio::test]
async fn a_ticket_that_works_no_more_is_no_guess() {
    let test = TestApp::start().await;
    let used = initial(&test, &json!({})).await;
    let itself = Registered::of(&register(&test, &used, &robot()).await.expect(201));
    test.request(&itself.token, Method::DELETE, &itself.path).send().await.expect(204);
    let forged = As::Bearer("kri_".to_owned());
    let wrong = register(&test, &forged, &robot()).await.expect(401);
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        let answer = register(&test, &used, &robot()).await;
        assert_eq!((answer.status, &answer.text), (wrong.status, &wrong.text));
        let answer = test.request(&itself.token, Method::GET, &itself.path).send().await;
        assert_eq!((answer.status, &answer.text), (wrong.status, &wrong.text));
    }
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
    for _ in 1..FAILURES_PER_ADDRESS_MAX {
        register(&test, &forged, &robot()).await.expect(401);
    }
    throttled(&test.grant(&test.stranger.id, &test.stranger.secret).await);
}

#[tokio::test]
async fn success_is_never_counted() {
    let test = TestApp::start().await;
    for _ in 0..FAILURES_PER_ADDRESS_MAX + 10 {
        test.grant(&test.member.id, &test.member.secret).await.expect(200);
    }
    test.grant(&test.member.id, "a guess").await.expect(401);
}

/// What a browser or an application sends when somebody logs in, one of each kind.
async fn attempts(test: &TestApp) -> Vec<Answer> {
    let body = json!({ "login": "x", "token": "x", "profile": "x" });
    let mut answers = Vec::new();
    for path in [
        "auth/login",
        "auth/profile",
        "auth/mfa/verify",
        "auth/mfa/enroll",
        "auth/mfa/disable",
        "auth/changepassword",
    ] {
        answers.push(test.request(As::Anonymous, Method::POST, path).json(&body).send().await);
    }
    let invite = format!("admin/projects/{}/invite", test.project);
    answers.push(test.request(As::Anonymous, Method::POST, &invite).json(&body).send().await);
    for path in ["oauth2/authorize", "auth/setpassword/x"] {
        answers.push(test.request(As::Anonymous, Method::POST, path).form(&[("step", "x")]).send().await);
    }
    answers
}

#[tokio::test]
async fn logging_in_is_bounded_per_address_whatever_the_way() {
    let test = TestApp::start().await;
    let mut made = 0;
    while made + 9 <= LOGIN_ATTEMPTS_PER_ADDRESS_MAX {
        let answers = attempts(&test).await;
        made += u32::try_from(answers.len()).unwrap();
        assert!(answers.iter().all(|answer| answer.status != 429));
    }
    while made < LOGIN_ATTEMPTS_PER_ADDRESS_MAX {
        let request = test.request(As::Anonymous, Method::POST, "auth/login").json(&json!({}));
        request.send().await.expect(400);
        made += 1;
    }
    for answer in attempts(&test).await {
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "1"), "{}", answer.text);
        assert!(answer.text.contains("Too many attempts: try again in 1 second"), "{}", answer.text);
    }
    // Looking is no attempt, another address has its own, and everything else goes on.
    let page = test.request(As::Anonymous, Method::GET, "auth/setpassword/x").send().await;
    assert_eq!(page.status, 404);
    let elsewhere = test.request_elsewhere(As::Anonymous, Method::POST, "auth/login").json(&json!({}));
    elsewhere.send().await.expect(400);
    assert!(test.lets_in(&test.member.id, &test.member.secret).await);

    test.clock.advance(LOGIN_ATTEMPT_FORGIVEN_AFTER);
    let statuses: Vec<u16> = attempts(&test).await.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status != 429).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn whoever_must_wait_is_told_how_long() {
    let test = TestApp::start().await;
    let person = json!({
        "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": "ann@example.test",
        "password": "four plain words here",
    });
    let invite = format!("admin/projects/{}/invite", test.project);
    test.request(&test.admin, Method::POST, &invite).json(&person).send().await.expect(200);
    let login = json!({ "email": "ann@example.test", "password": "four plain words here" });
    let login = test.request(As::Anonymous, Method::POST, "auth/login").json(&login).send().await.expect(200);
    let form = [("grant_type", "authorization_code"), ("code", &login.text_at("/code"))];
    let token = As::Bearer(test.token(As::Anonymous, &form).await.expect(200).text_at("/access_token"));
    let change = || {
        let body = json!({ "oldPassword": "a guess", "newPassword": "five other plain words here" });
        test.request(&token, Method::POST, "auth/changepassword").json(&body).send()
    };
    for wait in [1_u64, 2, 4, 8, 16] {
        if wait == 1 {
            for _ in 0..LOGIN_FAILURES_FREE {
                change().await.refused(400, "invalid");
            }
        } else {
            change().await.refused(400, "invalid");
        }
        let answer = change().await;
        answer.refused(429, "throttled");
        assert_eq!(answer.header("retry-after"), wait.to_string());
        if wait > 2 {
            test.clock.advance(Duration::from_secs(2));
            assert_eq!(change().await.header("retry-after"), (wait - 2).to_string());
            test.clock.advance(Duration::from_secs(wait - 2));
        } else {
            test.clock.advance(Duration::from_secs(wait));
        }
    }
}
