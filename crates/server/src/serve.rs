//! Accepts connections, a bounded number of them, with or without TLS, each with bounds on its head and
//! its idleness;
//! writes counted uses down now and then; and drains when asked to stop.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use keyrelay_core::limits;
use keyrelay_store::{CallerBounds, EventBounds};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::auth::ClientAddress;
use crate::body::watched;
use crate::budget::Refused;
use crate::client_certificate::{Presented, settle};
use crate::error::{Outcome, ServeError, StartError};
use crate::jobs::keep_running;
use crate::paid_reads::{Heads, PaidReads};
use crate::places::{Kind, Place, Places};
use crate::write_timeout::WriteTimeout;
use crate::{App, Tls, cors, host, router, streams, webhooks};

/// For a year (RFC 6797 §6.1).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// The routes that the reserve answers when all connections are taken.
const HEALTH_ROUTES: [&str; 3] = ["/livez", "/readyz", "/healthcheck"];

/// The answer to a large head that the bytes in flight have no room for; no request began.
const NO_ROOM_FOR_HEAD: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A server that has its socket.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

impl Server {
    /// Takes a socket. Port 0 takes any that is free.
    pub async fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Io { action: format!("cannot listen on {address}"), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, tls: None })
    }

    /// Speaks TLS, and nothing else, on that socket.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The address that was taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, then finishes the requests under way, within
    /// [`limits::DRAIN_TIMEOUT`], writes down what was counted, and closes the store.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if it ended by itself, because a part that it needs has ended.
    pub async fn run(self, app: App, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let routes = router(app.clone());
        let places = Places::new(app.config.connections_max, app.config.trusted_proxies.clone());
        let (drain, draining) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut beside = JoinSet::new();
        let job = (app.clone(), draining.clone());
        beside.spawn(keep_running("webhooks", draining.clone(), move || {
            webhooks::run(job.0.clone(), job.1.clone())
        }));
        let job = (app.clone(), draining.clone());
        beside.spawn(keep_running("streams", draining.clone(), move || {
            streams::run(job.0.clone(), job.1.clone())
        }));
        let mut flush = tokio::time::interval(limits::USAGE_FLUSH_INTERVAL);
        let mut sweep = tokio::time::interval(limits::SWEEP_INTERVAL);
        let mut events = tokio::time::interval(limits::EVENTS_SWEEP_INTERVAL);
        let mut callers = tokio::time::interval(limits::USAGE_CALLERS_SWEEP_INTERVAL);
        let mut keys = tokio::time::interval(limits::SIGNING_KEYS_INTERVAL);
        let mut deadlines = tokio::time::interval(limits::EXPIRY_INTERVAL);
        // The files were read just now, so the first check waits for a whole interval.
        let first_reload = tokio::time::Instant::now() + limits::TLS_RELOAD_INTERVAL;
        let mut reload = tokio::time::interval_at(first_reload, limits::TLS_RELOAD_INTERVAL);
        let mut check = tokio::time::interval(limits::STORE_CHECK_INTERVAL);
        let mut stop = std::pin::pin!(stop);
        let ended = loop {
            tokio::select! {
                biased;
                () = &mut stop => break Ok(()),
                _ = check.tick() => if !app.store.is_alive() {
                    tracing::error!("a thread that the database needs has ended; stopping the server");
                    break Err(ServeError::Store);
                },
                _ = flush.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.flush_usage().await });
                }
                _ = sweep.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.sweep().await });
                }
                _ = events.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.sweep_events(EventBounds::default()).await });
                }
                _ = callers.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.sweep_callers(CallerBounds::default()).await });
                }
                _ = keys.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.renew_signing_keys().await });
                }
                _ = deadlines.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.tell_deadlines().await });
                }
                _ = reload.tick() => {
                    if let Some(tls) = self.tls.clone() {
                        tokio::spawn(async move { tls.reload_and_log().await });
                    }
                }
                Some(_) = connections.join_next() => {}
                accepted = accept(&self.listener, &places, &app) => {
                    if let Some((stream, peer, place)) = accepted {
                        let (routes, app, draining) = (routes.clone(), app.clone(), draining.clone());
                        let connection = Connection { peer, routes, app, draining, place };
                        connections.spawn(connection.serve(stream, self.tls.clone()));
                    }
                }
            }
        };
        drop(self.listener);
        tracing::info!("stopping: finishing the requests under way");
        drain.send_replace(true);
        let drained = async {
            while connections.join_next().await.is_some() {}
            while beside.join_next().await.is_some() {}
        };
        if tokio::time::timeout(limits::DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!("some requests did not finish in time and were cut off");
        }
        app.close().await;
        ended
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Places,
    app: &App,
) -> Option<(TcpStream, SocketAddr, Place)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = places.take(peer.ip());
            if place.is_none() {
                app.metrics.connections_refused.inc();
            }
            place.map(|place| (stream, peer, place))
        }
        Err(error) => {
            // Out of file handles, most likely: trying again at once would only burn time.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(limits::RETRY_AFTER).await;
            None
        }
    }
}

