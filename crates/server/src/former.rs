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
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::usage::UsageCounter;

/// Refused proofs that wait to be looked up; what is above is not looked up.
const QUEUE_MAX: usize = 256;

/// A proof that let nobody in.
#[derive(Debug)]
pub(crate) struct RefusedProof {
    pub(crate) client: ClientId,
    /// The values that were presented: one, or its two spellings.
    pub(crate) presented: Vec<Presented>,
    pub(crate) by: Presenter,
    /// The secret that one of them is, where that is past its maximum age: its refusals are counted under its id.
    pub(crate) too_old: Option<SecretId>,
    /// Whether there is such a client: nothing is kept about those that there are not.
    pub(crate) is_known: bool,
}

/// Takes refused proofs.
#[derive(Debug)]
pub(crate) struct FormerSecretWatch(mpsc::Sender<Message>);

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
        Self(queue)
    }

    pub(crate) fn refused(&self, proof: RefusedProof) {
        let _ = self.0.try_send(Message::Refused(proof));
    }

    /// Waits until all that was refused before was looked at, and counted. False if that takes too long.
    pub(crate) async fn settled(&self) -> bool {
        let (tell, settled) = oneshot::channel();
        let settle = async {
            self.0.send(Message::Settled(tell)).await.ok()?;
            settled.await.ok()
        };
        timeout(DATABASE_WAIT_MAX, settle).await.is_ok_and(|settled| settled.is_some())
    }
}

impl Watch {
    async fn look_at(&self, proof: RefusedProof, told: &mut Told) {
        let RefusedProof { client, presented, by, too_old, is_known } = proof;
        let mut secret = too_old.unwrap_or(SecretId::NIL);
        for presented in &presented {
            match self.store.former_secret(client, presented, self.clock.now()).await {
                Ok(Some(former)) => {
                    self.metrics.former_secret_seen.inc();
                    tracing::warn!(%client, secret = %former, "a secret that has ended was presented: somebody still has it");
                    secret = former;
                    if let Err(error) = self.tell(client, former, &by, told).await {
                        tracing::warn!(%error, "it could not be told that a former secret was seen");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a refused proof could not be looked up"),
            }
        }
        if !is_known {
            return;
        }
        let key = UsageKey { client, secret };
        self.usage.count(key, Outcome::Refused, by.as_ref());
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
