//! Looks at proofs that were refused: who presented them, and whether the value is a secret that has ended,
//! from a forgotten deployment or a thief. Runs beside the request, so that the answer to a former secret
//! takes no longer than any other (P5). The first time in an hour that one is seen, it is told.

use std::collections::HashMap;
use std::sync::Arc;

use keyrelay_core::event::{Event, What};
use keyrelay_core::id::{ClientId, EventId, SecretId};
use keyrelay_core::limits::{DATABASE_WAIT_MAX, FORMER_SEEN_INTERVAL, FORMER_SEEN_REMEMBERED_MAX};
use keyrelay_core::random::Entropy;
use keyrelay_core::slots::Presented;
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_core::usage::{Outcome, Presenter, UsageKey};
use keyrelay_store::{Change, Conflict, Once, Store, StoreError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::usage::UsageCounter;

/// Refused proofs that wait to be looked up; what is above is counted and not looked up.
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
    /// Whether there is such a client: nothing is kept about those that there are not. None where nobody has
    /// asked.
    pub(crate) is_known: Option<bool>,
}

impl RefusedProof {
    /// As of the secret that it is, where that is known; else as of none of the client's.
    fn count(&self, former: Option<SecretId>, usage: &UsageCounter) {
        let secret = former.or(self.too_old).unwrap_or(SecretId::NIL);
        usage.count(UsageKey { client: self.client, secret }, Outcome::Refused, self.by.as_ref());
    }
}

/// Takes refused proofs.
pub(crate) struct FormerSecretWatch {
    queue: mpsc::Sender<Message>,
    usage: Arc<UsageCounter>,
}

#[derive(Debug)]
enum Message {
    Refused(RefusedProof),
    /// Says when all before it was looked at.
    Settled(oneshot::Sender<()>),
}

/// What the watch looks into, and writes to.
pub(crate) struct Watch {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) usage: Arc<UsageCounter>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// In which period of time each former secret was told of last, so that the database is asked once.
type Told = HashMap<SecretId, i64>;

impl FormerSecretWatch {
    pub(crate) fn start(watch: Watch) -> Self {
        let (queue, mut messages) = mpsc::channel(QUEUE_MAX);
        let usage = Arc::clone(&watch.usage);
        tokio::spawn(async move {
            let mut told = Told::new();
            while let Some(message) = messages.recv().await {
                match message {
                    Message::Refused(proof) => watch.look_at(proof, &mut told).await,
                    Message::Settled(tell) => {
                        let _ = tell.send(());
                    }
                }
            }
        });
        Self { queue, usage }
    }

    /// Where too many wait, a proof is counted all the same. Not so one that nobody has asked about: whoever
    /// floods a server with what is no secret would fill the counts with clients that there are not.
    pub(crate) fn refused(&self, proof: RefusedProof) {
        let sent = self.queue.try_send(Message::Refused(proof));
        if let Err(TrySendError::Full(Message::Refused(proof))) = sent
            && proof.is_known == Some(true)
        {
            proof.count(None, &self.usage);
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
    async fn look_at(&self, proof: RefusedProof, told: &mut Told) {
        let client = proof.client;
        let mut found = None;
        for presented in &proof.presented {
            match self.store.former_secret(client, presented, self.clock.now()).await {
                Ok(Some(former)) => {
                    self.metrics.former_secret_seen.inc();
                    tracing::warn!(%client, secret = %former, "a secret that has ended was presented: somebody still has it");
                    found = Some(former);
                    if let Err(error) = self.tell(client, former, &proof.by, told).await {
                        tracing::warn!(%error, "it could not be told that a former secret was seen");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a refused proof could not be looked up"),
            }
        }
        let is_known = match proof.is_known {
            Some(is_known) => is_known,
            None => self.store.access(client).await.is_ok_and(|access| access.is_some()),
        };
        if is_known {
            proof.count(found, &self.usage);
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
        let watch = FormerSecretWatch { queue, usage: Arc::clone(&usage) };
        let client = ClientId::random(entropy.as_ref());
        for is_known in [Some(true), Some(true), Some(true), Some(false), None] {
            let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), "curl", "").to_owned();
            watch.refused(RefusedProof { client, presented: Vec::new(), by, too_old: None, is_known });
        }
        usage.flush(true).await.unwrap();
        let counted = store.usage(client, [SecretId::NIL; 3], at).await.unwrap();
        assert_eq!(counted[&SecretId::NIL].recent.refused_hour, 2);
    }
}
