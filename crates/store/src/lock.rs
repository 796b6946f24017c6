//! One process owns a data directory: two servers on one SQLite file would each answer from reads
//! the other knows nothing of. The operating system drops the lock when the process ends, however
//! it ends.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::StoreError;

/// The file in a data directory that is locked.
pub const LOCK_FILE: &str = "keyrelay.lock";

/// Holds the data directory for as long as it lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes the lock of a data directory, or says at once that another process has it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(LOCK_FILE);
        let failed =
            |source| StoreError::File { action: "cannot lock", path: path.display().to_string(), source };
        // Not a link: another user could use one to make this process create a file elsewhere.
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut how = File::options();
        let file = how.create(true).truncate(false).write(true).custom_flags(no_link).open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.display().to_string() }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_has_one_holder_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDirLock::take(dir.path()).unwrap();
        assert!(matches!(DataDirLock::take(dir.path()), Err(StoreError::Locked { .. })));
        drop(held);
        assert!(DataDirLock::take(dir.path()).is_ok());
    }
}
