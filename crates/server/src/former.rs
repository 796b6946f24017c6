//! Notices when somebody presents a secret that has ended: a forgotten deployment, or a thief. Runs
//! beside the request, so that the answer to a former secret takes no longer than any other (P5).

use std::sync::Arc;

use keyrelay_core::id::ClientId;
use keyrelay_core::slots::Presented;
use keyrelay_store::Store;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Refused proofs that wait to be looked up; what is above is not looked up.
const QUEUE_MAX: usize = 256;

/// Takes refused proofs.
#[derive(Debug)]
pub(crate) struct FormerSecretWatch(mpsc::Sender<(ClientId, Presented)>);

impl FormerSecretWatch {
    pub(crate) fn start(store: Store, metrics: Arc<Metrics>) -> Self {
        let (queue, mut refused) = mpsc::channel::<(ClientId, Presented)>(QUEUE_MAX);
        tokio::spawn(async move {
            while let Some((client, presented)) = refused.recv().await {
                match store.former_secret(client, &presented).await {
                    Ok(Some(secret)) => {
                        metrics.former_secret_seen.inc();
                        tracing::warn!(%client, %secret, "a secret that has ended was presented: somebody still has it");
                    }
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "a refused proof could not be looked up"),
                }
            }
        });
        Self(queue)
    }

    pub(crate) fn refused(&self, client: ClientId, presented: Presented) {
        let _ = self.0.try_send((client, presented));
    }
}
