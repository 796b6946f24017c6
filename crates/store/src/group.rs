//! Reads that share a query: the dual of group commit. Requests that arrive while a query is under
//! way wait for the next one, so every answer comes from a read that began after its request (P3),
//! and the cost of asking is shared. With no cache there is nothing to invalidate.

mod queue;
/// What the queue is locked by; a model checker has its own.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use keyrelay_core::limits::{DATABASE_WAIT_MAX, READ_GROUP_MAX, READ_QUEUE_MAX};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::database::{Arg, Database, Row};
use queue::{Asker, Bounds, Queue, Refused};

/// The sizes that a group is padded to, so that the query is one of few texts and its plan is kept.
const PADDED_SIZES: [usize; 4] = [1, 4, 16, READ_GROUP_MAX];

/// How many keys are read in one query.
pub(crate) struct GroupQuery<K, V> {
    /// The query for some keys, and its arguments.
    pub(crate) text: fn(&[K]) -> (String, Vec<Arg>),
    /// What a row of its answer says.
    pub(crate) row: fn(&Row) -> Result<(K, V), StoreError>,
}

/// Where an answer goes.
type Answer<V> = oneshot::Sender<Result<Option<V>, StoreError>>;
/// Reads that wait.
pub(crate) type Reads<K, V> = Queue<K, Answer<V>>;
/// Answers reads, one group after the other.
pub(crate) type Lane<K, V> = queue::Lane<K, Answer<V>>;
/// Reads that one query answers.
pub(crate) type Group<K, V> = queue::Group<K, Answer<V>>;

impl<V> Asker for Answer<V> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

/// Answers reads in groups. Whoever asks first is read first; whoever asks for the same is read with it.
#[derive(Debug)]
pub(crate) struct GroupReader<K: Copy + Eq + Hash, V> {
    queue: Arc<Reads<K, V>>,
}

impl<K: Copy + Eq + Hash, V> Drop for GroupReader<K, V> {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl<K, V> GroupReader<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Starts a reader on connections of its own, so that no kind of read waits for another.
    pub(crate) async fn start(database: &Database, query: GroupQuery<K, V>) -> Result<Self, StoreError> {
        let bounds = Bounds { waiting_max: READ_QUEUE_MAX, group_max: READ_GROUP_MAX };
        let queue = Arc::new(Queue::new(bounds));
        database.serve_reads(&queue, query).await?;
        Ok(Self { queue })
    }

    /// Whether reads can still be answered.
    pub(crate) fn is_alive(&self) -> bool {
        self.queue.is_open()
    }

    /// Reads one key. Refused at once if too many wait already, and after [`DATABASE_WAIT_MAX`].
    pub(crate) async fn read(&self, key: K) -> Result<Option<V>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.ask(key, answer).map_err(|refused| match refused {
            Refused::Full => StoreError::Busy,
            Refused::Closed => StoreError::Closed,
        })?;
        match tokio::time::timeout(DATABASE_WAIT_MAX, answered).await {
            Ok(answer) => answer.map_err(|_| StoreError::Closed)?,
            Err(_) => Err(StoreError::Busy),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> GroupQuery<K, V> {
    /// The query that answers a group. It must be sent after the group was taken, and so after every
    /// request of it arrived.
    pub(crate) fn ask(&self, group: &Group<K, V>) -> (String, Vec<Arg>) {
        (self.text)(&pad(group.iter().map(|(key, _)| *key).collect()))
    }

    /// Tells everybody of a group what was found.
    pub(crate) fn tell(&self, group: Group<K, V>, found: Result<Vec<Row>, StoreError>) {
        let found: Result<HashMap<K, V>, StoreError> =
            found.and_then(|rows| rows.iter().map(self.row).collect());
        if let Err(error) = &found {
            tracing::error!(%error, "a group read failed");
        }
        for (key, askers) in group {
            for asker in askers {
                let answer = found.as_ref().map(|found| found.get(&key).cloned());
                // Whoever asked may have gone away.
                let _ = asker.send(answer.map_err(|_| StoreError::Busy));
            }
        }
    }
}

/// Repeats the last key until the group has one of [`PADDED_SIZES`].
fn pad<K: Copy>(mut keys: Vec<K>) -> Vec<K> {
    let size = PADDED_SIZES.into_iter().find(|size| *size >= keys.len()).unwrap_or(keys.len());
    if let Some(last) = keys.last().copied() {
        keys.resize(size, last);
    }
    keys
}

/// `$1, $2, …, $n`.
pub(crate) fn placeholders(n: usize) -> String {
    (1..=n).map(|i| format!("${i}")).collect::<Vec<_>>().join(", ")
}
