//! Files that whoever reads them finds whole, old or new: written beside their place, made durable, then
//! given their name. Mode and owner stay; a new one is for its owner only.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use crate::installation::dir_of;

/// Largest file that is changed, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How often others may be faster, or in the way, before it is given up.
const TURNS_MAX: usize = 1000;

/// The whole file; `None` where there is none.
pub fn read(path: &Path) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let cannot = || format!("cannot read {}", path.display());
    let Some(meta) = metadata(path).with_context(cannot)? else { return Ok(None) };
    if !meta.is_file() {
        bail!("{} is not a file", path.display());
    }
    if meta.len() > FILE_BYTES_MAX {
        bail!("{} is larger than {FILE_BYTES_MAX} bytes", path.display());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).with_context(cannot)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).with_context(cannot)?;
    Ok(Some(bytes))
}

fn metadata(path: &Path) -> std::io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a file its contents.
pub fn place(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    Turn::wait(path)?.place(contents)
}

/// Removes a file, if there is one.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    remove_if_there(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> anyhow::Result<()> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("cannot make {} durable", dir.display()))
}

/// A file that no other process of this program changes, as long as this lives: what was read of it is what is
/// replaced.
///
/// What is locked is the file beside it that gets its name, which only its owner can open. So nothing is left of a
/// lock, and nobody else can take it. Whoever waited finds that the name is gone or another file's, and tries again.
/// That file is to hold a secret: it is removed if it does not get the name. Whoever kills the process leaves it, and
/// the next one writes over it.
pub struct Turn {
    place: PathBuf,
    before: Option<Metadata>,
    path: PathBuf,
    file: File,
    is_placed: bool,
}

impl Turn {
    /// Waits for it.
    pub fn wait(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write beside {}", path.display());
        // A link stays, and what it leads to is replaced.
        let place = match metadata(path).with_context(cannot)? {
            Some(_) => fs::canonicalize(path).with_context(cannot)?,
            None => path.to_owned(),
        };
        let Some(name) = place.file_name() else { bail!("{} has no name", path.display()) };
        let mut aside = OsString::from(".");
        aside.push(name);
        aside.push(".keyrelay-part");
        let path = dir_of(&place).join(aside);
        for _ in 0..TURNS_MAX {
            let Some(file) = open_own(&path).with_context(cannot)? else {
                remove_if_there(&path).with_context(cannot)?;
                continue;
            };
            file.lock().with_context(cannot)?;
            let before = metadata(&place).with_context(cannot)?;
            let (own, named) = (file.metadata().with_context(cannot)?, link_metadata(&path));
            if named.with_context(cannot)?.is_none_or(|named| !is_same_file(&named, &own)) {
                continue;
            }
            if may_hold(&own, before.as_ref()) {
                return Ok(Self { place, before, path, file, is_placed: false });
            }
            remove_if_there(&path).with_context(cannot)?;
        }
        bail!("{}: others keep replacing {}", cannot(), path.display())
    }

    /// Gives the file its contents.
    pub fn place(mut self, contents: &[u8]) -> anyhow::Result<()> {
        self.fill(contents)?;
        let renamed = fs::rename(&self.path, &self.place);
        renamed.with_context(|| format!("cannot replace {}", self.place.display()))?;
        self.is_placed = true;
        sync(dir_of(&self.place))
    }

    /// Does all of [`Turn::place`] but the last step.
    pub fn check(mut self, contents: &[u8]) -> anyhow::Result<()> {
        self.fill(contents)
    }

    fn fill(&mut self, contents: &[u8]) -> anyhow::Result<()> {
        let filled = fill(&mut self.file, contents, self.before.as_ref());
        filled.with_context(|| format!("cannot write beside {}", self.place.display()))
    }
}

/// Opens a file, or makes it, for its owner only; `None` if it is a link or cannot be opened. Nothing is waited for
/// that is no file.
fn open_own(path: &Path) -> std::io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, OFlags::WRONLY | OFlags::CREATE | flags, Mode::RUSR | Mode::WUSR) {
        // It has the mode of its place already. To be locked it needs no more.
        Err(Errno::ACCESS) => open(path, OFlags::RDONLY | flags, Mode::empty()),
        opened => opened,
    };
    match file {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::LOOP | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a secret may be written to a file that was there: not if somebody else put it there, who would read it.
/// One that cannot be written to was left by an attempt that was killed at its last step.
fn may_hold(own: &Metadata, before: Option<&Metadata>) -> bool {
    let is_own = own.uid() == geteuid().as_raw() || before.is_some_and(|before| own.uid() == before.uid());
    own.is_file() && own.nlink() == 1 && is_own && own.mode() & 0o200 != 0
}

fn link_metadata(path: &Path) -> std::io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same_file(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn fill(file: &mut File, contents: &[u8], before: Option<&Metadata>) -> anyhow::Result<()> {
    // Whatever a killed attempt left.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.set_len(0)?;
    file.write_all(contents)?;
    if let Some(before) = before {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&*file, Some(before.uid()), Some(before.gid()))
                .context("its owner would change: run this as its owner or as root")?;
        }
        // After the owner, or others could read it for a moment.
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
    }
    file.sync_all()?;
    Ok(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Once it has its new name, the old one is that of whoever comes next.
        if !self.is_placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
        Turn::wait(path)?.check(contents)
    }

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn mode_and_owner_stay_and_a_new_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        place(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root can give a file away; others see at least that their own stays theirs.
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        let owner = if is_root {
            (12345, 54321)
        } else {
            (fs::metadata(&path).unwrap().uid(), fs::metadata(&path).unwrap().gid())
        };
        std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        place(&path, b"two").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, owner.0, owner.1));
        assert_eq!(names(dir.path()), ["secret"]);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("secret"), "old").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("inner/secret", &link).unwrap();
        place(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(inner.join("secret")).unwrap(), b"new");
    }

    #[test]
    fn what_a_killed_attempt_left_is_replaced_and_a_check_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "old").unwrap();
        let left = dir.path().join(".secret.keyrelay-part");
        fs::write(&left, "half of a sec").unwrap();
        check(&path, b"new").unwrap();
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["secret".into()], b"old".to_vec()));
        fs::write(&left, "half of another secret").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o400)).unwrap();
        place(&path, b"new").unwrap();
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["secret".into()], b"new".to_vec()));
    }

    #[test]
    fn what_somebody_else_put_beside_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("secret"), dir.path().join(".secret.keyrelay-part"));
        let theirs = dir.path().join("theirs");
        fs::write(&theirs, "").unwrap();
        fs::hard_link(&theirs, &beside).unwrap();
        place(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&theirs).unwrap()), (b"new".to_vec(), Vec::new()));
        std::os::unix::fs::symlink(&theirs, &beside).unwrap();
        place(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&theirs).unwrap()), (b"new".to_vec(), Vec::new()));
        if fs::metadata(&path).unwrap().uid() == 0 {
            fs::write(&beside, "").unwrap();
            std::os::unix::fs::chown(&beside, Some(12345), None).unwrap();
            let reader = File::open(&beside).unwrap();
            place(&path, b"newer").unwrap();
            assert_eq!((fs::read(&path).unwrap(), reader.metadata().unwrap().len()), (b"newer".to_vec(), 0));
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().ends_with("is not a file"));
        assert!(check(&dir.path().join("none/secret"), b"x").is_err());
    }
}
