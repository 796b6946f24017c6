//! What goes wrong in a run, and when: all of it from one seed.

use std::time::Duration;

use tokio::time::Instant;

/// What goes wrong with one thing that the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It takes its time.
    Slow(Duration),
    /// It is refused, with this `SQLSTATE`.
    Error(&'static str),
    /// The connection is cut before it is done, or when it is done and the answer is on its way.
    CutBefore,
    CutAfter,
    /// Nothing is heard any more, and nothing is closed.
    SilenceBefore,
    SilenceAfter,
}

/// Serialization, deadlock, too many connections, disk full, cancelled, shut down.
const ERRORS: [&str; 6] = ["40001", "40P01", "53300", "53100", "57014", "57P01"];

/// Numbers from a seed (`SplitMix64`): enough to choose by, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number below `n`.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }

    pub(super) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Faults {
    dice: Dice,
    /// How many of a hundred things go wrong, and how many of those by each sort of fault.
    percent: u64,
    sorts: [u64; 4],
    /// What goes wrong whatever the dice say, once each, and with what.
    planned: Vec<(&'static str, Fault)>,
    quiet_from: Instant,
}

impl Faults {
    /// Faults until `quiet_from`. Some runs have few, some many, some of one sort mostly.
    pub(super) fn new(seed: u64, quiet_from: Instant) -> Self {
        let mut dice = Dice(seed);
        let percent = [0, 3, 10, 30][usize::try_from(dice.below(4)).unwrap_or(0)];
        let sorts = std::array::from_fn(|_| dice.below(4));
        Self { dice, percent, sorts, planned: Vec::new(), quiet_from }
    }

    /// Nothing goes wrong but this, in this order, each with the next thing of its name.
    pub(super) fn planned(planned: Vec<(&'static str, Fault)>, quiet_from: Instant) -> Self {
        Self { dice: Dice(0), percent: 0, sorts: [0; 4], planned, quiet_from }
    }

    pub(super) const fn quiet_from(&self) -> Instant {
        self.quiet_from
    }

    pub(super) fn next(&mut self, at: &str) -> Fault {
        if let Some(n) = self.planned.iter().position(|(name, _)| *name == at) {
            return self.planned.remove(n).1;
        }
        if Instant::now() >= self.quiet_from || self.dice.below(100) >= self.percent {
            return Fault::None;
        }
        let before = self.dice.below(2) == 0;
        let mut chosen = self.dice.below(self.sorts.iter().sum::<u64>().max(1));
        for (sort, weight) in self.sorts.into_iter().enumerate() {
            if chosen < weight {
                return match (sort, before) {
                    (0, _) => Fault::Slow(self.dice.millis(12_000)),
                    (1, _) => Fault::Error(ERRORS[usize::try_from(self.dice.below(6)).unwrap_or(0)]),
                    (2, true) => Fault::CutBefore,
                    (2, false) => Fault::CutAfter,
                    (_, true) => Fault::SilenceBefore,
                    (_, false) => Fault::SilenceAfter,
                };
            }
            chosen -= weight;
        }
        Fault::None
    }
}
