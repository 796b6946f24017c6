//! Hashes passwords beside the threads that answer requests: a hash takes tens of milliseconds and much
//! memory, so few run at once, few wait, and others are answered 503. One address may have only a part of the
//! queue, so that no address keeps others from logging in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use keyrelay_core::limits::{
    LOGIN_ACCOUNTS_MAX, PASSWORD_QUEUE_MAX, PASSWORD_QUEUE_PER_ADDRESS_MAX, PASSWORDS_AT_ONCE_MAX,
};
use keyrelay_core::password::PlainPassword;
use keyrelay_core::random::Entropy;
use tokio::sync::Semaphore;

use crate::limiter::network;

/// Too many passwords are being hashed already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

#[derive(Debug)]
pub(crate) struct PasswordHasher {
    waiting: Semaphore,
    waiting_from: Mutex<HashMap<IpAddr, usize>>,
    places: Arc<Semaphore>,
}

/// Hashes that the password of a login is compared with: the same number for every login.
pub(crate) type Hashes = [Option<String>; LOGIN_ACCOUNTS_MAX];

/// A place in the queue, within the share of one address.
struct Waiting<'a> {
    hasher: &'a PasswordHasher,
    from: IpAddr,
}

impl<'a> Waiting<'a> {
    fn enter(hasher: &'a PasswordHasher, from: IpAddr) -> Result<Self, Busy> {
        let from = network(from);
        let mut waiting = hasher.waiting_from.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(from).or_default();
        if *count >= PASSWORD_QUEUE_PER_ADDRESS_MAX {
            return Err(Busy);
        }
        *count += 1;
        Ok(Self { hasher, from })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hasher.waiting_from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.from);
            }
        }
    }
}

impl Default for PasswordHasher {
    fn default() -> Self {
        Self {
            waiting: Semaphore::new(PASSWORD_QUEUE_MAX),
            waiting_from: Mutex::default(),
            places: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE_MAX)),
        }
    }
}

impl PasswordHasher {
    /// Whether a password is the one that was hashed; without a hash it takes as long, and is not.
    pub(crate) async fn verify(&self, hash: Option<String>, password: PlainPassword) -> Result<bool, Busy> {
        self.run(move || password.verify(hash.as_deref())).await
    }

    /// Which of some hashes belong to a password. They are computed one after the other, so that a login takes the
    /// memory of one; a missing hash takes as long as a real one. `meanwhile` runs at the same time, so that its time
    /// does not show. Refuses at once if too many wait already.
    pub(crate) async fn verify_each_while<T>(
        &self,
        from: IpAddr,
        hashes: Hashes,
        password: PlainPassword,
        meanwhile: impl Future<Output = T>,
    ) -> Result<([bool; LOGIN_ACCOUNTS_MAX], T), Busy> {
        let _place = Waiting::enter(self, from)?;
        let _waiting = self.waiting.try_acquire().map_err(|_| Busy)?;
        let verify = move || hashes.map(|hash| password.verify(hash.as_deref()));
        let (right, done) = tokio::join!(self.work(verify), meanwhile);
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
