//! Counts in memory which secret let whom in, and writes it down now and then. A grant writes nothing;
//! what a crash can lose is at most one interval of counts, never a secret (P6). Each time it is said up to
//! when the counts are complete, so that whoever reads them knows. A server says so first when it starts: one
//! that is killed leaves a mark that tells of what it may have lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyrelay_core::audit::RefusalLog;
use keyrelay_core::id::{NodeId, ProjectId};
use keyrelay_core::random::Entropy;
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_core::usage::{Outcome, PresenterRef, SecretUsage, UsageCounts, UsageKey};
use keyrelay_store::{Conflict, Store, StoreError, UsageMark};
use tokio::sync::Mutex as AsyncMutex;

/// Rows in one write: few enough that a rotation that waits behind it does not wait for long.
const FLUSH_ROWS_MAX: usize = 200;

/// Uses since the last flush.
pub(crate) struct UsageCounter {
    store: Store,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    counted: Mutex<UsageCounts>,
    /// Proofs that were refused, for the audit.
    refused: Mutex<RefusalLog>,
    /// Held while counts are written down: none may be called complete while others are under way.
    ledger: AsyncMutex<Ledger>,
}

/// What this server has written down.
struct Ledger {
    /// As it is in the database, but for what is in doubt.
    mark: UsageMark,
    /// Up to when all is written down. Later than the mark where there was nothing to write.
    complete_until: Timestamp,
    in_doubt: Option<Chunk>,
}

/// Counts that are written down together.
struct Chunk {
    counts: Vec<(UsageKey, SecretUsage)>,
    /// Up to when all is written down with them.
    complete_until: Timestamp,
}

impl UsageCounter {
    /// Begins to count, and leaves a mark of it.
    pub(crate) async fn begin(
        store: Store,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let (node, now) = (NodeId::random(entropy.as_ref()), clock.now());
        let mark = if store.refuses_changes() {
            UsageMark { node, complete_until: now, flushes: 0, ended: None }
        } else {
            store.begin_usage(node, now, now).await?
        };
        let ledger = Ledger { mark, complete_until: now, in_doubt: None };
        Ok(Self {
            store,
            clock,
            entropy,
            counted: Mutex::default(),
            refused: Mutex::default(),
            ledger: AsyncMutex::new(ledger),
        })
    }

    /// The server whose counts these are, and up to when they are all written down.
    pub(crate) async fn reach(&self) -> (NodeId, Timestamp) {
        let ledger = self.ledger.lock().await;
        (ledger.mark.node, ledger.complete_until)
    }

    fn counted(&self) -> MutexGuard<'_, UsageCounts> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be recorded in the audit of refused proofs.
    pub(crate) fn refused(&self) -> MutexGuard<'_, RefusalLog> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one proof, unless nothing can be written down anyway: the mark that stays behind tells of it. The
    /// time is read under the lock, so that none is counted as before a flush that it came too late for.
    pub(crate) fn count(&self, project: ProjectId, key: UsageKey, outcome: Outcome, by: PresenterRef<'_>) {
        if self.store.refuses_changes() {
            return;
        }
        let mut counted = self.counted();
        counted.count(project, key, outcome, by, self.clock.now());
    }

    /// Writes down what was counted, and gives the time up to which that is all. What could not be written
    /// is kept for the next time. `all` says whether everything that there is to count has been counted; if
    /// not, nothing more is called complete. To be seen through once begun: what is under way is counted nowhere else.
    pub(crate) async fn flush(&self, all: bool) -> Result<Timestamp, StoreError> {
        let mut ledger = self.ledger.lock().await;
        if let Some(chunk) = ledger.in_doubt.take() {
            self.write(&mut ledger, chunk, true).await?;
        }
        let (counted, now) = {
            let mut counted = self.counted();
            (std::mem::take(&mut *counted), self.clock.now())
        };
        let complete_until = if all { now } else { ledger.mark.complete_until };
        let mut chunks = chunks(counted.into_ordered());
        // Whoever shares the database with others says also that there was nothing to count.
        if chunks.is_empty() && self.store.is_shared() {
            chunks.push(Vec::new());
        }
        let mut chunks = chunks.into_iter().peekable();
        while let Some(counts) = chunks.next() {
            let is_last = chunks.peek().is_none();
            let complete_until = if is_last { complete_until } else { ledger.mark.complete_until };
            let written = self.write(&mut ledger, Chunk { counts, complete_until }, false).await;
            if written.is_err() {
                chunks.for_each(|counts| self.take_back(counts));
                return written.map(|()| complete_until);
            }
        }
        if all {
            ledger.complete_until = complete_until;
        }
        Ok(complete_until)
    }

