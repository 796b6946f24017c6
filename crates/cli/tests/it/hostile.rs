//! Bad input never gets a 500 and never loses anything. Spoken in raw bytes, because no well-behaved
//! HTTP library can say these things.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Process, bootstrap, grant, http};

/// Sends bytes and reads until the server closes.
async fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

/// A request with a body, closed after its answer.
fn request(line: &str, authorization: &str, media: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\
         Content-Type: {media}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_get_a_clear_4xx_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path()).await;
    let address = server.base.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (id, secret) = bootstrap(dir.path());
    let basic = {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}")))
    };
    let rotate = format!("POST /fhir/R4/ClientApplication/{id}/$rotate-secret");
    let put = format!("PUT /fhir/R4/ClientApplication/{id}");
    let json = "application/fhir+json";
    let form = "application/x-www-form-urlencoded";

    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep_object = [b"{\"a\":".repeat(50_000), b"1".to_vec(), b"}".repeat(50_000)].concat();
    let large = vec![b' '; 10 * 1024 * 1024];
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("truncated JSON", request(&rotate, &basic, json, b"{\"secret\": \"krs_"), &["400"]),
        ("deep arrays", request(&put, &basic, json, &deep), &["400"]),
        ("deep objects", request(&put, &basic, json, &deep_object), &["400"]),
        ("10 MB", request(&rotate, &basic, json, &large), &["413"]),
        ("10 MB form", request("POST /oauth2/token", "", form, &large), &["413"]),
        ("invalid UTF-8", request(&rotate, &basic, json, b"{\"secret\": \"\xff\xfe\"}"), &["400"]),
        ("invalid UTF-8 in a form", request("POST /oauth2/token", &basic, form, b"grant_type=\xff\xfe&grant_type"), &["400"]),
        ("a NUL in a value", request(&rotate, &basic, json, b"{\"secret\": \"a\\u0000b\"}"), &["400"]),
        ("a lone surrogate", request(&rotate, &basic, json, b"{\"secret\": \"\\ud800\"}"), &["400"]),
        ("a duplicate key", request(&rotate, &basic, json, b"{\"secret\": \"a\", \"secret\": \"b\"}"), &["400"]),
        ("a huge number", request(&put, &basic, json, b"{\"a\": 1e999999}"), &["400"]),
        ("not an object", request(&rotate, &basic, json, b"[]"), &["400"]),
        ("nothing", request(&rotate, &basic, json, b""), &["400"]),
        ("XML", request(&rotate, &basic, "application/fhir+xml", b"<Parameters/>"), &["415"]),
        ("a NUL in an id", request("GET /fhir/R4/ClientApplication/%00", &basic, json, b""), &["404"]),
        ("dots in an id", request("GET /fhir/R4/ClientApplication/../../x", &basic, json, b""), &["404"]),
        ("bytes in an id", request("GET /fhir/R4/ClientApplication/%ff%fe", &basic, json, b""), &["404"]),
        ("a duplicate parameter", request("POST /oauth2/token", "", form, b"grant_type=a&grant_type=b"), &["400"]),
        ("a strange search", request("GET /fhir/R4/ClientApplication?_count=-1&_sort=%00", &basic, json, b""), &["400"]),
        ("a strange search value", request("GET /fhir/R4/ClientApplication?name=%00%ff%27%22;--", &basic, json, b""), &["200", "400"]),
        ("a secret in the query", request("POST /oauth2/token?client_secret=x", "", form, b"grant_type=client_credentials"), &["400"]),
        ("a patch bomb", request(&put.replace("PUT", "PATCH"), &basic, "application/json-patch+json", &patch_bomb()), &["400"]),
        ("no basic", request("GET /auth/me", "Basic ????", json, b""), &["401"]),
        ("no token", request("GET /auth/me", "Bearer a.b.c", json, b""), &["401"]),
        ("no scheme", request("GET /auth/me", "", json, b""), &["401"]),
        ("a huge header", huge_header(), &["431", "400"]),
        ("many headers", many_headers(), &["431", "400"]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n".to_vec(), &["400"]),
        ("two lengths", b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec(), &["400"]),
        ("length and chunks", b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), &["400"]),
        ("a strange method", request("FROB /fhir/R4/ClientApplication", &basic, json, b""), &["405"]),
        ("HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n".to_vec(), &["200"]),
    ];
    for (name, bytes, expected) in cases {
        let answer = exchange(&address, &bytes).await;
        assert!(
            expected.contains(&status(&answer)),
            "{name}: {}",
            answer.chars().take(400).collect::<String>()
        );
        assert!(!answer.contains("panicked"), "{name}");
    }
    assert_eq!(grant(&http(), &server.base, &id, &secret).await, 200, "the secret is as it was");
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Process::start(dir.path()).await;
    let address = server.base.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let pipelined = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n\
                     GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(&address, pipelined.as_bytes()).await;
    let statuses: Vec<&str> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
    assert!(server.terminate().await.success());
}

/// Copies an element into itself, again and again: 2¹⁰⁰ of them, if nobody stops it.
fn patch_bomb() -> Vec<u8> {
    let mut operations = vec![
        r#"{"op":"add","path":"/extension","value":[{"url":"http://x.test/","valueString":"x"}]}"#.to_owned(),
    ];
    operations
        .extend((0..99).map(|_| r#"{"op":"copy","from":"/extension","path":"/extension/-"}"#.to_owned()));
    format!("[{}]", operations.join(",")).into_bytes()
}

fn huge_header() -> Vec<u8> {
    format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1024 * 1024)).into_bytes()
}

fn many_headers() -> Vec<u8> {
    let headers: String = (0..5000).map(|n| format!("X-{n}: y\r\n")).collect::<Vec<_>>().concat();
    format!("GET /livez HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
}
