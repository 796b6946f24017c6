//! Looks at proofs that were refused: who presented them, and whether the value is a secret that has ended,
//! from a forgotten deployment or a thief. Runs beside the request, so that the answer to a former secret
//! takes no longer than any other (P5).

use std::sync::Arc;

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::slots::Presented;
use keyrelay_core::time::Clock;
use keyrelay_core::usage::{Outcome, Presenter, UsageKey};
use keyrelay_store::Store;
use tokio::sync::mpsc;

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
    /// Whether there is such a client: nothing is kept about those that there are not.
    pub(crate) is_known: bool,
}

/// Takes refused proofs.
#[derive(Debug)]
pub(crate) struct FormerSecretWatch(mpsc::Sender<RefusedProof>);

/// What the watch looks into, and writes to.
pub(crate) struct Watch {
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) usage: Arc<UsageCounter>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl FormerSecretWatch {
    pub(crate) fn start(watch: Watch) -> Self {
        let (queue, mut refused) = mpsc::channel::<RefusedProof>(QUEUE_MAX);
        tokio::spawn(async move {
            while let Some(proof) = refused.recv().await {
                watch.look_at(proof).await;
            }
        });
        Self(queue)
    }

    pub(crate) fn refused(&self, proof: RefusedProof) {
        let _ = self.0.try_send(proof);
    }
}

impl Watch {
    async fn look_at(&self, RefusedProof { client, presented, by, is_known }: RefusedProof) {
        let mut secret = SecretId::NIL;
        for presented in &presented {
            match self.store.former_secret(client, presented).await {
                Ok(Some(former)) => {
                    self.metrics.former_secret_seen.inc();
                    tracing::warn!(%client, secret = %former, "a secret that has ended was presented: somebody still has it");
                    secret = former;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a refused proof could not be looked up"),
            }
        }
        if !is_known {
            return;
        }
        let key = UsageKey { client, secret };
        self.usage.count(key, Outcome::Refused, by.as_ref(), self.clock.as_ref());
    }
}
