//! Looks at proofs that were refused: who presented them, and whether the value is a secret that has ended,
//! from a forgotten deployment or a thief. Runs beside the request, so that the answer to a former secret
//! takes no longer than any other (P5). The first use of a former secret in an hour is reported.
//!
//! A former secret is not a guess. Its first use counts as one until the lookup is done; then the failure is taken
//! back, and the value is remembered, so that later uses are recognized at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use keyrelay_core::event::{Event, What};
use keyrelay_core::id::{ClientId, EventId, ProjectId, SecretId};
use keyrelay_core::limits::{DATABASE_WAIT_MAX, FORMER_SEEN_INTERVAL, FORMER_SEEN_REMEMBERED_MAX};
use keyrelay_core::random::Entropy;
use keyrelay_core::slots::Presented;
use keyrelay_core::survive::survive_waiting;
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_core::usage::{Outcome, Presenter, UsageKey};
use keyrelay_store::{Change, Conflict, Once, Store, StoreError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limiter::{Counted, Limiter};
use crate::metrics::Metrics;
use crate::usage::UsageCounter;

/// Refused proofs that wait to be looked up; others are only counted.
const QUEUE_MAX: usize = 256;

/// A proof that let nobody in.
#[derive(Debug)]
pub(crate) struct RefusedProof {
    pub(crate) client: ClientId,
    /// The values that were presented: one, or its two spellings; none that cannot have been a secret.
    pub(crate) presented: Vec<Presented>,
    pub(crate) by: Presenter,
    /// The secret that one of them is, where that is past its maximum age: its refusals are counted under its id.
    pub(crate) too_old: Option<SecretId>,
    /// The former secret that one of them is, if it is already known.
    pub(crate) former: Option<SecretId>,
    /// The failure that was counted for it.
    pub(crate) counted: Option<Counted>,
    /// The project of the client, as far as known.
    pub(crate) of: ProofOf,
}

/// The project of a client. Nothing is kept about unknown clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProofOf {
    /// It is one of this project.
    Project(ProjectId),
    /// No client has this id.
    NoClient,
    /// The client was not looked up.
    NotAsked,
}

impl RefusedProof {
    /// A proof whose value cannot have been a secret, so that no client was looked up.
    pub(crate) const fn garbled(client: ClientId, by: Presenter) -> Self {
        let presented = Vec::new();
        Self { client, presented, by, too_old: None, former: None, counted: None, of: ProofOf::NotAsked }
    }

    /// Counts it under the id of its secret if that is known, otherwise under no secret.
    fn count(&self, project: ProjectId, former: Option<SecretId>, usage: &UsageCounter) {
        let secret = former.or(self.too_old).unwrap_or(SecretId::NIL);
        let key = UsageKey { client: self.client, secret };
        usage.count(project, key, Outcome::Refused, self.by.as_ref());
    }
}

/// Takes refused proofs.
pub(crate) struct FormerSecretWatch {
    queue: mpsc::Sender<Message>,
    usage: Arc<UsageCounter>,
    known: Arc<Known>,
}

/// Values that are known to be former secrets, by their digest under the first master key.
#[derive(Debug, Default)]
struct Known(Mutex<HashMap<(ClientId, [u8; 32]), SecretId>>);

impl Known {
    fn get(&self, client: ClientId, presented: &Presented) -> Option<SecretId> {
        let (_, digest) = presented.digests().next()?;
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(client, *digest.as_bytes())).copied()
    }

    fn insert(&self, client: ClientId, presented: &Presented, secret: SecretId) {
        let Some((_, digest)) = presented.digests().next() else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FORMER_SEEN_REMEMBERED_MAX {
            known.clear();
        }
        known.insert((client, *digest.as_bytes()), secret);
    }
}

#[derive(Debug)]
enum Message {
    Refused(RefusedProof),
    /// Answers when all messages before it were handled.
    Settled(oneshot::Sender<()>),
}

/// What the watch reads and writes.
pub(crate) struct Watch {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) usage: Arc<UsageCounter>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// The period in which each former secret was last reported, so that the database is asked once.
type Told = HashMap<SecretId, i64>;

impl FormerSecretWatch {
    pub(crate) fn start(watch: Watch) -> Self {
        let (queue, mut messages) = mpsc::channel(QUEUE_MAX);
        let usage = Arc::clone(&watch.usage);
        let known = Arc::new(Known::default());
        let found = Arc::clone(&known);
        tokio::spawn(async move {
            let mut told = Told::new();
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Refused(proof) => {
                        // A panic in one lookup must not end the others.
                        let _ = survive_waiting(watch.look_at(proof, &found, &mut told)).await;
                    }
                    Message::Settled(tell) => {
                        let _ = tell.send(());
                    }
                }
            }
        });
        Self { queue, usage, known }
    }

    /// The former secret of a client that a value is, if it was looked up before.
    pub(crate) fn known(&self, client: ClientId, presented: &Presented) -> Option<SecretId> {
        self.known.get(client, presented)
    }

    /// Where too many wait, a proof is counted all the same. Not so one that nobody has asked about: whoever
    /// floods a server with what is no secret would fill the counts with clients that there are not.
    pub(crate) fn refused(&self, proof: RefusedProof) {
        let sent = self.queue.try_send(Message::Refused(proof));
        if let Err(TrySendError::Full(Message::Refused(proof))) = sent
            && let ProofOf::Project(project) = proof.of
        {
            proof.count(project, proof.former, &self.usage);
        }
    }

    /// Waits until all that was refused before was looked at, and counted. False if that takes too long.
    pub(crate) async fn settled(&self) -> bool {
        let (tell, settled) = oneshot::channel();
        let settle = async {
            self.queue.send(Message::Settled(tell)).await.ok()?;
            settled.await.ok()
        };
        timeout(DATABASE_WAIT_MAX, settle).await.is_ok_and(|settled| settled.is_some())
    }
}

