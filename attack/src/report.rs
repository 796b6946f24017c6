//! The results of a run, as lines for a terminal: one for each row when it ends, with details if the row fails.

use std::fmt;
use std::time::Duration;

use keyrelay_bench::process::Memory;
use keyrelay_bench::report::ms;

use crate::rows::Verdict;
use crate::tenant::Work;

/// The result of one row.
#[derive(Debug)]
pub struct Line {
    /// The row.
    pub name: &'static str,
    /// Whether it holds.
    pub verdict: Verdict,
    /// The memory of the server after it.
    pub memory: Option<Memory>,
    /// The answers that tenant B got.
    pub work: Option<Work>,
    /// How long the attack took.
    pub took: Duration,
}

/// The headings of the lines.
pub const HEADER: &str = "\
row                    verdict    resident      peak  tenant B: answers      p50      p99      max       in  attack";

impl Line {
    /// A row that this run cannot show.
    #[must_use]
    pub fn skipped(name: &'static str, reason: String) -> Self {
        Self { name, verdict: Verdict::Skipped(reason), memory: None, work: None, took: Duration::ZERO }
    }

    /// A row whose scene could not be set.
    #[must_use]
    pub fn unset(name: &'static str, error: &anyhow::Error) -> Self {
        let verdict = Verdict::Fails(format!("the scene could not be set: {error:#}"));
        Self { name, verdict, memory: None, work: None, took: Duration::ZERO }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{} MiB", bytes / (1024 * 1024));
        let memory =
            |bytes: fn(&Memory) -> u64| self.memory.map_or("–".to_owned(), |memory| mib(bytes(&memory)));
        let (resident, peak) = (memory(|memory| memory.resident), memory(|memory| memory.peak));
        let (holds, text) = match &self.verdict {
            Verdict::Holds(text) => ("holds", text),
            Verdict::Fails(text) => ("FAILS", text),
            Verdict::Skipped(text) => ("skipped", text),
        };
        let (answers, times) = match &self.work {
            None => ("–".to_owned(), ["–", "–", "–"].map(str::to_owned)),
            Some(work) => (work.words(), [50, 99, 100].map(|percent| ms(work.grant_quantile(percent)))),
        };
        let [p50, p99, max] = times;
        let took = self.took.as_secs_f64();
        write!(
            out,
            "{:<22} {holds:<8} {resident:>10} {peak:>9}  {answers:<18} {p50:>8} {p99:>8} {max:>8} {took:>6.1} s  {text}",
            self.name
        )
    }
}
