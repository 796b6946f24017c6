//! The operations there are, and the `OperationDefinition` of each (R4 §5.4): what a client needs to call
//! it without reading our documentation.

use serde_json::{Value, json};

use super::super::schema::ResourceType;
use super::{definition_id, definition_url};
use crate::limits::USAGE_MINUTES_PER_SECRET_MAX;

/// An operation on one resource of a type. Routing knows no other, and the `CapabilityStatement` and the
/// definitions leave none out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ClientApplication/[id]/$rotate-secret`
    RotateSecret,
    /// `ClientApplication/[id]/$secret-status`
    SecretStatus,
    /// `ClientApplication/[id]/$undo-rotation`
    UndoRotation,
    /// `ClientApplication/[id]/$revoke-secret`
    RevokeSecret,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::RotateSecret, Self::SecretStatus, Self::UndoRotation, Self::RevokeSecret];

    /// Its code; the URL has a `$` before it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::RotateSecret => "rotate-secret",
            Self::SecretStatus => "secret-status",
            Self::UndoRotation => "undo-rotation",
            Self::RevokeSecret => "revoke-secret",
        }
    }

    /// The type that it is on.
    #[must_use]
    pub const fn resource_type(self) -> ResourceType {
        match self {
            Self::RotateSecret | Self::SecretStatus | Self::UndoRotation | Self::RevokeSecret => {
                ResourceType::ClientApplication
            }
        }
    }

    /// Whether it changes something. What does is called by POST, what does not by GET (FHIR R4 §3.2.0.1).
    #[must_use]
    pub const fn affects_state(self) -> bool {
        match self {
            Self::RotateSecret | Self::UndoRotation | Self::RevokeSecret => true,
            Self::SecretStatus => false,
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
        let told = match self {
            Self::RotateSecret => rotate_secret(),
            Self::SecretStatus => secret_status(),
            Self::UndoRotation => undo_rotation(),
            Self::RevokeSecret => revoke_secret(),
        };
        json!({
            "resourceType": "OperationDefinition",
            "id": definition_id(ResourceType::OperationDefinition, self.code()),
            "url": self.definition_url(base_url),
            "name": told.name,
            "title": told.title,
            "status": "active",
            "kind": "operation",
            "description": told.description,
            "affectsState": self.affects_state(),
            "code": self.code(),
            "comment": if self.affects_state() {
                format!("{} {REPLAYED}", told.comment)
            } else {
                told.comment.to_owned()
            },
            "resource": [self.resource_type().as_str()],
            "system": false,
            "type": false,
            "instance": true,
            "parameter": told.parameters,
        })
    }
}

/// What is true of every operation that changes something.
const REPLAYED: &str = "With an Idempotency-Key of 1 to 255 visible ASCII characters, the same request under the \
    same key is answered again as before for 24 hours, and nothing is done twice; another request under the key \
    is answered 422. In a Bundle there are no keys.";

/// What a definition tells of one operation; the rest is the same for all.
struct Told {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    comment: &'static str,
    parameters: Value,
}

/// The definitions of all operations.
#[must_use]
pub fn operation_definitions(base_url: &str) -> Vec<Value> {
    Operation::ALL.into_iter().map(|operation| operation.definition(base_url)).collect()
}

