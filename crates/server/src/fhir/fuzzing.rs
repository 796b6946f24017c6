//! What must hold of bodies and queries at the FHIR API; see [`crate::fuzzing`].
#![allow(clippy::missing_panics_doc, reason = "a property that does not hold is told by a panic")]

mod search;

use keyrelay_core::fhir::weight::Weight;
use keyrelay_core::fhir::{ResourceType, json};
use keyrelay_core::limits::{
    PATCH_OPERATIONS_MAX, RETIRE_AFTER_MAX, RETIRE_AFTER_MIN, SECRET_BYTES_MAX, SECRET_WRITTEN_CHARS_MIN,
};
use serde_json::{Map, Value, json};

use super::client_application::KEPT;
use super::parameters::{RotateInput, Step};
use super::patch::Patch;
use crate::fuzzing::is_clear_refusal;

pub use search::search_query;

/// The input of `$rotate-secret`.
pub fn parameters(data: &[u8]) {
    let Ok(Value::Object(body)) = json::parse(data) else { return };
    let mut secrets = Vec::new();
    collect_secrets(&Value::Object(body.clone()), &mut secrets);
    match RotateInput::read(body) {
        Ok(input) => {
            let value = input.presented.reveal();
            assert!((1..=SECRET_BYTES_MAX).contains(&value.len()) && !value.contains(char::is_control));
            let mut said = vec![match input.step {
                Step::Rotate { .. } => ("secret", json!(value)),
                Step::Retire { .. } => ("retiringSecret", json!(value)),
            }];
            if let Step::Rotate { retire_after: Some(after) } = input.step {
                assert!(after.0.is_none_or(|after| (RETIRE_AFTER_MIN..=RETIRE_AFTER_MAX).contains(&after)));
                let after =
                    after.0.map_or_else(|| "none".to_owned(), |after| format!("{}ms", after.as_millis()));
                said.push(("retireAfter", json!(after)));
            }
            if let Step::Retire { only_if_unused, revoke_tokens } = input.step {
                let unused = only_if_unused.map(|unused| json!(format!("{}ms", unused.as_millis())));
                said.extend(unused.map(|unused| ("onlyIfUnused", unused)));
                said.push(("revokeTokens", json!(revoke_tokens)));
            }
            said.push(("force", json!(input.force)));
            let typed = |value: &Value| if value.is_boolean() { "valueBoolean" } else { "valueString" };
            let plain: Map<String, Value> =
                said.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let list: Vec<Value> =
                said.iter().map(|(name, value)| json!({ "name": name, typed(value): value })).collect();
            for printed in [Value::Object(plain), json!({ "resourceType": "Parameters", "parameter": list })]
            {
                let Ok(Value::Object(printed)) = json::parse(printed.to_string().as_bytes()) else {
                    panic!("what is printed is no JSON")
                };
                let again = RotateInput::read(printed).expect("what is printed can be read");
                assert_eq!((again.step, again.force), (input.step, input.force));
                assert_eq!(again.presented.reveal(), value);
            }
        }
        Err(outcome) => {
            let told = outcome.to_resource().to_string();
            assert!(!secrets.iter().any(|secret| told.contains(secret)), "a secret is repeated: {told}");
            is_clear_refusal(outcome);
        }
    }
}

/// Texts that look like secrets.
fn collect_secrets(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.starts_with("krs_") && text.len() >= SECRET_WRITTEN_CHARS_MIN => {
            found.push(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| collect_secrets(item, found)),
        Value::Object(map) => map.values().for_each(|value| collect_secrets(value, found)),
        _ => {}
    }
}

/// A JSON Patch: a list of a resource and the operations on it.
pub fn json_patch(data: &[u8]) {
    let Ok(Value::Array(both)) = json::parse(data) else { return };
    let [Value::Object(resource), operations] = both.as_slice() else { return };
    for resource_type in [ResourceType::ClientApplication, ResourceType::Project] {
        let patched = apply(resource_type, resource, operations);
        // A test that fails refuses the whole patch, wherever it stands.
        let wrong = json!({ "op": "test", "path": "", "value": "a resource is no text" });
        for at in [0, operations.as_array().map_or(0, Vec::len)] {
            assert!(apply(resource_type, resource, &with(operations, at, &wrong)).is_none());
        }
        let Some(patched) = patched else { continue };
        check_patched(resource_type, &patched);
        assert_eq!(apply(resource_type, resource, operations).as_ref(), Some(&patched));
        // A test that holds changes nothing.
        let end = operations.as_array().map_or(0, Vec::len);
        let right = json!({ "op": "test", "path": "", "value": patched });
        if end < PATCH_OPERATIONS_MAX {
            assert_eq!(
                apply(resource_type, resource, &with(operations, end, &right)).as_ref(),
                Some(&patched)
            );
        }
    }
}

/// A list of a resource and patches that are applied to it one after another. However they are combined, no
/// document is heavier than what can be read again.
pub fn patches(data: &[u8]) {
    let Ok(Value::Array(both)) = json::parse(data) else { return };
    let [Value::Object(resource), Value::Array(patches)] = both.as_slice() else { return };
    for resource_type in [ResourceType::ClientApplication, ResourceType::Project] {
        let (mut current, mut all) = (resource.clone(), Vec::new());
        for operations in patches {
            let Some(next) = apply(resource_type, &current, operations) else { continue };
            check_patched(resource_type, &next);
            let mut stored = next.clone();
            stored.retain(|name, value| !KEPT.iter().any(|(kept, mark)| name == kept && *value == *mark));
            let stored = Value::Object(stored);
            assert_eq!(serde_json::from_str(&stored.to_string()).ok(), Some(stored), "it is read as it was");
            all.extend(operations.as_array().cloned().unwrap_or_default());
            current = next;
        }
        // All at once they make the same document, or one that exceeds a bound of a single patch. A secret that
        // was replaced is marked again before the next patch, so this is not so for a client.
        if resource_type == ResourceType::Project
            && let Some(at_once) = apply(resource_type, resource, &Value::Array(all))
        {
            assert_eq!(at_once, current);
        }
    }
}

fn with(operations: &Value, at: usize, operation: &Value) -> Value {
    let mut all = operations.as_array().cloned().unwrap_or_default();
    all.insert(at, operation.clone());
    Value::Array(all)
}

fn apply(
    resource_type: ResourceType,
    resource: &Map<String, Value>,
    operations: &Value,
) -> Option<Map<String, Value>> {
    let patched = Patch::read(operations).and_then(|patch| patch.apply(resource_type, resource));
    patched.map_err(is_clear_refusal).ok()
}

/// Bounded, and no secret is anywhere but in its place.
fn check_patched(resource_type: ResourceType, patched: &Map<String, Value>) {
    let text = Value::Object(patched.clone()).to_string();
    let weight = Weight::of_object(patched);
    assert!(weight.check(Weight::DOCUMENT).is_ok() && weight.bytes == text.len(), "{weight:?}");
    if resource_type == ResourceType::ClientApplication {
        for (name, mark) in KEPT {
            let shown = json!(mark).to_string();
            let in_place = patched.get(name).and_then(Value::as_str) == Some(mark);
            assert_eq!(text.matches(shown.as_str()).count(), usize::from(in_place), "a secret has moved");
        }
    }
}
