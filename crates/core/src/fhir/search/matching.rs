//! Evaluates filters in memory, with the meaning the SQL has. Used where there is no table to ask:
//! generated definitions, criteria of access policies, and tests of the SQL itself.

use std::cell::OnceCell;
use std::cmp::Ordering;

use memchr::memmem;

use super::query::{Field, Filter, Rule};
use super::value::Test;
use super::{IndexEntry, ParamKind};

/// Whether a resource meets every filter.
///
/// `entries` are its index rows, `last_updated_ms` its `meta.lastUpdated` in epoch milliseconds.
#[must_use]
pub fn matches(filters: &[Filter], entries: &[IndexEntry], id: &str, last_updated_ms: i64) -> bool {
    all_hold(filters, id, last_updated_ms, |rule, code| by_rows(rule, code, entries))
}

fn all_hold(
    filters: &[Filter],
    id: &str,
    last_updated_ms: i64,
    by_rows: impl Fn(&Rule, &str) -> bool,
) -> bool {
    filters.iter().all(|filter| match filter.field {
        Field::Id => decide(&filter.rule, true, |test| matches!(test, Test::Value(wanted) if wanted == id)),
        Field::LastUpdated => decide(&filter.rule, true, |test| {
            test.accepts_span(last_updated_ms, last_updated_ms.saturating_add(1))
        }),
        Field::Project => by_rows(&filter.rule, "_project"),
        Field::Compartment => by_rows(&filter.rule, "_compartment"),
        Field::Indexed { code, kind: _ } => by_rows(&filter.rule, code),
    })
}

/// The index rows of one resource, sorted to find values fast: a resource has hundreds of rows, and a policy compares
/// hundreds of values with them.
#[derive(Debug)]
pub struct IndexRows {
    /// By code and value.
    rows: Vec<IndexEntry>,
    /// Positions in `rows`, by code and system.
    by_system: OnceCell<Vec<usize>>,
    texts: OnceCell<Texts>,
}

/// The values of rows in one text, each before a NUL, with the end of each. One scan finds a text in all values: a
/// policy from before the bound of scans may have hundreds of texts.
#[derive(Debug)]
struct Texts {
    all: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn of(rows: &[IndexEntry]) -> Self {
        let mut texts = Self { all: Vec::new(), ends: Vec::with_capacity(rows.len()) };
        for row in rows {
            texts.all.extend_from_slice(row.value.as_bytes());
            texts.all.push(0);
            texts.ends.push(texts.all.len());
        }
        texts
    }

    /// The texts of consecutive rows.
    fn between(&self, first: usize, end: usize) -> &[u8] {
        let start_of = |row: usize| row.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        self.all.get(start_of(first).unwrap_or(0)..start_of(end).unwrap_or(0)).unwrap_or_default()
    }
}

impl IndexRows {
    /// From rows in any order.
    #[must_use]
    pub fn new(mut rows: Vec<IndexEntry>) -> Self {
        rows.sort_unstable_by(|a, b| (a.code, &a.value).cmp(&(b.code, &b.value)));
        Self { rows, by_system: OnceCell::new(), texts: OnceCell::new() }
    }

    fn of(&self, code: &str) -> &[IndexEntry] {
        range(&self.rows, |row| row.code.cmp(code))
    }

    fn has_system(&self, code: &str, system: &str) -> bool {
        let of_row = |at: &usize| self.rows.get(*at).map(|row| (row.code, row.system.as_deref()));
        let sorted = self.by_system.get_or_init(|| {
            let mut sorted: Vec<usize> = (0..self.rows.len()).collect();
            sorted.sort_unstable_by(|a, b| of_row(a).cmp(&of_row(b)));
            sorted
        });
        sorted.binary_search_by(|at| of_row(at).cmp(&Some((code, Some(system))))).is_ok()
    }

    fn contain(&self, code: &str, part: &str) -> bool {
        if part.is_empty() || part.contains('\0') {
            return self.of(code).iter().any(|row| row.value.contains(part));
        }
        let first = self.rows.partition_point(|row| row.code < code);
        let end = self.rows.partition_point(|row| row.code <= code);
        let texts = self.texts.get_or_init(|| Texts::of(&self.rows)).between(first, end);
        memmem::find(texts, part.as_bytes()).is_some()
    }

