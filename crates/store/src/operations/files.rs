//! Files that are there as a whole or not at all: written beside their place, made durable, and only then
//! given their name. Whoever kills the process leaves a file that ends in `.part`, and the next attempt
//! replaces it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// A file that has not got its name yet. Dropped before that, it is removed.
pub(super) struct Aside {
    place: PathBuf,
    /// The final path; no part of it is a link.
    pub(super) path: PathBuf,
    file: File,
    is_placed: bool,
}

impl Aside {
    /// Begins a file for `place`, for its owner only, where nothing is yet.
    pub(super) fn begin(place: &Path) -> Result<(Self, File), StoreError> {
        // As another name, it would be replaced.
        if fs::symlink_metadata(place).is_ok() {
            return Err(StoreError::NotEmpty { what: format!("there is a file {}", place.display()) });
        }
        let dir = place.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = dir.canonicalize().map_err(failed("cannot write to", dir))?;
        let place = dir.join(place.file_name().unwrap_or_default());
        let path = with_suffix(&place, ".part");
        remove(&path)?;
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("cannot make", &path))?;
        let out = file.try_clone().map_err(failed("cannot make", &path))?;
        Ok((Self { place, path, file, is_placed: false }, out))
    }

    /// Makes what was written durable, and gives it its name.
    pub(super) fn place(mut self) -> Result<(), StoreError> {
        self.file.sync_all().map_err(failed("cannot write", &self.path))?;
        let is_own = self.file.metadata().and_then(|own| {
            let named = fs::symlink_metadata(&self.path)?;
            Ok((named.dev(), named.ino()) == (own.dev(), own.ino()))
        });
        if !is_own.map_err(failed("cannot write", &self.path))? {
            let problem = "another file was put in its place while it was written".to_owned();
            return Err(StoreError::BadCopy { path: self.path.display().to_string(), problem });
        }
        fs::rename(&self.path, &self.place).map_err(failed("cannot make", &self.place))?;
        self.is_placed = true;
        let dir = self.place.parent().unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("cannot write", dir))
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-journal", "-wal", "-shm"] {
        let path = with_suffix(path, suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("cannot remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = remove(&self.path);
        }
    }
}

/// A path with something added to its last name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { action, path, source }
}
