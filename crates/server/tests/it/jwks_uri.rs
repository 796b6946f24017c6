//! Clients whose keys are at a URL of theirs: fetched when needed, kept for a while, changed by the
//! client whenever it likes; and nobody can make the server fetch more, or elsewhere, than it should.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::limits::{
    JWKS_BYTES_MAX, JWKS_FETCH_INTERVAL, JWKS_FRESH_DEFAULT, JWKS_FRESH_MAX, JWKS_KEPT_MAX,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::app::{Answer, Credentials, TestApp};
use crate::assertion::{Key, claims, header, present, refused};

const SECOND: Duration = Duration::from_secs(1);

/// Where a client publishes its keys: answers what it is told to, and counts who asks.
pub struct KeyHost {
    pub url: String,
    /// The answer as it goes over the wire; empty for none at all.
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl KeyHost {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let host = Self { url, answer: Arc::default(), asked: Arc::default() };
        let (answer, asked) = (host.answer.clone(), host.asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), asked.clone()));
            }
        });
        host
    }

    fn says(&self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        *self.answer.lock().unwrap() = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
    }

    pub fn publishes(&self, keys: &[Value]) {
        self.says("200 OK", "Content-Type: application/json\r\n", &json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, answer: Arc<Mutex<String>>, asked: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let answer = answer.lock().unwrap().clone();
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A client of the project that publishes its keys at a host.
struct Stage {
    test: TestApp,
    host: KeyHost,
    client: Credentials,
    jti: AtomicUsize,
}

async fn publish_at(test: &TestApp, client: &Credentials, url: &str) -> Answer {
    let patch = json!([{ "op": "add", "path": "/jwksUri", "value": url }]);
    test.patch(&test.admin, &client.path(), &patch).await
}

impl Stage {
    async fn open() -> Self {
        let (test, host) = (TestApp::start().await, KeyHost::open().await);
        let client = test.member.clone();
        publish_at(&test, &client, &host.url).await.expect(200);
        Self { test, host, client, jti: AtomicUsize::default() }
    }

    fn assertion(&self, key: &Key, kid: &str) -> String {
        let jti = self.jti.fetch_add(1, Ordering::SeqCst).to_string();
        let mut header = header(key);
        header["kid"] = json!(kid);
        key.sign(&header, &claims(&self.test, &self.client.id, &jti))
    }

    async fn present(&self, key: &Key, kid: &str) -> Answer {
        present(&self.test, &self.assertion(key, kid)).await
    }

    async fn lets_in(&self, key: &Key, kid: &str) -> bool {
        let answer = self.present(key, kid).await;
        if answer.status != 200 {
            refused(&answer, kid);
        }
        answer.status == 200
    }
}

#[tokio::test]
async fn keys_are_fetched_once_and_kept_while_they_are_fresh() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.publishes(&[key.jwk("k1")]);
    let assertions: Vec<String> = (0..20).map(|_| stage.assertion(&key, "k1")).collect();
    for answer in join_all(assertions.iter().map(|assertion| present(&stage.test, assertion))).await {
        answer.expect(200);
    }
    assert_eq!(stage.host.asked(), 1, "those who came at once shared a fetch");
    stage.test.clock.advance(JWKS_FRESH_DEFAULT.saturating_sub(SECOND));
    assert!(stage.lets_in(&key, "k1").await);
    assert_eq!(stage.host.asked(), 1);
    stage.test.clock.advance(SECOND);
    assert!(stage.lets_in(&key, "k1").await);
    assert_eq!(stage.host.asked(), 2);
}

#[tokio::test]
async fn cache_control_says_for_how_long_within_bounds() {
    for (said, kept) in [
        ("max-age=60", Duration::from_mins(1)),
        ("max-age=999999", JWKS_FRESH_MAX),
        ("no-store", JWKS_FETCH_INTERVAL),
    ] {
        let stage = Stage::open().await;
        let key = Key::es384();
        let set = json!({ "keys": [key.jwk("k1")] }).to_string();
        stage.host.says("200 OK", &format!("Content-Type: text/plain\r\nCache-Control: {said}\r\n"), &set);
        assert!(stage.lets_in(&key, "k1").await);
        stage.test.clock.advance(kept.saturating_sub(SECOND));
        assert!(stage.lets_in(&key, "k1").await);
        assert_eq!(stage.host.asked(), 1, "{said}");
        stage.test.clock.advance(SECOND);
        assert!(stage.lets_in(&key, "k1").await);
        assert_eq!(stage.host.asked(), 2, "{said}");
    }
}

#[tokio::test]
async fn a_client_changes_its_keys_and_the_new_one_works_at_once() {
    let stage = Stage::open().await;
    let (old, new) = (Key::es384(), Key::es384());
    stage.host.publishes(&[old.jwk("old")]);
    assert!(stage.lets_in(&old, "old").await);
    stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    stage.host.publishes(&[old.jwk("old"), new.jwk("new")]);
    assert!(stage.lets_in(&new, "new").await, "its keys are looked at again");
    assert!(stage.lets_in(&old, "old").await);
    // Also when the new key has the name of the old one.
    stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    let newest = Key::es384();
    stage.host.publishes(&[newest.jwk("new")]);
    assert!(stage.lets_in(&newest, "new").await);
    for (key, kid) in [(&new, "new"), (&old, "old")] {
        assert!(!stage.lets_in(key, kid).await, "it is not published any more");
    }
}

#[tokio::test]
async fn no_flood_of_assertions_makes_the_server_ask_more_often() {
    let stage = Stage::open().await;
    let (key, other) = (Key::es384(), Key::es384());
    stage.host.publishes(&[key.jwk("k1")]);
    for round in 1..=3 {
        let assertions: Vec<String> =
            (0..15).map(|n| stage.assertion(&other, &format!("k{}", n % 3))).collect();
        for answer in join_all(assertions.iter().map(|assertion| present(&stage.test, assertion))).await {
            refused(&answer, "another key");
        }
        assert!(stage.lets_in(&key, "k1").await);
        assert_eq!(stage.host.asked(), round);
        stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    }
}

#[tokio::test]
async fn what_is_refused_anyway_makes_the_server_ask_nobody() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.publishes(&[key.jwk("k1")]);
    let good = |jti: &str| claims(&stage.test, &stage.client.id, jti);
    let mut late = good("1");
    late["exp"] = json!(1);
    let mut elsewhere = good("2");
    elsewhere["aud"] = json!("https://elsewhere.example.test/");
    let mut other = good("3");
    other["iss"] = json!(stage.test.admin.id);
    for claims in [late, elsewhere, other] {
        refused(&present(&stage.test, &key.sign(&header(&key), &claims)).await, &claims.to_string());
    }
    for header in [json!({ "alg": "HS256", "kid": "k1" }), json!({ "alg": "none" })] {
        refused(&present(&stage.test, &key.sign(&header, &good("4"))).await, &header.to_string());
    }
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    stage.test.patch(&stage.test.admin, &stage.client.path(), &off).await.expect(200);
    assert!(!stage.lets_in(&key, "k1").await);
    assert_eq!(stage.host.asked(), 0);
}

