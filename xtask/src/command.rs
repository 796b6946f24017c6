//! Running other programs: found, started in the workspace, bounded in time, and named when they fail.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::steps::Stopwatch;

/// No program that a task starts may take longer.
const TIME_MAX: Duration = Duration::from_hours(1);
const POLL: Duration = Duration::from_millis(20);

/// The cargo that runs this program.
pub fn cargo() -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// A program, started in the root of the workspace.
pub fn program(name: impl Into<OsString>) -> Command {
    let mut command = Command::new(name.into());
    command.current_dir(root());
    command
}

/// The root of the workspace: the parent of this crate when cargo runs it, else the current folder.
pub fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .and_then(|dir| Path::new(&dir).parent().map(Path::to_owned))
        .unwrap_or_else(|| PathBuf::from("."))
}

/// The folder cargo builds into: the one that this program was built into, two levels up.
pub fn target_dir() -> Result<PathBuf, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("the place of this program is unknown: {error}"))?;
    program
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .ok_or_else(|| "this program is not in a folder that cargo builds into".to_owned())
}

/// Runs the program to its end, its output going where ours goes.
///
/// The error names the program and its arguments.
pub fn run(command: &mut Command) -> Result<(), String> {
    let shown = shown(command);
    println!("    {shown}");
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("`{shown}` cannot be started: {error}"))?;
    let watch = Stopwatch::start();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("`{shown}` failed ({status})")),
            Ok(None) if watch.elapsed() < TIME_MAX => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`{shown}` was ended after {} s", TIME_MAX.as_secs()));
            }
            Err(error) => return Err(format!("`{shown}` was lost: {error}")),
        }
    }
}

/// Whether the program is there and succeeds, its output thrown away.
pub fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program());
    let mut text = name.file_name().unwrap_or(name.as_os_str()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
