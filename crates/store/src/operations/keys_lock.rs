//! The lock for changes of the master keys of one database, for hosts that do not share a file system.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::direct::Remote;
use crate::{PostgresConfig, StoreError};

/// Half of the lock's name; the other half is the schema. Any number works if it never changes.
const LOCK: i32 = 0x6b65_7973;
/// The pause between two attempts to take the lock.
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// The lock. The server releases it when the connection ends, however it ends.
pub struct KeysLock {
    remote: Remote,
}

impl std::fmt::Debug for KeysLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeysLock").field("is_held", &self.is_held()).finish_non_exhaustive()
    }
}

impl KeysLock {
    /// Waits for the lock of a database, up to a time. `None` if others hold it longer.
    pub async fn take(config: &PostgresConfig, at_most: Duration) -> Result<Option<Self>, StoreError> {
        let remote = Remote::connect(config).await?;
        let until = Instant::now() + at_most;
        let sql =
            "SELECT pg_try_advisory_lock($1, ('x' || substr(md5(current_schema()), 1, 8))::bit(32)::int)";
        loop {
            let is_held: bool = remote.client.query_one(sql, &[&LOCK]).await?.try_get(0)?;
            if is_held {
                return Ok(Some(Self { remote }));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            sleep(TRY_INTERVAL).await;
        }
    }

    /// Whether the connection, and so the lock, still exists.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.remote.client.is_closed()
    }
}
