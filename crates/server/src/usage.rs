//! Counts in memory which secret let whom in, and writes it down now and then. A grant writes nothing;
//! what a crash can lose is at most one interval of counts, never a secret (P6). Each time it is said up to
//! when the counts are complete, so that whoever reads them knows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use keyrelay_core::audit::RefusalLog;
use keyrelay_core::id::NodeId;
use keyrelay_core::random::Entropy;
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_core::usage::{Outcome, PresenterRef, SecretUsage, UsageCounts, UsageKey};
use keyrelay_store::{Store, StoreError, UsageMark};

/// Rows in one write: few enough that a rotation that waits behind it does not wait for long.
const FLUSH_ROWS_MAX: usize = 200;

/// Uses since the last flush.
#[derive(Debug)]
pub(crate) struct UsageCounter {
    node: NodeId,
    counted: Mutex<UsageCounts>,
    /// Proofs that were refused, for the audit.
    refused: Mutex<RefusalLog>,
    /// Held while counts are written down: none may be called complete while others are under way.
    flushing: tokio::sync::Mutex<()>,
}

impl UsageCounter {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        Self {
            node: NodeId::random(entropy),
            counted: Mutex::default(),
            refused: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
        }
    }

    /// The server whose counts these are.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    fn counted(&self) -> MutexGuard<'_, UsageCounts> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be recorded in the audit of refused proofs.
    pub(crate) fn refused(&self) -> MutexGuard<'_, RefusalLog> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one proof. The time is read under the lock, so that none is counted as before a flush that
    /// it came too late for.
    pub(crate) fn count(&self, key: UsageKey, outcome: Outcome, by: PresenterRef<'_>, clock: &dyn Clock) {
        let mut counted = self.counted();
        counted.count(key, outcome, by, clock.now());
    }

    /// Writes down what was counted, and gives the time up to which that is all. What could not be written
    /// is kept for the next time.
    pub(crate) async fn flush(&self, store: &Store, clock: &dyn Clock) -> Result<Timestamp, StoreError> {
        let _one_at_a_time = self.flushing.lock().await;
        let (counted, complete_until) = {
            let mut counted = self.counted();
            (std::mem::take(&mut *counted), clock.now())
        };
        let mark = UsageMark { node: self.node, complete_until };
        // Whoever shares the database with others says also that there was nothing to count.
        if counted.is_empty() && !store.is_shared() {
            return Ok(complete_until);
        }
        let mut outcome = Ok(complete_until);
        let mut chunks = chunks(counted.into_ordered()).into_iter().peekable();
        if chunks.peek().is_none() {
            store.add_usage(&[], Some(mark)).await?;
        }
        while let Some(chunk) = chunks.next() {
            let mark = chunks.peek().is_none().then_some(mark);
            let written =
                if outcome.is_ok() { store.add_usage(&chunk, mark).await } else { Err(StoreError::Busy) };
            let Err(error) = written else {
                let mut refused = self.refused();
                for (key, usage) in &chunk {
                    refused.count(*key, usage);
                }
                continue;
            };
            // What may have been written is not kept, or it would be counted twice.
            if !matches!(error, StoreError::Unknown) {
                let mut counted = self.counted();
                for (key, usage) in chunk {
                    counted.take_back(key, usage);
                }
            }
            outcome = outcome.and(Err(error));
        }
        outcome
    }

    /// Says, after the last flush, that nothing more comes from here.
    pub(crate) async fn end(&self, store: &Store) -> Result<(), StoreError> {
        store.end_usage(self.node).await
    }
}

fn chunks(counted: Vec<(UsageKey, SecretUsage)>) -> Vec<Vec<(UsageKey, SecretUsage)>> {
    let mut chunks: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    for (key, usage) in counted {
        let rows = usage.callers.len() + usage.minutes.len() + 1;
        if rows > room || chunks.is_empty() {
            chunks.push(Vec::new());
            room = FLUSH_ROWS_MAX;
        }
        room = room.saturating_sub(rows);
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((key, usage));
        }
    }
    chunks
}
