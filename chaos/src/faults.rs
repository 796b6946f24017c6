//! What goes wrong, one thing after another: drawn from a pack that is mixed by the seed, so that a run
//! of any length has of each kind about as many.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::clients::Fleet;
use crate::dice::Dice;
use crate::nodes::Node;
use crate::postgres::Cluster;
use crate::proxy::{Mode, Proxy};

/// How long everything may take to work again. The run goes on after that, and has failed.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` of a server, which is started again.
    NodeKilled,
    /// The primary crashes, and is started again.
    DatabaseCrashed,
    /// The primary crashes for good, and its standby takes over.
    StandbyPromoted,
    /// The standby crashes: the primary can be read, but confirms no commit.
    StandbyCrashed,
    /// A server and the primary crash together.
    NodeAndDatabase,
    /// Connections are cut.
    ConnectionsCut,
    /// Nothing moves for a while, and then everything arrives.
    Hang,
    /// Nothing moves for a while, and then the connections are cut.
    HangAndCut,
    /// Connections are dead, and nobody closes them.
    Dead,
    /// Everything takes its time.
    Slow,
    /// Commits do not arrive, and the primary crashes: what was to be committed is gone, ids of
    /// transactions and all.
    CommitsKept,
    /// Commits arrive and are made, and nobody is told.
    AnswersLost,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NodeKilled,
        Self::DatabaseCrashed,
        Self::StandbyPromoted,
        Self::StandbyCrashed,
        Self::NodeAndDatabase,
        Self::ConnectionsCut,
        Self::Hang,
        Self::HangAndCut,
        Self::Dead,
        Self::Slow,
        Self::CommitsKept,
        Self::AnswersLost,
    ];

    /// For the report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeKilled => "kill -9 of a node, started again",
            Self::DatabaseCrashed => "crash of the database, started again",
            Self::StandbyPromoted => "crash of the database, standby promoted",
            Self::StandbyCrashed => "crash of the standby, started again",
            Self::NodeAndDatabase => "kill -9 of a node and crash of the database",
            Self::ConnectionsCut => "connections to the database cut",
            Self::Hang => "connections hang, then go on",
            Self::HangAndCut => "connections hang, then are cut",
            Self::Dead => "connections dead, never closed",
            Self::Slow => "connections slow",
            Self::CommitsKept => "commits kept back, crash of the database",
            Self::AnswersLost => "answers to commits lost",
        }
    }
}

/// Something that went wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// From when, since the start of the run.
    pub began: Duration,
    /// When its cause was gone: the database could be reached and could commit.
    pub healed: Duration,
    /// When every server had answered both a read and a write that were asked after that.
    pub recovered: Option<Duration>,
}

/// Everything that faults happen to.
pub struct Stage {
    /// The database.
    pub cluster: Cluster,
    /// The servers.
    pub nodes: Vec<Node>,
    /// Who notices.
    pub fleet: Arc<Fleet>,
}

impl Stage {
    /// Lets things go wrong for some time.
    ///
    /// # Errors
    /// When a process cannot be started or stopped.
    pub fn run(&mut self, time: Duration, dice: &mut Dice) -> Result<Vec<Fault>> {
        let until = self.fleet.now() + time;
        let mut faults = Vec::new();
        let mut pack = Vec::new();
        while self.fleet.now() < until {
            std::thread::sleep(dice.ms(200..1500));
            if pack.is_empty() {
                pack = Kind::ALL.to_vec();
                dice.shuffle(&mut pack);
            }
            let Some(kind) = pack.pop() else { break };
            let began = self.fleet.now();
            println!("{:>7.1} s  {}", began.as_secs_f64(), kind.as_str());
            self.mark(&format!("{began:.3?} {}", kind.as_str()));
            self.inject(kind, dice)?;
            let healed = self.fleet.now();
            self.mark(&format!("{healed:.3?} healed"));
            let recovered = self.recovery(healed);
            faults.push(Fault { kind, began, healed, recovered });
            if kind == Kind::StandbyPromoted {
                self.cluster.rebuild_standby()?;
            }
        }
        Ok(faults)
    }

