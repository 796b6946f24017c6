//! Which database answers. Everything above speaks in [`Arg`]s and [`Row`]s, and no query is written
//! twice.

use std::borrow::Cow;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

use keyrelay_core::id::{
    ChainId, ClientId, EventId, MembershipId, NodeId, ProjectId, RegistrationGrantId, ResourceId, SecretId,
    SessionId, SigningKeyId, TokenId, UserId, VersionId, WebhookId,
};
use keyrelay_core::limits::{CHANGE_MAX, DATABASE_READ_MAX, WRITE_GROUP_MAX};
use keyrelay_core::survive::survive;
use keyrelay_core::time::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::audit::{Chain, WhenKnown};
use crate::group::{GroupQuery, Reads};
use crate::postgres::{Postgres, PostgresConfig};
use crate::sqlite::{self, Access, Readers, Timed};
use crate::turns::{ReadBounds, Turn};
use crate::writer::Request as WriteRequest;
use crate::{Conflict, StoreError};

/// A value for a `$n` of a statement.
#[derive(Clone)]
pub(crate) enum Arg {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Arg {
    /// About how many bytes of disk it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Null | Self::Bool(_) => 1,
            Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// A driver may log what it sends.
impl std::fmt::Debug for Arg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[value]")
    }
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

impl From<i64> for Arg {
    fn from(n: i64) -> Self {
        Self::Int(n)
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

impl From<Timestamp> for Arg {
    fn from(t: Timestamp) -> Self {
        Self::Int(t.epoch_ms())
    }
}

impl<T: Into<Self>> From<Option<T>> for Arg {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

macro_rules! id_args {
    ($($id:ident),*) => {$(
        impl From<$id> for Arg {
            fn from(id: $id) -> Self {
                Self::Text(id.to_string())
            }
        }
    )*};
}

id_args!(
    ChainId,
    ClientId,
    EventId,
    MembershipId,
    NodeId,
    ProjectId,
    RegistrationGrantId,
    ResourceId,
    SecretId,
    SessionId,
    SigningKeyId,
    TokenId,
    UserId,
    VersionId,
    WebhookId
);

/// One value of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// One row of an answer. Columns are taken by position, in the order of the query.
#[derive(Debug)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl Row {
    fn cell(&self, column: usize) -> &Cell {
        self.0.get(column).unwrap_or(&Cell::Null)
    }

    pub(crate) fn opt_text(&self, column: usize) -> Result<Option<String>, StoreError> {
        Ok(self.opt_str(column)?.map(str::to_owned))
    }

    /// Text that is not copied.
    pub(crate) fn opt_str(&self, column: usize) -> Result<Option<&str>, StoreError> {
        match self.cell(column) {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            _ => Err(StoreError::Corrupt { what: "a column that should hold text" }),
        }
    }

    pub(crate) fn text(&self, column: usize) -> Result<String, StoreError> {
        self.opt_text(column)?.ok_or(StoreError::Corrupt { what: "a column that should hold text" })
    }

    pub(crate) fn opt_int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match self.cell(column) {
            Cell::Null => Ok(None),
            Cell::Int(n) => Ok(Some(*n)),
            _ => Err(StoreError::Corrupt { what: "a column that should hold a number" }),
        }
    }

    pub(crate) fn int(&self, column: usize) -> Result<i64, StoreError> {
        self.opt_int(column)?.ok_or(StoreError::Corrupt { what: "a column that should hold a number" })
    }

    pub(crate) fn opt_boolean(&self, column: usize) -> Result<Option<bool>, StoreError> {
        Ok(self.opt_int(column)?.map(|n| n != 0))
    }

    pub(crate) fn boolean(&self, column: usize) -> Result<bool, StoreError> {
        Ok(self.int(column)? != 0)
    }

    pub(crate) fn opt_blob(&self, column: usize) -> Result<Option<Vec<u8>>, StoreError> {
        match self.cell(column) {
            Cell::Null => Ok(None),
            Cell::Blob(bytes) => Ok(Some(bytes.clone())),
            _ => Err(StoreError::Corrupt { what: "a column that should hold bytes" }),
        }
    }

    pub(crate) fn blob(&self, column: usize) -> Result<Vec<u8>, StoreError> {
        self.opt_blob(column)?.ok_or(StoreError::Corrupt { what: "a column that should hold bytes" })
    }

    /// Reads an id that may be absent from its text. `what` names the column in the error.
    pub(crate) fn opt_id<I>(
        &self,
        column: usize,
        parse: fn(&str) -> Option<I>,
        what: &'static str,
    ) -> Result<Option<I>, StoreError> {
        self.opt_str(column)?.map(|text| parse(text).ok_or(StoreError::Corrupt { what })).transpose()
    }

    /// Reads an id.
    pub(crate) fn id<I>(
        &self,
        column: usize,
        parse: fn(&str) -> Option<I>,
        what: &'static str,
    ) -> Result<I, StoreError> {
        self.opt_id(column, parse, what)?.ok_or(StoreError::Corrupt { what })
    }
}

/// A statement of a change, and what must be true of its effect.
pub(crate) struct Statement {
    pub(crate) sql: Cow<'static, str>,
    pub(crate) args: Vec<Arg>,
    pub(crate) effect: Effect,
}

/// What must be true of a statement, and the conflict it is if it is not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect {
    /// Anything.
    Any,
    /// It changes exactly one row.
    ChangesOne(Conflict),
    /// It is a query, and finds something.
    FindsOne(Conflict),
    /// It is a query, and finds nothing.
    FindsNone(Conflict),
}

/// A database that is open.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite(Readers),
    Postgres(Postgres),
}

