//! A stream whose writes must make progress: a client that reads almost nothing of its answer loses its connection
//! after [`WRITE_TIMEOUT`].

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use keyrelay_core::limits::{WRITE_TIMEOUT, WRITE_TIMEOUT_BYTES_MIN};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// See the module.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    stream: S,
    /// Runs from the first write that waits until the client has read enough, or everything.
    waiting: Option<Pin<Box<Sleep>>>,
    /// The bytes that the client has read meanwhile.
    taken: usize,
}

impl<S> WriteTimeout<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, waiting: None, taken: 0 }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        waiting.as_mut().poll(context).map(|()| Err(Error::from(ErrorKind::TimedOut)))
    }

    /// Counts the bytes that the client has read.
    fn took(&mut self, written: &Poll<Result<usize>>) {
        let (Some(_), Poll::Ready(Ok(bytes))) = (&self.waiting, written) else { return };
        self.taken += bytes;
        if self.taken >= WRITE_TIMEOUT_BYTES_MIN {
            self.has_got_on();
        }
    }

    fn has_got_on(&mut self) {
        (self.waiting, self.taken) = (None, 0);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.took(&written);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.took(&written);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            // A writer flushes after its last byte.
            self.has_got_on();
        }
        self.bounded(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Writes to a reader that reads so many bytes and then waits so long, until it has read everything.
    async fn write_to_one_who_takes(bytes: usize, pause: std::time::Duration) -> Result<()> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut stream = WriteTimeout::new(ours);
        let taking = async move {
            let mut buffer = vec![0; bytes];
            while theirs.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                sleep(pause).await;
            }
        };
        let writing = async move {
            stream.write_all(&vec![b'x'; 4 * WRITE_TIMEOUT_BYTES_MIN]).await?;
            stream.flush().await
        };
        let taking = tokio::spawn(taking);
        let written = writing.await;
        taking.abort();
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_loses_its_connection() {
        let started = Instant::now();
        let written = write_to_one_who_takes(1, WRITE_TIMEOUT / 3).await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < WRITE_TIMEOUT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_enough_may_be_slow() {
        // 1,024 bytes every hundredth: more than the least in each time-out, and more than one time-out in all.
        let started = Instant::now();
        write_to_one_who_takes(1024, WRITE_TIMEOUT / 100).await.unwrap();
        assert!(started.elapsed() > WRITE_TIMEOUT * 2);
    }
}