/// One connection, and what serves it.
struct Connection {
    peer: SocketAddr,
    routes: Router,
    app: App,
    draining: watch::Receiver<bool>,
    place: Place,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<Tls>) {
        // Small answers must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let metrics = Arc::clone(&self.app.metrics);
        metrics.connections.inc();
        let is_reserve = self.place.kind == Kind::Reserve;
        let served = async {
            match tls {
                None => self.speak(stream, None).await,
                // Boxed: it is large, and connections without TLS should not carry it.
                Some(tls) => Box::pin(self.handshake(stream, tls.acceptor())).await,
            }
        };
        if is_reserve {
            metrics.connections_refused.inc();
            let _ = tokio::time::timeout(limits::CONNECTION_RESERVE_TIMEOUT, served).await;
        } else {
            served.await;
        }
        metrics.connections.dec();
    }

    async fn handshake(self, stream: TcpStream, acceptor: TlsAcceptor) {
        match tokio::time::timeout(limits::TLS_HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let certificates = stream.get_ref().1.peer_certificates();
                let presented = certificates.and_then(Presented::new);
                self.speak(stream, presented).await;
            }
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %self.peer, "a TLS handshake took too long"),
        }
    }

    /// Speaks HTTP until the end of the connection, or until the server drains.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S, presented: Option<Presented>) {
        let kind = self.place.kind;
        let heads = Heads::default();
        let payer = self.app.config.trusted_proxies.payer(self.peer.ip());
        let stream = PaidReads::new(stream, self.app.budget.clone(), payer, heads.clone());
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            let under_way = heads.begin();
            settle(&self.app.config, self.peer.ip(), presented.as_ref(), request.headers_mut());
            let (routes, app) = (self.routes.clone(), self.app.clone());
            // Boxed, because only a connection of an unpinned service gives its stream back.
            Box::pin(async move {
                let _under_way = under_way;
                let (parts, body) = request.into_parts();
                let (body, is_read) = watched(body);
                let request = http::Request::from_parts(parts, body);
                let is_refused = kind == Kind::Reserve && !HEALTH_ROUTES.contains(&request.uri().path());
                let mut response = if is_refused {
                    Outcome::full().into_response()
                } else {
                    answer(routes, app, self.peer, request).await
                };
                if !is_read.load(Ordering::Relaxed) {
                    // The connection ends after this answer, so that a client or a shared proxy does not use it again.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            })
        });
        let mut http = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(kind == Kind::Ordinary)
            .header_read_timeout(limits::HEAD_TIMEOUT)
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .max_headers(limits::HEADERS_MAX)
            .serve_connection(TokioIo::new(WriteTimeout::new(stream)), service);
        let ended = tokio::select! {
            biased;
            ended = poll_fn(|context| http.poll_without_shutdown(context)) => ended,
            () = asked_to_drain(&mut self.draining) => {
                Pin::new(&mut http).graceful_shutdown();
                poll_fn(|context| http.poll_without_shutdown(context)).await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
        let (mut stream, is_refused) = http.into_parts().io.into_inner().into_inner().into_inner();
        if is_refused {
            // It fits into the buffer of the socket.
            let _ = tokio::time::timeout(limits::LINGER_TIMEOUT, stream.write_all(NO_ROOM_FOR_HEAD)).await;
        }
        // Boxed: its buffer is larger than all that an open connection needs.
        Box::pin(linger(stream)).await;
    }
}

/// Ready when the server drains, or is gone.
async fn asked_to_drain(draining: &mut watch::Receiver<bool>) {
    // Not `wait_for`: what it gives holds a lock, which must not be held while requests finish.
    while !*draining.borrow_and_update() {
        if draining.changed().await.is_err() {
            return;
        }
    }
}

/// Closes a connection so that the last answer arrives: whoever is still sending when a socket is
/// closed gets a reset, and with it loses an answer such as 413. So what still comes is read and
/// thrown away, within bounds.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut left = limits::LINGER_BYTES_MAX;
        let mut buffer = [0; 8192];
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(limits::LINGER_TIMEOUT, rest).await;
}

async fn answer(routes: Router, app: App, peer: SocketAddr, mut request: http::Request<Body>) -> Response {
    let from = app.config.trusted_proxies.client_of(peer.ip(), request.headers());
    request.extensions_mut().insert(ClientAddress(from));
    let mut response = match host::problem(request.version(), request.headers()) {
        None => cors::answer(&app, request, |request| paid_for(&app, routes, from, request)).await,
        Some(problem) => Outcome::invalid(problem).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if app.config.base_url.is_https_only() {
        headers.insert(STRICT_TRANSPORT_SECURITY, HSTS);
    }
    let status = response.status().as_u16();
    app.metrics.count_response(status);
    // Neither path nor headers: what a client puts there by mistake may be a secret.
    tracing::debug!(%peer, %from, status, "answered");
    response
}

/// Answers a request from an account of the bytes in flight, which is held until the answer has been sent.
async fn paid_for(app: &App, routes: Router, from: IpAddr, request: http::Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let serve = async |request| match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if router::is_free(&path) {
        return serve(request).await;
    }
    let answered = async {
        let account = app.budget.open(app.config.trusted_proxies.payer(from))?;
        let (parts, body) = account.scope(serve(request)).await.into_parts();
        let body = account.hold_answer(body, is_safe)?;
        Ok::<_, Refused>(Response::from_parts(parts, body))
    };
    answered.await.unwrap_or_else(|refused| router::refuse(app, &path, &refused.into()))
}
