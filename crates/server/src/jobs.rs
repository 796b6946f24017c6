//! Jobs that run beside the requests for as long as the server does. A job that panics, or ends without being asked
//! to, is reported and restarted.

use keyrelay_core::limits::JOB_RESTART_PAUSE;
use keyrelay_core::survive::survive_waiting;
use tokio::sync::watch;
use tokio::time::sleep;

/// Runs a job until the server drains.
pub(crate) async fn keep_running<F: Future<Output = ()>>(
    name: &'static str,
    draining: watch::Receiver<bool>,
    start: impl Fn() -> F,
) {
    loop {
        let ended = survive_waiting(start()).await;
        // If the sender is gone, the server has ended too.
        if *draining.borrow() || draining.has_changed().is_err() {
            return;
        }
        let why = if ended.is_err() { "it panicked" } else { "it ended" };
        tracing::error!(job = name, why, "a job of the server stopped; restarting it");
        sleep(JOB_RESTART_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_that_stops_starts_again_until_the_server_drains() {
        let (drain, draining) = watch::channel(false);
        let turns = Cell::new(0);
        let (turns, drain) = (&turns, &drain);
        keep_running("of this test", draining, || async move {
            turns.set(turns.get() + 1);
            match turns.get() {
                1 => panic!("of this test"),
                2 => {}
                _ => {
                    drain.send_replace(true);
                }
            }
        })
        .await;
        assert_eq!(turns.get(), 3);
    }
}
