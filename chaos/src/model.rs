//! What a client application does with its secrets, one operation after another: the semantics of
//! `SecretSlots` in `keyrelay-core`, on secrets that are numbers.
//!
//! A rotation whose answer was lost makes a secret that nobody knows yet. It is known as that rotation's
//! until an admin reads it.

use std::collections::HashMap;

use crate::history::{Answer, Call, Moment, Operation, Secret};

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Held {
    /// A secret that somebody was told.
    Known(Secret),
    /// The secret that the operation of this number made.
    MadeBy(usize),
}

/// The secrets that grant access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slots {
    /// `ClientApplication.secret`.
    pub active: Held,
    /// `ClientApplication.retiringSecret`.
    pub retiring: Option<Held>,
}

/// The model of one client application, for one history.
#[derive(Debug)]
pub struct Model<'a> {
    history: &'a [Operation],
    /// When each secret was first told or presented.
    first_seen: HashMap<Secret, Moment>,
}

impl<'a> Model<'a> {
    /// For a history that begins with the secret `initial`.
    #[must_use]
    pub fn new(initial: Secret, history: &'a [Operation]) -> Self {
        let mut first_seen = HashMap::from([(initial, 0)]);
        for operation in history {
            let told = match operation.answer {
                Answer::Rotated(secret) | Answer::Retired(secret) => [Some(secret), None],
                Answer::Shown(active, retiring) => [Some(active), retiring],
                Answer::Undone(active, retiring) => [Some(active), Some(retiring)],
                Answer::Accepted | Answer::Refused | Answer::Unknown => [None, None],
            };
            for secret in told.into_iter().flatten() {
                let seen = first_seen.entry(secret).or_insert(operation.returned);
                *seen = operation.returned.min(*seen);
            }
        }
        Self { history, first_seen }
    }

    /// The slots after the operation of this number, if it can have been answered as it was where the
    /// slots are these.
    #[must_use]
    pub fn step(&self, slots: Slots, number: usize) -> Option<Slots> {
        let Operation { call, answer, .. } = self.history[number];
        let is_active = |secret| slots.active == Held::Known(secret);
        let is_retiring = |secret| slots.retiring == Some(Held::Known(secret));
        match (call, answer) {
            (Call::Rotate(secret), Answer::Rotated(fresh)) if is_active(secret) => {
                Some(Slots { active: Held::Known(fresh), retiring: Some(slots.active) })
            }
            (Call::Rotate(secret), Answer::Unknown) if is_active(secret) => {
                Some(Slots { active: Held::MadeBy(number), retiring: Some(slots.active) })
            }
            (Call::Rotate(secret), Answer::Refused) if !is_active(secret) => Some(slots),
            (Call::Retire(secret), Answer::Retired(left)) if is_retiring(secret) => {
                Some(Slots { active: self.told(slots.active, left)?, retiring: None })
            }
            (Call::Retire(secret), Answer::Unknown) if is_retiring(secret) => {
                Some(Slots { retiring: None, ..slots })
            }
            (Call::Retire(secret), Answer::Refused) if !is_retiring(secret) => Some(slots),
            (Call::Undo, Answer::Undone(active, retiring)) => {
                let active = self.told(slots.retiring?, active)?;
                Some(Slots { active, retiring: Some(self.told(slots.active, retiring)?) })
            }
            (Call::Undo, Answer::Unknown) => {
                Some(Slots { active: slots.retiring?, retiring: Some(slots.active) })
            }
            (Call::Revoke, Answer::Retired(left)) if slots.retiring.is_some() => {
                Some(Slots { active: self.told(slots.active, left)?, retiring: None })
            }
            (Call::Revoke, Answer::Unknown) if slots.retiring.is_some() => {
                Some(Slots { retiring: None, ..slots })
            }
            (Call::Undo | Call::Revoke, Answer::Refused) if slots.retiring.is_none() => Some(slots),
            (Call::Authenticate(secret), Answer::Accepted) if is_active(secret) || is_retiring(secret) => {
                Some(slots)
            }
            (Call::Authenticate(secret), Answer::Refused) if !is_active(secret) && !is_retiring(secret) => {
                Some(slots)
            }
            (Call::Read, Answer::Shown(active, retiring)) => {
                let retiring = match (slots.retiring, retiring) {
                    (Some(held), Some(shown)) => Some(self.told(held, shown)?),
                    (None, None) => None,
                    _ => return None,
                };
                Some(Slots { active: self.told(slots.active, active)?, retiring })
            }
            _ => None,
        }
    }

    /// Whether the operation of this number can never be any more: what it presents has ended.
    #[must_use]
    pub fn is_over(&self, slots: Slots, number: usize) -> bool {
        let (Call::Rotate(secret) | Call::Retire(secret)) = self.history[number].call else { return false };
        // One that nobody was told of yet may be any.
        let is_other = |held| matches!(held, Held::Known(known) if known != secret);
        is_other(slots.active) && slots.retiring.is_none_or(is_other)
    }

    /// A slot of which somebody was told that this secret is in it.
    fn told(&self, held: Held, secret: Secret) -> Option<Held> {
        let may_be = match held {
            Held::Known(known) => known == secret,
            // Nobody can have seen it before it was made.
            Held::MadeBy(number) => {
                let seen = self.first_seen.get(&secret);
                seen.is_none_or(|seen| *seen > self.history[number].invoked)
            }
        };
        may_be.then_some(Held::Known(secret))
    }
}
