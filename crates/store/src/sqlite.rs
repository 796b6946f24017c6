//! SQLite, spoken to without a detour. On the hot paths a connection lives on a thread that takes
//! requests straight from their queue, a group at a time: one trip there and back for whoever asks.
//! That trip, not the work, is what a small query costs.

use std::fs::{DirBuilder, File};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keyrelay_core::limits::{DATABASE_READ_MAX, DATABASE_WAIT_MAX, SQLITE_READERS_MAX, SQLITE_SEARCHES_MAX};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement as Prepared, ToSql};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use crate::audit::{Chain, Record};
use crate::change::Change;
use crate::database::{Arg, Cell, Effect, Row, Statement};
use crate::operations::Migrated;
use crate::turns::{ReadBounds, Turn};
use crate::{Conflict, StoreError};

/// The number of its instructions after which SQLite checks the clock: tens of microseconds.
const INSTRUCTIONS_BETWEEN_LOOKS: i32 = 1000;
/// How long SQLite waits for a lock. Only the writer writes, so this is for tools from outside.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Plans kept per connection.
const STATEMENTS_MAX: usize = 128;
/// Pages in the WAL before they are copied back. Eight times SQLite's own choice: most pages are
/// written again soon, and each is copied back once.
const CHECKPOINT_PAGES: u32 = 8000;
/// Page cache per connection, in KiB.
const CACHE_KIB: u32 = 8192;
/// The schema, version by version. A version that was released is never changed.
pub(crate) const MIGRATIONS: [&str; 21] = [
    include_str!("../migrations/sqlite/0001_initial.sql"),
    include_str!("../migrations/sqlite/0002_people.sql"),
    include_str!("../migrations/sqlite/0003_registration.sql"),
    include_str!("../migrations/sqlite/0004_signing_schedule.sql"),
    include_str!("../migrations/sqlite/0005_scope_bound.sql"),
    include_str!("../migrations/sqlite/0006_usage.sql"),
    include_str!("../migrations/sqlite/0007_deadlines.sql"),
    include_str!("../migrations/sqlite/0008_audit_chain.sql"),
    include_str!("../migrations/sqlite/0009_secret_rules.sql"),
    include_str!("../migrations/sqlite/0010_usage_began.sql"),
    include_str!("../migrations/sqlite/0011_events.sql"),
    include_str!("../migrations/sqlite/0012_kept_answers.sql"),
    include_str!("../migrations/sqlite/0013_usage_flushes.sql"),
    include_str!("../migrations/sqlite/0014_membership_profile.sql"),
    include_str!("../migrations/sqlite/0015_event_bounds.sql"),
    include_str!("../migrations/sqlite/0016_search_by_project.sql"),
    include_str!("../migrations/sqlite/0017_resources_of_project.sql"),
    include_str!("../migrations/sqlite/0018_accounts_of_address.sql"),
    include_str!("../migrations/sqlite/0019_callers_of_project.sql"),
    include_str!("../migrations/sqlite/0020_bounded_sessions.sql"),
    include_str!("../migrations/sqlite/0021_answers_epoch.sql"),
];

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// When a connection interrupts its statement.
#[derive(Clone, Debug)]
struct Limit {
    until: Instant,
    /// Dropped when no caller waits for the answer.
    asker: Weak<()>,
}

impl Limit {
    fn is_reached(&self) -> bool {
        self.asker.strong_count() == 0 || Instant::now() >= self.until
    }
}

/// A connection whose statements can have a time limit, after which they are interrupted.
#[derive(Debug)]
pub(crate) struct Timed {
    connection: Connection,
    clock: StopClock,
}

/// Sets the time limit of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopClock(Arc<Mutex<Option<Limit>>>);

impl StopClock {
    fn set(&self, limit: Option<Limit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Runs work that is interrupted after a time.
    pub(crate) fn within<T>(&self, time: Duration, work: impl FnOnce() -> T) -> T {
        let asker = Arc::new(());
        self.for_asker(&asker, time, work)
    }

    /// Runs work that is interrupted after a time, or as soon as its caller is gone.
    fn for_asker<T>(&self, asker: &Arc<()>, time: Duration, work: impl FnOnce() -> T) -> T {
        self.set(Some(Limit { until: Instant::now() + time, asker: Arc::downgrade(asker) }));
        let _reset = Reset(self);
        work()
    }
}

/// Removes the limit, also after a panic, so that it does not apply to the next work.
struct Reset<'a>(&'a StopClock);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl Timed {
    fn new(mut connection: Connection) -> Result<Self, StoreError> {
        let clock = StopClock::default();
        let looked_at = clock.clone();
        let is_over = move || {
            let limit = looked_at.0.lock().unwrap_or_else(PoisonError::into_inner);
            limit.as_ref().is_some_and(Limit::is_reached)
        };
        connection.progress_handler(INSTRUCTIONS_BETWEEN_LOOKS, Some(is_over))?;
        Ok(Self { connection, clock })
    }

