//! The log is beside every request, so it fails none of them: a line that cannot be written is lost and counted,
//! and so is a panic. A process has one log, whatever number of servers it runs, so the counts are its own.

use std::io::{self, Stderr, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use keyrelay_core::secret::without_secrets;

static LINES_LOST: AtomicU64 = AtomicU64::new(0);
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Standard error, as a place that never fails.
#[derive(Debug)]
pub struct LogWriter<W>(W);

impl LogWriter<Stderr> {
    /// Writes to standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self(io::stderr())
    }
}

impl<W: Write> Write for LogWriter<W> {
    /// Takes all of a line, whether it can be written or not.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.write_all(line).is_err() {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Has every panic of the process logged and counted. Without this, it is only printed, past the log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let cause = without_secrets(panic.payload_as_str().unwrap_or("unknown"));
        let thread = std::thread::current();
        tracing::error!(place, %cause, thread = thread.name(), "a part of the server panicked");
    }));
}

/// Lines that could not be written.
pub(crate) fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Panics that were logged.
pub(crate) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Like a full disk.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_fails_nothing() {
        let before = lines_lost();
        let mut log = LogWriter(Full);
        log.write_all(b"a line\n").unwrap();
        log.flush().unwrap();
        assert_eq!(lines_lost(), before + 1);
        let mut log = LogWriter(Vec::new());
        log.write_all(b"a line\n").unwrap();
        assert_eq!(log.0, b"a line\n");
        assert_eq!(lines_lost(), before + 1);
    }
}
