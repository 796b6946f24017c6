//! Webhooks: what happens to secrets is told to whoever an admin names, signed, at least once, and to nobody
//! else.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::limits::{
    WEBHOOK_DELIVERIES_PER_TURN, WEBHOOK_OVERLAP_DEFAULT, WEBHOOK_REST_MAX, WEBHOOK_RETRY_MAX,
    WEBHOOK_TRIED_FOR, WEBHOOKS_PER_PROJECT_MAX,
};
use keyrelay_store::EventBounds;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::app::{Answer, Credentials, TestApp};

/// What came to a receiver.
#[derive(Debug)]
pub struct Received {
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// Verifies it as the specification says, by each of its signatures.
    fn is_signed_by(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed =
            format!("{}.{}.{}", self.headers["webhook-id"], self.headers["webhook-timestamp"], self.body);
        let mut signatures = self.headers["webhook-signature"].split(' ');
        signatures.any(|signature| {
            let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
            hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
        })
    }
}

/// Somebody who receives webhooks.
pub struct Receiver {
    pub url: String,
    /// The status line's rest; empty for no answer at all.
    answer: Arc<Mutex<String>>,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/hook?of=keyrelay", listener.local_addr().unwrap());
        let (tell, received) = mpsc::unbounded_channel();
        let answer = Arc::new(Mutex::new("204 No Content".to_owned()));
        let answers = answer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, answers.clone(), tell.clone()));
            }
        });
        Self { url, answer, received }
    }

    pub fn answers(&self, status: &str) {
        status.clone_into(&mut self.answer.lock().unwrap());
    }

    pub async fn next(&mut self) -> Received {
        let next = tokio::time::timeout(Duration::from_mins(1), self.received.recv()).await;
        next.expect("nothing came for a minute").unwrap()
    }

    /// What has come so far and was not taken.
    fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

async fn receive(
    stream: TcpStream,
    answer: Arc<Mutex<String>>,
    tell: mpsc::UnboundedSender<Received>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut headers = HashMap::new();
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        match line.trim().split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None if line.trim().is_empty() => break,
            None => drop(headers.insert(String::new(), line.trim().to_owned())),
        }
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    let body = String::from_utf8(body).ok()?;
    let answer = answer.lock().unwrap().clone();
    tell.send(Received { headers, body }).ok()?;
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let text = format!("HTTP/1.1 {answer}\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.ok()
}

/// A server, and a webhook of its project.
struct Stage {
    test: TestApp,
    receiver: Receiver,
    path: String,
    id: String,
    secret: String,
    client: Credentials,
}

async fn register(test: &TestApp, body: &Value) -> Answer {
    let path = format!("admin/projects/{}/webhooks", test.project);
    test.request(&test.admin, Method::POST, &path).json(body).send().await
}

impl Stage {
    async fn set() -> Self {
        Self::set_for(&Value::Null).await
    }

    async fn set_for(types: &Value) -> Self {
        let (test, receiver) = (TestApp::start().await, Receiver::open().await);
        let mut body = json!({ "url": receiver.url });
        if !types.is_null() {
            body["types"] = types.clone();
        }
        let made = register(&test, &body).await.expect(201);
        let (id, secret) = (made.text_at("/id"), made.text_at("/secret"));
        let path = format!("admin/projects/{}/webhooks", test.project);
        let client = test.make_client(&test.project, "Nightly export").await;
        Self { test, receiver, path, id, secret, client }
    }

    /// Rotates the client, and gives its new secret.
    async fn rotate(&mut self) -> String {
        let (test, client) = (&self.test, &self.client);
        let rotated = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
        let fresh = rotated.text_at("/secret");
        self.client.secret.clone_from(&fresh);
        fresh
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.test.request(&self.test.admin, method, &format!("{}{path}", self.path));
        match body {
            Some(body) => request.json(&body).send().await,
            None => request.send().await,
        }
    }