    pub(crate) fn clock(&self) -> StopClock {
        self.clock.clone()
    }
}

impl Deref for Timed {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Timed {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

fn open(path: &Path, access: Access) -> Result<Timed, StoreError> {
    let flags = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // A plan is made from the text alone. Otherwise SQLite looks at the values too, and plans anew at each use.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", format!("-{CACHE_KIB}"))?;
    // Otherwise every statement that may fail half-way makes a file, and removes it.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    if access == Access::Write {
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Database(format!(
                "SQLite cannot use a write-ahead log here (it says {mode})"
            )));
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    }
    Timed::new(connection)
}

/// Makes the file if it is not there, for its owner only, and brings its schema up to date.
pub(crate) fn prepare(path: &Path) -> Result<Migrated, StoreError> {
    let failed =
        |source| StoreError::File { action: "cannot make", path: path.display().to_string(), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    let mut connection = open(path, Access::Write)?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(usize::MAX);
    if done > MIGRATIONS.len() {
        return Err(StoreError::NewerSchema { found: done, known: MIGRATIONS.len() });
    }
    for (n, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", u32::try_from(n + 1).unwrap_or(u32::MAX))?;
        transaction.commit()?;
    }
    Ok(Migrated { from: done, to: MIGRATIONS.len() })
}

/// Serves a connection on a thread of its own, until `serve` returns.
pub(crate) async fn spawn(
    name: &str,
    path: &Path,
    access: Access,
    serve: impl FnOnce(&mut Timed) + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let (tell_opened, opened) = oneshot::channel();
    let owned_path = path.to_owned();
    let body = move || match open(&owned_path, access) {
        Ok(mut connection) => {
            let _ = tell_opened.send(Ok(()));
            serve(&mut connection);
        }
        Err(error) => {
            let _ = tell_opened.send(Err(error));
        }
    };
    let failed = |source| StoreError::File {
        action: "cannot start a thread for",
        path: path.display().to_string(),
        source,
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body).map_err(failed)?;
    opened.await.map_err(|_| StoreError::Closed)??;
    Ok(thread)
}

/// The reads outside the group reads, each kind on its own connections.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    pub(crate) access: Pool,
    pub(crate) small: Pool,
    pub(crate) search: Pool,
}

/// Connections for one kind of reads, opened as they are needed.
#[derive(Debug)]
pub(crate) struct Pool {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Timed>>>,
    places: Arc<Semaphore>,
    #[cfg(feature = "test-database")]
    size: usize,
    /// How long a read waits for a connection.
    wait: Duration,
    /// How long it may take then.
    time: Duration,
}

