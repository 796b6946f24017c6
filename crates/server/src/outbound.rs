//! Speaks HTTP to whom somebody named: the key sets of clients, the webhooks of admins. So: the name is
//! looked up once, and the connection goes to the very address that was checked; no redirect is followed,
//! no proxy of the environment asked, no connection kept; size, time and number are bounded.

mod metered;
mod uri;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyrelay_core::limits::{
    HEADERS_MAX, OUTBOUND_CONNECT_TIMEOUT, OUTBOUND_HEAD_BYTES_MAX, OUTBOUND_TLS_BYTES_MAX,
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

use self::metered::{Metered, TooMuch};
pub(crate) use self::uri::OutboundUri;

const PRODUCT: HeaderValue = HeaderValue::from_static(concat!("keyrelay/", env!("CARGO_PKG_VERSION")));

/// Why there is no answer. Names nothing of the other side, so that it can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    #[error("it took longer than {} seconds", .0.as_secs())]
    TooSlow(Duration),
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
    #[error(transparent)]
    TooMuch(TooMuch),
    #[error("HTTP failed")]
    Http(#[source] hyper::Error),
}

impl From<hyper::Error> for OutboundError {
    fn from(error: hyper::Error) -> Self {
        error.source().and_then(TooMuch::find).map_or(Self::Http(error), Self::TooMuch)
    }
}

/// What is asked for, and how much of an answer is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From looking the name up to the last byte.
    pub(crate) timeout: Duration,
    /// Requests at once; one more waits, and gives up after the time-out.
    pub(crate) at_once_max: usize,
    pub(crate) body_bytes_max: usize,
}

impl Bounds {
    /// Bytes read from one connection, including those around the answer, because the heads of a chunked body can be
    /// long.
    const fn connection_bytes_max(&self, is_tls: bool) -> usize {
        let tls = if is_tls { OUTBOUND_TLS_BYTES_MAX } else { 0 };
        tls + OUTBOUND_HEAD_BYTES_MAX + 2 * self.body_bytes_max
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// None if it broke off, or is larger than its bound.
    pub(crate) body: Option<Bytes>,
}

/// Speaks to others within its bounds.
pub(crate) struct Outbound {
    reach: Reach,
    bounds: Bounds,
    places: Arc<Semaphore>,
    tls: OnceCell<TlsConnector>,
}

impl Outbound {
    pub(crate) fn new(reach: Reach, bounds: Bounds) -> Self {
        Self { reach, bounds, places: Arc::new(Semaphore::new(bounds.at_once_max)), tls: OnceCell::new() }
    }

    /// Sends a request to where a URL leads, and reads the answer. What the request says of path and host is
    /// put there.
    pub(crate) async fn send(
        &self,
        uri: &OutboundUri,
        request: Request<Bytes>,
    ) -> Result<Answer, OutboundError> {
        let too_slow = OutboundError::TooSlow(self.bounds.timeout);
        timeout(self.bounds.timeout, self.send_unbounded(uri, request)).await.map_err(|_| too_slow)?
    }

    async fn send_unbounded(
        &self,
        uri: &OutboundUri,
        mut request: Request<Bytes>,
    ) -> Result<Answer, OutboundError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = Arc::new(place.map_err(|_| OutboundError::TooSlow(self.bounds.timeout))?);
        let (host, port, held) = (uri.host().to_owned(), uri.port(), Arc::clone(&place));
        // Looking a name up cannot be broken off: the place is free again only when that has ended.
        let looked_up = tokio::spawn(async move {
            let _held = held;
            Ok(tokio::net::lookup_host((host, port)).await?.collect::<Vec<_>>())
        });
        let found = looked_up.await.map_err(io::Error::other).flatten().map_err(OutboundError::Name)?;
        let host = HeaderValue::from_str(uri.authority()).map_err(|_| OutboundError::OutOfReach)?;
        *request.uri_mut() = uri.path_and_query().parse().map_err(|_| OutboundError::OutOfReach)?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, PRODUCT);
        let request = request.map(Full::new);
        let stream = self.connect(&found).await?;
        let stream = Metered::new(stream, self.bounds.connection_bytes_max(uri.is_tls()));
        if !uri.is_tls() {
            return exchange(stream, request, self.bounds.body_bytes_max).await;
        }
        let name = ServerName::try_from(uri.host().to_owned()).map_err(|_| OutboundError::OutOfReach)?;
        let tls = self.tls.get_or_try_init(connector).await?;
        let stream = tls.connect(name, stream).await.map_err(OutboundError::Tls)?;
        exchange(stream, request, self.bounds.body_bytes_max).await
    }

    /// Connects to the first of the addresses that answers and is within reach.
    async fn connect(&self, found: &[SocketAddr]) -> Result<TcpStream, OutboundError> {
        let mut failed = OutboundError::OutOfReach;
        for address in found.iter().filter(|address| self.reach.allows(address.ip())) {
            let connected = timeout(OUTBOUND_CONNECT_TIMEOUT, TcpStream::connect(address)).await;
            match connected.map_err(io::Error::from).flatten() {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = OutboundError::Connect(error),
            }
        }
        Err(failed)
    }
}

/// TLS by the root certificates of the machine: an operator who adds one there, or takes one away, has
/// done so for this server too. Read when they are first needed.
async fn connector() -> Result<TlsConnector, OutboundError> {
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    };
    let roots = tokio::task::spawn_blocking(read).await.map_err(|_| OutboundError::NoRoots)?;
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> Result<TlsConnector, OutboundError> {
    if roots.is_empty() {
        return Err(OutboundError::NoRoots);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OutboundError::Tls(io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One request and its answer, on a connection that ends with them.
async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Answer, OutboundError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(OUTBOUND_HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body.ok().map(http_body_util::Collected::to_bytes);
        Ok(Answer { status: head.status, headers: head.headers, body })
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

#[cfg(test)]
mod tests;
