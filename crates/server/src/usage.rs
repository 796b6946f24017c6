//! Counts in memory which secret let somebody in, and writes it down now and then. A grant writes
//! nothing; what a crash can lose is at most one interval of counts, never a secret (P6).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::USAGE_SECRETS_MAX;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Store, StoreError, Use};

/// Secrets in one write.
const FLUSH_CHUNK: usize = 500;

/// Uses since the last flush.
#[derive(Debug, Default)]
pub(crate) struct UsageCounter(Mutex<HashMap<SecretId, Use>>);

impl UsageCounter {
    /// Counts one use.
    pub(crate) fn count(&self, client: ClientId, secret: SecretId, now: Timestamp) {
        self.add(Use { secret, client, uses: 1, first: now, last: now });
    }

    /// Writes down what was counted. What could not be written is kept for the next time; what may have
    /// been written is not, or it would be counted twice.
    pub(crate) async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let counted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let counted: Vec<Use> = counted.into_values().collect();
        let mut outcome = Ok(());
        for chunk in counted.chunks(FLUSH_CHUNK) {
            if outcome.is_ok() {
                outcome = store.add_usage(chunk).await;
            }
            if !matches!(outcome, Ok(()) | Err(StoreError::Unknown)) {
                for used in chunk {
                    self.add(*used);
                }
            }
        }
        outcome
    }

    fn add(&self, used: Use) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Past the bound, uses of further secrets are summed under no secret at all.
        let key = if counted.len() >= USAGE_SECRETS_MAX && !counted.contains_key(&used.secret) {
            SecretId::NIL
        } else {
            used.secret
        };
        let sum = counted.entry(key).or_insert(Use { secret: key, uses: 0, ..used });
        sum.uses += used.uses;
        sum.first = sum.first.min(used.first);
        sum.last = sum.last.max(used.last);
    }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::random::SeededEntropy;

    use super::*;

    #[test]
    fn uses_of_one_secret_are_summed_and_secrets_are_bounded() {
        let entropy = SeededEntropy::new(1);
        let counter = UsageCounter::default();
        let secret = SecretId::random(&entropy);
        for ms in [5, 3, 9] {
            counter.count(ClientId::NIL, secret, Timestamp::from_epoch_ms(ms));
        }
        let first = counter.0.lock().unwrap()[&secret];
        assert_eq!((first.uses, first.first.epoch_ms(), first.last.epoch_ms()), (3, 3, 9));
        for _ in 0..USAGE_SECRETS_MAX + 10 {
            counter.count(ClientId::NIL, SecretId::random(&entropy), Timestamp::from_epoch_ms(1));
        }
        let sums = counter.0.lock().unwrap();
        assert!(sums.len() <= USAGE_SECRETS_MAX + 1);
        let total: i64 = sums.values().map(|used| used.uses).sum();
        assert_eq!(total, 3 + i64::try_from(USAGE_SECRETS_MAX).unwrap() + 10);
    }
}
