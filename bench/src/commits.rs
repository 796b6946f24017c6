//! The floor of a rotation: how many single-row commits a second the same SQLite makes on the same disk.
//!
//! WAL and `synchronous=FULL`, one connection, one commit after another: what the product has to do at least once for
//! each rotation it answers. It can run inside an existing database file, in a table of its own that it removes again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::Connection;

use crate::clock;
use crate::load::{Latencies, SECONDS_MAX};

/// Rows among which the updates walk, so that not every commit writes the same page.
const ROWS: i64 = 1_000;
/// How long a lock that somebody else holds on the file is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// What a run of commits came to.
#[derive(Debug)]
pub struct Commits {
    /// Commits made.
    pub count: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// How long each took.
    pub latencies: Latencies,
}

impl Commits {
    /// Commits per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        crate::load::rate(self.count, self.elapsed)
    }
}

/// Measures in a new database file inside `dir`, and removes the file.
///
/// # Errors
/// When the folder cannot be written, or SQLite reports an error.
pub fn run_in_dir(dir: &Path, duration: Duration) -> Result<Commits> {
    let scratch = tempfile::Builder::new()
        .prefix("bench-commits-")
        .tempdir_in(dir)
        .context("making a folder for the database to measure")?;
    let connection = Connection::open(scratch.path().join("commits.sqlite"))?;
    measure(&connection, duration)
}

/// Measures inside the existing database file `file`: makes the table `bench_commit` there and drops it afterwards.
///
/// # Errors
/// When the file is not a SQLite database, another process holds it locked, or SQLite reports an error.
pub fn run_in_file(file: &Path, duration: Duration) -> Result<Commits> {
    ensure!(is_sqlite(file)?, "the file to measure is not a SQLite database");
    let connection = Connection::open(file)?;
    let outcome = measure(&connection, duration);
    connection.execute_batch("DROP TABLE IF EXISTS bench_commit")?;
    outcome
}

/// Whether the file starts as every SQLite database does.
///
/// # Errors
/// When the file cannot be read.
pub fn is_sqlite(file: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = Vec::with_capacity(16);
    std::fs::File::open(file).context("opening the database file")?.take(16).read_to_end(&mut start)?;
    Ok(start == b"SQLite format 3\0")
}

fn measure(connection: &Connection, duration: Duration) -> Result<Commits> {
    ensure!(
        duration <= Duration::from_secs(SECONDS_MAX),
        "at most {SECONDS_MAX} seconds of commits are measured"
    );
    connection.busy_timeout(BUSY_WAIT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        bail!("the database stayed in journal mode {mode}, so its commits would not compare");
    }
    connection.execute_batch(
        "PRAGMA synchronous=FULL;
         DROP TABLE IF EXISTS bench_commit;
         CREATE TABLE bench_commit (id INTEGER PRIMARY KEY, secret BLOB NOT NULL, version INTEGER NOT NULL)",
    )?;
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO bench_commit SELECT i, randomblob(64), 1 FROM n",
        [ROWS],
    )?;
    let mut update = connection
        .prepare("UPDATE bench_commit SET secret = randomblob(64), version = version + 1 WHERE id = ?1")?;
    let mut latencies = Latencies::new();
    let mut count = 0;
    let mut id = 1;
    let start = clock::now();
    let mut before = start;
    while before.saturating_duration_since(start) < duration {
        update.execute([id])?;
        let after = clock::now();
        latencies.record(after.saturating_duration_since(before));
        before = after;
        count += 1;
        // A stride prime to the number of rows visits all of them, far from each other.
        id = (id + 386) % ROWS + 1;
    }
    Ok(Commits { count, elapsed: before.saturating_duration_since(start), latencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_keeps_its_own_tables_and_only_those() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("product.sqlite");
        let connection = Connection::open(&file)?;
        connection.execute_batch("CREATE TABLE kept (id INTEGER); INSERT INTO kept VALUES (7)")?;
        drop(connection);

        let commits = run_in_file(&file, Duration::from_millis(20))?;

        let connection = Connection::open(&file)?;
        let tables: String =
            connection.query_row("SELECT group_concat(name) FROM sqlite_schema", [], |row| row.get(0))?;
        assert_eq!(tables, "kept");
        assert!(commits.count > 0);
        Ok(())
    }

    #[test]
    fn a_file_that_is_no_database_is_left_alone() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("notes.txt");
        std::fs::write(&file, "not a database")?;
        assert!(run_in_file(&file, Duration::from_millis(20)).is_err());
        assert_eq!(std::fs::read_to_string(&file)?, "not a database");
        Ok(())
    }
}
