//! A model of the token path's reads: servers in front of one database, each request sending a query of its own, or
//! sharing one with those that wait. For sizes that no machine here has: many servers, a database far away.
//!
//! Requests come at random, independent of each other. A query costs the database one core for a while: so much by
//! itself, so much for each row. What does not fit waits in line there. Nothing else is modelled: no commits, no
//! cache misses, no signatures. The same seed gives the same figures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Requests that are simulated for one figure.
const REQUESTS: usize = 30_000;
/// Of these, as many at the beginning do not count: the lines are still empty.
const WARM_UP: usize = 5_000;
/// How much longer a wait may become by chance; microseconds.
const CHANCE_US: u64 = 100;
/// Requests on their way, beyond which the load is more than there is room for.
const WAITING_MAX: usize = 10_000;

/// How requests become queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Each is a query, sent at once.
    OneEach,
    /// Those that wait share the next query of their server.
    Groups {
        /// Queries that a server has under way at once.
        in_flight: usize,
        /// Most requests of one query.
        size_max: usize,
    },
}

/// What is simulated. Times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How requests become queries.
    pub reading: Reading,
    /// Servers in front of the database.
    pub nodes: usize,
    /// There and back between a server and the database.
    pub round_trip_us: u64,
    /// Queries that the database works on at once.
    pub cores: usize,
    /// What a query costs a core, whatever it asks.
    pub query_us: u64,
    /// What each row adds.
    pub row_us: u64,
    /// Requests a second, over all servers.
    pub per_second: u64,
    /// Where chance begins.
    pub seed: u64,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// From a request to its answer, as half of them saw it; microseconds.
    pub median_us: u64,
    /// As one in a hundred saw it, or worse.
    pub p99_us: u64,
    /// Requests in a query, on average, times ten.
    pub group_tenths: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request reaches a server.
    Request,
    /// A query reaches the database.
    Query(usize),
    /// A core is done with a query.
    Done(usize),
    /// An answer reaches its server.
    Answer(usize),
}

/// A query: its server, and when each of its requests came.
struct Query {
    node: usize,
    came: Vec<u64>,
}

struct World {
    setting: Setting,
    dice: Dice,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    queries: Vec<Query>,
    /// For each server, who waits there and how many queries it has under way.
    waiting: Vec<(VecDeque<u64>, usize)>,
    line: VecDeque<usize>,
    busy_cores: usize,
    under_way: usize,
    times: Vec<u64>,
}

