//! The queue of group reads under a model checker, which tries the orders in which threads may run: the
//! same source as the store's, with the checker's mutex in the place of the standard library's.
//!
//! What is asked of every order: each answer is from a read that began after its request (P3), everybody
//! is answered, and nobody waits for ever. That the checker can see a fault is shown by queues that
//! have one.

#[path = "../src/group/queue.rs"]
mod queue;
mod sync {
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use queue::{Asker, Bounds, Lane, Queue, Refused};
use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::{future, thread};

/// Orders that are tried where no other number is set.
const ORDERS: usize = 1_000;
/// How often a thread is held up at the worst moment, in the search that places few hold-ups well.
const HOLD_UPS: usize = 3;
const LANES: usize = 2;
const KEYS: usize = 2;
/// Each asks twice: the second time is after something that was committed since the first.
const ASKERS: usize = 3;

struct Asking {
    answer: Sender<usize>,
    gone: Arc<AtomicBool>,
}

impl Asker for Asking {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

/// What serves reads in one way or another.
trait Reading: Send + Sync + 'static {
    /// Asks for a key.
    fn ask(&self, key: usize) -> Receiver<usize>;
    /// Serves until it is closed. `read` asks the database.
    fn serve(self: Arc<Self>, read: impl Fn() -> usize);
    fn close(&self);
}

/// The store's own.
struct Ours(Arc<Queue<usize, Asking>>);

impl Ours {
    fn new() -> Self {
        Self(Arc::new(Queue::new(Bounds { waiting_max: 100, group_max: 1 })))
    }
}

fn asking() -> (Asking, Receiver<usize>) {
    let (answer, answered) = channel();
    (Asking { answer, gone: Arc::new(AtomicBool::new(false)) }, answered)
}

/// A group of one key is taken, then read, then told. Between two groups the connection may be lost.
async fn serve(mut lane: Lane<usize, Asking>, read: impl Fn() -> usize) {
    loop {
        // The first look at the queue is given up when it has found nothing, as when a connection is lost.
        if let Some(Some(group)) = once(lane.next()).await {
            tell(group, read());
            continue;
        }
        let Some(group) = lane.next().await else { return };
        tell(group, read());
    }
}

fn tell(group: queue::Group<usize, Asking>, found: usize) {
    for asker in group.into_iter().flat_map(|(_, askers)| askers) {
        let _ = asker.answer.send(found);
    }
}

/// Waits for the future to be woken once, and drops it if it is still not done.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    struct Once<F>(Pin<Box<F>>, bool);
    impl<F: Future> Future for Once<F> {
        type Output = Option<F::Output>;
        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            if self.1 {
                return Poll::Ready(None);
            }
            self.1 = true;
            match self.0.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => {
                    // Another task may run before this one comes back.
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        }
    }
    Once(Box::pin(future), false).await
}

impl Reading for Ours {
    fn ask(&self, key: usize) -> Receiver<usize> {
        let (asking, answered) = asking();
        self.0.ask(key, asking).unwrap();
        answered
    }

    fn serve(self: Arc<Self>, read: impl Fn() -> usize) {
        future::block_on(serve(self.0.lane(), read));
    }

    fn close(&self) {
        self.0.close();
    }
}

/// As ours, but whoever asks for a key that is being read gets what that read finds.
struct Joining {
    ours: Ours,
    joined: sync::Mutex<Vec<Asking>>,
}

impl Reading for Joining {
    fn ask(&self, key: usize) -> Receiver<usize> {
        let (asking, answered) = asking();
        let mut joined = self.joined.lock().unwrap();
        if joined.is_empty() {
            drop(joined);
            self.ours.0.ask(key, asking).unwrap();
        } else {
            joined.push(asking);
        }
        answered
    }

    fn serve(self: Arc<Self>, read: impl Fn() -> usize) {
        let mut lane = self.ours.0.lane();
        future::block_on(async {
            while let Some(mut group) = lane.next().await {
                let (_, askers) = group.remove(0);
                self.joined.lock().unwrap().extend(askers);
                let found = read();
                for asker in self.joined.lock().unwrap().drain(..) {
                    let _ = asker.answer.send(found);
                }
            }
        });
    }

    fn close(&self) {
        self.ours.close();
    }
}

