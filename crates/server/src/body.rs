//! Reads bodies within three bounds: the size of the route, which the table of `router` names, the
//! time, and the bytes in flight.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use keyrelay_core::limits::{BODY_TIMEOUT, SMALL_BODY_BYTES_MAX, SMALL_BODY_TIMEOUT};
use tokio::time::timeout;

use crate::budget;
use crate::error::Outcome;

/// A body exceeds its bound.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("larger than {0} bytes")]
struct TooLarge(usize);

/// See [`bounded`].
struct Bounded {
    body: Body,
    left: usize,
    bytes_max: usize,
}

/// A body that fails after so many bytes. A body that announces more is not read at all.
pub(crate) fn bounded(body: Body, bytes_max: usize) -> Body {
    Body::new(Bounded { body, left: bytes_max, bytes_max })
}

impl hyper::body::Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let too_large = TooLarge(self.bytes_max);
        if usize::try_from(self.body.size_hint().lower()).map_or(true, |announced| announced > self.left) {
            return Poll::Ready(Some(Err(too_large.into())));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(too_large.into()))),
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See [`watched`].
struct Watched {
    body: Incoming,
    is_read: Arc<AtomicBool>,
}

/// A body, and whether it was read to its end. If not, its connection is closed after the answer.
pub(crate) fn watched(body: Incoming) -> (Body, Arc<AtomicBool>) {
    let is_read = Arc::new(AtomicBool::new(body.is_end_stream()));
    (Body::new(Watched { body, is_read: Arc::clone(&is_read) }), is_read)
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.body.is_end_stream() || frame.is_none() {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads a body within the bound of its route and within [`SMALL_BODY_TIMEOUT`] or [`BODY_TIMEOUT`].
pub(crate) async fn read_body(mut body: Body) -> Result<Bytes, Outcome> {
    let mut whole = Vec::new();
    let all = async {
        let small = read_until(&mut body, &mut whole, SMALL_BODY_BYTES_MAX);
        if timeout(SMALL_BODY_TIMEOUT, small).await.unwrap_or_else(|_| Err(Outcome::too_slow()))? {
            return Ok(true);
        }
        read_until(&mut body, &mut whole, usize::MAX).await
    };
    let read = timeout(BODY_TIMEOUT, all).await.unwrap_or_else(|_| Err(Outcome::too_slow()));
    budget::has_body();
    read.map(|_| whole.into())
}

/// Reads until a body has ended or has more bytes than that. Whether it has ended.
async fn read_until(body: &mut Body, whole: &mut Vec<u8>, bytes: usize) -> Result<bool, Outcome> {
    while whole.len() <= bytes {
        if body.is_end_stream() {
            return Ok(true);
        }
        let Some(frame) = next_frame(body).await? else { return Ok(true) };
        let frame = frame.map_err(|error| match error.into_inner().downcast_ref() {
            Some(TooLarge(bytes_max)) => Outcome::too_large(*bytes_max),
            None => Outcome::invalid("The body ended too early"),
        })?;
        let Ok(data) = frame.into_data() else { continue };
        // While it grows, it has room for up to twice as many.
        budget::take(2 * data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(false)
}

/// The next part of a body. As long as there is none, the request waits on the terms of [`budget::awaits_body`].
async fn next_frame(body: &mut Body) -> Result<Option<Result<Frame<Bytes>, axum::Error>>, Outcome> {
    poll_fn(|context| match Pin::new(&mut *body).poll_frame(context) {
        Poll::Ready(frame) => Poll::Ready(Ok(frame)),
        Poll::Pending => match budget::awaits_body() {
            Ok(()) => Poll::Pending,
            Err(refused) => Poll::Ready(Err(refused.into())),
        },
    })
    .await
}
