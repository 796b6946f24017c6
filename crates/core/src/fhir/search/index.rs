//! What a resource puts into the index table. Runs on every write, inside the transaction, so that
//! a search never sees a resource whose rows are older than itself.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::super::datetime;
use super::super::reference::type_and_id;
use super::super::schema::ResourceType;
use super::params::parameters;
use super::value::{INDEXED_CHARS_MAX, project_id};
use super::{Extract, ParamKind, SearchParam};

/// One row of the index table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// The search parameter. `_project` and `_compartment` rows come from `meta`; a store that has
    /// columns for these may ignore the rows.
    pub code: &'static str,
    /// Token: the code. String: lower case, white space collapsed. Reference: `Type/id`, or the
    /// reference as written if it has no such form. Date and URI: as written.
    /// At most [`INDEXED_CHARS_MAX`] + 1 characters, so that it fits a `PostgreSQL` index row; the
    /// one extra character keeps a cut value from equalling any value that can be asked for.
    pub value: String,
    /// Token: the system, if there is one. String: the text as written, for `:exact`.
    /// Reference: the bare id, for queries without a type. Otherwise `None`.
    pub system: Option<String>,
    /// Date: the first millisecond (epoch) of the span; `i64::MIN` for an open start.
    pub at_ms: Option<i64>,
    /// Date: the first millisecond after the span; `i64::MAX` for an open end.
    pub until_ms: Option<i64>,
}

/// All rows of a resource, without duplicates, in the order of the parameter table.
///
/// Values of an unexpected shape are passed over: whether they are allowed is for
/// [`validate`](super::super::schema::validate) to say.
#[must_use]
pub fn index_entries(resource_type: ResourceType, resource: &Map<String, Value>) -> Vec<IndexEntry> {
    let mut rows = Rows::default();
    for param in parameters(resource_type) {
        for path in param.paths {
            visit(resource, path, &mut |value| rows.add(param, value));
        }
    }
    visit(resource, "meta.project", &mut |value| {
        if let Some(id) = value.as_str() {
            rows.push("_project", project_id(id), None);
        }
    });
    visit(resource, "meta.compartment", &mut |value| {
        rows.reference("_compartment", value, |_| true);
    });
    rows.ordered
}

/// Calls `found` for each value at a dotted path; lists are walked on every level.
fn visit<'a>(object: &'a Map<String, Value>, path: &str, found: &mut impl FnMut(&'a Value)) {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let Some(value) = object.get(name) else {
        return;
    };
    for item in each(value) {
        match (rest, item) {
            (None, _) => found(item),
            (Some(rest), Value::Object(inner)) => visit(inner, rest, found),
            (Some(_), _) => {}
        }
    }
}