impl Readers {
    pub(crate) async fn open(path: &Path, bounds: ReadBounds) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let prepared = path.clone();
        tokio::task::spawn_blocking(move || prepare(&prepared)).await.map_err(|_| StoreError::Closed)??;
        let pool = |size, wait, time| Pool {
            path: path.clone(),
            idle: Arc::default(),
            places: Arc::new(Semaphore::new(size)),
            #[cfg(feature = "test-database")]
            size,
            wait,
            time,
        };
        Ok(Self {
            access: pool(SQLITE_READERS_MAX, DATABASE_WAIT_MAX, DATABASE_READ_MAX),
            small: pool(SQLITE_READERS_MAX, DATABASE_WAIT_MAX, DATABASE_READ_MAX),
            search: pool(SQLITE_SEARCHES_MAX, bounds.wait, bounds.search),
            path,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Pool {
    /// Reads on a free connection. The turn ends when the connection is free again.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        turn: Option<Turn>,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = timeout(self.wait, Arc::clone(&self.places).acquire_owned());
        let place = place.await.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Closed)?;
        let (idle, path, time) = (Arc::clone(&self.idle), self.path.clone(), self.time);
        let asker = Arc::new(());
        let waited_for = Arc::downgrade(&asker);
        let read = tokio::task::spawn_blocking(move || {
            // The caller has gone.
            let Some(asker) = waited_for.upgrade() else { return Err(StoreError::Closed) };
            let free = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match free {
                Some(connection) => connection,
                None => open(&path, Access::Read)?,
            };
            let limit = Limit { until: Instant::now() + time, asker: Arc::downgrade(&asker) };
            drop(asker);
            connection.clock.set(Some(limit));
            let answer = work(&connection);
            connection.clock.set(None);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop((place, turn));
            answer
        });
        let answer = read.await.map_err(|_| StoreError::Closed)?;
        drop(asker);
        answer
    }

    /// Takes every connection, so that no other caller gets one.
    #[cfg(feature = "test-database")]
    pub(crate) async fn hold(&self) -> Result<tokio::sync::OwnedSemaphorePermit, StoreError> {
        let all = u32::try_from(self.size).unwrap_or(u32::MAX);
        Arc::clone(&self.places).acquire_many_owned(all).await.map_err(|_| StoreError::Closed)
    }
}

impl ToSql for Arg {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Bool(b) => ToSqlOutput::Owned(Value::Integer(i64::from(*b))),
            Self::Int(n) => ToSqlOutput::Owned(Value::Integer(*n)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Blob(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

/// To SQLite, `$7` is a name, so the number is read from it.
fn bind(statement: &mut Prepared<'_>, args: &[Arg]) -> Result<(), StoreError> {
    for index in 1..=statement.parameter_count() {
        let number =
            statement.parameter_name(index).and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok());
        let arg = number.and_then(|number| args.get(number.checked_sub(1)?));
        statement.raw_bind_parameter(
            index,
            arg.ok_or(StoreError::Corrupt { what: "the parameters of a statement" })?,
        )?;
    }
    Ok(())
}

/// Runs a query.
pub(crate) fn fetch(connection: &Connection, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
    collect(&mut *connection.prepare_cached(sql)?, args)
}

/// Runs a query whose plan is not worth keeping.
pub(crate) fn fetch_once(connection: &Connection, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
    collect(&mut connection.prepare(sql)?, args)
}

fn collect(statement: &mut Prepared<'_>, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    each(statement, args, |row| {
        found.push(row);
        Ok(())
    })?;
    Ok(found)
}

/// Hands over the rows of an answer one by one.
pub(crate) fn each(
    statement: &mut Prepared<'_>,
    args: &[Arg],
    mut take: impl FnMut(Row) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    bind(statement, args)?;
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let cells = (0..columns).map(|column| row.get_ref(column).map(cell));
        take(Row(cells.collect::<Result<_, _>>()?))?;
    }
    Ok(())
}

/// Runs a statement that changes something, once for each of its rows of arguments.
pub(crate) fn insert(statement: &mut Prepared<'_>, args: &[Arg]) -> Result<(), StoreError> {
    bind(statement, args)?;
    statement.raw_execute()?;
    Ok(())
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Integer(n) => Cell::Int(n),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
        ValueRef::Null | ValueRef::Real(_) => Cell::Null,
    }
}

/// A change as statements, with its records, and the deadline for its start.
struct Parts {
    statements: Vec<Statement>,
    records: Vec<Record>,
    deadline: Instant,
    is_too_slow: bool,
}

/// The result of a transaction.
enum Group {
    Committed(Vec<Result<(), StoreError>>),
    /// SQLite rolled back the whole transaction, because this change was interrupted during a write.
    RolledBack(usize),
}

/// Makes changes durable by one commit. Each is behind a savepoint of its own, so that one that
/// fails leaves no trace; if the commit fails, none has happened. A change whose statements take longer than
/// `time` together fails alone, and the others are made without it.
pub(crate) fn write(
    connection: &mut Timed,
    changes: Vec<(Change, Instant)>,
    chain: &mut Chain,
    time: Duration,
) -> Vec<Result<(), StoreError>> {
    let parts = |(change, deadline): (Change, Instant)| {
        let (statements, records) = change.into_parts();
        Parts { statements, records, deadline, is_too_slow: false }
    };
    let mut changes: Vec<Parts> = changes.into_iter().map(parts).collect();
    loop {
        match write_group(connection, &changes, chain, time) {
            Ok(Group::Committed(outcomes)) => return outcomes,
            Ok(Group::RolledBack(by)) => {
                tracing::error!("a change was interrupted, because its statements took too long");
                // Ends, because each turn has one change fewer.
                let Some(slow) = changes.get_mut(by) else { return refused(changes.len()) };
                slow.is_too_slow = true;
            }
            Err(error) => {
                tracing::error!(%error, "a commit failed");
                chain.leave();
                return refused(changes.len());
            }
        }
    }
}

fn refused(count: usize) -> Vec<Result<(), StoreError>> {
    (0..count).map(|_| Err(StoreError::Busy)).collect()
}

