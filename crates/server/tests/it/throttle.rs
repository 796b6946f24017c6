//! Guessing is slowed down, and guessing at a client does not lock that client out.

use std::time::Duration;

use keyrelay_core::limits::{FAILURE_FORGIVEN_AFTER, FAILURES_PER_ADDRESS_MAX};
use reqwest::Method;

use crate::app::{Answer, TestApp};

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
async fn success_is_never_counted() {
    let test = TestApp::start().await;
    for _ in 0..FAILURES_PER_ADDRESS_MAX + 10 {
        test.grant(&test.member.id, &test.member.secret).await.expect(200);
    }
    test.grant(&test.member.id, "a guess").await.expect(401);
}
