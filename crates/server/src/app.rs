//! What every request needs, gathered once at the start.

use std::ops::Deref;
use std::sync::Arc;

use keyrelay_core::keyring::{Keyring, KeyringError};
use keyrelay_core::limits::SWEEP_CHANGES_MAX;
use keyrelay_core::random::Entropy;
use keyrelay_core::secret_rules::{SecretRules, SecretSettings};
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_store::{CallerBounds, Change, EventBounds, Resealed, Store, StoreError};

use crate::audit;
use crate::budget::Budget;
use crate::config::Config;
use crate::deadlines;
use crate::error::StartError;
use crate::fhir::Conformance;
use crate::former::{FormerSecretWatch, Watch};
use crate::hashing::PasswordHasher;
use crate::limiter::Limiter;
use crate::login::Attempts;
use crate::metrics::Metrics;
use crate::oauth::{RemoteKeys, Renewal, TokenKeys};
use crate::streams::Streams;
use crate::usage::UsageCounter;
use crate::webhooks::Deliverer;

/// One running installation, cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

/// See [`App`].
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) keyring: Keyring,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) tokens: TokenKeys,
    pub(crate) remote_keys: RemoteKeys,
    pub(crate) conformance: Conformance,
    pub(crate) usage: Arc<UsageCounter>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) former: FormerSecretWatch,
    pub(crate) passwords: PasswordHasher,
    pub(crate) attempts: Attempts,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Budget,
    pub(crate) webhooks: Deliverer,
    pub(crate) streams: Streams,
    pub(crate) deadlines: deadlines::Looked,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    /// Loads the signing keys (and makes the first) and starts what runs beside requests.
    pub async fn start(
        config: Config,
        store: Store,
        keyring: Keyring,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StartError> {
        let renewal =
            Renewal { store: &store, keyring: &keyring, entropy: entropy.as_ref(), now: clock.now() };
        let now = clock.now();
        store.chain_audit_with(
            audit::key(&store, &keyring, entropy.as_ref(), now).await?,
            Arc::clone(&entropy),
        );
        let tokens = TokenKeys::load(renewal, config.signing, config.base_url.clone()).await?;
        store.hold_to_rates(config.change_rates);
        store.hold_to_quota(config.project_resources_max);
        let metrics = Arc::new(Metrics::new());
        let usage = UsageCounter::begin(store.clone(), Arc::clone(&clock), Arc::clone(&entropy)).await?;
        let usage = Arc::new(usage);
        let limiter = Arc::new(Limiter::default());
        let former = FormerSecretWatch::start(Watch {
            limiter: Arc::clone(&limiter),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            usage: Arc::clone(&usage),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        });
        let conformance = Conformance::new(&config.base_url, clock.now());
        Ok(Self(Arc::new(Inner {
            tokens,
            remote_keys: RemoteKeys::new(config.base_url.reach(), Arc::clone(&clock)),
            conformance,
            usage,
            passwords: PasswordHasher::default(),
            attempts: Attempts::start(store.clone()),
            limiter,
            budget: Budget::of(config.bytes_in_flight),
            streams: Streams::default(),
            deadlines: deadlines::Looked::default(),
            webhooks: Deliverer::new(config.base_url.reach()),
            former,
            metrics,
            config,
            store,
            keyring,
            clock,
            entropy,
        })))
    }

    /// What holds for the secrets of a project that says this.
    pub(crate) fn rules(&self, settings: &SecretSettings) -> SecretRules {
        settings.or(&self.config.secrets)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Writes down what was counted, and closes the store.
    pub async fn close(&self) {
        self.attempts.settled().await;
        let complete = self.flush_usage().await;
        audit::record_refusals(self, true).await;
        if complete.is_some()
            && let Err(error) = self.usage.end().await
        {
            tracing::warn!(%error, "it could not be written down that all uses were counted");
        }
        self.store.close().await;
    }

    /// From now on nothing is changed: who wants to is answered 503. Clients are let in and read as before;
    /// uses are not counted, and the mark of the last that were stays behind.
    pub fn refuse_changes(&self) {
        self.store.refuse_changes();
    }

    /// Forgets logins, revocations, assertions and kept answers that are dead.
    pub async fn sweep(&self) {
        if self.store.refuses_changes() {
            return;
        }
        if let Err(error) = self.sweep_mortal().await {
            tracing::warn!(%error, "failed to delete expired rows; the next sweep retries");
        }
        if let Err(error) = self.store.forget_sealed_left().await {
            tracing::warn!(%error, "failed to delete sealed secrets of projects that show them once; the next sweep retries");
        }
        // Separately, so that a failed one does not prevent the others.
        let (node, _) = self.usage.reach().await;
        if let Err(error) = self.store.sweep_usage(node, self.now()).await {
            tracing::warn!(%error, "failed to delete old sums of use; the next sweep retries");
        }
        if let Err(error) = self.store.forget_lost_deliveries().await {
            tracing::warn!(%error, "failed to delete deliveries of deleted webhooks; the next sweep retries");
        }
    }

    async fn sweep_mortal(&self) -> Result<(), StoreError> {
        let now = self.now();
        for _ in 0..SWEEP_CHANGES_MAX {
            let mut change = Change::new();
            change.sweep(now);
            self.store.commit(change).await?;
            if self.store.is_swept(now).await? {
                break;
            }
        }
        Ok(())
    }

    /// Deletes events that are too old or beyond the bounds, and reports the deliveries that are lost with them.
    pub async fn sweep_events(&self, bounds: EventBounds) {
        if self.store.refuses_changes() {
            return;
        }
        match self.store.sweep_events(bounds, self.now()).await {
            Ok(swept) if swept.undelivered > 0 => {
                self.metrics.count_dropped_deliveries(swept.undelivered);
                tracing::warn!(deliveries = swept.undelivered, "deleted events that were not delivered yet");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "failed to delete old events; will retry"),
        }
    }

    /// Sums callers of secrets beyond the bounds.
    pub async fn sweep_callers(&self, bounds: CallerBounds) {
        if self.store.refuses_changes() {
            return;
        }
        match self.store.sweep_callers(bounds).await {
            Ok(0) => {}
            Ok(callers) => tracing::info!(callers, "summed callers of secrets past the bound of a project"),
            Err(error) => tracing::warn!(%error, "failed to sum callers of secrets; will retry"),
        }
    }

    /// Tells of deadlines that are near or have passed.
    pub async fn tell_deadlines(&self) {
        if self.store.refuses_changes() {
            return;
        }
        if let Err(error) = deadlines::tell(self).await {
            tracing::warn!(%error, "it could not be told of deadlines; it is tried again");
        }
    }

    /// Makes the next signing key when it is time, and takes up what other servers have made.
    pub async fn renew_signing_keys(&self) {
        let renewal = Renewal {
            store: &self.store,
            keyring: &self.keyring,
            entropy: self.entropy.as_ref(),
            now: self.now(),
        };
        if let Err(error) = self.tokens.renew(renewal).await {
            tracing::error!(%error, "the signing keys could not be renewed; they stay, and it is tried again");
        }
    }

    /// Whether a master key file lists the keys that are in use, in the same order.
    pub fn has_master_keys(&self, text: &str) -> Result<bool, KeyringError> {
        Ok(Keyring::parse_file(text)?.key_ids() == self.keyring.key_ids())
    }

    /// Takes up a master key file that has changed: what is made from now on is sealed under its first
    /// key. Says whether anything changed; if the file cannot be used, the keys stay.
    pub fn replace_master_keys(&self, text: &str) -> Result<bool, KeyringError> {
        self.keyring.replace(text)
    }

    /// Moves what is sealed under older master keys to the first, if there are older ones.
    pub async fn reseal(&self) {
        if self.store.refuses_changes() {
            return;
        }
        let [first, _, ..] = *self.keyring.key_ids() else { return };
        match self.store.reseal(&self.keyring, self.entropy.as_ref(), &mut |_| {}).await {
            Ok(Resealed { moved: 0, unopened: 0 }) => {}
            Ok(Resealed { moved, unopened: 0 }) => {
                tracing::info!(key = %first, moved, "everything that can be is sealed under the first master key");
            }
            Ok(Resealed { moved, unopened }) => {
                tracing::error!(key = %first, moved, unopened, "some values do not open under any master key");
            }
            Err(error) => {
                tracing::warn!(%error, "moving to the first master key stopped; the next start goes on with it");
            }
        }
    }

    /// Writes down the uses that were counted in memory, and gives the time up to which that is all of them.
    /// It goes on if nobody waits for it any more: what is being written down must not be forgotten.
    pub async fn flush_usage(&self) -> Option<Timestamp> {
        let app = self.clone();
        tokio::spawn(async move { app.flush_usage_here().await }).await.ok().flatten()
    }

    async fn flush_usage_here(&self) -> Option<Timestamp> {
        if self.store.refuses_changes() {
            return None;
        }
        let settled = self.former.settled().await;
        let flushed = self.usage.flush(settled).await;
        audit::record_refusals(self, false).await;
        match flushed {
            Ok(complete_until) => settled.then_some(complete_until),
            Err(error) => {
                tracing::warn!(%error, "counted uses could not be written down; they are kept for the next time");
                None
            }
        }
    }
}
