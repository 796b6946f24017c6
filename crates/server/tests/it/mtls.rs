//! Clients that prove themselves by a certificate, and the tokens that are bound to it. Who ended TLS is
//! a trusted proxy here, in the last test the server itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyrelay_server::{BaseUrl, ClientCertificates, Config, TrustedProxies};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};
use crate::tls;

const REDIRECT: &str = "https://app.example.test/back";

/// Without extensions, as old tools make them.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBGDCBvwIUDemXORcMy/V1YZ546ykKH4n98rgwCgYIKoZIzj0EAwIwDjEMMAoG\n\
A1UEAwwDT2xkMCAXDTI2MTEyNDAzMjcxNFoYDzIxMjYxMDMxMDMyNzE0WjAOMQww\n\
CgYDVQQDDANPbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATxNo0XsoGHExUm\n\
PtpIkTrhfKDemAdi14bKMB4vOxf1bJd4YZL/2rPxurKvIO3VHOx0vUJYcQcKrasw\n\
aQgbS31fMAoGCCqGSM49BAMCA0gAMEUCID32bR8vyIa9iNvn00f5JhCVCVsg+Ho9\n\
Rfye1NaWOLVbAiEAu8I9Xp96+rFkSEh/tg/H3Sc186asNZOyw1oMvtvw0T0=\n\
-----END CERTIFICATE-----\n\
";

fn named(name: &str, set: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    set(&mut params);
    params
}

/// An authority that issues certificates.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    fn with(name: &str, set: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = named(name, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            set(params);
        });
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    /// A certificate whose private key is public.
    fn of_everybody() -> Self {
        let key = key_of_everybody();
        let params = named("Everybody", |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, set: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let key = KeyPair::generate().unwrap();
        named("Nightly export", set).signed_by(&key, &self.issuer).unwrap()
    }

    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = named(name, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        Self { certificate: params.signed_by(&key, &self.issuer).unwrap(), issuer: Issuer::new(params, key) }
    }
}

/// A key whose private part is public: it is 1, so the public part is the base point of P-256.
pub fn key_of_everybody() -> KeyPair {
    const BEFORE: &str = "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420";
    const POINT: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                         4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
    let hex = format!("{BEFORE}{:064}a144034200{POINT}", 1);
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    KeyPair::try_from(bytes.collect::<Vec<u8>>()).unwrap()
}

/// The certificate of an authority that nobody else uses.
pub fn any_authority() -> String {
    Authority::new("Any").certificate.pem()
}

fn self_signed(set: impl FnOnce(&mut CertificateParams)) -> Certificate {
    named("Pinned", set).self_signed(&KeyPair::generate().unwrap()).unwrap()
}

pub fn self_signed_by(key: &KeyPair) -> Certificate {
    named("Pinned", |_| {}).self_signed(key).unwrap()
}

fn field(certificate: &Certificate) -> String {
    format!(":{}:", STANDARD.encode(certificate.der()))
}

pub fn by_header(config: &mut Config) {
    config.client_certificates = ClientCertificates::Header;
    config.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).unwrap();
}

async fn trust(test: &TestApp, client: &Credentials, certificates: &[&Certificate]) -> Answer {
    let pem: String = certificates.iter().map(|certificate| certificate.pem()).collect();
    let patch = json!([{ "op": "add", "path": "/certificateTrustStore", "value": pem }]);
    test.patch(&test.admin, &client.path(), &patch).await
}

/// Asks for a token by a certificate, and perhaps those above it.
pub async fn grant(test: &TestApp, id: &str, certificate: &Certificate, chain: &[&Certificate]) -> Answer {
    let chain: Vec<String> = chain.iter().map(|certificate| field(certificate)).collect();
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token");
    let request = request.header("client-cert", &field(certificate));
    let request =
        if chain.is_empty() { request } else { request.header("client-cert-chain", &chain.join(", ")) };
    request.form(&[("grant_type", "client_credentials"), ("client_id", id)]).send().await
}

/// Uses a token, with a certificate or without.
async fn me(test: &TestApp, token: &As, certificate: Option<&Certificate>) -> u16 {
    let request = test.request(token, Method::GET, "auth/me");
    let request = match certificate {
        Some(certificate) => request.header("client-cert", &field(certificate)),
        None => request,
    };
    request.send().await.status.as_u16()
}

