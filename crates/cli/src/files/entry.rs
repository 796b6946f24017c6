//! A name in an open directory, and the file with that name.

use std::ffi::OsString;
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, bail};
use keyrelay_core::limits::CHANGED_FILE_BYTES_MAX;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::trust::{is_own_dir, is_shared, is_trusted_uid};
use super::walk::{Found, Missing, look, walk};

/// See the module.
#[derive(Debug)]
pub struct Entry {
    dir: File,
    name: OsString,
    /// The path as it was given, for people.
    shown: PathBuf,
    is_own_way: bool,
}

impl Entry {
    /// Where a path leads. The file need not be there.
    pub fn find(path: &Path) -> anyhow::Result<Self> {
        Self::find_with(path, Missing::Fails)
    }

    /// Like [`Entry::find`]; directories that are missing are made, for the caller only.
    pub fn find_making_dirs(path: &Path) -> anyhow::Result<Self> {
        Self::find_with(path, Missing::IsMade)
    }

    fn find_with(path: &Path, missing: Missing) -> anyhow::Result<Self> {
        let found = walk(path, missing).with_context(|| format!("cannot use {}", path.display()))?;
        let Found { dir, name, is_own_way } = found;
        Ok(Self { dir, name, shown: path.to_owned(), is_own_way })
    }

    /// A file that must not exist yet, at a path that no other user can change, so that it may also be opened by its
    /// path.
    pub fn find_new(path: &Path) -> anyhow::Result<Self> {
        // From the root on, so that every directory is checked.
        let found = absolute(path).context("there is no working directory")?;
        let entry = Self { shown: path.to_owned(), ..Self::find(&found)? };
        if !entry.is_own_way {
            bail!(
                "{} is in a directory that other users can change: choose one that belongs to you or to root, with all \
                 above it, and that nobody else can write to",
                path.display()
            );
        }
        if look(&entry.dir, &entry.name)?.is_some() {
            bail!("there is a file {} already; nothing was changed", path.display());
        }
        Ok(entry)
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// The name in the directory.
    pub fn name(&self) -> &OsString {
        &self.name
    }

    /// Another name in the same directory.
    pub fn sibling(&self, name: OsString) -> io::Result<Self> {
        let shown = self.shown.with_file_name(&name);
        Ok(Self { dir: self.dir.try_clone()?, name, shown, is_own_way: self.is_own_way })
    }

    /// Refuses a directory that other users than the caller and root can write to.
    pub fn require_own_dir(&self) -> anyhow::Result<()> {
        if !is_own_dir(&self.dir.metadata()?) {
            bail!(
                "other users can write to the directory of {}: choose one that belongs to you or to root, with mode 0700",
                self.shown.display()
            );
        }
        Ok(())
    }

    /// Refuses root in a directory of another user, who could exchange any file that is made there.
    pub fn refuse_root_for_others(&self) -> anyhow::Result<()> {
        let owner = self.dir.metadata()?.uid();
        if geteuid().is_root() && owner != 0 {
            let dir = self.shown.parent().unwrap_or(Path::new("."));
            bail!("{} belongs to user {owner}: run this as that user, not as root", dir.display());
        }
        Ok(())
    }

    /// The whole file; `None` if it does not exist.
    pub fn read(&self) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let cannot = || format!("cannot read {}", self.shown.display());
        let Some((file, _)) = self.open_checked().with_context(cannot)? else { return Ok(None) };
        self.read_all(file).map(Some)
    }

