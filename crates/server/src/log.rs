//! The log never fails or delays a request: one thread writes it. Lines wait for that thread, up to a number of bytes.
//! A line above that number, or one that fails to be written, is lost and counted. Panics are counted too. A process
//! has one log, even if it runs several servers, so the counts belong to the process.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use keyrelay_core::limits::{LOG_FLUSH_MAX, LOG_QUEUE_BYTES_MAX};
use keyrelay_core::secret::without_secrets;

static LINES_LOST: AtomicU64 = AtomicU64::new(0);
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Lines on their way to the writer.
#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    /// The memory of the lines, including the one that is being written.
    bytes: usize,
    /// No more lines are accepted.
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// A line was added, or the queue was closed.
    filled: Condvar,
    /// All lines have been written.
    emptied: Condvar,
}

/// The memory that a line takes.
const fn weight(line: &[u8]) -> usize {
    line.len() + size_of::<Box<[u8]>>() + 2 * size_of::<usize>()
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a line, if the queue has room for it.
    fn push(&self, line: &[u8]) -> bool {
        let bytes = weight(line);
        let mut waiting = self.lock();
        if waiting.is_closed || waiting.bytes + bytes > LOG_QUEUE_BYTES_MAX {
            return false;
        }
        waiting.bytes += bytes;
        waiting.lines.push_back(line.into());
        self.filled.notify_one();
        true
    }

    /// The next line; `None` once the queue is closed and empty.
    fn next(&self) -> Option<Box<[u8]>> {
        let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.is_closed;
        let waiting = self.filled.wait_while(self.lock(), is_idle);
        waiting.unwrap_or_else(PoisonError::into_inner).lines.pop_front()
    }

    fn written(&self, line: &[u8]) {
        let mut waiting = self.lock();
        waiting.bytes -= weight(line);
        if waiting.bytes == 0 {
            self.emptied.notify_all();
        }
    }

    /// Stops accepting lines, and waits for a limited time until all have been written.
    fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.filled.notify_one();
        drop(self.emptied.wait_timeout_while(waiting, LOG_FLUSH_MAX, |waiting| waiting.bytes > 0));
    }
}

/// A log, written as long as this lives. When dropped, it waits at most [`LOG_FLUSH_MAX`] for the last lines.
#[derive(Debug)]
pub struct Log(Arc<Queue>);

impl Log {
    /// Starts the thread that writes the log.
    ///
    /// # Errors
    ///
    /// The system failed to start a thread.
    pub fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let taken = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            while let Some(line) = taken.next() {
                if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                    LINES_LOST.fetch_add(1, Ordering::Relaxed);
                }
                taken.written(&line);
            }
        })?;
        Ok(Self(queue))
    }

    /// Where lines are put.
    #[must_use]
    pub fn writer(&self) -> LogWriter {
        LogWriter(Arc::clone(&self.0))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The writer of a [`Log`]. Each write is one line. A write never fails, and never waits for the reader of the log.
#[derive(Clone, Debug)]
pub struct LogWriter(Arc<Queue>);

impl Write for LogWriter {
    /// Accepts the whole line; a line without room is lost.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.0.push(line) {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs and counts every panic of the process. Without this, panics are printed and do not reach the log.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let cause = without_secrets(panic.payload_as_str().unwrap_or("unknown"));
        let thread = std::thread::current();
        tracing::error!(place, %cause, thread = thread.name(), "a part of the server panicked");
    }));
}

/// The number of lost lines.
pub(crate) fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Panics that were logged.
pub(crate) fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, pipe};

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
        let log = Log::start(Full).unwrap();
        log.writer().write_all(b"a line\n").unwrap();
        log.writer().flush().unwrap();
        drop(log);
        assert!(lines_lost() > before);
    }

    #[test]
    fn all_lines_are_written_in_order_before_the_log_ends() {
        let (mut reader, out) = pipe().unwrap();
        let log = Log::start(out).unwrap();
        let mut late = log.writer();
        for n in 0..1000 {
            late.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        drop(log);
        let before = lines_lost();
        late.write_all(b"after the end").unwrap();
        assert!(lines_lost() > before);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n'));
        assert!(text.lines().eq((0..1000).map(|n| n.to_string())), "{text}");
    }

    #[test]
    fn unread_lines_wait_up_to_a_bound_and_delay_nobody() {
        let (reader, out) = pipe().unwrap();
        let log = Log::start(out).unwrap();
        let line = |n: usize| format!("{n} {}\n", "x".repeat(1000));
        // More than the pipe and the queue take; the number that both take depends on the pipe.
        let kept: Vec<usize> =
            (0..2 * LOG_QUEUE_BYTES_MAX / 1000).filter(|n| log.0.push(line(*n).as_bytes())).collect();
        assert!(kept.len() < 2 * LOG_QUEUE_BYTES_MAX / 1000, "no bound");
        assert!(kept.len() > LOG_QUEUE_BYTES_MAX / 1200, "{}", kept.len());
        assert!(log.0.lock().bytes <= LOG_QUEUE_BYTES_MAX);
        let mut lines = BufReader::new(reader).lines();
        for n in &kept {
            assert_eq!(format!("{}\n", lines.next().unwrap().unwrap()), line(*n), "kept lines come in order");
        }
        assert!(log.0.push(b"room again\n"));
        assert_eq!(lines.next().unwrap().unwrap(), "room again");
        assert!(!log.0.push(&vec![b'x'; LOG_QUEUE_BYTES_MAX]), "one line that is heavier than all");
    }

    #[test]
    fn the_end_waits_for_the_reader_of_the_log_up_to_a_time() {
        let (reader, out) = pipe().unwrap();
        let log = Log::start(out).unwrap();
        let line = "x".repeat(1000);
        while log.0.push(line.as_bytes()) {}
        drop(log);
        drop(reader);
    }
}
