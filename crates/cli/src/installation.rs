//! A data directory with all that belongs to it: the lock, the master key, the database.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::random::SystemEntropy;
use keyrelay_core::time::SystemClock;
use keyrelay_server::{App, BaseUrl};
use keyrelay_store::operations::Place;
use keyrelay_store::{DataDirLock, LOCK_FILE, PostgresConfig, Store};
use zeroize::Zeroizing;

use crate::files::Entry;
use crate::settings::Settings;

/// An open installation. Its directories are locked as long as it lives.
#[derive(Debug)]
pub struct Installation {
    /// What answers requests.
    pub app: App,
    /// The data directory.
    pub data_dir: PathBuf,
    _locks: Vec<DataDirLock>,
}

impl Installation {
    /// Opens the data directory that the settings name; makes what is missing on a first start.
    pub async fn open(settings: &Settings, base_url: BaseUrl) -> anyhow::Result<Self> {
        let config = settings.config(base_url)?;
        let (data_dir, mut locks) = lock_data_dir(settings)?;
        let (store, keyring) = match place(settings)? {
            Place::File(database) => {
                locks.extend(lock_database(&database, &data_dir)?);
                let keyring = durable_keyring(settings, !database.exists())?;
                let store = Store::open_sqlite(&database).await;
                (store.with_context(|| format!("cannot open the database {}", database.display()))?, keyring)
            }
            Place::Postgres(config) => {
                if settings.master_key_file.is_none() {
                    bail!(
                        "with PostgreSQL, name the master key file with --master-key-file: every node needs the same, \
                         and no node can make it for all (`keyrelay master-key FILE` makes one)"
                    );
                }
                let keyring = durable_keyring(settings, false)?;
                (Store::open_postgres(&config).await?, keyring)
            }
        };
        let app = App::start(config, store, keyring, Arc::new(SystemClock), Arc::new(SystemEntropy)).await?;
        Ok(Self { app, data_dir, _locks: locks })
    }

    /// Where the credentials of the first client are written.
    pub fn bootstrap_file(&self) -> PathBuf {
        self.data_dir.join("bootstrap.json")
    }
}

/// Makes the data directory if it is not there, and locks it.
pub fn lock_data_dir(settings: &Settings) -> anyhow::Result<(PathBuf, Vec<DataDirLock>)> {
    let data_dir = settings.data_dir();
    let entry = Entry::find_making_dirs(&data_dir.join(LOCK_FILE))
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    entry.refuse_root_for_others()?;
    let lock = DataDirLock::take(&data_dir)?;
    Ok((data_dir, vec![lock]))
}

/// Locks the directory of a SQLite file, if it is another one than the data directory.
pub fn lock_database(database: &Path, data_dir: &Path) -> anyhow::Result<Option<DataDirLock>> {
    let dir = dir_of(database);
    let is_other = dir.canonicalize().ok() != data_dir.canonicalize().ok();
    if !is_other {
        return Ok(None);
    }
    Entry::find(database)?.refuse_root_for_others()?;
    Ok(Some(DataDirLock::take(dir)?))
}

/// Where the database is.
pub fn place(settings: &Settings) -> anyhow::Result<Place> {
    let Some(url) = &settings.database_url else {
        return Ok(Place::File(settings.data_dir().join("keyrelay.sqlite")));
    };
    if let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) {
        if path.is_empty() || path.contains('?') {
            bail!("--database-url must be sqlite://PATH, with a path and without parameters");
        }
        return Ok(Place::File(PathBuf::from(path)));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let (reads, writes) = settings.connections()?;
        let config = PostgresConfig::parse(url)?.with_connections(reads, writes);
        return Ok(Place::Postgres(Box::new(config)));
    }
    // The URL may hold a password, so it is not repeated.
    bail!("--database-url must be sqlite://PATH or postgres://USER@HOST/DATABASE")
}

/// The master key file that is named, or the one in the data directory.
pub fn master_key_file(settings: &Settings) -> PathBuf {
    settings.master_key_file.clone().unwrap_or_else(|| settings.data_dir().join("master.key"))
}

/// Reads the master key; makes one in the data directory where there may be none yet.
pub fn keyring(settings: &Settings, is_new: bool) -> anyhow::Result<Keyring> {
    let path = master_key_file(settings);
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound && settings.master_key_file.is_none() && is_new => {
            let text = Keyring::new_file(&SystemEntropy);
            Entry::find(&path)?.create(text.as_bytes())?;
            text
        }
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "the master key file {} is not there; the secrets in the database cannot be used without it: put it back, \
             or name the right one with --master-key-file",
            path.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the master key file {}", path.display()));
        }
    };
    warn_of_readers(&path, "the master key file");
    Keyring::parse_file(&text).with_context(|| format!("in {}", path.display()))
}

/// The keyring of a process that seals.
fn durable_keyring(settings: &Settings, is_new: bool) -> anyhow::Result<Keyring> {
    let file = master_key_file(settings);
    // Also if it is missing: that is reported below, or the file is created.
    make_durable(&file)
        .or_else(missing_is_fine)
        .with_context(|| format!("cannot sync {}", file.display()))?;
    keyring(settings, is_new)
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Makes a master key file and its name durable: nothing may be sealed under a key that a power failure could delete.
/// A file system that is read-only or cannot sync counts as durable.
pub fn make_durable(file: &Path) -> io::Result<()> {
    let sync = |path: &Path| match fs::File::open(path)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::ReadOnlyFilesystem) => {
            Ok(())
        }
        synced => synced,
    };
    let file = file.canonicalize()?;
    sync(&file)?;
    match sync(dir_of(&file)) {
        // A process that may read the file may lack access to its directory; `keyrelay keys` has synced that.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Says so, if others than its owner can read a file.
pub fn warn_of_readers(path: &Path, what: &str) {
    let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "{what} can be read by others: chmod 600 it");
    }
}

/// The directory that a file is in.
pub fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
