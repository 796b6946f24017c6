//! Attempts at an account, by password or code. Each counts as a failure before it is checked, and is taken back
//! afterwards if it was correct. So many parallel guesses reveal no more than the same guesses one by one.
//!
//! They are counted in memory and recorded beside the request. If a refusal waited for the queue of changes, its time
//! would reveal that the account exists. Several servers on one database count separately until the count is
//! recorded, which takes milliseconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyrelay_core::id::UserId;
use keyrelay_core::limits::{
    CONFLICT_RETRIES_MAX, DATABASE_WAIT_MAX, LOGIN_FAILURES_REMEMBERED_MAX, LOGIN_FAILURES_WRITTEN_AT_ONCE,
    LOGIN_WAIT_FIRST, RETRY_AFTER,
};
use keyrelay_core::lockout;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Store, StoreError, UserAccount};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::App;

/// Failures in a row, and when the last of them was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Failures {
    count: u32,
    last: Option<Timestamp>,
}

impl Failures {
    const fn of(account: &UserAccount) -> Self {
        Self { count: account.failures, last: account.last_failure }
    }
}

/// An account with counts of this server.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The last known value in the database.
    stored: Failures,
    /// The value to write.
    now: Failures,
    /// The value that is being written.
    writing: Option<Failures>,
    /// A read that began before this may have missed what was written.
    seen_from: u64,
}

impl Entry {
    /// Another server has changed the stored value: adds the counts of this server to it.
    fn rebase(&mut self, stored: Failures) {
        let own = i64::from(self.now.count) - i64::from(self.stored.count);
        let count = u32::try_from((i64::from(stored.count) + own).max(0)).unwrap_or(u32::MAX);
        let last = if own > 0 { self.now.last.max(stored.last) } else { stored.last };
        self.now = Failures { count, last: last.filter(|_| count > 0) };
        (self.stored, self.writing) = (stored, None);
    }
}

/// When a read of an account began, as the number of writes that were done by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look(u64);

#[derive(Debug, Default)]
struct Counts {
    entries: HashMap<UserId, Entry>,
    writes: u64,
    /// A read that began before this may have missed writes of accounts that were removed since.
    forgot: u64,
}

enum Counted {
    /// The failures before this attempt.
    After(Failures),
    /// The account refuses every attempt for so long.
    Waits(Duration),
    /// What was read is too old.
    LookAgain,
}

impl Counts {
    fn count(&mut self, account: &UserAccount, look: Look, now: Timestamp) -> Counted {
        let (id, stored) = (account.row.id, Failures::of(account));
        if !self.entries.contains_key(&id) {
            if look.0 < self.forgot {
                return Counted::LookAgain;
            }
            if !self.has_room() {
                return Counted::Waits(LOGIN_WAIT_FIRST);
            }
        }
        let new = Entry { stored, now: stored, writing: None, seen_from: 0 };
        let entry = self.entries.entry(id).or_insert(new);
        if look.0 < entry.seen_from {
            return Counted::LookAgain;
        }
        if stored != entry.stored && Some(stored) != entry.writing {
            entry.rebase(stored);
        }
        let before = entry.now;
        if let Some(wait) = lockout::wait(before.count, before.last, now) {
            return Counted::Waits(wait);
        }
        entry.now = Failures { count: before.count.saturating_add(1), last: Some(now) };
        Counted::After(before)
    }

    /// Removes accounts whose counts are all recorded, if there are too many.
    fn has_room(&mut self) -> bool {
        if self.entries.len() >= LOGIN_FAILURES_REMEMBERED_MAX {
            self.entries.retain(|_, entry| entry.now != entry.stored || entry.writing.is_some());
            self.writes += 1;
            self.forgot = self.writes;
        }
        self.entries.len() < LOGIN_FAILURES_REMEMBERED_MAX
    }

    /// The entry of an account after an attempt, to be changed.
    fn attempted(&mut self, before: &UserAccount) -> &mut Entry {
        let now = Failures { count: before.failures.saturating_add(1), last: before.last_failure };
        let new = Entry { stored: now, now, writing: None, seen_from: 0 };
        self.entries.entry(before.row.id).or_insert(new)
    }

    /// Some accounts with unrecorded counts, each with the stored value and the value to write.
    fn unwritten(&mut self) -> Vec<(UserId, Failures, Failures)> {
        let all = self.entries.iter_mut().filter(|(_, entry)| entry.now != entry.stored);
        let some = all.take(LOGIN_FAILURES_WRITTEN_AT_ONCE);
        some.map(|(id, entry)| {
            entry.writing = Some(entry.now);
            (*id, entry.stored, entry.now)
        })
        .collect()
    }

