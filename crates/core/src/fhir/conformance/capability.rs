//! The `CapabilityStatement`, served at `metadata` (R4 §5.2). It says what a client may rely on, so
//! each claim has a counterpart in routing; nothing optional is claimed that is not there.

use serde_json::{Value, json};

use crate::limits::{
    HISTORY_BYTES_MAX, HISTORY_KEPT, HISTORY_VERSIONS_KEPT, HISTORY_VERSIONS_MAX, HISTORY_VERSIONS_MIN,
};

use super::super::schema::{ResourceType, definition};
use super::super::search::{Field, parameters};
use super::{FHIR_VERSION, Operation, definition_id, definition_url, fhir_base};

/// An OAuth endpoint that clients find through the `CapabilityStatement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OauthEndpoint {
    /// `oauth2/authorize`
    Authorize,
    /// `oauth2/token`
    Token,
    /// `oauth2/introspect`
    Introspect,
    /// `oauth2/revoke`
    Revoke,
    /// `oauth2/register`
    Register,
}

impl OauthEndpoint {
    /// The name inside the `oauth-uris` extension, which is also the last segment of the path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Token => "token",
            Self::Introspect => "introspect",
            Self::Revoke => "revoke",
            Self::Register => "register",
        }
    }
}

/// What the statement needs to know about this installation.
#[derive(Debug, Clone, Copy)]
pub struct Conformance<'a> {
    /// The public address, with or without a final slash.
    pub base_url: &'a str,
    /// The version of the software.
    pub version: &'a str,
    /// When the statement was last changed, as a FHIR `dateTime`; the build or start time.
    pub date_rfc3339: &'a str,
    /// The OAuth endpoints that are served.
    pub oauth_endpoints: &'a [OauthEndpoint],
}

const DEFINITIONS_R4: &str = "http://hl7.org/fhir";
const SECURITY_SERVICE: &str = "http://terminology.hl7.org/CodeSystem/restful-security-service";
const OAUTH_URIS: &str = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris";

/// Builds the `CapabilityStatement` of kind `instance`.
#[must_use]
pub fn capability_statement(conformance: &Conformance<'_>) -> Value {
    let resources: Vec<Value> = ResourceType::ALL
        .into_iter()
        .filter(|resource_type| *resource_type != ResourceType::CapabilityStatement)
        .map(|resource_type| resource(conformance.base_url, resource_type))
        .collect();
    json!({
        "resourceType": "CapabilityStatement",
        "id": definition_id(ResourceType::CapabilityStatement, "metadata"),
        "url": format!("{}/metadata", fhir_base(conformance.base_url)),
        "version": conformance.version,
        "name": "Keyrelay",
        "title": "Keyrelay",
        "status": "active",
        "date": conformance.date_rfc3339,
        "description": "Keeps the client applications of a FHIR API and rotates their secrets.",
        "kind": "instance",
        "software": {"name": "Keyrelay", "version": conformance.version},
        "implementation": {
            "description": "Keyrelay",
            "url": fhir_base(conformance.base_url),
        },
        "fhirVersion": FHIR_VERSION,
        "format": ["application/fhir+json", "json"],
        "patchFormat": ["application/json-patch+json"],
        "rest": [{
            "mode": "server",
            "security": security(conformance),
            "resource": resources,
            "interaction": [{"code": "batch"}, {"code": "transaction"}],
            "searchParam": common_search_params(),
        }],
    })
}

fn security(conformance: &Conformance<'_>) -> Value {
    let root = conformance.base_url.trim_end_matches('/');
    let uris: Vec<Value> = conformance
        .oauth_endpoints
        .iter()
        .map(|endpoint| {
            let name = endpoint.as_str();
            json!({"url": name, "valueUri": format!("{root}/oauth2/{name}")})
        })
        .collect();
    let mut security = json!({
        "service": [{
            "coding": [{"system": SECURITY_SERVICE, "code": "SMART-on-FHIR"}],
            "text": "OAuth 2.0 with SMART on FHIR",
        }],
    });
    // An extension without content would not be valid.
    if let (Some(members), false) = (security.as_object_mut(), uris.is_empty()) {
        let extension = json!([{"url": OAUTH_URIS, "extension": uris}]);
        members.insert("extension".to_owned(), extension);
    }
    security
}

