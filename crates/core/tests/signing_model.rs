//! The schedule of the signing keys against what must be true of any run: several servers on one
//! database, with clocks that are apart, each with a memory of the keys that is refreshed now and
//! then, switched off for any time, and set to another algorithm whenever somebody likes.
//!
//! Held here: a key has been in every published set for long enough before it first signs; whatever
//! token may be alive is verified by every server; the keys are few; and a rotation or a change of
//! algorithm that is due happens, however long the servers were off.

use std::collections::BTreeMap;
use std::time::Duration;

use keyrelay_core::id::SigningKeyId;
use keyrelay_core::limits::{
    SIGNING_KEY_LIFETIME_DEFAULT, SIGNING_KEY_LIFETIME_MIN, SIGNING_KEY_PUBLISH_AHEAD, SIGNING_KEY_SKEW,
    TOKEN_LIFETIME_MAX,
};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::signing::{Schedule, ScheduledKey, SigningAlgorithm, signer};
use keyrelay_core::time::Timestamp;
use proptest::prelude::*;

/// One step of the simulation; a server refreshes its memory after one or several.
const STEP: Duration = Duration::from_mins(20);
/// The longest that a server goes on with what it remembers, in steps.
const MEMORY_STEPS: u64 = 3;
/// What the schedule needs at any moment: one key that waits, one that signs, two that have signed.
const KEYS_NEEDED: usize = 4;
const SERVERS: usize = 3;
const START: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

#[derive(Clone, Debug)]
enum Event {
    /// The servers run for so many steps.
    Run(u64),
    /// They are off for so many steps.
    Off(u64),
    /// From now on all of them are set to this.
    Set(SigningAlgorithm, Duration),
    /// The next refreshes happen at other steps than before.
    Shift,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let algorithm = prop_oneof![
        Just(SigningAlgorithm::Es256),
        Just(SigningAlgorithm::EdDsa),
        Just(SigningAlgorithm::Rs256)
    ];
    let lifetime = (0_u32..5).prop_map(|days| SIGNING_KEY_LIFETIME_MIN + Duration::from_hours(24) * days);
    let event = prop_oneof![
        6 => (1_u64..400).prop_map(Event::Run),
        1 => (1_u64..400).prop_map(Event::Off),
        1 => Just(Event::Off(365 * 72)),
        3 => (algorithm, lifetime).prop_map(|(algorithm, lifetime)| Event::Set(algorithm, lifetime)),
        1 => Just(Event::Shift),
    ];
    prop::collection::vec(event, 1..25)
}

/// One server: what it remembers of the keys, and how far its clock is ahead.
struct Server {
    keys: Vec<ScheduledKey>,
    ahead: Duration,
    refreshes_at: u64,
}

struct World {
    now: Timestamp,
    steps: u64,
    schedule: Schedule,
    /// What the schedule was made of.
    algorithm: SigningAlgorithm,
    lifetime: Duration,
    /// Since when the servers have run with the schedule as it is.
    settled: Timestamp,
    /// What the database keeps, in the order of generations.
    stored: Vec<ScheduledKey>,
    servers: Vec<Server>,
    /// Every published set of the last days: when, and which keys.
    published: Vec<(Timestamp, Vec<SigningKeyId>)>,
    /// Until when tokens under a key are alive.
    alive: BTreeMap<SigningKeyId, Timestamp>,
    entropy: SeededEntropy,
}

impl World {
    fn new(skews: [Duration; SERVERS]) -> Self {
        let server = |(n, ahead)| Server { keys: Vec::new(), ahead, refreshes_at: n };
        Self {
            now: START,
            steps: 0,
            schedule: Schedule::default(),
            lifetime: SIGNING_KEY_LIFETIME_DEFAULT,
            algorithm: SigningAlgorithm::Es256,
            settled: START,
            stored: Vec::new(),
            servers: (0..).zip(skews).map(server).collect(),
            published: Vec::new(),
            alive: BTreeMap::new(),
            entropy: SeededEntropy::new(1),
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Run(steps) => (0..steps).for_each(|_| self.step()),
            Event::Off(steps) => {
                self.now = self.now.plus(STEP * u32::try_from(steps).unwrap());
                self.settled = self.now;
                // A server that starts reads the keys before it answers anybody.
                for n in 0..SERVERS {
                    self.refresh(n);
                }
            }
            Event::Set(algorithm, lifetime) => {
                self.schedule = Schedule::new(algorithm, lifetime).unwrap();
                (self.algorithm, self.lifetime) = (algorithm, lifetime);
                self.settled = self.now;
            }
            Event::Shift => self.servers.iter_mut().for_each(|server| server.refreshes_at += 1),
        }
    }

