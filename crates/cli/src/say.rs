//! The output of commands, on standard output and standard error. A line that fails to be written does not stop the
//! work: the command finishes, and then ends with an error. A closed pipe, as after `head`, is not an error.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The error of the first line that failed to be written.
static FAILURE: OnceLock<String> = OnceLock::new();
/// Whether the reader of standard output has gone.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// Like `println!`, but never panics.
macro_rules! say {
    ($($said:tt)*) => { $crate::say::line(format_args!($($said)*)) };
}
/// Like `eprintln!`, with the program's name before it, but never panics.
macro_rules! complain {
    ($($said:tt)*) => { $crate::say::warning(format_args!($($said)*)) };
}
pub(crate) use {complain, say};

/// Writes a line to standard output.
pub fn line(line: Arguments<'_>) {
    note("standard output", &writeln!(stdout(), "{line}"));
}

/// Writes bytes to standard output.
pub fn bytes(bytes: &[u8]) {
    note("standard output", &stdout().write_all(bytes));
}

/// Writes a line to standard error.
pub fn warning(line: Arguments<'_>) {
    note("standard error", &writeln!(stderr(), "keyrelay: {line}"));
}

/// The first failure to write, if any. Call it at the end of a command.
pub fn failure() -> Option<&'static str> {
    note("standard output", &stdout().flush());
    FAILURE.get().map(String::as_str)
}

/// Whether more output is useless: for commands that only print.
pub fn is_over() -> bool {
    IS_UNREAD.load(Ordering::Relaxed) || FAILURE.get().is_some()
}

fn note(to: &str, written: &io::Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            if to == "standard output" {
                IS_UNREAD.store(true, Ordering::Relaxed);
            }
        }
        Err(error) => {
            FAILURE.get_or_init(|| format!("cannot write to {to}: {error}"));
        }
    }
}
