//! Deleting a resource: its history stays, and what it let in is let in no more.

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use keyrelay_core::policy::Interaction;
use serde_json::json;

use super::Decision;
use super::update::load;
use crate::audit;
use crate::error::Outcome;
use crate::fhir::access::view;
use crate::fhir::pending::Fate;
use crate::fhir::render::Rendered;
use crate::fhir::request::{FhirRequest, Reply};
use crate::fhir::versions::{Act, deletion};

/// A resource that somebody wants to be gone.
pub(in crate::fhir) struct Deletion {
    pub(super) resource_type: ResourceType,
    pub(super) id: ResourceId,
}

impl Deletion {
    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        let id = self.id;
        let (current, client) = load(act, self.resource_type, id).await?;
        view(act.caller, Interaction::Delete, &current)?;
        if current.deleted {
            return Ok(Decision::nothing(deleted()));
        }
        request.check_if_match(current.version)?;
        if is_own(act.caller, id) {
            return Err(Outcome::conflict(
                "You are logged in through this resource: delete it as somebody else",
            ));
        }
        let mut change = act.change();
        match self.resource_type {
            ResourceType::ClientApplication => change.delete_client(id.into(), act.now),
            ResourceType::Project => change.delete_project(id.into()),
            ResourceType::ProjectMembership => change.delete_membership(id.into()),
            ResourceType::User => change.delete_user(id.into()),
            _ => {}
        }
        change.update(deletion(act, &current), current.version, Some(&[]));
        if let Some(state) = &client {
            audit::record_deletion(act, state, &mut change);
        }
        change.let_pass();
        Ok(Decision { reply: deleted(), change: Some(change), fate: Some(Fate::Deleted) })
    }
}

/// Whether the caller is logged in through that resource.
fn is_own(caller: &Caller, id: ResourceId) -> bool {
    let through = [caller.membership.into(), caller.project.into(), caller.profile.id];
    through.contains(&id)
        || caller.client.is_some_and(|client| id == client.into())
        || caller.login.is_some_and(|login| id == login.user.into())
}

fn deleted() -> Reply {
    Reply::ok(Rendered::value(&json!({
        "resourceType": "OperationOutcome",
        "id": "ok",
        "issue": [{ "severity": "information", "code": "informational", "details": { "text": "Deleted" } }]
    })))
}
