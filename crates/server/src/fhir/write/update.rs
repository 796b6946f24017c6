//! Changing a resource that is there, as a whole or by a patch.

use keyrelay_core::audit::Recorded;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::ResourceId;
use keyrelay_core::policy::Interaction;
use keyrelay_store::{ClientState, ResourceVersion};
use serde_json::{Map, Value};

use super::draft::Draft;
use super::particulars::{Particulars, particulars, put_row};
use super::{Decision, same_apart_from_meta};
use crate::audit::Seen;
use crate::error::Outcome;
use crate::fhir::access::{View, check_outcome, secrets_for, view, written};
use crate::fhir::bundle::Links;
use crate::fhir::client_application;
use crate::fhir::patch::Patch;
use crate::fhir::pending::Fate;
use crate::fhir::render::ShownSecrets;
use crate::fhir::request::{Content, FhirRequest};
use crate::fhir::versions::{Act, next_version};

/// A change to a resource that is there.
pub(in crate::fhir) struct Update {
    pub(super) resource_type: ResourceType,
    pub(super) id: ResourceId,
    pub(super) edit: Edit,
}

/// What is to be changed.
pub(super) enum Edit {
    /// The whole resource.
    Put(Draft),
    /// Its differences.
    Patch(Patch),
}

impl Edit {
    pub(super) async fn put(
        resource_type: ResourceType,
        id: &str,
        content: Content,
    ) -> Result<Self, Outcome> {
        let resource = content.into_object().await?;
        if resource.get("id").and_then(Value::as_str) != Some(id) {
            return Err(Outcome::invalid_at(
                format!("{resource_type}.id"),
                "The id in the body must be the id in the URL",
            ));
        }
        Draft::take(resource_type, resource).map(Self::Put)
    }

    pub(super) async fn patch(content: Content) -> Result<Self, Outcome> {
        Patch::read(&content.into_patch().await?).map(Self::Patch)
    }

    /// Whether it says all of what is to be stored. Where elements may be withheld from the caller, a body is
    /// whole only with what is stored of them.
    fn is_whole(&self, caller: &Caller, resource_type: ResourceType) -> bool {
        matches!(self, Self::Put(_)) && !caller.is_withheld_from(resource_type)
    }

    /// What the resource is after the change. What is withheld from its author stays as it is, and a patch
    /// is applied to what the author sees.
    fn apply(
        &self,
        caller: &Caller,
        resource_type: ResourceType,
        before: &View<'_>,
    ) -> Result<Draft, Outcome> {
        let mut draft = match self {
            Self::Put(draft) => draft.copied(),
            Self::Patch(patch) => {
                let patched = patch.apply(resource_type, &before.visible())?;
                if patched.get("id") != before.resource.get("id") {
                    return Err(Outcome::invalid_at(
                        format!("{resource_type}.id"),
                        "A patch cannot change the id",
                    ));
                }
                Draft::take(resource_type, patched)?
            }
        };
        draft.check_secrets(|name| before.withheld.hides(name))?;
        for kept in before.withheld.kept() {
            kept.restore(&mut draft.resource, &before.resource);
        }
        if !self.is_whole(caller, resource_type) {
            draft.check_form(resource_type)?;
        }
        draft.check_names(&before.resource)?;
        Ok(draft)
    }
}

impl Update {
    /// Checks what can be checked of it alone. The rest is checked once it is applied.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Outcome> {
        match &self.edit {
            Edit::Put(draft) if self.edit.is_whole(caller, self.resource_type) => {
                draft.check_form(self.resource_type)
            }
            Edit::Put(_) | Edit::Patch(_) => Ok(()),
        }
    }

    /// The same with the links of its transaction put in place.
    pub(super) fn linked(&self, links: &Links<'_>) -> Result<Self, Outcome> {
        let edit = match &self.edit {
            Edit::Put(draft) => Edit::Put(draft.linked(links)?),
            Edit::Patch(patch) => Edit::Patch(patch.linked(links)?),
        };
        Ok(Self { edit, ..*self })
    }

    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        let (current, client) = load(act, self.resource_type, self.id).await?;
        let before = view(act.caller, Interaction::Update, &current)?;
        if current.deleted {
            return Err(Outcome::gone());
        }
        request.check_if_match(current.version)?;
        let draft = self.edit.apply(act.caller, self.resource_type, &before)?;
        decide(act, &current, client, &before, draft, request.extended).await
    }
}