fn token_of(answer: Answer) -> As {
    As::Bearer(answer.expect(200).text_at("/access_token"))
}

#[tokio::test]
async fn a_certificate_of_a_trusted_authority_or_a_pinned_one_lets_in() {
    let test = TestApp::start_configured(by_header).await;
    let id = test.member.id.as_str();
    let (root, other) = (Authority::new("Root"), Authority::new("Other"));
    let between = root.below("Between");
    // As `openssl req -x509` makes them: an authority, by the letter.
    let pinned = self_signed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    trust(&test, &test.member, &[&pinned, &root.certificate]).await.expect(200);
    let for_clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    grant(&test, id, &pinned, &[]).await.expect(200);
    grant(&test, id, &root.issue(|_| {}), &[]).await.expect(200);
    grant(&test, id, &root.issue(for_clients), &[&root.certificate]).await.expect(200);
    grant(&test, id, &between.issue(for_clients), &[&between.certificate]).await.expect(200);
    // The secret is as good as before: a client can move from the one to the other.
    assert!(test.lets_in(id, &test.member.secret).await);

    let impostor = Authority::new("Root");
    for (name, certificate, chain) in [
        ("of nobody", self_signed(|_| {}), vec![]),
        ("of another authority", other.issue(|_| {}), vec![&other.certificate]),
        ("of one with the same name", impostor.issue(|_| {}), vec![&impostor.certificate]),
        ("with a gap", between.issue(|_| {}), vec![]),
        ("by a key that everybody has", Authority::of_everybody().issue(|_| {}), vec![]),
    ] {
        let answer = grant(&test, id, &certificate, &chain).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text_at("/error")),
            (401, "invalid_client".into()),
            "{name}"
        );
    }
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.text;
    assert!(metrics.contains("keyrelay_secret_uses_total{slot=\"certificate\"} 4"), "{metrics}");
}

#[tokio::test]
async fn each_certificate_is_counted_for_itself_like_a_secret() {
    let test = TestApp::start_configured(by_header).await;
    let (root, member) = (Authority::new("Root"), test.member.clone());
    trust(&test, &member, &[&root.certificate]).await.expect(200);
    let (old, new) = (root.issue(|_| {}), root.issue(|_| {}));
    let by_old = token_of(grant(&test, &member.id, &old, &[]).await);
    for uses in 1..=3 {
        let by_new = token_of(grant(&test, &member.id, &new, &[]).await);
        assert_eq!(test.uses(&member, &by_new).await, uses);
    }
    let by_secret = test.bearer(&member).await;
    assert_eq!(me(&test, &by_old, Some(&old)).await, 200);
    grant(&test, &member.id, &self_signed(|_| {}), &[]).await.expect(401);
    for token in [&by_old, &by_secret] {
        assert_eq!(test.uses(&member, token).await, 1);
    }
}

#[tokio::test]
async fn a_certificate_must_be_of_this_time_and_for_clients() {
    let test = TestApp::start_configured(by_header).await;
    let id = test.member.id.as_str();
    let past = |params: &mut CertificateParams| params.not_after = date_time_ymd(2025, 12, 31);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2026, 1, 2);
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let root = Authority::new("Root");
    let over = Authority::with("Over", past);
    let pinned = [self_signed(past), self_signed(future), self_signed(for_servers)];
    let no_authority = self_signed(|_| {});
    let [a, b, c] = &pinned;
    trust(&test, &test.member, &[a, b, c, &root.certificate, &over.certificate, &no_authority])
        .await
        .expect(200);
    let issued = [root.issue(past), root.issue(future), root.issue(for_servers), over.issue(|_| {})];
    for certificate in pinned.iter().chain(&issued) {
        grant(&test, id, certificate, &[]).await.expect(401);
    }
    grant(&test, id, &no_authority, &[]).await.expect(200);
    // Two days later, what was too early is not any more.
    test.clock.advance(std::time::Duration::from_hours(48));
    grant(&test, id, &pinned[1], &[]).await.expect(200);
    grant(&test, id, &issued[1], &[]).await.expect(200);
    grant(&test, id, &pinned[0], &[]).await.expect(401);
}

