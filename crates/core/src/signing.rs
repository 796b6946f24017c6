//! When keys that sign tokens come and go, as values: from the keys there are, the settings and the
//! time, which one signs, which are published, whether one is to be made, and which are forgotten.
//!
//! Keys follow each other by generation. A key is made long before it signs, so that whoever keeps
//! the published keys for a while has it in time; and it is kept until nothing that it signed can be
//! alive. At most one key waits at a time, and a key that waits is never taken back: another server
//! may be about to sign with it.

use std::time::Duration;

use crate::id::SigningKeyId;
use crate::limits::{
    SIGNING_KEY_KEPT, SIGNING_KEY_LIFETIME_DEFAULT, SIGNING_KEY_LIFETIME_MAX, SIGNING_KEY_LIFETIME_MIN,
    SIGNING_KEY_PUBLISH_AHEAD, SIGNING_KEY_SKEW, SIGNING_KEYS_MAX,
};
use crate::time::Timestamp;

/// What tokens are signed by (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
}

impl SigningAlgorithm {
    /// The value of `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    /// Reads a value of `alg`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Es256, Self::EdDsa, Self::Rs256].into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

/// A key, as far as the schedule is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledKey {
    /// Its `kid`.
    pub id: SigningKeyId,
    /// What it signs by.
    pub algorithm: SigningAlgorithm,
    /// Its place among the keys, from 1. No two keys have the same: of two servers that make the next
    /// key at once, one finds that it exists.
    pub generation: i64,
    /// From when on it signs, until a later generation does.
    pub signs_from: Timestamp,
}

/// What an operator may choose: what new keys sign by, and for how long a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    algorithm: SigningAlgorithm,
    lifetime: Duration,
}

/// A time for which no key may be set to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key signs for {} days at least and {} days at most",
    SIGNING_KEY_LIFETIME_MIN.as_secs() / 86_400,
    SIGNING_KEY_LIFETIME_MAX.as_secs() / 86_400
)]
pub struct BadKeyLifetime;

/// A key that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextKey {
    /// See [`ScheduledKey::algorithm`].
    pub algorithm: SigningAlgorithm,
    /// See [`ScheduledKey::generation`].
    pub generation: i64,
    /// See [`ScheduledKey::signs_from`].
    pub signs_from: Timestamp,
}

/// What is to be done at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The key to make, if it is time.
    pub make: Option<NextKey>,
    /// Keys under which no token can be alive.
    pub forget: Vec<SigningKeyId>,
}

/// Which key signs now: the place in the list of the moments from which each signs, which is in the
/// order of generations. The last that has begun; if the clock was put back before all of them, the first.
#[must_use]
pub fn signer(
    signs_from: impl DoubleEndedIterator<Item = Timestamp> + ExactSizeIterator,
    now: Timestamp,
) -> usize {
    let mut signs_from = signs_from;
    signs_from.rposition(|from| from <= now).unwrap_or(0)
}

impl Default for Schedule {
    fn default() -> Self {
        Self { algorithm: SigningAlgorithm::default(), lifetime: SIGNING_KEY_LIFETIME_DEFAULT }
    }
}

impl Schedule {
    /// A schedule of an operator's choice.
    pub fn new(algorithm: SigningAlgorithm, lifetime: Duration) -> Result<Self, BadKeyLifetime> {
        if !(SIGNING_KEY_LIFETIME_MIN..=SIGNING_KEY_LIFETIME_MAX).contains(&lifetime) {
            return Err(BadKeyLifetime);
        }
        Ok(Self { algorithm, lifetime })
    }

    /// What is to be done with `keys`, which are in the order of their generations. All that are not to
    /// be forgotten are to be published.
    #[must_use]
    pub fn plan(&self, keys: &[ScheduledKey], now: Timestamp) -> Plan {
        let Some(newest) = keys.last() else {
            // Nobody has seen any key yet, so there is nothing to wait for.
            let make = NextKey { algorithm: self.algorithm, generation: 1, signs_from: now };
            return Plan { make: Some(make), forget: Vec::new() };
        };
        let signer = signer(keys.iter().map(|key| key.signs_from), now);
        let forget = keys[..signer].iter().enumerate().filter(|(n, _)| {
            // Usually the next key's beginning; not if the clock was wrong when that was made.
            let ended = keys[n + 1..].iter().map(|later| later.signs_from).min();
            ended.is_some_and(|ended| ended.plus(SIGNING_KEY_KEPT) <= now)
        });
        let forget: Vec<SigningKeyId> = forget.map(|(_, key)| key.id).collect();
        let signs_from = now.plus(SIGNING_KEY_PUBLISH_AHEAD);
        // A beginning that is further away than any server would set it is a clock's mistake.
        let one_waits =
            keys[signer..].iter().skip(1).any(|key| key.signs_from <= signs_from.plus(SIGNING_KEY_SKEW));
        let is_due = self.is_over(&keys[signer], signs_from);
        let make = (is_due && !one_waits && keys.len() < SIGNING_KEYS_MAX).then_some(NextKey {
            algorithm: self.algorithm,
            generation: newest.generation.saturating_add(1),
            signs_from,
        });
        Plan { make, forget }
    }

    /// Whether a key should no longer sign at a moment.
    fn is_over(&self, key: &ScheduledKey, then: Timestamp) -> bool {
        key.algorithm != self.algorithm || key.signs_from.plus(self.lifetime) <= then
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TOKEN_LIFETIME_MAX;
    use crate::random::SeededEntropy;

    const START: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);
    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn schedule(algorithm: SigningAlgorithm) -> Schedule {
        Schedule::new(algorithm, SIGNING_KEY_LIFETIME_DEFAULT).unwrap()
    }