fn resource(base_url: &str, resource_type: ResourceType) -> Value {
    let (interactions, versioning): (&[&str], _) = if resource_type.is_writable() {
        let all =
            &["read", "vread", "update", "patch", "delete", "history-instance", "create", "search-type"];
        (all, "versioned-update")
    } else {
        (&["read", "search-type"], "no-version")
    };
    let profile = definition(resource_type).map_or_else(
        || format!("{DEFINITIONS_R4}/StructureDefinition/{resource_type}"),
        |definition| definition.url.to_owned(),
    );
    let mut statement = json!({
        "type": resource_type.as_str(),
        "profile": profile,
        "interaction": interactions.iter().map(|code| json!({"code": code})).collect::<Vec<_>>(),
        "versioning": versioning,
        "readHistory": resource_type.is_writable(),
        "updateCreate": false,
        "conditionalCreate": resource_type.is_writable(),
        "conditionalUpdate": false,
        "conditionalDelete": "not-supported",
        "referencePolicy": ["literal", "local"],
    });
    let Some(members) = statement.as_object_mut() else {
        return statement;
    };
    if resource_type.is_writable() {
        members.insert("documentation".to_owned(), history_rule().into());
    }
    let params: Vec<Value> = parameters(resource_type)
        .filter(|param| !param.code.starts_with('_'))
        .map(|param| {
            let name = format!("{resource_type}-{}", param.code);
            json!({
                "name": param.code,
                "definition": definition_url(base_url, ResourceType::SearchParameter, &name),
                "type": param.kind.as_str(),
            })
        })
        .collect();
    members.insert("searchParam".to_owned(), params.into());
    let operations: Vec<Value> = Operation::on(resource_type)
        .map(|operation| json!({"name": operation.code(), "definition": operation.definition_url(base_url)}))
        .collect();
    // An array without elements would not be valid.
    if !operations.is_empty() {
        members.insert("operation".to_owned(), operations.into());
    }
    statement
}

/// Which earlier versions a client can count on.
fn history_rule() -> String {
    let (hours, mib) = (HISTORY_KEPT.as_secs() / 3600, HISTORY_BYTES_MAX / (1024 * 1024));
    format!(
        "History is bounded. Of the earlier versions of a resource the newest {HISTORY_VERSIONS_KEPT} are kept, and all \
         of the last {hours} hours up to {HISTORY_VERSIONS_MAX}. Large versions together take at most {mib} MiB, but \
         at least {HISTORY_VERSIONS_MIN} are kept. Older versions are deleted: `_history` ends before them, and a \
         vread of one is answered with 404."
    )
}

/// The parameters of every type, whose names start with an underscore.
fn common_search_params() -> Vec<Value> {
    let special = [
        (Field::Id, Some("Resource-id")),
        (Field::LastUpdated, Some("Resource-lastUpdated")),
        (Field::Project, None),
        (Field::Compartment, None),
    ];
    let special = special.map(|(field, r4_name)| {
        let mut param = json!({"name": field.code(), "type": field.kind().as_str()});
        if let (Some(members), Some(name)) = (param.as_object_mut(), r4_name) {
            let url = format!("{DEFINITIONS_R4}/SearchParameter/{name}");
            members.insert("definition".to_owned(), url.into());
        }
        param
    });
    let indexed = parameters(ResourceType::CapabilityStatement).map(|param| {
        let name = param.code.trim_start_matches('_');
        json!({
            "name": param.code,
            "definition": format!("{DEFINITIONS_R4}/SearchParameter/Resource-{name}"),
            "type": param.kind.as_str(),
        })
    });
    special.into_iter().chain(indexed).collect()
}
