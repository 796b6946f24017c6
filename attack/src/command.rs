//! Commands of the binary: run to their end, with a time limit and with their memory measured.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use keyrelay_bench::process::memory_of;

use crate::clock::Stopwatch;

/// The pause between two checks of a command.
const POLL: Duration = Duration::from_millis(5);
/// How much output of a command is kept.
const SAID_BYTES_MAX: u64 = 64 * 1024;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if it was killed at its time limit.
    pub status: Option<ExitStatus>,
    /// Its output, on both streams.
    pub said: String,
    /// The most memory that was measured, in bytes.
    pub peak: u64,
}

impl Ended {
    /// Whether it ended by itself and with success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Whether it ended with a regular exit code: no panic, no signal, no time limit.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        // A panic ends a Rust program with 101.
        self.status.and_then(|status| status.code()).is_some_and(|code| code != 101)
    }

    /// A short description.
    #[must_use]
    pub fn words(&self) -> String {
        let said: String = self.said.trim().chars().take(200).collect();
        let said = said.replace(['\n', '\r'], " ");
        match self.status {
            None => format!("did not end in time: {said}"),
            Some(status) => format!("{status}: {said}"),
        }
    }
}

/// A running command. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).spawn().context("starting a command")?))
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end, up to a time.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&mut self, at_most: Duration) -> Result<(Option<ExitStatus>, u64)> {
        let (watch, mut peak) = (Stopwatch::start(), 0);
        loop {
            peak = peak.max(memory_of(self.0.id()).map_or(0, |memory| memory.peak));
            if let Some(status) = self.0.try_wait()? {
                return Ok((Some(status), peak));
            }
            if watch.elapsed() > at_most {
                return Ok((None, peak));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Runs a command to its end, or up to its time limit. Its output goes to files in `scratch` first, so that it never
/// waits for a pipe.
///
/// # Errors
/// When it cannot be run.
pub fn run(mut command: Command, scratch: &Path, at_most: Duration) -> Result<Ended> {
    let mut out = tempfile::tempfile_in(scratch)?;
    command.stdout(out.try_clone()?).stderr(out.try_clone()?);
    let (status, peak) = Running::start(&mut command)?.wait(at_most)?;
    let mut said = Vec::new();
    std::io::Seek::rewind(&mut out)?;
    out.take(SAID_BYTES_MAX).read_to_end(&mut said)?;
    Ok(Ended { status, said: String::from_utf8_lossy(&said).into_owned(), peak })
}
