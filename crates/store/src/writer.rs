//! The way of every change: through one queue, to whatever writes. In SQLite, changes that wait while a
//! commit is under way are made durable together by the next one. Each is all or nothing, and nobody is
//! told of its success before the commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use keyrelay_core::limits::{DATABASE_WAIT_MAX, WRITE_QUEUE_MAX};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::StoreError;
use crate::audit::WhenKnown;
use crate::change::Change;
use crate::database::{Database, WriterTask};

/// One change that somebody waits for.
pub(crate) struct Request {
    change: Change,
    /// When it is too late to begin.
    deadline: Instant,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl Request {
    /// When it is too late to begin.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The change, and where to tell what became of it.
    pub(crate) fn into_parts(self) -> (Change, oneshot::Sender<Result<(), StoreError>>) {
        (self.change, self.answer)
    }

    /// Writes a group, and tells everyone what became of their change.
    pub(crate) fn answer(
        group: &mut Vec<Self>,
        write: impl FnOnce(Vec<(Change, Instant)>) -> Vec<Result<(), StoreError>>,
    ) {
        let parts = |request: Self| ((request.change, request.deadline), request.answer);
        let (changes, answers): (Vec<_>, Vec<_>) = group.drain(..).map(parts).unzip();
        for (answer, outcome) in answers.into_iter().zip(write(changes)) {
            // Whoever asked may have gone away.
            let _ = answer.send(outcome);
        }
    }
}

/// Hands changes to what writes.
#[derive(Debug)]
pub(crate) struct Writer {
    /// None once the store is being closed.
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    task: Mutex<Option<WriterTask>>,
    /// Whether every change is refused.
    pub(crate) is_read_only: AtomicBool,
}

impl Writer {
    pub(crate) async fn start(database: &Database, chaining: &WhenKnown) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(WRITE_QUEUE_MAX);
        let task = database.serve_writes(requests, chaining).await?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            task: Mutex::new(Some(task)),
            is_read_only: AtomicBool::new(false),
        })
    }

    fn queue(&self) -> Option<mpsc::Sender<Request>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether changes can still be written.
    pub(crate) fn is_alive(&self) -> bool {
        self.queue().is_some_and(|queue| !queue.is_closed())
    }

    pub(crate) async fn commit(&self, change: Change) -> Result<(), StoreError> {
        if self.is_read_only.load(Ordering::Relaxed) {
            return Err(StoreError::ReadOnly);
        }
        let queue = self.queue().ok_or(StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + DATABASE_WAIT_MAX;
        let place = timeout_at(deadline, queue.reserve()).await;
        place.map_err(|_| StoreError::Busy)?.map_err(|_| StoreError::Closed)?.send(Request {
            change,
            deadline,
            answer,
        });
        // From here on the change may become durable, so there is no time-out here: whoever waits must
        // learn what became of it. Whoever writes has one.
        answered.await.map_err(|_| StoreError::Unknown)?
    }

    /// Finishes what is queued, then stops.
    pub(crate) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.join().await;
        }
    }
}
