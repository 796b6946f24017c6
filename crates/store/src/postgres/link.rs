//! A connection that comes back. A task beside it connects, and connects again with growing pauses
//! whenever the connection is lost, or somebody found it of no use.

use std::sync::Arc;
use std::time::Duration;

use keyrelay_core::limits::DATABASE_WAIT_MAX;
use keyrelay_core::survive::survive_waiting;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_postgres::Client;

use super::config::Connect;
use super::session::{Failed, Plan, Remedy, Session, remedy, told};
use crate::StoreError;
use crate::database::{Arg, Row};

/// The pause before a connection is made again; it doubles with each attempt that fails.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    session: watch::Sender<Option<Arc<Session>>>,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn start(connect: Connect) -> Self {
        let (session, _) = watch::channel(None);
        let sessions = session.clone();
        let task = tokio::spawn(async move {
            // Never returns, but may panic.
            while survive_waiting(keep_connected(&connect, &sessions)).await.is_err() {
                sessions.send_replace(None);
                sleep(PAUSE_MAX).await;
            }
        });
        let task = task.abort_handle();
        Self { session, task }
    }

    /// Whether there is a connection now.
    pub(super) fn is_ready(&self) -> bool {
        self.session.borrow().is_some()
    }

    /// The connection, if need be as soon as there is one, but not later than `deadline`.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, StoreError> {
        let mut changes = self.session.subscribe();
        let ready = changes.wait_for(Option::is_some);
        match timeout_at(deadline, ready).await {
            Ok(Ok(session)) => session.clone().ok_or(StoreError::Busy),
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Err(StoreError::Busy),
        }
    }

    /// The connection, as soon as there is one, however long that takes.
    pub(super) async fn connected(&self) -> Option<Arc<Session>> {
        self.session.subscribe().wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Ready when a connection is not the one to use any more.
    pub(super) async fn lost(&self, session: &Arc<Session>) {
        let is_other =
            |now: &Option<Arc<Session>>| !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, session));
        // If nobody keeps connecting, it is lost too.
        let _ = self.session.subscribe().wait_for(is_other).await;
    }

    /// Says that a connection is of no use: it is closed, and another is made.
    pub(super) fn give_up(&self, session: &Arc<Session>) {
        self.session.send_if_modified(|current| {
            let is_this = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session));
            if is_this {
                *current = None;
            }
            is_this
        });
    }

    /// Runs a query whose plan is kept.
    pub(super) async fn fetch(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        self.ask(sql, args, Plan::Kept, DATABASE_WAIT_MAX).await
    }

    /// As [`Self::fetch`], within another time.
    pub(super) async fn fetch_within(
        &self,
        within: Duration,
        sql: &str,
        args: &[Arg],
    ) -> Result<Vec<Row>, StoreError> {
        self.ask(sql, args, Plan::Kept, within).await
    }

    /// Runs a query whose plan is not.
    pub(super) async fn fetch_once(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        self.ask(sql, args, Plan::UsedOnce, DATABASE_WAIT_MAX).await
    }

    /// Asks, and asks again where the connection was lost meanwhile: a query changes nothing, and what is
    /// read later is as true. One that did not come back in time has had its turn, but its connection is
    /// of no use any more: a server may hang without closing.
    async fn ask(
        &self,
        sql: &str,
        args: &[Arg],
        plan: Plan,
        within: Duration,
    ) -> Result<Vec<Row>, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            let session = self.session(deadline).await?;
            match timeout(within, session.fetch(sql, args, plan)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(Failed::Postgres(error))) if remedy(&error) == Remedy::Reconnect => {
                    self.give_up(&session);
                    if Instant::now() >= deadline {
                        return Err(told(error.into()));
                    }
                }
                Ok(Err(failed)) => return Err(told(failed)),
                Err(_) => {
                    self.give_up(&session);
                    return Err(StoreError::Busy);
                }
            }
        }
    }
}

async fn keep_connected(connect: &Connect, sessions: &watch::Sender<Option<Arc<Session>>>) {
    let mut changes = sessions.subscribe();
    let mut pause = PAUSE_FIRST;
    let mut left = None;
    loop {
        let mut began = Instant::now();
        match connect().await {
            Ok((client, mut connection)) => {
                let opened = tokio::select! {
                        biased;
                    opened = open(client, left) => opened,
                    () = &mut connection => None,
                };
                if let Some(session) = opened {
                    pause = PAUSE_FIRST;
                    let session = Arc::new(session);
                    sessions.send_replace(Some(Arc::clone(&session)));
                    tokio::select! {
                        biased;
                        () = connection => {}
                        // Dropping the connection closes it.
                        _ = changes.wait_for(Option::is_none) => {}
                    }
                    sessions.send_replace(None);
                    left = session.commit_in_doubt().then_some(session.backend);
                }
                began = Instant::now();
                tracing::warn!("a connection to the database was lost; it is made again");
            }
            Err(error) => tracing::warn!(%error, "the database cannot be reached; it is tried again"),
        }
        // An attempt that got no answer took its time already.
        sleep_until(began + pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Makes a connection ready, once the server is done with what the last one `left` to it: while a standby
/// is away, commits wait on the server, whether their clients have gone or not. If each had a successor
/// they would fill the server up, until nobody could even read.
async fn open(client: Client, left: Option<i32>) -> Option<Session> {
    let session = timeout(DATABASE_WAIT_MAX, Session::open(client)).await.ok()?.ok()?;
    if let Some(left) = left {
        while timeout(DATABASE_WAIT_MAX, session.is_busy(left)).await.ok()?.ok()? {
            sleep(PAUSE_MAX).await;
        }
    }
    Some(session)
}
