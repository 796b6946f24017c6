//! A copy of a SQLite file while a server uses it, by SQLite's own backup, and the way back.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use keyrelay_core::keyring::Keyring;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::direct::{Direct, open_file};
use super::files::{Aside, failed, with_suffix};
use super::{KeysUsed, Progress, keys_used, schema};
use crate::{StoreError, sqlite};

/// How to open a copy that was just made, at a path without links.
const READ_WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NOFOLLOW);
/// Pages that are copied before progress is told.
const PAGES_PER_STEP: i32 = 256;
/// Bytes that are copied before progress is told.
const BYTES_PER_STEP: usize = 1024 * 1024;
/// What a SQLite file begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Copies a SQLite file as of one moment. A server may be using it: nothing waits for the copy, and no lock
/// is needed. The copy is checked before it gets its name.
pub async fn backup(database: &Path, file: &Path, progress: Progress<'_>) -> Result<KeysUsed, StoreError> {
    let from = open_file(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    // A read that stays open pins the moment: otherwise every commit would start the copy anew.
    from.execute_batch("BEGIN")?;
    let direct = Direct::Sqlite(from);
    let version = schema::version(&direct).await?;
    if version == 0 {
        return Err(StoreError::NoDatabase { path: database.display().to_string() });
    }
    let Direct::Sqlite(from) = &direct else { return Err(StoreError::Closed) };
    let (aside, _) = Aside::begin(file)?;
    // Opened once by its path, without links. The connection that wrote it also checks it.
    let mut to = open_file(&aside.path, READ_WRITE)?;
    // It is made durable as a whole, before it gets its name.
    to.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")?;
    copy(from, &mut to, progress)?;
    let keys = check(to, &aside.path, Check::Quick).await?;
    aside.place()?;
    Ok(keys)
}

fn copy(from: &Connection, to: &mut Connection, progress: Progress<'_>) -> Result<(), StoreError> {
    let backup = Backup::new(from, to)?;
    loop {
        let step = backup.step(PAGES_PER_STEP)?;
        let pages = backup.progress();
        let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
        progress(count(pages.pagecount - pages.remaining), count(pages.pagecount));
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => return Err(StoreError::Busy),
        }
    }
}

/// Puts a copy where a database should be and none is, once it is found to be whole and, where the master
/// keys are known, of use with them. Take the lock of the directory first.
pub async fn restore(
    file: &Path,
    database: &Path,
    keyring: Option<&Keyring>,
    progress: Progress<'_>,
) -> Result<KeysUsed, StoreError> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let left = with_suffix(database, suffix);
        if left.exists() {
            // SQLite would apply it to the file that is put beside it.
            return Err(StoreError::NotEmpty { what: format!("there is a file {}", left.display()) });
        }
    }
    let (aside, out) = Aside::begin(database)?;
    copy_file(file, out, progress)?;
    let bad = |problem: String| StoreError::BadCopy { path: file.display().to_string(), problem };
    let opened = open_file(&aside.path, READ_WRITE).map_err(|error| bad(error.to_string()))?;
    let keys = check(opened, file, Check::Full).await?;
    if let Some(keyring) = keyring {
        keys.require(keyring)?;
    }
    aside.place()?;
    Ok(keys)
}

fn copy_file(file: &Path, mut out: File, progress: Progress<'_>) -> Result<(), StoreError> {
    let mut input = File::open(file).map_err(failed("cannot read", file))?;
    let total = fs::metadata(file).map_err(failed("cannot read", file))?.len();
    let mut buffer = vec![0; BYTES_PER_STEP];
    let mut done = 0;
    loop {
        let read = input.read(&mut buffer).map_err(failed("cannot read", file))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if done == 0 && !bytes.starts_with(MAGIC) {
            let problem = "it is no SQLite file".to_owned();
            return Err(StoreError::BadCopy { path: file.display().to_string(), problem });
        }
        out.write_all(bytes).map_err(failed("cannot copy", file))?;
        done += u64::try_from(read).unwrap_or(0);
        progress(done, total);
    }
}

/// How closely a copy is looked at.
#[derive(Clone, Copy)]
enum Check {
    /// Every page.
    Quick,
    /// Every page, and every index against its table.
    Full,
}

/// Whether a copy is a whole database that this program can use, and which master keys it needs. Nothing
/// is left beside the file.
async fn check(connection: Connection, path: &Path, how: Check) -> Result<KeysUsed, StoreError> {
    let bad = |problem: String| StoreError::BadCopy { path: path.display().to_string(), problem };
    let sound = |error: rusqlite::Error| bad(error.to_string());
    let _: String = connection
        .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
        .map_err(sound)?;
    let pragma = match how {
        Check::Quick => "quick_check",
        Check::Full => "integrity_check",
    };
    let said: String = connection.pragma_query_value(None, pragma, |row| row.get(0)).map_err(sound)?;
    if said != "ok" {
        return Err(bad(said));
    }
    let direct = Direct::Sqlite(connection);
    let found = schema::version(&direct).await?;
    if found == 0 {
        return Err(bad("it holds no Keyrelay database".to_owned()));
    }
    if found > sqlite::MIGRATIONS.len() {
        return Err(StoreError::NewerSchema { found, known: sqlite::MIGRATIONS.len() });
    }
    if found < sqlite::MIGRATIONS.len() {
        // It may lack a table that would be asked. The next start brings it up to date, and doctor can ask then.
        return Ok(KeysUsed::default());
    }
    keys_used::of(&direct).await
}