#[tokio::test]
async fn every_refusal_is_the_same() {
    let test = TestApp::start_configured(by_header).await;
    let root = Authority::new("Root");
    let certificate = root.issue(|_| {});
    for client in [&test.member, &test.stranger] {
        let pem = root.certificate.pem();
        let patch = json!([{ "op": "add", "path": "/certificateTrustStore", "value": pem }]);
        test.patch(&test.super_admin, &client.path(), &patch).await.expect(200);
    }
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.super_admin, &test.stranger.path(), &off).await.expect(200);
    grant(&test, &test.member.id, &certificate, &[]).await.expect(200);
    let unknown = "0198c2f0-1111-4222-8333-944455566677";
    let mut bodies = Vec::new();
    // Wrong, off, known by no certificate, unknown, no id.
    bodies.push(grant(&test, &test.member.id, &self_signed(|_| {}), &[]).await);
    for id in [test.stranger.id.as_str(), &test.admin.id, unknown, "x"] {
        bodies.push(grant(&test, id, &certificate, &[]).await);
    }
    for answer in &bodies {
        assert_eq!((answer.status.as_u16(), &answer.text), (401, &bodies[0].text));
        assert_eq!(answer.header("www-authenticate"), "");
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_says_what_was_presented() {
    let root = Authority::new("Root");
    let certificate = root.issue(|_| {});
    let test = TestApp::start_configured(by_header).await;
    trust(&test, &test.member, &[&root.certificate]).await.expect(200);
    let form = [("grant_type", "client_credentials"), ("client_id", test.member.id.as_str())];
    let elsewhere = test.request_elsewhere(As::Anonymous, Method::POST, "oauth2/token");
    let answer = elsewhere.header("client-cert", &field(&certificate)).form(&form).send().await;
    assert_eq!(answer.status, 400, "as without any certificate: {}", answer.text);
    for broken in
        ["", ":", "::", ":AAAA:", &field(&certificate)[1..], &format!("{0}, {0}", field(&certificate))]
    {
        let request = test.request(As::Anonymous, Method::POST, "oauth2/token");
        let answer = request.header("client-cert", broken).form(&form).send().await;
        assert!(matches!(answer.status.as_u16(), 400 | 401), "{broken}: {}", answer.text);
    }
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token").form(&form);
    let twice =
        request.header("client-cert", &field(&certificate)).header("client-cert", &field(&certificate));
    twice.send().await.expect(400);

    for off in [ClientCertificates::Off, ClientCertificates::Tls] {
        let test = TestApp::start_configured(|config| {
            by_header(config);
            config.client_certificates = off;
        });
        let test = test.await;
        trust(&test, &test.member, &[&root.certificate]).await.expect(200);
        grant(&test, &test.member.id, &certificate, &[]).await.expect(400);
    }
}

#[tokio::test]
async fn a_token_is_bound_to_the_certificate_that_got_it() {
    let test = TestApp::start_configured(by_header).await;
    let root = Authority::new("Root");
    trust(&test, &test.member, &[&root.certificate]).await.expect(200);
    let (own, other) = (root.issue(|_| {}), root.issue(|_| {}));
    let answer = grant(&test, &test.member.id, &own, &[]).await;
    let token = token_of(answer);
    assert_eq!(me(&test, &token, Some(&own)).await, 200);
    assert_eq!(me(&test, &token, Some(&other)).await, 401);
    assert_eq!(me(&test, &token, None).await, 401);
    // One that was got by the secret is not.
    let free = test.bearer(&test.member).await;
    assert_eq!((me(&test, &free, None).await, me(&test, &free, Some(&other)).await), (200, 200));

    let As::Bearer(bearer) = &token else { unreachable!("it is a token") };
    let told = test.request(&test.admin, Method::POST, "oauth2/introspect").form(&[("token", bearer)]).send();
    let told = told.await.expect(200).json();
    assert_eq!(told["active"], true);
    let thumbprint = told["cnf"]["x5t#S256"].as_str().unwrap().to_owned();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, own.der());
    assert_eq!(thumbprint, base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest));

    // Where certificates are not looked at any more, a bound token is of no use.
    let test = test.restart_as("http://127.0.0.1:1/").await;
    assert_eq!(me(&test, &token, Some(&own)).await, 401);
}