/// As ours, but reads before it takes a group.
struct Early(Ours);

impl Reading for Early {
    fn ask(&self, key: usize) -> Receiver<usize> {
        self.0.ask(key)
    }

    fn serve(self: Arc<Self>, read: impl Fn() -> usize) {
        let mut lane = self.0.0.lane();
        future::block_on(async {
            loop {
                let found = read();
                let Some(group) = lane.next().await else { return };
                tell(group, found);
            }
        });
    }

    fn close(&self) {
        self.0.close();
    }
}

/// As ours, but a lane that was woken may forget it.
struct Forgetful(Ours);

impl Reading for Forgetful {
    fn ask(&self, key: usize) -> Receiver<usize> {
        self.0.ask(key)
    }

    fn serve(self: Arc<Self>, read: impl Fn() -> usize) {
        let mut lane = self.0.0.lane();
        future::block_on(async {
            // Without `Drop`, the look that is given up keeps its place among the idle.
            if let Some(Some(group)) = once(std::mem::ManuallyDrop::new(Box::pin(lane.next())).as_mut()).await
            {
                tell(group, read());
            }
            std::future::pending::<()>().await;
        });
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Some ask, some read, and the database moves on meanwhile.
fn scene<R: Reading>(reading: R) {
    let (reading, committed) = (Arc::new(reading), Arc::new(AtomicUsize::new(0)));
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (reading, committed) = (Arc::clone(&reading), Arc::clone(&committed));
            thread::spawn(move || reading.serve(|| committed.load(Ordering::SeqCst)))
        })
        .collect();
    let askers: Vec<_> = (0..ASKERS)
        .map(|n| {
            let (reading, committed) = (Arc::clone(&reading), Arc::clone(&committed));
            thread::spawn(move || {
                for _ in 0..2 {
                    // A retirement that was answered before the secret is presented.
                    let retired = committed.fetch_add(1, Ordering::SeqCst) + 1;
                    let found = reading.ask(n % KEYS).recv().expect("everybody is answered");
                    assert!(found >= retired, "an answer is older than its request");
                }
            })
        })
        .collect();
    for asker in askers {
        asker.join().unwrap();
    }
    reading.close();
    for lane in lanes {
        lane.join().unwrap();
    }
}

/// Tries orders at random, and orders in which few threads are held up at the worst moment.
fn check<R: Reading>(new: impl Fn() -> R + Copy + Send + Sync + 'static) {
    let orders = std::env::var("KEYRELAY_MODEL_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(ORDERS);
    shuttle::check_random(move || scene(new()), orders);
    shuttle::check_pct(move || scene(new()), orders, HOLD_UPS);
}

/// What the checker says of a queue with a fault.
fn fault<R: Reading>(new: impl Fn() -> R + Copy + Send + Sync + 'static) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| check(new))).expect_err("the fault is found");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

#[test]
fn every_answer_is_from_a_read_that_began_after_its_request() {
    check(Ours::new);
}

#[test]
fn joining_a_read_under_way_is_found_out() {
    let found = fault(|| Joining { ours: Ours::new(), joined: sync::Mutex::new(Vec::new()) });
    assert!(found.contains("an answer is older than its request"), "{found}");
}

#[test]
fn reading_before_the_group_is_taken_is_found_out() {
    let found = fault(|| Early(Ours::new()));
    assert!(found.contains("an answer is older than its request"), "{found}");
}

#[test]
fn a_lane_that_forgets_that_it_was_woken_is_found_out() {
    let found = fault(|| Forgetful(Ours::new()));
    assert!(found.contains("deadlock"), "{found}");
}

/// Whoever has gone is not read, and those that wait are told when the last lane has gone.
#[test]
fn nobody_waits_for_lanes_that_have_gone() {
    let scene = || {
        let ours = Ours::new();
        let lane = ours.0.lane();
        let asker = {
            let queue = Arc::clone(&ours.0);
            thread::spawn(move || {
                let (asking, answered) = asking();
                match queue.ask(1, asking) {
                    Ok(()) => assert!(answered.recv().is_err()),
                    Err(refused) => assert_eq!(refused, Refused::Closed),
                }
            })
        };
        drop(lane);
        asker.join().unwrap();
        assert!(!ours.0.is_open());
    };
    shuttle::check_dfs(scene, None);
}
