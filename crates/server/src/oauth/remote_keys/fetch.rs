//! Gets a key set over the network, on the word of whoever wrote its URL. So: the name is looked up
//! once, and the connection goes to the very address that was checked; no redirect is followed, no
//! proxy of the environment asked, no connection kept; size, time and number are bounded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyrelay_core::limits::{
    HEADERS_MAX, JWKS_BYTES_MAX, JWKS_CONNECT_TIMEOUT, JWKS_FETCH_TIMEOUT, JWKS_FETCHES_AT_ONCE_MAX,
    JWKS_HEAD_BYTES_MAX,
};
use keyrelay_core::reach::Reach;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::uri::JwksUri;

const PRODUCT: &str = concat!("keyrelay/", env!("CARGO_PKG_VERSION"));

/// Why a key set was not fetched. For the log only.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it took longer than {} seconds", JWKS_FETCH_TIMEOUT.as_secs())]
    TooSlow,
    #[error("the name could not be looked up")]
    Name(#[source] io::Error),
    #[error("the name has no address that this server may connect to")]
    OutOfReach,
    #[error("no connection could be made")]
    Connect(#[source] io::Error),
    #[error("this machine has no root certificates: install them, or name a file in SSL_CERT_FILE")]
    NoRoots,
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("HTTP failed")]
    Http(#[from] hyper::Error),
    #[error("the answer has the status {0}; redirects are not followed")]
    Status(StatusCode),
    #[error("the answer broke off, or is larger than {JWKS_BYTES_MAX} bytes")]
    Body,
    #[error("the answer is no key set")]
    NoKeySet,
}

/// A key set as it came.
pub(super) struct Fetched {
    pub(super) text: String,
    /// For how long its sender allows to keep it, if it says so.
    pub(super) max_age: Option<Duration>,
}

/// Fetches, a bounded number at once.
pub(super) struct Fetcher {
    reach: Reach,
    places: Arc<Semaphore>,
    tls: OnceCell<TlsConnector>,
}

impl Fetcher {
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, places: Arc::new(Semaphore::new(JWKS_FETCHES_AT_ONCE_MAX)), tls: OnceCell::new() }
    }

    pub(super) async fn fetch(&self, uri: &JwksUri) -> Result<Fetched, FetchError> {
        timeout(JWKS_FETCH_TIMEOUT, self.fetch_unbounded(uri)).await.map_err(|_| FetchError::TooSlow)?
    }

    async fn fetch_unbounded(&self, uri: &JwksUri) -> Result<Fetched, FetchError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| FetchError::TooSlow)?;
        let place = Arc::new(place);
        let (host, port, held) = (uri.host().to_owned(), uri.port(), Arc::clone(&place));
        // Looking a name up cannot be broken off: the place is free again only when that has ended.
        let looked_up = tokio::spawn(async move {
            let _held = held;
            Ok(tokio::net::lookup_host((host, port)).await?.collect::<Vec<_>>())
        });
        let found = looked_up.await.map_err(io::Error::other).flatten().map_err(FetchError::Name)?;
        let stream = self.connect(&found).await?;
        if !uri.is_tls() {
            return get(stream, uri).await;
        }
        let name = ServerName::try_from(uri.host().to_owned()).map_err(|_| FetchError::OutOfReach)?;
        let tls = self.tls.get_or_try_init(connector).await?;
        get(tls.connect(name, stream).await.map_err(FetchError::Tls)?, uri).await
    }

    /// Connects to the first of the addresses that answers and is within reach.
    async fn connect(&self, found: &[SocketAddr]) -> Result<TcpStream, FetchError> {
        let mut failed = FetchError::OutOfReach;
        for address in found.iter().filter(|address| self.reach.allows(address.ip())) {
            let connected = timeout(JWKS_CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connected.map_err(io::Error::from).flatten() {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = FetchError::Connect(error),
            }
        }
        Err(failed)
    }
}

/// TLS by the root certificates of the machine: an operator who adds one there, or takes one away, has
/// done so for this server too. Read when they are first needed.
async fn connector() -> Result<TlsConnector, FetchError> {
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let roots = tokio::task::spawn_blocking(read).await.map_err(|_| FetchError::NoRoots)?;
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> Result<TlsConnector, FetchError> {
    if roots.is_empty() {
        return Err(FetchError::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Tls(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One request and its answer, on a connection that ends with them.
async fn get<S>(stream: S, uri: &JwksUri) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(uri.path_and_query())
        .header(HOST, uri.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, PRODUCT)
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::OutOfReach)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(JWKS_HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let max_age = max_age(response.headers());
        let body = Limited::new(response.into_body(), JWKS_BYTES_MAX).collect().await;
        let body = body.map_err(|_| FetchError::Body)?.to_bytes();
        // What kind of content it says it is does not matter: it is read as a key set, or it is none.
        let text = String::from_utf8(body.into()).map_err(|_| FetchError::NoKeySet)?;
        Ok(Fetched { text, max_age })
    };
    let mut answer = std::pin::pin!(answer);
    // What the connection has to say matters only as long as the answer is not there.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.into()),
        }
    }
}

/// `Cache-Control` (RFC 9111 §5.2.2), as far as it matters.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut age = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => {
                let seconds: Option<u32> = value.trim().trim_matches('"').parse().ok();
                // What cannot be read is stale (RFC 9111 §4.2.1).
                age = Some(Duration::from_secs(seconds.map_or(0, u64::from)));
            }
            _ => {}
        }
    }
    age
}

#[cfg(test)]
mod tests;
