//! The operations there are, and the `OperationDefinition` of each (R4 §5.4): what a client needs to call
//! it without reading our documentation.

use serde_json::{Value, json};

use super::super::schema::ResourceType;
use super::{definition_id, definition_url};

/// An operation on one resource of a type. Routing knows no other, and the `CapabilityStatement` and the
/// definitions leave none out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ClientApplication/[id]/$rotate-secret`
    RotateSecret,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::RotateSecret];

    /// Its code; the URL has a `$` before it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::RotateSecret => "rotate-secret",
        }
    }

    /// The type that it is on.
    #[must_use]
    pub const fn resource_type(self) -> ResourceType {
        match self {
            Self::RotateSecret => ResourceType::ClientApplication,
        }
    }

    /// Those on a type.
    pub fn on(resource_type: ResourceType) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |operation| operation.resource_type() == resource_type)
    }

    /// The one that a segment of a path calls, after the id of a resource of that type.
    #[must_use]
    pub fn called(resource_type: ResourceType, segment: &str) -> Option<Self> {
        let code = segment.strip_prefix('$')?;
        Self::on(resource_type).find(|operation| operation.code() == code)
    }

    pub(super) fn definition_url(self, base_url: &str) -> String {
        definition_url(base_url, ResourceType::OperationDefinition, self.code())
    }

    fn definition(self, base_url: &str) -> Value {
        match self {
            Self::RotateSecret => rotate_secret(base_url),
        }
    }
}

/// The definitions of all operations.
#[must_use]
pub fn operation_definitions(base_url: &str) -> Vec<Value> {
    Operation::ALL.into_iter().map(|operation| operation.definition(base_url)).collect()
}

fn rotate_secret(base_url: &str) -> Value {
    let operation = Operation::RotateSecret;
    json!({
        "resourceType": "OperationDefinition",
        "id": definition_id(ResourceType::OperationDefinition, operation.code()),
        "url": operation.definition_url(base_url),
        "name": "ClientApplicationRotateSecret",
        "title": "Rotate the secret of a client application",
        "status": "active",
        "kind": "operation",
        "description": "Changes a client secret in two steps without locking the client out. \
            Given the current secret, a fresh one takes its place and the old one keeps working \
            as the retiring secret. Given the retiring secret, that one stops working for good.",
        "affectsState": true,
        "code": operation.code(),
        "comment": "Exactly one of the two input parameters must be given. Only administrators of \
            the client's project may call the operation. The answer is the resource itself, not \
            a Parameters resource.",
        "resource": [operation.resource_type().as_str()],
        "system": false,
        "type": false,
        "instance": true,
        "parameter": [
            parameter("secret", "The current secret, to be replaced and retired."),
            parameter("retiringSecret", "The retiring secret, to be removed."),
            {
                "name": "return",
                "use": "out",
                "min": 1,
                "max": "1",
                "documentation": "The client application after the change.",
                "type": "ClientApplication",
            },
        ],
    })
}

fn parameter(name: &str, documentation: &str) -> Value {
    json!({
        "name": name,
        "use": "in",
        "min": 0,
        "max": "1",
        "documentation": documentation,
        "type": "string",
    })
}