/// Simulates a load; `None` if it is more than the database can serve.
#[must_use]
pub fn simulate(setting: Setting) -> Option<Outcome> {
    let mut world = World {
        setting,
        dice: Dice(setting.seed),
        events: BinaryHeap::new(),
        count: 0,
        queries: Vec::new(),
        waiting: vec![(VecDeque::new(), 0); setting.nodes],
        line: VecDeque::new(),
        busy_cores: 0,
        under_way: 0,
        times: Vec::with_capacity(REQUESTS),
    };
    world.at(0, Event::Request);
    while world.times.len() < REQUESTS {
        let Reverse((now, _, event)) = world.events.pop()?;
        world.happens(now, event);
        if world.under_way > WAITING_MAX {
            return None;
        }
    }
    let groups = world.queries.len().max(1);
    let asked: usize = world.queries.iter().map(|query| query.came.len()).sum();
    let mut times = world.times.split_off(WARM_UP);
    if lengthens(&times) {
        return None;
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    Some(Outcome {
        median_us: at(50),
        p99_us: at(99),
        group_tenths: u64::try_from(asked * 10 / groups).ok()?,
    })
}

/// Whether those at the end wait far longer than those at the beginning: then the lines have no end, and the run only
/// was too short to see it.
fn lengthens(times: &[u64]) -> bool {
    let least = times.iter().copied().min().unwrap_or(0);
    let third = times.len() / 3;
    let middle = |times: &[u64]| {
        let mut waits: Vec<u64> = times.iter().map(|time| time - least).collect();
        waits.sort_unstable();
        waits.get(waits.len() / 2).copied().unwrap_or(0)
    };
    middle(&times[times.len() - third..]) > 2 * middle(&times[..third]) + CHANCE_US
}

/// The most requests a second that are served with a 99th percentile below `p99_us`, within five in a hundred.
#[must_use]
pub fn capacity(setting: Setting, p99_us: u64) -> u64 {
    let holds = |per_second| {
        simulate(Setting { per_second, ..setting }).is_some_and(|outcome| outcome.p99_us < p99_us)
    };
    let (mut good, mut bad) = (0, 1_000);
    while holds(bad) {
        (good, bad) = (bad, bad * 2);
    }
    while bad - good > bad / 20 {
        let middle = u64::midpoint(good, bad);
        if holds(middle) { good = middle } else { bad = middle }
    }
    good
}

impl World {
    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn happens(&mut self, now: u64, event: Event) {
        match event {
            Event::Request => {
                let node = self.dice.below(self.setting.nodes);
                self.waiting[node].0.push_back(now);
                self.under_way += 1;
                self.send(now, node);
                let next = now + self.dice.gap_us(self.setting.per_second);
                self.at(next, Event::Request);
            }
            Event::Query(query) => {
                self.line.push_back(query);
                self.work(now);
            }
            Event::Done(query) => {
                self.busy_cores -= 1;
                self.at(now + self.setting.round_trip_us / 2, Event::Answer(query));
                self.work(now);
            }
            Event::Answer(query) => {
                let Query { node, came } = &self.queries[query];
                self.under_way -= came.len();
                self.times.extend(came.iter().map(|came| now - came));
                let node = *node;
                self.waiting[node].1 -= 1;
                self.send(now, node);
            }
        }
    }

    /// Sends what may be sent from a server.
    fn send(&mut self, now: u64, node: usize) {
        let (waiting, in_flight) = &mut self.waiting[node];
        let size = match self.setting.reading {
            Reading::OneEach => 1,
            Reading::Groups { in_flight: most, .. } if *in_flight >= most => return,
            Reading::Groups { size_max, .. } => size_max,
        };
        let came: Vec<u64> = waiting.drain(..waiting.len().min(size)).collect();
        if came.is_empty() {
            return;
        }
        *in_flight += 1;
        self.queries.push(Query { node, came });
        self.at(now + self.setting.round_trip_us / 2, Event::Query(self.queries.len() - 1));
    }

    /// Gives free cores what waits in line.
    fn work(&mut self, now: u64) {
        while self.busy_cores < self.setting.cores
            && let Some(query) = self.line.pop_front()
        {
            self.busy_cores += 1;
            let rows = u64::try_from(self.queries[query].came.len()).unwrap_or(u64::MAX);
            self.at(now + self.setting.query_us + rows * self.setting.row_us, Event::Done(query));
        }
    }
}

/// Chance from a seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// The time to the next of so many events a second, in whole microseconds.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "53 bits of chance are enough, and gaps are small and positive"
    )]
    fn gap_us(&mut self, per_second: u64) -> u64 {
        let chance = ((self.next() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        (-chance.ln() * 1e6 / per_second as f64).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: Reading = Reading::Groups { in_flight: 2, size_max: 64 };
    const SETTING: Setting = Setting {
        reading: GROUPS,
        nodes: 4,
        round_trip_us: 500,
        cores: 4,
        query_us: 40,
        row_us: 10,
        per_second: 100,
        seed: 1,
    };

    #[test]
    fn alone_a_request_takes_the_way_and_the_work() {
        for reading in [GROUPS, Reading::OneEach] {
            let outcome = simulate(Setting { reading, ..SETTING }).expect("an outcome");
            assert_eq!((outcome.median_us, outcome.group_tenths), (550, 10), "{reading:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_figures() {
        let busy = Setting { per_second: 50_000, ..SETTING };
        assert_eq!(simulate(busy), simulate(busy));
        assert_ne!(simulate(busy), simulate(Setting { seed: 2, ..busy }));
    }

    #[test]
    fn one_query_each_is_bounded_by_what_the_database_can_do() {
        let one_each = Setting { reading: Reading::OneEach, ..SETTING };
        // Four cores, fifty microseconds.
        assert!(simulate(Setting { per_second: 200_000, ..one_each }).is_none());
        let most = capacity(one_each, 10_000);
        assert!((70_000..=84_000).contains(&most), "{most}");
    }

    #[test]
    fn groups_serve_more_the_more_a_query_costs_by_itself() {
        let gain = |query_us| {
            let groups = Setting { query_us, ..SETTING };
            let one_each = Setting { reading: Reading::OneEach, ..groups };
            capacity(groups, 10_000) * 10 / capacity(one_each, 10_000)
        };
        let (little, much) = (gain(10), gain(90));
        assert!(little > 12 && much > 2 * little, "{little} {much}");
    }

    #[test]
    fn a_database_far_away_makes_groups_larger_and_not_slower_than_two_ways() {
        let near = simulate(Setting { per_second: 20_000, ..SETTING }).expect("an outcome");
        let far =
            simulate(Setting { per_second: 20_000, round_trip_us: 5_000, ..SETTING }).expect("an outcome");
        assert!(far.group_tenths > 3 * near.group_tenths, "{near:?} {far:?}");
        assert!(far.median_us < 2 * 5_000, "{far:?}");
    }
}