fn each(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(INDEXED_CHARS_MAX + 1).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

#[derive(Default)]
struct Rows {
    ordered: Vec<IndexEntry>,
    seen: HashSet<IndexEntry>,
}

impl Rows {
    fn push(&mut self, code: &'static str, value: &str, system: Option<&str>) {
        self.push_row(IndexEntry {
            code,
            value: cut(value),
            system: system.map(cut),
            at_ms: None,
            until_ms: None,
        });
    }

    fn push_row(&mut self, row: IndexEntry) {
        if !row.value.is_empty() && self.seen.insert(row.clone()) {
            self.ordered.push(row);
        }
    }

    fn add(&mut self, param: &'static SearchParam, value: &Value) {
        match (param.kind, param.extract) {
            (_, Extract::ReferenceType) => {
                if let Some((type_name, _)) = text(value, "reference").and_then(type_and_id) {
                    self.push(param.code, type_name, None);
                }
            }
            (ParamKind::Token, _) => self.token(param.code, value),
            (ParamKind::String, _) => {
                if let Some(written) = value.as_str() {
                    self.push(param.code, &super::value::folded(written), Some(written));
                }
            }
            (ParamKind::Uri, _) => {
                if let Some(uri) = value.as_str() {
                    self.push(param.code, uri, None);
                }
            }
            (ParamKind::Reference, Extract::TargetsOnly) => {
                self.reference(param.code, value, |name| param.targets.contains(&name));
            }
            (ParamKind::Reference, Extract::Whole) => {
                self.reference(param.code, value, |_| true);
            }
            (ParamKind::Date, _) => self.date(param.code, value),
        }
    }

    /// A code, a boolean, a Coding, an Identifier, or each coding of a `CodeableConcept`.
    fn token(&mut self, code: &'static str, value: &Value) {
        match value {
            Value::String(token) => self.push(code, token, None),
            Value::Bool(flag) => self.push(code, if *flag { "true" } else { "false" }, None),
            Value::Object(object) => {
                if let Some(codings) = object.get("coding") {
                    for coding in each(codings).iter().filter(|item| item.get("coding").is_none()) {
                        self.token(code, coding);
                    }
                } else if let Some(token) = text(value, "code").or_else(|| text(value, "value")) {
                    self.push(code, token, text(value, "system"));
                }
            }
            _ => {}
        }
    }

    fn reference(&mut self, code: &'static str, value: &Value, wanted: impl Fn(&str) -> bool) {
        let Some(written) = text(value, "reference") else {
            return;
        };
        match type_and_id(written) {
            Some((type_name, id)) if wanted(type_name) => {
                self.push(code, &format!("{type_name}/{id}"), Some(id));
            }
            None if wanted("") => self.push(code, written, None),
            _ => {}
        }
    }

    /// A date, a dateTime or instant, or a Period.
    fn date(&mut self, code: &'static str, value: &Value) {
        let (from, to) = match value {
            Value::String(moment) => (Some(moment.as_str()), Some(moment.as_str())),
            period => (text(period, "start"), text(period, "end")),
        };
        let low = from.map(datetime::parse);
        let high = to.map(datetime::parse);
        let (at_ms, until_ms) = match (low, high) {
            (Some(Some(low)), Some(Some(high))) => (low.low_ms, high.high_ms),
            (Some(Some(low)), None) => (low.low_ms, i64::MAX),
            (None, Some(Some(high))) => (i64::MIN, high.high_ms),
            _ => return,
        };
        self.push_row(IndexEntry {
            code,
            value: cut(from.or(to).unwrap_or_default()),
            system: None,
            at_ms: Some(at_ms),
            until_ms: Some(until_ms),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(resource: Value) -> Vec<(&'static str, Option<String>, String)> {
        let Value::Object(object) = resource else {
            panic!("the tests pass objects");
        };
        let resource_type = object["resourceType"].as_str().unwrap().parse().unwrap();
        index_entries(resource_type, &object)
            .into_iter()
            .map(|row| (row.code, row.system, row.value))
            .collect()
    }

    fn row(code: &'static str, system: Option<&str>, value: &str) -> (&'static str, Option<String>, String) {
        (code, system.map(str::to_owned), value.to_owned())
    }

    #[test]
    fn a_membership() {
        let membership = json!({
            "resourceType": "ProjectMembership", "project": {"reference": "Project/p"},
            "user": {"reference": "https://x/fhir/R4/ClientApplication/c"},
            "profile": {"reference": "ClientApplication/c"}, "admin": true, "userName": "  Lab  Robot ",
            "accessPolicy": {"reference": "AccessPolicy/a"},
            "access": [{"policy": {"reference": "AccessPolicy/a"}}, {"policy": {"reference": "AccessPolicy/b"}}],
            "identifier": [{"system": "s", "value": "v"}, {"value": "w"}],
            "meta": {"project": "p", "tag": [{"system": "t", "code": "u"}], "compartment": [{"reference": "Project/p"}]},
        });
        assert_eq!(
            rows(membership),
            [
                row("project", Some("p"), "Project/p"),
                row("user", Some("c"), "ClientApplication/c"),
                row("profile", Some("c"), "ClientApplication/c"),
                row("profile-type", None, "ClientApplication"),
                row("user-name", Some("  Lab  Robot "), "lab robot"),
                row("access-policy", Some("a"), "AccessPolicy/a"),
                row("access-policy", Some("b"), "AccessPolicy/b"),
                row("identifier", Some("s"), "v"),
                row("identifier", None, "w"),
                row("admin", None, "true"),
                row("_tag", Some("t"), "u"),
                row("_project", None, "p"),
                row("_compartment", Some("p"), "Project/p"),
            ]
        );
    }

    #[test]
    fn dates_are_spans_and_patients_are_picked_out() {
        let Value::Object(event) = json!({
            "resourceType": "AuditEvent", "recorded": "1970-01-01T00:00:01Z",
            "agent": [{"who": {"reference": "Patient/1"}}, {"who": {"reference": "Device/2"}}],
        }) else {
            panic!()
        };
        let rows = index_entries(ResourceType::AuditEvent, &event);
        let date = rows.iter().find(|row| row.code == "date").unwrap();
        assert_eq!((date.at_ms, date.until_ms), (Some(1000), Some(2000)));
        let patients: Vec<_> = rows.iter().filter(|row| row.code == "patient").collect();
        assert_eq!(patients.len(), 1);
    }

    #[test]
    fn secrets_and_odd_shapes_leave_no_row() {
        let client = json!({"resourceType": "ClientApplication", "secret": "krs_x", "retiringSecret": "krs_y",
            "name": ["n", 5, {"a": 1}], "status": {"coding": [{"coding": [{"code": "x"}]}]},
            "identityProvider": {"clientSecret": "z"}, "meta": 5});
        assert_eq!(rows(client), [row("name", Some("n"), "n")]);
    }

    #[test]
    fn long_values_are_cut_past_what_can_be_asked() {
        let client = json!({"resourceType": "ClientApplication", "name": "é".repeat(5000)});
        assert_eq!(rows(client)[0].2.chars().count(), INDEXED_CHARS_MAX + 1);
    }
}
