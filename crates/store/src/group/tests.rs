//! What the queue and the reader of groups do, one step at a time.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::queue::{Asker, Bounds, Group, Lane, Queue, Refused};
use super::{GroupQuery, GroupReader, pad};
use crate::ReadBounds;
use crate::database::Database;

const BOUNDS: Bounds = Bounds { waiting_max: 8, group_max: 4 };

/// Who asked, and whether they have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Somebody(u32, bool);

impl Asker for Somebody {
    fn is_gone(&self) -> bool {
        self.1
    }
}

const fn here(n: u32) -> Somebody {
    Somebody(n, false)
}

const fn gone(n: u32) -> Somebody {
    Somebody(n, true)
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn taken(lane: &mut Lane<u32, Somebody>) -> Group<u32, Somebody> {
    match poll(lane.next()) {
        Poll::Ready(Some(group)) => group,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_burst_for_one_key_delays_no_other() {
    let queue = Arc::new(Queue::new(BOUNDS));
    let mut lane = queue.lane();
    for n in 0..7 {
        queue.ask(1, here(n)).unwrap();
    }
    queue.ask(2, here(7)).unwrap();
    let group = taken(&mut lane);
    assert_eq!(group.iter().map(|(key, askers)| (*key, askers.len())).collect::<Vec<_>>(), [(1, 7), (2, 1)]);
}

#[test]
fn keys_are_taken_in_the_order_in_which_they_came() {
    let queue = Arc::new(Queue::new(BOUNDS));
    let mut lane = queue.lane();
    for key in [5, 1, 4, 2, 3] {
        queue.ask(key, here(key)).unwrap();
    }
    let keys = |group: Group<u32, Somebody>| group.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(taken(&mut lane)), [5, 1, 4, 2]);
    // Asked for again, it is behind the one that waits already.
    queue.ask(5, here(5)).unwrap();
    assert_eq!(keys(taken(&mut lane)), [3, 5]);
}

#[test]
fn nobody_joins_a_group_that_was_taken() {
    let queue = Arc::new(Queue::new(BOUNDS));
    let mut lane = queue.lane();
    queue.ask(1, here(1)).unwrap();
    assert_eq!(taken(&mut lane), [(1, vec![here(1)])]);
    queue.ask(1, here(2)).unwrap();
    assert_eq!(taken(&mut lane), [(1, vec![here(2)])]);
}

#[test]
fn what_nobody_waits_for_is_not_read_and_takes_no_room() {
    let queue = Arc::new(Queue::new(BOUNDS));
    let mut lane = queue.lane();
    for n in 0..4 {
        queue.ask(n, gone(n)).unwrap();
        queue.ask(9, here(n)).unwrap();
    }
    queue.ask(9, here(4)).unwrap();
    assert_eq!(taken(&mut lane), [(9, (0..5).map(here).collect())]);
    assert!(poll(lane.next()).is_pending());
    for n in 0..8 {
        queue.ask(n, here(n)).unwrap();
    }
    assert_eq!(queue.ask(9, here(9)), Err(Refused::Full));
}

#[test]
fn a_lane_that_is_woken_and_goes_away_wakes_another() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let queue = Arc::new(Queue::new(BOUNDS));
    let (mut first, mut second) = (queue.lane(), queue.lane());
    let woken = Arc::new(Count(0.into()));
    let waker = Waker::from(Arc::clone(&woken));
    let mut next = Box::pin(first.next());
    let mut other = Box::pin(second.next());
    assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert!(other.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    queue.ask(1, here(1)).unwrap();
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 0);
    drop(next);
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_queue_is_closed_from_either_side() {
    let queue = Arc::new(Queue::new(BOUNDS));
    let mut lane = queue.lane();
    queue.ask(1, here(1)).unwrap();
    queue.close();
    assert_eq!(queue.ask(2, here(2)), Err(Refused::Closed));
    assert_eq!(taken(&mut lane).len(), 1);
    assert_eq!(poll(lane.next()), Poll::Ready(None));
    let queue = Arc::new(Queue::<u32, Somebody>::new(BOUNDS));
    let lanes = [queue.lane(), queue.lane()];
    assert!(queue.is_open());
    drop(lanes);
    assert!(!queue.is_open());
}

#[test]
fn groups_have_few_sizes() {
    for (n, padded) in [(1, 1), (2, 4), (4, 4), (5, 16), (17, 64), (64, 64)] {
        let keys = pad((0..n).collect());
        assert_eq!((keys.len(), keys.last()), (padded, Some(&(n - 1))));
    }
}

#[tokio::test]
async fn a_read_that_panics_ends_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let database =
        Database::open_sqlite(&dir.path().join("keyrelay.db"), ReadBounds::default()).await.unwrap();
    let query = GroupQuery {
        text: |keys: &[u32]| (format!("SELECT {}", keys[0]), Vec::new()),
        row: |row| {
            let found = row.int(0)?;
            assert_ne!(found, 13, "of this test");
            Ok((u32::try_from(found).unwrap(), found))
        },
    };
    let reader = GroupReader::start(&database, query).await.unwrap();
    assert!(reader.read(13).await.is_err());
    assert!(matches!(reader.read(14).await, Ok(Some(14))));
    assert!(reader.is_alive());
}
