//! The links between the entries of a transaction. Who makes a resource does not know its id, so others refer to
//! it by the `fullUrl` of its entry, and the server puts the id in its place (FHIR R4 §3.1.0.11.2).

use std::collections::HashMap;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use serde_json::{Map, Value};

use crate::error::Outcome;

/// Full URLs that mean nothing outside of their Bundle.
const PLACEHOLDERS: [&str; 2] = ["urn:uuid:", "urn:oid:"];

/// What the full URLs of a transaction stand for.
#[derive(Default)]
pub(in crate::fhir) struct Links<'t>(HashMap<&'t str, String>);

impl<'t> Links<'t> {
    pub(super) fn add(&mut self, full_url: &'t str, resource_type: ResourceType, id: ResourceId) {
        self.0.insert(full_url, format!("{resource_type}/{id}"));
    }

    /// Puts the links of a resource in place: those of its references, and that of `meta.project`, by which a
    /// Super Admin places it in a project.
    pub(in crate::fhir) fn put_into_resource(
        &self,
        resource: &mut Map<String, Value>,
    ) -> Result<(), Outcome> {
        if let Some(project) = resource.get_mut("meta").and_then(|meta| meta.get_mut("project")) {
            self.put(project)?;
        }
        resource.iter_mut().try_for_each(|(name, value)| self.put_into(name, value))
    }

    /// Puts the links of an element in place, at any depth.
    pub(in crate::fhir) fn put_into(&self, name: &str, value: &mut Value) -> Result<(), Outcome> {
        match value {
            Value::String(_) if name == "reference" => self.put(value),
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.put_into("", item)),
            Value::Object(map) => map.iter_mut().try_for_each(|(name, value)| self.put_into(name, value)),
            _ => Ok(()),
        }
    }

    /// A link to a version becomes one to the resource: the version that is meant is not kept here.
    fn put(&self, value: &mut Value) -> Result<(), Outcome> {
        let Some(text) = value.as_str() else { return Ok(()) };
        let url = text.split_once("/_history/").map_or(text, |(url, _)| url);
        match self.0.get(url) {
            Some(target) => *value = Value::String(target.clone()),
            None if PLACEHOLDERS.iter().any(|scheme| text.starts_with(scheme)) => {
                return Err(Outcome::invalid(
                    "There is a reference to a fullUrl that no entry with a resource to be stored has",
                ));
            }
            None => {}
        }
        Ok(())
    }
}

/// Reads the `fullUrl` of an entry, if it has one.
pub(super) fn full_url(entry: &Value, n: usize) -> Result<Option<String>, Outcome> {
    let Some(value) = entry.get("fullUrl") else { return Ok(None) };
    let is_absolute = |text: &&str| {
        PLACEHOLDERS.iter().chain(&["http://", "https://"]).any(|scheme| text.starts_with(scheme))
    };
    match value.as_str().filter(is_absolute) {
        Some(text) if !text.contains("/_history/") => Ok(Some(text.to_owned())),
        _ => Err(Outcome::invalid_at(
            format!("Bundle.entry[{n}].fullUrl"),
            "A fullUrl is a urn:uuid, a urn:oid or an absolute URL, without a version",
        )),
    }
}
