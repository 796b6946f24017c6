//! Accepts connections, a bounded number of them, each with bounds on its head and its idleness;
//! writes counted uses down now and then; and drains when asked to stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::HeaderValue;
use http::header::X_CONTENT_TYPE_OPTIONS;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use keyrelay_core::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::auth::ClientAddress;
use crate::error::StartError;
use crate::{App, router};

/// A server that has its socket.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes a socket. Port 0 takes any that is free.
    pub async fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::Io { action: format!("cannot listen on {address}"), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that was taken.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready, then finishes the requests under way, within
    /// [`limits::DRAIN_TIMEOUT`], writes down what was counted, and closes the store.
    pub async fn run(self, app: App, stop: impl Future<Output = ()>) {
        let routes = router(app.clone());
        let mut connection = http1::Builder::new();
        connection
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEAD_TIMEOUT)
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .max_headers(limits::HEADERS_MAX)
            .pipeline_flush(true);
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        let draining = GracefulShutdown::new();
        let mut flush = tokio::time::interval(limits::USAGE_FLUSH_INTERVAL);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                _ = flush.tick() => {
                    let app = app.clone();
                    tokio::spawn(async move { app.flush_usage().await });
                }
                accepted = accept(&self.listener, &places) => {
                    if let Some((stream, peer, place)) = accepted {
                        let served = serve(&connection, stream, peer, routes.clone(), app.clone());
                        let served = draining.watch(served);
                        let connections = app.metrics.connections.clone();
                        connections.inc();
                        tokio::spawn(async move {
                            if let Err(error) = served.await {
                                tracing::debug!(%error, "a connection ended early");
                            }
                            connections.dec();
                            drop(place);
                        });
                    }
                }
            }
        }
        drop(self.listener);
        tracing::info!("stopping: finishing the requests under way");
        if tokio::time::timeout(limits::DRAIN_TIMEOUT, draining.shutdown()).await.is_err() {
            tracing::warn!("some requests did not finish in time and were cut off");
        }
        app.close().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file handles, most likely: trying again at once would only burn time.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(limits::RETRY_AFTER).await;
            None
        }
    }
}

fn serve(
    connection: &http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    app: App,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + use<> {
    // Small answers must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let routes = routes.clone();
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(routes, app, peer, request.map(Body::new)).await) }
    });
    connection.serve_connection(TokioIo::new(stream), service)
}

async fn answer(routes: Router, app: App, peer: SocketAddr, mut request: http::Request<Body>) -> Response {
    request.extensions_mut().insert(ClientAddress(peer.ip().to_canonical()));
    let mut response = match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    app.metrics.count_response(response.status().as_u16());
    response
}
