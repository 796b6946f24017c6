//! The weight of a JSON document. The bounds apply to every document, not only to parsed texts: a patch, a link or a
//! merge can build a document from small inputs that is larger than any body.
//! Other code may visit, copy, compare and drop values by recursion, because no document is deeper than
//! [`Weight::DOCUMENT`]. This module uses no recursion, so that it can weigh any value.

use std::io::{self, Write};

use serde_json::{Map, Value};
use thiserror::Error;

use crate::limits::{DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, DOCUMENT_NODES_MAX};

/// The weight of a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Levels of objects and arrays; 0 for a text.
    pub depth: usize,
    /// Values, the outermost one included.
    pub nodes: usize,
    /// Length as JSON text without spaces.
    pub bytes: usize,
}

/// A bound that a document exceeds. Reads well after "the resource would be".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooHeavy {
    /// Its depth.
    #[error("nested deeper than {0} levels")]
    Depth(usize),
    /// The number of its values.
    #[error("made of more than {0} values")]
    Nodes(usize),
    /// Its length.
    #[error("larger than {0} bytes")]
    Bytes(usize),
}

impl Weight {
    /// The most that any document may weigh.
    pub const DOCUMENT: Self =
        Self { depth: DOCUMENT_DEPTH_MAX, nodes: DOCUMENT_NODES_MAX, bytes: DOCUMENT_BYTES_MAX };

    /// Weighs a value.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut scales = Scales::default();
        scales.put(value);
        scales.weigh()
    }

    /// Weighs an object of these members.
    #[must_use]
    pub fn of_object(members: &Map<String, Value>) -> Self {
        let mut scales = Scales::default();
        scales.open_object(members);
        scales.weigh()
    }

    /// The bytes that a member or an item adds to the text of its container, without its value. `siblings` is the
    /// number of the other ones.
    #[must_use]
    pub fn place(name: Option<&str>, siblings: usize) -> Self {
        let bytes = usize::from(siblings > 0) + name.map_or(0, |name| text_bytes(name) + 1);
        Self { bytes, ..Self::default() }
    }

    /// Both together. The depth is the greater one.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            depth: self.depth.max(other.depth),
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// This weight without a part of it. The depth stays, because the rest may be as deep.
    #[must_use]
    pub const fn minus(self, part: Self) -> Self {
        Self {
            depth: self.depth,
            nodes: self.nodes.saturating_sub(part.nodes),
            bytes: self.bytes.saturating_sub(part.bytes),
        }
    }

    /// The weight of this inside so many containers.
    #[must_use]
    pub const fn inside(self, containers: usize) -> Self {
        Self { depth: self.depth.saturating_add(containers), ..self }
    }

    /// The maximum of each number.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            depth: self.depth.max(other.depth),
            nodes: self.nodes.max(other.nodes),
            bytes: self.bytes.max(other.bytes),
        }
    }

    /// Whether this is within the bounds.
    ///
    /// # Errors
    ///
    /// The first bound that it exceeds.
    pub const fn check(self, most: Self) -> Result<(), TooHeavy> {
        if self.depth > most.depth {
            Err(TooHeavy::Depth(most.depth))
        } else if self.nodes > most.nodes {
            Err(TooHeavy::Nodes(most.nodes))
        } else if self.bytes > most.bytes {
            Err(TooHeavy::Bytes(most.bytes))
        } else {
            Ok(())
        }
    }
}

/// The rest of a container that is not weighed yet.
enum Rest<'v> {
    Items(std::slice::Iter<'v, Value>),
    Members(serde_json::map::Iter<'v>),
}

/// Weighs without recursion: the containers that are open are a list.
#[derive(Default)]
struct Scales<'v> {
    weight: Weight,
    open: Vec<Rest<'v>>,
}

