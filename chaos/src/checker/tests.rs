use proptest::prelude::*;

use super::*;
use crate::history::Call;

/// `at(from, to, call, answer)`.
const fn at(invoked: u64, returned: u64, call: Call, answer: Answer) -> Operation {
    Operation { call, answer, invoked, returned, node: 0 }
}

/// The number of the operation that cannot be explained.
fn culprit(history: &[Operation]) -> Option<usize> {
    match check(0, history) {
        Ok(()) => None,
        Err(Violation::NotLinearizable { operation, .. } | Violation::TooManyWays { operation }) => {
            Some(operation)
        }
    }
}

use Answer::{Accepted, Refused, Retired, Rotated, Shown, Undone, Unknown};
use Call::{Authenticate, Read, Retire, Revoke, Rotate, Undo};

#[test]
fn a_rotation_as_it_should_be_is_accepted() {
    let history = [
        at(1, 2, Rotate(0), Rotated(1)),
        at(3, 4, Authenticate(0), Accepted),
        at(5, 6, Authenticate(1), Accepted),
        at(7, 8, Read, Shown(1, Some(0))),
        at(9, 10, Retire(0), Retired(1)),
        at(11, 12, Authenticate(0), Refused),
        at(13, 14, Rotate(0), Refused),
        at(15, 16, Retire(0), Refused),
    ];
    assert_eq!(culprit(&history), None);
}

#[test]
fn a_retired_secret_that_is_accepted_is_found() {
    let retired = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Retire(0), Retired(1))];
    let after = |operation| culprit(&[retired[0], retired[1], operation]);
    assert_eq!(after(at(5, 6, Authenticate(0), Accepted)), Some(2));
    // One that was asked before the retirement was answered may have come first.
    let meanwhile = [retired[0], at(3, 6, Retire(0), Retired(1)), at(4, 5, Authenticate(0), Accepted)];
    assert_eq!(culprit(&meanwhile), None);
}

#[test]
fn once_a_secret_was_refused_it_is_not_accepted_again() {
    let history = [
        at(1, 2, Rotate(0), Rotated(1)),
        at(3, 20, Retire(0), Retired(1)),
        at(4, 5, Authenticate(0), Refused),
        at(6, 7, Authenticate(0), Accepted),
    ];
    assert_eq!(culprit(&history), Some(3));
}

#[test]
fn a_new_secret_that_is_refused_is_found() {
    let history = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Authenticate(1), Refused)];
    assert_eq!(culprit(&history), Some(1));
}

#[test]
fn two_winners_of_one_rotation_are_found() {
    let history = [at(1, 4, Rotate(0), Rotated(1)), at(2, 5, Rotate(0), Rotated(2))];
    assert_eq!(culprit(&history), Some(1));
    let one_won = [at(1, 4, Rotate(0), Rotated(1)), at(2, 5, Rotate(0), Refused)];
    assert_eq!(culprit(&one_won), None);
    let nobody_won = [at(1, 4, Rotate(0), Refused), at(2, 5, Rotate(0), Refused)];
    assert!(culprit(&nobody_won).is_some());
}

#[test]
fn a_rotation_that_was_answered_and_then_lost_is_found() {
    let history = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Read, Shown(0, None))];
    assert_eq!(culprit(&history), Some(1));
}

#[test]
fn what_got_no_answer_may_happen_late_or_never() {
    let lost = at(1, 2, Rotate(0), Unknown);
    let never = [lost, at(3, 4, Read, Shown(0, None)), at(5, 6, Rotate(0), Rotated(1))];
    assert_eq!(culprit(&never), None);
    let late = [lost, at(3, 4, Authenticate(0), Accepted), at(5, 6, Read, Shown(7, Some(0)))];
    assert_eq!(culprit(&late), None);
    // It happened, so the secret that it made works, and it does not happen again.
    let then = |operation| culprit(&[lost, late[2], operation]);
    assert_eq!(then(at(7, 8, Authenticate(7), Accepted)), None);
    assert_eq!(then(at(7, 8, Authenticate(7), Refused)), Some(2));
    assert_eq!(then(at(7, 8, Rotate(0), Rotated(9))), Some(2));
    let retired = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Retire(0), Unknown)];
    let then = |answer, again| {
        let first = at(5, 6, Authenticate(0), answer);
        culprit(&[retired[0], retired[1], first, at(7, 8, Authenticate(0), again)])
    };
    assert_eq!(then(Refused, Refused), None);
    assert_eq!(then(Accepted, Refused), None);
    assert_eq!(then(Refused, Accepted), Some(3));
}

