//! JSON Patch (RFC 6902). The document that a patch is applied to has no secrets, only marks where
//! they are, so a patch can neither copy one elsewhere nor blank one. What each operation makes of it is bounded
//! before it is made ([`document`]).

mod document;

use json_patch::{PatchErrorKind, PatchOperation};
use keyrelay_core::fhir::{ResourceType, json};
use keyrelay_core::limits::PATCH_OPERATIONS_MAX;
use serde::Deserialize;
use serde_json::{Map, Value};

use self::document::{Document, Refused};
use super::bundle::Links;
use super::client_application::KEPT;
use crate::budget;
use crate::error::Outcome;

/// A patch that has been read.
pub(crate) struct Patch(Vec<PatchOperation>);

impl Patch {
    pub(super) fn read(document: &Value) -> Result<Self, Outcome> {
        let operations = Vec::<PatchOperation>::deserialize(document).map_err(|_| {
            Outcome::invalid("The body is not a JSON Patch: it must be an array of operations (RFC 6902)")
        })?;
        if operations.len() > PATCH_OPERATIONS_MAX {
            return Err(Outcome::invalid(format!("A patch has at most {PATCH_OPERATIONS_MAX} operations")));
        }
        Ok(Self(operations))
    }

    /// The same with the links of its transaction put in place.
    pub(super) fn linked(&self, links: &Links<'_>) -> Result<Self, Outcome> {
        let mut operations = self.0.clone();
        for operation in &mut operations {
            let (path, value) = match operation {
                PatchOperation::Add(add) => (&add.path, &mut add.value),
                PatchOperation::Replace(replace) => (&replace.path, &mut replace.value),
                PatchOperation::Test(test) => (&test.path, &mut test.value),
                PatchOperation::Remove(_) | PatchOperation::Move(_) | PatchOperation::Copy(_) => continue,
            };
            let element = path.last().map(|token| token.decoded().into_owned()).unwrap_or_default();
            links.put_into(&element, value)?;
        }
        Ok(Self(operations))
    }

    /// What the resource is after the patch.
    pub(super) fn apply(
        &self,
        resource_type: ResourceType,
        current: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Outcome> {
        let mut members = current.clone();
        if resource_type == ResourceType::ClientApplication {
            for (name, mark) in KEPT {
                members.insert(name.to_owned(), Value::String(mark.to_owned()));
            }
        }
        let mut document = Document::new(members);
        for (n, operation) in self.0.iter().enumerate() {
            if resource_type == ResourceType::ClientApplication && removes_secret(operation) {
                return Err(Outcome::invalid(format!(
                    "Operation {n} would remove a secret: call $rotate-secret with `retiringSecret`"
                )));
            }
            document.apply(operation).map_err(|reason| refused(n, &reason))?;
        }
        match document.into_value() {
            Value::Object(map) => {
                let copied = map.iter().any(|(name, value)| {
                    let in_place = value.as_str().is_some_and(|text| KEPT.contains(&(name, text)));
                    !in_place && holds_mark(value)
                });
                if copied {
                    return Err(Outcome::invalid("A patch cannot copy or move a secret"));
                }
                // Beside what was loaded: the draft, the version and the answer that come of it.
                budget::take_for_now(3 * json::weight_of_members(&map))?;
                Ok(map)
            }
            _ => Err(Outcome::invalid("A patch cannot replace the whole resource by something else")),
        }
    }
}

fn refused(n: usize, reason: &Refused) -> Outcome {
    match reason {
        Refused::Patch(PatchErrorKind::TestFailed) => {
            Outcome::conflict(format!("Operation {n}: the test failed, so nothing was changed"))
        }
        Refused::Patch(_) => {
            Outcome::invalid(format!("Operation {n} cannot be applied: its path does not exist"))
        }
        Refused::Document(bound) => {
            Outcome::invalid(format!("Operation {n} cannot be applied: the resource would be {bound}"))
        }
        Refused::Carried(bound) => Outcome::invalid(format!(
            "Operation {n} cannot be applied: what the patch copies and moves would be {bound}; send several patches"
        )),
    }
}

/// To pass over it would leave somebody believing that a secret has ended.
fn removes_secret(operation: &PatchOperation) -> bool {
    let PatchOperation::Remove(remove) = operation else { return false };
    KEPT.iter().any(|(name, _)| remove.path.as_str().strip_prefix('/') == Some(name))
}

fn holds_mark(value: &Value) -> bool {
    match value {
        Value::String(text) => KEPT.iter().any(|(_, mark)| text == mark),
        Value::Array(items) => items.iter().any(holds_mark),
        Value::Object(map) => map.values().any(holds_mark),
        _ => false,
    }
}
