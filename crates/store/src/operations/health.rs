//! What the database says of itself, for `keyrelay doctor`.

use std::time::Duration;

use keyrelay_core::time::{Clock, Timestamp};

use super::direct::Direct;
use super::{Place, schema};
use crate::StoreError;
use crate::database::Row;

/// Questions that are asked to measure how long one takes.
const QUESTIONS: u32 = 10;

/// See the module.
#[derive(Clone, Debug)]
pub struct Health {
    /// The version of its schema.
    pub schema: usize,
    /// How long a question takes there and back; the middle one of several.
    pub latency: Duration,
    /// How far its clock is ahead of ours, in milliseconds. `None` for a file, which has none.
    pub clock_ahead_ms: Option<i64>,
    /// What a PostgreSQL server says of its settings.
    pub postgres: Option<PostgresHealth>,
}

/// Settings and state of a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PostgresHealth {
    /// `server_version_num`.
    pub version: i64,
    /// `fsync`.
    pub fsync: bool,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`.
    pub synchronous_standbys: String,
    /// `full_page_writes`.
    pub full_page_writes: bool,
    /// Connections that ordinary users may have.
    pub connections_max: i64,
    /// Connections that there are, this one too.
    pub connections: i64,
    /// Standbys that follow now.
    pub standbys: i64,
}

/// Asks a database how it is. `elapsed` is a watch that somebody started.
pub async fn health(
    place: &Place,
    clock: &dyn Clock,
    elapsed: &dyn Fn() -> Duration,
) -> Result<Health, StoreError> {
    let direct = Direct::open(place).await?;
    let schema = schema::version(&direct).await?;
    let mut times = Vec::new();
    for _ in 0..QUESTIONS {
        let before = elapsed();
        direct.fetch("SELECT 1", &[]).await?;
        times.push(elapsed().saturating_sub(before));
    }
    times.sort_unstable();
    let latency = times.get(times.len() / 2).copied().unwrap_or_default();
    let (clock_ahead_ms, postgres) = match &direct {
        Direct::Sqlite(_) => (None, None),
        Direct::Postgres(_) => {
            (Some(clock_ahead_ms(&direct, clock, latency).await?), Some(postgres(&direct).await?))
        }
    };
    Ok(Health { schema, latency, clock_ahead_ms, postgres })
}

async fn clock_ahead_ms(direct: &Direct, clock: &dyn Clock, latency: Duration) -> Result<i64, StoreError> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let theirs = one(direct, sql).await?.int(0)?;
    let ours: Timestamp = clock.now();
    // It was read about half a way ago.
    let way_ms = i64::try_from(latency.as_millis() / 2).unwrap_or(0);
    Ok(theirs + way_ms - ours.epoch_ms())
}

async fn postgres(direct: &Direct) -> Result<PostgresHealth, StoreError> {
    let sql = "SELECT current_setting('server_version_num')::bigint, current_setting('fsync') = 'on', \
               current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
               current_setting('full_page_writes') = 'on', \
               current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
               (SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
               (SELECT COUNT(*) FROM pg_stat_replication)";
    let row = one(direct, sql).await?;
    Ok(PostgresHealth {
        version: row.int(0)?,
        fsync: row.boolean(1)?,
        synchronous_commit: row.text(2)?,
        synchronous_standbys: row.text(3)?,
        full_page_writes: row.boolean(4)?,
        connections_max: row.int(5)?,
        connections: row.int(6)?,
        standbys: row.int(7)?,
    })
}

async fn one(direct: &Direct, sql: &str) -> Result<Row, StoreError> {
    let rows = direct.fetch(sql, &[]).await?;
    rows.into_iter().next().ok_or(StoreError::Corrupt { what: "an answer that should have one row" })
}
