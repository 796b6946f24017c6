//! Reads that share a query: the dual of group commit. Requests that arrive while a query is under
//! way wait for the next one, so every answer comes from a read that began after its request (P3),
//! and the cost of asking is shared. With no cache there is nothing to invalidate.

use std::collections::HashMap;
use std::hash::Hash;

use keyrelay_core::limits::{DATABASE_WAIT_MAX, READ_GROUP_MAX, READ_QUEUE_MAX};
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::database::{Arg, Database, Row};

/// The sizes that a group is padded to, so that the query is one of few texts and its plan is kept.
const PADDED_SIZES: [usize; 4] = [1, 4, 16, READ_GROUP_MAX];

/// How many keys are read in one query.
pub(crate) struct GroupQuery<K, V> {
    /// The query for some keys, and its arguments.
    pub(crate) text: fn(&[K]) -> (String, Vec<Arg>),
    /// What a row of its answer says.
    pub(crate) row: fn(&Row) -> Result<(K, V), StoreError>,
}

/// One read that somebody waits for.
pub(crate) struct Request<K, V> {
    key: K,
    answer: oneshot::Sender<Result<Option<V>, StoreError>>,
}

/// Answers reads in groups, in the order in which they arrive.
#[derive(Debug)]
pub(crate) struct GroupReader<K, V> {
    queue: mpsc::Sender<Request<K, V>>,
}

impl<K, V> GroupReader<K, V>
where
    K: Copy + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Starts a reader on a connection of its own.
    pub(crate) async fn start(database: &Database, query: GroupQuery<K, V>) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(READ_QUEUE_MAX);
        database.serve_reads(requests, query).await?;
        Ok(Self { queue })
    }

    /// Whether reads can still be answered.
    pub(crate) fn is_alive(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Reads one key. Refused at once if too many wait already, and after [`DATABASE_WAIT_MAX`].
    pub(crate) async fn read(&self, key: K) -> Result<Option<V>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Request { key, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        match tokio::time::timeout(DATABASE_WAIT_MAX, answered).await {
            Ok(answer) => answer.map_err(|_| StoreError::Closed)?,
            Err(_) => Err(StoreError::Busy),
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> GroupQuery<K, V> {
    /// The query that answers a group. It must be sent after this, and so after every request of the
    /// group arrived.
    pub(crate) fn ask(&self, group: &[Request<K, V>]) -> (String, Vec<Arg>) {
        (self.text)(&pad(distinct(group)))
    }

    /// Tells everybody of a group what was found.
    pub(crate) fn tell(
        &self,
        group: impl IntoIterator<Item = Request<K, V>>,
        found: Result<Vec<Row>, StoreError>,
    ) {
        let found: Result<HashMap<K, V>, StoreError> =
            found.and_then(|rows| rows.iter().map(self.row).collect());
        if let Err(error) = &found {
            tracing::error!(%error, "a group read failed");
        }
        for request in group {
            let answer = found.as_ref().map(|found| found.get(&request.key).cloned());
            // Whoever asked may have gone away.
            let _ = request.answer.send(answer.map_err(|_| StoreError::Busy));
        }
    }
}

fn distinct<K: Copy + Eq, V>(group: &[Request<K, V>]) -> Vec<K> {
    let mut keys: Vec<K> = Vec::with_capacity(group.len());
    for request in group {
        if !keys.contains(&request.key) {
            keys.push(request.key);
        }
    }
    keys
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_few_sizes() {
        for (n, padded) in [(1, 1), (2, 4), (4, 4), (5, 16), (17, 64), (64, 64)] {
            let keys = pad((0..n).collect());
            assert_eq!((keys.len(), keys.last()), (padded, Some(&(n - 1))));
        }
    }
}
