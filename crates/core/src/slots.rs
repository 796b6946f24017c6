//! The state machine of the mission: which secrets of a client grant access, and how they move.
//!
//! ```text
//!            rotate                     retire
//! (active A) ──────▶ (active B, retiring A) ──────▶ (active B)
//! ```
//!
//! There is no way to write down two active secrets, or a retiring one beside no active one.
//! Every move takes the slots by value and gives new ones, with the secrets that ended by it.
//!
//! A retiring secret may have a deadline, and any may become too old. Nothing runs when that passes: what is kept
//! ([`StoredSlots`]) says nothing of who gets in until it is asked for a moment.
//!
//! The two differ. A deadline ends a secret for good, so it is gone from what can be moved ([`SecretSlots`]).
//! One that is too old only grants no access ([`Granting`]): it stays in its slot, and rotating it is the way out.

use std::time::Duration;

use subtle::{Choice, ConstantTimeEq};

use crate::caller::Profile;
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
    /// Who made it, as far as that is known.
    pub by: Option<Profile>,
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

/// A presented value grants no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    /// It is none of the client's secrets.
    #[error("not a secret of the client")]
    NoneOfThem,
    /// It is one, and past its maximum age.
    #[error("secret past its maximum age")]
    TooOld(SecretId),
}

/// How long a secret grants access at most, counted from when it was made; without end if `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifespan(pub Option<Duration>);

impl Lifespan {
    /// No secret is ever too old.
    pub const ENDLESS: Self = Self(None);

    /// From when on a secret is too old that was made at `created`.
    #[must_use]
    pub fn end(self, created: Timestamp) -> Option<Timestamp> {
        self.0.map(|lifespan| created.plus(lifespan))
    }
}

/// A presented value is not the secret in the slot it was presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Provided secret does not match client")]
pub struct Mismatch;

/// There is no secret in the slot that is to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The client has no such secret")]
pub struct NoSuchSecret;

/// The secrets of a client as they are kept. Which of them grant access depends on the time.
#[derive(Clone, Debug, Default)]
pub struct StoredSlots(State);

/// The secrets of a client at one moment, for whoever moves or shows them: none, one, or two. A secret whose
/// deadline has passed is none of them; whether one is too old is not looked at.
#[derive(Clone, Debug, Default)]
pub struct SecretSlots {
    state: State,
    /// A secret whose deadline has passed, until the next move takes it up.
    expired: Option<Ended>,
}

/// The secrets of a client at one moment, for whoever asks to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Granting<'s> {
    active: Option<&'s Slot>,
    retiring: Option<&'s Slot>,
    lifespan: Lifespan,
    now: Timestamp,
}

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
        /// From when on the retiring one grants no access.
        ends: Option<Timestamp>,
    },
}

/// A secret that grants no access any more.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The secret.
    pub slot: Slot,
    /// When its deadline passed; `None` for one that a move has ended.
    pub expired: Option<Timestamp>,
}

impl Ended {
    const fn by_move(slot: Slot) -> Self {
        Self { slot, expired: None }
    }
}

/// The slots after a move, and the secrets that no longer grant access.
#[derive(Debug)]
pub struct Moved {
    /// The slots from now on.
    pub slots: SecretSlots,
    /// The secrets that ended: one by this move, and one before it by its deadline.
    pub ended: Vec<Ended>,
}

impl Moved {
    /// The slots as they are kept from now on. All that had ended is in [`Moved::ended`], so nothing is lost.
    #[must_use]
    pub fn stored(&self) -> StoredSlots {
        StoredSlots(self.slots.state.clone())
    }
}

impl StoredSlots {
    /// A client that has no secret.
    #[must_use]
    pub const fn empty() -> Self {
        Self(State::Empty)
    }

    /// A client with one secret.
    #[must_use]
    pub const fn with_active(active: Slot) -> Self {
        Self(State::One { active })
    }

    /// A client in the middle of a rotation, which ends by itself at `ends`.
    #[must_use]
    pub const fn with_both(active: Slot, retiring: Slot, ends: Option<Timestamp>) -> Self {
        Self(State::Two { active, retiring, ends })
    }