    /// Writes a chunk. It is in doubt while it is not known whether that was done; `again` says that it was
    /// before.
    async fn write(&self, ledger: &mut Ledger, chunk: Chunk, again: bool) -> Result<(), StoreError> {
        let written = self.store.add_usage(&chunk.counts, ledger.mark, chunk.complete_until).await;
        let written = match written {
            Err(StoreError::Conflict(_)) if again => {
                self.found(ledger.mark.moved(chunk.complete_until)).await
            }
            written => written,
        };
        match written {
            Ok(mark) => {
                ledger.mark = mark;
                let mut refused = self.refused();
                for (key, usage) in &chunk.counts {
                    refused.count(*key, usage);
                }
                Ok(())
            }
            Err(StoreError::Conflict(why)) => {
                self.take_back(chunk.counts);
                self.begin_again(ledger).await?;
                Err(why.into())
            }
            Err(error) if again || matches!(error, StoreError::Unknown) => {
                ledger.in_doubt = Some(chunk);
                Err(error)
            }
            Err(error) => {
                self.take_back(chunk.counts);
                Err(error)
            }
        }
    }

    /// The mark as a flush would have left it, if that is how it is.
    async fn found(&self, expected: UsageMark) -> Result<UsageMark, StoreError> {
        let marks = self.store.usage_marks().await?;
        let was_done =
            marks.iter().any(|mark| (mark.node, mark.flushes) == (expected.node, expected.flushes));
        if was_done { Ok(expected) } else { Err(Conflict::Version.into()) }
    }

    /// Goes on as another server where the database no longer knows what this one has written, as after a
    /// restored copy. The mark that it knows stays behind and tells of the gap.
    async fn begin_again(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        tracing::warn!("the database does not know all uses that were written down");
        let node = NodeId::random(self.entropy.as_ref());
        let since = ledger.mark.complete_until;
        ledger.mark = self.store.begin_usage(node, since, self.clock.now()).await?;
        Ok(())
    }

    fn take_back(&self, counts: Vec<(UsageKey, SecretUsage)>) {
        let mut counted = self.counted();
        for (key, usage) in counts {
            counted.take_back(key, usage);
        }
    }

    /// Says, after the last flush, that nothing more comes from here.
    pub(crate) async fn end(&self) -> Result<(), StoreError> {
        let (node, _) = self.reach().await;
        self.store.end_usage(node).await
    }
}

/// What is written down together: no chunk takes more than [`FLUSH_ROWS_MAX`] rows, and of a secret with more
/// there are several.
fn chunks(counted: Vec<(UsageKey, SecretUsage)>) -> Vec<Vec<(UsageKey, SecretUsage)>> {
    let mut chunks: Vec<Vec<_>> = Vec::new();
    let mut room = 0;
    let parts = counted
        .into_iter()
        .flat_map(|(key, usage)| usage.split(FLUSH_ROWS_MAX).into_iter().map(move |part| (key, part)));
    for (key, part) in parts {
        let rows = part.rows();
        if rows > room {
            chunks.push(Vec::new());
            room = FLUSH_ROWS_MAX;
        }
        room = room.saturating_sub(rows);
        if let Some(chunk) = chunks.last_mut() {
            chunk.push((key, part));
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use keyrelay_core::id::{ClientId, SecretId};
    use keyrelay_core::random::SeededEntropy;
    use keyrelay_core::time::ManualClock;

    use super::*;

    #[tokio::test]
    async fn where_nothing_is_written_down_nothing_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&dir.path().join("keyrelay.sqlite")).await.unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_epoch_ms(0)));
        let entropy = Arc::new(SeededEntropy::new(1));
        let usage = UsageCounter::begin(store.clone(), clock, entropy).await.unwrap();
        let key = UsageKey { client: ClientId::NIL, secret: SecretId::NIL };
        let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), "curl", "");
        usage.count(ProjectId::NIL, key, Outcome::Accepted, by);
        assert!(!usage.counted().is_empty());
        usage.flush(true).await.unwrap();
        store.refuse_changes();
        usage.count(ProjectId::NIL, key, Outcome::Accepted, by);
        assert!(usage.counted().is_empty());
    }

    #[test]
    fn no_write_is_large_whatever_waits_to_be_written() {
        let mut counts = UsageCounts::default();
        let secret = |n| SecretId::from(uuid::Uuid::from_u128(n));
        let (days, secrets) = (2 * 24 * 60, 3);
        for minute in 0..days {
            for n in 0..secrets {
                let name = format!("{minute}");
                let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), &name, "");
                let key = UsageKey { client: ClientId::NIL, secret: secret(n) };
                counts.count(
                    ProjectId::NIL,
                    key,
                    Outcome::Accepted,
                    by,
                    Timestamp::from_epoch_ms(minute * 60_000),
                );
            }
        }
        let chunks = chunks(counts.into_ordered());
        let rows = |chunk: &Vec<(_, SecretUsage)>| chunk.iter().map(|(_, part)| part.rows()).sum::<usize>();
        assert!(chunks.iter().all(|chunk| rows(chunk) <= FLUSH_ROWS_MAX));
        let all: i64 = chunks.iter().flatten().map(|(_, part)| part.total.accepted).sum();
        assert_eq!(all, days * i64::try_from(secrets).unwrap());
    }
}