impl<'v> Scales<'v> {
    fn weigh(mut self) -> Weight {
        while let Some(rest) = self.open.last_mut() {
            let next = match rest {
                Rest::Items(items) => items.next(),
                Rest::Members(members) => members.next().map(|(name, value)| {
                    self.weight.bytes += text_bytes(name) + 1;
                    value
                }),
            };
            match next {
                Some(value) => self.put(value),
                None => drop(self.open.pop()),
            }
        }
        self.weight
    }

    fn put(&mut self, value: &'v Value) {
        match value {
            Value::Array(items) => self.open(items.len(), Rest::Items(items.iter())),
            Value::Object(members) => self.open_object(members),
            Value::String(text) => self.add(text_bytes(text)),
            Value::Null | Value::Bool(true) => self.add(4),
            Value::Bool(false) => self.add(5),
            Value::Number(number) => self.add(printed_bytes(format_args!("{number}"))),
        }
    }

    fn open_object(&mut self, members: &'v Map<String, Value>) {
        self.open(members.len(), Rest::Members(members.iter()));
    }

    fn open(&mut self, inside: usize, rest: Rest<'v>) {
        self.add("[]".len() + inside.saturating_sub(1));
        self.open.push(rest);
        self.weight.depth = self.weight.depth.max(self.open.len());
    }

    const fn add(&mut self, bytes: usize) {
        self.weight.nodes += 1;
        self.weight.bytes += bytes;
    }
}

/// The length of a text with its quotes and escapes.
fn text_bytes(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0x00..=0x1f => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
}

fn printed_bytes(printed: std::fmt::Arguments<'_>) -> usize {
    let mut counted = Counted(0);
    // A writer that only counts cannot fail.
    let _ = counted.write_fmt(printed);
    counted.0
}

struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_nodes_and_bytes_are_counted() {
        let weight = |value: Value| {
            let Weight { depth, nodes, bytes } = Weight::of(&value);
            (depth, nodes, bytes)
        };
        assert_eq!(weight(json!(null)), (0, 1, 4));
        assert_eq!(weight(json!([])), (1, 1, 2));
        assert_eq!(weight(json!({"a": [1, -2.5]})), (2, 4, 14));
        assert_eq!(weight(json!("\u{1}\"é")), (0, 1, 12));
        let deep = (0..100_000).fold(json!(1), |inner, _| Value::Array(vec![inner]));
        assert_eq!(weight_of_deep(deep), (100_000, 100_001, 200_001));
    }

    /// Takes a deep value apart level by level: dropping it as a whole would overflow the stack.
    fn weight_of_deep(mut value: Value) -> (usize, usize, usize) {
        let Weight { depth, nodes, bytes } = Weight::of(&value);
        while let Value::Array(mut items) = value {
            value = items.pop().unwrap_or_default();
        }
        (depth, nodes, bytes)
    }

    #[test]
    fn the_first_bound_that_is_exceeded_is_named() {
        let most = Weight { depth: 2, nodes: 4, bytes: 14 };
        assert_eq!(Weight::of(&json!({"a": [1, -2.5]})).check(most), Ok(()));
        assert_eq!(Weight::of(&json!([[[]]])).check(most), Err(TooHeavy::Depth(2)));
        assert_eq!(Weight::of(&json!([1, 2, 3, 4])).check(most), Err(TooHeavy::Nodes(4)));
        assert_eq!(Weight::of(&json!(["fourteen bytes"])).check(most), Err(TooHeavy::Bytes(14)));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((".{0,3}", inner), 0..5)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_text(value in value()) {
            prop_assert_eq!(Weight::of(&value).bytes, value.to_string().len());
        }

        #[test]
        fn a_member_adds_its_place_and_its_value(mut members in prop::collection::vec((".{0,3}", value()), 0..4)) {
            let mut map = Map::new();
            let mut weight = Weight::of_object(&map);
            while let Some((name, value)) = members.pop() {
                if !map.contains_key(&name) {
                    let place = Weight::place(Some(&name), map.len());
                    weight = weight.plus(Weight::of(&value).inside(1)).plus(place);
                    map.insert(name, value);
                }
            }
            prop_assert_eq!(Weight::of_object(&map), weight);
        }
    }
}