    /// What grants access at `now`: a secret until the last millisecond before its deadline, and before it is
    /// too old.
    #[must_use]
    pub fn granting(&self, now: Timestamp, lifespan: Lifespan) -> Granting<'_> {
        let retiring = match &self.0 {
            State::Two { retiring, ends, .. } if ends.is_none_or(|ends| now < ends) => Some(retiring),
            State::Empty | State::One { .. } | State::Two { .. } => None,
        };
        Granting { active: self.0.active(), retiring, lifespan, now }
    }

    /// The secrets there are at `now`: one with a deadline until the last millisecond before it.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> SecretSlots {
        match &self.0 {
            State::Two { active, retiring, ends: Some(ends) } if *ends <= now => SecretSlots {
                state: State::One { active: active.clone() },
                expired: Some(Ended { slot: retiring.clone(), expired: Some(*ends) }),
            },
            state => SecretSlots { state: state.clone(), expired: None },
        }
    }

    /// When the retiring secret ends, or has ended, by itself.
    #[must_use]
    pub const fn ends(&self) -> Option<Timestamp> {
        self.0.ends()
    }

    /// A slot as it is kept, whether or not it grants access: for whoever moves it to another key.
    #[must_use]
    pub const fn kept(&self, kind: SlotKind) -> Option<&Slot> {
        match kind {
            SlotKind::Active => self.0.active(),
            SlotKind::Retiring => self.0.retiring(),
        }
    }
}

impl State {
    const fn active(&self) -> Option<&Slot> {
        match self {
            Self::Empty => None,
            Self::One { active } | Self::Two { active, .. } => Some(active),
        }
    }

    const fn retiring(&self) -> Option<&Slot> {
        match self {
            Self::Two { retiring, .. } => Some(retiring),
            Self::Empty | Self::One { .. } => None,
        }
    }

    const fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Two { ends, .. } => *ends,
            Self::Empty | Self::One { .. } => None,
        }
    }
}

impl Granting<'_> {
    /// Where there is no client.
    pub const NOTHING: Self =
        Self { active: None, retiring: None, lifespan: Lifespan::ENDLESS, now: Timestamp::from_epoch_ms(0) };

    /// Whether a presented value grants access, and which secret it is.
    ///
    /// Always two comparisons, each in constant time, whatever the client has (P5).
    pub fn verify(&self, presented: &Presented) -> Result<Verified, NotGranted> {
        let check = |slot: Option<&Slot>| match slot {
            Some(slot) => presented.matches(slot),
            None => presented.matches(&DUMMY) & Choice::from(0),
        };
        let (active, retiring) = (check(self.active), check(self.retiring));
        let (slot, kind) = if bool::from(active) {
            (self.active, SlotKind::Active)
        } else if bool::from(retiring) {
            (self.retiring, SlotKind::Retiring)
        } else {
            (None, SlotKind::Active)
        };
        let slot = slot.ok_or(NotGranted::NoneOfThem)?;
        if self.is_too_old(slot) {
            return Err(NotGranted::TooOld(slot.id));
        }
        Ok(Verified { id: slot.id, kind })
    }

    /// Whether a secret that granted access a while ago still does.
    #[must_use]
    pub fn has(&self, id: SecretId) -> bool {
        let mut held = self.active.into_iter().chain(self.retiring);
        held.any(|slot| slot.id == id && !self.is_too_old(slot))
    }

    fn is_too_old(&self, slot: &Slot) -> bool {
        self.lifespan.end(slot.created).is_some_and(|end| end <= self.now)
    }
}

impl SecretSlots {
    /// A client that has no secret (yet): it cannot be let in by one.
    #[must_use]
    pub const fn empty() -> Self {
        Self { state: State::Empty, expired: None }
    }

    /// A client with one secret.
    #[must_use]
    pub const fn with_active(active: Slot) -> Self {
        Self { state: State::One { active }, expired: None }
    }

