//! The record of a rotation under way, by which it can resume. The record has ids of secrets and no values. If the
//! project shows secrets once, the old secret is in a separate file beside the record.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keyrelay_core::id::ClientId;
use keyrelay_core::secret::PlainSecret;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::admin::Rotation;
use crate::files::{Entry, Turn};

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

/// The file of a record, locked as long as this lives. If the server does not show the old secret, it is kept beside
/// this file, in a directory that no other user can write to.
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
        let entry = Entry::find_making_dirs(&path)?;
        entry.require_own_dir()?;
        // Beside the file, which is replaced by another with every change.
        let lock_path = with_ending(&path, "lock");
        let Some(lock) = Entry::find(&lock_path)?.lock()? else {
            bail!("another `keyrelay rotate` of this client is running: {} is locked", lock_path.display());
        };
        Ok(Self { path, _lock: lock })
    }

    /// What an earlier run left.
    pub fn read(&self, url: &str, client: ClientId) -> anyhow::Result<Option<Record>> {
        let Some(text) = Entry::find(&self.path)?.read()? else { return Ok(None) };
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
        Turn::take(Entry::find(&self.path)?)?.place(text.as_bytes())
    }

    /// The file with the old secret.
    pub fn kept_path(&self) -> PathBuf {
        with_ending(&self.path, "retiring")
    }

    /// The old secret, if the file exists.
    pub fn kept(&self) -> anyhow::Result<Option<PlainSecret>> {
        let path = self.kept_path();
        let Some(bytes) = Entry::find(&path)?.read()? else { return Ok(None) };
        let cannot = || format!("what {} holds", path.display());
        let text = Zeroizing::new(std::str::from_utf8(&bytes).with_context(cannot)?.to_owned());
        Ok(Some(PlainSecret::presented(text).with_context(cannot)?))
    }

    /// Stores the old secret durably.
    pub fn keep(&self, old: &PlainSecret) -> anyhow::Result<()> {
        Turn::take(Entry::find(&self.kept_path())?)?.place(old.reveal().as_bytes())
    }

    /// Forgets it: the rotation has come to its end.
    pub fn forget(&self) -> anyhow::Result<()> {
        Entry::find(&self.kept_path())?.remove()?;
        Entry::find(&self.path)?.remove()
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
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
