//! A stream that pays for the read buffer of its connection. Heads are read before a request begins, and a buffer that
//! has grown stays that large until the connection ends. So a connection that has sent a larger head than is free pays
//! for its whole buffer until it ends. Bodies pay separately.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use keyrelay_core::limits::{HEAD_BYTES_FREE, HEAD_BYTES_MAX, READ_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Account, Budget};

/// Whether a connection now reads a head, or a part of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heads(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    read: AtomicUsize,
    answered: AtomicUsize,
}

/// A request whose head has been read. Dropped when it is answered.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Counts>);

impl Heads {
    /// A head has been read.
    pub(crate) fn begin(&self) -> UnderWay {
        self.0.read.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.0))
    }

    fn read(&self) -> usize {
        self.0.read.load(Ordering::Relaxed)
    }

    fn are_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed) == self.read()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PaidReads<S> {
    stream: S,
    budget: Budget,
    address: Option<IpAddr>,
    heads: Heads,
    /// Bytes received since that many heads had been read.
    received: usize,
    since: usize,
    account: Option<Account>,
    is_refused: bool,
}

impl<S> PaidReads<S> {
    /// `address` is that of the peer; `None` for this machine and proxies.
    pub(crate) const fn new(stream: S, budget: Budget, address: Option<IpAddr>, heads: Heads) -> Self {
        Self { stream, budget, address, heads, received: 0, since: 0, account: None, is_refused: false }
    }

    /// The stream, and whether an answer must still report that the first head was refused.
    pub(crate) fn into_inner(self) -> (S, bool) {
        (self.stream, self.is_refused && self.heads.read() == 0)
    }

    /// Pays for the buffer if the received head is large.
    fn pay(&mut self, bytes: usize) -> Result<()> {
        let read = self.heads.read();
        if self.since != read {
            (self.since, self.received) = (read, 0);
        }
        if !self.heads.are_answered() || self.account.is_some() {
            return Ok(());
        }
        self.received = self.received.saturating_add(bytes);
        if self.received <= HEAD_BYTES_FREE {
            return Ok(());
        }
        if let Ok(account) = self.budget.open_for_buffer(self.address, HEAD_BYTES_MAX - HEAD_BYTES_FREE) {
            self.account = Some(account);
            return Ok(());
        }
        self.is_refused = true;
        Err(Error::new(ErrorKind::OutOfMemory, "too many bytes are in flight for a large head"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PaidReads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES_MAX];
        let mut part = ReadBuf::uninit(&mut space[..READ_BYTES_MAX.min(buffer.remaining())]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        buffer.put_slice(part.filled());
        Poll::Ready(self.pay(part.filled().len()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PaidReads<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const KIB: usize = 1024;

    /// Sends so many kibibytes through a stream.
    async fn send(kib: usize, stream: &mut PaidReads<DuplexStream>, other: &mut DuplexStream) -> Result<()> {
        for _ in 0..kib {
            other.write_all(&[b'x'; KIB]).await.unwrap();
            stream.read_exact(&mut [0; KIB]).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_large_head_is_paid_for_until_the_connection_ends() {
        let budget = Budget::of(1024 * KIB);
        let (ours, mut other) = tokio::io::duplex(KIB);
        let heads = Heads::default();
        let mut stream = PaidReads::new(ours, budget.clone(), None, heads.clone());
        send(HEAD_BYTES_FREE / KIB, &mut stream, &mut other).await.unwrap();
        assert_eq!(budget.used(), 0);
        // Neither a body nor the head of the request before counts.
        let request = heads.begin();
        send(64, &mut stream, &mut other).await.unwrap();
        drop(request);
        send(HEAD_BYTES_FREE / KIB, &mut stream, &mut other).await.unwrap();
        drop(heads.begin());
        send(HEAD_BYTES_FREE / KIB, &mut stream, &mut other).await.unwrap();
        assert_eq!(budget.used(), 0);
        send(1, &mut stream, &mut other).await.unwrap();
        assert_eq!(budget.used(), HEAD_BYTES_MAX - HEAD_BYTES_FREE);
        // A second large head of the same connection uses the same buffer.
        drop(heads.begin());
        send(HEAD_BYTES_MAX / KIB, &mut stream, &mut other).await.unwrap();
        assert_eq!(budget.used(), HEAD_BYTES_MAX - HEAD_BYTES_FREE);
        drop(stream);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn heads_of_one_address_take_no_more_than_its_share() {
        let budget = Budget::of(1024 * KIB);
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let mut open = Vec::new();
        loop {
            let (ours, mut other) = tokio::io::duplex(KIB);
            let mut stream = PaidReads::new(ours, budget.clone(), address, Heads::default());
            if send(HEAD_BYTES_MAX / KIB, &mut stream, &mut other).await.is_err() {
                assert!(stream.into_inner().1, "the first head is answered");
                break;
            }
            open.push((stream, other));
        }
        assert!(budget.used() <= 256 * KIB && open.len() > 3, "{} by {}", budget.used(), open.len());
    }
}
