//! Reading the values of a search parameter: splitting, escapes (R4 §3.1.1.4.0.1), prefixes and
//! the forms of each kind. The result is a [`Test`] on one index row, with nothing left to parse.

use super::super::datetime;
use super::super::reference::type_and_id;
use super::super::schema::is_id;
use super::{IndexEntry, ParamKind};
use crate::weighed_cache::Weighed;

/// The longest raw value of one parameter, in characters.
pub const VALUE_CHARS_MAX: usize = 4000;

/// How many values one parameter may list, separated by commas.
pub const VALUES_MAX: usize = 100;

/// The longest single value that can be looked up, in characters (2,400 bytes at most: a
/// `PostgreSQL` index row holds 2,704).
pub const INDEXED_CHARS_MAX: usize = 600;

/// How a span of time in the index is compared with the span that is asked for (R4 §3.1.1.4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparator {
    /// The asked span contains the indexed one: `low ≤ row.low AND row.high ≤ high`.
    Eq,
    /// Not [`Comparator::Eq`]; the row still has to exist.
    Ne,
    /// The indexed span reaches past the asked one: `row.high > high`.
    Gt,
    /// The indexed span starts before the asked one: `row.low < low`.
    Lt,
    /// [`Comparator::Gt`] or [`Comparator::Eq`].
    Ge,
    /// [`Comparator::Lt`] or [`Comparator::Eq`].
    Le,
    /// Starts after: `row.low ≥ high`.
    Sa,
    /// Ends before: `row.high ≤ low`.
    Eb,
}

impl Comparator {
    fn split(text: &str) -> (Self, &str) {
        let known = [
            ("eq", Self::Eq),
            ("ne", Self::Ne),
            ("gt", Self::Gt),
            ("lt", Self::Lt),
            ("ge", Self::Ge),
            ("le", Self::Le),
            ("sa", Self::Sa),
            ("eb", Self::Eb),
        ];
        known
            .into_iter()
            .find_map(|(prefix, comparator)| Some((comparator, text.strip_prefix(prefix)?)))
            .unwrap_or((Self::Eq, text))
    }

    /// Compares the span of a row with the span asked for, both half-open, in epoch milliseconds.
    #[must_use]
    pub const fn accepts(self, row: (i64, i64), asked: (i64, i64)) -> bool {
        let contained = asked.0 <= row.0 && row.1 <= asked.1;
        match self {
            Self::Eq => contained,
            Self::Ne => !contained,
            Self::Gt => row.1 > asked.1,
            Self::Lt => row.0 < asked.0,
            Self::Ge => row.1 > asked.1 || contained,
            Self::Le => row.0 < asked.0 || contained,
            Self::Sa => row.0 >= asked.1,
            Self::Eb => row.1 <= asked.0,
        }
    }
}

/// One condition on one row of the index table. Strings are already folded, references normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// `value = ?`
    Value(String),
    /// `value = ? AND system = ?`
    SystemValue {
        /// For strings (`:exact`) the text as written, for tokens the system.
        system: String,
        /// As in [`IndexEntry::value`].
        value: String,
    },
    /// `value = ? AND system IS NULL`
    BareValue(String),
    /// `system = ?`; also how a reference is asked for by id alone.
    System(String),
    /// `value` starts with this, character by character (no wildcards inside).
    StartsWith(String),
    /// `value` contains this, character by character (no wildcards inside).
    Contains(String),
    /// A comparison of `[low, high)` with `[low_ms, high_ms)`.
    Date {
        /// How to compare.
        comparator: Comparator,
        /// First millisecond of the span asked for.
        low_ms: i64,
        /// First millisecond after it.
        high_ms: i64,
    },
}

impl Weighed for Test {
    fn heap_bytes(&self) -> usize {
        match self {
            Self::SystemValue { system, value } => system.heap_bytes() + value.heap_bytes(),
            Self::Value(text)
            | Self::BareValue(text)
            | Self::System(text)
            | Self::StartsWith(text)
            | Self::Contains(text) => text.heap_bytes(),
            Self::Date { .. } => 0,
        }
    }
}

