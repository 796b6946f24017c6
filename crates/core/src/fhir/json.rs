//! Strict JSON reading for request bodies. `serde_json` alone accepts duplicate keys (the last one
//! wins), which would let two readers of one body disagree about which secret or policy it carries.
//! Kept apart because its errors are shown to clients: they say what and where, never the content.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::nearest::shown;
use super::schema::LIST_ITEMS_MAX;
use crate::limits::DOCUMENT_NODES_MAX;

/// Objects and arrays may be nested this many levels deep, no more.
pub const DEPTH_MAX: usize = crate::limits::DOCUMENT_DEPTH_MAX;

/// Why a body is not acceptable JSON. Display is safe to show: it never repeats string values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong, in words.
    pub reason: String,
    /// Line of the fault, counted from 1.
    pub line: usize,
    /// Column of the fault in bytes, as `serde_json` counts it.
    pub column: usize,
}

/// About how many bytes are parsed between two requests for memory.
const STEP_BYTES: usize = 16 * 1024;
const VALUE_BYTES: usize = size_of::<Value>();
/// A member of an object: its name and its value, and the hash of the name.
const MEMBER_BYTES: usize = VALUE_BYTES + size_of::<String>() + size_of::<usize>();
/// Overhead of one allocation, and of the table in which an object finds its members.
const PIECE_BYTES: usize = 16;

/// Reads one JSON text (RFC 8259).
///
/// Integers that fit 64 bits stay integers; other numbers become the nearest `f64`.
///
/// # Errors
///
/// [`JsonError`] for malformed JSON, invalid UTF-8, anything after the value, a key given twice in
/// one object, more than [`DEPTH_MAX`] levels, more than [`DOCUMENT_NODES_MAX`] values, more than [`LIST_ITEMS_MAX`]
/// items in one list, or U+0000 in a string or key (`PostgreSQL` cannot store it).
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    parse_weighed(bytes, &|_| true)
}

/// Reads like [`parse`], and asks `take` for memory while it builds the value, because a value such as `[0,0]` takes
/// many times the bytes of its text. The sum of the requests is at least [`weight`].
///
/// # Errors
///
/// Those of [`parse`], and an error of any kind if `take` refuses.
pub fn parse_weighed(bytes: &[u8], take: &dyn Fn(usize) -> bool) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|fault| invalid_utf8(bytes, fault.valid_up_to()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let scales = Scales { nodes: Cell::new(0), untaken: Cell::new(0), take };
    let value = Strict { depth: 0, scales: &scales }.deserialize(&mut reader);
    let value = value.map_err(|fault| JsonError::from_serde(&fault))?;
    reader.end().map_err(|fault| JsonError::from_serde(&fault))?;
    scales.take_rest().map_err(|fault| JsonError::from_serde(&fault))?;
    Ok(value)
}

/// About how many bytes of memory a value takes. Recursive, so only for values that were parsed or stored, whose
/// depth is bounded.
#[must_use]
pub fn weight(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text_bytes(text),
        Value::Array(items) => PIECE_BYTES + items.iter().map(weight).sum::<usize>(),
        Value::Object(members) => return VALUE_BYTES + weight_of_members(members),
    };
    VALUE_BYTES + inside
}

/// The same for the members of an object, without the object itself.
#[must_use]
pub fn weight_of_members(members: &Map<String, Value>) -> usize {
    let inside = |(name, value): (&String, &Value)| text_bytes(name) + weight(value) - VALUE_BYTES;
    members_bytes(members.len()) + members.iter().map(inside).sum::<usize>()
}

const fn text_bytes(text: &str) -> usize {
    text.len() + PIECE_BYTES
}

/// The memory of an object's table of members, which has more room than members.
const fn members_bytes(count: usize) -> usize {
    let buckets = match count {
        0 => return 0,
        1..=3 => 4,
        4..=7 => 8,
        _ => (count * 8 / 7 + 1).next_power_of_two(),
    };
    let room = if buckets < 8 { 3 } else { buckets / 8 * 7 };
    room * MEMBER_BYTES + buckets * PIECE_BYTES
}