fn rotate_secret() -> Told {
    Told {
        name: "ClientApplicationRotateSecret",
        title: "Rotate the secret of a client application",
        description: "Changes a client secret in two steps without locking the client out. \
            Given the current secret, a fresh one takes its place and the old one keeps working \
            as the retiring secret. Given the retiring secret, that one stops working for good.",
        comment: "Exactly one of secret and retiringSecret must be given. Only administrators of \
            the client's project may call the operation, and the client itself where its AccessPolicy has the \
            interaction rotate-own-secret. The answer is the resource itself, not a Parameters resource; the \
            client itself is told its name and a new secret.",
        parameters: json!([
            parameter("secret", "The current secret, to be replaced and retired."),
            parameter("retiringSecret", "The retiring secret, to be removed."),
            parameter(
                "retireAfter",
                "Beside secret: how long the old secret keeps working, such as 24h. After that it has \
                    ended on every node, without another call. Where nothing is said, the project's \
                    setting secretRetireAfter decides; none keeps it working until it is removed.",
            ),
            parameter(
                "onlyIfUnused",
                "Beside retiringSecret: for how long nobody must have used it, such as 10m; otherwise \
                    nothing is changed, and the answer is 409 with who used it. What other servers \
                    counted in their last seconds may be missing; the answer says up to when all is known.",
            ),
            flag(
                "revokeTokens",
                "Beside retiringSecret: whether the access tokens that it got end with it; false where \
                    nothing is said.",
            ),
            flag(
                "force",
                "Whether it is done whatever onlyIfUnused or the project's setting secretOverwrite says; \
                    false where nothing is said.",
            ),
            changed_client(),
        ]),
    }
}

fn undo_rotation() -> Told {
    Told {
        name: "ClientApplicationUndoRotation",
        title: "Undo the rotation of a client's secret",
        description: "Makes the retiring secret the current one again, and the newer one the retiring one. \
            Both keep working throughout. A deadline that the retiring one had is gone.",
        comment: "It has no input. Only administrators of the client's project may call it, while there is \
            a retiring secret; otherwise the answer is 409.",
        parameters: json!([changed_client()]),
    }
}

fn revoke_secret() -> Told {
    Told {
        name: "ClientApplicationRevokeSecret",
        title: "End a secret of a client application at once",
        description: "For an emergency: a secret of the client ends now, without being presented, and so do \
            the access tokens that it got. If it is the current one, the retiring one takes its place; \
            without one, the client has no secret until an administrator writes one.",
        comment: "Only administrators of the client's project may call the operation. If there is no such \
            secret, the answer is 409.",
        parameters: json!([
            { "name": "slot", "use": "in", "min": 1, "max": "1", "type": "string",
              "documentation": "Which one: secret or retiringSecret." },
            flag(
                "revokeTokens",
                "Whether the access tokens that it got end with it; true where nothing is said.",
            ),
            changed_client(),
        ]),
    }
}

fn secret_status() -> Told {
    Told {
        name: "ClientApplicationSecretStatus",
        title: "Who uses which secret of a client application",
        description: "Tells of both secrets of a client when they were made, how often and by whom they \
            were used, until when they grant access (expires) and are to be rotated (dueBy, overdue), and \
            whether the retiring one can be removed without locking anybody out.",
        comment: "Only administrators of the client's project may call the operation, by GET, \
            and the client itself where its AccessPolicy has the interaction rotate-own-secret. The answer \
            is a Parameters resource. It has no secret in it.",
        parameters: json!([
            parameter(
                "unusedFor",
                "How long a caller that was not seen with the current secret must have stayed away to \
                    count as gone, and uses must have been counted (countedSince), such as 10m or 24h; a day where nothing is said.",
            ),
            {
                "name": "minutes",
                "use": "in",
                "min": 0,
                "max": "1",
                "documentation": format!(
                    "For a chart: how many of the last minutes, at most {USAGE_MINUTES_PER_SECRET_MAX}, are told one by \
                     one. Then secret, retiringSecret and refused have a part minute for each of them that has any \
                     use: when it began (at), and how many proofs were accepted and refused in it."
                ),
                "type": "positiveInt",
            },
            {
                "name": "return",
                "use": "out",
                "min": 1,
                "max": "1",
                "documentation": "The status of both secrets.",
                "type": "Parameters",
            },
        ]),
    }
}

/// What an operation answers that changes a client.
fn changed_client() -> Value {
    json!({
        "name": "return",
        "use": "out",
        "min": 1,
        "max": "1",
        "documentation": "The client application after the change.",
        "type": "ClientApplication",
    })
}

fn flag(name: &str, documentation: &str) -> Value {
    json!({
        "name": name,
        "use": "in",
        "min": 0,
        "max": "1",
        "documentation": documentation,
        "type": "boolean",
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
