//! Files that commands write, possibly as root in directories of other users. All commands use this module, so one
//! rule holds for all of them, after the model of sshd's `StrictModes`:
//!
//! - A path is resolved once, to the descriptor of a directory and one name in it. Everything after that goes by the
//!   descriptor, so nobody can exchange a directory between a check and its use.
//! - A link is followed only where the link and its directory belong to the caller or to root.
//! - Owner, mode and kind of a file are checked before anything of it is read, copied or locked.
//! - Readers find a file whole, old or new. A lock is waited for up to a deadline.

mod claim;
mod entry;
mod trust;
mod walk;

pub use claim::{Claim, Turn};
pub use entry::Entry;

#[cfg(test)]
mod tests;
