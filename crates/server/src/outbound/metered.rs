//! A connection with a bound of the bytes that are read from it.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts the bytes read from a connection, below TLS and HTTP. So everything before an answer, such as informational
/// responses (RFC 9110 §15.2), counts as part of it.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    left: usize,
    bytes_max: usize,
}

/// The other side sent more than its bound.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it sent more than {0} bytes before the end of its answer")]
pub(crate) struct TooMuch(usize);

impl TooMuch {
    /// Finds this error among the causes of an HTTP or TLS error.
    pub(super) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let error = error.downcast_ref::<io::Error>()?.get_ref()?;
        error.downcast_ref::<Self>().copied()
    }
}

impl<S> Metered<S> {
    pub(super) const fn new(stream: S, bytes_max: usize) -> Self {
        Self { stream, left: bytes_max, bytes_max }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(TooMuch(self.bytes_max))));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        // The last piece may exceed it: it is in memory already, and no larger than a buffer.
        self.left = self.left.saturating_sub(buffer.filled().len().saturating_sub(before));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
