//! Strict JSON reading for request bodies. `serde_json` alone accepts duplicate keys (the last one
//! wins), which would let two readers of one body disagree about which secret or policy it carries.
//! Kept apart because its errors are shown to clients: they say what and where, never the content.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::nearest::shown;

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

/// Reads one JSON text (RFC 8259).
///
/// Integers that fit 64 bits stay integers; other numbers become the nearest `f64`.
///
/// # Errors
///
/// [`JsonError`] for malformed JSON, invalid UTF-8, anything after the value, a key given twice in
/// one object, more than [`DEPTH_MAX`] levels, or U+0000 in a string or key (`PostgreSQL` cannot
/// store it).
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|fault| invalid_utf8(bytes, fault.valid_up_to()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value =
        Strict { depth: 0 }.deserialize(&mut reader).map_err(|fault| JsonError::from_serde(&fault))?;
    reader.end().map_err(|fault| JsonError::from_serde(&fault))?;
    Ok(value)
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
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

fn without_nul<E: serde::de::Error>(text: String) -> Result<String, E> {
    if text.contains('\0') {
        return Err(E::custom("the character U+0000 is not allowed"));
    }
    Ok(text)
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
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
        without_nul(value).map(Value::String)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
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
