//! The search parameters of each type: those of R4 and of Medplum, plus
//! `ClientApplication.status`, which operators need to find clients that are switched off, and
//! `ClientApplication.allowed-origin`, by which the server itself finds which origins are allowed.
//! Data only. Fields that hold secrets must never be listed; a test holds this.

use super::super::schema::{AGENT_TARGETS, OBSERVER_TARGETS, PROFILE_TARGETS, ResourceType, USER_TARGETS};
use super::{Extract, ParamKind, SearchParam};

/// The parameters of a type that are answered from the index table, with those every type has
/// (`_tag` and its like). `_id`, `_lastUpdated`, `_project` and `_compartment` are not among them:
/// see [`Field`](super::Field).
pub fn parameters(resource_type: ResourceType) -> impl Iterator<Item = &'static SearchParam> + Clone {
    let own: &'static [SearchParam] = match resource_type {
        ResourceType::Project => PROJECT,
        ResourceType::ClientApplication => CLIENT_APPLICATION,
        ResourceType::ProjectMembership => PROJECT_MEMBERSHIP,
        ResourceType::AccessPolicy => ACCESS_POLICY,
        ResourceType::User => USER,
        ResourceType::Practitioner => PRACTITIONER,
        ResourceType::AuditEvent => AUDIT_EVENT,
        ResourceType::StructureDefinition => STRUCTURE_DEFINITION,
        ResourceType::OperationDefinition => OPERATION_DEFINITION,
        ResourceType::SearchParameter => SEARCH_PARAMETER,
        ResourceType::CapabilityStatement => &[],
    };
    own.iter().chain(COMMON)
}

const fn of(
    kind: ParamKind,
    code: &'static str,
    paths: &'static [&'static str],
    targets: &'static [&'static str],
) -> SearchParam {
    SearchParam { code, kind, paths, extract: Extract::Whole, targets }
}

