//! The memory of all requests is bounded. One project leaves room for others, and can still end its secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_core::limits::{BYTES_IN_FLIGHT_MIN, HEAD_BYTES_FREE, HEAD_BYTES_MAX, REQUEST_BYTES};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{As, TestApp};

/// Large bodies under way at once.
const LARGE: usize = 40;

/// A request whose body is sent without its last byte, so that the server holds all of it.
async fn unfinished(test: &TestApp, authorization: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    let head = format!(
        "POST /fhir/R4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/fhir+json\r\nContent-Length: {bytes}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come while it is still being sent.
    let _ = stream.write_all(&vec![b' '; bytes - 1]).await;
    stream
}

async fn metric(test: &TestApp, name: &str) -> usize {
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.expect(200).text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("keyrelay_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// Fills the share of a project, until the server refuses more.
async fn fill(test: &TestApp, who: &As) -> Vec<TcpStream> {
    let authorization = format!("Bearer {}", who.text());
    let mut open = Vec::new();
    for _ in 0..LARGE {
        open.push(unfinished(test, &authorization, 1024 * 1024).await);
        if metric(test, "bytes_in_flight_refused_total").await > 0 {
            return open;
        }
    }
    panic!("nothing was refused");
}

#[tokio::test]
async fn a_project_with_a_full_share_can_end_secrets_and_leaves_room_for_others() {
    let test = TestApp::start_configured(|config| config.bytes_in_flight = BYTES_IN_FLIGHT_MIN).await;
    let worker = test.make_client(&test.project, "Worker").await;
    let (tenant, other) = (test.bearer(&test.member).await, test.bearer(&test.stranger).await);
    let open = fill(&test, &tenant).await;
    let used = metric(&test, "bytes_in_flight").await;
    assert!(used > BYTES_IN_FLIGHT_MIN / 16 && used <= BYTES_IN_FLIGHT_MIN / 4, "{used}");

    // One more large body of the project is refused, in the error format of its route, and changes nothing.
    let large =
        json!({ "resourceType": "Bundle", "type": "batch", "entry": [], "padding": "x".repeat(900 * 1024) });
    let answer = test.post(&tenant, "", &large).await;
    let said = answer.refused(503, "transient");
    assert!(said.contains("nothing was changed") && !answer.header("retry-after").is_empty(), "{said}");

    // Its secrets can still be rotated, retired and revoked.
    let rotated = test.rotate(&test.admin, &worker.id, "secret", &worker.secret).await.expect(200);
    test.rotate(&test.admin, &worker.id, "retiringSecret", &worker.secret).await.expect(200);
    assert!(!test.lets_in(&worker.id, &worker.secret).await);
    let body =
        json!({ "resourceType": "Parameters", "parameter": [{ "name": "slot", "valueString": "secret" }] });
    test.post(&test.admin, &format!("{}/$revoke-secret", worker.path()), &body).await.expect(200);
    assert!(!test.lets_in(&worker.id, &rotated.text_at("/secret")).await);

    // The other project has its own share, and routes for operators need none.
    let large = json!({ "resourceType": "Bundle", "type": "batch", "entry": [] }).to_string();
    let padded = format!("{large}{}", " ".repeat(900 * 1024));
    test.fhir(&other, Method::POST, "").body("application/fhir+json", padded).send().await.expect(200);
    for path in ["livez", "readyz", "metrics"] {
        test.request(As::Anonymous, Method::GET, path).send().await.expect(200);
    }

    // All bytes are returned, also those of aborted requests.
    for mut stream in open {
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(metric(&test, "bytes_in_flight").await, 0);
}

/// Sends a token request, of which the last `missing` bytes never come.
async fn grant_without(test: &TestApp, form: &str, missing: usize) -> TcpStream {
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    let head = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len() + missing
    );
    // A refusal may come while it is still being sent.
    let _ = stream.write_all(head.as_bytes()).await;
    stream
}

#[tokio::test]
async fn forms_that_are_never_complete_leave_room_for_those_that_are() {
    let bytes = 1024 * 1024;
    let test = TestApp::start_configured(|config| config.bytes_in_flight = bytes).await;
    let worker = test.make_client(&test.project, "Worker").await;
    let form =
        format!("grant_type=client_credentials&client_id={}&client_secret={}", worker.id, worker.secret);
    let mut open = Vec::new();
    for length in [16_300, 10] {
        let before = metric(&test, "bytes_in_flight_refused_total").await;
        while metric(&test, "bytes_in_flight_refused_total").await == before {
            open.push(grant_without(&test, &"x".repeat(length), 84).await);
            assert!(open.len() < 400, "nothing was refused");
        }
    }
    let used = metric(&test, "bytes_in_flight").await;
    assert!(used > bytes / 2 && used <= bytes - bytes / 8, "{used}");
    let mut answer = String::new();
    grant_without(&test, &form, 0).await.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(open);
}

#[tokio::test]
async fn a_body_of_many_values_pays_for_their_weight() {
    let test = TestApp::start().await;
    let admin = test.bearer(&test.admin).await;
    let send = |text: String| test.fhir(&admin, Method::POST, "").body("application/fhir+json", text).send();
    let bundle = |junk: String| format!(r#"{{"resourceType":"Bundle","junk":[{junk}]}}"#);
    // A list has at most 1000 items.
    let lists =
        |item: &str, thousands: usize| vec![format!("[{}]", vec![item; 1000].join(",")); thousands].join(",");
    let zeros = |thousands: usize| bundle(lists("0", thousands));
    let said = send(bundle(vec!["{}"; 99_000].join(","))).await.refused(400, "structure");
    assert!(said.contains("a list may have at most 1000 items at line 1"), "{said}");
    let said = send(zeros(100)).await.refused(400, "structure");
    assert!(said.contains("more than 100000 values"), "{said}");
    send(zeros(90)).await.refused(400, "invalid");
    // 360 KB of text, and twenty megabytes of memory: more than a quarter of all.
    let said = send(bundle(lists(r#"{"a":0}"#, 45))).await.refused(413, "too-costly");
    assert!(said.contains("divide it"), "{said}");
}

#[tokio::test]
async fn a_patch_pays_for_the_resource_it_loads() {
    let test = TestApp::start().await;
    let path = test.member.path();
    let large = json!([{ "op": "add", "path": "/description", "value": "x".repeat(60 * 1024) }]);
    test.patch(&test.admin, &path, &large).await.expect(200);
    let named = json!([{ "op": "add", "path": "/name", "value": "Named" }]).to_string();
    let binary = json!({
        "resourceType": "Binary", "contentType": "application/json-patch+json", "data": STANDARD.encode(named),
    });
    let entry = json!({ "resource": binary, "request": { "method": "PATCH", "url": path } });
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": vec![entry; 8] });
    let answer = test.post(&test.admin, "", &batch).await.expect(200);
    assert_eq!(answer.json()["entry"][7]["response"]["status"], "200");
    // A connection that has read its answer holds nothing.
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    stream
        .write_all(b"GET /fhir/R4/metadata HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(metric(&test, "bytes_in_flight").await, 0);
}

/// Sends the beginning of a head, of about so many bytes.
async fn half_head(test: &TestApp, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ").await.unwrap();
    stream.write_all(&vec![b'x'; bytes]).await.unwrap();
    stream
}

#[tokio::test]
async fn a_large_head_is_paid_for_until_its_connection_ends() {
    let test = TestApp::start().await;
    let mut answer = Vec::new();
    let mut stream = half_head(&test, HEAD_BYTES_FREE * 2).await;
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut part = [0; 1024];
    let read = stream.read(&mut part).await.unwrap();
    assert!(part[..read].starts_with(b"HTTP/1.1 200"));
    // Its connection is open and idle.
    let held = (HEAD_BYTES_MAX - HEAD_BYTES_FREE).next_multiple_of(REQUEST_BYTES);
    assert_eq!(metric(&test, "bytes_in_flight").await, held);
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(metric(&test, "bytes_in_flight").await, 0);

    // A small head costs nothing, and one beyond the bound is refused.
    let mut stream = half_head(&test, HEAD_BYTES_FREE / 2).await;
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let _ = stream.read(&mut part).await.unwrap();
    assert_eq!(metric(&test, "bytes_in_flight").await, 0);
    let mut stream = half_head(&test, HEAD_BYTES_MAX).await;
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
}
