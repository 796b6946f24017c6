//! What the demonstration shows while it runs: a live line in a terminal, plain lines elsewhere.

use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::fleet::Totals;
use crate::say::say;
use crate::stopwatch::Stopwatch;

/// How often the live line is drawn again.
const REDRAW: Duration = Duration::from_millis(100);

/// The screen.
#[derive(Debug)]
pub struct Screen {
    bar: ProgressBar,
    started: Stopwatch,
}

impl Screen {
    /// Starts with an empty live line. Without a terminal there is none.
    pub fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}{prefix}") {
            bar.set_style(style);
        }
        Self { bar, started: Stopwatch::start() }
    }

    /// Says something that stays.
    pub fn say(&self, text: &str) {
        let line = format!("{:>6.1} s  {text}", self.started.elapsed().as_secs_f64());
        if self.bar.is_hidden() { say!("{line}") } else { self.bar.println(line) }
    }

    /// Says that a worker has the new secret.
    pub fn moved(&self, totals: &Totals, moved: usize, all: usize) {
        self.bar.set_prefix(format!(", {moved} of {all} workers have the new one"));
        if moved == 1 || moved == all || self.bar.is_hidden() {
            let uses = totals.old_uses.load(Ordering::Relaxed);
            self.say(&format!(
                "{moved} of {all} workers have the new secret; the old one is used {uses} times a second."
            ));
        }
    }

    /// Shows the counts for a while.
    pub async fn watch(&self, totals: &Totals, period: Duration) {
        let watching = Stopwatch::start();
        loop {
            let (requests, refused) =
                (totals.requests.load(Ordering::Relaxed), totals.refused.load(Ordering::Relaxed));
            let uses = totals.old_uses.load(Ordering::Relaxed);
            self.bar.set_message(format!(
                "{requests} requests, {refused} refused; old secret used {uses} times a second"
            ));
            self.bar.tick();
            let left = period.saturating_sub(watching.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(REDRAW)).await;
        }
    }

    /// Removes the live line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
