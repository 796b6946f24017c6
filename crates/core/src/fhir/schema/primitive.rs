//! The text formats of FHIR's primitive types (R4 §2.24.0.1). Apart from the tree walk so that
//! each format is one short predicate with its own tests.

use serde_json::Value;

use super::super::datetime;

/// The longest string accepted: 1 MB, the limit FHIR R4 sets for `string`.
pub const STRING_BYTES_MAX: usize = 1_048_576;

const ID_CHARS_MAX: usize = 64;

/// A primitive type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the FHIR type of the same name")]
pub enum Primitive {
    Base64Binary,
    Boolean,
    Canonical,
    Code,
    Date,
    DateTime,
    Decimal,
    Id,
    Instant,
    Integer,
    Markdown,
    Oid,
    PositiveInt,
    String,
    Time,
    UnsignedInt,
    Uri,
    Url,
    Uuid,
    Xhtml,
}

/// Why a JSON value is not of a primitive type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Another JSON type; holds the one that is expected.
    JsonType(&'static str),
    /// The right JSON type, the wrong content; holds what is expected.
    Format(&'static str),
}

impl Primitive {
    /// The FHIR name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base64Binary => "base64Binary",
            Self::Boolean => "boolean",
            Self::Canonical => "canonical",
            Self::Code => "code",
            Self::Date => "date",
            Self::DateTime => "dateTime",
            Self::Decimal => "decimal",
            Self::Id => "id",
            Self::Instant => "instant",
            Self::Integer => "integer",
            Self::Markdown => "markdown",
            Self::Oid => "oid",
            Self::PositiveInt => "positiveInt",
            Self::String => "string",
            Self::Time => "time",
            Self::UnsignedInt => "unsignedInt",
            Self::Uri => "uri",
            Self::Url => "url",
            Self::Uuid => "uuid",
            Self::Xhtml => "xhtml",
        }
    }

    pub(super) fn check(self, value: &Value) -> Result<(), Misfit> {
        match self {
            Self::Boolean if value.is_boolean() => Ok(()),
            Self::Boolean => Err(Misfit::JsonType("true or false")),
            Self::Decimal if value.is_number() => Ok(()),
            Self::Decimal => Err(Misfit::JsonType("a number")),
            Self::Integer => check_integer(value, i64::from(i32::MIN), "a whole number of 32 bits"),
            Self::UnsignedInt => check_integer(value, 0, "a whole number from 0 to 2147483647"),
            Self::PositiveInt => check_integer(value, 1, "a whole number from 1 to 2147483647"),
            _ => match value {
                Value::String(text) => self.check_text(text).map_err(Misfit::Format),
                _ => Err(Misfit::JsonType("a string")),
            },
        }
    }

    fn check_text(self, text: &str) -> Result<(), &'static str> {
        if text.is_empty() {
            return Err("a text that is not empty");
        }
        if text.len() > STRING_BYTES_MAX {
            return Err("a text of at most 1 MB");
        }
        let (fits, expected) = match self {
            Self::Id => (is_id(text), "1 to 64 letters, digits, '-' or '.'"),
            Self::Code => (is_code(text), "a code without leading, trailing or double spaces"),
            Self::Uri | Self::Url | Self::Canonical => (is_uri(text), "a URI without spaces"),
            Self::Oid => (is_oid(text), "an OID such as urn:oid:1.2.3"),
            Self::Uuid => (is_uuid_urn(text), "a UUID such as urn:uuid:c757873d-…"),
            Self::Instant => (
                datetime::is_instant(text),
                "an instant with seconds and time zone, such as 2024-05-01T12:00:00Z",
            ),
            Self::DateTime => {
                (datetime::is_date_time(text), "a date, or a date and time with seconds and time zone")
            }
            Self::Date => (datetime::is_date(text), "a date such as 2024-05-01"),
            Self::Time => (datetime::is_time(text), "a time such as 12:00:00"),
            Self::Base64Binary => (is_base64(text), "base64"),
            Self::Xhtml => (text.starts_with("<div"), "XHTML that starts with <div"),
            _ => (is_printable(text), "a text that is not blank and has no control characters"),
        };
        if fits { Ok(()) } else { Err(expected) }
    }
}

fn check_integer(value: &Value, min: i64, expected: &'static str) -> Result<(), Misfit> {
    if !value.is_number() {
        return Err(Misfit::JsonType("a whole number"));
    }
    match value.as_i64() {
        Some(number) if (min..=i64::from(i32::MAX)).contains(&number) => Ok(()),
        _ => Err(Misfit::Format(expected)),
    }
}