    async fn shown(&self) -> Value {
        self.send(Method::GET, &format!("/{}", self.id), None).await.expect(200).json()
    }

    /// Waits until what is shown of the webhook is so.
    async fn until(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let shown = async {
            loop {
                let shown = self.shown().await;
                if is_so(&shown) {
                    return shown;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), shown).await.expect("it is never so")
    }
}

#[tokio::test]
async fn a_rotation_is_told_once_and_signed() {
    let mut stage = Stage::set().await;
    let old = stage.client.secret.clone();
    let fresh = stage.rotate().await;
    let received = stage.receiver.next().await;
    assert!(received.is_signed_by(&stage.secret));
    assert!(!received.is_signed_by(&format!("whsec_{}", STANDARD.encode([7; 32]))));
    assert_eq!(received.headers[""], "POST /hook?of=keyrelay HTTP/1.1");
    assert_eq!(received.headers["content-type"], "application/json");
    assert_eq!(received.headers["webhook-timestamp"], "1767225600");
    let told = received.json();
    assert_eq!(told["id"], received.headers["webhook-id"]);
    assert_eq!(
        (&told["type"], &told["timestamp"]),
        (&json!("client.secret.rotated"), &json!("2026-01-01T00:00:00.000Z"))
    );
    let data = &told["data"];
    assert_eq!(data["project"], format!("Project/{}", stage.test.project));
    assert_eq!(data["client"], stage.client.path());
    assert_eq!(data["by"], stage.test.admin.path());
    assert!(data["active"].is_string() && data["retiring"].is_string(), "{told}");
    let texts = [received.body.clone(), format!("{:?}", received.headers)];
    for value in [&old, &fresh, &stage.secret, &stage.test.admin.secret] {
        assert!(texts.iter().all(|text| !text.contains(value.as_str())), "a secret went out");
    }
    let shown = stage.until(|shown| shown["pending"] == 0).await;
    assert_eq!(shown["lastSuccess"], "2026-01-01T00:00:00.000Z");
    assert!(shown["secret"].is_null() && shown["lastFailure"].is_null(), "{shown}");

    // Each move is told, in its own words, and nothing twice.
    let call = async |operation: &str, body: Value| {
        let path = format!("{}/{operation}", stage.client.path());
        stage.test.post(&stage.test.admin, &path, &body).await.expect(200)
    };
    call("$undo-rotation", json!({})).await;
    call("$rotate-secret", json!({ "retiringSecret": fresh })).await;
    call("$revoke-secret", json!({ "slot": "secret" })).await;
    let chosen =
        json!([{ "op": "add", "path": "/secret", "value": "a-secret-that-an-admin-chose-himself-0001" }]);
    stage.test.patch(&stage.test.admin, &stage.client.path(), &chosen).await.expect(200);
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.push(stage.receiver.next().await.kind());
    }
    kinds.sort();
    let expected =
        ["replaced", "retired", "revoked", "rotation_undone"].map(|kind| format!("client.secret.{kind}"));
    assert_eq!(kinds, expected);
    stage.until(|shown| shown["pending"] == 0).await;
    assert!(stage.receiver.rest().is_empty(), "something was told twice");
    let metrics = stage.test.request(crate::app::As::Anonymous, Method::GET, "metrics").send().await.text;
    for line in [
        "keyrelay_events_total{type=\"client.secret.rotated\"} 1",
        "keyrelay_webhook_deliveries_total{outcome=\"delivered\"} 5",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[tokio::test]
async fn what_failed_is_tried_again_later_and_later_and_given_up_after_three_days() {
    let mut stage = Stage::set().await;
    stage.receiver.answers("500 Internal Server Error");
    stage.rotate().await;
    let first = stage.receiver.next().await;
    let shown = stage.until(|shown| shown["failuresInARow"] == 1).await;
    assert_eq!((&shown["pending"], &shown["dead"]), (&json!(1), &json!(0)));
    assert_eq!(
        shown["lastFailure"],
        json!({ "at": "2026-01-01T00:00:00.000Z", "problem": "the answer has the status 500; redirects are not followed" })
    );

    stage.test.clock.advance(WEBHOOK_RETRY_MAX);
    let again = stage.receiver.next().await;
    assert_eq!((&again.headers["webhook-id"], &again.body), (&first.headers["webhook-id"], &first.body));
    assert_ne!(
        again.headers["webhook-timestamp"], first.headers["webhook-timestamp"],
        "signed for this attempt"
    );
    assert!(again.is_signed_by(&stage.secret));
    stage.until(|shown| shown["failuresInARow"] == 2).await;

    stage.test.clock.advance(WEBHOOK_TRIED_FOR);
    stage.receiver.next().await;
    let shown = stage.until(|shown| shown["dead"] == 1).await;
    assert_eq!(shown["pending"], 0);

    // What comes next is delivered all the same.
    stage.receiver.answers("200 OK");
    stage.test.clock.advance(WEBHOOK_REST_MAX);
    stage.rotate().await;
    assert_ne!(stage.receiver.next().await.headers["webhook-id"], first.headers["webhook-id"]);
    let shown = stage.until(|shown| shown["failuresInARow"] == 0).await;
    assert_eq!((&shown["pending"], &shown["dead"]), (&json!(0), &json!(1)));
    assert!(stage.receiver.rest().is_empty());
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_gone_is_the_end() {
    let mut stage = Stage::set().await;
    for status in ["301 Moved Permanently", "307 Temporary Redirect", "404 Not Found"] {
        stage.receiver.answers(status);
        stage.rotate().await;
        let told = stage.receiver.next().await;
        let shown =
            stage.until(|shown| shown["lastFailure"]["problem"].to_string().contains(&status[..3])).await;
        assert_eq!(shown["status"], "active", "{status}");
        stage.receiver.answers("200 OK");
        stage.test.clock.advance(WEBHOOK_REST_MAX);
        assert_eq!(stage.receiver.next().await.headers["webhook-id"], told.headers["webhook-id"]);
        stage.until(|shown| shown["pending"] == 0).await;
    }
    stage.receiver.answers("410 Gone");
    stage.rotate().await;
    stage.receiver.next().await;
    // The deliveries that were waiting are stopped after the change that disables it.
    let shown = stage.until(|shown| shown["status"] == "disabled" && shown["pending"] == 0).await;
    assert_eq!(shown["dead"], 1);
    stage.rotate().await;
    stage.test.clock.advance(WEBHOOK_RETRY_MAX);
    let shown = stage.shown().await;
    assert_eq!(
        (&shown["pending"], &shown["dead"]),
        (&json!(0), &json!(1)),
        "nothing is meant for it any more"
    );
    assert!(stage.receiver.rest().is_empty());
}

#[tokio::test]
async fn a_tenant_loses_no_event_to_another_and_its_own_losses_are_counted() {
    let mut stage = Stage::set().await;
    stage.receiver.answers("500 Internal Server Error");
    let first = stage.client.secret.clone();
    stage.rotate().await;
    let told = stage.receiver.next().await;
    stage.until(|shown| shown["failuresInARow"] == 1).await;

    let test = &stage.test;
    let mut other = test.make_client(&test.other_project, "Elsewhere").await;
    test.clock.advance(Duration::from_secs(1));
    for _ in 0..12 {
        let rotated = test.rotate(&test.stranger, &other.id, "secret", &other.secret).await.expect(200);
        other.secret = rotated.text_at("/secret");
    }
    let bounds = EventBounds { per_project: 10, all: 8 };
    test.app.sweep_events(bounds).await;
    let shown = stage.shown().await;
    assert_eq!((&shown["pending"], &shown["dead"], &shown["dropped"]), (&json!(1), &json!(0), &Value::Null));

    // The tenant with so many events gets a report of its gap; the other one misses nothing.
    let missed = async |who: &Credentials, project: &str| {
        let path = format!("admin/projects/{project}/events?follow=false");
        let request = test.request(who, Method::GET, &path).header("last-event-id", "1");
        let told = request.send().await.expect(200).text;
        let gap = told.split("\n\n").find_map(|block| block.strip_prefix("event: events.dropped\ndata: "));
        gap.map(|payload| serde_json::from_str::<Value>(payload).unwrap())
    };
    assert_eq!(missed(&test.admin, &test.project).await, None);
    let gap = missed(&test.stranger, &test.other_project).await.unwrap();
    assert_eq!((&gap["type"], &gap["data"]["after"]), (&json!("events.dropped"), &json!(1)));
    assert_eq!(gap["data"]["project"], format!("Project/{}", test.other_project));
    assert_eq!(gap["data"]["upTo"], 6, "{gap}");

    // A tenant's own oldest event is deleted and counted.
    test.rotate(&test.admin, &stage.client.id, "retiringSecret", &first).await.expect(200);
    for _ in 0..2 {
        stage.rotate().await;
    }
    stage.test.app.sweep_events(EventBounds { per_project: 2, all: 100 }).await;
    let shown = stage.shown().await;
    assert_eq!(
        (&shown["pending"], &shown["dead"], &shown["dropped"]),
        (&json!(2), &json!(2), &json!(2)),
        "{shown}"
    );
    assert_eq!(shown["lastDropped"], "2026-01-01T00:00:01.000Z");
    let metrics = stage.test.request(crate::app::As::Anonymous, Method::GET, "metrics").send().await.text;
    let line = "keyrelay_webhook_deliveries_total{outcome=\"dropped\"} 2";
    let lost_of_other = metrics.lines().any(|found| found == line);
    assert!(lost_of_other, "{metrics}");
    stage.receiver.answers("200 OK");
    stage.send(Method::POST, &format!("/{}/resend", stage.id), Some(json!({}))).await.expect(200);
    let shown = stage.until(|shown| shown["pending"] == 0).await;
    assert_eq!(shown["dead"], 2, "what is gone stays counted");
    let sent: Vec<_> = stage.receiver.rest().into_iter().filter(|sent| sent.body == told.body).collect();
    assert!(sent.is_empty(), "{sent:?}");
}

#[tokio::test]
async fn only_what_was_asked_for_and_only_of_its_own_project_is_told() {
    let mut stage = Stage::set_for(&json!(["client.secret.retired"])).await;
    let old = stage.client.secret.clone();
    stage.rotate().await;
    let other = stage.test.make_client(&stage.test.other_project, "Elsewhere").await;
    let stranger = &stage.test.stranger;
    let rotated = stage.test.rotate(stranger, &other.id, "secret", &other.secret).await;
    rotated.expect(200);
    stage.test.rotate(stranger, &other.id, "retiringSecret", &other.secret).await.expect(200);
    let admin = &stage.test.admin;
    stage.test.rotate(admin, &stage.client.id, "retiringSecret", &old).await.expect(200);
    let told = stage.receiver.next().await;
    assert_eq!(
        (told.kind().as_str(), &told.json()["data"]["client"]),
        ("client.secret.retired", &json!(stage.client.path()))
    );
    stage.until(|shown| shown["pending"] == 0).await;
    assert!(stage.receiver.rest().is_empty());
    for path in [format!("/{}", stage.id), String::new()] {
        let path = format!("{}{path}", stage.path);
        stage.test.request(&stage.test.stranger, Method::GET, &path).send().await.refused(404, "not-found");
    }
}

#[tokio::test]
async fn while_the_signing_secret_is_rotated_both_sign() {
    let mut stage = Stage::set().await;
    let rotated = stage.send(Method::POST, &format!("/{}/rotate-secret", stage.id), Some(json!({}))).await;
    let fresh = rotated.expect(200).text_at("/secret");
    assert_ne!(fresh, stage.secret);
    assert_eq!(stage.shown().await["retiringSecretEnds"], "2026-01-02T00:00:00.000Z");
    // A second rotation would break what the first one promised.
    let again = stage.send(Method::POST, &format!("/{}/rotate-secret", stage.id), Some(json!({}))).await;
    assert!(again.refused(409, "conflict").contains("signs until 2026-01-02T00:00:00.000Z"));
    stage.rotate().await;
    let both = stage.receiver.next().await;
    assert!(both.is_signed_by(&stage.secret) && both.is_signed_by(&fresh));
    stage.test.clock.advance(WEBHOOK_OVERLAP_DEFAULT);
    stage.rotate().await;
    let one = stage.receiver.next().await;
    assert!(!one.is_signed_by(&stage.secret) && one.is_signed_by(&fresh));
    assert!(stage.shown().await["retiringSecretEnds"].is_null());
    let path = format!("/{}/rotate-secret", stage.id);
    for body in [
        json!({ "overlap": "400d" }),
        json!({ "overlap": 7 }),
        json!({ "secret": "x" }),
        json!({ "force": "yes" }),
    ] {
        stage.send(Method::POST, &path, Some(body)).await.refused(400, "invalid");
    }
    let at_once = stage.send(Method::POST, &path, Some(json!({ "overlap": "1s" }))).await.expect(200);
    stage.test.clock.advance(Duration::from_secs(1));
    stage.rotate().await;
    let one = stage.receiver.next().await;
    assert!(one.is_signed_by(&at_once.text_at("/secret")) && !one.is_signed_by(&fresh));
    stage.send(Method::POST, &path, Some(json!({}))).await.expect(200);
    let forced = stage.send(Method::POST, &path, Some(json!({ "force": true }))).await.expect(200);
    stage.rotate().await;
    let one = stage.receiver.next().await;
    assert!(one.is_signed_by(&forced.text_at("/secret")) && !one.is_signed_by(&at_once.text_at("/secret")));
}

#[tokio::test]
async fn nobody_is_spoken_to_who_is_out_of_reach() {
    let test = TestApp::start().await;
    for url in [
        "",
        "hooks.example.org",
        "ftp://hooks.example.org/",
        "http://hooks.example.org/",
        "https://10.0.0.1/",
        "https://0x7f.1/",
        "https://169.254.169.254/latest",
        "https://[::ffff:10.0.0.1]/",
        "https://user:password@hooks.example.org/",
        "https://hooks.example.org/#here",
    ] {
        register(&test, &json!({ "url": url })).await.refused(400, "invalid");
    }
    for body in [
        json!({}),
        json!({ "url": 7 }),
        json!({ "url": "https://hooks.example.org/", "secret": "whsec_AAAA" }),
        json!({ "url": "https://hooks.example.org/", "types": [] }),
        json!({ "url": "https://hooks.example.org/", "types": ["client.secret.rotated", "client.secret"] }),
        json!({ "url": "https://hooks.example.org/", "types": "client.secret.rotated" }),
    ] {
        register(&test, &body).await.refused(400, "invalid");
    }
    // What was good in development is not spoken to by a server that others reach.
    let mut receiver = Receiver::open().await;
    let made = register(&test, &json!({ "url": receiver.url })).await.expect(201);
    let test = test.restart_as("https://fhir.example.test/").await;
    let client = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let path = format!("admin/projects/{}/webhooks", test.project);
    let stage =
        Stage { secret: made.text_at("/secret"), id: made.text_at("/id"), path, client, test, receiver };
    let shown = stage.until(|shown| shown["failuresInARow"] == 1).await;
    assert_eq!(shown["lastFailure"]["problem"], "the URL is none that this server speaks to any more");
    receiver = stage.receiver;
    assert!(receiver.rest().is_empty());
}

#[tokio::test]
async fn a_project_has_a_few_webhooks_and_what_is_deleted_is_gone() {
    let mut stage = Stage::set().await;
    for _ in 1..WEBHOOKS_PER_PROJECT_MAX {
        register(&stage.test, &json!({ "url": "http://127.0.0.1:9/" })).await.expect(201);
    }
    let refused = register(&stage.test, &json!({ "url": "http://127.0.0.1:9/" })).await;
    assert!(refused.refused(409, "conflict").contains("10 webhooks already"));
    let listed = stage.send(Method::GET, "", None).await.expect(200);
    assert_eq!(listed.json()["webhooks"].as_array().unwrap().len(), 10);
    assert!(!listed.text.contains("whsec_"));
    let one = format!("/{}", stage.id);
    stage.send(Method::DELETE, &one, None).await.expect(204);
    stage.send(Method::DELETE, &one, None).await.refused(404, "not-found");
    stage.send(Method::GET, &one, None).await.refused(404, "not-found");
    stage
        .send(Method::POST, &format!("{one}/rotate-secret"), Some(json!({})))
        .await
        .refused(404, "not-found");
    let url = stage.receiver.url.clone();
    let made = register(&stage.test, &json!({ "url": url })).await.expect(201);
    stage.rotate().await;
    assert!(stage.receiver.next().await.is_signed_by(&made.text_at("/secret")));
}

#[tokio::test]
async fn what_was_given_up_is_sent_again_when_an_admin_says_so() {
    let mut stage = Stage::set().await;
    let resend = format!("/{}/resend", stage.id);
    stage.receiver.answers("410 Gone");
    stage.rotate().await;
    let first = stage.receiver.next().await.headers["webhook-id"].clone();
    stage.until(|shown| shown["status"] == "disabled" && shown["dead"] == 1).await;
    stage.rotate().await;

    stage.receiver.answers("500 Internal Server Error");
    stage.send(Method::POST, &resend, Some(json!({ "all": true }))).await.refused(400, "invalid");
    let shown = stage.send(Method::POST, &resend, Some(json!({}))).await.expect(200).json();
    assert_eq!(shown["status"], "active");
    assert_eq!(stage.receiver.next().await.headers["webhook-id"], first, "not what came while it was gone");
    stage.until(|shown| shown["failuresInARow"] == 1 && shown["pending"] == 1).await;

    // Also what waits for its next attempt is sent at once, and the webhook is not left alone first.
    stage.receiver.answers("200 OK");
    stage.send(Method::POST, &resend, Some(json!({}))).await.expect(200);
    assert_eq!(stage.receiver.next().await.headers["webhook-id"], first);
    stage.until(|shown| shown["pending"] == 0 && shown["dead"] == 0).await;
    stage.rotate().await;
    assert_ne!(stage.receiver.next().await.headers["webhook-id"], first);

    let path = format!("{}/{}/resend", stage.path, stage.id);
    let by_stranger = stage.test.request(&stage.test.stranger, Method::POST, &path).json(&json!({}));
    by_stranger.send().await.refused(404, "not-found");
    stage.send(Method::DELETE, &format!("/{}", stage.id), None).await.expect(204);
    stage.send(Method::POST, &resend, Some(json!({}))).await.refused(404, "not-found");
}

#[tokio::test]
async fn what_is_done_to_a_webhook_is_recorded() {
    let stage = Stage::set().await;
    let one = format!("/{}", stage.id);
    for action in ["rotate-secret", "resend"] {
        stage.send(Method::POST, &format!("{one}/{action}"), Some(json!({}))).await.expect(200);
    }
    stage.send(Method::DELETE, &one, None).await.expect(204);
    for (code, how) in [
        ("create-webhook", ("C", "create")),
        ("rotate-webhook-secret", ("E", "operation")),
        ("resend-webhook", ("E", "operation")),
        ("delete-webhook", ("D", "delete")),
    ] {
        let found = stage.test.get(&stage.test.admin, &format!("AuditEvent?subtype={code}")).await;
        let [event] = &found.expect(200).resources()[..] else { panic!("one {code}") };
        assert_eq!((&event["action"], &event["subtype"][0]["code"]), (&json!(how.0), &json!(how.1)));
        assert_eq!(event["agent"][0]["who"]["reference"], stage.test.admin.path());
        assert_eq!(event["entity"][0]["what"]["identifier"]["value"], stage.id);
        let host = stage.receiver.url.trim_start_matches("http://").split('/').next().unwrap();
        assert_eq!(event["entity"][0]["detail"], json!([{ "type": "to", "valueString": host }]));
        let text = event.to_string();
        assert!(!text.contains("whsec_") && !text.contains("/hook"), "{text}");
    }
}

/// Whoever does not answer holds up nobody else, and is not waited for at the end.
#[tokio::test]
async fn a_slow_receiver_holds_up_nobody_else() {
    let mut stage = Stage::set().await;
    let mut slow = Receiver::open().await;
    slow.answers("");
    let to_slow = register(&stage.test, &json!({ "url": slow.url })).await.expect(201).text_at("/id");
    for _ in 0..20 {
        stage.rotate().await;
    }
    slow.next().await;
    let mut ids = HashSet::new();
    while ids.len() < 20 {
        assert!(ids.insert(stage.receiver.next().await.headers["webhook-id"].clone()), "told twice");
    }
    let shown = stage.send(Method::GET, &format!("/{to_slow}"), None).await.expect(200).json();
    assert_eq!(shown["failuresInARow"], 0, "its first attempt is still under way");
}

#[tokio::test]
async fn many_slow_receivers_hold_up_nobody_else() {
    let (test, mut slow) = (TestApp::start().await, Vec::new());
    for _ in 1..WEBHOOKS_PER_PROJECT_MAX {
        let receiver = Receiver::open().await;
        receiver.answers("");
        register(&test, &json!({ "url": receiver.url })).await.expect(201);
        slow.push(receiver);
    }
    let mut moves = Vec::new();
    for _ in 0..WEBHOOK_DELIVERIES_PER_TURN {
        let client = test.make_client(&test.project, "Nightly export").await;
        moves.push(json!({
            "request": { "method": "POST", "url": format!("{}/$rotate-secret", client.path()) },
            "resource": { "secret": client.secret },
        }));
    }
    let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": moves });
    test.post(&test.admin, "", &bundle).await.expect(200);
    // Each has all that it is sent in one turn, and answers none of it.
    for receiver in &mut slow {
        for _ in 0..WEBHOOK_DELIVERIES_PER_TURN {
            receiver.next().await;
        }
    }
    let mut receiver = Receiver::open().await;
    register(&test, &json!({ "url": receiver.url })).await.expect(201);
    let client = test.make_client(&test.project, "Nightly export").await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    receiver.next().await;
    let path = format!("admin/projects/{}/webhooks", test.project);
    let shown = test.request(&test.admin, Method::GET, &path).send().await.expect(200).json();
    for webhook in shown["webhooks"].as_array().unwrap() {
        assert_eq!(webhook["failuresInARow"], 0, "all attempts of the slow ones are still under way");
    }
}

/// Two servers share the work: nothing is sent twice, and nothing is forgotten.
#[tokio::test]
async fn of_two_servers_one_delivers() {
    let mut stage = Stage::set().await;
    let other = stage.test.beside().await;
    let mut clients = Vec::new();
    for n in 0..10 {
        clients.push(stage.test.make_client(&stage.test.project, &format!("Client {n}")).await);
    }
    for (n, client) in clients.iter().enumerate() {
        let node = if n % 2 == 0 { &stage.test } else { &other };
        node.rotate(&node.admin, &client.id, "secret", &client.secret).await.expect(200);
    }
    let mut told = HashSet::new();
    while told.len() < clients.len() {
        assert!(told.insert(stage.receiver.next().await.headers["webhook-id"].clone()), "told twice");
    }
    stage.until(|shown| shown["pending"] == 0).await;
    assert!(stage.receiver.rest().is_empty());
}
