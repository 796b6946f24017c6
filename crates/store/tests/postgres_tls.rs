//! TLS to PostgreSQL: to the right server with a certificate to trust, and to no other. What stands before
//! the server here ends TLS as PostgreSQL does. Without a server that the environment names, nothing runs.

use std::path::Path;
use std::sync::Arc;

use keyrelay_store::{PostgresConfig, SERVER_VARIABLE, Store, TestDatabase};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// How a client asks for TLS: a length and a code (PostgreSQL, "Message Formats", `SSLRequest`).
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

fn certificate() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// Stands before the server at `server`, and gives its own port.
async fn front(server: String, certificate: &CertifiedKey<KeyPair>) -> u16 {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut asked = [0; 8];
                stream.read_exact(&mut asked).await?;
                assert_eq!(asked, TLS_REQUEST, "nothing is said in clear");
                stream.write_all(b"S").await?;
                let mut inside = acceptor.accept(stream).await?;
                copy_bidirectional(&mut inside, &mut TcpStream::connect(server).await?).await
            });
        }
    });
    port
}

async fn open(url: &str, port: u16, host: &str, roots: &Path) -> Result<Store, String> {
    let (_, rest) = url.split_once('@').unwrap();
    let (_, path) = rest.split_once('/').unwrap();
    let roots = roots.display();
    let url = format!("postgres://keyrelay@{host}:{port}/{path}&sslmode=verify-full&sslrootcert={roots}");
    let config = PostgresConfig::parse(&url).map_err(|error| error.to_string())?;
    Store::open_postgres(&config).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn only_the_server_that_is_meant_is_spoken_to() {
    if std::env::var(SERVER_VARIABLE).is_err() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let url = TestDatabase::new(dir.path()).await.url();
    let server = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let (right, other) = (certificate(), certificate());
    let port = front(server, &right).await;
    let (trusted, foreign) = (dir.path().join("right.pem"), dir.path().join("other.pem"));
    std::fs::write(&trusted, right.cert.pem()).unwrap();
    std::fs::write(&foreign, other.cert.pem()).unwrap();

    open(&url, port, "localhost", &trusted).await.unwrap().ping().await.unwrap();
    let refused = open(&url, port, "localhost", &foreign).await.unwrap_err();
    assert!(refused.contains("cannot be reached"), "{refused}");
    let refused = open(&url, port, "127.0.0.1", &trusted).await.unwrap_err();
    assert!(refused.contains("cannot be reached"), "{refused}");
    let refused = open(&url, port, "localhost", &dir.path().join("none.pem")).await.unwrap_err();
    assert!(refused.contains("none.pem"), "{refused}");
}
