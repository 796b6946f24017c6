//! One connection to either database, for a task that may take long: without the time-outs of requests.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::Place;
use crate::database::{Arg, Row};
use crate::postgres::{self, PostgresConfig};
use crate::{StoreError, sqlite};

/// Page cache of such a connection, in KiB: what is read once need not be kept.
const CACHE_KIB: u32 = 8 * 1024;

/// See the module.
pub(super) enum Direct {
    Sqlite(Connection),
    Postgres(Remote),
}

/// A connection to PostgreSQL, closed when it is dropped.
pub(super) struct Remote {
    pub(super) client: Client,
    running: JoinHandle<()>,
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A transaction that is open is rolled back by the server.
        self.running.abort();
    }
}

impl Direct {
    /// Opens a database that is there, to read from it. A SQLite file may be in use by a server.
    pub(super) async fn open(place: &Place) -> Result<Self, StoreError> {
        match place {
            Place::File(path) => open_file(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map(Self::Sqlite),
            Place::Postgres(config) => Remote::connect(config).await.map(Self::Postgres),
        }
    }

    pub(super) async fn fetch(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Sqlite(connection) => sqlite::fetch_once(connection, sql, args),
            Self::Postgres(remote) => remote.fetch(sql, args).await,
        }
    }

    /// From here on everything is read as of one moment.
    pub(super) async fn begin_reading(&self) -> Result<(), StoreError> {
        self.run(match self {
            Self::Sqlite(_) => "BEGIN",
            Self::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })
        .await
    }

    /// Runs statements without arguments.
    pub(super) async fn run(&self, sql: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Self::Postgres(remote) => Ok(remote.client.batch_execute(sql).await?),
        }
    }
}

impl Remote {
    pub(super) async fn connect(config: &PostgresConfig) -> Result<Self, StoreError> {
        let (client, running) = postgres::reach(config).await?;
        let remote = Self { client, running: tokio::spawn(running) };
        remote.client.batch_execute(postgres::NO_TIMEOUTS).await?;
        Ok(remote)
    }

    async fn fetch(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        postgres::fetch_directly(&self.client, sql, args).await
    }
}

/// Opens a file that is there. What is sorted may be larger than the memory, so it goes to files.
pub(super) fn open_file(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::NoDatabase { path: path.display().to_string() });
    }
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(sqlite::BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cache_size", format!("-{CACHE_KIB}"))?;
    Ok(connection)
}
