//! A PostgreSQL primary with a synchronous standby, made for one run: both can be killed, the standby can
//! be promoted, and the old primary then becomes its standby.
//!
//! Nothing waits for the disk: what is killed are processes, and what they have written stays. What need not
//! be written yet is not, so that a crash loses as much as it may.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Handle;
use tokio_postgres::NoTls;

use crate::clock::Stopwatch;
use crate::nodes::free_address;

/// Whose servers these are when we are root, as whom PostgreSQL does not run.
const ACCOUNT: &str = "postgres";
/// How long a standby may take to have everything.
const SYNC_MAX: Duration = Duration::from_mins(1);
/// What makes a primary wait for its standby before it confirms a commit.
const STANDBY_SETTING: &str = "synchronous_standby_names";
const POLL: Duration = Duration::from_millis(50);
/// How long one question to a server may take.
const QUERY_MAX: Duration = Duration::from_secs(5);

/// Two servers, one of them the primary.
#[derive(Debug)]
pub struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    addresses: [SocketAddr; 2],
    primary: usize,
    runtime: Handle,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in 0..self.addresses.len() {
            let _ = self.stop(server);
        }
        let _ = run(program("rm").arg("-rf").arg(&self.folder));
    }
}

impl Cluster {
    /// Makes both servers, in a temporary folder of their own, with the programs in `programs`.
    ///
    /// # Errors
    /// When PostgreSQL cannot be run.
    pub fn start(programs: &Path, runtime: Handle) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("keyrelay-chaos-postgres-{}", std::process::id()));
        let addresses = [free_address()?, free_address()?];
        let cluster = Self { programs: programs.to_owned(), folder, addresses, primary: 0, runtime };
        run(program("mkdir").arg(&cluster.folder))?;
        let mut init = cluster.postgres("initdb");
        init.args(["--username=keyrelay", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"]);
        run(init.arg(cluster.data(0)))?;
        cluster.start_server(0)?;
        cluster.make_standby(1)?;
        Ok(cluster)
    }

    /// Where the servers are.
    #[must_use]
    pub fn addresses(&self) -> [SocketAddr; 2] {
        self.addresses
    }

    /// The number of the primary.
    #[must_use]
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// `pg_ctl stop -m immediate`: the server dies as in a crash.
    ///
    /// # Errors
    /// When it cannot be told to.
    pub fn stop_primary(&self) -> Result<()> {
        self.stop(self.primary)
    }

    /// The same for the standby. The primary confirms no commit until it is back.
    ///
    /// # Errors
    /// When it cannot be told to.
    pub fn stop_standby(&self) -> Result<()> {
        self.stop(1 - self.primary)
    }

    /// Starts the primary again, and waits until the standby follows it.
    ///
    /// # Errors
    /// When it does not start or the standby does not follow.
    pub fn start_primary(&self) -> Result<()> {
        self.start_server(self.primary)?;
        self.wait_in_sync()
    }

    /// Starts the standby again, and waits until it follows.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_standby(&self) -> Result<()> {
        self.start_server(1 - self.primary)?;
        self.wait_in_sync()
    }

    /// Makes the standby the primary. The old one must not run any more: whoever promotes must see to
    /// that. Until there is a standby again, the new primary confirms commits alone.
    ///
    /// # Errors
    /// When it is not promoted.
    pub fn promote(&mut self) -> Result<()> {
        let standby = 1 - self.primary;
        self.control(standby, &["--wait", "promote"])?;
        self.primary = standby;
        Ok(())
    }

    /// Makes the server that is not the primary anew, as its synchronous standby.
    ///
    /// # Errors
    /// When it cannot be made, or does not follow.
    pub fn rebuild_standby(&self) -> Result<()> {
        self.make_standby(1 - self.primary)
    }

    /// Waits until the standby has everything that the primary has confirmed so far, so that it could be
    /// promoted.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn wait_in_sync(&self) -> Result<()> {
        let watch = Stopwatch::start();
        let place = loop {
            match self.ask("SELECT pg_current_wal_flush_lsn()") {
                Ok(Some(place)) => break place,
                Ok(None) => bail!("the primary does not say where it is"),
                Err(error) if watch.elapsed() > SYNC_MAX => return Err(error),
                Err(_) => std::thread::sleep(POLL),
            }
        };
        let sql = format!(
            "SELECT pid::text FROM pg_stat_replication WHERE sync_state = 'sync' AND flush_lsn >= '{place}'"
        );
        while watch.elapsed() < SYNC_MAX {
            if self.ask(&sql)?.is_some() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("the standby does not follow; the logs are in {}", self.folder.display())
    }

    fn make_standby(&self, server: usize) -> Result<()> {
        run(program("rm").arg("-rf").arg(self.data(server)))?;
        let primary = self.addresses[self.primary];
        let mut copy = self.postgres("pg_basebackup");
        copy.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--username=keyrelay"]);
        copy.arg("--host").arg(primary.ip().to_string()).arg("--port").arg(primary.port().to_string());
        run(copy.arg("--pgdata").arg(self.data(server)))?;
        self.expect_no_standby(server)?;
        self.start_server(server)?;
        self.ask(&format!("ALTER SYSTEM SET {STANDBY_SETTING} = '*'"))?;
        self.ask("SELECT pg_reload_conf()::text")?;
        self.wait_in_sync()
    }

    /// A standby takes the setting of its primary along in the copy. It must not, once it is promoted, wait
    /// for a standby of its own that nobody has made yet.
    fn expect_no_standby(&self, server: usize) -> Result<()> {
        let file = self.data(server).join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&file).context("reading postgresql.auto.conf")?;
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(STANDBY_SETTING)).collect();
        // In its place, so that it still belongs to the account of the servers.
        std::fs::write(&file, kept.join("\n") + "\n").context("writing postgresql.auto.conf")
    }

    fn start_server(&self, server: usize) -> Result<()> {
        let address = self.addresses[server];
        let settings = format!(
            "-p {} -c listen_addresses={} -c unix_socket_directories={} -c max_connections=200 -c fsync=off \
             -c shared_buffers=32MB -c wal_retrieve_retry_interval=100ms -c wal_writer_delay=10s",
            address.port(),
            address.ip(),
            self.folder.display(),
        );
        self.control(server, &["--wait", "--options", &settings, "start"])
    }

    fn stop(&self, server: usize) -> Result<()> {
        self.control(server, &["--mode=immediate", "--wait", "stop"])
    }

    fn control(&self, server: usize, arguments: &[&str]) -> Result<()> {
        let mut command = self.postgres("pg_ctl");
        command.arg("--pgdata").arg(self.data(server));
        command.arg("--log").arg(self.folder.join(format!("log-{server}")));
        run(command.arg("--silent").args(arguments))
    }

    /// Asks the primary; the first value of the first row.
    fn ask(&self, sql: &str) -> Result<Option<String>> {
        let address = self.addresses[self.primary];
        let url = format!("host={} port={} user=keyrelay dbname=postgres", address.ip(), address.port());
        let answer = async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            let connection = tokio::spawn(connection);
            let messages = client.simple_query(sql).await;
            drop(client);
            let _ = connection.await;
            anyhow::Ok(messages?.into_iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }))
        };
        self.runtime
            .block_on(async { tokio::time::timeout(QUERY_MAX, answer).await })
            .context("the primary does not answer")?
    }

    fn data(&self, server: usize) -> PathBuf {
        self.folder.join(format!("data-{server}"))
    }

    fn postgres(&self, name: &str) -> Command {
        program(self.programs.join(name))
    }
}

/// A program as the account that the servers run as, not in a folder to which it may have no way.
fn program(name: impl AsRef<Path>) -> Command {
    let name = name.as_ref();
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if is_root { Command::new("runuser") } else { Command::new(name) };
    if is_root {
        command.args(["-u", ACCOUNT, "--"]).arg(name);
    }
    command.current_dir(std::env::temp_dir());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("{name} cannot be started"))?;
    ensure!(output.success(), "{name} failed");
    Ok(())
}