    fn key(next: NextKey) -> ScheduledKey {
        let entropy = SeededEntropy::new(u64::try_from(next.generation).unwrap());
        ScheduledKey {
            id: SigningKeyId::random(&entropy),
            algorithm: next.algorithm,
            generation: next.generation,
            signs_from: next.signs_from,
        }
    }

    fn made(schedule: Schedule, keys: &[ScheduledKey], now: Timestamp) -> ScheduledKey {
        key(schedule.plan(keys, now).make.expect("a key is due"))
    }

    fn signs(keys: &[ScheduledKey], now: Timestamp) -> i64 {
        keys[signer(keys.iter().map(|key| key.signs_from), now)].generation
    }

    #[test]
    fn the_first_key_signs_at_once_and_the_next_is_published_before_it_does() {
        let es256 = schedule(SigningAlgorithm::Es256);
        let first = made(es256, &[], START);
        assert_eq!((first.generation, first.signs_from), (1, START));
        let over = START.plus(SIGNING_KEY_LIFETIME_DEFAULT);
        let due = START.plus(SIGNING_KEY_LIFETIME_DEFAULT.saturating_sub(SIGNING_KEY_PUBLISH_AHEAD));
        assert_eq!(es256.plan(&[first], Timestamp::from_epoch_ms(due.epoch_ms() - 1)), Plan::default());
        let keys = [first, made(es256, &[first], due)];
        assert_eq!(keys[1].signs_from, over);
        assert_eq!((signs(&keys, due), signs(&keys, over)), (1, 2));
        let dead = over.plus(SIGNING_KEY_KEPT);
        assert!(SIGNING_KEY_KEPT > TOKEN_LIFETIME_MAX);
        assert!(es256.plan(&keys, Timestamp::from_epoch_ms(dead.epoch_ms() - 1)).forget.is_empty());
        assert_eq!(es256.plan(&keys, dead), Plan { make: None, forget: vec![first.id] });
    }

    #[test]
    fn another_algorithm_is_another_key_and_going_back_waits_for_its_turn() {
        let (es256, rs256) = (schedule(SigningAlgorithm::Es256), schedule(SigningAlgorithm::Rs256));
        let mut keys = vec![made(es256, &[], START)];
        keys.push(made(rs256, &keys, START));
        assert_eq!((signs(&keys, START), keys[1].algorithm), (1, SigningAlgorithm::Rs256));
        assert_eq!(es256.plan(&keys, START).make, None, "the key that waits is not taken back");
        let changed = START.plus(SIGNING_KEY_PUBLISH_AHEAD);
        assert_eq!(signs(&keys, changed), 2);
        keys.push(made(es256, &keys, changed));
        assert_eq!(signs(&keys, changed), 2);
        assert_eq!(signs(&keys, changed.plus(SIGNING_KEY_PUBLISH_AHEAD)), 3);
    }

    #[test]
    fn a_clock_that_was_wrong_once_does_not_stop_the_keys() {
        let es256 = schedule(SigningAlgorithm::Es256);
        let first = made(es256, &[], START);
        // The clock is a year ahead, and then right again.
        let mut keys = vec![first, made(es256, &[first], START.plus(YEAR))];
        let later = START.plus(SIGNING_KEY_LIFETIME_DEFAULT);
        assert_eq!(signs(&keys, later), 1);
        keys.push(made(es256, &keys, later));
        let over = later.plus(SIGNING_KEY_PUBLISH_AHEAD);
        assert_eq!(signs(&keys, over), 3);
        assert_eq!(signs(&keys, START.plus(YEAR * 2)), 3);
        let forgotten = es256.plan(&keys, over.plus(SIGNING_KEY_KEPT)).forget;
        assert_eq!(forgotten, [keys[0].id, keys[1].id]);
        // The first key of all, made by a clock that is ahead, signs all the same.
        let first = made(es256, &[], START.plus(YEAR));
        assert_eq!((signs(&[first], START), es256.plan(&[first], START)), (1, Plan::default()));
    }

    #[test]
    fn there_are_never_more_keys_than_the_bound() {
        let mut keys = vec![made(schedule(SigningAlgorithm::Es256), &[], START)];
        let mut now = START;
        for n in 0..100 {
            let algorithm = if n % 2 == 0 { SigningAlgorithm::Rs256 } else { SigningAlgorithm::Es256 };
            // Each time, the clock is further behind than ever: no key ever begins.
            now = Timestamp::from_epoch_ms(now.epoch_ms() - 10 * 86_400_000);
            let plan = schedule(algorithm).plan(&keys, now);
            keys.extend(plan.make.map(key));
        }
        assert_eq!(keys.len(), SIGNING_KEYS_MAX);
    }

    #[test]
    fn a_key_signs_for_longer_than_the_next_one_waits() {
        assert!(SIGNING_KEY_LIFETIME_MIN > SIGNING_KEY_PUBLISH_AHEAD);
        let short = SIGNING_KEY_LIFETIME_MIN.saturating_sub(Duration::from_millis(1));
        let refused = Schedule::new(SigningAlgorithm::Es256, short).unwrap_err();
        assert_eq!(refused.to_string(), "a key signs for 2 days at least and 1825 days at most");
        for algorithm in [SigningAlgorithm::Es256, SigningAlgorithm::EdDsa, SigningAlgorithm::Rs256] {
            assert_eq!(SigningAlgorithm::parse(algorithm.as_str()), Some(algorithm));
        }
        assert_eq!(SigningAlgorithm::parse("HS256"), None);
    }
}
