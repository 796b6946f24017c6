//! Slow senders do not hold a place for ever. The time is tokio's, which stands still here and jumps
//! to the next time-out whenever nobody has anything to do: no test waits for real.

use keyrelay_core::limits::{
    BODY_TIMEOUT, HEAD_TIMEOUT, LINGER_TIMEOUT, SMALL_BODY_BYTES_MAX, SMALL_BODY_TIMEOUT, WRITE_TIMEOUT,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::app::{As, TestApp};

/// Sends the beginning of a request and no more, until the server has had enough.
async fn send_only(test: &TestApp, beginning: &str) -> String {
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn half_a_head_is_waited_for_only_so_long() {
    let test = TestApp::start().await;
    tokio::time::pause();
    let started = Instant::now();
    let answer = send_only(&test, "GET /livez HTTP/1.1\r\nHost: x\r\nX-Half: ").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        (HEAD_TIMEOUT..HEAD_TIMEOUT + LINGER_TIMEOUT).contains(&started.elapsed()),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn half_a_body_is_answered_408() {
    let test = TestApp::start().await;
    tokio::time::pause();
    let started = Instant::now();
    let head = "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\ngrant_type=client";
    let answer = send_only(&test, head).await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(answer.ends_with("\"error_description\":\"The body did not arrive in time\"}"), "{answer}");
    assert!((SMALL_BODY_TIMEOUT..BODY_TIMEOUT).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_large_body_has_more_time_than_a_small_one() {
    let test = TestApp::start().await;
    // The caller is looked up while the clock is paused, and a paused clock skips the wait for a server. The time
    // for a body does not depend on the database.
    if test.is_shared() {
        return;
    }
    let admin: As = test.bearer(&test.admin).await;
    tokio::time::pause();
    for (sent, least) in
        [(SMALL_BODY_BYTES_MAX / 2, SMALL_BODY_TIMEOUT), (SMALL_BODY_BYTES_MAX + 1, BODY_TIMEOUT)]
    {
        let started = Instant::now();
        let head = format!(
            "POST /fhir/R4 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\nContent-Type: application/fhir+json\r\n\r\n{}",
            admin.text(),
            SMALL_BODY_BYTES_MAX * 2,
            " ".repeat(sent)
        );
        let answer = send_only(&test, &head).await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        let waited = least..least + SMALL_BODY_TIMEOUT;
        assert!(waited.contains(&started.elapsed()), "{:?} after {sent}", started.elapsed());
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_loses_its_place() {
    let test = TestApp::start().await;
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    let asked = "GET /fhir/R4/metadata HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    // The server stops reading when it cannot write, so not all of it may go.
    let (mut read, mut write) = stream.split();
    tokio::time::pause();
    let sent = tokio::time::timeout(WRITE_TIMEOUT * 2, write.write_all(asked.as_bytes())).await;
    tokio::time::sleep(WRITE_TIMEOUT * 2).await;
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 200").count();
    assert!(answers < 2000, "{answers} answers, {sent:?}");
}
