//! The elements of resources that hold names, which pages and terminals show.

use keyrelay_core::names;
use serde_json::{Map, Value};

use crate::error::Outcome;

/// The path to each, by type; the search enters lists on the way.
const NAMES: [(&str, &[&[&str]]); 6] = [
    ("ClientApplication", &[&["name"]]),
    ("Project", &[&["name"]]),
    ("AccessPolicy", &[&["name"]]),
    ("User", &[&["firstName"], &["lastName"], &["email"]]),
    (
        "Practitioner",
        &[
            &["name", "text"],
            &["name", "family"],
            &["name", "given"],
            &["name", "prefix"],
            &["name", "suffix"],
        ],
    ),
    ("ProjectMembership", &[&["userName"], &["user", "display"], &["profile", "display"]]),
];

/// Refuses names with hidden characters, and names that cannot be seen. `before` is the stored resource, if it exists: a name that was stored before
/// this rule does not block other changes.
pub(crate) fn check_names(
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    let resource_type = resource.get("resourceType").and_then(Value::as_str).unwrap_or_default();
    let paths = NAMES.iter().find(|(name, _)| *name == resource_type).map_or(&[][..], |(_, paths)| *paths);
    for path in paths {
        for (expression, text) in texts(resource_type, resource, path) {
            if let Err(problem) = names::check(text) {
                let stored = before.map(|before| texts(resource_type, before, path)).unwrap_or_default();
                if stored.iter().any(|(_, stored)| *stored == text) {
                    continue;
                }
                return Err(Outcome::invalid_at(expression, problem.to_string()));
            }
        }
    }
    Ok(())
}

/// The texts at a path, each with its expression.
fn texts<'a>(resource_type: &str, resource: &'a Map<String, Value>, path: &[&str]) -> Vec<(String, &'a str)> {
    let [first, rest @ ..] = path else { return Vec::new() };
    let mut found: Vec<(String, &Value)> = Vec::new();
    found.extend(resource.get(*first).map(|value| (format!("{resource_type}.{first}"), value)));
    found = each(found);
    for name in rest {
        let inner =
            found.into_iter().filter_map(|(at, value)| Some((format!("{at}.{name}"), value.get(name)?)));
        found = each(inner.collect());
    }
    found.into_iter().filter_map(|(at, value)| Some((at, value.as_str()?))).collect()
}

/// The items of each list, and other values as they are.
fn each(values: Vec<(String, &Value)>) -> Vec<(String, &Value)> {
    let mut all = Vec::with_capacity(values.len());
    for (at, value) in values {
        match value {
            Value::Array(items) => {
                all.extend(items.iter().enumerate().map(|(n, item)| (format!("{at}[{n}]"), item)));
            }
            one => all.push((at, one)),
        }
    }
    all
}
