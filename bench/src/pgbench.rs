//! The floor of a rotation on PostgreSQL: how many transactions of one row a second PostgreSQL's own `pgbench` commits
//! on the same server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::NoTls;

use crate::load::SECONDS_MAX;

/// Rows among which the updates walk, so that they are seldom in each other's way.
const ROWS: u32 = 1_000;
/// Threads of pgbench: it shares the cores with the server.
const THREADS_MAX: usize = 2;
const SCRIPT: &str =
    "\\set id random(1, 1000)\nUPDATE bench_commit SET version = version + 1 WHERE id = :id;\n";

/// A PostgreSQL server of this machine that may be filled and loaded.
#[derive(Clone, Debug)]
pub struct Server {
    /// The URL of a database on it, without a password.
    pub url: String,
    /// The program `pgbench`.
    pub pgbench: PathBuf,
}

impl Server {
    /// Makes a database, and gives its URL.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub fn database(&self, name: &str) -> Result<String> {
        self.execute(&format!("CREATE DATABASE {name}"))?;
        let (server, _) = self.url.rsplit_once('/').context("the URL of the server names a database")?;
        Ok(format!("{server}/{name}"))
    }

    fn execute(&self, sql: &str) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&self.url, NoTls).await.context("connecting to PostgreSQL")?;
            let connection = tokio::spawn(connection);
            client.batch_execute(sql).await?;
            drop(client);
            connection.await??;
            Ok(())
        })
    }

    /// Makes the table that is committed to.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn prepare(&self) -> Result<()> {
        self.execute(&format!(
            "CREATE TABLE IF NOT EXISTS bench_commit (id INTEGER PRIMARY KEY, secret TEXT NOT NULL, version BIGINT NOT NULL);
             INSERT INTO bench_commit SELECT n, repeat('x', 64), 1 FROM generate_series(1, {ROWS}) n ON CONFLICT DO NOTHING"
        ))
    }

    /// Commits a second over so many connections, one transaction after another on each.
    ///
    /// # Errors
    /// When pgbench fails, or says something unexpected.
    pub fn commits(&self, scratch: &Path, connections: usize, duration: Duration) -> Result<f64> {
        ensure!(duration <= Duration::from_secs(SECONDS_MAX), "at most {SECONDS_MAX} seconds are measured");
        let mut script = tempfile::NamedTempFile::new_in(scratch)?;
        script.write_all(SCRIPT.as_bytes())?;
        let output = Command::new(&self.pgbench)
            .args(["--no-vacuum", "--protocol=prepared", "--client", &connections.to_string()])
            .args(["--jobs", &connections.min(THREADS_MAX).to_string()])
            .args(["--time", &duration.as_secs().to_string(), "--file"])
            .arg(script.path())
            .arg(&self.url)
            .stdin(Stdio::null())
            .output()
            .context("starting pgbench")?;
        ensure!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
        rate(&String::from_utf8_lossy(&output.stdout))
    }
}

/// The rate in what pgbench prints.
fn rate(text: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let number = line.and_then(|line| line.split(' ').next());
    number.context("pgbench printed no rate")?.parse().context("reading the rate that pgbench printed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_prints() -> Result<()> {
        let text = "latency average = 0.5 ms\ntps = 2040.816327 (without initial connection time)\n";
        assert!((rate(text)? - 2_040.816_327).abs() < f64::EPSILON);
        assert!(rate("pgbench: error: no").is_err());
        Ok(())
    }
}
