//! The runs: one file for each question that is asked of the product.
//!
//! Each takes what the runs share, makes its own installation, and gives back one table.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::floor;
use crate::load::{self, Cycle, Outcome, Plan};
use crate::pgbench;
use crate::process::Server;
use crate::product::Credentials;

pub mod counting;
pub mod fairness;
pub mod grants;
pub mod postgres;
pub mod rotations;
pub mod sizes;
pub mod startup;
pub mod timing;

/// What is sent before a measurement, so that it finds warm connections and caches.
const WARM_UP: Duration = Duration::from_millis(300);

/// What all runs share.
#[derive(Debug)]
pub struct Setting {
    /// The binary of the product.
    pub keyrelay: PathBuf,
    /// The binary of the floor.
    pub floor: PathBuf,
    /// Where the data directories are made: a disk, not memory, or commits cost nothing.
    pub scratch: PathBuf,
    /// How often each measurement is repeated.
    pub rounds: usize,
    /// Length of one measurement.
    pub duration: Duration,
    /// Numbers of connections for the run over grants.
    pub connections: Vec<usize>,
    /// Numbers of client applications for the run over sizes.
    pub clients: Vec<u64>,
    /// Callers for the run over counting.
    pub callers: u64,
    /// Refused grants of each reason for the run over times.
    pub samples: usize,
    /// Refused logins of each reason.
    pub login_samples: usize,
    /// The server of the runs on PostgreSQL.
    pub postgres: Option<pgbench::Server>,
}

impl Setting {
    /// Starts the floor. The folder holds its log and must live as long as it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_floor(&self) -> Result<(Server, TempDir)> {
        self.start_floor_on(None)
    }

    /// Starts the floor with a query of its own for each request to this database.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_floor_on(&self, database_url: Option<&str>) -> Result<(Server, TempDir)> {
        let dir = tempfile::tempdir_in(&self.scratch).context("making a folder for the floor")?;
        let mut command = Command::new(&self.floor);
        command.args(["--listen", "127.0.0.1:0"]);
        if let Some(url) = database_url {
            command.args(["--database", url]);
        }
        let server = Server::start(command, &dir.path().join("floor.log"))?;
        Ok((server, dir))
    }
}

/// The client of the floor.
#[must_use]
pub fn floor_client() -> Credentials {
    Credentials { client_id: floor::CLIENT_ID.to_owned(), client_secret: floor::CLIENT_SECRET.to_owned() }
}

/// Loads `server` with grants of `clients` in turn, after a short warm-up.
///
/// # Errors
/// When the load cannot be run.
pub fn load_grants(
    server: &Server,
    clients: &[Credentials],
    connections: usize,
    duration: Duration,
) -> Result<Outcome> {
    let requests = || {
        let requests = clients.iter().map(|client| client.grant(server.target()));
        Cycle::spread(requests.collect(), connections)
    };
    load::run(Plan::timed(server.target(), WARM_UP), requests())?;
    load::run(Plan::timed(server.target(), duration), requests())
}

/// The errors of a load, as a cell.
#[must_use]
pub fn errors(outcome: &Outcome) -> String {
    if outcome.bad() == 0 {
        return "0".to_owned();
    }
    let mut parts: Vec<String> = outcome
        .by_status
        .iter()
        .filter(|(status, _)| !(200..300).contains(*status))
        .map(|(status, count)| format!("{count} × {status}"))
        .collect();
    if outcome.broken > 0 {
        parts.push(format!("{} broken", outcome.broken));
    }
    parts.join(", ")
}

/// The binary beside the one that runs, where cargo puts all of a build.
///
/// # Errors
/// When the place of the running program is unknown.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or_else(|| Path::new("."));
    Ok(folder.join(name))
}