    /// Takes the value that the database has after a write; `None` if the account is gone.
    fn written(&mut self, id: UserId, found: Option<Failures>) {
        self.writes += 1;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(found) = found else {
            self.entries.remove(&id);
            return;
        };
        entry.seen_from = self.writes;
        if entry.writing == Some(found) {
            (entry.stored, entry.writing) = (found, None);
        } else {
            entry.rebase(found);
        }
    }
}

#[derive(Debug)]
enum Message {
    Counted,
    /// Answers when all counts before it were recorded, or failed to be.
    Settle(oneshot::Sender<()>),
}

/// Counts attempts.
pub(crate) struct Attempts {
    counts: Arc<Mutex<Counts>>,
    queue: mpsc::Sender<Message>,
}

impl Attempts {
    /// Starts the task that records them, which ends when this is dropped.
    pub(crate) fn start(store: Store) -> Self {
        let counts = Arc::<Mutex<Counts>>::default();
        let (queue, mut messages) = mpsc::channel(2);
        let writer = Writer { store, counts: Arc::clone(&counts) };
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Counted => {
                        while !writer.write_all().await && !messages.is_closed() {
                            sleep(RETRY_AFTER).await;
                        }
                    }
                    Message::Settle(tell) => {
                        writer.write_all().await;
                        let _ = tell.send(());
                    }
                }
            }
        });
        Self { counts, queue }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before an account is read.
    pub(super) fn look(&self) -> Look {
        Look(self.counts().writes)
    }

    /// Wakes the writer. If the queue is full, the writer will run anyway.
    fn changed(&self) {
        let _ = self.queue.try_send(Message::Counted);
    }

    /// Resets the failures of an account after a correct attempt.
    pub(super) fn forgive(&self, before: &UserAccount) {
        self.counts().attempted(before).now = Failures::default();
        self.changed();
    }

    /// Takes back the failure that was counted for one attempt at the account, which was `before`. Other failures
    /// stay, and the time of the last one is restored if none came since.
    pub(super) fn take_back(&self, before: &UserAccount) {
        let mut counts = self.counts();
        let now = &mut counts.attempted(before).now;
        now.count = now.count.saturating_sub(1);
        if now.count == before.failures {
            now.last = before.last_failure;
        }
        drop(counts);
        self.changed();
    }

    /// Waits until all counts are recorded, or failed to be.
    pub(crate) async fn settled(&self) {
        let (tell, settled) = oneshot::channel();
        let settle = async {
            if self.queue.send(Message::Settle(tell)).await.is_ok() {
                let _ = settled.await;
            }
        };
        if timeout(DATABASE_WAIT_MAX, settle).await.is_err() {
            tracing::warn!("failed to record the last failed logins in time");
        }
    }
}

/// Records the counts.
struct Writer {
    store: Store,
    counts: Arc<Mutex<Counts>>,
}

impl Writer {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if a write failed.
    async fn write_all(&self) -> bool {
        while !self.store.refuses_changes() {
            let some = self.counts().unwritten();
            if some.is_empty() {
                return true;
            }
            // At once, so that they share a commit.
            let mut writes = JoinSet::new();
            for (id, stored, now) in some {
                let store = self.store.clone();
                writes.spawn(async move { (id, write(&store, id, stored, now).await) });
            }
            let mut failed = None;
            while let Some(done) = writes.join_next().await {
                match done {
                    Ok((id, Ok(found))) => self.counts().written(id, found),
                    Ok((_, Err(error))) => failed = Some(error),
                    Err(_) => failed = Some(StoreError::Busy),
                }
            }
            if let Some(error) = failed {
                tracing::warn!(%error, "failed to record failed logins; will retry");
                return false;
            }
        }
        true
    }
}

/// The value in the database afterwards; `None` if the account is gone.
async fn write(
    store: &Store,
    id: UserId,
    stored: Failures,
    now: Failures,
) -> Result<Option<Failures>, StoreError> {
    let mut change = Change::new();
    change.write_login_failures(id, stored.count, now.count, now.last);
    match store.commit(change).await {
        Ok(()) => Ok(Some(now)),
        // Another server has changed it.
        Err(StoreError::Conflict(_)) => Ok(store.user(id).await?.as_ref().map(Failures::of)),
        Err(error) => Err(error),
    }
}

