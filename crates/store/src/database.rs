//! Which database answers. Everything above speaks in [`Arg`]s and [`Row`]s; a PostgreSQL pool
//! becomes a second variant of these enums, and no query is written twice.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::TryStreamExt;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId, SecretId, SigningKeyId, VersionId};
use keyrelay_core::time::Timestamp;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Either, Executor, Row as _, SqliteConnection};

use crate::StoreError;

/// Connections for reads outside the hot path.
const READERS_MAX: u32 = 4;
/// How long SQLite waits for a lock. Only the writer writes, so this is for tools from outside.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A value for a `$n` of a statement.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Text(String),
    Int(i64),
    Bool(bool),
    Blob(Vec<u8>),
    NullText,
    NullInt,
    NullBlob,
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Option<String>> for Arg {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::NullText, Self::Text)
    }
}

impl From<i64> for Arg {
    fn from(n: i64) -> Self {
        Self::Int(n)
    }
}

impl From<Option<i64>> for Arg {
    fn from(n: Option<i64>) -> Self {
        n.map_or(Self::NullInt, Self::Int)
    }
}

impl From<bool> for Arg {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<Vec<u8>> for Arg {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Blob(bytes)
    }
}

impl From<Option<Vec<u8>>> for Arg {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::NullBlob, Self::Blob)
    }
}

impl From<Timestamp> for Arg {
    fn from(t: Timestamp) -> Self {
        Self::Int(t.epoch_ms())
    }
}

macro_rules! id_args {
    ($($id:ident),*) => {$(
        impl From<$id> for Arg {
            fn from(id: $id) -> Self {
                Self::Text(id.to_string())
            }
        }

        impl From<Option<$id>> for Arg {
            fn from(id: Option<$id>) -> Self {
                id.map_or(Self::NullText, Self::from)
            }
        }
    )*};
}

id_args!(ClientId, MembershipId, ProjectId, ResourceId, SecretId, SigningKeyId, VersionId);

fn sqlite_arguments(args: Vec<Arg>) -> Result<SqliteArguments, StoreError> {
    let mut bound = SqliteArguments::default();
    bound.reserve(args.len(), 0);
    for arg in args {
        match arg {
            Arg::Text(text) => bound.add(text),
            Arg::Int(n) => bound.add(n),
            Arg::Bool(b) => bound.add(b),
            Arg::Blob(bytes) => bound.add(bytes),
            Arg::NullText => bound.add(None::<String>),
            Arg::NullInt => bound.add(None::<i64>),
            Arg::NullBlob => bound.add(None::<Vec<u8>>),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

/// One row of an answer. Columns are taken by position, in the order of the query.
pub(crate) enum Row {
    Sqlite(SqliteRow),
}

impl Row {
    pub(crate) fn text(&self, column: usize) -> Result<String, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn opt_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn opt_int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn boolean(&self, column: usize) -> Result<bool, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn opt_boolean(&self, column: usize) -> Result<Option<bool>, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn blob(&self, column: usize) -> Result<Vec<u8>, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    pub(crate) fn opt_blob(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let Self::Sqlite(row) = self;
        Ok(row.try_get(column)?)
    }

    /// Reads an id from its text. `what` names the column in the error.
    pub(crate) fn id<I>(
        &self,
        column: usize,
        parse: fn(&str) -> Option<I>,
        what: &'static str,
    ) -> Result<I, StoreError> {
        let Self::Sqlite(row) = self;
        parse(row.try_get::<&str, _>(column)?).ok_or(StoreError::Corrupt { what })
    }

    /// Reads an id that may be absent.
    pub(crate) fn opt_id<I>(
        &self,
        column: usize,
        parse: fn(&str) -> Option<I>,
        what: &'static str,
    ) -> Result<Option<I>, StoreError> {
        let Self::Sqlite(row) = self;
        row.try_get::<Option<&str>, _>(column)?
            .map(|text| parse(text).ok_or(StoreError::Corrupt { what }))
            .transpose()
    }
}

/// A connection of one's own.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(SqliteConnection),
}

impl Connection {
    /// Runs a query whose text is one of few, so that its plan is kept.
    pub(crate) async fn fetch(
        &mut self,
        sql: Cow<'static, str>,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, StoreError> {
        let Self::Sqlite(connection) = self;
        let rows = sqlx::query_with(AssertSqlSafe(sql.into_owned()), sqlite_arguments(args)?)
            .fetch_all(connection)
            .await?;
        Ok(rows.into_iter().map(Row::Sqlite).collect())
    }

    /// Runs statements one after the other, in one trip to the database, and counts the rows that
    /// each changed. The first that fails ends it; the counts are of those before.
    ///
    /// A trip to SQLite's thread and back costs as much as several statements do, so they travel
    /// joined by `;`, their `$n` numbered on.
    pub(crate) async fn execute_all(&mut self, statements: Vec<(Cow<'static, str>, Vec<Arg>)>) -> Executed {
        let Self::Sqlite(connection) = self;
        let (mut text, mut all) = (String::new(), Vec::new());
        for (sql, args) in statements {
            push_renumbered(&mut text, &sql, all.len());
            text.push(';');
            all.extend(args);
        }
        let mut executed = Executed { changed: Vec::new(), failed: None };
        let bound = match sqlite_arguments(all) {
            Ok(bound) => bound,
            Err(error) => return Executed { failed: Some(error), ..executed },
        };
        let mut results = connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), bound));
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(done))) => executed.changed.push(done.rows_affected()),
                Ok(Some(Either::Right(_))) => {}
                Ok(None) => return executed,
                Err(error) => return Executed { failed: Some(error.into()), ..executed },
            }
        }
    }
}

