//! Whether a history is linearizable: whether each operation can be put at one moment between its call
//! and its answer, so that all answers are those of the [`Model`], one after another.
//!
//! The search of Wing and Gong, in the order of time as Lowe does it ("Testing for linearizability",
//! 2017): at each answer, its operation is put somewhere, after as many others under way as it takes.
//! All ways that are left are kept as a set, so none is followed twice. A way is the slots, and which
//! of the operations under way have been put already.
//!
//! An operation without an answer is under way for ever. That it was put is remembered for as long as it could be
//! put once more, for a secret that was rotated comes back when that is undone; one that has ended does not.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::history::{Answer, Operation, Secret};
use crate::model::{Held, Model, Slots};

/// Ways that are followed at once. More than that is no history that this program makes.
const WAYS_MAX: usize = 200_000;
/// Operations shown with a violation.
const SHOWN: usize = 16;

/// One way in which things may have happened so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Way {
    slots: Slots,
    /// Operations under way that have been put, by number, in order.
    put: Vec<usize>,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// There is no way in which this operation can have been answered as it was.
    NotLinearizable {
        /// Its number.
        operation: usize,
        /// What the slots can have been before its answer.
        slots: Vec<Slots>,
    },
    /// There are too many ways to follow.
    TooManyWays {
        /// The number of the operation at which there were.
        operation: usize,
    },
}

/// Checks the history of one client application that begins with the secret `initial`.
///
/// # Errors
/// The first operation, in the order of the answers, that cannot have been answered as it was.
pub fn check(initial: Secret, history: &[Operation]) -> Result<(), Violation> {
    let model = Model::new(initial, history);
    let mut search = Search {
        model,
        history,
        under_way: Vec::new(),
        without_answer: Vec::new(),
        ways: HashSet::from([Way {
            slots: Slots { active: Held::Known(initial), retiring: None },
            put: Vec::new(),
        }]),
    };
    for event in events(history) {
        match event {
            Event::Called(number) => search.called(number),
            Event::Answered(number) => search.answered(number)?,
        }
    }
    Ok(())
}

enum Event {
    Called(usize),
    Answered(usize),
}

/// Calls and answers in the order in which they happened. Who got no answer has none.
fn events(history: &[Operation]) -> Vec<Event> {
    let mut events = Vec::with_capacity(history.len() * 2);
    for (number, operation) in history.iter().enumerate() {
        events.push((operation.invoked, Event::Called(number)));
        if operation.answer != Answer::Unknown {
            events.push((operation.returned, Event::Answered(number)));
        }
    }
    events.sort_by_key(|(moment, _)| *moment);
    events.into_iter().map(|(_, event)| event).collect()
}

struct Search<'a> {
    model: Model<'a>,
    history: &'a [Operation],
    /// Operations that were called and will be answered.
    under_way: Vec<usize>,
    /// Operations that were called and will not be.
    without_answer: Vec<usize>,
    ways: HashSet<Way>,
}

impl Search<'_> {
    fn called(&mut self, number: usize) {
        if self.history[number].answer == Answer::Unknown {
            self.without_answer.push(number);
            return;
        }
        self.under_way.push(number);
        self.ways = std::mem::take(&mut self.ways).into_iter().map(|way| self.settled(way)).collect();
    }

    /// Keeps the ways in which the operation has been put, and those that lead to it.
    fn answered(&mut self, number: usize) -> Result<(), Violation> {
        let before = std::mem::take(&mut self.ways);
        let mut seen = before.clone();
        let mut left: Vec<Way> = before.iter().cloned().collect();
        while let Some(mut way) = left.pop() {
            if let Ok(place) = way.put.binary_search(&number) {
                // What comes after it can wait for an answer of its own.
                way.put.remove(place);
                self.ways.insert(way);
                continue;
            }
            for next in self.next(&way) {
                if seen.insert(next.clone()) {
                    left.push(next);
                }
            }
            if seen.len() > WAYS_MAX {
                return Err(Violation::TooManyWays { operation: number });
            }
        }
        self.under_way.retain(|other| *other != number);
        if self.ways.is_empty() {
            let mut slots: Vec<Slots> = before.into_iter().map(|way| way.slots).collect();
            slots.sort_unstable();
            slots.dedup();
            return Err(Violation::NotLinearizable { operation: number, slots });
        }
        Ok(())
    }

    /// The ways that lead on by one operation.
    fn next(&self, way: &Way) -> Vec<Way> {
        let mut next = Vec::new();
        for number in self.under_way.iter().chain(&self.without_answer).copied() {
            let Err(place) = way.put.binary_search(&number) else { continue };
            if let Some(slots) = self.model.step(way.slots, number) {
                let mut put = way.put.clone();
                put.insert(place, number);
                next.push(self.settled(Way { slots, put }));
            }
        }
        next
    }

    /// Puts every operation that changes nothing here and can be here: where else it could be makes no
    /// difference to any other.
    fn settled(&self, mut way: Way) -> Way {
        let is_over = |number: usize| {
            self.history[number].answer == Answer::Unknown && self.model.is_over(way.slots, number)
        };
        way.put.retain(|number| !is_over(*number));
        for number in self.under_way.iter().copied() {
            if let Err(place) = way.put.binary_search(&number)
                && self.model.step(way.slots, number) == Some(way.slots)
            {
                way.put.insert(place, number);
            }
        }
        way
    }
}

/// A violation for people: the operation, what can have been, and what happened shortly before.
#[must_use]
pub fn explain(history: &[Operation], violation: &Violation) -> String {
    let (number, before) = match violation {
        Violation::NotLinearizable { operation, slots } => (*operation, slots.as_slice()),
        Violation::TooManyWays { operation } => (*operation, &[][..]),
    };
    let show = |operation: &Operation| {
        let Operation { call, answer, invoked, returned, node } = operation;
        format!("  [{invoked:>8} .. {returned:>8}] node {node}: {call:?} -> {answer:?}\n")
    };
    let culprit = &history[number];
    let mut text = match violation {
        Violation::NotLinearizable { .. } => String::from("no order explains this answer:\n"),
        Violation::TooManyWays { .. } => String::from("there are too many orders to try at:\n"),
    };
    text.push_str(&show(culprit));
    for slots in before.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  before it, the secrets can have been {slots:?}");
    }
    text.push_str("what else was going on:\n");
    let mut near: Vec<&Operation> =
        history.iter().filter(|other| other.invoked < culprit.returned && *other != culprit).collect();
    near.sort_by_key(|operation| std::cmp::Reverse(operation.returned));
    let mut near: Vec<&Operation> = near.into_iter().take(SHOWN).collect();
    near.sort_by_key(|operation| operation.invoked);
    for operation in near {
        text.push_str(&show(operation));
    }
    text
}

#[cfg(test)]
mod tests;
