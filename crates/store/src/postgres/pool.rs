//! Connections that are used by one at a time.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use keyrelay_core::limits::DATABASE_WAIT_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::link::Link;
use crate::StoreError;

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    free: Arc<Mutex<Vec<Arc<Link>>>>,
    places: Arc<Semaphore>,
}

/// A connection that nobody else uses until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    link: Arc<Link>,
    free: Arc<Mutex<Vec<Arc<Link>>>>,
    _place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(links: Vec<Link>) -> Self {
        let places = Arc::new(Semaphore::new(links.len()));
        Self { free: Arc::new(Mutex::new(links.into_iter().map(Arc::new).collect())), places }
    }

    /// The next that is free, within [`DATABASE_WAIT_MAX`].
    pub(super) async fn take(&self) -> Result<Held, StoreError> {
        self.take_until(Instant::now() + DATABASE_WAIT_MAX).await
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
