//! Files that only one process of this program changes at a time. A reader sees a replacement whole or not at all.

use std::ffi::OsString;
use std::fs::{File, Metadata, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::time::Duration;

use anyhow::{Context, bail};
use keyrelay_core::limits::{FILE_LOCK_RETRIES_MAX, FILE_LOCK_WAIT_MAX};
use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::entry::Entry;

/// The pause between two attempts to take a lock that others hold.
const TRY_INTERVAL: Duration = Duration::from_millis(20);

/// A locked file that is removed at the end, so that the lock leaves no file.
///
/// Only its owner can open it, so no other user can hold the lock unless the file is theirs. A process that waited
/// for the lock finds that the name is gone or belongs to another file, and retries. A killed process leaves the
/// file; the next process takes it over.
#[derive(Debug)]
pub struct Claim {
    entry: Entry,
    file: File,
    /// Whether the file was renamed, and so must not be removed.
    is_given_away: bool,
}

/// The result of one attempt.
enum Attempt {
    Held(Claim),
    /// Others hold it.
    Busy,
    /// It was removed or replaced.
    Again,
}

impl Claim {
    /// Waits for the lock of a file, up to a time.
    pub async fn wait(entry: &Entry, at_most: Duration) -> anyhow::Result<Self> {
        let claimed = entry.sibling(aside(entry, "lock"))?;
        Self::wait_for(&claimed, None, at_most).await
    }

    async fn wait_for(entry: &Entry, owner: Option<u32>, at_most: Duration) -> anyhow::Result<Self> {
        let until = Instant::now() + at_most;
        let mut retries = 0;
        loop {
            match Self::attempt(entry, owner)? {
                Attempt::Held(claim) => return Ok(claim),
                Attempt::Again if retries < FILE_LOCK_RETRIES_MAX => retries += 1,
                Attempt::Again => bail!("others keep replacing {}", entry.path().display()),
                Attempt::Busy if Instant::now() < until => sleep(TRY_INTERVAL).await,
                Attempt::Busy => return Err(busy(entry, at_most)),
            }
        }
    }

    /// Takes the lock, or reports at once that others hold it.
    fn take(entry: &Entry, owner: Option<u32>) -> anyhow::Result<Self> {
        for _ in 0..FILE_LOCK_RETRIES_MAX {
            match Self::attempt(entry, owner)? {
                Attempt::Held(claim) => return Ok(claim),
                Attempt::Again => {}
                Attempt::Busy => return Err(busy(entry, Duration::ZERO)),
            }
        }
        bail!("others keep replacing {}", entry.path().display())
    }

    fn attempt(entry: &Entry, owner: Option<u32>) -> anyhow::Result<Attempt> {
        let cannot = || format!("cannot write {}", entry.path().display());
        let Some(file) = open_own(entry).with_context(cannot)? else {
            entry.unlink().with_context(cannot)?;
            return Ok(Attempt::Again);
        };
        // Before the lock: a file that others put there is refused without a wait.
        if !may_hold(&file.metadata()?, owner) {
            entry.unlink().with_context(cannot)?;
            return Ok(Attempt::Again);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        // The previous holder may have removed it, renamed it, or changed its owner.
        let meta = file.metadata()?;
        if !entry.is_name_of(&meta).with_context(cannot)? {
            return Ok(Attempt::Again);
        }
        if !may_hold(&meta, owner) || meta.mode() & 0o200 == 0 {
            entry.unlink().with_context(cannot)?;
            return Ok(Attempt::Again);
        }
        let entry = entry.sibling(entry.name().clone())?;
        Ok(Attempt::Held(Self { entry, file, is_given_away: false }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // After a rename, this name belongs to the next process.
        if !self.is_given_away {
            let _ = self.entry.unlink();
        }
    }
}

fn busy(entry: &Entry, waited: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "another process has held the lock on {} for more than {} s: end it, or remove that file if it is none of \
         keyrelay",
        entry.path().display(),
        waited.as_secs()
    )
}

fn aside(entry: &Entry, what: &str) -> OsString {
    let mut name = OsString::from(".");
    name.push(entry.name());
    name.push(".keyrelay-");
    name.push(what);
    name
}

/// Opens or creates a file, for its owner only; `None` if it is a link or cannot be opened.
fn open_own(entry: &Entry) -> io::Result<Option<File>> {
    let own = Mode::RUSR | Mode::WUSR;
    let opened = match entry.open(OFlags::WRONLY | OFlags::CREATE, own) {
        // It has the mode of the target already, so the write bit may be missing. A lock works without that bit.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            entry.open(OFlags::RDONLY, Mode::empty())
        }
        opened => opened,
    };
    match opened {
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                || matches!(
                    rustix::io::Errno::from_io_error(&error),
                    Some(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO)
                ) =>
        {
            Ok(None)
        }
        opened => opened,
    }
}

/// Whether a secret may be written to an existing file: not if another user put it there, who could read it.
fn may_hold(file: &Metadata, owner: Option<u32>) -> bool {
    let is_own = file.uid() == geteuid().as_raw() || Some(file.uid()) == owner;
    file.is_file() && file.nlink() == 1 && is_own
}

/// A file that no other process of this program changes as long as this lives, so that a change replaces what was
/// read.
/// Mode and owner stay; a new file is for its owner only.
///
/// The lock is on the new file beside it, which later gets its name.
#[derive(Debug)]
pub struct Turn {
    place: Entry,
    before: Option<Metadata>,
    claim: Claim,
}

impl Turn {
    /// Waits for it.
    pub async fn wait(place: Entry) -> anyhow::Result<Self> {
        let (part, owner) = Self::part(&place)?;
        let claim = Claim::wait_for(&part, owner, FILE_LOCK_WAIT_MAX).await;
        Self::with(place, claim)
    }

    /// Takes it, or reports at once that others hold it.
    pub fn take(place: Entry) -> anyhow::Result<Self> {
        let (part, owner) = Self::part(&place)?;
        let claim = Claim::take(&part, owner);
        Self::with(place, claim)
    }

    fn part(place: &Entry) -> anyhow::Result<(Entry, Option<u32>)> {
        let owner = place.open_checked()?.map(|(_, meta)| meta.uid());
        Ok((place.sibling(aside(place, "part"))?, owner))
    }

    fn with(place: Entry, claim: anyhow::Result<Claim>) -> anyhow::Result<Self> {
        let claim = claim.with_context(|| format!("cannot write beside {}", place.path().display()))?;
        let before = place.open_checked()?.map(|(_, meta)| meta);
        Ok(Self { place, before, claim })
    }

    /// Gives the file mode and owner of another one.
    pub fn owned_like(mut self, other: &Self) -> Self {
        self.before.clone_from(&other.before);
        self
    }

    /// The contents of the file.
    pub fn read(&self) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        self.place.read()
    }

    /// Replaces the contents of the file.
    pub fn place(mut self, contents: &[u8]) -> anyhow::Result<()> {
        self.fill(contents)?;
        let cannot = || format!("cannot replace {}", self.place.path().display());
        // If others gave the name to another file meanwhile, that file is not moved into place.
        if !self.claim.entry.is_name_of(&self.claim.file.metadata()?).with_context(cannot)? {
            bail!("{}: the file that was written beside it is gone", cannot());
        }
        self.claim.entry.rename_to(&self.place).with_context(cannot)?;
        self.claim.is_given_away = true;
        self.place.sync_dir().with_context(cannot)
    }

    /// Runs [`Turn::place`] without its last step.
    pub fn check(mut self, contents: &[u8]) -> anyhow::Result<()> {
        self.fill(contents)
    }

    fn fill(&mut self, contents: &[u8]) -> anyhow::Result<()> {
        let filled = fill(&mut self.claim.file, contents, self.before.as_ref());
        filled.with_context(|| format!("cannot write beside {}", self.place.path().display()))
    }
}

fn fill(file: &mut File, contents: &[u8], before: Option<&Metadata>) -> anyhow::Result<()> {
    // Removes what a killed attempt left.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    file.write_all(contents)?;
    if let Some(before) = before {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&*file, Some(before.uid()), Some(before.gid()))
                .context("its owner would change: run this as its owner or as root")?;
        }
        // After the owner, or others could read it for a moment. Without set-user-id and similar bits.
        file.set_permissions(Permissions::from_mode(before.mode() & 0o777))?;
    }
    file.sync_all()?;
    Ok(())
}