impl Watch {
    async fn look_at(&self, proof: RefusedProof, known: &Known, told: &mut Told) {
        let client = proof.client;
        let mut found = proof.former;
        if found.is_none() {
            for presented in &proof.presented {
                match self.store.former_secret(client, presented, self.clock.now()).await {
                    Ok(Some(former)) => {
                        known.insert(client, presented, former);
                        found = Some(former);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "failed to look up a refused proof"),
                }
            }
            if let (Some(_), Some(counted)) = (found, &proof.counted) {
                self.limiter.take_back(counted, self.clock.now());
            }
        }
        if let Some(former) = found {
            self.metrics.former_secret_seen.inc();
            if told.get(&former) != Some(&period(self.clock.now()).0) {
                tracing::warn!(%client, secret = %former, "a secret that has ended was presented; a copy is in use");
            }
            if let Err(error) = self.tell(client, former, &proof.by, told).await {
                tracing::warn!(%error, "failed to report that a former secret was seen");
            }
        }
        let of = match proof.of {
            ProofOf::Project(project) => Some(project),
            ProofOf::NoClient => None,
            ProofOf::NotAsked => {
                self.store.access(client).await.ok().flatten().map(|access| access.project.id)
            }
        };
        if let Some(project) = of {
            proof.count(project, found, &self.usage);
        }
    }

    /// Tells that a former secret was seen, once in a while and by one server.
    async fn tell(
        &self,
        client: ClientId,
        secret: SecretId,
        by: &Presenter,
        told: &mut Told,
    ) -> Result<(), StoreError> {
        let now = self.clock.now();
        let (period, until) = period(now);
        if self.store.refuses_changes() || told.get(&secret) == Some(&period) {
            return Ok(());
        }
        let Some((project, refused)) = self.store.refused_before(client, secret).await? else {
            return Ok(());
        };
        let what = What::FormerSeen { secret, by: by.clone(), times: refused.saturating_add(1) };
        let id = EventId::made_at(now, self.entropy.as_ref());
        let mut change = Change::new();
        let event = Event { id, at: now, project, client, what };
        change.tell_once(&event, secret, Once::FormerSeen { period, until });
        match self.store.commit(change).await {
            Ok(()) | Err(StoreError::Conflict(Conflict::Exists)) => {}
            failed => return failed,
        }
        if told.len() >= FORMER_SEEN_REMEMBERED_MAX {
            told.clear();
        }
        told.insert(secret, period);
        Ok(())
    }
}

/// The number of the period of time that a moment is in, and when it is over.
fn period(now: Timestamp) -> (i64, Timestamp) {
    let length_ms = i64::try_from(FORMER_SEEN_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    let number = now.epoch_ms().div_euclid(length_ms);
    (number, Timestamp::from_epoch_ms(number.saturating_add(1).saturating_mul(length_ms)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use keyrelay_core::random::SeededEntropy;
    use keyrelay_core::time::ManualClock;
    use keyrelay_core::usage::PresenterRef;

    use super::*;

    #[tokio::test]
    async fn what_finds_no_place_in_the_queue_is_counted_as_of_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&dir.path().join("keyrelay.sqlite")).await.unwrap();
        let at = Timestamp::from_epoch_ms(0);
        let entropy = Arc::new(SeededEntropy::new(1));
        let clock = Arc::new(ManualClock::at(at));
        let usage = Arc::new(UsageCounter::begin(store.clone(), clock, entropy.clone()).await.unwrap());
        // One place, and nobody looks.
        let (queue, _messages) = mpsc::channel(1);
        let known = Arc::default();
        let watch = FormerSecretWatch { queue, usage: Arc::clone(&usage), known };
        let client = ClientId::random(entropy.as_ref());
        let known = ProofOf::Project(ProjectId::NIL);
        for of in [known, known, known, ProofOf::NoClient, ProofOf::NotAsked] {
            let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), "curl", "").to_owned();
            watch.refused(RefusedProof { of, ..RefusedProof::garbled(client, by) });
        }
        usage.flush(true).await.unwrap();
        let counted = store.usage(client, [SecretId::NIL; 3], at).await.unwrap();
        assert_eq!(counted[&SecretId::NIL].recent.refused_hour, 2);
    }
}
