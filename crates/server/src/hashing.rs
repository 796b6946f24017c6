//! Hashes passwords beside the threads that answer requests: a hash takes tens of milliseconds and much
//! memory, so few run at once, few wait, and whoever comes on top is told to come again.

use std::sync::Arc;

use keyrelay_core::limits::{PASSWORD_QUEUE_MAX, PASSWORDS_AT_ONCE_MAX};
use keyrelay_core::password::PlainPassword;
use keyrelay_core::random::Entropy;
use tokio::sync::Semaphore;

/// Too many passwords are being hashed already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

#[derive(Debug)]
pub(crate) struct PasswordHasher {
    waiting: Semaphore,
    places: Arc<Semaphore>,
}

impl Default for PasswordHasher {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(PASSWORD_QUEUE_MAX),
            places: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE_MAX)),
        }
    }
}

impl PasswordHasher {
    /// Whether a password is the one that was hashed; without a hash it takes as long, and is not.
    pub(crate) async fn verify(&self, hash: Option<String>, password: PlainPassword) -> Result<bool, Busy> {
        self.run(move || password.verify(hash.as_deref())).await
    }

    /// Like [`PasswordHasher::verify`], with something that is done meanwhile and so takes no time of its
    /// own. It is not begun where too many wait already.
    pub(crate) async fn verify_while<T>(
        &self,
        hash: Option<String>,
        password: PlainPassword,
        meanwhile: impl Future<Output = T>,
    ) -> Result<(bool, T), Busy> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Busy)?;
        let (right, done) = tokio::join!(self.work(move || password.verify(hash.as_deref())), meanwhile);
        Ok((right?, done))
    }

    /// The hash to keep.
    pub(crate) async fn hash(
        &self,
        password: PlainPassword,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Option<String>, Busy> {
        self.run(move || password.hash(entropy.as_ref())).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Busy)?;
        self.work(work).await
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Busy)?;
        // The place goes with the work: whoever asked may go away, the work goes on.
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|_| Busy)
    }
}