/// Counts the values and bytes that are built.
struct Scales<'t> {
    nodes: Cell<usize>,
    untaken: Cell<usize>,
    take: &'t dyn Fn(usize) -> bool,
}

impl Scales<'_> {
    fn add<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        self.untaken.set(self.untaken.get() + bytes);
        if self.untaken.get() < STEP_BYTES { Ok(()) } else { self.take_rest() }
    }

    fn take_rest<E: serde::de::Error>(&self) -> Result<(), E> {
        if (self.take)(self.untaken.take()) {
            Ok(())
        } else {
            Err(E::custom("more memory than is available for it"))
        }
    }

    fn node<E: serde::de::Error>(&self) -> Result<(), E> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() <= DOCUMENT_NODES_MAX {
            return Ok(());
        }
        Err(E::custom(format_args!(
            "more than {DOCUMENT_NODES_MAX} values in one document; send less at once"
        )))
    }
}

impl JsonError {
    fn from_serde(fault: &serde_json::Error) -> Self {
        let (line, column) = (fault.line(), fault.column());
        let text = fault.to_string();
        let reason = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
        Self { reason: reason.to_owned(), line, column }
    }
}

fn invalid_utf8(bytes: &[u8], valid_up_to: usize) -> JsonError {
    let before = bytes.get(..valid_up_to).unwrap_or_default();
    let is_newline = |byte: &u8| *byte == b'\n';
    let last_line = before.rsplit(is_newline).next().unwrap_or_default();
    JsonError {
        reason: "invalid UTF-8".to_owned(),
        line: before.split(is_newline).count(),
        column: last_line.len() + 1,
    }
}

/// Builds a [`Value`] below `depth` enclosing containers.
#[derive(Clone, Copy)]
struct Strict<'s> {
    depth: usize,
    scales: &'s Scales<'s>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

