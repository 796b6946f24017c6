//! What the server makes of the network: the address of a client behind proxies, the `Host` header.

use keyrelay_core::limits::{FAILURE_FORGIVEN_AFTER, FAILURES_PER_ADDRESS_MAX};
use keyrelay_server::TrustedProxies;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{As, TestApp};

/// A client of which only requests from 198.51.100.0/24 come in.
async fn from_one_network_only(test: &TestApp) -> crate::app::Credentials {
    let client = test.make_client(&test.project, "At home").await;
    let rules = json!({ "ipAccessRule": [
        { "value": "198.51.100.0/24", "action": "allow" },
        { "value": "*", "action": "block" },
    ] });
    test.put_under_policy(&client, &rules).await;
    client
}

async fn me(test: &TestApp, who: &As, forwarded_for: &str) -> u16 {
    let request = test.request(who, Method::GET, "auth/me").header("x-forwarded-for", forwarded_for);
    request.send().await.status.as_u16()
}

fn behind(proxies: &'static [&'static str]) -> impl Future<Output = TestApp> {
    TestApp::start_configured(|config| config.trusted_proxies = TrustedProxies::parse(proxies).unwrap())
}

#[tokio::test]
async fn without_trusted_proxies_nobody_chooses_its_address() {
    let test = TestApp::start().await;
    let client = As::from(&from_one_network_only(&test).await);
    assert_eq!(me(&test, &client, "198.51.100.1").await, 401);
}

#[tokio::test]
async fn a_trusted_proxy_tells_where_a_request_came_from() {
    let test = behind(&["127.0.0.1", "10.0.0.0/8"]).await;
    let client = As::from(&from_one_network_only(&test).await);
    for (forwarded_for, status) in [
        ("198.51.100.1", 200),
        ("198.51.100.1, 10.0.0.1", 200),
        ("198.51.100.1:4711", 200),
        ("203.0.113.1", 401),
        // What the outsider wrote itself stands on the left.
        ("198.51.100.1, 203.0.113.1", 401),
        ("198.51.100.1, garbage", 401),
        ("", 401),
    ] {
        assert_eq!(me(&test, &client, forwarded_for).await, status, "{forwarded_for}");
    }
    let request = test.request_elsewhere(client, Method::GET, "auth/me");
    let from_no_proxy = request.header("x-forwarded-for", "198.51.100.1").send().await;
    assert_eq!(from_no_proxy.status, 401);
}

