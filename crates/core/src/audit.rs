//! What happened to a secret, as a FHIR AuditEvent in the shape of IHE's Basic Audit Log Patterns.
//! An event names secrets by their ids and never has a value of one to leak (P4).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::caller::Profile;
use crate::id::{ClientId, ProjectId, ResourceId, SecretId, VersionId};
use crate::time::Timestamp;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretAction {
    /// `$rotate-secret` with `secret`.
    Rotate,
    /// `$rotate-secret` with `retiringSecret`.
    Retire,
    /// A direct write of `secret`.
    Replace,
    /// `$undo-rotation`.
    Undo,
    /// `$revoke-secret`.
    Revoke,
}

impl SecretAction {
    /// The code in `AuditEvent.subtype`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rotate => "rotate-secret",
            Self::Retire => "retire-secret",
            Self::Replace => "replace-secret",
            Self::Undo => "undo-rotation",
            Self::Revoke => "revoke-secret",
        }
    }
}

/// Everything an AuditEvent about a secret says.
#[derive(Clone, Copy, Debug)]
pub struct SecretEvent<'a> {
    /// What was done.
    pub action: SecretAction,
    /// To whose secret.
    pub client: ClientId,
    /// In which project.
    pub project: ProjectId,
    /// By whom.
    pub by: Profile,
    /// From which address.
    pub from: IpAddr,
    /// When.
    pub at: Timestamp,
    /// The active secret from now on.
    pub active: Option<SecretId>,
    /// The retiring secret from now on.
    pub retiring: Option<SecretId>,
    /// The secrets that ended, by what was done or by their deadline before.
    pub ended: &'a [SecretId],
}

impl SecretEvent<'_> {
    /// The event as a resource.
    #[must_use]
    pub fn to_resource(&self, id: ResourceId, version: VersionId) -> Value {
        let named = [("active", self.active), ("retiring", self.retiring)];
        let ended = self.ended.iter().map(|id| ("ended", Some(*id)));
        let detail: Vec<Value> = named
            .into_iter()
            .chain(ended)
            .filter_map(|(name, id)| Some(json!({ "type": name, "valueString": id?.to_string() })))
            .collect();
        let who = json!({ "reference": self.by.to_string() });
        json!({
            "resourceType": "AuditEvent",
            "id": id.to_string(),
            "meta": {
                "versionId": version.to_string(),
                "lastUpdated": self.at.to_instant(),
                "project": self.project.to_string(),
                "author": who,
            },
            "type": {
                "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
                "code": "rest",
                "display": "RESTful Operation"
            },
            "subtype": [
                { "system": "http://hl7.org/fhir/restful-interaction", "code": self.interaction() },
                { "system": "urn:keyrelay:audit", "code": self.action.as_str() }
            ],
            "action": if self.action == SecretAction::Replace { "U" } else { "E" },
            "recorded": self.at.to_instant(),
            "outcome": "0",
            "agent": [{
                "who": who,
                "requestor": true,
                "network": { "address": self.from.to_canonical().to_string(), "type": "2" }
            }],
            "source": { "observer": { "display": "Keyrelay" } },
            "entity": [{
                "what": { "reference": format!("ClientApplication/{}", self.client) },
                "detail": detail
            }]
        })
    }

    const fn interaction(&self) -> &'static str {
        match self.action {
            SecretAction::Rotate | SecretAction::Retire | SecretAction::Undo | SecretAction::Revoke => {
                "operation"
            }
            SecretAction::Replace => "update",
        }
    }
}