    fn meets(&self, code: &str, test: &Test) -> bool {
        let of = self.of(code);
        let equal = |value: &String| range(of, |row| row.value.cmp(value)).iter();
        match test {
            Test::Value(value) | Test::SystemValue { value, .. } | Test::BareValue(value) => {
                equal(value).any(|row| test.accepts(row))
            }
            Test::System(system) => self.has_system(code, system),
            Test::StartsWith(start) => {
                let first = of.partition_point(|row| row.value < *start);
                of.get(first).is_some_and(|row| test.accepts(row))
            }
            Test::Contains(part) => self.contain(code, part),
            Test::Date { .. } => of.iter().any(|row| test.accepts(row)),
        }
    }
}

/// The rows that compare equal, among sorted rows.
fn range(rows: &[IndexEntry], order: impl Fn(&IndexEntry) -> Ordering) -> &[IndexEntry] {
    let first = rows.partition_point(|row| order(row).is_lt());
    let rest = rows.get(first..).unwrap_or_default();
    rest.get(..rest.partition_point(|row| order(row).is_eq())).unwrap_or_default()
}

/// As [`matches()`], for one resource and many filters.
#[must_use]
pub fn matches_rows(filters: &[Filter], rows: &IndexRows, id: &str, last_updated_ms: i64) -> bool {
    all_hold(filters, id, last_updated_ms, |rule, code| {
        decide(rule, !rows.of(code).is_empty(), |test| rows.meets(code, test))
    })
}

fn by_rows(rule: &Rule, code: &str, entries: &[IndexEntry]) -> bool {
    let rows = || entries.iter().filter(|row| row.code == code);
    decide(rule, rows().next().is_some(), |test| rows().any(|row| test.accepts(row)))
}

fn decide(rule: &Rule, is_present: bool, accepts: impl Fn(&Test) -> bool) -> bool {
    match rule {
        Rule::Any(tests) => tests.iter().any(accepts),
        Rule::None(tests) => !tests.iter().any(accepts),
        Rule::Missing(is_missing) => *is_missing != is_present,
    }
}

