//! What a rotation that is under way leaves on the disk, so that it can be gone on with: ids of secrets,
//! never a value. The server knows the rest.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keyrelay_core::id::ClientId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::admin::Rotation;
use crate::deliver::{place, remove};
use crate::installation::dir_of;

/// A rotation that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The server.
    pub url: String,
    /// The client.
    pub client: String,
    /// The id of the secret that is to go.
    pub from: String,
    /// The id of the secret that was made, once it is known to be where it cannot be lost.
    pub to: Option<String>,
    /// Whether every target has it.
    pub delivered: bool,
    /// The commands that had it when every target had it.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Whether the server was asked to end the old one, and did not refuse.
    #[serde(default)]
    pub asked_to_retire: bool,
    /// How it was asked for, so that the answer can be asked for again; none where somebody else asked.
    #[serde(default)]
    pub asked: Option<Rotation>,
}

/// The file of a record, locked as long as this lives.
#[derive(Debug)]
pub struct RecordFile {
    path: PathBuf,
    _lock: File,
}

impl RecordFile {
    /// Opens the file that is named, or the one of the client in the directory for such things.
    pub fn open(named: Option<&Path>, client: ClientId) -> anyhow::Result<Self> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => state_dir()?.join(format!("rotate-{client}.json")),
        };
        let dir = dir_of(&path);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make the directory {}", dir.display()))?;
        // Beside the file, which is replaced by another with every change.
        let lock_path = PathBuf::from(format!("{}.lock", path.display()));
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("cannot open {}", lock_path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another `keyrelay rotate` of this client is running: {} is locked", lock_path.display());
        }
        Ok(Self { path, _lock: lock })
    }

    /// What an earlier run left.
    pub fn read(&self, url: &str, client: ClientId) -> anyhow::Result<Option<Record>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let record: Record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no record of a rotation", self.path.display()))?;
        if record.client != client.to_string() || record.url != url {
            bail!(
                "{} is of a rotation of {} at {}: end that one first, or name another file with --state",
                self.path.display(),
                record.client,
                record.url
            );
        }
        Ok(Some(record))
    }

    /// Writes it down, durably.
    pub fn write(&self, record: &Record) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(record)? + "\n";
        place(&self.path, text.as_bytes())
    }

    /// Forgets it: the rotation has come to its end.
    pub fn forget(&self) -> anyhow::Result<()> {
        remove(&self.path)
    }
}

/// Where systemd, or the user's session, wants state to be kept.
fn state_dir() -> anyhow::Result<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    // systemd may name several, with colons between them: then the path is none, and is not taken.
    dir("STATE_DIRECTORY")
        .or_else(|| Some(dir("XDG_STATE_HOME")?.join("keyrelay")))
        .or_else(|| Some(dir("HOME")?.join(".local/state/keyrelay")))
        .context("there is no home directory to keep the state of the rotation in: name a file with --state")
}