#[tokio::test]
async fn a_host_that_fails_is_not_asked_again_at_once_and_what_was_known_stays_for_a_while() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.says("503 Service Unavailable", "", "");
    assert!(!stage.lets_in(&key, "k1").await);
    stage.host.publishes(&[key.jwk("k1")]);
    assert!(!stage.lets_in(&key, "k1").await);
    assert_eq!(stage.host.asked(), 1);
    stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    assert!(stage.lets_in(&key, "k1").await);

    stage.test.clock.advance(JWKS_FRESH_DEFAULT);
    for body in ["", "not JSON", "[]", "{\"keys\":{}}"] {
        stage.host.says("200 OK", "", body);
        assert!(stage.lets_in(&key, "k1").await, "{body}");
        stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    }
    stage.host.says("500 Internal Server Error", "", &json!({ "keys": [] }).to_string());
    stage
        .test
        .clock
        .advance(JWKS_KEPT_MAX.saturating_sub(JWKS_FRESH_DEFAULT + JWKS_FETCH_INTERVAL * 4 + SECOND));
    assert!(stage.lets_in(&key, "k1").await);
    stage.test.clock.advance(SECOND);
    assert!(!stage.lets_in(&key, "k1").await, "too old to be believed");
    stage.host.publishes(&[]);
    stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    assert!(!stage.lets_in(&key, "k1").await);
}

#[tokio::test]
async fn an_empty_set_ends_all_keys() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.publishes(&[key.jwk("k1")]);
    assert!(stage.lets_in(&key, "k1").await);
    stage.host.publishes(&[]);
    stage.test.clock.advance(JWKS_FRESH_DEFAULT);
    assert!(!stage.lets_in(&key, "k1").await);
}

#[tokio::test]
async fn of_a_set_for_many_readers_only_public_keys_for_signatures_are_used() {
    let stage = Stage::open().await;
    let key = Key::es384();
    let with = |name: &str, value: Value| {
        let mut jwk = key.jwk("k1");
        jwk[name] = value;
        jwk
    };
    for bad in [
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("d", json!("AAAA")),
        with("alg", json!("RS384")),
        with("x", json!("AAAA")),
        with("kty", json!("AKP")),
    ] {
        stage.host.publishes(std::slice::from_ref(&bad));
        assert!(!stage.lets_in(&key, "k1").await, "{bad}");
        stage.test.clock.advance(JWKS_FRESH_DEFAULT);
        let good = with("key_ops", json!(["verify"]));
        stage.host.publishes(&[json!(7), bad.clone(), json!({ "kty": "AKP", "alg": "ML-DSA-44" }), good]);
        assert!(stage.lets_in(&key, "k1").await, "beside {bad}");
        stage.test.clock.advance(JWKS_FRESH_DEFAULT);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let stage = Stage::open().await;
    let (key, target) = (Key::es384(), KeyHost::open().await);
    target.publishes(&[key.jwk("k1")]);
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let set = json!({ "keys": [key.jwk("k1")] }).to_string();
        stage.host.says(status, &format!("Location: {}\r\n", target.url), &set);
        assert!(!stage.lets_in(&key, "k1").await, "{status}");
        stage.test.clock.advance(JWKS_FETCH_INTERVAL);
    }
    assert_eq!((stage.host.asked(), target.asked()), (4, 0));
}