impl Field {
    /// The parameter's name in a query.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Id => "_id",
            Self::LastUpdated => "_lastUpdated",
            Self::Project => "_project",
            Self::Compartment => "_compartment",
            Self::Indexed { code, .. } => code,
        }
    }

    /// How the parameter compares.
    #[must_use]
    pub const fn kind(self) -> ParamKind {
        match self {
            Self::Id | Self::Project => ParamKind::Token,
            Self::LastUpdated => ParamKind::Date,
            Self::Compartment => ParamKind::Reference,
            Self::Indexed { kind, .. } => kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::super::schema::ResourceType;
    use super::super::{index_entries, parse_query};
    use super::*;

    const LAST_UPDATED_MS: i64 = 1_714_564_800_000; // 2024-05-01T12:00:00Z

    fn found(resource_type: ResourceType, resource: &Map<String, Value>, query: &[(&str, &str)]) -> bool {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let query = parse_query(resource_type, pairs).unwrap();
        let entries = index_entries(resource_type, resource);
        let matched = matches(&query.filters, &entries, "id-1", LAST_UPDATED_MS);
        let by_order = matches_rows(&query.filters, &IndexRows::new(entries), "id-1", LAST_UPDATED_MS);
        assert_eq!(matched, by_order, "the order of the rows does not matter");
        matched
    }

    fn membership() -> Map<String, Value> {
        let Value::Object(object) = json!({
            "resourceType": "ProjectMembership", "project": {"reference": "Project/p"},
            "user": {"reference": "ClientApplication/c"}, "profile": {"reference": "ClientApplication/c"},
            "userName": "Lab Robot", "active": false, "meta": {"project": "p"},
            "identifier": [{"system": "https://x", "value": "a,b|c"}, {"value": "plain"}],
        }) else {
            panic!()
        };
        object
    }

    #[test]
    fn each_form_of_query() {
        let membership = membership();
        let ask = |query: &[(&str, &str)]| found(ResourceType::ProjectMembership, &membership, query);
        for good in [
            ("user", "ClientApplication/c"),
            ("user", "c"),
            ("user:ClientApplication", "c"),
            ("user", "https://x/fhir/R4/ClientApplication/c"),
            ("user", "x,c"),
            ("profile-type", "ClientApplication"),
            ("active", "false"),
            ("active:not", "true"),
            ("admin:not", "true"),
            ("admin:missing", "true"),
            ("active:missing", "false"),
            ("user-name", "LAB"),
            ("user-name:contains", "rob"),
            ("user-name:exact", "Lab Robot"),
            ("identifier", r"https://x|a\,b\|c"),
            ("identifier", "https://x|"),
            ("identifier", "|plain"),
            ("_id", "id-1"),
            ("_id", "x,id-1"),
            ("_id:not", "x"),
            ("_project", "p"),
            ("_project", "Project/p"),
            ("_project:not", "q"),
            ("_compartment:missing", "true"),
            ("_lastUpdated", "2024-05-01"),
            ("_lastUpdated", "gt2024-04"),
            ("_lastUpdated", "lt2024-05-01T12:00:00.001Z"),
            ("_lastUpdated", "ge2024-05-01T12:00:00Z"),
            ("_lastUpdated", "ne2023"),
        ] {
            assert!(ask(&[good]), "{good:?}");
        }
        for bad in [
            ("user", "User/c"),
            ("user:User", "c"),
            ("active", "true"),
            ("active:not", "false"),
            ("admin", "true"),
            ("user-name", "robot"),
            ("user-name:exact", "lab robot"),
            ("identifier", "|a"),
            ("identifier", "https://y|"),
            ("_id", "x"),
            ("_id:not", "id-1"),
            ("_id:missing", "true"),
            ("_project", "q"),
            ("_lastUpdated", "sa2024-05-01"),
            ("_lastUpdated", "2023"),
        ] {
            assert!(!ask(&[bad]), "{bad:?}");
        }
        assert!(!ask(&[("user", "c"), ("active", "true")]), "filters are joined by AND");
    }

    #[test]
    fn a_text_is_found_within_one_value_of_its_parameter() {
        let row = |code, value: &str| IndexEntry {
            code,
            value: value.to_owned(),
            system: None,
            at_ms: None,
            until_ms: None,
        };
        let rows = IndexRows::new(vec![
            row("a", "first"),
            row("b", "ab"),
            row("b", "cd"),
            row("b", "x\0y"),
            row("c", "last"),
        ]);
        for (code, part, found) in [
            ("a", "irs", true),
            ("a", "ab", false),
            ("b", "a", true),
            ("b", "cd", true),
            ("b", "bc", false),
            ("b", "b\0c", false),
            ("b", "\0", true),
            ("b", "", true),
            ("b", "last", false),
            ("b", "first", false),
            ("c", "last", true),
            ("none", "a", false),
            ("none", "", false),
        ] {
            assert_eq!(rows.contain(code, part), found, "{code} {part:?}");
        }
    }

    fn event(recorded_s: u32) -> Map<String, Value> {
        let recorded = format!("2024-05-01T{:02}:{:02}:00Z", recorded_s / 60 % 24, recorded_s % 60);
        let Value::Object(object) = json!({"resourceType": "AuditEvent", "recorded": recorded}) else {
            panic!()
        };
        object
    }

    proptest! {
        #[test]
        fn a_resource_is_found_by_its_own_values(name in "[a-zA-Z ,|$\\\\é%_]{1,20}", system in "[a-z|,:/]{1,9}") {
            prop_assume!(!name.trim().is_empty());
            let escape = |text: &str| text.chars().fold(String::new(), |mut all, character| {
                if ",|$\\".contains(character) { all.push('\\'); }
                all.push(character);
                all
            });
            let Value::Object(resource) = json!({"resourceType": "ProjectMembership", "userName": name,
                "identifier": [{"system": system, "value": name}]}) else { panic!() };
            let ask = |code: &str, value: &str| found(ResourceType::ProjectMembership, &resource, &[(code, value)]);
            let (plain, full) = (escape(&name), format!("{}|{}", escape(&system), escape(&name)));
            prop_assert!(ask("user-name", &plain) && ask("user-name:exact", &plain));
            prop_assert!(ask("user-name:contains", &plain) && ask("identifier", &plain));
            prop_assert!(ask("identifier", &full) && !ask("identifier:not", &full));
        }

        #[test]
        fn negations_are_complements(value in "[a-z]{1,3}", stored in "[a-z]{1,3}", minute in 0_u32..1440, prefix in 0_usize..3) {
            let Value::Object(client) = json!({"resourceType": "ClientApplication", "status": stored}) else { panic!() };
            let ask = |query: &[(&str, &str)]| found(ResourceType::ClientApplication, &client, query);
            prop_assert_ne!(ask(&[("status", &value)]), ask(&[("status:not", &value)]));
            prop_assert_ne!(ask(&[("name:missing", "true")]), ask(&[("name:missing", "false")]));
            let event = event(minute);
            let (yes, no) = [("eq", "ne"), ("gt", "le"), ("lt", "ge")][prefix];
            let date = |prefix: &str| {
                let value = format!("{prefix}2024-05-01T12:00:00Z");
                found(ResourceType::AuditEvent, &event, &[("date", &value)])
            };
            prop_assert_ne!(date(yes), date(no));
        }
    }
}
