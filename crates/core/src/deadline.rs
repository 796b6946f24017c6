//! The moments after which a secret grants no access, or is older than its project wants, and when to warn of
//! them. Values only: whoever tells somebody asks here.

use crate::id::SecretId;
use crate::secret_rules::{PastMaximumAge, SecretRules, WarnBefore};
use crate::slots::{SlotKind, StoredSlots};
use crate::time::Timestamp;

/// What happens to a secret by itself, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Which secret.
    pub secret: SecretId,
    /// In which slot it is.
    pub kind: SlotKind,
    /// What happens.
    pub cause: DeadlineCause,
    /// The first millisecond at which it has happened.
    pub at: Timestamp,
    /// Since when it was to be known: there is no warning from before.
    pub known_since: Timestamp,
}

/// See [`Deadline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadlineCause {
    /// A retiring secret ends for good: `retireAfter`.
    RetireAfter,
    /// A secret becomes older than it may be: `secretMaximumAge`, and what that means for it.
    MaximumAge(PastMaximumAge),
}

impl DeadlineCause {
    /// The setting or parameter that it comes from.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RetireAfter => "retireAfter",
            Self::MaximumAge(_) => "maximumAge",
        }
    }

    /// Whether the secret grants no access from then on.
    #[must_use]
    pub const fn ends_access(self) -> bool {
        matches!(self, Self::RetireAfter | Self::MaximumAge(PastMaximumAge::Refuse))
    }
}

impl Deadline {
    /// All that lie ahead of a client's secrets or have passed, the earliest first.
    #[must_use]
    pub fn of(slots: &StoredSlots, rules: &SecretRules) -> Vec<Self> {
        let mut all = Vec::new();
        for kind in [SlotKind::Active, SlotKind::Retiring] {
            let Some(slot) = slots.kept(kind) else { continue };
            if let Some(at) = rules.due_by(slot.created) {
                all.push(Self {
                    secret: slot.id,
                    kind,
                    cause: DeadlineCause::MaximumAge(rules.past_maximum_age),
                    at,
                    known_since: slot.created,
                });
            }
            if kind == SlotKind::Retiring
                && let (Some(at), Some(active)) = (slots.ends(), slots.kept(SlotKind::Active))
            {
                let cause = DeadlineCause::RetireAfter;
                // It began to retire when the other one was made.
                all.push(Self { secret: slot.id, kind, cause, at, known_since: active.created });
            }
        }
        all.sort_by_key(|deadline| deadline.at);
        all
    }

    /// When to warn of it, the earliest first.
    pub fn warnings(&self, before: &WarnBefore) -> impl Iterator<Item = Timestamp> {
        let times = before.times().iter().map(|before| self.at.minus(*before));
        times.filter(|warning| *warning > self.known_since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::ClientId;
    use crate::keyring::{Keyring, SecretVisibility};
    use crate::random::SeededEntropy;
    use crate::secret::PlainSecret;
    use crate::secret_rules::MaximumAge;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn each_slot_has_its_own_and_none_is_warned_of_before_it_is_known() {
        let entropy = SeededEntropy::new(1);
        let keyring = Keyring::parse_file(&Keyring::new_file(&entropy)).unwrap();
        let start = Timestamp::from_epoch_ms(1_767_225_600_000);
        let slot = |at| {
            let (id, secret) = (SecretId::random(&entropy), PlainSecret::generate(&entropy));
            keyring.fill_slot(ClientId::NIL, id, &secret, SecretVisibility::Once, at, &entropy)
        };
        let (old, new) = (slot(start), slot(start.plus(10 * HOUR)));
        let slots = StoredSlots::with_both(new.clone(), old.clone(), Some(start.plus(12 * HOUR)));
        let rules = SecretRules { maximum_age: MaximumAge(Some(24 * HOUR)), ..SecretRules::default() };
        let told: Vec<_> = Deadline::of(&slots, &rules)
            .iter()
            .map(|deadline| {
                let hours = |at: Timestamp| at.since(start).as_secs() / 3600;
                let warnings: Vec<_> = deadline.warnings(&rules.warn_before).map(hours).collect();
                (deadline.secret, deadline.cause, hours(deadline.at), warnings)
            })
            .collect();
        let age = DeadlineCause::MaximumAge(PastMaximumAge::Report);
        assert_eq!(
            told,
            [
                (old.id, DeadlineCause::RetireAfter, 12, vec![11]),
                // A day before is the moment at which it was made.
                (old.id, age, 24, vec![23]),
                (new.id, age, 34, vec![33]),
            ]
        );
        assert!(Deadline::of(&StoredSlots::with_active(new), &SecretRules::default()).is_empty());
    }
}
