//! One connection while it lives, with the statements that it knows.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use keyrelay_core::limits::DATABASE_STATEMENTS_MAX;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement as Prepared};

use super::value;
use crate::StoreError;
use crate::database::{Arg, Row};

/// See the module.
pub(super) struct Session {
    pub(super) client: Client,
    /// Who serves it at the other end, in the server's words.
    pub(super) backend: i32,
    commit_in_doubt: AtomicBool,
    statements: Mutex<HashMap<String, Prepared>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Makes a connection ready for use. What is outside a transaction that says so may not write: the
    /// statements of a change are sent with their `BEGIN`, and if that failed each of them would be a change
    /// by itself.
    pub(super) async fn open(client: Client) -> Result<Self, Error> {
        client.batch_execute("SET default_transaction_read_only = on").await?;
        let backend = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
        let (commit_in_doubt, statements) = (AtomicBool::new(false), Mutex::default());
        Ok(Self { client, backend, commit_in_doubt, statements })
    }

    /// Whether a commit was sent to which no answer came.
    pub(super) fn commit_in_doubt(&self) -> bool {
        self.commit_in_doubt.load(Ordering::SeqCst)
    }

    /// Says that a commit was sent to which no answer came.
    pub(super) fn doubt_commit(&self) {
        self.commit_in_doubt.store(true, Ordering::SeqCst);
    }

    /// Whether the server is still busy with what another connection asked for.
    pub(super) async fn is_busy(&self, backend: i32) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active'";
        Ok(self.client.query_opt(sql, &[&backend]).await?.is_some())
    }

    /// A statement that is prepared once for each connection.
    pub(super) async fn prepared(&self, sql: &str) -> Result<Prepared, Error> {
        if let Some(known) = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql) {
            return Ok(known.clone());
        }
        let prepared = self.client.prepare(sql).await?;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if statements.len() >= DATABASE_STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    pub(super) async fn fetch(&self, sql: &str, args: &[Arg], plan: Plan) -> Result<Vec<Row>, Failed> {
        let prepared = match plan {
            Plan::Kept => self.prepared(sql).await?,
            Plan::UsedOnce => self.client.prepare(sql).await?,
        };
        Ok(value::rows(&self.client.query(&prepared, &params(args)).await?)?)
    }
}

/// What becomes of the plan of a query.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    /// It is used again.
    Kept,
    /// Its text was put together for one request.
    UsedOnce,
}

/// The arguments of a statement as the driver takes them.
pub(crate) fn params(args: &[Arg]) -> Vec<&(dyn ToSql + Sync)> {
    args.iter().map(|arg| arg as &(dyn ToSql + Sync)).collect()
}

/// What a query came to that was not answered.
#[derive(Debug)]
pub(super) enum Failed {
    /// The database, or the way to it.
    Postgres(Error),
    /// What it answered cannot be read.
    Store(StoreError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What can be done about an error of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The connection is of no use: it is gone, or leads to a server that cannot write.
    Reconnect,
    /// Two transactions were in each other's way: the same again may succeed.
    Repeat,
    /// The database lacks something that may come back: space, memory, time.
    Wait,
    /// The statement is refused.
    None,
}

pub(super) fn remedy(error: &Error) -> Remedy {
    let Some(state) = error.code() else {
        // Without a word of the server: the way to it is broken, or the statement never got there.
        let broken =
            error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        return if broken { Remedy::Reconnect } else { Remedy::None };
    };
    if *state == SqlState::T_R_SERIALIZATION_FAILURE || *state == SqlState::T_R_DEADLOCK_DETECTED {
        return Remedy::Repeat;
    }
    match &state.code()[..2] {
        // Connection; system error; and an operator's `57P01` to `57P05`, as when the server stops.
        "08" | "58" => Remedy::Reconnect,
        "57" if *state != SqlState::QUERY_CANCELED => Remedy::Reconnect,
        // A standby, or a primary that was demoted; and a transaction that waited too long for us.
        "25" if *state == SqlState::READ_ONLY_SQL_TRANSACTION => Remedy::Reconnect,
        "25" if *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => Remedy::Reconnect,
        "53" | "55" | "57" => Remedy::Wait,
        _ => Remedy::None,
    }
}

/// Why a query outside a transaction was not answered, as the store tells it: what may pass is
/// [`StoreError::Busy`], and one that the server stopped, because it took too long, [`StoreError::TooCostly`].
pub(super) fn told(failed: Failed) -> StoreError {
    match failed {
        Failed::Store(error) => error,
        Failed::Postgres(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => StoreError::TooCostly,
        Failed::Postgres(error) if remedy(&error) == Remedy::None => error.into(),
        Failed::Postgres(error) => {
            tracing::warn!(%error, "the database did not answer");
            StoreError::Busy
        }
    }
}
