//! A stream that pays for the buffer that its connection reads into. Heads are read before there is a request, and a
//! buffer that has grown stays as large until the connection ends: so a connection pays for the largest head that it
//! has sent, beyond a first part that every connection has.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use keyrelay_core::limits::{HEAD_BYTES_FREE, HEAD_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::budget::{Account, Budget};

/// How many requests a connection has begun. What comes after the head of one is its body, which pays for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<AtomicUsize>);

impl Begun {
    /// A head has been read.
    pub(crate) fn request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PaidReads<S> {
    stream: S,
    budget: Budget,
    address: Option<IpAddr>,
    begun: Begun,
    /// Bytes that came since that many requests had begun.
    received: usize,
    since: usize,
    /// What was paid for.
    paid: usize,
    account: Option<Account>,
}

impl<S> PaidReads<S> {
    /// The address is that of the other end, where it speaks for itself only.
    pub(crate) const fn new(stream: S, budget: Budget, address: Option<IpAddr>, begun: Begun) -> Self {
        Self { stream, budget, address, begun, received: 0, since: 0, paid: 0, account: None }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Pays for what has come.
    fn pay(&mut self, bytes: usize) -> Result<()> {
        let begun = self.begun.count();
        if begun != self.since {
            (self.since, self.received) = (begun, 0);
        }
        self.received = self.received.saturating_add(bytes).min(HEAD_BYTES_MAX);
        let due = self.received.saturating_sub(HEAD_BYTES_FREE);
        let Some(more) = due.checked_sub(self.paid).filter(|more| *more > 0) else { return Ok(()) };
        let paid = match &self.account {
            Some(account) => account.take(more),
            None => self.budget.open(self.address).and_then(|account| {
                let paid = account.take(more);
                self.account = Some(account);
                paid
            }),
        };
        match paid {
            Ok(()) => {
                self.paid = due;
                Ok(())
            }
            Err(_) => {
                Err(Error::new(ErrorKind::OutOfMemory, "too many bytes are in flight for a head as large"))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PaidReads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let bytes = buffer.filled().len() - before;
        Poll::Ready(self.pay(bytes))
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const KIB: usize = 1024;

    async fn read(
        stream: &mut PaidReads<tokio::io::DuplexStream>,
        other: &mut tokio::io::DuplexStream,
    ) -> Result<usize> {
        other.write_all(&[b'x'; KIB]).await.unwrap();
        stream.read(&mut [0; KIB]).await
    }

    #[tokio::test]
    async fn a_large_head_is_paid_for_until_the_connection_ends() {
        let budget = Budget::of(1024 * KIB);
        let (ours, mut other) = tokio::io::duplex(KIB);
        let begun = Begun::default();
        let mut stream = PaidReads::new(ours, budget.clone(), None, begun.clone());
        for _ in 0..HEAD_BYTES_FREE / KIB {
            read(&mut stream, &mut other).await.unwrap();
        }
        assert_eq!(budget.used(), 0);
        for _ in 0..8 {
            read(&mut stream, &mut other).await.unwrap();
        }
        assert_eq!(budget.used(), 8 * KIB);
        // Another request of the same connection reads into the same buffer.
        begun.request();
        for _ in 0..(HEAD_BYTES_FREE / KIB) + 8 {
            read(&mut stream, &mut other).await.unwrap();
        }
        assert_eq!(budget.used(), 8 * KIB);
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
            let mut stream = PaidReads::new(ours, budget.clone(), address, Begun::default());
            let mut last = Ok(0);
            for _ in 0..HEAD_BYTES_MAX / KIB {
                last = read(&mut stream, &mut other).await;
                if last.is_err() {
                    break;
                }
            }
            open.push((stream, other));
            if last.is_err() {
                break;
            }
        }
        assert!(budget.used() <= 256 * KIB && open.len() > 3, "{} by {}", budget.used(), open.len());
    }
}