#[tokio::test]
async fn a_client_that_is_known_by_nothing_may_come_with_any_certificate() {
    let test = TestApp::start_configured(by_header).await;
    let body = json!({ "resourceType": "ClientApplication", "name": "Viewer", "redirectUris": [REDIRECT] });
    let id = test.post(&test.admin, "ClientApplication", &body).await.expect(201).text_at("/id");
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token");
    let request = request.header("client-cert", &field(&self_signed(|_| {})));
    let form = [("grant_type", "authorization_code"), ("client_id", id.as_str()), ("code", "x")];
    let answer = request.form(&form).send().await.expect(400);
    // It got past who it is, to its code.
    assert_eq!(answer.text_at("/error"), "invalid_grant");
}

#[tokio::test]
async fn a_trust_store_that_is_none_is_refused_when_it_is_written() {
    let test = TestApp::start().await;
    let good = Authority::new("Root");
    let key = KeyPair::generate().unwrap().serialize_pem();
    let write = |text: String| {
        let patch = json!([{ "op": "add", "path": "/certificateTrustStore", "value": text }]);
        let test = &test;
        async move { test.patch(&test.admin, &test.member.path(), &patch).await }
    };
    for (text, problem) in [
        ("no certificate".to_owned(), "between 1 and 16"),
        (good.certificate.pem().repeat(17), "between 1 and 16"),
        (key.clone(), "private key"),
        (format!("{}{key}", good.certificate.pem()), "private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "Certificate 0"),
        (
            "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n".to_owned(),
            "no list of certificates",
        ),
        (VERSION_1.to_owned(), "not of X.509 version 3"),
        ("x".repeat(65 * 1024), "at most 65536 bytes"),
    ] {
        let answer = write(text).await;
        let told = answer.refused(400, "invalid");
        assert!(told.contains(problem), "{problem}: {told}");
    }
    write(good.certificate.pem().repeat(16)).await.expect(200);
}

#[tokio::test]
async fn the_metadata_says_what_is_switched_on() {
    let methods = |metadata: &Value| metadata["token_endpoint_auth_methods_supported"].clone();
    let path = ".well-known/oauth-authorization-server";
    for (set, on) in [(by_header as fn(&mut Config), true), ((|_| {}) as fn(&mut Config), false)] {
        let test = TestApp::start_configured(set).await;
        let metadata = test.request(As::Anonymous, Method::GET, path).send().await.expect(200).json();
        for method in ["tls_client_auth", "self_signed_tls_client_auth"] {
            assert_eq!(methods(&metadata).as_array().unwrap().contains(&json!(method)), on, "{metadata}");
        }
        assert_eq!(metadata["tls_client_certificate_bound_access_tokens"] == json!(true), on);
        assert_eq!(metadata.get("mtls_endpoint_aliases"), None);
    }
    let test = TestApp::start_configured(|config| {
        by_header(config);
        config.mtls_base_url = Some(BaseUrl::parse("https://mtls.example.test").unwrap());
    });
    let metadata = test.await.request(As::Anonymous, Method::GET, path).send().await.expect(200).json();
    let alias = &metadata["mtls_endpoint_aliases"]["token_endpoint"];
    assert_eq!(*alias, "https://mtls.example.test/oauth2/token");
}

#[tokio::test]
async fn the_server_itself_asks_for_a_certificate_in_tls() {
    let test = TestApp::start().await;
    let root = Authority::new("Root");
    trust(&test, &test.member, &[&root.certificate]).await.expect(200);
    let (files, trusted) = tls::Files::with_certificate();
    let tls = files.load_with(ClientCertificates::Tls).unwrap();
    let set = |config: &mut Config| config.client_certificates = ClientCertificates::Tls;
    let test = test.restart_with_tls(tls, set).await;
    let issue = || {
        let key = KeyPair::generate().unwrap();
        let certificate = named("Nightly export", |_| {}).signed_by(&key, &root.issuer).unwrap();
        (certificate, key)
    };
    let (own, other) = (issue(), issue());
    let body = format!("grant_type=client_credentials&client_id={}", test.member.id);
    let form = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
        body.len()
    );
    let answer = tls::ask(&test, &trusted, Some(&own), &form).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let token = body["access_token"].as_str().unwrap();
    let me = format!(
        "GET /auth/me HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Client-Cert: {}\r\n\r\n",
        field(&own.0)
    );
    // What the client writes into the field itself is not believed.
    for (identity, status) in [(Some(&own), "200"), (Some(&other), "401"), (None, "401")] {
        let answer = tls::ask(&test, &trusted, identity, &me).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let answer = tls::ask(&test, &trusted, None, &form).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