const fn token(code: &'static str, paths: &'static [&'static str]) -> SearchParam {
    of(ParamKind::Token, code, paths, &[])
}

const fn string(code: &'static str, paths: &'static [&'static str]) -> SearchParam {
    of(ParamKind::String, code, paths, &[])
}

const fn uri(code: &'static str, paths: &'static [&'static str]) -> SearchParam {
    of(ParamKind::Uri, code, paths, &[])
}

const fn reference(
    code: &'static str,
    paths: &'static [&'static str],
    targets: &'static [&'static str],
) -> SearchParam {
    of(ParamKind::Reference, code, paths, targets)
}

static COMMON: &[SearchParam] = &[
    uri("_profile", &["meta.profile"]),
    token("_security", &["meta.security"]),
    uri("_source", &["meta.source"]),
    token("_tag", &["meta.tag"]),
];

static PROJECT: &[SearchParam] = &[
    token("identifier", &["identifier"]),
    string("name", &["name"]),
    reference("owner", &["owner"], &["User"]),
    token("features", &["features"]),
    reference("link", &["link.project"], &["Project"]),
    token("google-client-id", &["site.googleClientId"]),
    token("recaptcha-site-key", &["site.recaptchaSiteKey"]),
];

static CLIENT_APPLICATION: &[SearchParam] = &[
    string("name", &["name"]),
    token("status", &["status"]),
    string("identity-provider-issuer", &["identityProvider.issuer"]),
    uri("allowed-origin", &["allowedOrigin"]),
];

static PROJECT_MEMBERSHIP: &[SearchParam] = &[
    reference("project", &["project"], &["Project"]),
    reference("user", &["user"], USER_TARGETS),
    reference("profile", &["profile"], PROFILE_TARGETS),
    SearchParam {
        code: "profile-type",
        kind: ParamKind::Token,
        paths: &["profile"],
        extract: Extract::ReferenceType,
        targets: &[],
    },
    string("user-name", &["userName"]),
    string("external-id", &["externalId"]),
    reference("access-policy", &["accessPolicy", "access.policy"], &["AccessPolicy"]),
    token("identifier", &["identifier"]),
    token("admin", &["admin"]),
    token("active", &["active"]),
];

static ACCESS_POLICY: &[SearchParam] = &[string("name", &["name"])];

static USER: &[SearchParam] = &[
    string("email", &["email"]),
    string("external-id", &["externalId"]),
    token("identifier", &["identifier"]),
    string("name", &["firstName", "lastName"]),
    reference("project", &["project"], &["Project"]),
    token("active", &["active"]),
];

static PRACTITIONER: &[SearchParam] = &[
    token("active", &["active"]),
    token("communication", &["communication"]),
    string("family", &["name.family"]),
    token("gender", &["gender"]),
    string("given", &["name.given"]),
    token("identifier", &["identifier"]),
    string("name", &["name.family", "name.given", "name.text"]),
    token("telecom", &["telecom"]),
];

static AUDIT_EVENT: &[SearchParam] = &[
    token("action", &["action"]),
    string("address", &["agent.network.address"]),
    reference("agent", &["agent.who"], AGENT_TARGETS),
    string("agent-name", &["agent.name"]),
    token("agent-role", &["agent.role"]),
    token("altid", &["agent.altId"]),
    of(ParamKind::Date, "date", &["recorded"], &[]),
    reference("entity", &["entity.what"], &[]),
    string("entity-name", &["entity.name"]),
    token("entity-role", &["entity.role"]),
    token("entity-type", &["entity.type"]),
    token("outcome", &["outcome"]),
    SearchParam {
        code: "patient",
        kind: ParamKind::Reference,
        paths: &["agent.who", "entity.what"],
        extract: Extract::TargetsOnly,
        targets: &["Patient"],
    },
    uri("policy", &["agent.policy"]),
    token("site", &["source.site"]),
    reference("source", &["source.observer"], OBSERVER_TARGETS),
    token("subtype", &["subtype"]),
    token("type", &["type"]),
];

static STRUCTURE_DEFINITION: &[SearchParam] =
    &[string("name", &["name"]), token("status", &["status"]), uri("type", &["type"]), uri("url", &["url"])];

static OPERATION_DEFINITION: &[SearchParam] = &[
    token("code", &["code"]),
    string("name", &["name"]),
    token("status", &["status"]),
    uri("url", &["url"]),
];

static SEARCH_PARAMETER: &[SearchParam] = &[
    token("base", &["base"]),
    token("code", &["code"]),
    string("name", &["name"]),
    token("status", &["status"]),
    token("type", &["type"]),
    uri("url", &["url"]),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::super::schema::{
        BACKBONE_BASE, DATATYPE_BASE, Element, Kind, RESOURCE_BASE, definition,
    };
    use super::*;

    /// The elements a path may continue with.
    fn children(kind: Kind) -> Vec<&'static Element> {
        match kind {
            Kind::Complex(datatype) => datatype.elements.iter().chain(DATATYPE_BASE).collect(),
            Kind::Backbone(elements) => elements.iter().chain(BACKBONE_BASE).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn every_path_exists_in_the_schema() {
        for resource_type in ResourceType::ALL {
            let Some(definition) = definition(resource_type) else {
                continue;
            };
            for path in parameters(resource_type).flat_map(|param| param.paths) {
                let mut known: Vec<_> = definition.elements.iter().chain(RESOURCE_BASE).collect();
                for name in path.split('.') {
                    let element = known.iter().find(|element| element.name == name);
                    let element = element.unwrap_or_else(|| panic!("{resource_type}.{path}"));
                    known = children(element.kind);
                }
            }
        }
    }

    #[test]
    fn codes_are_unique_and_no_secret_is_searchable() {
        for resource_type in ResourceType::ALL {
            let mut seen = HashSet::new();
            for param in parameters(resource_type) {
                assert!(seen.insert(param.code), "{resource_type} {}", param.code);
                for path in param.paths {
                    let lower = path.to_lowercase();
                    assert!(!lower.contains("secret") && !lower.contains("apikey"), "{path}");
                    assert!(!lower.contains("setting") && !lower.contains("detail"), "{path}");
                }
            }
        }
    }
}
