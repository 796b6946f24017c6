//! The `OperationDefinition` of every operation (R4 §5.4): what a client needs to call it without
//! reading our documentation.

use serde_json::{Value, json};

use super::super::schema::ResourceType;
use super::{definition_id, definition_url};

/// The code of the operation on `ClientApplication`; the URL has a `$` before it.
pub const ROTATE_SECRET: &str = "rotate-secret";

/// The definitions of all operations.
#[must_use]
pub fn operation_definitions(base_url: &str) -> Vec<Value> {
    vec![rotate_secret(base_url)]
}

fn rotate_secret(base_url: &str) -> Value {
    json!({
        "resourceType": "OperationDefinition",
        "id": definition_id(ResourceType::OperationDefinition, ROTATE_SECRET),
        "url": definition_url(base_url, ResourceType::OperationDefinition, ROTATE_SECRET),
        "name": "ClientApplicationRotateSecret",
        "title": "Rotate the secret of a client application",
        "status": "active",
        "kind": "operation",
        "description": "Changes a client secret in two steps without locking the client out. \
            Given the current secret, a fresh one takes its place and the old one keeps working \
            as the retiring secret. Given the retiring secret, that one stops working for good.",
        "affectsState": true,
        "code": ROTATE_SECRET,
        "comment": "Exactly one of the two input parameters must be given. Only administrators of \
            the client's project may call the operation. The answer is the resource itself, not \
            a Parameters resource.",
        "resource": ["ClientApplication"],
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
