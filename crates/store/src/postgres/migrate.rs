//! Brings the schema up to date. Any number of nodes may start at once: one of them does it, the others
//! wait. A migration only adds, so that a version that does not know it yet works beside one that does;
//! each says which is the oldest that can.

use tokio_postgres::Client;

use super::config::{NotConnected, PostgresConfig, Running};
use crate::StoreError;
use crate::operations::Migrated;

/// What nodes agree on to lock while the schema changes. Any number, but always this one.
const LOCK: i64 = 0x4b65_7972_656c_6179;

/// Takes the bounds of requests off a connection, for what may take long.
pub(crate) const NO_TIMEOUTS: &str =
    "SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";

#[derive(Clone, Copy)]
struct Migration {
    text: &'static str,
    /// The number of migrations that a program must know to work with a database that has this one.
    needs: i64,
}

const MIGRATIONS: [Migration; 21] = [
    Migration { text: include_str!("../../migrations/postgres/0001_initial.sql"), needs: 1 },
    Migration { text: include_str!("../../migrations/postgres/0002_people.sql"), needs: 2 },
    Migration { text: include_str!("../../migrations/postgres/0003_registration.sql"), needs: 3 },
    Migration { text: include_str!("../../migrations/postgres/0004_signing_schedule.sql"), needs: 4 },
    // A program that does not know the column would let a client past its bound.
    Migration { text: include_str!("../../migrations/postgres/0005_scope_bound.sql"), needs: 5 },
    Migration { text: include_str!("../../migrations/postgres/0006_usage.sql"), needs: 5 },
    // A program that does not know the column would let in a secret past its deadline.
    Migration { text: include_str!("../../migrations/postgres/0007_deadlines.sql"), needs: 7 },
    // A program that does not know the chains would make records that are in none.
    Migration { text: include_str!("../../migrations/postgres/0008_audit_chain.sql"), needs: 8 },
    // A program that does not know the columns would let in a secret past its maximum age.
    Migration { text: include_str!("../../migrations/postgres/0009_secret_rules.sql"), needs: 9 },
    Migration { text: include_str!("../../migrations/postgres/0010_usage_began.sql"), needs: 9 },
    Migration { text: include_str!("../../migrations/postgres/0011_events.sql"), needs: 9 },
    // A program that does not know the table would leave secrets in it when a project is set to show them once.
    Migration { text: include_str!("../../migrations/postgres/0012_kept_answers.sql"), needs: 12 },
    Migration { text: include_str!("../../migrations/postgres/0013_usage_flushes.sql"), needs: 12 },
    Migration { text: include_str!("../../migrations/postgres/0014_membership_profile.sql"), needs: 12 },
    Migration { text: include_str!("../../migrations/postgres/0015_event_bounds.sql"), needs: 12 },
    // A program without this column would write rows that no search of their project finds.
    Migration { text: include_str!("../../migrations/postgres/0016_search_by_project.sql"), needs: 16 },
    Migration { text: include_str!("../../migrations/postgres/0017_resources_of_project.sql"), needs: 16 },
    Migration { text: include_str!("../../migrations/postgres/0018_accounts_of_address.sql"), needs: 16 },
    Migration { text: include_str!("../../migrations/postgres/0019_callers_of_project.sql"), needs: 16 },
    Migration { text: include_str!("../../migrations/postgres/0020_bounded_sessions.sql"), needs: 16 },
    // A program without these columns would return kept answers that show more than the project does.
    Migration { text: include_str!("../../migrations/postgres/0021_answers_epoch.sql"), needs: 21 },
];

/// Brings a database to what this program knows.
pub(crate) async fn run(config: &PostgresConfig) -> Result<Migrated, StoreError> {
    run_to(config, &MIGRATIONS).await
}

/// As a program does that knows these migrations.
async fn run_to(config: &PostgresConfig, migrations: &[Migration]) -> Result<Migrated, StoreError> {
    let (mut client, connection) = reach(config).await?;
    let connection = tokio::spawn(connection);
    let outcome = bring_up_to_date(&mut client, migrations).await;
    drop(client);
    let _ = connection.await;
    outcome
}

/// Connects for something other than requests, or tells why that is not possible.
pub(crate) async fn reach(config: &PostgresConfig) -> Result<(Client, Running), StoreError> {
    let unreachable = |error: &dyn std::fmt::Display| {
        StoreError::Database(format!("PostgreSQL cannot be reached with this --database-url: {error}"))
    };
    config.connect().await.map_err(|error| match &error {
        NotConnected::Refused(refused) => match refused.as_db_error() {
            Some(told) => unreachable(&told.message()),
            None => unreachable(&refused),
        },
        NotConnected::Silent => unreachable(&error),
    })
}

async fn bring_up_to_date(client: &mut Client, migrations: &[Migration]) -> Result<Migrated, StoreError> {
    // Held until the connection ends. Waiting for it may take as long as another node's migration.
    client.batch_execute(NO_TIMEOUTS).await?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY, needs BIGINT NOT NULL)",
        )
        .await?;
    let state = client
        .query_one("SELECT COALESCE(MAX(version), 0), COALESCE(MAX(needs), 0) FROM schema_version", &[])
        .await?;
    let (done, needs): (i64, i64) = (state.try_get(0)?, state.try_get(1)?);
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if needs > known {
        let found = usize::try_from(done).unwrap_or(usize::MAX);
        return Err(StoreError::NewerSchema { found, known: migrations.len() });
    }
    for (version, migration) in (1..).zip(migrations).filter(|(version, _)| *version > done) {
        let transaction = client.transaction().await?;
        transaction.batch_execute(migration.text).await?;
        let sql = "INSERT INTO schema_version (version, needs) VALUES ($1, $2)";
        transaction.execute(sql, &[&version, &migration.needs]).await?;
        transaction.commit().await?;
        tracing::info!(version, "the schema of the database was brought up to date");
    }
    Ok(Migrated { from: usize::try_from(done).unwrap_or(usize::MAX), to: MIGRATIONS.len() })
}

#[cfg(test)]
mod tests;
