//! Files that commands write, possibly as root in directories of other users. All commands use this module, so one
//! rule holds for all of them, after the model of sshd's `StrictModes`:
//!
//! - A path is resolved once, to the descriptor of a directory and one name in it. All later steps use the
//!   descriptor, so nobody can exchange a directory between a check and its use.
//! - A link is followed only if the link and its directory belong to the caller or to root.
//! - Owner, mode and kind of a file are checked before the file is read, copied or locked.
//! - Readers see the whole old file or the whole new one. The wait for a lock has a deadline.

mod claim;
mod entry;
mod trust;
mod walk;

pub use claim::{Claim, Turn};
pub use entry::Entry;

#[cfg(test)]
mod tests;
