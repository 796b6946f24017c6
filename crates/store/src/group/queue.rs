//! What waits to be read, and how it is taken: whoever reads takes everything that waits, up to a
//! bound, and what comes after that waits for the next to take it. Nobody joins a group that was taken;
//! that is the rule that P3 rests on.
//!
//! Each key has one place, however many ask for it, so that a burst of one delays no other. Nothing
//! here knows a database or a clock. The same file is compiled against the primitives of a model
//! checker in `tests/queue_model.rs`, which is why it takes its mutex from beside it.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

use super::sync::{Mutex, MutexGuard};

/// After how many refusals a full queue is searched again for those who do not wait any more: looking
/// at all of them costs as much as many requests.
const REFUSALS_BETWEEN_SEARCHES: usize = 64;

/// Somebody who waits for an answer.
pub(crate) trait Asker {
    /// Whether nobody waits for it any more.
    fn is_gone(&self) -> bool;
}

/// Keys that are read together, each with everybody who asked for it before the group was taken.
pub(crate) type Group<K, W> = Vec<(K, Vec<W>)>;

/// Why somebody may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait already.
    Full,
    /// Nobody reads any more.
    Closed,
}

/// How many wait, and how many keys are taken at once, at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) waiting_max: usize,
    pub(crate) group_max: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue<K, W> {
    bounds: Bounds,
    state: Mutex<State<K, W>>,
}

#[derive(Debug)]
struct State<K, W> {
    /// Keys in the order in which they were first asked for, each once.
    order: VecDeque<K>,
    asking: HashMap<K, Vec<W>>,
    waiting: usize,
    refusals: usize,
    is_open: bool,
    lanes: usize,
    lanes_ever: usize,
    /// Lanes that have nothing to do. One that is woken is taken out.
    idle: VecDeque<(usize, Waker)>,
}

impl<K: Copy + Eq + Hash, W: Asker> Queue<K, W> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let state = State {
            order: VecDeque::new(),
            asking: HashMap::new(),
            waiting: 0,
            refusals: 0,
            is_open: true,
            lanes: 0,
            lanes_ever: 0,
            idle: VecDeque::new(),
        };
        Self { bounds, state: Mutex::new(state) }
    }

    /// Waits behind whoever came before.
    pub(crate) fn ask(&self, key: K, asker: W) -> Result<(), Refused> {
        let mut state = self.lock();
        if !state.is_open {
            return Err(Refused::Closed);
        }
        if state.waiting >= self.bounds.waiting_max && !state.make_room(self.bounds.waiting_max) {
            return Err(Refused::Full);
        }
        state.waiting += 1;
        let lane = match state.asking.entry(key) {
            // Whoever takes the key was woken for the first who asked.
            Entry::Occupied(mut asking) => {
                asking.get_mut().push(asker);
                None
            }
            Entry::Vacant(free) => {
                free.insert(vec![asker]);
                state.order.push_back(key);
                state.idle.pop_front()
            }
        };
        drop(state);
        wake(lane);
        Ok(())
    }

    /// Another reader beside those there are. When the last has gone, nobody is left waiting.
    pub(crate) fn lane(self: &Arc<Self>) -> Lane<K, W> {
        let mut state = self.lock();
        state.lanes += 1;
        state.lanes_ever += 1;
        Lane { id: state.lanes_ever, queue: Arc::clone(self) }
    }

    /// Takes nothing more in. What waits is still read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_open = false;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        for lane in idle {
            wake(Some(lane));
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open
    }
}

impl<K, W> Queue<K, W> {
    fn lock(&self) -> MutexGuard<'_, State<K, W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash, W: Asker> State<K, W> {
    fn take(&mut self, group_max: usize) -> Group<K, W> {
        let mut group = Group::with_capacity(self.order.len().min(group_max));
        while group.len() < group_max {
            let Some(key) = self.order.pop_front() else { break };
            let mut askers = self.asking.remove(&key).unwrap_or_default();
            self.waiting -= askers.len();
            askers.retain(|asker| !asker.is_gone());
            if !askers.is_empty() {
                group.push((key, askers));
            }
        }
        group
    }

    /// Forgets those who have gone, and says whether there is room now.
    fn make_room(&mut self, waiting_max: usize) -> bool {
        let searches = self.refusals.is_multiple_of(REFUSALS_BETWEEN_SEARCHES);
        self.refusals = self.refusals.wrapping_add(1);
        if searches {
            self.asking.retain(|_, askers| {
                askers.retain(|asker| !asker.is_gone());
                !askers.is_empty()
            });
            self.order.retain(|key| self.asking.contains_key(key));
            self.waiting = self.asking.values().map(Vec::len).sum();
        }
        self.waiting < waiting_max
    }
}

impl<K, W> State<K, W> {
    /// Another lane, if there is work for it.
    fn relief(&mut self) -> Option<(usize, Waker)> {
        if self.order.is_empty() { None } else { self.idle.pop_front() }
    }
}

fn wake(lane: Option<(usize, Waker)>) {
    if let Some((_, waker)) = lane {
        waker.wake();
    }
}

/// Takes groups, one after the other.
#[derive(Debug)]
pub(crate) struct Lane<K, W> {
    id: usize,
    queue: Arc<Queue<K, W>>,
}

impl<K: Copy + Eq + Hash, W: Asker> Lane<K, W> {
    /// The next group, as soon as somebody waits; `None` once the queue is closed and empty. What is
    /// read for the group must be read after this.
    pub(crate) const fn next(&mut self) -> Next<'_, K, W> {
        Next { lane: self, has_ended: false }
    }
}

impl<K, W> Drop for Lane<K, W> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.lanes -= 1;
        if state.lanes == 0 {
            state.is_open = false;
            state.order.clear();
            state.waiting = 0;
            // They are told by being dropped, when the lock is free.
            let _gone = std::mem::take(&mut state.asking);
            drop(state);
        }
    }
}

/// See [`Lane::next`]. It may be dropped at any time.
#[derive(Debug)]
pub(crate) struct Next<'a, K, W> {
    lane: &'a Lane<K, W>,
    has_ended: bool,
}

impl<K: Copy + Eq + Hash, W: Asker> Future for Next<'_, K, W> {
    type Output = Option<Group<K, W>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let lane = self.lane;
        let mut state = lane.queue.lock();
        state.idle.retain(|(id, _)| *id != lane.id);
        let group = state.take(lane.queue.bounds.group_max);
        if group.is_empty() && state.is_open {
            state.idle.push_back((lane.id, context.waker().clone()));
            return Poll::Pending;
        }
        let relief = state.relief();
        drop(state);
        wake(relief);
        self.has_ended = true;
        Poll::Ready(if group.is_empty() { None } else { Some(group) })
    }
}

impl<K, W> Drop for Next<'_, K, W> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut state = self.lane.queue.lock();
        state.idle.retain(|(id, _)| *id != self.lane.id);
        // This lane may have been woken for what waits: then another must be.
        let relief = state.relief();
        drop(state);
        wake(relief);
    }
}
