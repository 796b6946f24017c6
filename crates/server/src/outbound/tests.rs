//! What a request does on the wire, against servers on this machine.

use futures_util::future::join_all;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

const SET: &str = r#"{"keys":[]}"#;

/// Reads a request's head and answers it; gives what was asked.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return String::new() };
        head.push(byte);
    }
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    String::from_utf8(head).unwrap()
}

/// A TLS server under a certificate of its own for `localhost`.
async fn tls_server() -> (u16, CertificateDer<'static>, tokio::task::JoinHandle<()>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SET}", SET.len());
                answer(stream, &text).await;
            }
        }
    });
    (port, cert.der().clone(), serving)
}

const AT_ONCE_MAX: usize = 4;

fn outbound(reach: Reach) -> Outbound {
    let timeout = Duration::from_secs(5);
    Outbound::new(reach, Bounds { timeout, at_once_max: AT_ONCE_MAX, body_bytes_max: 1024 })
}

fn with_roots(reach: Reach, trusted: &CertificateDer<'static>) -> Outbound {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let outbound = outbound(reach);
    assert!(outbound.tls.set(trusting(roots).unwrap()).is_ok());
    outbound
}

async fn get(outbound: &Outbound, uri: &OutboundUri) -> Result<Answer, OutboundError> {
    outbound.send(uri, Request::new(Bytes::new())).await
}

fn body(answer: &Answer) -> &[u8] {
    answer.body.as_ref().unwrap()
}

fn at(url: &str) -> OutboundUri {
    OutboundUri::parse(url, Reach::InternetAndLoopback).unwrap()
}

#[tokio::test]
async fn over_tls_the_certificate_must_be_trusted_and_of_the_name() {
    let (port, certificate, serving) = tls_server().await;
    let trusting = with_roots(Reach::InternetAndLoopback, &certificate);
    let fetched = get(&trusting, &at(&format!("https://localhost:{port}/keys"))).await.unwrap();
    assert_eq!(body(&fetched), SET.as_bytes());
    let other_name = get(&trusting, &at(&format!("https://127.0.0.1:{port}/keys"))).await;
    assert!(matches!(other_name, Err(OutboundError::Tls(_))));
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
    let distrusting = with_roots(Reach::InternetAndLoopback, &other);
    let refused = get(&distrusting, &at(&format!("https://localhost:{port}/keys"))).await;
    assert!(matches!(refused, Err(OutboundError::Tls(_))));
    serving.abort();
}

/// The URL was good when it was written; what its name leads to decides.
#[tokio::test]
async fn a_name_that_leads_to_an_address_out_of_reach_is_not_connected_to() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let outbound = outbound(Reach::Internet);
    for host in ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let Ok(uri) = OutboundUri::parse(&format!("https://{host}:{port}/keys"), Reach::InternetAndLoopback)
        else {
            continue;
        };
        let refused = get(&outbound, &uri).await;
        assert!(matches!(refused, Err(OutboundError::OutOfReach | OutboundError::Name(_))), "{host}");
    }
    let connected = timeout(Duration::ZERO, listener.accept()).await;
    assert!(connected.is_err(), "somebody connected");
}

#[tokio::test]
async fn the_request_names_its_host_and_no_more() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // Without a length, the end of the connection is the end of the answer.
        answer(stream, &format!("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=7\r\n\r\n{SET}")).await
    });
    let source = outbound(Reach::InternetAndLoopback);
    let fetched = get(&source, &at(&format!("http://localhost:{port}/keys?a=b"))).await.unwrap();
    assert_eq!(body(&fetched), SET.as_bytes());
    assert_eq!(fetched.headers["cache-control"], "public, max-age=7");
    let head = served.await.unwrap();
    assert!(head.starts_with("GET /keys?a=b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: localhost:{port}\r\n")), "{head}");
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
}

/// The time-out is an hour: what ends it is what is read.
#[tokio::test]
async fn informational_responses_are_read_up_to_a_bound_and_one_or_two_do_no_harm() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = at(&format!("http://{}/", listener.local_addr().unwrap()));
    let bounds = Bounds { timeout: Duration::from_hours(1), at_once_max: AT_ONCE_MAX, body_bytes_max: 1024 };
    let outbound = Outbound::new(Reach::InternetAndLoopback, bounds);
    let serving = tokio::spawn(async move {
        let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        let (stream, _) = listener.accept().await.unwrap();
        let text = format!("{early}{early}HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SET}", SET.len());
        answer(stream, &text).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut sent = 0_usize;
        while stream.write_all(early.as_bytes()).await.is_ok() {
            sent += early.len();
        }
        sent
    });
    assert_eq!(body(&get(&outbound, &uri).await.unwrap()), SET.as_bytes());
    let flooded = get(&outbound, &uri).await;
    assert!(matches!(flooded, Err(OutboundError::TooMuch(_))), "{flooded:?}");
    assert!(serving.await.unwrap() > bounds.connection_bytes_max(false));
}

#[tokio::test]
async fn no_more_than_so_many_are_asked_at_once() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = at(&format!("http://{}/", listener.local_addr().unwrap()));
    let outbound = outbound(Reach::InternetAndLoopback);
    tokio::time::pause();
    let all = join_all((0..AT_ONCE_MAX + 5).map(|_| get(&outbound, &uri)));
    let mut connected = Vec::new();
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            connected.push(stream);
        }
    };
    tokio::select! {
        all = all => assert!(all.iter().all(|one| matches!(one, Err(OutboundError::TooSlow(_))))),
        () = accepting => {}
    }
    assert_eq!(connected.len(), AT_ONCE_MAX);
}
