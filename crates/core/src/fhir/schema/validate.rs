//! The check of one resource against the tables. It walks the JSON, not the tables, so the work is
//! bounded by the size of the input. Texts say what was expected, never what was found: any string
//! in a resource may be a secret in the wrong place.

use std::fmt;

use serde_json::{Map, Value};

use super::super::json::DEPTH_MAX;
use super::super::nearest::{nearest, shown};
use super::super::reference::{is_type_name, type_and_id};
use super::primitive::Misfit;
use super::{
    BACKBONE_BASE, DATATYPE_BASE, Element, Kind, Max, RESOURCE_BASE, ResourceType, datatypes, definition,
    parse_lifetime,
};

/// How many faults are reported at most; the walk stops there.
pub const ISSUES_MAX: usize = 20;

/// How many items a list may have; it bounds the index rows that one resource can cause.
pub const LIST_ITEMS_MAX: usize = 1000;

/// The kind of a fault, as in FHIR's `issue-type` value set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueCode {
    /// Wrong JSON type, cardinality, or an unknown element.
    Structure,
    /// A value outside its format or code list.
    Value,
    /// A required element is absent.
    Required,
    /// Content that is refused for another reason.
    Invalid,
}

impl IssueCode {
    /// The FHIR code.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Value => "value",
            Self::Required => "required",
            Self::Invalid => "invalid",
        }
    }
}

/// One fault in a resource, ready for an `OperationOutcome`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The kind of fault.
    pub code: IssueCode,
    /// `FHIRPath` of the element, such as `ClientApplication.redirectUris[1]`.
    pub expression: String,
    /// What is wrong and what is expected; never repeats a value from the resource.
    pub text: String,
}

/// Checks a whole resource.
///
/// # Errors
///
/// The first [`ISSUES_MAX`] faults, in the order of the JSON.
pub fn validate(resource: &Map<String, Value>) -> Result<(), Vec<Issue>> {
    let mut walk = Walk { issues: Vec::new() };
    match stored_type(resource) {
        Ok((name, own)) => {
            let root = Path::Root(name);
            walk.members(resource, &root, own, RESOURCE_BASE, 0);
        }
        Err(issue) => walk.issues.push(issue),
    }
    if walk.issues.is_empty() { Ok(()) } else { Err(walk.issues) }
}

/// The table for `resourceType`, or why there is none.
fn stored_type(resource: &Map<String, Value>) -> Result<(&'static str, &'static [Element]), Issue> {
    let fault =
        |code, text: &str| Issue { code, expression: "resourceType".to_owned(), text: text.to_owned() };
    match resource.get("resourceType") {
        None => Err(fault(IssueCode::Required, "resourceType is missing")),
        Some(Value::String(name)) => name
            .parse::<ResourceType>()
            .ok()
            .and_then(|resource_type| {
                definition(resource_type).map(|found| (resource_type.as_str(), found.elements))
            })
            .ok_or_else(|| fault(IssueCode::Value, "not a resource type that is stored here")),
        Some(_) => Err(fault(IssueCode::Structure, "resourceType must be a string")),
    }
}

/// Where the walk is, as a chain on the stack: text is made only for faults.
enum Path<'a> {
    Root(&'static str),
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => formatter.write_str(name),
            Self::Member(parent, name) => write!(formatter, "{parent}.{name}"),
            Self::Item(parent, position) => write!(formatter, "{parent}[{position}]"),
        }
    }
}

/// A known element under the name it has in this JSON.
struct Found {
    element: &'static Element,
    kind: Kind,
}

/// Finds `key` among the elements, `valueString` under the choice `value`.
fn find(key: &str, own: &'static [Element], base: &'static [Element]) -> Option<Found> {
    own.iter().chain(base).find_map(|element| {
        let kind = match element.kind {
            Kind::Choice(alternatives) => {
                let suffix = key.strip_prefix(element.name)?;
                alternatives.iter().find(|alternative| alternative.suffix == suffix)?.kind
            }
            kind if element.name == key => kind,
            _ => return None,
        };
        Some(Found { element, kind })
    })
}

struct Walk {
    issues: Vec<Issue>,
}

impl Walk {
    fn fault(&mut self, code: IssueCode, path: &Path<'_>, text: impl Into<String>) {
        if !self.is_full() {
            self.issues.push(Issue { code, expression: path.to_string(), text: text.into() });
        }
    }

