//! Who moves a client's secrets or asks about them: an admin of its project, or, where its policy says
//! `rotate-own-secret`, the client itself. As itself it learns nothing by that but the secret that it has made.

use keyrelay_core::caller::{Caller, SecretAuthority, Withheld};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ClientId;
use keyrelay_core::policy::Interaction;
use keyrelay_store::ClientState;
use serde_json::{Map, Value};

use super::access::{View, named, subject, view};
use super::render::{Rendered, ShownSecrets, render, stored_resource};
use crate::error::Outcome;

const KIND: ResourceType = ResourceType::ClientApplication;

/// See the module.
pub(super) struct SecretAuthor<'c> {
    pub(super) authority: SecretAuthority,
    pub(super) seen: View<'c>,
    /// Whether it is the client itself, and no admin.
    pub(super) is_itself: bool,
}

/// Whether somebody may move secrets of any client as an admin.
pub(super) fn is_admin(caller: &Caller) -> bool {
    // The answer shows the client, so a policy that hides all of them forbids this too.
    let shows = caller.policy.as_ref().is_none_or(|policy| policy.allows(Interaction::Read, KIND));
    caller.is_admin() && caller.may(Interaction::Update, KIND) && shows
}

/// Whether somebody may do something with that client's own secret, as an admin or as the client.
pub(super) fn may_rotate(caller: &Caller, id: &str) -> bool {
    is_admin(caller) || ClientId::parse(id).is_some_and(|client| caller.may_rotate_own_secret(client))
}

impl<'c> SecretAuthor<'c> {
    /// Decides it on what there is; for an admin by what it may do with the client, `interaction`.
    pub(super) fn of(
        caller: &'c Caller,
        interaction: Interaction,
        state: &ClientState,
    ) -> Result<Self, Outcome> {
        Self::admin(caller, interaction, state).or_else(|refused| Self::itself(caller, state)?.ok_or(refused))
    }

    /// Decides it on what there is, for what only an admin does.
    pub(super) fn admin(
        caller: &'c Caller,
        interaction: Interaction,
        state: &ClientState,
    ) -> Result<Self, Outcome> {
        let seen = view(caller, interaction, &state.resource)?;
        let admin = state.resource.project.and_then(|project| caller.admin_of(project));
        Ok(Self { authority: admin.ok_or_else(Outcome::not_found)?.into(), seen, is_itself: false })
    }

    fn itself(caller: &'c Caller, state: &ClientState) -> Result<Option<Self>, Outcome> {
        let version = &state.resource;
        if version.deleted || version.project != Some(caller.project) {
            return Ok(None);
        }
        let resource = stored_resource(version)?;
        let authority = caller.over_own_secret(version.id.into(), &subject(version, &resource));
        let seen = View { resource, withheld: Withheld::default() };
        Ok(authority.map(|authority| Self { authority, seen, is_itself: true }))
    }

    /// The answer to a move of secrets: the client as its admin sees it, or what a client is told of itself.
    pub(super) fn answer(
        &self,
        mut resource: Map<String, Value>,
        shown: &ShownSecrets,
    ) -> Result<Rendered, Outcome> {
        if self.is_itself {
            return named(resource, shown);
        }
        for hidden in self.seen.withheld.hidden() {
            hidden.remove(&mut resource);
        }
        render(resource, shown, true)
    }
}
