//! What an operator does to a database beside the server: bring its schema up to date, copy it, move it
//! to another database, ask what it needs. Apart from the rest, because nothing here answers a request:
//! each task has a connection of its own, may take as long as it takes, and is one process.

mod audit;
mod backup;
mod direct;
mod export;
mod files;
mod format;
mod health;
mod import;
mod keys_lock;
mod keys_used;
mod profiles;
mod project_sizes;
mod schema;
mod tables;

use std::path::PathBuf;

pub use audit::{AuditReport, Finding, Head, NotedHead, verify_audit};
pub use backup::{backup, restore};
pub use export::export;
pub use health::{Health, PostgresHealth, health};
pub use import::import;
pub use keys_lock::KeysLock;
pub use keys_used::{KeyUse, KeysUsed, Tickets, keys_used, tickets};
pub use profiles::{SharedProfile, shared_profiles};
pub use project_sizes::largest_projects;
pub use schema::{Migrated, migrate, schema};

use crate::PostgresConfig;

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<PostgresConfig>),
}

/// Is told how much is done, of how much. The unit is the task's own.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);
