//! Evaluates filters in memory, with the meaning the SQL has. Used where there is no table to ask:
//! generated definitions, criteria of access policies, and tests of the SQL itself.

use super::query::{Field, Filter, Rule};
use super::value::Test;
use super::{IndexEntry, ParamKind};

/// Whether a resource meets every filter.
///
/// `entries` are its index rows, `last_updated_ms` its `meta.lastUpdated` in epoch milliseconds.
#[must_use]
pub fn matches(filters: &[Filter], entries: &[IndexEntry], id: &str, last_updated_ms: i64) -> bool {
    filters.iter().all(|filter| match filter.field {
        Field::Id => decide(&filter.rule, true, |test| matches!(test, Test::Value(wanted) if wanted == id)),
        Field::LastUpdated => decide(&filter.rule, true, |test| {
            test.accepts_span(last_updated_ms, last_updated_ms.saturating_add(1))
        }),
        Field::Project => by_rows(&filter.rule, "_project", entries),
        Field::Compartment => by_rows(&filter.rule, "_compartment", entries),
        Field::Indexed { code, kind: _ } => by_rows(&filter.rule, code, entries),
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
        matches(&query.filters, &entries, "id-1", LAST_UPDATED_MS)
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