/// Whether `text` has the shape of a FHIR `id`: 1 to 64 of `A–Z a–z 0–9 - .`.
pub(in super::super) fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

fn is_printable(text: &str) -> bool {
    let forbidden = |character: char| character.is_control() && !matches!(character, '\t' | '\r' | '\n');
    !text.contains(forbidden) && !text.trim().is_empty()
}

fn is_code(text: &str) -> bool {
    text.split(' ').all(|word| !word.is_empty() && is_uri(word))
}

/// FHIR allows any text without white space; control characters are refused as well, because such
/// values end up in HTTP headers.
fn is_uri(text: &str) -> bool {
    !text.contains(|character: char| character.is_whitespace() || character.is_control())
}

fn is_oid(text: &str) -> bool {
    let Some(numbers) = text.strip_prefix("urn:oid:") else {
        return false;
    };
    let mut arcs = numbers.split('.');
    let first_is_root = matches!(arcs.next(), Some("0" | "1" | "2"));
    let is_arc = |arc: &str| {
        !arc.is_empty()
            && arc.bytes().all(|byte| byte.is_ascii_digit())
            && (arc == "0" || !arc.starts_with('0'))
    };
    first_is_root && numbers.contains('.') && arcs.all(is_arc)
}

fn is_uuid_urn(text: &str) -> bool {
    text.strip_prefix("urn:uuid:").is_some_and(|uuid| {
        uuid.len() == 36
            && !uuid.contains(|c: char| c.is_ascii_uppercase())
            && uuid::Uuid::try_parse(uuid).is_ok()
    })
}

/// Base64 with padding; white space between the characters is allowed, as in R4.
fn is_base64(text: &str) -> bool {
    let (mut symbols, mut padding) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => symbols += 1,
            _ => return false,
        }
    }
    symbols > 0 && padding <= 2 && (symbols + padding).is_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fits(primitive: Primitive, value: impl Into<Value>) -> bool {
        primitive.check(&value.into()).is_ok()
    }

    #[test]
    fn texts() {
        assert!(fits(Primitive::Id, "a-1.B") && !fits(Primitive::Id, "a_1"));
        assert!(!fits(Primitive::Id, "x".repeat(65)));
        assert!(fits(Primitive::Code, "client_credentials") && fits(Primitive::Code, "a b"));
        assert!(!fits(Primitive::Code, " a") && !fits(Primitive::Code, "a  b"));
        assert!(fits(Primitive::Uri, "https://example.com/x") && !fits(Primitive::Uri, "a b"));
        assert!(!fits(Primitive::Url, "https://example.com/\r\nx"));
        assert!(fits(Primitive::Oid, "urn:oid:1.2.0") && !fits(Primitive::Oid, "urn:oid:3.1"));
        assert!(!fits(Primitive::Oid, "urn:oid:1") && !fits(Primitive::Oid, "urn:oid:1.02"));
        assert!(fits(Primitive::Uuid, "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"));
        assert!(!fits(Primitive::Uuid, "c757873d-ec9a-4326-a141-556f43239520"));
        assert!(fits(Primitive::Base64Binary, "YWI=") && fits(Primitive::Base64Binary, "YW\nJj"));
        assert!(!fits(Primitive::Base64Binary, "YWI") && !fits(Primitive::Base64Binary, "Y=WI"));
        assert!(fits(Primitive::String, "two\nlines") && !fits(Primitive::String, " "));
        assert!(!fits(Primitive::String, "\u{7}") && !fits(Primitive::String, ""));
        assert!(!fits(Primitive::String, "x".repeat(STRING_BYTES_MAX + 1)));
    }

    #[test]
    fn numbers_and_booleans() {
        assert!(fits(Primitive::Integer, -5) && !fits(Primitive::Integer, 1.5));
        assert!(!fits(Primitive::Integer, 2_147_483_648_i64));
        assert!(fits(Primitive::UnsignedInt, 0) && !fits(Primitive::PositiveInt, 0));
        assert!(fits(Primitive::Decimal, 1.5) && !fits(Primitive::Decimal, "1.5"));
        assert!(fits(Primitive::Boolean, true) && !fits(Primitive::Boolean, "true"));
        assert_eq!(Primitive::Integer.check(&json!("5")), Err(Misfit::JsonType("a whole number")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            for primitive in [Primitive::Oid, Primitive::Uuid, Primitive::Base64Binary, Primitive::Code,
                Primitive::Instant, Primitive::Date, Primitive::Time, Primitive::String] {
                let _ = primitive.check(&Value::String(text.clone()));
            }
        }
    }
}