/// What became of statements that ran together.
pub(crate) struct Executed {
    /// Rows changed, by statement, as far as they ran.
    pub(crate) changed: Vec<u64>,
    /// Why the statement after those did not run.
    pub(crate) failed: Option<StoreError>,
}

/// Adds a statement whose `$1` becomes `$(offset + 1)`, and so on. There are no other `$` in our SQL.
fn push_renumbered(text: &mut String, sql: &str, offset: usize) {
    let mut parts = sql.split('$');
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(digits);
        let _ = write!(text, "${}{rest}", number.parse::<usize>().unwrap_or_default() + offset);
    }
}

/// A database that is open.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite { options: Box<SqliteConnectOptions>, readers: SqlitePool },
}

impl Database {
    pub(crate) async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        let options = sqlite_options(path.to_owned());
        let mut connection = options.connect().await?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await?;
        // Costs a millisecond, and keeps the planner right about tables that have grown.
        sqlx::query("PRAGMA optimize=0x10002").execute(&mut connection).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .min_connections(0)
            .acquire_timeout(keyrelay_core::limits::DATABASE_WAIT_MAX)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone().read_only(true).create_if_missing(false));
        Ok(Self::Sqlite { options: Box::new(options), readers })
    }

    /// A connection for reading.
    pub(crate) async fn connect(&self) -> Result<Connection, StoreError> {
        let Self::Sqlite { options, .. } = self;
        let options = options.as_ref().clone().read_only(true).create_if_missing(false);
        Ok(Connection::Sqlite(options.connect().await?))
    }

    /// The connection for writing.
    pub(crate) async fn connect_writer(&self) -> Result<Connection, StoreError> {
        let Self::Sqlite { options, .. } = self;
        Ok(Connection::Sqlite(options.connect().await?))
    }

    /// Runs a query whose text is one of few.
    pub(crate) async fn fetch(&self, sql: &'static str, args: Vec<Arg>) -> Result<Vec<Row>, StoreError> {
        let Self::Sqlite { readers, .. } = self;
        let rows = sqlx::query_with(sql, sqlite_arguments(args)?).fetch_all(readers).await?;
        Ok(rows.into_iter().map(Row::Sqlite).collect())
    }

    /// Runs a query whose text was put together for this one request.
    pub(crate) async fn fetch_dynamic(&self, sql: String, args: Vec<Arg>) -> Result<Vec<Row>, StoreError> {
        let Self::Sqlite { readers, .. } = self;
        let query = sqlx::query_with(AssertSqlSafe(sql), sqlite_arguments(args)?).persistent(false);
        Ok(query.fetch_all(readers).await?.into_iter().map(Row::Sqlite).collect())
    }

    pub(crate) async fn close(&self) {
        let Self::Sqlite { readers, .. } = self;
        readers.close().await;
    }
}

fn sqlite_options(path: PathBuf) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        // Otherwise every statement that may fail half-way makes a file, and removes it.
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_on() {
        let mut text = String::new();
        push_renumbered(&mut text, "UPDATE a SET b = $1, c = $12 WHERE d = $2", 3);
        assert_eq!(text, "UPDATE a SET b = $4, c = $15 WHERE d = $5");
        text.clear();
        push_renumbered(&mut text, "COMMIT", 9);
        assert_eq!(text, "COMMIT");
    }
}
