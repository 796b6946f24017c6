//! The state machine of the mission: which secrets of a client grant access, and how they move.
//!
//! ```text
//!            rotate                     retire
//! (active A) ──────▶ (active B, retiring A) ──────▶ (active B)
//! ```
//!
//! There is no way to write down two active secrets, or a retiring one beside no active one.
//! Every move takes the slots by value and gives new ones, with the secrets that ended by it.

use subtle::{Choice, ConstantTimeEq};

use crate::id::SecretId;
use crate::keyring::{KeyId, Sealed};
use crate::secret::SecretDigest;
use crate::time::Timestamp;

/// One secret as it is kept: its name, what verifies it, and perhaps what recovers it.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Names the secret; tokens carry it as `sid`.
    pub id: SecretId,
    /// The master key that the digest was made under.
    pub key: KeyId,
    /// What verifies a presented value.
    pub digest: SecretDigest,
    /// The value, sealed; none in a project whose secrets are shown once.
    pub sealed: Option<Sealed>,
    /// When the secret was made.
    pub created: Timestamp,
}

/// Digests of a value that somebody presents, one for each master key that slots may be under.
#[derive(Clone, Debug)]
pub struct Presented(Vec<(KeyId, SecretDigest)>);

impl Presented {
    /// Takes the digests; the keyring makes them.
    #[must_use]
    pub fn new(digests: impl IntoIterator<Item = (KeyId, SecretDigest)>) -> Self {
        Self(digests.into_iter().collect())
    }

    /// The digests, to look among those of former secrets.
    pub fn digests(&self) -> impl Iterator<Item = (KeyId, &SecretDigest)> {
        self.0.iter().map(|(key, digest)| (*key, digest))
    }

    /// Whether two presented values are the same, in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let same = pairs.fold(Choice::from(1), |same, ((_, mine), (_, theirs))| same & mine.matches(theirs));
        same.into()
    }

    /// Whether the value is the one in the slot. Takes the same time for every slot (P5).
    fn matches(&self, slot: &Slot) -> Choice {
        self.0.iter().fold(Choice::from(0), |found, (key, digest)| {
            found | (key.as_bytes().ct_eq(slot.key.as_bytes()) & digest.matches(&slot.digest))
        })
    }
}

/// Which of a client's two secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// `ClientApplication.secret`.
    Active,
    /// `ClientApplication.retiringSecret`.
    Retiring,
}

impl SlotKind {
    /// The word for it in metrics and audit events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }
}

/// The secret that a presented value proved to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Which secret.
    pub id: SecretId,
    /// In which slot it is.
    pub kind: SlotKind,
}

/// A presented value is not the secret in the slot it was presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Provided secret does not match client")]
pub struct Mismatch;

/// The secrets of a client that grant access: none, one, or two.
#[derive(Clone, Debug, Default)]
pub struct SecretSlots(State);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Empty,
    One {
        active: Slot,
    },
    Two {
        active: Slot,
        retiring: Slot,
    },
}

/// The slots after a move, and the secret that no longer grants access because of it.
#[derive(Debug)]
pub struct Moved {
    /// The slots from now on.
    pub slots: SecretSlots,
    /// The secret that ended, if one did.
    pub ended: Option<Slot>,
}

impl SecretSlots {
    /// A client that has no secret (yet): it cannot be let in by one.
    #[must_use]
    pub const fn empty() -> Self {
        Self(State::Empty)
    }

    /// A client with one secret.
    #[must_use]
    pub const fn with_active(active: Slot) -> Self {
        Self(State::One { active })
    }

    /// A client in the middle of a rotation.
    #[must_use]
    pub const fn with_both(active: Slot, retiring: Slot) -> Self {
        Self(State::Two { active, retiring })
    }

    /// The secret in `ClientApplication.secret`.
    #[must_use]
    pub const fn active(&self) -> Option<&Slot> {
        match &self.0 {
            State::Empty => None,
            State::One { active } | State::Two { active, .. } => Some(active),
        }
    }

    /// The secret in `ClientApplication.retiringSecret`.
    #[must_use]
    pub const fn retiring(&self) -> Option<&Slot> {
        match &self.0 {
            State::Two { retiring, .. } => Some(retiring),
            State::Empty | State::One { .. } => None,
        }
    }

    /// Whether a presented value grants access, and which secret it is.
    ///
    /// Always two comparisons, each in constant time, whatever the client has (P5).
    #[must_use]
    pub fn verify(&self, presented: &Presented) -> Option<Verified> {
        let check = |slot: Option<&Slot>| match slot {
            Some(slot) => presented.matches(slot),
            None => presented.matches(&DUMMY) & Choice::from(0),
        };
        let (active, retiring) = (check(self.active()), check(self.retiring()));
        let verified = |slot: Option<&Slot>, kind| slot.map(|slot| Verified { id: slot.id, kind });
        if bool::from(active) {
            verified(self.active(), SlotKind::Active)
        } else if bool::from(retiring) {
            verified(self.retiring(), SlotKind::Retiring)
        } else {
            None
        }
    }

    /// Whether a presented value is the one in a particular slot.
    #[must_use]
    pub fn holds(&self, kind: SlotKind, presented: &Presented) -> bool {
        let slot = match kind {
            SlotKind::Active => self.active(),
            SlotKind::Retiring => self.retiring(),
        };
        slot.is_some_and(|slot| presented.matches(slot).into())
    }

    /// Active becomes retiring, `fresh` becomes active; both grant access. A retiring secret that
    /// was there ends.
    pub fn rotate(self, presented: &Presented, fresh: Slot) -> Result<Moved, Mismatch> {
        if !self.holds(SlotKind::Active, presented) {
            return Err(Mismatch);
        }
        match self.0 {
            State::Empty => Err(Mismatch),
            State::One { active } => Ok(Moved { slots: Self::with_both(fresh, active), ended: None }),
            State::Two { active, retiring } => {
                Ok(Moved { slots: Self::with_both(fresh, active), ended: Some(retiring) })
            }
        }
    }

    /// The retiring secret ends.
    pub fn retire(self, presented: &Presented) -> Result<Moved, Mismatch> {
        if !self.holds(SlotKind::Retiring, presented) {
            return Err(Mismatch);
        }
        match self.0 {
            State::Two { active, retiring } => {
                Ok(Moved { slots: Self::with_active(active), ended: Some(retiring) })
            }
            State::Empty | State::One { .. } => Err(Mismatch),
        }
    }

    /// `fresh` takes the place of the active secret at once, with no overlap; the retiring one stays.
    #[must_use]
    pub fn replace(self, fresh: Slot) -> Moved {
        match self.0 {
            State::Empty => Moved { slots: Self::with_active(fresh), ended: None },
            State::One { active } => Moved { slots: Self::with_active(fresh), ended: Some(active) },
            State::Two { active, retiring } => {
                Moved { slots: Self::with_both(fresh, retiring), ended: Some(active) }
            }
        }
    }
}

/// What a value is compared with where there is no secret. Its key id belongs to no key.
const DUMMY: Slot = Slot {
    id: SecretId::NIL,
    key: KeyId::from_bytes([0; 8]),
    digest: SecretDigest::from_bytes([0; 32]),
    sealed: None,
    created: Timestamp::from_epoch_ms(0),
};
