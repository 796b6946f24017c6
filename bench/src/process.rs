//! A server as a child process: started, found by the line it prints, looked at, and ended by its own id.
//!
//! The real binaries are measured, not functions of theirs. A child never outlives its value here.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock;
use crate::http::{self, Target};

const START_WAIT: Duration = Duration::from_mins(2);
const STOP_WAIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    target: Target,
    started_in: Duration,
}

/// Memory of a process, in bytes, as the kernel counts it.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub resident: u64,
    /// The most that was ever resident (`VmHWM`).
    pub peak: u64,
}

/// The memory of a process.
///
/// # Errors
/// When it is gone.
pub fn memory_of(process: u32) -> Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))
        .context("reading the memory of a process")?;
    Ok(Memory { resident: kilobytes(&status, "VmRSS:")? * 1024, peak: kilobytes(&status, "VmHWM:")? * 1024 })
}

impl Server {
    /// Starts `command` and waits until it has printed a line with its address and answers its health check with 200.
    /// What it writes to standard error goes to the file `log`.
    ///
    /// # Errors
    /// When it does not start, ends early, or is not healthy within two minutes.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log_file = File::create(log).context("making the log file of the server")?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(log_file));
        let start = clock::now();
        let child = command.spawn().context("starting the server")?;
        // From here on, dropping this value ends the process, whatever fails.
        let mut server =
            Self { child, target: Target::new(([127, 0, 0, 1], 0).into())?, started_in: Duration::ZERO };
        server.target = server
            .announced()
            .with_context(|| format!("the server did not start; its log ends with:\n{}", tail(log)))?;
        server.wait_until_healthy(start)?;
        server.started_in = clock::since(start);
        Ok(server)
    }

    /// The id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target
    }

    /// From the start of the process to the first good answer of the health check.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// # Errors
    /// When the process is gone.
    pub fn memory(&self) -> Result<Memory> {
        memory_of(self.child.id())
    }

    /// Asks the server to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it does not end within 30 seconds, or not with success.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let asked = clock::now();
        while clock::since(asked) < STOP_WAIT {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the server ended with {status}");
            }
            std::thread::sleep(POLL);
        }
        bail!("the server did not end within {} seconds of SIGTERM", STOP_WAIT.as_secs());
    }

    fn announced(&mut self) -> Result<Target> {
        let stdout = self.child.stdout.take().context("no standard output")?;
        let (send, receive) = mpsc::channel();
        // Reads on after the line, so that the server never blocks on a full pipe. Ends with the server.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, url)) = line.split_once("listening on ") {
                    let _ = send.send(url.trim().to_owned());
                }
            }
        });
        let url = receive.recv_timeout(START_WAIT).context("it printed no line with its address")?;
        Target::parse(&url)
    }

    fn wait_until_healthy(&self, start: Instant) -> Result<()> {
        while clock::since(start) < START_WAIT {
            let answer = http::request(self.target, "GET", "/healthcheck", &[], b"");
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("the server was not healthy within {} seconds", START_WAIT.as_secs());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn kilobytes(status: &str, name: &str) -> Result<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("the kernel reports no {name}"))
}

/// The last lines of a log, for an error text.
pub(crate) fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_own_lines() -> Result<()> {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kilobytes(status, "VmRSS:")?, 1024);
        assert_eq!(kilobytes(status, "VmHWM:")?, 2048);
        assert!(kilobytes(status, "VmSwap:").is_err());
        Ok(())
    }
}