#[tokio::test]
async fn a_set_that_is_too_large_or_breaks_off_is_none() {
    let stage = Stage::open().await;
    let key = Key::es384();
    let mut set = json!({ "keys": [key.jwk("k1")] }).to_string();
    set.push_str(&" ".repeat(JWKS_BYTES_MAX - set.len()));
    stage.host.says("200 OK", "", &set);
    assert!(stage.lets_in(&key, "k1").await, "as large as may be");
    let fresh = Stage::open().await;
    fresh.host.says("200 OK", "", &format!("{set} "));
    assert!(!fresh.lets_in(&key, "k1").await);
    fresh.test.clock.advance(JWKS_FETCH_INTERVAL);
    // Says that there is more, and there is not.
    *fresh.host.answer.lock().unwrap() =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{}", set.trim());
    assert!(!fresh.lets_in(&key, "k1").await);
    fresh.test.clock.advance(JWKS_FETCH_INTERVAL);
    fresh.host.says("200 OK", &format!("X: {}\r\n", "x".repeat(JWKS_BYTES_MAX)), set.trim());
    assert!(!fresh.lets_in(&key, "k1").await, "too large a head");
}

/// The time is tokio's, which jumps to the next time-out once everybody waits.
#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up() {
    let stage = Stage::open().await;
    let key = Key::es384();
    let assertion = stage.assertion(&key, "k1");
    let (answer, ()) = tokio::join!(present(&stage.test, &assertion), async {
        while stage.host.asked() == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
    });
    refused(&answer, "no answer");
    tokio::time::resume();
    // The client is let in by its secret all the while.
    assert!(stage.test.lets_in(&stage.client.id, &stage.client.secret).await);
}

#[tokio::test]
async fn a_url_that_must_not_be_fetched_is_not_stored() {
    let test = TestApp::start().await;
    let key = Key::es384().jwk("k1");
    for url in [
        "http://app.example.test/keys",
        "http://10.0.0.1/keys",
        "https://10.0.0.1/keys",
        "https://169.254.169.254/keys",
        "https://ann:secret@app.example.test/keys",
        "https://app.example.test/keys#x",
        "ftp://app.example.test/keys",
        "app.example.test/keys",
    ] {
        publish_at(&test, &test.member, url).await.refused(400, "invalid");
    }
    let both = json!([
        { "op": "add", "path": "/jwksUri", "value": "https://app.example.test/keys" },
        { "op": "add", "path": "/jwks", "value": json!({ "keys": [key] }).to_string() },
    ]);
    let why = test.patch(&test.admin, &test.member.path(), &both).await.refused(400, "invalid");
    assert_eq!(why, "Give jwks or jwksUri, not both (RFC 7591 §2)");
    for url in ["https://app.example.test/keys", "http://localhost:3000/keys", "http://[::1]/keys"] {
        publish_at(&test, &test.member, url).await.expect(200);
    }
}

#[tokio::test]
async fn a_server_that_is_not_on_this_machine_reaches_nothing_on_it() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.publishes(&[key.jwk("k1")]);
    let test = stage.test.restart_as("https://fhir.example.test/").await;
    let sign = |jti: &str| {
        let mut claims = claims(&test, &stage.client.id, jti);
        claims["aud"] = json!("https://fhir.example.test/oauth2/token");
        key.sign(&header(&key), &claims)
    };
    // It was stored while the server was in development.
    refused(&present(&test, &sign("1")).await, "stored before");
    // What is stored already stands in the way of no other change, and is not asked.
    publish_at(&test, &stage.client, &stage.host.url).await.expect(200);
    let other = stage.host.url.replace("/keys", "/other");
    let name = stage.host.url.replace("http://127.0.0.1", "https://localhost");
    let number = stage.host.url.replace("http://127.0.0.1", "https://0x7f.1");
    for url in [other, stage.host.url.replace("http:", "https:"), name, number] {
        publish_at(&test, &stage.client, &url).await.refused(400, "invalid");
    }
    assert_eq!(stage.host.asked(), 0);
}

#[tokio::test]
async fn each_url_is_asked_and_kept_for_itself() {
    let stage = Stage::open().await;
    let key = Key::es384();
    stage.host.publishes(&[key.jwk("k1")]);
    for (path, asked) in [("", 1), ("?2", 2), ("", 2), ("?2", 2)] {
        let url = format!("{}{path}", stage.host.url);
        publish_at(&stage.test, &stage.client, &url).await.expect(200);
        assert!(stage.lets_in(&key, "k1").await);
        assert_eq!(stage.host.asked(), asked, "{path}");
    }
}
