//! Where a new secret goes: files, single keys of dotenv files, and commands, which get it on standard
//! input. Delivering the same secret again changes nothing in a file, and runs a command again.

mod command;
mod dotenv;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use keyrelay_core::secret::PlainSecret;
use zeroize::Zeroizing;

pub use command::run as run_command;

use crate::files::{Entry, Turn};

/// What is in a file.
type Contents = Zeroizing<Vec<u8>>;

/// A file that holds the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file with nothing else in it.
    File(PathBuf),
    /// A line of a file with several.
    Dotenv {
        /// The file.
        path: PathBuf,
        /// The name before the `=`.
        key: String,
    },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            return Ok(Self::File(path.into()));
        }
        if let Some((path, key)) = text.strip_prefix("dotenv:").and_then(|rest| rest.rsplit_once('#'))
            && !path.is_empty()
        {
            if !dotenv::is_key(key) {
                return Err(format!("{key:?} is not a name that a dotenv file can have"));
            }
            return Ok(Self::Dotenv { path: path.into(), key: key.to_owned() });
        }
        Err("a target is file:PATH or dotenv:PATH#KEY".to_owned())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Dotenv { path, key } => write!(f, "{key} in {}", path.display()),
        }
    }
}

impl Target {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Dotenv { path, .. } => path,
        }
    }

    /// The secret that it holds now.
    pub fn held(&self) -> anyhow::Result<Option<Zeroizing<String>>> {
        let Some(bytes) = Entry::find(self.path())?.read()? else { return Ok(None) };
        let held = match self {
            Self::File(_) => Some(without_line_break(&bytes).to_vec()),
            Self::Dotenv { key, .. } => dotenv::value(&bytes, key),
        };
        let held = held.map(|bytes| String::from_utf8(bytes).context("it holds no text")).transpose();
        held.map(|held| held.map(Zeroizing::new)).with_context(|| format!("in {self}"))
    }

    /// What the file holds with the secret in it.
    fn with(&self, before: Option<&Contents>, secret: &PlainSecret) -> anyhow::Result<Contents> {
        let bytes = before.map(|bytes| bytes.as_slice()).unwrap_or_default();
        Ok(match self {
            Self::File(_) => {
                let line_break = &bytes[without_line_break(bytes).len()..];
                Zeroizing::new([secret.reveal().as_bytes(), line_break].concat())
            }
            Self::Dotenv { key, .. } => dotenv::with(bytes, key, secret.reveal())?,
        })
    }

    /// Tries everything but giving the file its name, so that what cannot be delivered is not made.
    pub async fn check(&self) -> anyhow::Result<()> {
        let check = async {
            let turn = Turn::wait(Entry::find(self.path())?).await?;
            // Spaces of the same length: the server has not accepted that value yet.
            let length = turn.read()?.map_or(0, |bytes| bytes.len());
            turn.check(&vec![b' '; length])
        };
        check.await.with_context(|| format!("cannot deliver to {self}; nothing was changed"))
    }

    /// Puts the secret there.
    pub async fn deliver(&self, secret: &PlainSecret) -> anyhow::Result<()> {
        let deliver = async {
            let entry = Entry::find(self.path())?;
            if self.has(entry.read()?.as_ref(), secret) {
                return Ok(());
            }
            let turn = Turn::wait(entry).await?;
            // Again: another key of the file may have got another value meanwhile.
            let after = self.with(turn.read()?.as_ref(), secret)?;
            turn.place(&after)
        };
        deliver.await.with_context(|| format!("cannot deliver to {self}"))
    }

    /// Whether nothing would change.
    fn has(&self, before: Option<&Contents>, secret: &PlainSecret) -> bool {
        before.is_some_and(|before| self.with(Some(before), secret).is_ok_and(|after| *before == after))
    }
}

/// Refuses one file as two targets, except for several keys of it.
pub async fn check_all(targets: &[Target]) -> anyhow::Result<()> {
    for (n, target) in targets.iter().enumerate() {
        let is_same = |other: &Target| match (target, other) {
            (Target::Dotenv { .. }, Target::Dotenv { .. }) => target == other,
            _ => target.path() == other.path(),
        };
        if targets[..n].iter().any(is_same) {
            bail!("{} is named twice", target.path().display());
        }
        target.check().await?;
    }
    Ok(())
}

fn without_line_break(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_files_or_keys_of_files() {
        let read = |text: &str| text.parse::<Target>();
        assert_eq!(read("file:a:b#c"), Ok(Target::File("a:b#c".into())));
        let expected = Target::Dotenv { path: "a#b".into(), key: "KEY_1".to_owned() };
        assert_eq!(read("dotenv:a#b#KEY_1"), Ok(expected));
        for text in
            ["", "a", "file:", "dotenv:", "dotenv:a", "dotenv:#K", "dotenv:a#", "dotenv:a#1K", "dotenv:a#K=V"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn writers_of_different_keys_of_one_file_take_turns() {
        const ROUNDS: usize = 30;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let target = Target::Dotenv { path: path.clone(), key: format!("KEY_{n}") };
                tokio::spawn(async move {
                    for round in 0..ROUNDS {
                        let text = format!("secret-{n}-{round}");
                        target.check().await.unwrap();
                        target.deliver(&PlainSecret::presented(text.clone()).unwrap()).await.unwrap();
                        // Nobody put back what was there before.
                        assert_eq!(target.held().unwrap().unwrap().as_str(), text);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [".env"]);
    }

    #[tokio::test]
    async fn a_line_break_at_the_end_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = PlainSecret::presented("new".to_owned()).unwrap();
        let target = Target::File(path.clone());
        for (before, after) in [("old", "new"), ("old\n", "new\n"), ("old\r\n", "new\r\n"), ("", "new")] {
            std::fs::write(&path, before).unwrap();
            target.deliver(&secret).await.unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
            assert_eq!(target.held().unwrap().unwrap().as_str(), "new");
        }
    }
}
