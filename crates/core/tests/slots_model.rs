//! The slots against the simplest model of what they mean: the set of values that grant access.
//!
//! Any sequence of rotations, deadlines, retirements, direct writes, revocations, changes of the maximum age and
//! proofs, with values taken from all that ever existed, must behave like the model. Held here in their in-memory form: P1 (of many who
//! present one secret, one wins), P2 (what was returned works), P3 (what was retired never works),
//! P5 (nothing but the value decides) and P6 (a proof changes no secret).

use std::collections::BTreeSet;
use std::time::Duration;

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::keyring::{Keyring, SecretVisibility};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::{
    Granting, Lifespan, Mismatch, Moved, NotGranted, SecretSlots, SlotKind, StoredSlots,
};
use keyrelay_core::time::Timestamp;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// Seconds between one transition and the next.
const MOVE_TAKES: u64 = 1;

/// A secret, named by the order in which it was made.
type Nth = usize;

#[derive(Clone, Debug)]
enum Transition {
    Rotate {
        presented: Nth,
        /// In how many seconds the old secret ends by itself.
        retire_after: Option<u64>,
    },
    /// Time passes; nothing else happens.
    Wait {
        seconds: u64,
    },
    Retire {
        presented: Nth,
    },
    /// The project sets how many seconds a secret grants access at most.
    Limit {
        lifespan: Option<u64>,
    },
    Replace,
    Undo,
    Revoke {
        active: bool,
    },
    Verify {
        presented: Nth,
    },
    /// Several callers present the same value for a rotation, one after the other.
    RotateTogether {
        presented: Nth,
        callers: usize,
    },
}

/// The model: how many secrets were made, and which of them grant access.
#[derive(Clone, Debug, Default)]
struct Model {
    made: usize,
    /// When each was made, in seconds.
    created: Vec<u64>,
    lifespan: Option<u64>,
    active: Option<Nth>,
    retiring: Option<Nth>,
    /// When the retiring one ends, in seconds.
    ends: Option<u64>,
    now: u64,
}

impl Model {
    fn accepted(&self) -> BTreeSet<Nth> {
        self.active.into_iter().chain(self.retiring).filter(|nth| !self.is_too_old(*nth)).collect()
    }

    fn is_too_old(&self, nth: Nth) -> bool {
        self.lifespan.is_some_and(|lifespan| self.created[nth] + lifespan <= self.now)
    }

    fn make(&mut self) -> Nth {
        self.created.push(self.now);
        self.made += 1;
        self.made - 1
    }

    /// Each move takes a second.
    fn wait(&mut self, seconds: u64) {
        self.now += seconds;
        if self.ends.is_some_and(|ends| ends <= self.now) {
            self.retire();
        }
    }

    fn retire(&mut self) {
        (self.retiring, self.ends) = (None, None);
    }

