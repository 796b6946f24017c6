//! A `SearchParameter` resource for each entry of the search tables.

use serde_json::{Value, json};

use super::super::schema::ResourceType;
use super::super::search::{Extract, ParamKind, SearchParam, VALUES_MAX, parameters};
use super::{definition_id, definition_url};

/// The definitions of all parameters that belong to one type; those of every type (`_tag` and its
/// like) are defined by FHIR itself.
#[must_use]
pub fn search_parameters(base_url: &str) -> Vec<Value> {
    ResourceType::ALL
        .into_iter()
        .flat_map(|resource_type| {
            parameters(resource_type)
                .filter(|param| !param.code.starts_with('_'))
                .map(move |param| search_parameter(base_url, resource_type, param))
        })
        .collect()
}

fn search_parameter(base_url: &str, resource_type: ResourceType, param: &SearchParam) -> Value {
    let name = format!("{resource_type}-{}", param.code);
    let mut resource = json!({
        "resourceType": "SearchParameter",
        "id": definition_id(ResourceType::SearchParameter, &name),
        "url": definition_url(base_url, ResourceType::SearchParameter, &name),
        "name": name,
        "status": "active",
        "description": format!(
            "Finds {resource_type} resources by {}; up to {VALUES_MAX} values.",
            param.code
        ),
        "code": param.code,
        "base": [resource_type.as_str()],
        "type": param.kind.as_str(),
        "expression": expression(resource_type, param),
        "multipleOr": true,
        "multipleAnd": true,
        "modifier": modifiers(param.kind),
    });
    if let Some(members) = resource.as_object_mut() {
        if !param.targets.is_empty() {
            members.insert("target".to_owned(), json!(param.targets));
        }
        if param.kind == ParamKind::Date {
            let comparators = json!(["eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"]);
            members.insert("comparator".to_owned(), comparators);
        }
    }
    resource
}

/// `FHIRPath` of what is indexed.
fn expression(resource_type: ResourceType, param: &SearchParam) -> String {
    let paths: Vec<String> = param
        .paths
        .iter()
        .map(|path| match param.extract {
            Extract::Whole => format!("{resource_type}.{path}"),
            Extract::ReferenceType => format!("{resource_type}.{path}.resolve().resourceType"),
            Extract::TargetsOnly => format!(
                "{resource_type}.{path}.where(resolve() is {})",
                param.targets.join(" or resolve() is ")
            ),
        })
        .collect();
    paths.join(" | ")
}

const fn modifiers(kind: ParamKind) -> &'static [&'static str] {
    match kind {
        ParamKind::String => &["missing", "exact", "contains"],
        ParamKind::Token | ParamKind::Uri => &["missing", "not"],
        ParamKind::Reference => &["missing", "not", "type"],
        ParamKind::Date => &["missing"],
    }
}
