//! Connections for one user at a time. A query keeps its connection until it is answered, even if the caller has gone,
//! because the next query on that connection would wait for it.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::link::Link;
use crate::StoreError;
use crate::database::{Arg, Row};
use crate::turns::Turn;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Arc<Mutex<Vec<Arc<Link>>>>,
    places: Arc<Semaphore>,
    #[cfg(feature = "test-database")]
    size: usize,
    /// How long a caller waits for a connection.
    wait: Duration,
}

/// A connection that nobody else uses until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    link: Arc<Link>,
    free: Arc<Mutex<Vec<Arc<Link>>>>,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(links: Vec<Link>, wait: Duration) -> Self {
        Self {
            #[cfg(feature = "test-database")]
            size: links.len(),
            places: Arc::new(Semaphore::new(links.len())),
            free: Arc::new(Mutex::new(links.into_iter().map(Arc::new).collect())),
            wait,
        }
    }

    /// The next free connection, within the time limit.
    pub(super) async fn take(&self) -> Result<Held, StoreError> {
        self.take_until(Instant::now() + self.wait).await
    }

    /// Runs a query whose plan is kept.
    pub(crate) async fn fetch(&self, sql: Cow<'static, str>, args: Vec<Arg>) -> Result<Vec<Row>, StoreError> {
        let held = self.take().await?;
        let found = tokio::spawn(async move { held.fetch(&sql, &args).await });
        found.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs a query whose plan is not. The turn ends when the connection is free again.
    pub(crate) async fn fetch_once(
        &self,
        sql: String,
        args: Vec<Arg>,
        turn: Option<Turn>,
    ) -> Result<Vec<Row>, StoreError> {
        let held = self.take().await?;
        let found = tokio::spawn(async move {
            let found = held.fetch_once(&sql, &args).await;
            drop((held, turn));
            found
        });
        found.await.map_err(|_| StoreError::Closed)?
    }

    /// Takes every connection, so that no other caller gets one.
    #[cfg(feature = "test-database")]
    pub(crate) async fn hold(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let all = u32::try_from(self.size).unwrap_or(u32::MAX);
        Arc::clone(&self.places).acquire_many_owned(all).await.map_err(|_| StoreError::Closed)
    }

    /// The next that is free, but not later than `deadline`.
    pub(super) async fn take_until(&self, deadline: Instant) -> Result<Held, StoreError> {
        tokio::time::timeout_at(deadline, self.wait()).await.unwrap_or(Err(StoreError::Busy))
    }

    /// The next that is free.
    async fn wait(&self) -> Result<Held, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let link = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = free.iter().rposition(|link| link.is_ready());
            ready.map(|at| free.swap_remove(at)).or_else(|| free.pop())
        };
        Ok(Held { link: link.ok_or(StoreError::Closed)?, free: Arc::clone(&self.free), _place: place })
    }
}

impl Deref for Held {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the place is free again.
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.link));
    }
}