impl Test {
    /// Whether a row meets the condition.
    #[must_use]
    pub fn accepts(&self, row: &IndexEntry) -> bool {
        match self {
            Self::Value(value) => row.value == *value,
            Self::SystemValue { system, value } => row.value == *value && row.system.as_ref() == Some(system),
            Self::BareValue(value) => row.value == *value && row.system.is_none(),
            Self::System(system) => row.system.as_ref() == Some(system),
            Self::StartsWith(start) => row.value.starts_with(start.as_str()),
            Self::Contains(part) => row.value.contains(part.as_str()),
            Self::Date { .. } => match (row.at_ms, row.until_ms) {
                (Some(low), Some(high)) => self.accepts_span(low, high),
                _ => false,
            },
        }
    }

    /// Whether a span of time meets the condition; false for conditions on text.
    #[must_use]
    pub fn accepts_span(&self, row_low_ms: i64, row_high_ms: i64) -> bool {
        match self {
            Self::Date { comparator, low_ms, high_ms } => {
                comparator.accepts((row_low_ms, row_high_ms), (*low_ms, *high_ms))
            }
            _ => false,
        }
    }
}

/// How a string value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StringMode {
    Start,
    Exact,
    Contains,
}

/// Splits at unescaped occurrences of `separator`; the parts keep their escapes.
pub(super) fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    text.split(move |character| {
        let is_separator = character == separator && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_separator
    })
}

/// Resolves `\,` `\|` `\$` `\\`; any other backslash stands for itself.
pub(super) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let follows = characters.next_if(|next| character == '\\' && matches!(next, ',' | '|' | '$' | '\\'));
        plain.push(follows.unwrap_or(character));
    }
    plain
}

/// Lower case with single spaces, cut like [`IndexEntry::value`]. Accents are kept.
pub(super) fn folded(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let lower = words.join(" ").to_lowercase();
    lower.chars().take(INDEXED_CHARS_MAX + 1).collect()
}

/// `Project/id` and `id` name the same project.
pub(super) fn project_id(text: &str) -> &str {
    text.strip_prefix("Project/").unwrap_or(text)
}

/// Reads one value (still escaped) of a parameter. The error says what is expected.
pub(super) fn read(kind: ParamKind, mode: StringMode, raw: &str) -> Result<Test, &'static str> {
    if raw.is_empty() {
        return Err("a value that is not empty");
    }
    let plain = unescape(raw);
    if plain.chars().count() > INDEXED_CHARS_MAX {
        return Err("values of at most 600 characters");
    }
    match kind {
        ParamKind::Token => token(raw),
        ParamKind::String => string(mode, plain),
        ParamKind::Reference => Ok(reference(plain)),
        ParamKind::Date => date(&plain),
        ParamKind::Uri => Ok(Test::Value(plain)),
    }
}

fn token(raw: &str) -> Result<Test, &'static str> {
    let mut parts = split(raw, '|').map(unescape);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(code), None, _) => Ok(Test::Value(code)),
        (Some(system), Some(code), None) => match (system.is_empty(), code.is_empty()) {
            (true, true) => Err("a code on at least one side of '|'"),
            (true, false) => Ok(Test::BareValue(code)),
            (false, true) => Ok(Test::System(system)),
            (false, false) => Ok(Test::SystemValue { system, value: code }),
        },
        _ => Err("at most one '|'; write it as '\\|' inside a code"),
    }
}

fn string(mode: StringMode, written: String) -> Result<Test, &'static str> {
    let value = folded(&written);
    if value.is_empty() {
        return Err("a text that is not blank");
    }
    Ok(match mode {
        StringMode::Start => Test::StartsWith(value),
        StringMode::Contains => Test::Contains(value),
        StringMode::Exact => Test::SystemValue { system: written, value },
    })
}

fn reference(text: String) -> Test {
    if let Some((type_name, id)) = type_and_id(&text) {
        Test::Value(format!("{type_name}/{id}"))
    } else if is_id(&text) {
        Test::System(text)
    } else {
        Test::Value(text)
    }
}

