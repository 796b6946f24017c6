//! The servers: the real binary, each with a data directory, a port and ways to the database of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::clock::Stopwatch;
use crate::proxy::Proxy;

/// How long a server may take from its start to its first line.
const START_MAX: Duration = Duration::from_mins(1);
/// The pause before a server that ended at its start is started again, as a supervisor does.
const START_PAUSE: Duration = Duration::from_millis(200);

/// What all servers share.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The binary.
    pub binary: PathBuf,
    /// A folder for everything that is written, the master key in it.
    pub folder: PathBuf,
    /// The base URL of all.
    pub base_url: String,
}

/// One server.
#[derive(Debug)]
pub struct Node {
    installation: Installation,
    number: usize,
    address: SocketAddr,
    /// The ways to the database servers.
    pub proxies: Vec<Proxy>,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Installation {
    /// Makes the master key that all servers share.
    ///
    /// # Errors
    /// When the binary cannot make it.
    pub fn make_master_key(&self) -> Result<()> {
        let made = self.command().arg("master-key").arg(self.master_key()).stdout(Stdio::null()).status()?;
        ensure!(made.success(), "`keyrelay master-key` failed");
        Ok(())
    }

    fn master_key(&self) -> PathBuf {
        self.folder.join("master.key")
    }

    /// The binary without any setting of ours in its environment.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEYRELAY_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).current_dir(&self.folder);
        // A few clients of one project rotate as fast as they can, for as long as the run takes.
        command.env("KEYRELAY_CLIENT_CHANGE_RATE", "off").env("KEYRELAY_PROJECT_CHANGE_RATE", "off");
        command
    }
}

/// A port of this machine that is free now.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Node {
    /// A server that is not started yet. It reaches the database by `proxies`.
    #[must_use]
    pub fn new(installation: Installation, number: usize, address: SocketAddr, proxies: Vec<Proxy>) -> Self {
        Self { installation, number, address, proxies, process: None }
    }

    /// `http://IP:PORT/`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.installation.folder.join(format!("node-{}", self.number))
    }

    /// Where the server logs to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.installation.folder.join(format!("node-{}.log", self.number))
    }

    fn database_url(&self) -> String {
        let hosts: Vec<String> = self.proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        format!("postgres://keyrelay@{}/postgres", hosts.join(","))
    }

    /// Starts the server, again and again while it ends by itself, and waits until it listens.
    ///
    /// # Errors
    /// When it does not listen within a minute.
    pub fn start(&mut self) -> Result<()> {
        let watch = Stopwatch::start();
        while watch.elapsed() < START_MAX {
            if self.start_once()? {
                return Ok(());
            }
            std::thread::sleep(START_PAUSE);
        }
        bail!("node {} did not start; its log is {}", self.number, self.log().display())
    }

    /// True once the server listens, false if it ended.
    fn start_once(&mut self) -> Result<bool> {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut child = self
            .installation
            .command()
            .arg("serve")
            .env("KEYRELAY_LISTEN", self.address.to_string())
            .env("KEYRELAY_BASE_URL", &self.installation.base_url)
            .env("KEYRELAY_DATA_DIR", self.data_dir())
            .env("KEYRELAY_DATABASE_URL", self.database_url())
            .env("KEYRELAY_MASTER_KEY_FILE", self.installation.master_key())
            .env("KEYRELAY_LOG", "warn")
            .env("KEYRELAY_LOG_FORMAT", "json")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting a server")?;
        let out = child.stdout.take().context("the output of a server")?;
        self.process = Some(child);
        // The pipe ends with the server, if it says nothing before.
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        Ok(line.starts_with("keyrelay listening"))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Whether the server is still there.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Writes a line into the log of the server, to find what went on when.
    pub fn mark(&self, text: &str) {
        if let Ok(mut log) = File::options().create(true).append(true).open(self.log()) {
            let _ = writeln!(log, "---- {text}");
        }
    }
}

/// The credentials of the Super Admin and its project, from the data directory of the first server.
///
/// # Errors
/// When the file is not there or is not what it should be.
pub fn bootstrap(data_dir: &Path) -> Result<(String, String, String)> {
    let text = std::fs::read_to_string(data_dir.join("bootstrap.json")).context("reading bootstrap.json")?;
    let first: serde_json::Value = serde_json::from_str(&text)?;
    let text_of = |name: &str| first[name].as_str().map(str::to_owned).context("a member of bootstrap.json");
    Ok((text_of("clientId")?, text_of("clientSecret")?, text_of("projectId")?))
}