    /// The secret in `ClientApplication.secret`.
    #[must_use]
    pub const fn active(&self) -> Option<&Slot> {
        self.state.active()
    }

    /// The secret in `ClientApplication.retiringSecret`.
    #[must_use]
    pub const fn retiring(&self) -> Option<&Slot> {
        self.state.retiring()
    }

    /// When the retiring secret ends by itself.
    #[must_use]
    pub const fn retiring_ends(&self) -> Option<Timestamp> {
        self.state.ends()
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

    /// Active becomes retiring, `fresh` becomes active; both grant access, the retiring one until `ends`. A
    /// retiring secret that was there ends.
    pub fn rotate(
        self,
        presented: &Presented,
        fresh: Slot,
        ends: Option<Timestamp>,
    ) -> Result<Moved, Mismatch> {
        if !self.holds(SlotKind::Active, presented) {
            return Err(Mismatch);
        }
        let (active, ended) = match self.state {
            State::Empty => return Err(Mismatch),
            State::One { active } => (active, None),
            State::Two { active, retiring, .. } => (active, Some(retiring)),
        };
        let state = State::Two { active: fresh, retiring: active, ends };
        Ok(Self::moved(state, ended, self.expired))
    }

    /// The retiring secret ends.
    pub fn retire(self, presented: &Presented) -> Result<Moved, Mismatch> {
        if !self.holds(SlotKind::Retiring, presented) {
            return Err(Mismatch);
        }
        match self.state {
            State::Two { active, retiring, .. } => {
                Ok(Self::moved(State::One { active }, Some(retiring), self.expired))
            }
            State::Empty | State::One { .. } => Err(Mismatch),
        }
    }

    /// `fresh` takes the place of the active secret at once, with no overlap; the retiring one stays.
    #[must_use]
    pub fn replace(self, fresh: Slot) -> Moved {
        let (state, ended) = match self.state {
            State::Empty => (State::One { active: fresh }, None),
            State::One { active } => (State::One { active: fresh }, Some(active)),
            State::Two { active, retiring, ends } => {
                (State::Two { active: fresh, retiring, ends }, Some(active))
            }
        };
        Self::moved(state, ended, self.expired)
    }

    /// The retiring secret becomes the active one again, for as long as it is wanted, and the newer one retires.
    pub fn undo(self) -> Result<Moved, NoSuchSecret> {
        match self.state {
            State::Two { active, retiring, .. } => {
                let state = State::Two { active: retiring, retiring: active, ends: None };
                Ok(Self::moved(state, None, self.expired))
            }
            State::Empty | State::One { .. } => Err(NoSuchSecret),
        }
    }

    /// A secret ends at once, whoever has it. Where that is the active one, the retiring one takes its place, and
    /// without one the client has no secret.
    pub fn revoke(self, kind: SlotKind) -> Result<Moved, NoSuchSecret> {
        let (state, ended) = match (self.state, kind) {
            (State::One { active }, SlotKind::Active) => (State::Empty, active),
            (State::Two { active, retiring, .. }, SlotKind::Active) => {
                (State::One { active: retiring }, active)
            }
            (State::Two { active, retiring, .. }, SlotKind::Retiring) => (State::One { active }, retiring),
            (State::Empty, _) | (State::One { .. }, SlotKind::Retiring) => return Err(NoSuchSecret),
        };
        Ok(Self::moved(state, Some(ended), self.expired))
    }

    fn moved(state: State, ended: Option<Slot>, expired: Option<Ended>) -> Moved {
        let ended = expired.into_iter().chain(ended.map(Ended::by_move)).collect();
        Moved { slots: Self { state, expired: None }, ended }
    }
}

/// What a value is compared with where there is no secret. Its key id belongs to no key.
const DUMMY: Slot = Slot {
    id: SecretId::NIL,
    key: KeyId::from_bytes([0; 8]),
    digest: SecretDigest::from_bytes([0; 32]),
    sealed: None,
    created: Timestamp::from_epoch_ms(0),
    by: None,
};