/// The current version of a resource; of a client, with its secrets.
pub(super) async fn load(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
) -> Result<(ResourceVersion, Option<ClientState>), Outcome> {
    if resource_type == ResourceType::ClientApplication {
        let state = client_application::state(act, id.into()).await?;
        return Ok((state.resource.clone(), Some(state)));
    }
    let found = act.app.store.resource(resource_type, id).await?;
    Ok((found.ok_or_else(Outcome::not_found)?, None))
}

async fn decide(
    act: Act<'_>,
    current: &ResourceVersion,
    client: Option<ClientState>,
    before: &View<'_>,
    draft: Draft,
    extended: bool,
) -> Result<Decision, Outcome> {
    let (app, resource_type, id) = (act.app, current.resource_type, current.id);
    let project = current.project.ok_or_else(Outcome::not_found)?;
    let particulars =
        particulars(act, resource_type, id, project, &draft.resource, Some(&before.resource)).await?;
    let moved = match &client {
        Some(state) => {
            let (was, is) = (Some(&before.resource), &draft.resource);
            client_application::check_proofs(act.caller, project, was, is, &before.withheld)?;
            client_application::replace(act, state, &draft.secrets).await?
        }
        None => None,
    };
    if moved.is_some() {
        draft.check_secrets(|name| before.withheld.keeps(name))?;
    }
    let shown = |state: &Option<ClientState>, resource: &Map<String, Value>| match state {
        Some(state) => secrets_for(app, act.caller, state, resource),
        None => Ok(ShownSecrets::default()),
    };
    if moved.is_none() && same_apart_from_meta(&before.resource, &draft.resource) {
        let shown = shown(&client, &before.resource)?;
        let seen = seen(act, client.as_ref(), &shown);
        let reply = written(act.caller, current, before.resource.clone(), &shown, extended)?;
        if seen.is_empty() {
            return Ok(Decision::nothing(reply));
        }
        let mut change = act.change();
        seen.record(act, Recorded::Read, &mut change);
        return Ok(Decision { reply, change: Some(change), fate: None });
    }
    let (next, resource) = next_version(act, current, draft.resource)?;
    check_outcome(act.caller, &next, &resource)?;
    let mut change = act.change();
    if let Particulars::Client(row) = &particulars {
        client_application::bound_by_admin(act, row, &before.resource, &resource, &mut change);
    }
    change.update(next.clone(), current.version, Some(&index_entries(resource_type, &resource)));
    put_row(app, &particulars, &mut change);
    let is_moved = moved.is_some();
    let client = client.map(|mut state| {
        state.resource = next.clone();
        if let Some(moved) = moved {
            client_application::move_secrets(act, &moved, &state, &mut change);
            state.slots = moved.stored();
        }
        state
    });
    let shown = shown(&client, &resource)?;
    if !is_moved {
        seen(act, client.as_ref(), &shown).record(act, Recorded::Read, &mut change);
    }
    if shuts_out(resource_type, &before.resource, &resource) {
        change.owe();
    }
    let reply = written(act.caller, &next, resource, &shown, extended)?;
    Ok(Decision { reply, change: Some(change), fate: Some(Fate::Changed(particulars)) })
}

/// Whether a change sets an active resource inactive, which no bound may prevent.
fn shuts_out(resource_type: ResourceType, before: &Map<String, Value>, after: &Map<String, Value>) -> bool {
    let lets_in = |resource: &Map<String, Value>| match resource_type {
        ResourceType::ClientApplication => resource.get("status").is_none_or(|status| status == "active"),
        ResourceType::Project | ResourceType::ProjectMembership | ResourceType::User => {
            resource.get("active").and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    };
    lets_in(before) && !lets_in(after)
}

/// What the answer shows of a client's secrets.
fn seen(act: Act<'_>, client: Option<&ClientState>, shown: &ShownSecrets) -> Seen {
    let mut seen = Seen::default();
    if let Some(state) = client {
        seen.take_up(state, shown, act.now);
    }
    seen
}
