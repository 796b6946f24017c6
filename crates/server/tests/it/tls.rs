//! TLS inside the server, spoken to with certificates that are made here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrelay_core::limits::{LINGER_TIMEOUT, TLS_HANDSHAKE_TIMEOUT, TLS_RELOAD_INTERVAL};
use keyrelay_server::{ClientCertificates, Tls, TlsError};
use rcgen::{Certificate, CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, crypto};

use crate::app::TestApp;

/// A directory with a certificate and its key.
pub struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("server.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("server.key")
    }

    /// Writes a new certificate for `localhost`, and gives it.
    fn renew(&self) -> CertificateDer<'static> {
        let made = new_certificate();
        write(&self.certificate(), &made.cert.pem());
        write(&self.key(), &made.signing_key.serialize_pem());
        made.cert.der().clone()
    }

    fn load(&self) -> Result<Tls, TlsError> {
        self.load_with(ClientCertificates::Off)
    }

    pub fn load_with(&self, clients: ClientCertificates) -> Result<Tls, TlsError> {
        Tls::load(self.certificate(), self.key(), clients)
    }

    /// With a certificate already.
    pub fn with_certificate() -> (Self, CertificateDer<'static>) {
        let files = Self::new();
        let certificate = files.renew();
        (files, certificate)
    }
}

fn new_certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A server that speaks TLS, and the handle of its certificate.
async fn start(files: &Files) -> (TestApp, Tls) {
    let tls = files.load().unwrap();
    (TestApp::start().await.restart_with_tls(tls.clone(), |_| {}).await, tls)
}

async fn connect_by(
    test: &TestApp,
    trusted: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    identity: Option<&(Certificate, KeyPair)>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(test.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn connect(test: &TestApp, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    connect_by(test, trusted, &TLS13, None).await
}

/// Sends a request on a connection of its own, with a client certificate or without, and gives the whole
/// answer.
pub async fn ask(
    test: &TestApp,
    trusted: &CertificateDer<'static>,
    identity: Option<&(Certificate, KeyPair)>,
    request: &str,
) -> String {
    let mut stream = connect_by(test, trusted, &TLS13, identity).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Asks for a token, and gives the whole answer; the connection ends with it, in order.
async fn grant(test: &TestApp, mut stream: TlsStream<TcpStream>) -> String {
    let body = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        test.member.id, test.member.secret
    );
    let head = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Asks for something small on a connection that stays.
async fn is_alive(stream: &mut TlsStream<TcpStream>) -> bool {
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 1024];
    let n = stream.read(&mut answer).await.unwrap();
    answer[..n].starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_http_1_1_inside() {
    let files = Files::new();
    let trusted = files.renew();
    let (test, _) = start(&files).await;
    for (version, expected) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)] {
        let stream = connect_by(&test, &trusted, version, None).await.unwrap();
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.protocol_version(), Some(expected));
        assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        let answer = grant(&test, stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("access_token"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_tls_gets_no_answer() {
    let files = Files::new();
    files.renew();
    let (test, _) = start(&files).await;
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_handshake_is_waited_for_only_so_long() {
    let files = Files::new();
    files.renew();
    let (test, _) = start(&files).await;
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    tokio::time::pause();
    let started = Instant::now();
    // The beginning of a ClientHello.
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    let waited = TLS_HANDSHAKE_TIMEOUT..TLS_HANDSHAKE_TIMEOUT + LINGER_TIMEOUT;
    assert!(waited.contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_ends_none() {
    let files = Files::new();
    let first = files.renew();
    let (test, tls) = start(&files).await;
    let mut old = connect(&test, &first).await.unwrap();
    assert!(is_alive(&mut old).await);
    assert!(!tls.reload().unwrap(), "nothing has changed");

    let second = files.renew();
    assert!(tls.reload().unwrap());
    assert!(connect(&test, &first).await.is_err());
    assert!(is_alive(&mut connect(&test, &second).await.unwrap()).await);
    assert!(is_alive(&mut old).await);
}

#[tokio::test]
async fn the_server_looks_for_a_new_certificate_by_itself() {
    let files = Files::new();
    files.renew();
    let (test, _) = start(&files).await;
    let second = files.renew();
    // While a blocking task runs, the paused clock stands still: the look at the files is over before the sleep.
    tokio::time::pause();
    tokio::time::sleep(TLS_RELOAD_INTERVAL * 2).await;
    tokio::time::resume();
    assert!(is_alive(&mut connect(&test, &second).await.unwrap()).await);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing() {
    let files = Files::new();
    let trusted = files.renew();
    let (test, tls) = start(&files).await;
    let (good_certificate, good_key) = (
        std::fs::read_to_string(files.certificate()).unwrap(),
        std::fs::read_to_string(files.key()).unwrap(),
    );
    let other = new_certificate();
    for (certificate, key, problem) in [
        ("", good_key.as_str(), "holds no certificate"),
        (good_key.as_str(), good_key.as_str(), "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n", &good_key, "holds no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &good_key,
            "cannot be used together",
        ),
        (&good_certificate, "", "holds no private key"),
        (&good_certificate, &other.signing_key.serialize_pem(), "cannot be used together"),
        (&other.cert.pem(), &good_key, "cannot be used together"),
    ] {
        write(&files.certificate(), certificate);
        write(&files.key(), key);
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains(problem), "{problem}: {error}");
        assert!(files.load().is_err());
        assert!(!tls.reload().unwrap(), "it is told once");
        assert!(is_alive(&mut connect(&test, &trusted).await.unwrap()).await);
    }
    std::fs::remove_file(files.key()).unwrap();
    assert!(matches!(tls.reload(), Err(TlsError::Read { .. })));
    let second = files.renew();
    assert!(tls.reload().unwrap());
    assert!(is_alive(&mut connect(&test, &second).await.unwrap()).await);
}

#[tokio::test]
async fn browsers_are_told_to_come_over_tls_only_where_clients_do() {
    let test = TestApp::start().await;
    let answer = test.get(crate::app::As::Anonymous, "metadata").await.expect(200);
    assert!(!answer.headers.contains_key("strict-transport-security"));
    let test = test.restart_as("https://fhir.example.test/").await;
    let answer = test.get(crate::app::As::Anonymous, "metadata").await.expect(200);
    assert_eq!(answer.header("strict-transport-security"), "max-age=31536000");
    let test = test.restart_as("https://localhost:8443/").await;
    let answer = test.get(crate::app::As::Anonymous, "metadata").await.expect(200);
    assert!(!answer.headers.contains_key("strict-transport-security"));
}
