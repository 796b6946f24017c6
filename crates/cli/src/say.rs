//! What commands say, on standard output and standard error. A line that cannot be written stops nothing half-way: the
//! work is done, and the command ends with an error afterwards. Whoever reads may also have gone away, as `head` does;
//! that is no error.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write, stderr, stdout};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why the first line that could not be written could not be.
static FAILURE: OnceLock<String> = OnceLock::new();
/// Whether nobody reads standard output any more.
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

/// What could not be written, if anything. To be asked for at the end.
pub fn failure() -> Option<&'static str> {
    note("standard output", &stdout().flush());
    FAILURE.get().map(String::as_str)
}

/// Whether there is no use in saying more: for commands that do nothing else.
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
