//! The binary with a certificate of its own.

use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore, crypto};

use crate::process::{Process, keyrelay};

/// Writes a new certificate and its key into a directory.
fn renew(dir: &Path) -> CertificateDer<'static> {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("server.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// Reads the discovery document, over TLS.
async fn discover(server: &Process, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(DEFAULT_VERSIONS).unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let address = server.base.trim_start_matches("https://").trim_end_matches('/');
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let head =
        "GET /.well-known/openid-configuration HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn with_a_certificate_the_server_speaks_tls_and_a_hangup_reads_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = renew(dir.path());
    let mut command = keyrelay();
    command.env("KEYRELAY_TLS_CERTIFICATE", dir.path().join("server.pem"));
    command.env("KEYRELAY_TLS_KEY", dir.path().join("server.key"));
    let server = Process::start_with(command, &dir.path().join("data")).await;
    assert!(server.base.starts_with("https://"), "{}", server.base);
    let answer = discover(&server, &first).await.unwrap();
    assert!(answer.contains(&format!("\"issuer\":\"{}\"", server.base)), "{answer}");

    let second = renew(dir.path());
    server.hang_up();
    // Each try is a whole handshake; there is nothing to wait for but the server.
    let mut answer = discover(&server, &second).await;
    for _ in 0..1000 {
        if answer.is_ok() {
            break;
        }
        answer = discover(&server, &second).await;
    }
    assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    assert!(discover(&server, &first).await.is_err());
    assert!(server.terminate().await.success());
}
