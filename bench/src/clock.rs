//! The one place of this crate that reads the machine's clocks.
//!
//! The product takes its clock as a parameter so that a run can be repeated. A measurement is the opposite:
//! it is about this machine and this moment, and has nothing to inject.
#![allow(
    clippy::disallowed_methods,
    reason = "measuring is reading the real clock; all other files of the crate call these functions"
)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since `start`.
#[must_use]
pub fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// Whole seconds since 1970, for the `iat` of a token. A clock before 1970 reads as 0.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
