//! How long an account waits after wrong passwords or codes. A few mistakes are free; then each one
//! doubles the wait, up to a bound, so that guessing is hopeless and nobody is shut out for good.

use std::time::Duration;

use crate::limits::{LOGIN_FAILURES_FREE, LOGIN_WAIT_FIRST, LOGIN_WAIT_MAX};
use crate::time::Timestamp;

/// Until when an account accepts nothing, after so many failures in a row, the last of them then.
#[must_use]
pub fn locked_until(failures: u32, last_failure: Option<Timestamp>) -> Option<Timestamp> {
    let beyond = failures.checked_sub(LOGIN_FAILURES_FREE)?;
    let wait = LOGIN_WAIT_FIRST.saturating_mul(1_u32.checked_shl(beyond).unwrap_or(u32::MAX));
    Some(last_failure?.plus(wait.min(LOGIN_WAIT_MAX)))
}

/// How long an account must still wait at a moment; `None` if it need not.
#[must_use]
pub fn wait(failures: u32, last_failure: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let until = locked_until(failures, last_failure)?;
    (now < until).then(|| until.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: Timestamp = Timestamp::from_epoch_ms(1_000_000);

    #[test]
    fn a_few_failures_are_free_then_the_wait_doubles_up_to_a_bound() {
        let after = |failures| wait(failures, Some(THEN), THEN);
        assert_eq!(after(LOGIN_FAILURES_FREE - 1), None);
        assert_eq!(after(LOGIN_FAILURES_FREE), Some(LOGIN_WAIT_FIRST));
        assert_eq!(after(LOGIN_FAILURES_FREE + 3), Some(LOGIN_WAIT_FIRST * 8));
        for many in [20, 31, 32, 33, 100, u32::MAX] {
            assert_eq!(after(many), Some(LOGIN_WAIT_MAX), "{many}");
        }
        assert_eq!(wait(u32::MAX, Some(THEN), THEN.plus(LOGIN_WAIT_MAX)), None);
    }
}
