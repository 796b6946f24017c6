//! Resolves a path to the descriptor of a directory and a name in it. Each component is opened in the directory before
//! it, without following links. If its owner is trusted, a link is read, and its target is walked like the path.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use anyhow::{Context, bail};
use keyrelay_core::limits::PATH_LINKS_MAX;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, mkdirat, open, openat, readlinkat, statat};
use rustix::io::Errno;

use super::trust::{is_trusted_uid, keeps_own_entries};

/// Directories on the way need not be readable.
#[cfg(target_os = "linux")]
const THROUGH: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const THROUGH: OFlags = OFlags::RDONLY;

/// What to do about a directory that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Report it.
    Fails,
    /// Make it, for the caller only.
    IsMade,
}

/// Where a path leads.
pub(super) struct Found {
    /// The directory.
    pub dir: File,
    /// The name in it, which is not a link.
    pub name: OsString,
    /// Whether no other user can exchange a directory on the way.
    pub is_own_way: bool,
}

struct Walk {
    dir: File,
    /// The components that are left, last first.
    left: Vec<OsString>,
    links: usize,
    is_own_way: bool,
    missing: Missing,
}

/// Walks a path.
pub(super) fn walk(path: &Path, missing: Missing) -> anyhow::Result<Found> {
    let mut walk =
        Walk { dir: open_dir(Path::new("."))?, left: Vec::new(), links: 0, is_own_way: true, missing };
    walk.push(path)?;
    walk.go()
}

/// The status of a name in a directory, if it exists; a link is not followed.
pub(super) fn look(dir: &File, name: &OsString) -> io::Result<Option<Stat>> {
    match statat(dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

fn open_dir(path: &Path) -> io::Result<File> {
    Ok(open(path, THROUGH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?.into())
}

impl Walk {
    fn push(&mut self, path: &Path) -> anyhow::Result<()> {
        if path.is_absolute() {
            self.dir = open_dir(Path::new("/"))?;
        }
        self.note_dir()?;
        self.left.extend(path.components().rev().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        }));
        Ok(())
    }

    fn note_dir(&mut self) -> io::Result<()> {
        self.is_own_way &= keeps_own_entries(&self.dir.metadata()?);
        Ok(())
    }

    fn go(mut self) -> anyhow::Result<Found> {
        while let Some(name) = self.left.pop() {
            if self.left.is_empty() && name != ".." {
                if look(&self.dir, &name)?.is_some_and(|stat| is_link(&stat)) {
                    self.follow(&name)?;
                    continue;
                }
                // Its descriptor makes names durable, so it is opened for reading, if the caller may.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = match openat(&self.dir, ".", flags, Mode::empty()) {
                    Err(Errno::ACCESS) => self.dir,
                    opened => opened?.into(),
                };
                return Ok(Found { dir, name, is_own_way: self.is_own_way });
            }
            self.enter(&name)?;
        }
        bail!("the path does not name a file")
    }

    fn enter(&mut self, name: &OsString) -> anyhow::Result<()> {
        let within = |dir: &File| {
            let flags = THROUGH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(dir, name.as_os_str(), flags, Mode::empty())
        };
        let mut opened = within(&self.dir);
        if opened.as_ref().err() == Some(&Errno::NOENT) && self.missing == Missing::IsMade {
            match mkdirat(&self.dir, name.as_os_str(), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => opened = within(&self.dir),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot make the directory {}", name.display()));
                }
            }
        }
        match opened {
            Ok(dir) => {
                self.dir = dir.into();
                self.note_dir()?;
                Ok(())
            }
            Err(Errno::NOTDIR | Errno::LOOP) if look(&self.dir, name)?.is_some_and(|stat| is_link(&stat)) => {
                self.follow(name)
            }
            Err(error) => Err(error).with_context(|| format!("the directory {}", name.display())),
        }
    }

    fn follow(&mut self, name: &OsString) -> anyhow::Result<()> {
        let owner = look(&self.dir, name)?.map(|stat| stat.st_uid);
        if !owner.is_some_and(is_trusted_uid) || !keeps_own_entries(&self.dir.metadata()?) {
            bail!(
                "{} is a link that another user can change: a link is followed only where the link and its directory \
                 belong to the caller or to root; name the file itself",
                name.display()
            );
        }
        self.links += 1;
        if self.links > PATH_LINKS_MAX {
            bail!("the path has more than {PATH_LINKS_MAX} links");
        }
        let target = readlinkat(&self.dir, name.as_os_str(), Vec::new())?;
        self.push(Path::new(OsStr::from_bytes(target.as_bytes())))
    }
}