#[test]
fn a_rotation_is_undone_once_and_what_got_no_answer_does_not_happen_again_after_it() {
    let undone = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Undo, Undone(0, 1))];
    let then = |operation| culprit(&[undone[0], undone[1], operation]);
    assert_eq!(then(at(5, 6, Read, Shown(0, Some(1)))), None);
    assert_eq!(then(at(5, 6, Read, Shown(1, Some(0)))), Some(2));
    assert_eq!(then(at(5, 6, Authenticate(1), Accepted)), None);
    assert_eq!(then(at(5, 6, Revoke, Retired(0))), None);
    assert_eq!(then(at(5, 6, Revoke, Refused)), Some(2));
    let nothing = at(1, 2, Undo, Refused);
    assert_eq!(culprit(&[nothing, at(3, 4, Revoke, Refused)]), None);
    assert_eq!(culprit(&[nothing, undone[0], at(3, 4, Undo, Refused)]), Some(2));
    // A rotation that was made and undone is not made once more.
    let lost = at(1, 2, Rotate(0), Unknown);
    let seen = [lost, at(3, 4, Read, Shown(7, Some(0))), at(5, 6, Undo, Undone(0, 7))];
    let then = |operation| culprit(&[seen[0], seen[1], seen[2], operation]);
    assert_eq!(then(at(7, 8, Read, Shown(0, Some(7)))), None);
    assert_eq!(then(at(7, 8, Read, Shown(8, Some(0)))), Some(3));
}

#[test]
fn a_secret_is_not_made_after_it_was_seen() {
    let history = [
        at(1, 2, Rotate(0), Rotated(1)),
        at(3, 4, Retire(0), Retired(1)),
        at(5, 6, Rotate(1), Unknown),
        at(7, 8, Read, Shown(0, Some(1))),
    ];
    assert_eq!(culprit(&history), Some(3));
}

#[test]
fn a_violation_is_explained() {
    let history = [at(1, 2, Rotate(0), Rotated(1)), at(3, 4, Authenticate(1), Refused)];
    let text = explain(&history, &check(0, &history).unwrap_err());
    assert!(text.contains("Authenticate(1) -> Refused") && text.contains("Rotate(0)"), "{text}");
}

/// All orders, one after another, without a thought.
fn some_order_explains(history: &[Operation]) -> bool {
    fn go(model: &Model<'_>, history: &[Operation], slots: Slots, left: &[usize]) -> bool {
        if left.iter().all(|number| history[*number].answer == Unknown) {
            return true;
        }
        left.iter().any(|number| {
            let is_next = left.iter().all(|other| {
                history[*other].answer == Unknown || history[*other].returned >= history[*number].invoked
            });
            let rest: Vec<usize> = left.iter().copied().filter(|other| other != number).collect();
            is_next && model.step(slots, *number).is_some_and(|slots| go(model, history, slots, &rest))
        })
    }
    let numbers: Vec<usize> = (0..history.len()).collect();
    let first = Slots { active: Held::Known(0), retiring: None };
    go(&Model::new(0, history), history, first, &numbers)
}

/// A few operations under way together on a few secrets; the rotation of number `n` gives `10 + n`.
fn histories() -> impl Strategy<Value = Vec<Operation>> {
    let secret = prop_oneof![Just(0), 10_u32..15];
    let operation = (0_usize..18, secret.clone(), proptest::option::of(secret), 0_u64..40, 1_u64..20);
    proptest::collection::vec(operation, 1..7).prop_map(|drawn| {
        let mut history = Vec::new();
        for (number, (kind, secret, other, start, takes)) in (0..).zip(drawn) {
            let (call, answer) = match kind {
                0 | 1 => (Rotate(secret), Rotated(10 + number)),
                2 => (Rotate(secret), Refused),
                3 => (Rotate(secret), Unknown),
                4 => (Retire(secret), Retired(other.unwrap_or(0))),
                5 => (Retire(secret), Refused),
                6 => (Retire(secret), Unknown),
                7 | 8 => (Authenticate(secret), Accepted),
                9 => (Authenticate(secret), Refused),
                10 => (Undo, Undone(secret, other.unwrap_or(0))),
                11 => (Undo, Refused),
                12 => (Undo, Unknown),
                13 => (Revoke, Retired(secret)),
                14 => (Revoke, Refused),
                15 => (Revoke, Unknown),
                _ => (Read, Shown(secret, other)),
            };
            // No two things happen at one moment.
            let moment = |at: u64| at * 16 + u64::from(number);
            history.push(at(moment(start), moment(start + takes) + 8, call, answer));
        }
        history
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn the_search_finds_what_trying_every_order_finds(history in histories()) {
        prop_assert_eq!(check(0, &history).is_ok(), some_order_explains(&history));
    }
}