fn write_group(
    connection: &mut Timed,
    changes: &[Parts],
    chain: &mut Chain,
    time: Duration,
) -> Result<Group, rusqlite::Error> {
    let clock = connection.clock();
    // Dropped without a commit, a transaction and a savepoint are rolled back.
    let mut transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(changes.len());
    let mut longer = chain.clone();
    for (n, change) in changes.iter().enumerate() {
        if change.is_too_slow || Instant::now() >= change.deadline {
            outcomes.push(Err(StoreError::Busy));
            continue;
        }
        let savepoint = transaction.savepoint()?;
        outcomes.push(match clock.within(time, || make(&savepoint, change, &longer)) {
            Ok(next) => {
                longer = next;
                savepoint.commit().map(Ok)?
            }
            // An interrupted write ends the whole transaction (sqlite3_interrupt).
            Err(StoreError::TooCostly) if savepoint.is_autocommit() => return Ok(Group::RolledBack(n)),
            Err(error) => savepoint.finish().map(|()| Err(error.of_cheap_read()))?,
        });
    }
    transaction.commit()?;
    *chain = longer;
    Ok(Group::Committed(outcomes))
}

/// Makes a change, and gives the chain with its records.
fn make(connection: &Connection, change: &Parts, chain: &Chain) -> Result<Chain, StoreError> {
    let (links, longer) = chain.with(&change.records)?;
    change.statements.iter().chain(&links).try_for_each(|statement| execute(connection, statement))?;
    Ok(longer)
}

/// Ends a chain in order.
pub(crate) fn end(connection: &Connection, chain: Chain) {
    if let Some(Err(error)) = chain.end().map(|end| execute(connection, &end)) {
        tracing::warn!(%error, "the chain of audit records could not be ended");
    }
}

fn execute(connection: &Connection, statement: &Statement) -> Result<(), StoreError> {
    let mut prepared = connection.prepare_cached(&statement.sql)?;
    if let Effect::FindsOne(conflict) | Effect::FindsNone(conflict) = statement.effect {
        let found = !collect(&mut prepared, &statement.args)?.is_empty();
        let wanted = matches!(statement.effect, Effect::FindsOne(_));
        return if found == wanted { Ok(()) } else { Err(conflict.into()) };
    }
    bind(&mut prepared, &statement.args)?;
    match (prepared.raw_execute(), statement.effect) {
        (Ok(changed), Effect::ChangesOne(conflict)) if changed != 1 => Err(conflict.into()),
        (Ok(_), _) => Ok(()),
        (Err(error), effect) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Err(match effect {
                Effect::ChangesOne(conflict) => conflict,
                _ => Conflict::Id,
            }
            .into())
        }
        (Err(error), _) => {
            let error = StoreError::from(error);
            tracing::error!(%error, "a statement failed");
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(sql: &'static str) -> Change {
        let mut change = Change::new();
        change.push(sql, Vec::new(), None);
        change
    }

    /// Statements that never end: a write, whose interruption ends the whole transaction, and a query, whose
    /// interruption does not.
    #[test]
    fn a_change_that_takes_too_long_fails_alone() {
        let endless = [
            "INSERT INTO kept (n) WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) \
             INSERT INTO kept (n) SELECT COUNT(*) FROM r",
        ];
        let mut connection = Timed::new(Connection::open_in_memory().unwrap()).unwrap();
        connection.execute_batch("CREATE TABLE kept (n BIGINT)").unwrap();
        let mut chain = Chain::new(Arc::default());
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut asked = vec![
            (change("INSERT INTO kept (n) VALUES (1)"), deadline),
            (change(endless[0]), deadline),
            (change("INSERT INTO kept (n) VALUES (2)"), deadline),
            (change(endless[1]), deadline),
            (change("INSERT INTO kept (n) VALUES (3)"), deadline),
            (change("INSERT INTO kept (n) VALUES (4)"), Instant::now()),
        ];
        let mut query = change("SELECT 1");
        query.statements_mut()[0].effect = Effect::FindsNone(Conflict::Exists);
        query.statements_mut()[0].sql =
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r WHERE n < 0"
                .into();
        asked.push((query, deadline));
        let outcomes = write(&mut connection, asked, &mut chain, Duration::from_millis(50));
        let busy = |n: usize| matches!(outcomes[n], Err(StoreError::Busy));
        assert!([1, 3, 5, 6].into_iter().all(busy), "{outcomes:?}");
        assert!([0, 2, 4].into_iter().all(|n| outcomes[n].is_ok()), "{outcomes:?}");
        let kept = fetch(&connection, "SELECT n FROM kept ORDER BY n", &[]).unwrap();
        let kept: Vec<i64> = kept.iter().map(|row| row.int(0).unwrap()).collect();
        assert_eq!(kept, [1, 2, 3]);
    }
}
