//! Work that may panic without ending its thread or task. A thread or a task that a server needs runs each turn of its
//! work in here, so that a panic ends that turn only. The panic hook reports it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// The work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Runs a turn of work. Its data must stay consistent after a panic, as data behind a lock does.
///
/// # Errors
///
/// [`Panicked`] if it did.
pub fn survive<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// The same for asynchronous work, which is dropped after a panic.
///
/// # Errors
///
/// [`Panicked`] if it did.
pub async fn survive_waiting<F: Future>(work: F) -> Result<F::Output, Panicked> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| match survive(|| work.as_mut().poll(context)) {
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn a_panic_is_an_outcome() {
        assert_eq!(survive(|| 1), Ok(1));
        assert_eq!(survive(|| -> u8 { panic!("of this test") }), Err(Panicked));
        let poll = |work| {
            let mut work = pin!(survive_waiting(work));
            work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        let turn = |panics: bool| async move {
            assert!(!panics, "of this test");
            2
        };
        assert_eq!(poll(turn(false)), Poll::Ready(Ok(2)));
        assert_eq!(poll(turn(true)), Poll::Ready(Err(Panicked)));
    }
}