/// What writes: it ends when its queue does.
#[derive(Debug)]
pub(crate) enum WriterTask {
    Thread(std::thread::JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl WriterTask {
    /// Waits for its end.
    pub(crate) async fn join(self) {
        let _ = match self {
            Self::Thread(thread) => tokio::task::spawn_blocking(|| drop(thread.join())).await,
            Self::Task(task) => task.await,
        };
    }
}

impl Database {
    /// Opens a SQLite file, and brings its schema up to date.
    pub(crate) async fn open_sqlite(path: &Path, bounds: ReadBounds) -> Result<Self, StoreError> {
        Readers::open(path, bounds).await.map(Self::Sqlite)
    }

    /// Connects to PostgreSQL, and brings its schema up to date.
    pub(crate) async fn open_postgres(
        config: &PostgresConfig,
        bounds: ReadBounds,
    ) -> Result<Self, StoreError> {
        Postgres::open(config, bounds).await.map(Self::Postgres)
    }

    /// Whether other processes may use it.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Answers reads in groups until their queue ends.
    pub(crate) async fn serve_reads<K, V>(
        &self,
        reads: &Arc<Reads<K, V>>,
        query: GroupQuery<K, V>,
    ) -> Result<(), StoreError>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let readers = match self {
            Self::Sqlite(readers) => readers,
            Self::Postgres(postgres) => {
                postgres.serve_reads(reads, query);
                return Ok(());
            }
        };
        let (mut lane, runtime) = (reads.lane(), Handle::current());
        let serve = move |connection: &mut Timed| {
            let clock = connection.clock();
            while let Some(group) = runtime.block_on(lane.next()) {
                // After a panic, the dropped channels report the failure to the callers, and the next group is read.
                let _ = survive(|| {
                    let (sql, args) = query.ask(&group);
                    let fetch = || sqlite::fetch(connection, &sql, &args);
                    query.tell(group, clock.within(DATABASE_READ_MAX, fetch));
                });
            }
        };
        sqlite::spawn("sqlite-reader", readers.path(), Access::Read, serve).await.map(drop)
    }

    /// Makes changes durable until their queue ends.
    pub(crate) async fn serve_writes(
        &self,
        mut requests: mpsc::Receiver<WriteRequest>,
        chaining: &WhenKnown,
    ) -> Result<WriterTask, StoreError> {
        let mut chain = Chain::new(Arc::clone(chaining));
        let readers = match self {
            Self::Sqlite(readers) => readers,
            Self::Postgres(postgres) => return Ok(WriterTask::Task(postgres.serve_writes(requests, chain))),
        };
        let serve = move |connection: &mut Timed| {
            let mut group = Vec::with_capacity(WRITE_GROUP_MAX);
            while requests.blocking_recv_many(&mut group, WRITE_GROUP_MAX) > 0 {
                let written = survive(|| {
                    WriteRequest::answer(&mut group, |changes| {
                        sqlite::write(connection, changes, &mut chain, CHANGE_MAX)
                    });
                });
                // Dropped in a panic, a transaction is rolled back; its links may have been committed.
                if written.is_err() {
                    group.clear();
                    chain.leave();
                }
            }
            sqlite::end(connection, chain);
        };
        sqlite::spawn("sqlite-writer", readers.path(), Access::Write, serve).await.map(WriterTask::Thread)
    }

    /// Runs a small query outside the hot path: no caller chooses its cost.
    pub(crate) async fn fetch(
        &self,
        sql: impl Into<Cow<'static, str>>,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, StoreError> {
        let sql = sql.into();
        let found = match self {
            Self::Sqlite(readers) => {
                readers.small.call(None, move |connection| sqlite::fetch(connection, &sql, &args)).await
            }
            Self::Postgres(postgres) => postgres.small.fetch(sql, args).await,
        };
        found.map_err(StoreError::of_cheap_read)
    }

    /// Runs a small query that a login, a grant or the readiness check depends on. It waits for no other kind of read.
    pub(crate) async fn fetch_access(
        &self,
        sql: impl Into<Cow<'static, str>>,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, StoreError> {
        let sql = sql.into();
        let found = match self {
            Self::Sqlite(readers) => {
                readers.access.call(None, move |connection| sqlite::fetch(connection, &sql, &args)).await
            }
            Self::Postgres(postgres) => postgres.access.fetch(sql, args).await,
        };
        found.map_err(StoreError::of_cheap_read)
    }

    /// Runs a small query whose text was built for one request, so its plan is not kept.
    pub(crate) async fn fetch_once(&self, sql: String, args: Vec<Arg>) -> Result<Vec<Row>, StoreError> {
        let found = match self {
            Self::Sqlite(readers) => {
                readers.small.call(None, move |connection| sqlite::fetch_once(connection, &sql, &args)).await
            }
            Self::Postgres(postgres) => postgres.small.fetch_once(sql, args, None).await,
        };
        found.map_err(StoreError::of_cheap_read)
    }

    /// Runs a query whose cost the caller chooses, in a turn of its project.
    pub(crate) async fn fetch_in_turn(
        &self,
        turn: &Turn,
        sql: String,
        args: Vec<Arg>,
    ) -> Result<Vec<Row>, StoreError> {
        let turn = Some(turn.clone());
        match self {
            Self::Sqlite(readers) => {
                readers.search.call(turn, move |connection| sqlite::fetch_once(connection, &sql, &args)).await
            }
            Self::Postgres(postgres) => postgres.search.fetch_once(sql, args, turn).await,
        }
    }

    /// Takes every connection for searches, for tests.
    #[cfg(feature = "test-database")]
    pub(crate) async fn hold_searches(&self) -> Result<tokio::sync::OwnedSemaphorePermit, StoreError> {
        match self {
            Self::Sqlite(readers) => readers.search.hold().await,
            Self::Postgres(postgres) => postgres.search.hold().await,
        }
    }
}
