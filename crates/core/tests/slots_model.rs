//! The slots against the simplest model of what they mean: the set of values that grant access.
//!
//! Any sequence of rotations, retirements, direct writes and proofs, with values taken from all that
//! ever existed, must behave like the model. Held here in their in-memory form: P1 (of many who
//! present one secret, one wins), P2 (what was returned works), P3 (what was retired never works),
//! P5 (nothing but the value decides) and P6 (a proof changes no secret).

use std::collections::BTreeSet;
use std::time::Duration;

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::keyring::{Keyring, SecretVisibility};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::{Mismatch, SecretSlots, SlotKind};
use keyrelay_core::time::Timestamp;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

/// A secret, named by the order in which it was made.
type Nth = usize;

#[derive(Clone, Debug)]
enum Transition {
    Rotate {
        presented: Nth,
    },
    Retire {
        presented: Nth,
    },
    Replace,
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
    active: Option<Nth>,
    retiring: Option<Nth>,
}

impl Model {
    fn accepted(&self) -> BTreeSet<Nth> {
        self.active.into_iter().chain(self.retiring).collect()
    }

    fn rotate(&mut self, presented: Nth) -> bool {
        let wins = self.active == Some(presented);
        if wins {
            self.retiring = self.active.replace(self.made);
            self.made += 1;
        }
        wins
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
            4 => likely.clone().prop_map(|presented| Transition::Rotate { presented }),
            3 => likely.clone().prop_map(|presented| Transition::Retire { presented }),
            1 => Just(Transition::Replace),
            4 => likely.clone().prop_map(|presented| Transition::Verify { presented }),
            1 => (likely, 2_usize..6)
                .prop_map(|(presented, callers)| Transition::RotateTogether { presented, callers }),
        ]
        .boxed()
    }

    fn apply(mut state: Self, transition: &Transition) -> Self {
        match *transition {
            Transition::Rotate { presented } | Transition::RotateTogether { presented, .. } => {
                state.rotate(presented);
            }
            Transition::Retire { presented } => {
                if state.retiring == Some(presented) {
                    state.retiring = None;
                }
            }
            Transition::Replace => {
                state.active = Some(state.made);
                state.made += 1;
            }
            Transition::Verify { .. } => {}
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
    slots: SecretSlots,
    now: Timestamp,
}

impl Real {
    fn value(&self, nth: Nth) -> &PlainSecret {
        self.values.get(nth).unwrap_or(&self.stranger)
    }

    fn rotate(&mut self, presented: Nth) -> Result<(), Mismatch> {
        let presented = self.keyring.present(self.client, self.value(presented));
        let (secret, slot) = self.fresh();
        self.slots = std::mem::take(&mut self.slots)
            .rotate(&presented, slot)
            .inspect(|_| {
                self.values.push(secret);
            })?
            .slots;
        Ok(())
    }

    fn fresh(&mut self) -> (PlainSecret, keyrelay_core::slots::Slot) {
        self.now = self.now.plus(Duration::from_secs(1));
        let secret = PlainSecret::generate(&self.entropy);
        let id = SecretId::random(&self.entropy);
        let visibility = SecretVisibility::Recoverable;
        let slot = self.keyring.fill_slot(self.client, id, &secret, visibility, self.now, &self.entropy);
        (secret, slot)
    }

    fn accepted(&self) -> BTreeSet<Nth> {
        (0..self.values.len())
            .filter(|nth| self.slots.verify(&self.keyring.present(self.client, self.value(*nth))).is_some())
            .collect()
    }
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
            slots: SecretSlots::empty(),
            now: Timestamp::from_epoch_ms(0),
            entropy,
        }
    }

    fn apply(mut real: Real, after: &Model, transition: Transition) -> Real {
        let before = real.slots.clone();
        match transition {
            Transition::Rotate { presented } => {
                let may_win =
                    before.holds(SlotKind::Active, &real.keyring.present(real.client, real.value(presented)));
                assert_eq!(real.rotate_or_keep(&before, presented), may_win);
            }
            Transition::RotateTogether { presented, callers } => {
                let wins = (0..callers)
                    .filter(|_| {
                        let before = real.slots.clone();
                        real.rotate_or_keep(&before, presented)
                    })
                    .count();
                let could_win =
                    before.holds(SlotKind::Active, &real.keyring.present(real.client, real.value(presented)));
                assert_eq!(wins, usize::from(could_win), "P1: exactly one of {callers} wins");
            }
            Transition::Retire { presented } => {
                let presented = real.keyring.present(real.client, real.value(presented));
                match before.clone().retire(&presented) {
                    Ok(moved) => {
                        assert!(moved.slots.verify(&presented).is_none(), "P3: a retired secret is refused");
                        real.slots = moved.slots;
                    }
                    Err(Mismatch) => assert!(!before.holds(SlotKind::Retiring, &presented)),
                }
            }
            Transition::Replace => {
                let (secret, slot) = real.fresh();
                real.slots = before.replace(slot).slots;
                real.values.push(secret);
            }
            Transition::Verify { presented } => {
                let verified = real.slots.verify(&real.keyring.present(real.client, real.value(presented)));
                let expected = if after.active == Some(presented) {
                    Some(SlotKind::Active)
                } else {
                    (after.retiring == Some(presented)).then_some(SlotKind::Retiring)
                };
                assert_eq!(verified.map(|v| v.kind), expected);
            }
        }
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        assert_eq!(real.accepted(), model.accepted(), "P2, P3: exactly the model's values grant access");
        let stranger = real.keyring.present(real.client, &real.stranger);
        assert!(real.slots.verify(&stranger).is_none());
        for slot in real.slots.active().into_iter().chain(real.slots.retiring()) {
            let opened = real.keyring.open_secret(real.client, slot).expect("opens").expect("recoverable");
            let verified = real.slots.verify(&real.keyring.present(real.client, &opened));
            assert_eq!(verified.map(|v| v.id), Some(slot.id), "what can be read is what grants access");
        }
    }
}

impl Real {
    /// A rotation as a store does it: a refused one leaves the slots as they were.
    fn rotate_or_keep(&mut self, before: &SecretSlots, presented: Nth) -> bool {
        let won = self.rotate(presented).is_ok();
        if !won {
            self.slots = before.clone();
        }
        won
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_slots_behave_like_a_set_of_accepted_values(sequential 1..40 => SlotsModel);
}