fn without_nul<E: serde::de::Error>(text: String) -> Result<String, E> {
    if text.contains('\0') {
        return Err(E::custom("the character U+0000 is not allowed"));
    }
    Ok(text)
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.scales.node()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.scales.add(text_bytes(&value))?;
        without_nul(value).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        self.scales.add(PIECE_BYTES)?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            // A long list is copied each time it grows, and no element may have more items.
            if items.len() >= LIST_ITEMS_MAX {
                return Err(A::Error::custom(format_args!("a list may have at most {LIST_ITEMS_MAX} items")));
            }
            self.scales.add(VALUE_BYTES)?;
            items.push(item);
        }
        // While it grows, it has room for up to twice as many.
        items.shrink_to_fit();
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let key = without_nul(key)?;
            if members.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "the key {} is given twice in one object",
                    shown(&key)
                )));
            }
            let count = members.len();
            self.scales.add(text_bytes(&key) + members_bytes(count + 1) - members_bytes(count))?;
            let value = access.next_value_seed(inner)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fault(text: &str) -> String {
        parse(text.as_bytes()).expect_err("should be refused").to_string()
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,1.5,true,null,"é\n"],"b":{}}"#;
        let expected = json!({"a": [1, -2, 1.5, true, null, "é\n"], "b": {}});
        assert_eq!(parse(text.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_key_given_twice_is_named_with_its_place() {
        assert_eq!(
            fault("{\"name\":\"x\",\n \"name\":\"s3cret\"}"),
            "the key 'name' is given twice in one object at line 2, column 7"
        );
        assert!(fault(r#"{"x":[{"a":1,"\u0061":2}]}"#).starts_with("the key 'a' is given twice"));
    }

    #[test]
    fn nesting_is_bounded_exactly() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(fault(&nested(DEPTH_MAX + 1)).starts_with("nested deeper than 64 levels"));
        assert!(fault(&"[".repeat(1_000_000)).starts_with("nested deeper than 64 levels"));
        assert!(fault(&"{\"a\":".repeat(1_000_000)).starts_with("nested deeper than 64 levels"));
    }

    #[test]
    fn the_number_of_values_is_bounded_exactly() {
        // Lists of 999 zeros are 1000 values each; the outermost list is one more.
        let lists = |count: usize| vec![zeros(LIST_ITEMS_MAX - 1); count].join(",");
        let array =
            |last: usize| format!("[{},{}]", lists(DOCUMENT_NODES_MAX / LIST_ITEMS_MAX - 1), zeros(last));
        assert!(parse(array(LIST_ITEMS_MAX - 2).as_bytes()).is_ok());
        let said = fault(&array(LIST_ITEMS_MAX - 1));
        assert!(said.starts_with("more than 100000 values in one document; send less at once"), "{said}");
        let objects = format!("[{}]", vec![r#"{"a":0}"#; LIST_ITEMS_MAX].join(","));
        let objects = format!("[{}]", vec![objects; DOCUMENT_NODES_MAX / LIST_ITEMS_MAX / 2].join(","));
        assert!(fault(&objects).starts_with("more than 100000 values"));
    }

    fn zeros(count: usize) -> String {
        format!("[{}]", vec!["0"; count].join(","))
    }

    #[test]
    fn a_long_list_is_refused_at_its_first_item_beyond_the_bound() {
        assert!(parse(zeros(LIST_ITEMS_MAX).as_bytes()).is_ok());
        let taken = Cell::new(0);
        let take = |bytes| {
            taken.set(taken.get() + bytes);
            true
        };
        let objects = format!(r#"{{"name":[{}]}}"#, vec!["{}"; 99_000].join(","));
        let said = parse_weighed(objects.as_bytes(), &take).unwrap_err().to_string();
        assert!(said.starts_with("a list may have at most 1000 items at line 1, column 30"), "{said}");
        assert!(taken.get() < 2 * LIST_ITEMS_MAX * VALUE_BYTES, "{} taken", taken.get());
    }

    #[test]
    fn memory_is_asked_for_before_it_is_used_up() {
        let text = format!("[{}]", vec![zeros(LIST_ITEMS_MAX); 50].join(","));
        let left = Cell::new(1_000_000_usize);
        let take = |bytes: usize| left.get().checked_sub(bytes).inspect(|rest| left.set(*rest)).is_some();
        assert!(parse_weighed(text.as_bytes(), &take).is_err());
        assert!(left.get() < 2 * STEP_BYTES, "{} left", left.get());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 200, 40, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..40).prop_map(Value::from),
                proptest::collection::hash_map("[a-z]{0,3}", inner, 0..40)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn nul_utf8_and_trailing_data_are_refused() {
        assert!(fault(r#"{"a":"x\u0000"}"#).starts_with("the character U+0000"));
        assert!(fault(r#"{"a\u0000":1}"#).starts_with("the character U+0000"));
        assert!(fault("{} {}").starts_with("trailing characters at line 1"));
        assert!(fault("").starts_with("EOF"));
        assert_eq!(
            parse(b"{\n\"a\":\"\xff\"}").unwrap_err().to_string(),
            "invalid UTF-8 at line 2, column 6"
        );
        assert!(parse(br#""\ud800""#).is_err());
        assert!(parse(b"1e999").is_err());
        assert!(parse(b"NaN").is_err());
    }

    proptest! {
        #[test]
        fn what_is_asked_for_is_what_comes_of_it(value in value()) {
            let asked = Cell::new(0);
            let take = |bytes| { asked.set(asked.get() + bytes); true };
            let read = parse_weighed(value.to_string().as_bytes(), &take);
            let expected = value.to_string().contains("\\u0000");
            if let Ok(read) = read {
                prop_assert_eq!(asked.get() + VALUE_BYTES, weight(&read));
            } else {
                prop_assert!(expected);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn errors_never_repeat_a_string_value(cut in 0_usize..44) {
            let body = r#"{"secret":"krs_topsecret","name":"topsecret"}"#;
            if let Err(fault) = parse(&body.as_bytes()[..cut]) {
                prop_assert!(!fault.to_string().contains("topsecret"));
            }
        }
    }
}