    /// Makes it go wrong, and ends the cause.
    fn inject(&mut self, kind: Kind, dice: &mut Dice) -> Result<()> {
        match kind {
            Kind::NodeKilled => {
                let node = dice.below(self.nodes.len());
                self.nodes[node].kill();
                std::thread::sleep(dice.ms(0..2000));
                self.nodes[node].start()
            }
            Kind::DatabaseCrashed => {
                self.cluster.stop_primary()?;
                std::thread::sleep(dice.ms(0..4000));
                self.cluster.start_primary()
            }
            Kind::StandbyPromoted => {
                self.cluster.wait_in_sync()?;
                self.cluster.stop_primary()?;
                std::thread::sleep(dice.ms(0..2000));
                self.cluster.promote()
            }
            Kind::StandbyCrashed => {
                self.cluster.stop_standby()?;
                std::thread::sleep(dice.ms(500..8000));
                self.cluster.start_standby()
            }
            Kind::NodeAndDatabase => {
                let node = dice.below(self.nodes.len());
                self.cluster.stop_primary()?;
                self.nodes[node].kill();
                std::thread::sleep(dice.ms(0..2000));
                self.cluster.start_primary()?;
                self.nodes[node].start()
            }
            Kind::ConnectionsCut => {
                for _ in 0..=dice.below(3) {
                    cut(&self.ways(dice));
                    std::thread::sleep(dice.ms(0..500));
                }
                Ok(())
            }
            Kind::Hang | Kind::HangAndCut | Kind::Dead | Kind::Slow => {
                let mode = match kind {
                    Kind::Dead => Mode::Lose,
                    Kind::Slow => Mode::Delay(dice.ms(20..400)),
                    _ => Mode::Hang,
                };
                let ways = self.ways(dice);
                set(&ways, mode);
                std::thread::sleep(dice.ms(500..9000));
                if kind == Kind::HangAndCut {
                    cut(&ways);
                }
                set(&ways, Mode::Pass);
                Ok(())
            }
            Kind::CommitsKept => {
                let ways = self.ways(dice);
                set(&ways, Mode::KeepCommits);
                std::thread::sleep(dice.ms(100..1000));
                self.cluster.stop_primary()?;
                cut(&ways);
                set(&ways, Mode::Pass);
                self.cluster.start_primary()
            }
            Kind::AnswersLost => {
                let ways = self.ways(dice);
                set(&ways, Mode::LoseAnswersToCommits);
                std::thread::sleep(dice.ms(100..1000));
                cut(&ways);
                set(&ways, Mode::Pass);
                Ok(())
            }
        }
    }

    /// Writes a line into the log of every server.
    fn mark(&self, text: &str) {
        for node in &self.nodes {
            node.mark(text);
        }
    }

    /// The ways of one server to the database, or those of all.
    fn ways(&self, dice: &mut Dice) -> Vec<&Proxy> {
        let one = dice.percent(50).then(|| dice.below(self.nodes.len()));
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(n, _)| one.is_none_or(|one| one == *n)).flat_map(|(_, node)| &node.proxies).collect()
    }

    /// Waits until every server has answered a read and a write that were asked after `healed`.
    fn recovery(&self, healed: Duration) -> Option<Duration> {
        loop {
            if let Some(recovered) = self.recovered(healed) {
                return Some(recovered);
            }
            if self.fleet.now() > healed + RECOVERY_MAX {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    fn recovered(&self, healed: Duration) -> Option<Duration> {
        let tally = self.fleet.tally();
        let asked_since = |node: usize, is_write: bool| {
            let later = tally.successes.iter().rev().take_while(|success| success.returned >= healed);
            let these = later.filter(|success| success.node == node && success.is_write == is_write);
            these.filter(|success| success.invoked >= healed).map(|success| success.returned).min()
        };
        let mut last = healed;
        for node in 0..self.nodes.len() {
            last = last.max(asked_since(node, false)?).max(asked_since(node, true)?);
        }
        Some(last)
    }
}

fn set(ways: &[&Proxy], mode: Mode) {
    for way in ways {
        way.set(mode);
    }
}

fn cut(ways: &[&Proxy]) {
    for way in ways {
        way.cut();
    }
}