    fn rotate(&mut self, presented: Nth, retire_after: Option<u64>) {
        if self.active == Some(presented) {
            let made = self.make();
            self.retiring = self.active.replace(made);
            self.ends = retire_after.map(|after| self.now + after);
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Transition> {
        let any_secret = 0..=state.made;
        let likely = prop_oneof![
            1 => any_secret,
            3 => Just(state.active.unwrap_or_default()),
            2 => Just(state.retiring.unwrap_or_default()),
        ];
        prop_oneof![
            4 => (likely.clone(), proptest::option::of(1_u64..20))
                .prop_map(|(presented, retire_after)| Transition::Rotate { presented, retire_after }),
            3 => (0_u64..10).prop_map(|seconds| Transition::Wait { seconds }),
            3 => likely.clone().prop_map(|presented| Transition::Retire { presented }),
            1 => proptest::option::of(1_u64..30).prop_map(|lifespan| Transition::Limit { lifespan }),
            1 => Just(Transition::Replace),
            1 => Just(Transition::Undo),
            1 => any::<bool>().prop_map(|active| Transition::Revoke { active }),
            4 => likely.clone().prop_map(|presented| Transition::Verify { presented }),
            1 => (likely, 2_usize..6)
                .prop_map(|(presented, callers)| Transition::RotateTogether { presented, callers }),
        ]
        .boxed()
    }

    fn apply(mut state: Self, transition: &Transition) -> Self {
        state.wait(MOVE_TAKES);
        match *transition {
            Transition::Rotate { presented, retire_after } => state.rotate(presented, retire_after),
            Transition::RotateTogether { presented, .. } => state.rotate(presented, None),
            Transition::Wait { seconds } => state.wait(seconds),
            Transition::Retire { presented } => {
                if state.retiring == Some(presented) {
                    state.retire();
                }
            }
            Transition::Limit { lifespan } => state.lifespan = lifespan,
            Transition::Replace => state.active = Some(state.make()),
            Transition::Undo if state.retiring.is_some() => {
                (state.active, state.retiring, state.ends) = (state.retiring, state.active, None);
            }
            Transition::Revoke { active: true } => {
                state.active = state.retiring;
                state.retire();
            }
            Transition::Revoke { active: false } => state.retire(),
            Transition::Undo | Transition::Verify { .. } => {}
        }
        state
    }
}

/// The real slots, with every value that was ever made.
struct Real {
    keyring: Keyring,
    entropy: SeededEntropy,
    client: ClientId,
    values: Vec<PlainSecret>,
    /// A value that never was a secret of this client.
    stranger: PlainSecret,
    stored: StoredSlots,
    lifespan: Lifespan,
    now: Timestamp,
    /// Secrets that were told to have ended.
    ended: BTreeSet<SecretId>,
}

impl Real {
    fn value(&self, nth: Nth) -> &PlainSecret {
        self.values.get(nth).unwrap_or(&self.stranger)
    }

    /// The secrets there are now.
    fn slots(&self) -> SecretSlots {
        self.stored.at(self.now)
    }

    /// Those that grant access now.
    fn granting(&self) -> Granting<'_> {
        self.stored.granting(self.now, self.lifespan)
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    /// A move as a store does it: a refused one leaves the slots as they were.
    fn take(&mut self, moved: Result<Moved, Mismatch>) -> bool {
        let Ok(moved) = moved else { return false };
        for ended in &moved.ended {
            assert!(self.ended.insert(ended.slot.id), "a secret ends once");
            assert!(ended.expired.is_none_or(|at| at <= self.now));
        }
        self.stored = moved.stored();
        true
    }

    fn rotate(&mut self, presented: Nth, retire_after: Option<u64>) -> bool {
        let presented = self.keyring.present(self.client, self.value(presented));
        let (secret, slot) = self.fresh();
        let ends = retire_after.map(|after| self.now.plus(Duration::from_secs(after)));
        let won = self.take(self.slots().rotate(&presented, slot, ends));
        if won {
            self.values.push(secret);
        }
        won
    }

    fn fresh(&self) -> (PlainSecret, keyrelay_core::slots::Slot) {
        let secret = PlainSecret::generate(&self.entropy);
        let id = SecretId::random(&self.entropy);
        let visibility = SecretVisibility::Recoverable;
        let slot = self.keyring.fill_slot(self.client, id, &secret, visibility, self.now, &self.entropy);
        (secret, slot)
    }

    fn accepted(&self) -> BTreeSet<Nth> {
        (0..self.values.len())
            .filter(|nth| {
                self.granting().verify(&self.keyring.present(self.client, self.value(*nth))).is_ok()
            })
            .collect()
    }
}

/// The secrets there are, by id.
fn ids(slots: &SecretSlots) -> BTreeSet<SecretId> {
    slots.active().into_iter().chain(slots.retiring()).map(|slot| slot.id).collect()
}

struct SlotsModel;

impl StateMachineTest for SlotsModel {
    type SystemUnderTest = Real;
    type Reference = Model;

    fn init_test(_: &Model) -> Real {
        let entropy = SeededEntropy::new(1);
        Real {
            keyring: Keyring::parse_file(&Keyring::new_file(&entropy)).expect("a new file is a good file"),
            client: ClientId::random(&entropy),
            values: Vec::new(),
            stranger: PlainSecret::generate(&entropy),
            stored: StoredSlots::empty(),
            lifespan: Lifespan::ENDLESS,
            now: Timestamp::from_epoch_ms(0),
            ended: BTreeSet::new(),
            entropy,
        }
    }

    fn apply(mut real: Real, after: &Model, transition: Transition) -> Real {
        real.wait(MOVE_TAKES);
        let before = real.slots();
        match transition {
            Transition::Rotate { presented, retire_after } => {
                let may_win =
                    before.holds(SlotKind::Active, &real.keyring.present(real.client, real.value(presented)));
                assert_eq!(real.rotate(presented, retire_after), may_win);
            }
            Transition::RotateTogether { presented, callers } => {
                let wins = (0..callers).filter(|_| real.rotate(presented, None)).count();
                let could_win =
                    before.holds(SlotKind::Active, &real.keyring.present(real.client, real.value(presented)));
                assert_eq!(wins, usize::from(could_win), "P1: exactly one of {callers} wins");
            }
            Transition::Wait { seconds } => real.wait(seconds),
            Transition::Retire { presented } => {
                let presented = real.keyring.present(real.client, real.value(presented));
                if real.take(before.clone().retire(&presented)) {
                    assert!(real.granting().verify(&presented).is_err(), "P3: a retired secret is refused");
                } else {
                    assert!(!before.holds(SlotKind::Retiring, &presented));
                }
            }
            Transition::Limit { lifespan } => real.lifespan = Lifespan(lifespan.map(Duration::from_secs)),
            Transition::Replace => {
                let (secret, slot) = real.fresh();
                real.take(Ok(before.replace(slot)));
                real.values.push(secret);
            }
            Transition::Undo => {
                let both = ids(&before);
                if let Ok(moved) = before.undo() {
                    real.take(Ok(moved));
                    assert_eq!(ids(&real.slots()), both, "nobody is shut out");
                }
            }
            Transition::Revoke { active } => {
                let kind = if active { SlotKind::Active } else { SlotKind::Retiring };
                if let Ok(moved) = before.revoke(kind) {
                    real.take(Ok(moved));
                }
            }
            Transition::Verify { presented } => {
                let verified =
                    real.granting().verify(&real.keyring.present(real.client, real.value(presented)));
                let held = if after.active == Some(presented) {
                    Some(SlotKind::Active)
                } else {
                    (after.retiring == Some(presented)).then_some(SlotKind::Retiring)
                };
                match verified {
                    Ok(verified) => assert_eq!(Some(verified.kind), held),
                    Err(NotGranted::NoneOfThem) => assert_eq!(held, None),
                    // Too old is not gone: it can still be moved.
                    Err(NotGranted::TooOld(id)) => {
                        assert!(held.is_some() && after.is_too_old(presented) && ids(&before).contains(&id));
                    }
                }
            }
        }
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        assert_eq!(real.accepted(), model.accepted(), "P2, P3: exactly the model's values grant access");
        let stranger = real.keyring.present(real.client, &real.stranger);
        let slots = real.slots();
        assert_eq!(real.granting().verify(&stranger), Err(NotGranted::NoneOfThem));
        let held: Vec<_> = slots.active().into_iter().chain(slots.retiring()).collect();
        assert!(held.iter().all(|slot| !real.ended.contains(&slot.id)), "what has ended is gone");
        if let Some(ends) = slots.retiring_ends() {
            let last = ends.minus(Duration::from_millis(1));
            assert!(real.stored.at(last).retiring().is_some() && real.stored.at(ends).retiring().is_none());
        }
        for slot in held {
            let opened = real.keyring.open_secret(real.client, slot).expect("opens").expect("recoverable");
            let ageless = real.stored.granting(real.now, Lifespan::ENDLESS);
            let verified = ageless.verify(&real.keyring.present(real.client, &opened));
            assert_eq!(verified.map(|v| v.id), Ok(slot.id), "what can be read is what grants access");
            if let Some(end) = real.lifespan.end(slot.created) {
                let granting = |at| real.stored.granting(at, real.lifespan).has(slot.id);
                let last = end.minus(Duration::from_millis(1));
                let ends =
                    slots.retiring_ends().filter(|_| slots.retiring().map(|slot| slot.id) == Some(slot.id));
                assert!(!granting(end) && granting(last) == ends.is_none_or(|ends| last < ends));
            }
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_slots_behave_like_a_set_of_accepted_values(sequential 1..40 => SlotsModel);
}