/// Counts an attempt at an account that was read after `look`. Returns the account as it was before if the attempt
/// may be checked, and otherwise how long the account still waits.
pub(super) async fn count(
    app: &App,
    mut account: UserAccount,
    mut look: Look,
) -> Result<Result<UserAccount, Duration>, StoreError> {
    for _ in 0..CONFLICT_RETRIES_MAX {
        let counted = app.attempts.counts().count(&account, look, app.now());
        match counted {
            Counted::After(Failures { count, last }) => {
                app.attempts.changed();
                (account.failures, account.last_failure) = (count, last);
                return Ok(Ok(account));
            }
            Counted::Waits(wait) => return Ok(Err(wait)),
            Counted::LookAgain => {}
        }
        look = app.attempts.look();
        let Some(found) = app.store.user(account.row.id).await? else { break };
        account = found;
    }
    Ok(Err(LOGIN_WAIT_FIRST))
}

#[cfg(test)]
mod tests {
    use keyrelay_core::limits::LOGIN_FAILURES_FREE;
    use keyrelay_store::UserRow;

    use super::*;

    const NOW: Timestamp = Timestamp::from_epoch_ms(1_000_000);
    const ID: UserId = UserId::NIL;

    fn account(stored: Failures) -> UserAccount {
        let email = "ann@example.test".to_owned();
        UserAccount {
            row: UserRow { id: ID, project: None, email, name: None, active: true },
            password_hash: None,
            password_link: 0,
            password_link_until: None,
            totp_sealed: None,
            totp_confirmed: false,
            totp_step: None,
            failures: stored.count,
            last_failure: stored.last,
        }
    }

    fn failed(count: u32) -> Failures {
        Failures { count, last: Some(NOW) }
    }

    fn before(counted: &Counted) -> u32 {
        match counted {
            Counted::After(failures) => failures.count,
            Counted::Waits(_) => panic!("waits"),
            Counted::LookAgain => panic!("is to be read again"),
        }
    }

    #[test]
    fn attempts_count_before_and_after_they_are_written() {
        let mut counts = Counts::default();
        let none = account(Failures::default());
        assert_eq!(before(&counts.count(&none, Look(0), NOW)), 0);
        assert_eq!(counts.unwritten(), vec![(ID, Failures::default(), failed(1))]);
        // While it is on its way, either may be read.
        assert_eq!(before(&counts.count(&none, Look(0), NOW)), 1);
        assert_eq!(before(&counts.count(&account(failed(1)), Look(0), NOW)), 2);
        counts.written(ID, Some(failed(1)));
        // What was read before is too old by now.
        assert!(matches!(counts.count(&none, Look(0), NOW), Counted::LookAgain));
        assert_eq!(before(&counts.count(&account(failed(1)), Look(1), NOW)), 3);
        assert_eq!(counts.unwritten(), vec![(ID, failed(1), failed(4))]);
    }

    #[test]
    fn what_others_count_is_added() {
        let mut counts = Counts::default();
        counts.count(&account(Failures::default()), Look(0), NOW);
        counts.unwritten();
        // Another server has counted two: ours is not written, and comes on top.
        counts.written(ID, Some(failed(2)));
        assert_eq!(counts.unwritten(), vec![(ID, failed(2), failed(3))]);
        counts.written(ID, Some(failed(3)));
        // Another server has let the person in.
        assert_eq!(before(&counts.count(&account(Failures::default()), Look(9), NOW)), 0);
    }

    #[test]
    fn an_account_waits_by_what_is_not_written_yet() {
        let mut counts = Counts::default();
        let none = account(Failures::default());
        for n in 0..LOGIN_FAILURES_FREE {
            assert_eq!(before(&counts.count(&none, Look(0), NOW)), n);
        }
        let waits = counts.count(&none, Look(0), NOW);
        assert!(matches!(waits, Counted::Waits(wait) if wait == LOGIN_WAIT_FIRST));
    }

    #[test]
    fn an_account_that_is_gone_is_forgotten_and_memory_is_bounded() {
        let mut counts = Counts::default();
        counts.count(&account(Failures::default()), Look(0), NOW);
        counts.unwritten();
        counts.written(ID, None);
        assert!(counts.entries.is_empty());
        let full = Entry { stored: failed(0), now: failed(1), writing: None, seen_from: 0 };
        for n in 0..LOGIN_FAILURES_REMEMBERED_MAX {
            counts.entries.insert(UserId::from(uuid::Uuid::from_u128(n as u128 + 1)), full);
        }
        let none = account(Failures::default());
        assert!(matches!(counts.count(&none, Look(9), NOW), Counted::Waits(_)));
        for entry in counts.entries.values_mut().take(10) {
            entry.stored = entry.now;
        }
        // Whose entry was forgotten is read again.
        let writes = counts.writes;
        assert_eq!(before(&counts.count(&none, Look(writes), NOW)), 0);
        assert_eq!(counts.entries.len(), LOGIN_FAILURES_REMEMBERED_MAX - 9);
    }
}
