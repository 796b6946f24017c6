//! What servers have in common that a test starts, kills and starts again.

use std::path::{Path, PathBuf};

use keyrelay_store::TestDatabase;
use tokio::process::Command;

use crate::process::{Process, keyrelay};

/// Where the servers of a test keep their data: a directory, or a PostgreSQL database with the rest there.
pub struct Place {
    dir: PathBuf,
    pub database: TestDatabase,
}

impl Place {
    pub async fn new(dir: &Path) -> Self {
        let place = Self { dir: dir.to_owned(), database: TestDatabase::new(dir).await };
        if place.database.is_postgres() {
            let made = keyrelay().arg("master-key").arg(dir.join("master.key")).status().await.unwrap();
            assert!(made.success());
        }
        place
    }

    pub async fn start(&self) -> Process {
        self.start_in(&self.dir).await
    }

    /// Another one beside it, on PostgreSQL; its directory is its own.
    pub async fn start_beside(&self, name: &str) -> Process {
        self.start_in(&self.dir.join(name)).await
    }

    /// Runs a command on the database, which must succeed, and gives what it said.
    pub async fn do_well(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).arg("--data-dir").arg(&self.dir).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said.into_owned()
    }

    async fn start_in(&self, data_dir: &Path) -> Process {
        Process::start_with(self.command(), data_dir).await
    }

    fn command(&self) -> Command {
        let mut command = keyrelay();
        command.env("KEYRELAY_LOG", "warn");
        if self.database.is_postgres() {
            command.env("KEYRELAY_DATABASE_URL", self.database.url());
            command.env("KEYRELAY_MASTER_KEY_FILE", self.dir.join("master.key"));
        }
        command
    }
}
