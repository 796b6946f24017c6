//! What the server says about itself: the `CapabilityStatement` and the definitions of its types,
//! operations and search parameters. All of it is generated from the tables of `schema` and
//! `search`, so that what is published is what is enforced.
//!
//! Definitions have constant ids, the same on every installation, and a url that can be read.

mod capability;
mod operation;
mod search_parameter;
mod structure;

use uuid::Uuid;

use super::schema::ResourceType;

pub use capability::{Conformance, OauthEndpoint, capability_statement};
pub use operation::{Operation, operation_definitions};
pub use search_parameter::search_parameters;
pub use structure::structure_definitions;

/// The name space of the ids of generated definitions (RFC 9562 §5.5). Never change it: ids are
/// in clients' bookmarks.
const DEFINITIONS_NAMESPACE: Uuid = Uuid::from_u128(0x821d9939_4a86_40f5_8c05_f3a8d69a70f7);

/// The version of FHIR that is spoken.
pub const FHIR_VERSION: &str = "4.0.1";

/// The constant id of a generated definition: a `UUIDv5` of its type and name.
#[must_use]
pub fn definition_id(resource_type: ResourceType, name: &str) -> String {
    Uuid::new_v5(&DEFINITIONS_NAMESPACE, format!("{resource_type}/{name}").as_bytes()).to_string()
}

/// `{base_url}/fhir/R4`, whether or not `base_url` ends with a slash.
fn fhir_base(base_url: &str) -> String {
    format!("{}/fhir/R4", base_url.trim_end_matches('/'))
}

/// Where a generated definition is read, which is also its canonical url.
fn definition_url(base_url: &str, resource_type: ResourceType, name: &str) -> String {
    format!("{}/{resource_type}/{}", fhir_base(base_url), definition_id(resource_type, name))
}

#[cfg(test)]
mod tests;
