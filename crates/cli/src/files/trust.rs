//! Who owns a file or a directory, and who else can write to it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use rustix::process::{getegid, geteuid};

const STICKY: u32 = 0o1000;

/// Whether a user id is the caller's own, or root's.
pub fn is_trusted_uid(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Whether the owner is the caller or root.
pub fn belongs_to_trusted(meta: &Metadata) -> bool {
    is_trusted_uid(meta.uid())
}

/// Whether others than the owner may write: everybody, or a group that is neither the caller's own nor root's.
pub fn is_shared(meta: &Metadata) -> bool {
    let own_group = meta.gid() == 0 || meta.gid() == getegid().as_raw();
    meta.mode() & 0o002 != 0 || (meta.mode() & 0o020 != 0 && !own_group)
}

/// Whether only the caller and root can make, replace and remove entries of a directory.
pub fn is_own_dir(meta: &Metadata) -> bool {
    belongs_to_trusted(meta) && !is_shared(meta)
}

/// Whether others cannot replace or remove the entries that the caller and root have made in a directory.
pub fn keeps_own_entries(meta: &Metadata) -> bool {
    belongs_to_trusted(meta) && (!is_shared(meta) || meta.mode() & STICKY != 0)
}
