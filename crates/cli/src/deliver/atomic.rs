//! Files that whoever reads them finds whole, old or new: written beside their place, made durable, then
//! given their name. Mode and owner stay; a new one is for its owner only.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use crate::installation::dir_of;

/// Largest file that is changed, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

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

/// Which file has that name now: another one after each [`place`]. `None` where there is none.
pub fn identity(path: &Path) -> anyhow::Result<Option<String>> {
    let meta = metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(meta.map(|meta| format!("{}:{}", meta.dev(), meta.ino())))
}

/// Gives a file its contents.
pub fn place(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let aside = Aside::write(path, contents)?;
    let renamed = fs::rename(&aside.path, &aside.place);
    renamed.with_context(|| format!("cannot replace {}", aside.place.display()))?;
    sync(dir_of(&aside.place))
}

/// Does all of [`place`] but the last step.
pub fn check(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    Aside::write(path, contents).map(drop)
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

/// A file beside its place. It holds a secret, so it goes if it does not get that name; whoever kills the
/// process leaves it, and the next attempt replaces it.
struct Aside {
    place: PathBuf,
    path: PathBuf,
}

impl Aside {
    fn write(path: &Path, contents: &[u8]) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write beside {}", path.display());
        let before = metadata(path).with_context(cannot)?;
        // A link stays, and what it leads to is replaced.
        let place =
            if before.is_some() { fs::canonicalize(path).with_context(cannot)? } else { path.to_owned() };
        let Some(name) = place.file_name() else { bail!("{} has no name", path.display()) };
        let mut aside = OsString::from(".");
        aside.push(name);
        aside.push(".keyrelay-part");
        let path = dir_of(&place).join(aside);
        remove_if_there(&path).with_context(cannot)?;
        let file =
            File::options().write(true).create_new(true).mode(0o600).open(&path).with_context(cannot)?;
        let aside = Self { place, path };
        fill(file, contents, before.as_ref()).with_context(cannot)?;
        Ok(aside)
    }
}

fn fill(mut file: File, contents: &[u8], before: Option<&Metadata>) -> anyhow::Result<()> {
    file.write_all(contents)?;
    if let Some(before) = before {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            fchown(&file, Some(before.uid()), Some(before.gid()))
                .context("its owner would change: run this as its owner or as root")?;
        }
        // After the owner, or others could read it for a moment.
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
    }
    file.sync_all()?;
    Ok(())
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Nothing is there any more if it got its name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let before = identity(&path).unwrap();
        place(&path, b"two").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, owner.0, owner.1));
        assert_ne!(identity(&path).unwrap(), before);
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
        fs::write(&left, "half of a sec").unwrap();
        place(&path, b"new").unwrap();
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["secret".into()], b"new".to_vec()));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().ends_with("is not a file"));
        assert!(check(&dir.path().join("none/secret"), b"x").is_err());
    }
}
