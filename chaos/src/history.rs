//! What was asked about one client application, and what was answered, with the order in which things
//! began and ended. Secrets are numbers here: a report can show them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A secret of one client, by its number.
pub type Secret = u32;

/// A moment. Of two things that happened one after the other, the later one has the larger number.
pub type Moment = u64;

/// Hands out moments.
#[derive(Debug, Default)]
pub struct Moments(AtomicU64);

impl Moments {
    /// The next one.
    pub fn next(&self) -> Moment {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `$rotate-secret` with `secret`.
    Rotate(Secret),
    /// `$rotate-secret` with `retiringSecret`.
    Retire(Secret),
    /// `$undo-rotation`.
    Undo,
    /// `$revoke-secret` of the retiring one.
    Revoke,
    /// A grant, or a request by Basic.
    Authenticate(Secret),
    /// An admin reads the client application.
    Read,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A rotation gave this secret.
    Rotated(Secret),
    /// A rotation was undone, and these are the secrets.
    Undone(Secret, Secret),
    /// A retirement or a revocation was made, and this is the secret that is left.
    Retired(Secret),
    /// The secret let somebody in.
    Accepted,
    /// It did not, or did not match its slot, or there is nothing in the slot.
    Refused,
    /// These are the secrets.
    Shown(Secret, Option<Secret>),
    /// No answer, or one that says so: it may happen at any time from the call on, or never.
    Unknown,
}

/// One call and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was asked.
    pub call: Call,
    /// What became of it.
    pub answer: Answer,
    /// When it was sent.
    pub invoked: Moment,
    /// When the answer was there.
    pub returned: Moment,
    /// Which server was asked.
    pub node: usize,
}