    fn is_full(&self) -> bool {
        self.issues.len() >= ISSUES_MAX
    }

    /// The members of one object: a resource, a datatype or a backbone element.
    fn members(
        &mut self,
        object: &Map<String, Value>,
        path: &Path<'_>,
        own: &'static [Element],
        base: &'static [Element],
        depth: usize,
    ) {
        let is_resource = matches!(path, Path::Root(_));
        if object.is_empty() {
            return self.fault(IssueCode::Structure, path, "an object must not be empty");
        }
        if depth > DEPTH_MAX {
            return self.fault(IssueCode::Structure, path, "nested too deeply");
        }
        for (key, value) in object {
            if self.is_full() {
                return;
            }
            if is_resource && key == "resourceType" {
                continue;
            }
            if let Some(found) = find(key, own, base) {
                let place = Path::Member(path, key);
                let sibling = object.get(&format!("_{key}"));
                self.occurrences(value, sibling, &place, &found, depth);
            } else if let Some(found) = key.strip_prefix('_').and_then(|name| find(name, own, base)) {
                self.primitive_extension(value, &Path::Member(path, key), &found, depth);
            } else {
                self.unknown(key, path, own, base);
            }
        }
        self.presence(object, path, own);
    }

    fn unknown(&mut self, key: &str, path: &Path<'_>, own: &'static [Element], base: &'static [Element]) {
        let names = own.iter().chain(base).map(|element| element.name);
        let hint = nearest(key, names).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default();
        let text = format!("unknown element {}{hint}", shown(key));
        // A name that is no FHIRPath identifier must not be spliced into an expression.
        if !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            self.fault(IssueCode::Structure, &Path::Member(path, key), text);
        } else {
            self.fault(IssueCode::Structure, path, text);
        }
    }

    /// Required elements are there; of a choice at most one is.
    fn presence(&mut self, object: &Map<String, Value>, path: &Path<'_>, own: &'static [Element]) {
        for element in own {
            let place = Path::Member(path, element.name);
            let count = match element.kind {
                Kind::Choice(alternatives) => alternatives
                    .iter()
                    .filter(|other| object.contains_key(&format!("{}{}", element.name, other.suffix)))
                    .count(),
                _ => usize::from(object.contains_key(element.name)),
            };
            if count > 1 {
                self.fault(
                    IssueCode::Structure,
                    &place,
                    format!("only one of the forms of {}[x] may be given", element.name),
                );
            } else if element.required && count == 0 {
                self.fault(IssueCode::Required, &place, format!("{} is required", element.name));
            }
        }
    }

    fn occurrences(
        &mut self,
        value: &Value,
        sibling: Option<&Value>,
        path: &Path<'_>,
        found: &Found,
        depth: usize,
    ) {
        match (found.element.max, value) {
            (Max::One, Value::Array(_)) => {
                self.fault(IssueCode::Structure, path, "may occur only once, not as a list");
            }
            (Max::One, _) => self.value(value, path, found.kind, depth),
            (Max::Many, Value::Array(items)) if items.is_empty() => {
                self.fault(IssueCode::Structure, path, "a list must not be empty");
            }
            (Max::Many, Value::Array(items)) if items.len() > LIST_ITEMS_MAX => {
                let text = format!("a list may have at most {LIST_ITEMS_MAX} items");
                self.fault(IssueCode::Structure, path, text);
            }
            (Max::Many, Value::Array(items)) => {
                for (position, item) in items.iter().enumerate() {
                    if self.is_full() {
                        return;
                    }
                    // A null keeps the place of an item that has only extensions (R4 §2.6.2.3).
                    let extension = sibling.and_then(|list| list.get(position));
                    if item.is_null() && extension.is_some_and(Value::is_object) {
                        continue;
                    }
                    self.value(item, &Path::Item(path, position), found.kind, depth);
                }
            }
            (Max::Many, _) => self.fault(IssueCode::Structure, path, "must be a list"),
        }
    }

    /// `_name`: id and extensions of a primitive, or a list of these.
    fn primitive_extension(&mut self, value: &Value, path: &Path<'_>, found: &Found, depth: usize) {
        let is_primitive = matches!(found.kind, Kind::Primitive(_) | Kind::Enum(_) | Kind::Lifetime);
        match (is_primitive, found.element.max, value) {
            (true, Max::One, Value::Object(object)) => {
                self.members(object, path, &[], DATATYPE_BASE, depth + 1);
            }
            (true, Max::Many, Value::Array(items)) if items.len() > LIST_ITEMS_MAX => {
                let text = format!("a list may have at most {LIST_ITEMS_MAX} items");
                self.fault(IssueCode::Structure, path, text);
            }
            (true, Max::Many, Value::Array(items)) => {
                for (position, item) in items.iter().enumerate() {
                    let place = Path::Item(path, position);
                    match item {
                        Value::Null => {}
                        Value::Object(object) => {
                            self.members(object, &place, &[], DATATYPE_BASE, depth + 1);
                        }
                        _ => self.fault(IssueCode::Structure, &place, "must be an object or null"),
                    }
                }
            }
            (true, Max::One, _) => self.fault(IssueCode::Structure, path, "must be an object"),
            (true, Max::Many, _) => self.fault(IssueCode::Structure, path, "must be a list"),
            (false, ..) => self.fault(
                IssueCode::Structure,
                path,
                "only primitive elements have a sibling that starts with an underscore",
            ),
        }
    }

    fn value(&mut self, value: &Value, path: &Path<'_>, kind: Kind, depth: usize) {
        if value.is_null() {
            return self.fault(IssueCode::Structure, path, "null is not allowed; leave it out");
        }
        match kind {
            Kind::Primitive(primitive) => match primitive.check(value) {
                Ok(()) => {}
                Err(Misfit::JsonType(expected)) => {
                    self.fault(IssueCode::Structure, path, format!("must be {expected}"));
                }
                Err(Misfit::Format(expected)) => {
                    let text = format!("must be a {}: {expected}", primitive.as_str());
                    self.fault(IssueCode::Value, path, text);
                }
            },
            Kind::Enum(list) => self.text(value, path, |text| {
                let fits = list.codes.contains(&text);
                (!fits).then(|| format!("must be one of {}", list.codes.join(", ")))
            }),
            Kind::Lifetime => self.text(value, path, |text| {
                parse_lifetime(text).is_none().then(|| {
                    "must be a number and a unit (ms, s, m, h, d, w), such as 1h, \
                     from one second to ten years"
                        .to_owned()
                })
            }),
            Kind::Complex(datatype) => {
                self.object(value, path, datatype.elements, DATATYPE_BASE, depth);
            }
            Kind::Backbone(elements) => self.object(value, path, elements, BACKBONE_BASE, depth),
            Kind::Reference(targets) => {
                self.object(value, path, datatypes::REFERENCE.elements, DATATYPE_BASE, depth);
                self.target(value, path, targets);
            }
            Kind::Contained => self.fault(IssueCode::Structure, path, "contained resources are not accepted"),
            // `find` has already replaced a choice by one of its alternatives.
            Kind::Choice(_) => self.fault(IssueCode::Structure, path, "must name its type"),
        }
    }

    fn text(&mut self, value: &Value, path: &Path<'_>, complaint: impl FnOnce(&str) -> Option<String>) {
        match value.as_str() {
            None => self.fault(IssueCode::Structure, path, "must be a string"),
            Some(text) => {
                if let Some(complaint) = complaint(text) {
                    self.fault(IssueCode::Value, path, complaint);
                }
            }
        }
    }

    fn object(
        &mut self,
        value: &Value,
        path: &Path<'_>,
        own: &'static [Element],
        base: &'static [Element],
        depth: usize,
    ) {
        match value {
            Value::Object(object) => self.members(object, path, own, base, depth + 1),
            _ => self.fault(IssueCode::Structure, path, "must be an object"),
        }
    }

    /// The literal reference points to an allowed type. References by identifier or display only,
    /// and `urn:uuid:` references inside a Bundle, have no type to check.
    fn target(&mut self, value: &Value, path: &Path<'_>, targets: &[&str]) {
        let Some(text) = value.get("reference").and_then(Value::as_str) else {
            return;
        };
        if targets.is_empty() || text.starts_with("urn:uuid:") {
            return;
        }
        let conditional = || {
            let (type_name, _) = text.split_once('?')?;
            is_type_name(type_name).then_some(type_name)
        };
        let type_name = type_and_id(text).map(|(type_name, _)| type_name);
        if !type_name.or_else(conditional).is_some_and(|name| targets.contains(&name)) {
            self.fault(
                IssueCode::Value,
                &Path::Member(path, "reference"),
                format!("must be Type/id, where the type is one of {}", targets.join(", ")),
            );
        }
    }
}

#[cfg(test)]
mod tests;
