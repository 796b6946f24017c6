//! Keeps a server's signing keys as the schedule wants them (`core/src/signing.rs`), at the start and
//! every minute after it: makes the next one, forgets the dead, and puts what the database then has
//! into use. Several servers may do so on one database: only one of them can make a key of a
//! generation, and the others find it there.

use std::sync::Arc;

use arc_swap::ArcSwap;
use keyrelay_core::id::SigningKeyId;
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::CONFLICT_RETRIES_MAX;
use keyrelay_core::random::Entropy;
use keyrelay_core::signing::{NextKey, Schedule, ScheduledKey};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Conflict, Store, StoreError, StoredSigningKey};
use tokio::sync::Mutex;

use super::jose::{KeySet, TokenKeys};
use super::signing_key::{self, SigningKey};
use crate::config::BaseUrl;
use crate::error::StartError;

/// What renewing takes.
#[derive(Clone, Copy)]
pub(crate) struct Renewal<'a> {
    pub(crate) store: &'a Store,
    pub(crate) keyring: &'a Keyring,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) now: Timestamp,
}

impl TokenKeys {
    /// The keys of a server that starts.
    pub(crate) async fn load(
        renewal: Renewal<'_>,
        schedule: Schedule,
        base_url: BaseUrl,
    ) -> Result<Self, StartError> {
        let stored = renewal.settle(&schedule).await?;
        let keys = stored.iter().map(|stored| renewal.unwrap(stored, &base_url).map(Arc::new));
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            let problem = "the database keeps none although one was just made";
            return Err(StartError::SigningKey { id: "(none)".to_owned(), problem });
        }
        Ok(Self {
            set: ArcSwap::from_pointee(KeySet::new(keys)),
            schedule,
            base_url,
            renewing: Mutex::new(()),
        })
    }

    /// Brings the keys up to date. If that fails, they stay as they were.
    pub(crate) async fn renew(&self, renewal: Renewal<'_>) -> Result<(), StartError> {
        let _renewing = self.renewing.lock().await;
        let stored = renewal.settle(&self.schedule).await?;
        let set = self.set.load_full();
        if stored.is_empty()
            || set.keys().iter().map(|key| &key.key).eq(stored.iter().map(|stored| &stored.key))
        {
            return Ok(());
        }
        let known = |id: SigningKeyId| set.keys().iter().find(|key| key.key.id == id).cloned();
        let keys = stored.iter().map(|stored| match known(stored.key.id) {
            Some(key) => Ok(key),
            None => renewal.unwrap(stored, &self.base_url).map(Arc::new),
        });
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        self.set.store(Arc::new(set.followed_by(keys)));
        Ok(())
    }
}

impl Renewal<'_> {
    /// Makes and forgets what is due, and reads what there is then.
    async fn settle(&self, schedule: &Schedule) -> Result<Vec<StoredSigningKey>, StartError> {
        for _ in 0..CONFLICT_RETRIES_MAX {
            let stored = self.store.signing_keys().await?;
            let keys: Vec<ScheduledKey> = stored.iter().map(|stored| stored.key).collect();
            let plan = schedule.plan(&keys, self.now);
            if plan.make.is_none() && plan.forget.is_empty() {
                return Ok(stored);
            }
            let mut change = Change::new();
            for id in &plan.forget {
                change.forget_signing_key(*id);
            }
            let mut made = None;
            if let Some(next) = plan.make {
                made = Some(self.make(next, &mut change).await?);
            }
            match self.store.commit(change).await {
                Ok(()) => log(made, &plan.forget),
                // Another server was faster: what it made is as good.
                Err(StoreError::Conflict(Conflict::Exists)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Busy.into())
    }

    async fn make(&self, next: NextKey, change: &mut Change) -> Result<ScheduledKey, StartError> {
        let id = SigningKeyId::random(self.entropy);
        let NextKey { algorithm, generation, signs_from } = next;
        let made = tokio::task::spawn_blocking(move || signing_key::generate(algorithm)).await;
        let pkcs8 = made.ok().and_then(Result::ok).ok_or_else(|| StartError::SigningKey {
            id: id.to_string(),
            problem: "it could not be generated",
        })?;
        let sealed = self.keyring.wrap_signing_key(id, &pkcs8, self.entropy);
        let key = ScheduledKey { id, algorithm, generation, signs_from };
        change.create_signing_key(&key, &sealed, self.now);
        Ok(key)
    }

    fn unwrap(&self, stored: &StoredSigningKey, base_url: &BaseUrl) -> Result<SigningKey, StartError> {
        let pkcs8 = self.keyring.unwrap_signing_key(stored.key.id, &stored.sealed)?;
        SigningKey::parse(stored.key, &pkcs8, base_url).map_err(|_| StartError::SigningKey {
            id: stored.key.id.to_string(),
            problem: "it is not a key of its algorithm",
        })
    }
}

fn log(made: Option<ScheduledKey>, forgotten: &[SigningKeyId]) {
    if let Some(ScheduledKey { id, algorithm, signs_from, .. }) = made {
        tracing::info!(key = %id, algorithm = algorithm.as_str(), %signs_from, "a signing key was made");
    }
    for id in forgotten {
        tracing::info!(key = %id, "a signing key was forgotten: nothing that it signed is alive");
    }
}
