//! A `StructureDefinition` for each stored type (R4 §5.3), generated from the schema tables. Its
//! canonical url is that of FHIR or Medplum, because clients look the types up by it.

use serde_json::{Map, Value, json};

use super::super::schema::{
    BACKBONE_BASE, DEFINITIONS, Definition, Element, Kind, RESOURCE_BASE, ResourceType,
};
use super::{FHIR_VERSION, definition_id};

const TYPES_R4: &str = "http://hl7.org/fhir/StructureDefinition";

/// The definitions of all stored types, each with a snapshot.
#[must_use]
pub fn structure_definitions() -> Vec<Value> {
    DEFINITIONS.iter().map(structure_definition).collect()
}

fn structure_definition(definition: &Definition) -> Value {
    let name = definition.resource_type.as_str();
    let root = json!({
        "id": name,
        "path": name,
        "definition": format!("A {name} resource."),
        "min": 0,
        "max": "*",
        "base": {"path": name, "min": 0, "max": "*"},
    });
    let mut elements = vec![root];
    append(&mut elements, name, RESOURCE_BASE);
    append(&mut elements, name, definition.elements);
    json!({
        "resourceType": "StructureDefinition",
        "id": definition_id(ResourceType::StructureDefinition, name),
        "url": definition.url,
        "name": name,
        "status": "active",
        "fhirVersion": FHIR_VERSION,
        "kind": "resource",
        "abstract": false,
        "type": name,
        "baseDefinition": format!("{TYPES_R4}/DomainResource"),
        "derivation": "specialization",
        "snapshot": {"element": elements},
    })
}

/// Adds the elements below `parent`, and theirs. The tables are finite, so the recursion is.
fn append(elements: &mut Vec<Value>, parent: &str, table: &'static [Element]) {
    for element in table {
        let stem = format!("{parent}.{}", element.name);
        let path = match element.kind {
            Kind::Choice(_) => format!("{stem}[x]"),
            _ => stem,
        };
        elements.push(element_definition(&path, element));
        if let Kind::Backbone(inner) = element.kind {
            append(elements, &path, BACKBONE_BASE);
            append(elements, &path, inner);
        }
    }
}

fn element_definition(path: &str, element: &Element) -> Value {
    let (min, max) = (u8::from(element.required), element.max.as_str());
    let types = types(element.kind);
    let names: Vec<&str> = types.iter().filter_map(|kind| kind["code"].as_str()).collect();
    let mut members = Map::new();
    members.insert("id".to_owned(), path.into());
    members.insert("path".to_owned(), path.into());
    let definition = format!("{} of type {}.", element.name, names.join(" or "));
    members.insert("definition".to_owned(), definition.into());
    members.insert("min".to_owned(), min.into());
    members.insert("max".to_owned(), max.into());
    let base = json!({"path": path, "min": min, "max": max});
    members.insert("base".to_owned(), base);
    members.insert("type".to_owned(), types.into());
    if let Kind::Enum(list) = element.kind {
        let binding = json!({
            "strength": "required",
            "description": list.codes.join(" | "),
            "valueSet": list.value_set,
        });
        members.insert("binding".to_owned(), binding);
    }
    Value::Object(members)
}

fn types(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::Choice(alternatives) => {
            alternatives.iter().flat_map(|alternative| types(alternative.kind)).collect()
        }
        Kind::Reference(targets) if !targets.is_empty() => {
            let profiles: Vec<String> =
                targets.iter().map(|target| format!("{}/{target}", types_url(target))).collect();
            vec![json!({"code": "Reference", "targetProfile": profiles})]
        }
        kind => vec![json!({"code": kind.type_name()})],
    }
}

/// Where the definition of a type lives: Medplum's own types are not FHIR's.
fn types_url(name: &str) -> &'static str {
    const MEDPLUM: [&str; 6] =
        ["AccessPolicy", "Bot", "ClientApplication", "Project", "User", "UserConfiguration"];
    if MEDPLUM.contains(&name) { "https://medplum.com/fhir/StructureDefinition" } else { TYPES_R4 }
}
