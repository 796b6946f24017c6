//! The table at the end.

use std::time::Duration;

use super::fleet::Counts;
use crate::say::say;

/// What happened.
#[derive(Debug)]
pub struct Report {
    /// What the fleet counted.
    pub counts: Counts,
    /// From the rotation to the end of the old secret.
    pub until_retired: Duration,
    /// How often the old secret was accepted after it had been retired.
    pub accepted_after: usize,
    /// How many workers there were.
    pub workers: u16,
}

impl Report {
    /// Whether nobody was refused who should not have been, and nobody let in who should not.
    pub fn is_good(&self) -> bool {
        self.counts.requests > 0 && self.counts.refused == 0 && self.accepted_after == 0
    }

    /// Prints the table.
    pub fn print(&self) {
        let rows = [
            ("workers", self.workers.to_string()),
            ("requests", self.counts.requests.to_string()),
            ("refused", format!("{} (must be 0)", self.counts.refused)),
            ("old secret accepted after retiring", format!("{} (must be 0)", self.accepted_after)),
            ("p50", milliseconds(self.percentile(50))),
            ("p99", milliseconds(self.percentile(99))),
            ("from rotate to retire", format!("{:.1} s", self.until_retired.as_secs_f64())),
        ];
        say!("");
        for (name, value) in rows {
            say!("  {name:<36}{value:>18}");
        }
        let verdict = if self.is_good() { "Nobody was locked out." } else { "SOMETHING WENT WRONG." };
        say!("\n  {verdict}");
    }

    fn percentile(&self, percent: usize) -> Duration {
        let last = self.counts.sorted.len().saturating_sub(1);
        self.counts.sorted.get(last * percent / 100).copied().unwrap_or_default()
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}
