//! The one writer. Changes that wait while a commit is under way are made durable together by the
//! next one; each is still all or nothing, and nobody is told of its success before the commit.

use keyrelay_core::limits::{DATABASE_WAIT_MAX, WRITE_GROUP_MAX, WRITE_QUEUE_MAX};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::change::Change;
use crate::database::Connection;
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

async fn write_group(connection: &mut Connection, group: &mut Vec<Request>) {
    let alone = group.len() == 1;
    let mut outcomes = Vec::with_capacity(group.len());
    if let Err(error) = connection.execute("BEGIN IMMEDIATE", Vec::new()).await {
        tracing::error!(%error, "cannot begin to write");
        for request in group.drain(..) {
            let _ = request.answer.send(Err(StoreError::Busy));
        }
        return;
    }
    for request in group.drain(..) {
        let outcome = write_one(connection, request.change, alone).await;
        outcomes.push((request.answer, outcome));
    }
    let any_success = outcomes.iter().any(|(_, outcome)| outcome.is_ok());
    let committed = end(connection, any_success).await;
    for (answer, outcome) in outcomes {
        let outcome = match (outcome, &committed) {
            (Ok(()), Err(error)) => {
                tracing::error!(%error, "a commit failed");
                Err(StoreError::Busy)
            }
            (outcome, _) => outcome,
        };
        let _ = answer.send(outcome);
    }
}

async fn end(connection: &mut Connection, commit: bool) -> Result<(), sqlx::Error> {
    if commit {
        let committed = connection.execute("COMMIT", Vec::new()).await;
        if committed.is_ok() {
            return Ok(());
        }
        connection.execute("ROLLBACK", Vec::new()).await?;
        return committed.map(drop);
    }
    connection.execute("ROLLBACK", Vec::new()).await.map(drop)
}

/// Runs one change within the open transaction. A change that fails leaves no trace: alone, the whole
/// transaction is rolled back; in company, its savepoint.
async fn write_one(connection: &mut Connection, change: Change, alone: bool) -> Result<(), StoreError> {
    if alone {
        return run(connection, change).await;
    }
    connection.execute("SAVEPOINT change", Vec::new()).await?;
    let outcome = run(connection, change).await;
    if outcome.is_err() {
        connection.execute("ROLLBACK TO change", Vec::new()).await?;
    }
    connection.execute("RELEASE change", Vec::new()).await?;
    outcome
}

async fn run(connection: &mut Connection, change: Change) -> Result<(), StoreError> {
    for statement in change.into_statements() {
        match (connection.execute(&statement.sql, statement.args).await, statement.must_change_one) {
            (Ok(1), _) | (Ok(_), None) => {}
            (Ok(_), Some(conflict)) => return Err(conflict.into()),
            (Err(sqlx::Error::Database(error)), conflict) if error.is_unique_violation() => {
                return Err(conflict.unwrap_or(Conflict::Id).into());
            }
            (Err(error), _) => {
                tracing::error!(%error, "a statement failed");
                return Err(StoreError::Database(error));
            }
        }
    }
    Ok(())
}