    /// The whole file, if only the caller and root can change it.
    pub fn read_own(&self) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let Some((file, meta)) = self.open_checked()? else { return Ok(None) };
        if !is_trusted_uid(meta.uid()) || is_shared(&meta) {
            let (uid, gid) = (meta.uid(), meta.gid());
            bail!("{} belongs to user {uid} and group {gid}, who can change it", self.shown.display());
        }
        self.read_all(file).map(Some)
    }

    fn read_all(&self, file: File) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let cannot = || format!("cannot read {}", self.shown.display());
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(CHANGED_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(cannot)?;
        if bytes.len() as u64 > CHANGED_FILE_BYTES_MAX {
            bail!("{} is larger than {CHANGED_FILE_BYTES_MAX} bytes", self.shown.display());
        }
        Ok(bytes)
    }

    /// The file for reading, after its owner, mode and kind were checked.
    pub(super) fn open_checked(&self) -> anyhow::Result<Option<(File, Metadata)>> {
        // Before it is opened, because opening alone has an effect on some devices.
        let Some(stat) = look(&self.dir, &self.name)? else { return Ok(None) };
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            bail!("{} is not a file", self.shown.display());
        }
        let Some(file) = self.open(OFlags::RDONLY, Mode::empty())? else { return Ok(None) };
        let meta = file.metadata()?;
        self.check(&meta)?;
        Ok(Some((file, meta)))
    }

    /// Opens the name without following a link, and without waiting if it is not a regular file.
    pub(super) fn open(&self, how: OFlags, mode: Mode) -> io::Result<Option<File>> {
        let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(&self.dir, self.name.as_os_str(), flags, mode) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// In a directory that others can write to, a file must belong to the owner of the directory and have no other
    /// name: otherwise it could be a file that they may not read.
    fn check(&self, meta: &Metadata) -> anyhow::Result<()> {
        let shown = self.shown.display();
        if !meta.is_file() {
            bail!("{shown} is not a file");
        }
        if meta.mode() & 0o002 != 0 {
            bail!("everybody can write to {shown}: chmod o-w it");
        }
        let dir = self.dir.metadata()?;
        if is_own_dir(&dir) {
            return Ok(());
        }
        if !is_trusted_uid(meta.uid()) && meta.uid() != dir.uid() {
            bail!(
                "{shown} belongs to user {}, who is neither the owner of its directory nor the caller",
                meta.uid()
            );
        }
        if meta.nlink() != 1 {
            bail!("{shown} has other names (hard links), and other users can write to its directory");
        }
        Ok(())
    }

    /// Creates the file, for its owner only. An existing file stays unchanged.
    pub fn create(&self, contents: &[u8]) -> anyhow::Result<()> {
        let create = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let Some(mut file) = self.open(flags, Mode::RUSR | Mode::WUSR)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let written = file.write_all(contents).and_then(|()| file.sync_all());
            written.inspect_err(|_| self.unlink().unwrap_or_default())?;
            self.sync_dir()
        };
        create().with_context(|| format!("cannot write {}", self.shown.display()))
    }

    /// Locks the file. It is created if it does not exist, and stays afterwards. `None` if others hold the lock.
    pub fn lock(&self) -> anyhow::Result<Option<File>> {
        let cannot = || format!("cannot lock {}", self.shown.display());
        let file =
            self.open(OFlags::WRONLY | OFlags::CREATE, Mode::RUSR | Mode::WUSR).with_context(cannot)?;
        let file = file.with_context(cannot)?;
        self.check(&file.metadata()?)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
        }
    }

    /// Removes the file, if it exists.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.unlink().with_context(|| format!("cannot remove {}", self.shown.display()))
    }

    pub(super) fn unlink(&self) -> io::Result<()> {
        match unlinkat(&self.dir, self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives this file the name of another one in the same directory.
    pub(super) fn rename_to(&self, other: &Self) -> io::Result<()> {
        Ok(renameat(&self.dir, self.name.as_os_str(), &other.dir, other.name.as_os_str())?)
    }

    /// Makes the names in the directory durable.
    pub fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    /// Whether the name still belongs to an open file.
    pub(super) fn is_name_of(&self, file: &Metadata) -> io::Result<bool> {
        let named = look(&self.dir, &self.name)?;
        Ok(named.is_some_and(|named| (named.st_dev, named.st_ino) == (file.dev(), file.ino())))
    }
}