    fn step(&mut self) {
        for n in 0..SERVERS {
            if (self.steps + self.servers[n].refreshes_at).is_multiple_of(MEMORY_STEPS)
                || self.servers[n].keys.is_empty()
            {
                self.refresh(n);
            }
        }
        for n in 0..SERVERS {
            self.publish(n);
        }
        for n in 0..SERVERS {
            self.sign(n);
        }
        self.check();
        self.now = self.now.plus(STEP);
        self.steps += 1;
    }

    /// What a server does now and then: decide, write, remember. The database takes a key only if
    /// nobody has made one of its generation.
    fn refresh(&mut self, n: usize) {
        let now = self.now.plus(self.servers[n].ahead);
        let plan = self.schedule.plan(&self.stored, now);
        if let Some(next) = plan.make {
            assert_eq!(next.generation, self.stored.last().map_or(1, |key| key.generation + 1));
            self.stored.push(ScheduledKey {
                id: SigningKeyId::random(&self.entropy),
                algorithm: next.algorithm,
                generation: next.generation,
                signs_from: next.signs_from,
            });
        }
        self.stored.retain(|key| !plan.forget.contains(&key.id));
        self.servers[n].keys.clone_from(&self.stored);
    }

    fn publish(&mut self, n: usize) {
        let ids = self.servers[n].keys.iter().map(|key| key.id).collect();
        self.published.push((self.now, ids));
        let memory = SIGNING_KEY_PUBLISH_AHEAD + SIGNING_KEY_SKEW;
        let now = self.now;
        self.published.retain(|(at, _)| now.since(*at) <= memory);
    }

    /// Signs a token that lives as long as any may. A key that signs for the first time has been in
    /// all that was published for the whole time ahead, but for what a memory and the clocks cost.
    fn sign(&mut self, n: usize) {
        let server = &self.servers[n];
        let now = self.now.plus(server.ahead);
        let key = server.keys[signer(server.keys.iter().map(|key| key.signs_from), now)];
        let is_first = !self.alive.contains_key(&key.id);
        if is_first && key.generation > 1 {
            let late = SIGNING_KEY_SKEW + STEP * u32::try_from(MEMORY_STEPS).unwrap();
            let known = SIGNING_KEY_PUBLISH_AHEAD.saturating_sub(late);
            for (at, ids) in self.published.iter().filter(|(at, _)| self.now.since(*at) <= known) {
                assert!(
                    ids.contains(&key.id),
                    "{key:?} signs at {}, and was not published at {at}",
                    self.now
                );
            }
        }
        let until = now.plus(TOKEN_LIFETIME_MAX);
        let alive = self.alive.entry(key.id).or_insert(until);
        *alive = until.max(*alive);
    }

    fn check(&self) {
        for server in &self.servers {
            let now = self.now.plus(server.ahead);
            for (id, _) in self.alive.iter().filter(|(_, until)| **until > now) {
                assert!(server.keys.iter().any(|key| key.id == *id), "a token is alive under {id} at {now}");
            }
        }
        assert!(self.stored.len() <= KEYS_NEEDED, "{:?}", self.stored);
        // What was due when the schedule settled has had its turn: one key may have been waiting.
        let patience = SIGNING_KEY_PUBLISH_AHEAD * 2
            + SIGNING_KEY_SKEW
            + STEP * 2 * u32::try_from(MEMORY_STEPS).unwrap();
        if self.now.since(self.settled) >= patience {
            for server in &self.servers {
                let now = self.now.plus(server.ahead);
                let key = server.keys[signer(server.keys.iter().map(|key| key.signs_from), now)];
                assert_eq!(key.algorithm, self.algorithm, "the algorithm was changed long ago");
                assert!(now.since(key.signs_from) <= self.lifetime + patience, "{key:?} signs for too long");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_come_in_time_and_stay_as_long_as_they_are_needed(
        events in events(),
        skews in prop::array::uniform3(0_u64..=50),
    ) {
        let mut world = World::new(skews.map(Duration::from_mins));
        for event in &events {
            world.apply(event);
        }
    }
}
