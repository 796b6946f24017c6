//! Signing in, by many at once.

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::limits::LOGIN_FAILURES_FREE;

use crate::app::TestApp;
use crate::people::{PASSWORD, log_in, make_ann};

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
