//! The only place of this crate that reads the machine's clock. How long a caller waited for an answer cannot be
//! injected.
#![allow(clippy::disallowed_methods, reason = "all other files of the crate call these functions")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since a moment.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Whole seconds since 1970, for the claims of an assertion. A clock before 1970 reads as 0.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
