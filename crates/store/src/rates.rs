//! Bounds the rate of the changes of each client and each project, before they wait for the writer. Each server has
//! its
//! own buckets, so with N servers a tenant may write N times as much.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use keyrelay_core::change_rates::{ChangeBuckets, ChangeRates, Payer, RateOf};

use crate::{Change, Store, StoreError};

/// What the changes of this server have cost.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    /// `None` until they are set: commands that open a database have no rate.
    set: OnceLock<ChangeRates>,
    changes: Mutex<ChangeBuckets>,
    assertions: Mutex<ChangeBuckets>,
    refused_of_clients: AtomicU64,
    refused_of_projects: AtomicU64,
}

/// What a change was charged, and whether it was for an assertion.
pub(crate) struct Charged(Option<(Payer, u64, bool)>);

impl Rates {
    pub(crate) fn charge(&self, change: &Change) -> Result<Charged, StoreError> {
        let bytes = change.weight.saturating_add(change.owed);
        let (Some(rates), Some(payer), 1..) = (self.set.get(), change.payer, bytes) else {
            return Ok(Charged(None));
        };
        let mut buckets = self.buckets(change.is_assertion);
        if change.weight > 0 {
            buckets.charge(*rates, payer, change.weight).map_err(|over| {
                self.refused(over.of).fetch_add(1, Ordering::Relaxed);
                StoreError::OverRate(over)
            })?;
        }
        buckets.owe(*rates, payer, change.owed);
        Ok(Charged(Some((payer, bytes, change.is_assertion))))
    }

    pub(crate) fn refund(&self, Charged(charged): Charged) {
        if let (Some(rates), Some((payer, bytes, is_assertion))) = (self.set.get(), charged) {
            self.buckets(is_assertion).refund(*rates, payer, bytes);
        }
    }

    fn buckets(&self, of_assertions: bool) -> MutexGuard<'_, ChangeBuckets> {
        let buckets = if of_assertions { &self.assertions } else { &self.changes };
        buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn refused(&self, of: RateOf) -> &AtomicU64 {
        match of {
            RateOf::Client => &self.refused_of_clients,
            RateOf::Project => &self.refused_of_projects,
        }
    }
}

impl Store {
    /// From now on applies these rates to changes. Only the first call has an effect.
    pub fn hold_to_rates(&self, rates: ChangeRates) {
        let _ = self.0.rates.set.set(rates);
    }

    /// The number of changes that this server has refused by a rate.
    #[must_use]
    pub fn changes_over_rate(&self, of: RateOf) -> u64 {
        self.0.rates.refused(of).load(Ordering::Relaxed)
    }
}
