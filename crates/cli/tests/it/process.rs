//! A `keyrelay serve` of one's own, on a free port, stopped by its own handle.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

pub const BINARY: &str = env!("CARGO_BIN_EXE_keyrelay");

/// A command with nothing of the surroundings in it. A long run may name another binary, built for release.
pub fn keyrelay() -> Command {
    let mut command = Command::new(std::env::var("KEYRELAY_TEST_BINARY").as_deref().unwrap_or(BINARY));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A server that listens.
pub struct Process {
    child: Child,
    pub base: String,
    /// Kept open, so that the process can write to it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a server on a data directory and waits until it says that it listens.
    pub async fn start(data_dir: &Path) -> Self {
        let mut command = keyrelay();
        command.env("KEYRELAY_LOG", "warn");
        Self::start_with(command, data_dir).await
    }

    /// Like [`Process::start`], with a log at `trace` in a file.
    pub async fn start_logging(data_dir: &Path, log: &Path) -> Self {
        let mut command = keyrelay();
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.env("KEYRELAY_LOG", "trace").stderr(log);
        Self::start_with(command, data_dir).await
    }

    /// Starts a server by a command that has its variables already.
    pub async fn start_with(mut command: Command, data_dir: &Path) -> Self {
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Where standard error is a pipe, nobody reads it.
        drop(child.stderr.take());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("the server says that it listens");
        let base = line.strip_prefix("keyrelay listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, base, _stdout: lines }
    }

    /// Sends `SIGHUP`.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// `kill -9`, and the end of the process.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// `SIGTERM`, and the exit code.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().await.unwrap()
    }
}

/// The first client's credentials, as `(id, secret)`.
pub fn bootstrap(data_dir: &Path) -> (String, String) {
    let file: Value =
        serde_json::from_slice(&std::fs::read(data_dir.join("bootstrap.json")).unwrap()).unwrap();
    let text = |name: &str| file[name].as_str().unwrap().to_owned();
    (text("clientId"), text("clientSecret"))
}

/// A client that knows no proxy.
pub fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_mins(1)).build().unwrap()
}

/// Asks for a token, and gives the status.
pub async fn grant(http: &reqwest::Client, base: &str, id: &str, secret: &str) -> u16 {
    let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
    http.post(format!("{base}oauth2/token")).form(&form).send().await.unwrap().status().as_u16()
}

/// The input of `$rotate-secret`.
pub fn parameters(name: &str, value: &str) -> Value {
    json!({ "resourceType": "Parameters", "parameter": [{ "name": name, "valueString": value }] })
}
