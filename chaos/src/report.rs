//! What a run came to, in words, and whether that is good.

use std::fmt;
use std::time::Duration;

use crate::checker::{check, explain};
use crate::clients::Fleet;
use crate::faults::{Fault, Kind};

/// How long after the database is back every server must answer.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Texts of one kind that are shown.
const SHOWN: usize = 10;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    operations: usize,
    answers: Vec<String>,
    longest: Duration,
    faults: Vec<Fault>,
    violations: Vec<String>,
    unexpected: Vec<String>,
    lost: Vec<String>,
    late: Vec<String>,
    ended: Vec<String>,
}

impl Report {
    /// Checks every history, and sums up. `lost` are the secrets that were not where they should be in the
    /// end, `ended` the servers that ended by themselves.
    #[must_use]
    pub fn new(fleet: &Fleet, faults: Vec<Fault>, lost: Vec<String>, ended: Vec<String>) -> Self {
        let (mut operations, mut violations) = (0, Vec::new());
        for (n, subject) in fleet.subjects.iter().enumerate() {
            let history = subject.history();
            operations += history.len();
            if let Err(violation) = check(0, &history) {
                violations.push(format!("client {n}: {}", explain(&history, &violation)));
            }
        }
        let tally = fleet.tally();
        let answers =
            tally.answers.iter().map(|((call, word), count)| format!("{call:<13} {word:<18} {count:>8}"));
        let late = faults.iter().filter(|fault| !is_in_time(fault)).map(|fault| {
            let from = fault.began.as_secs_f64();
            format!("{} at {from:.1} s: {:?}", fault.kind.as_str(), recovery(fault))
        });
        Self {
            operations,
            answers: answers.collect(),
            longest: tally.longest,
            late: late.collect(),
            faults,
            violations,
            unexpected: tally.unexpected.clone(),
            lost,
            ended,
        }
    }

    /// Whether everything held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        [&self.violations, &self.unexpected, &self.lost, &self.late, &self.ended]
            .iter()
            .all(|found| found.is_empty())
    }
}

fn recovery(fault: &Fault) -> Option<Duration> {
    fault.recovered.map(|recovered| recovered.saturating_sub(fault.healed))
}

fn is_in_time(fault: &Fault) -> bool {
    recovery(fault).is_some_and(|time| time < RECOVERY_MAX)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<46}{:>6}  {:>10}  {:>10}", "fault", "times", "recovery", "at most")?;
        for kind in Kind::ALL {
            let mut times: Vec<Duration> =
                self.faults.iter().filter(|fault| fault.kind == kind).filter_map(recovery).collect();
            times.sort_unstable();
            let count = self.faults.iter().filter(|fault| fault.kind == kind).count();
            let seconds = |time: Option<&Duration>| {
                time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
            };
            let (median, most) = (seconds(times.get(times.len() / 2)), seconds(times.last()));
            writeln!(f, "{:<46}{count:>6}  {median:>10}  {most:>10}", kind.as_str())?;
        }
        writeln!(f, "\nanswers")?;
        for line in &self.answers {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "  the longest wait for one: {:.1} s", self.longest.as_secs_f64())?;
        writeln!(f, "\noperations checked        {:>8}", self.operations)?;
        for (title, found) in [
            ("not linearizable", &self.violations),
            ("secrets lost", &self.lost),
            ("unexpected answers", &self.unexpected),
            ("recoveries of 10 s or more", &self.late),
            ("nodes ended by themselves", &self.ended),
        ] {
            writeln!(f, "{title:<26}{:>8}", found.len())?;
            for text in found.iter().take(SHOWN) {
                writeln!(f, "  {text}")?;
            }
        }
        Ok(())
    }
}
