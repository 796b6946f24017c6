//! A PostgreSQL server for one run of the tests: made in a temporary folder, reached over loopback only,
//! and gone with everything in it when the run ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{program, run, works};

/// Where Debian keeps the programs of each major version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Whose server it is when we are root, as whom PostgreSQL does not run.
const ACCOUNT: &str = "postgres";

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// As in earnest. `TMPDIR` should be on a disk.
    Waited,
    /// Nothing is meant to survive.
    NotWaited,
}

/// A server that runs. It ends when this is dropped.
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
}

/// The folder of the newest version that is installed.
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .map(|version| version.path())
        .filter(|version| version.join("bin/initdb").exists())
        .max_by_key(|version| number(version))
        .map(|version| version.join("bin"))
}

fn is_root() -> bool {
    program("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// A program as the account that the server runs as.
fn as_server(name: impl AsRef<Path>) -> Command {
    let name = name.as_ref();
    // Not in the workspace: the account may have no way there.
    if !is_root() {
        let mut command = Command::new(name);
        command.current_dir(std::env::temp_dir());
        return command;
    }
    let mut command = Command::new("runuser");
    command.args(["-u", ACCOUNT, "--"]).arg(name).current_dir(std::env::temp_dir());
    command
}

impl Server {
    /// Makes a server and starts it.
    pub fn start(disk: Disk) -> Result<Self, String> {
        let programs =
            programs().ok_or("PostgreSQL is not installed; `apt-get install postgresql` adds it")?;
        let folder = std::env::temp_dir().join(format!("keyrelay-postgres-{}", std::process::id()));
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
        let port = port.map_err(|error| format!("there is no free port: {error}"))?.port();
        let server = Self { programs, folder, port };
        run(as_server("mkdir").arg(&server.folder))?;
        run(as_server(server.programs.join("initdb"))
            .args(["--username=keyrelay", "--auth=trust", "--encoding=UTF8", "--no-sync", "--pgdata"])
            .arg(server.data()))?;
        let fsync = if disk == Disk::Waited { "on" } else { "off" };
        let settings = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c max_connections=400 -c fsync={fsync}",
            server.folder.display()
        );
        server.control(&["--wait", "--options", &settings, "start"])?;
        Ok(server)
    }

    /// The URL of a database on it.
    pub fn url(&self) -> String {
        format!("postgres://keyrelay@127.0.0.1:{}/postgres", self.port)
    }

    /// Another program of the same version.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn control(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = as_server(self.programs.join("pg_ctl"));
        command.arg("--pgdata").arg(self.data()).arg("--log").arg(self.folder.join("log"));
        run(command.args(["--silent"]).args(arguments))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() || is_root() {
            let _ = self.control(&["--mode=immediate", "stop"]);
        }
        works(as_server("rm").arg("-rf").arg(&self.folder));
    }
}