#[tokio::test]
async fn address_rules_know_networks_of_both_kinds() {
    let test = behind(&["127.0.0.1"]).await;
    let client = test.make_client(&test.project, "Everywhere").await;
    let rules = json!({ "ipAccessRule": [
        { "value": "2001:db8:1:2::666", "action": "block" },
        { "value": "2001:db8:1::/48", "action": "allow" },
        { "value": "2001:db8:ffff:ffff:ffff:ffff:ffff:fff0/124", "action": "allow" },
        { "value": "198.51.100.64/26", "action": "allow" },
        { "value": "203.0.113.9", "action": "allow" },
        { "value": "0.0.0.0/0", "action": "block" },
        { "value": "::/0", "action": "block" },
    ] });
    test.put_under_policy(&client, &rules).await;
    let who = As::from(&client);
    for (from, status) in [
        ("2001:db8:1::", 200),
        ("2001:db8:1:ffff:ffff:ffff:ffff:ffff", 200),
        ("2001:0DB8:0001:0002:0000:0000:0000:0001", 200),
        ("[2001:db8:1:2::7]:4711", 200),
        ("[2001:db8:1:2::7]", 200),
        ("2001:db8:1:2::666", 401),
        ("2001:db8:1:2:0:0:0:666", 401),
        ("2001:db8:0:ffff:ffff:ffff:ffff:ffff", 401),
        ("2001:db8:2::", 401),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 200),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffef", 401),
        ("198.51.100.64", 200),
        ("198.51.100.127", 200),
        ("198.51.100.63", 401),
        ("198.51.100.128", 401),
        ("203.0.113.9", 200),
        ("203.0.113.8", 401),
        // The same address, as a socket for both kinds writes it.
        ("::ffff:198.51.100.64", 200),
        ("::ffff:198.51.100.63", 401),
        ("::1", 401),
    ] {
        assert_eq!(me(&test, &who, from).await, status, "{from}");
        let form = [("grant_type", "client_credentials")];
        let grant = test.request(&client, Method::POST, "oauth2/token").form(&form);
        let grant = grant.header("x-forwarded-for", from).send().await;
        assert_eq!(grant.status.as_u16(), status, "{from}");
        // What is refused here is no guess.
        test.clock.advance(FAILURE_FORGIVEN_AFTER * 2);
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_one_client_does_not_use_up_the_failures_of_all() {
    let test = behind(&["127.0.0.1"]).await;
    let guess = |from: &'static str, secret: &str| {
        let form =
            [("grant_type", "client_credentials"), ("client_id", &test.member.id), ("client_secret", secret)];
        let request = test.request(As::Anonymous, Method::POST, "oauth2/token").form(&form);
        async move { request.header("x-forwarded-for", from).send().await.status.as_u16() }
    };
    for _ in 0..FAILURES_PER_ADDRESS_MAX {
        assert_eq!(guess("2001:db8::1", "a guess").await, 401);
    }
    // One host has a whole /64 of IPv6.
    assert_eq!(guess("2001:db8::ffff:1", &test.member.secret).await, 429);
    assert_eq!(guess("2001:db8:0:1::1", &test.member.secret).await, 200);
    assert_eq!(guess("198.51.100.1", &test.member.secret).await, 200);
}

/// Sends a head and gives the whole answer.
async fn exchange(test: &TestApp, head: &str) -> String {
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Sends a request on a connection that stays open, and returns the status line.
async fn status(stream: &mut TcpStream, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 32];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn when_all_connections_are_taken_only_health_is_answered() {
    const MAX: usize = 40;
    let test = TestApp::start_configured(|config| config.connections_max = MAX).await;
    let path = "/.well-known/jwks.json";
    let mut taken = Vec::new();
    while taken.len() < MAX {
        let mut stream = TcpStream::connect(test.address).await.unwrap();
        let status = status(&mut stream, path).await;
        if !status.starts_with("HTTP/1.1 200") {
            break;
        }
        taken.push(stream);
    }
    assert!(taken.len() < MAX, "no address gets all");
    let get = async |path: &str| exchange(&test, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    for health in ["/livez", "/readyz", "/healthcheck"] {
        let answer = get(health).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{health}: {answer}");
    }
    let answer = get(path).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for said in ["retry-after: ", "connection: close", "All connections of this server are taken"] {
        assert!(answer.contains(said), "{said}: {answer}");
    }
    // Connections with a place still work.
    let mut first = taken.remove(0);
    let mut rest = vec![0; 64 * 1024];
    while !String::from_utf8_lossy(&rest).contains("]}") {
        let n = first.read(&mut rest).await.unwrap();
        rest.truncate(n.max(1));
    }
    assert!(status(&mut first, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_request_names_one_host_and_no_matter_which() {
    let test = TestApp::start().await;
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "Host:\r\n", 400),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.1", "Host: a b\r\n", 400),
        ("1.1", "Host: user@a\r\n", 400),
        ("1.1", "Host: a/b\r\n", 400),
        ("1.1", "Host: \u{fc}\r\n", 400),
        ("1.0", "", 200),
        ("1.0", "Host: a\r\nHost: b\r\n", 400),
        ("1.1", "Host: 10.0.0.1:8103\r\n", 200),
        ("1.1", "Host: [::1]:8103\r\n", 200),
        ("1.1", "Host: keyrelay.internal\r\n", 200),
    ] {
        let head = format!("GET /livez HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let answer = exchange(&test, &head).await;
        assert!(answer.starts_with(&format!("HTTP/{version} {status}")), "{version} {hosts:?}: {answer}");
        assert!(status == 200 || answer.contains("The header Host"), "{answer}");
    }
}
