//! The one place of this crate that reads the machine's clock: how long real processes take to recover
//! is not something to inject.
#![allow(clippy::disallowed_methods, reason = "all other files of the crate call these functions")]

use std::time::{Duration, Instant};

/// Time since a moment at the start of the run.
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