fn date(text: &str) -> Result<Test, &'static str> {
    let (comparator, moment) = Comparator::split(text);
    // In a query string a '+' that was not percent-encoded arrives as a space.
    let span = datetime::parse(&moment.replace(' ', "+"))
        .ok_or("a date or time such as ge2024-05-01 (prefixes eq ne gt lt ge le sa eb)")?;
    Ok(Test::Date { comparator, low_ms: span.low_ms, high_ms: span.high_ms })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes() {
        let parts: Vec<_> = split(r"a\,b,c\\,d", ',').map(unescape).collect();
        assert_eq!(parts, ["a,b", r"c\", "d"]);
        assert_eq!(unescape(r"x\|y\$z\n\"), r"x|y$z\n\");
    }

    #[test]
    fn token_forms() {
        let read = |raw| read(ParamKind::Token, StringMode::Start, raw);
        let own = str::to_owned;
        assert_eq!(read("c"), Ok(Test::Value(own("c"))));
        assert_eq!(read("|c"), Ok(Test::BareValue(own("c"))));
        assert_eq!(read("s|"), Ok(Test::System(own("s"))));
        assert_eq!(read(r"s|a\|b"), Ok(Test::SystemValue { system: own("s"), value: own("a|b") }));
        assert!(read("|").is_err() && read("a|b|c").is_err() && read("").is_err());
    }

    #[test]
    fn reference_forms() {
        let read = |raw| read(ParamKind::Reference, StringMode::Start, raw).unwrap();
        let typed = Test::Value("Project/1".to_owned());
        assert_eq!(read("Project/1"), typed);
        assert_eq!(read("https://example.com/fhir/R4/Project/1"), typed);
        assert_eq!(read("1"), Test::System("1".to_owned()));
        assert_eq!(read("urn:uuid:1"), Test::Value("urn:uuid:1".to_owned()));
    }

    #[test]
    fn date_forms() {
        let read = |raw| read(ParamKind::Date, StringMode::Start, raw);
        let one_second = |comparator| Ok(Test::Date { comparator, low_ms: 0, high_ms: 1000 });
        assert_eq!(read("1970-01-01T00:00:00Z"), one_second(Comparator::Eq));
        assert_eq!(read("sa1970-01-01T01:00:00 01:00"), one_second(Comparator::Sa));
        assert!(read("ap2024").is_err() && read("gt").is_err() && read("x").is_err());
    }

    proptest! {
        #[test]
        fn comparators_agree(low in -50_i64..50, width in 1_i64..20, from in -50_i64..50, span in 1_i64..20) {
            let (row, asked) = ((low, low + width), (from, from + span));
            let accepts = |comparator: Comparator| comparator.accepts(row, asked);
            prop_assert_ne!(accepts(Comparator::Eq), accepts(Comparator::Ne));
            prop_assert_eq!(accepts(Comparator::Ge), accepts(Comparator::Gt) || accepts(Comparator::Eq));
            prop_assert_eq!(accepts(Comparator::Le), accepts(Comparator::Lt) || accepts(Comparator::Eq));
            prop_assert!(!accepts(Comparator::Sa) || accepts(Comparator::Gt));
            prop_assert!(!accepts(Comparator::Eb) || accepts(Comparator::Lt));
            prop_assert_eq!(
                accepts(Comparator::Eq),
                !accepts(Comparator::Gt) && !accepts(Comparator::Lt)
            );
        }

        #[test]
        fn escaping_and_splitting_are_inverse(parts in prop::collection::vec("[a,|$\\\\]{0,6}", 1..5)) {
            let escape = |part: &String| part.chars().fold(String::new(), |mut text, character| {
                if ",|$\\".contains(character) { text.push('\\'); }
                text.push(character);
                text
            });
            let joined = parts.iter().map(escape).collect::<Vec<_>>().join(",");
            let back: Vec<_> = split(&joined, ',').map(unescape).collect();
            prop_assert_eq!(back, parts);
        }
    }
}
