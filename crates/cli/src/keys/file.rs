//! The master key file while it changes. One lock is held from the first read to the last write: in the directory of
//! the file, and in the database, which all hosts with a copy of the file share.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::KEYS_LOCK_WAIT_MAX;
use keyrelay_store::operations::{KeysLock, Place};
use zeroize::Zeroizing;

use crate::files::{Claim, Entry, Turn};
use crate::installation::dir_of;

/// The ending of the file with the keys before the last change.
const PREVIOUS: &str = "previous";

/// The file, locked as long as this lives.
pub struct KeyFile {
    path: PathBuf,
    _file: Claim,
    _database_file: Option<Claim>,
    database: Option<KeysLock>,
}

impl KeyFile {
    /// Waits for the lock. A link is followed: its target is locked and changed.
    pub async fn lock(path: PathBuf, place: &Place) -> anyhow::Result<Self> {
        let cannot = || format!("cannot change {}", path.display());
        let wait = KEYS_LOCK_WAIT_MAX;
        let file = Claim::wait(&Entry::find(&path).with_context(cannot)?, wait).await.with_context(cannot)?;
        let (mut database_file, mut database) = (None, None);
        match place {
            Place::Postgres(config) => {
                let lock = KeysLock::take(config, wait).await?;
                database = Some(lock.context(
                    "another `keyrelay keys` works on this database, perhaps on another host: wait until it has ended",
                )?);
            }
            // A database that does not exist yet needs no lock.
            Place::File(database) if dir_of(database).is_dir() => {
                let entry = Entry::find(database).with_context(cannot)?;
                database_file = Some(Claim::wait(&entry, wait).await.with_context(cannot)?);
            }
            Place::File(_) => {}
        }
        Ok(Self { path, _file: file, _database_file: database_file, database })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys that it lists now.
    pub fn keyring(&self) -> anyhow::Result<Keyring> {
        parse(&self.path, &self.text()?)
    }

    fn text(&self) -> anyhow::Result<Zeroizing<String>> {
        let cannot = || format!("cannot read {}", self.path.display());
        let bytes = Entry::find(&self.path)?.read()?.with_context(cannot)?;
        Ok(Zeroizing::new(std::str::from_utf8(&bytes).with_context(cannot)?.to_owned()))
    }

    /// Replaces the file, keeps its owner, and keeps the old file beside it. Returns the keys that the new file lists
    /// after it was made durable and read again: only these may seal.
    pub async fn change(&self, change: impl FnOnce(&str) -> Zeroizing<String>) -> anyhow::Result<Keyring> {
        let cannot = || format!("cannot change {}", self.path.display());
        let text = self.text()?;
        let changed = change(&text);
        // Before the write, so that the file is never one that a server cannot read.
        parse(&self.path, &changed)?;
        let place = Entry::find(&self.path).with_context(cannot)?;
        let mut name = place.name().clone();
        name.push(".");
        name.push(PREVIOUS);
        let previous = Turn::wait(place.sibling(name)?).await.with_context(cannot)?;
        let turn = Turn::wait(place).await.with_context(cannot)?;
        self.require_held()?;
        previous.owned_like(&turn).place(text.as_bytes()).with_context(cannot)?;
        turn.place(changed.as_bytes()).with_context(cannot)?;
        let found = self.text()?;
        let keyring = parse(&self.path, &found)?;
        if keyring.key_ids() != parse(&self.path, &changed)?.key_ids() {
            bail!(
                "{} does not hold what was written to it: something else changes it; nothing was sealed under a new \
                 key, and the file as it was before ends in .{PREVIOUS}",
                self.path.display()
            );
        }
        Ok(keyring)
    }

    /// Fails if the lock in the database is lost, because its connection may have ended.
    pub fn require_held(&self) -> anyhow::Result<()> {
        if self.database.as_ref().is_some_and(|lock| !lock.is_held()) {
            bail!(
                "the connection to the database was lost, and with it the lock: run the same command again"
            );
        }
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> anyhow::Result<Keyring> {
    Keyring::parse_file(text).with_context(|| format!("in {}", path.display()))
}
