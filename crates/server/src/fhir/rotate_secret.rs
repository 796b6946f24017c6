//! `POST [base]/ClientApplication/[id]/$rotate-secret`: the main job.
//!
//! Authorisation is decided before the body is looked at, and the body before the client is looked
//! up. The decision is made on what was read and becomes durable only if that is still the current
//! version; otherwise it is made again, and the loser of a race finds that its value no longer
//! matches (P1). The answer is written before the commit, so that nothing can fail after it (P2).

use keyrelay_core::audit::SecretAction;
use keyrelay_core::caller::{AdminOf, Caller};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, ProjectId};
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::policy::Interaction;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::{Mismatch, Moved, SlotKind};
use keyrelay_store::ClientState;

use super::access::{SECRETS, View, not_to_write, view};
use super::client_application::{fresh_secret, record_move, state};
use super::parameters::{RotateInput, Step};
use super::render::{ShownSecrets, render};
use super::request::{Content, FhirRequest, Reply};
use super::versions::{Act, next_version};
use super::write::Decision;
use crate::App;
use crate::error::Outcome;

/// What the operation is on.
const KIND: ResourceType = ResourceType::ClientApplication;

/// A rotation or retirement that somebody may ask for and that can be read.
pub(super) struct Rotation {
    pub(super) id: ClientId,
    input: RotateInput,
}

impl Rotation {
    pub(super) async fn read(caller: &Caller, id: &str, content: Content) -> Result<Self, Outcome> {
        // The answer shows the client, so a policy that hides all of them forbids this too.
        let shows = caller.policy.as_ref().is_none_or(|policy| policy.allows(Interaction::Read, KIND));
        if !caller.is_admin() || !caller.may(Interaction::Update, KIND) || !shows {
            return Err(Outcome::forbidden("Only an admin of the project may rotate a client's secret"));
        }
        let input = RotateInput::read(content.into_object().await?)?;
        Ok(Self { id: ClientId::parse(id).ok_or_else(Outcome::not_found)?, input })
    }

    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        let state = state(act, self.id).await?;
        let seen = view(act.caller, Interaction::Update, &state.resource)?;
        let admin = state
            .resource
            .project
            .and_then(|project| act.caller.admin_of(project))
            .ok_or_else(Outcome::not_found)?;
        if state.resource.deleted {
            return Err(Outcome::gone());
        }
        // Both move, and the answer shows both: a new secret that could not be shown would be lost.
        if let Some(name) = SECRETS.into_iter().find(|name| seen.withheld.keeps(name)) {
            return Err(not_to_write(KIND, name));
        }
        request.check_if_match(state.resource.version)?;
        decide(act, admin, &self.input, &state, &seen)
    }

    /// Counts and logs it, once it is durable.
    pub(super) fn tell(&self, app: &App, by: &Caller) {
        SecretMove::tell(app, self.id, by, self.input.step.slot());
    }
}

/// A move of secrets that was decided: rotating or retiring.
pub(crate) struct SecretMove {
    /// What it is, for the audit.
    pub(crate) action: SecretAction,
    /// The secret that was made by it.
    pub(crate) fresh: Option<PlainSecret>,
    /// What became of the slots.
    pub(crate) moved: Moved,
}

impl SecretMove {
    /// Decides it: the one place where a presented value moves the slot that it was presented for.
    pub(crate) fn decide(
        act: Act<'_>,
        step: Step,
        value: &PlainSecret,
        state: &ClientState,
    ) -> Result<Self, Mismatch> {
        let client = ClientId::from(state.resource.id);
        let presented = act.app.keyring.present(client, value);
        let slots = state.slots.at(act.now);
        match step {
            Step::Rotate { retire_after } => {
                let (secret, fresh) = fresh_secret(act, client, state.secret_visibility);
                let ends = retire_after.map(|after| act.now.plus(after));
                let moved = slots.rotate(&presented, fresh, ends)?;
                Ok(Self { action: SecretAction::Rotate, fresh: Some(secret), moved })
            }
            Step::Retire => {
                let moved = slots.retire(&presented)?;
                Ok(Self { action: SecretAction::Retire, fresh: None, moved })
            }
        }
    }

    /// Counts and logs it, once it is durable.
    pub(crate) fn tell(app: &App, client: ClientId, by: &Caller, slot: SlotKind) {
        match slot {
            SlotKind::Active => app.metrics.rotations.inc(),
            SlotKind::Retiring => app.metrics.retirements.inc(),
        };
        tracing::info!(%client, by = %by.profile, slot = slot.as_str(), "a secret was moved on");
    }
}

/// Values in, values out: what the rotation changes, and what it answers.
fn decide(
    act: Act<'_>,
    admin: AdminOf<ProjectId>,
    input: &RotateInput,
    state: &ClientState,
    seen: &View<'_>,
) -> Result<Decision, Outcome> {
    let SecretMove { action, fresh, moved } = SecretMove::decide(act, input.step, &input.presented, state)
        .map_err(|error| Outcome::invalid(error.to_string()))?;

    let current = &state.resource;
    let (next, mut resource) = next_version(act, current, seen.resource.clone());
    for hidden in seen.withheld.hidden() {
        hidden.remove(&mut resource);
    }
    let version = next.version;
    let mut change = act.change();
    change.update(next.clone(), current.version, None);
    record_move(act, &admin.into(), action, &moved, state, &mut change);

    let after = ClientState { resource: next, slots: moved.stored(), ..state.clone() };
    let mut shown = ShownSecrets::of(&act.app.keyring, &after, act.now)?;
    if after.secret_visibility == SecretVisibility::Once {
        shown.secret = fresh;
    }
    let reply = Reply::ok(render(resource, &shown, true)?).of_version(version, act.now);
    Ok(Decision { reply, change: Some(change), fate: None })
}
