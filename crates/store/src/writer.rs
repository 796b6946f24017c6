//! The one writer. Changes that wait while a commit is under way are made durable together by the
//! next one; each is still all or nothing, and nobody is told of its success before the commit.

use std::borrow::Cow;

use keyrelay_core::limits::{DATABASE_WAIT_MAX, WRITE_GROUP_MAX, WRITE_QUEUE_MAX};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::change::Change;
use crate::database::{Connection, Executed};
use crate::{Conflict, StoreError};

struct Request {
    change: Change,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// Hands changes to the task that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Request>,
    task: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Writer {
    pub(crate) fn start(connection: Connection) -> Self {
        let (queue, requests) = mpsc::channel(WRITE_QUEUE_MAX);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(connection, requests, stopped));
        Self { queue, task: Mutex::new(Some((stop, task))) }
    }

    pub(crate) async fn commit(&self, change: Change) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let place = tokio::time::timeout(DATABASE_WAIT_MAX, self.queue.reserve()).await;
        place
            .map_err(|_| StoreError::Busy)?
            .map_err(|_| StoreError::Closed)?
            .send(Request { change, answer });
        // From here on the change may become durable, so there is no time-out: whoever waits must
        // learn what became of it.
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes what is queued, then stops.
    pub(crate) async fn close(&self) {
        if let Some((stop, task)) = self.task.lock().await.take() {
            let _ = stop.send(());
            let _ = task.await;
        }
    }
}

async fn serve(
    mut connection: Connection,
    mut requests: mpsc::Receiver<Request>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut group = Vec::with_capacity(WRITE_GROUP_MAX);
    let mut closing = false;
    loop {
        let received = if closing {
            requests.recv_many(&mut group, WRITE_GROUP_MAX).await
        } else {
            tokio::select! {
                biased;
                n = requests.recv_many(&mut group, WRITE_GROUP_MAX) => n,
                _ = &mut stopped => {
                    closing = true;
                    requests.close();
                    continue;
                }
            }
        };
        if received == 0 {
            return;
        }
        write_group(&mut connection, &mut group).await;
    }
}

/// What must be said before the next change of a group: how the one before ended.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Success,
    Failure,
}

impl Before {
    const fn statements(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &["BEGIN IMMEDIATE"],
            Self::Success => &["RELEASE change"],
            Self::Failure => &["ROLLBACK TO change", "RELEASE change"],
        }
    }
}

/// There is no transaction.
struct NotBegun;

async fn write_group(connection: &mut Connection, group: &mut Vec<Request>) {
    let mut outcomes = Vec::with_capacity(group.len());
    let mut before = Before::Nothing;
    for request in group.drain(..) {
        let outcome = match write_one(connection, before, request.change).await {
            Ok(outcome) => {
                before = if outcome.is_ok() { Before::Success } else { Before::Failure };
                outcome
            }
            Err(NotBegun) => Err(StoreError::Busy),
        };
        outcomes.push((request.answer, outcome));
    }
    let committed = end(connection, before).await;
    for (answer, outcome) in outcomes {
        let outcome = match (outcome, &committed) {
            (Ok(()), Err(error)) => {
                tracing::error!(%error, "a commit failed");
                Err(StoreError::Busy)
            }
            (outcome, _) => outcome,
        };
        // Whoever asked may have gone away.
        let _ = answer.send(outcome);
    }
}

/// Runs one change within the transaction of its group, behind a savepoint, so that a change that
/// fails leaves no trace. All of it is one trip to the database.
async fn write_one(
    connection: &mut Connection,
    before: Before,
    change: Change,
) -> Result<Result<(), StoreError>, NotBegun> {
    let prefix: Vec<&'static str> = before.statements().iter().copied().chain(["SAVEPOINT change"]).collect();
    let statements = change.into_statements();
    let conflicts: Vec<Option<Conflict>> =
        statements.iter().map(|statement| statement.must_change_one).collect();
    let all = prefix
        .iter()
        .map(|sql| (Cow::Borrowed(*sql), Vec::new()))
        .chain(statements.into_iter().map(|statement| (statement.sql, statement.args)))
        .collect();
    let executed = connection.execute_all(all).await;
    if executed.changed.len() < prefix.len() {
        tracing::error!(error = ?executed.failed, "a change could not be begun");
        return match before {
            Before::Nothing => Err(NotBegun),
            Before::Success | Before::Failure => Ok(Err(StoreError::Busy)),
        };
    }
    Ok(judge(&executed, prefix.len(), &conflicts))
}

/// Whether every statement behind the prefix had the effect it must have.
fn judge(executed: &Executed, prefix: usize, conflicts: &[Option<Conflict>]) -> Result<(), StoreError> {
    let changed = executed.changed.get(prefix..).unwrap_or_default();
    for (changed, conflict) in changed.iter().zip(conflicts) {
        if let (Some(conflict), true) = (conflict, *changed != 1) {
            return Err((*conflict).into());
        }
    }
    match &executed.failed {
        None => Ok(()),
        Some(StoreError::Database(sqlx::Error::Database(error))) if error.is_unique_violation() => {
            Err(conflicts.get(changed.len()).copied().flatten().unwrap_or(Conflict::Id).into())
        }
        Some(error) => {
            tracing::error!(%error, "a statement failed");
            Err(StoreError::Busy)
        }
    }
}

/// Makes durable what succeeded.
async fn end(connection: &mut Connection, before: Before) -> Result<(), StoreError> {
    let last: &[&'static str] = match before {
        Before::Nothing => &["ROLLBACK"],
        Before::Success => &["COMMIT"],
        Before::Failure => &["ROLLBACK TO change", "COMMIT"],
    };
    let run = |statements: &[&'static str]| {
        statements.iter().map(|sql| (Cow::Borrowed(*sql), Vec::new())).collect()
    };
    let executed = connection.execute_all(run(last)).await;
    match executed.failed {
        None => Ok(()),
        Some(error) => {
            connection.execute_all(run(&["ROLLBACK"])).await;
            Err(error)
        }
    }
}
