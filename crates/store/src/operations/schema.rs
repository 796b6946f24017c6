//! Which version of the schema a database has, and how it gets the one that this program knows.

use super::Place;
use super::direct::Direct;
use crate::database::Row;
use crate::{StoreError, postgres, sqlite};

/// From which version of the schema to which a database was brought. Zero is an empty database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// What it had.
    pub from: usize,
    /// What it has.
    pub to: usize,
}

/// The version of the schema that a database has, and the one that this program knows. A SQLite file
/// that is not there has version zero.
pub async fn schema(place: &Place) -> Result<Migrated, StoreError> {
    let from = match place {
        Place::File(path) if !path.exists() => 0,
        _ => version(&Direct::open(place).await?).await?,
    };
    Ok(Migrated { from, to: sqlite::MIGRATIONS.len() })
}

/// Brings the schema up to date. With SQLite no server may be using the file: take the lock first. With
/// PostgreSQL servers of the version before may go on.
pub async fn migrate(place: &Place) -> Result<Migrated, StoreError> {
    match place {
        Place::File(path) => sqlite::prepare(path),
        Place::Postgres(config) => postgres::migrate(config).await,
    }
}

/// The version that an open database has.
pub(super) async fn version(direct: &Direct) -> Result<usize, StoreError> {
    let first = |rows: Vec<Row>| rows.first().map_or(Ok(0), |row| row.int(0));
    let found = match direct {
        Direct::Sqlite(_) => first(direct.fetch("PRAGMA user_version", &[]).await?)?,
        Direct::Postgres(_) => {
            let there = "SELECT 1 FROM information_schema.tables \
                         WHERE table_schema = current_schema() AND table_name = 'schema_version'";
            if direct.fetch(there, &[]).await?.is_empty() {
                return Ok(0);
            }
            first(direct.fetch("SELECT COALESCE(MAX(version), 0) FROM schema_version", &[]).await?)?
        }
    };
    Ok(usize::try_from(found).unwrap_or(usize::MAX))
}

/// Refuses a database whose schema is not the one that this program knows: it would be copied in part.
pub(super) async fn require_known(direct: &Direct) -> Result<(), StoreError> {
    let found = version(direct).await?;
    let known = sqlite::MIGRATIONS.len();
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    if found < known {
        return Err(StoreError::OlderSchema { found, known });
    }
    Ok(())
}
