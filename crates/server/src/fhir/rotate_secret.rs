//! `POST [base]/ClientApplication/[id]/$rotate-secret`: the main job; and `$undo-rotation` and
//! `$revoke-secret`, which move the same two slots.
//!
//! Authorisation is decided before the body is looked at, and the body before the client is looked
//! up. The decision is made on what was read and becomes durable only if that is still the current
//! version; otherwise it is made again, and the loser of a race finds that its value no longer
//! matches (P1). The answer is written before the commit, so that nothing can fail after it (P2).

use keyrelay_core::audit::SecretAction;
use keyrelay_core::caller::Caller;
use keyrelay_core::evidence::{judge, why_not_unused};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ClientId;
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::limits::{EVIDENCE_UNUSED_FOR_DEFAULT, SECRET_MOVE_BYTES_MAX, TOKEN_LIFETIME_MAX};
use keyrelay_core::policy::Interaction;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::secret_rules::{RetireAfter, SecretOverwrite};
use keyrelay_core::slots::{Mismatch, Moved, NoSuchSecret, SlotKind};
use keyrelay_store::ClientState;

use super::access::{SECRETS, not_to_write};
use super::client_application::{fresh_secret, record_move, state};
use super::parameters::{RevokeInput, RotateInput, Step, no_parameters};
use super::render::ShownSecrets;
use super::replay::{self, Replay};
use super::request::{Content, FhirRequest, Reply};
use super::route::SecretOperation;
use super::secret_author::{SecretAuthor, is_admin, may_rotate};
use super::secret_status::Evidence;
use super::versions::{Act, next_version_as_is};
use super::write::Decision;
use crate::App;
use crate::audit;
use crate::budget;
use crate::error::Outcome;

/// What the operation is on.
const KIND: ResourceType = ResourceType::ClientApplication;

/// A move of secrets that somebody may ask for and that can be read.
pub(super) struct Rotation {
    pub(super) id: ClientId,
    asked: Asked,
    /// Where it came under an `Idempotency-Key`.
    replay: Option<Replay>,
}

/// What is asked of the secrets.
enum Asked {
    Rotate(RotateInput),
    Undo,
    Revoke(RevokeInput),
}

impl Rotation {
    pub(super) async fn read(
        caller: &Caller,
        moves: SecretOperation,
        id: &str,
        content: Content,
    ) -> Result<Self, Outcome> {
        check_author(caller, matches!(moves, SecretOperation::Rotate), id)?;
        budget::is_urgent();
        let key = content.headers().map_or(Ok(None), replay::key)?;
        let body = content.within(SECRET_MOVE_BYTES_MAX).into_object().await?;
        let replay = key.map(|key| Replay::new(key, moves.operation().code(), id, &body));
        let asked = match moves {
            SecretOperation::Rotate => Asked::Rotate(RotateInput::read(body)?),
            SecretOperation::Undo => no_parameters(body).map(|()| Asked::Undo)?,
            SecretOperation::Revoke => Asked::Revoke(RevokeInput::read(body)?),
        };
        Ok(Self { id: ClientId::parse(id).ok_or_else(Outcome::not_found)?, asked, replay })
    }

    /// Checks what can be checked of it alone.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Outcome> {
        check_author(caller, matches!(self.asked, Asked::Rotate(_)), &self.id.to_string())
    }

    /// Whether it may be answered by what was answered before.
    pub(super) const fn may_be_replayed(&self) -> bool {
        self.replay.is_some()
    }

    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        let state = state(act, self.id).await?;
        let author = match &self.asked {
            Asked::Rotate(_) => SecretAuthor::of(act.caller, Interaction::Update, &state)?,
            Asked::Undo | Asked::Revoke(_) => SecretAuthor::admin(act.caller, Interaction::Update, &state)?,
        };
        let withheld = &author.seen.withheld;
        if state.resource.deleted {
            return Err(Outcome::gone());
        }
        // Both move, and the answer shows both: a new secret that could not be shown would be lost.
        if let Some(name) = SECRETS.into_iter().find(|name| withheld.keeps(name)) {
            return Err(not_to_write(KIND, name));
        }
        if author.is_itself && matches!(self.asked, Asked::Rotate(RotateInput { force: true, .. })) {
            return Err(Outcome::forbidden("Only an admin of the project may force it"));
        }
        // Who may ask is decided by now, and nothing else: it was on what there was when it came first.
        if let Some(replay) = &self.replay
            && let Some(reply) = replay.answered(act, withheld, author.is_itself).await?
        {
            audit::record_replay(act, &state).await?;
            act.app.metrics.replays.inc();
            return Ok(Decision::nothing(reply));
        }
        request.check_if_match(state.resource.version)?;
        let mut secret_move = self.asked.decide(act, &state)?;
        let mut warning = None;
        if let Asked::Rotate(RotateInput { step, force: false, .. }) = &self.asked {
            match step {
                Step::Retire { only_if_unused: Some(unused_for), .. } => {
                    let why = |found: &Evidence| why_not_unused(&found.known(), *unused_for, found.reach.now);
                    let why = Evidence::find(act, &state, why).await?;
                    why.map_or(Ok(()), |why| Err(Outcome::conflict(why)))?;
                }
                Step::Rotate { .. } => {
                    warning = secret_move.check_overwrite(act, &state).await?;
                }
                Step::Retire { .. } => {}
            }
        }
        let mut decision = decide(act, &author, secret_move, self.asked.revokes_tokens(), &state)?;
        decision.reply.warning = warning.map(Into::into);
        let Some(change) = &mut decision.change else { return Ok(decision) };
        if matches!(self.asked, Asked::Revoke(RevokeInput { slot: SlotKind::Active, .. })) {
            // Whoever has the secret may have the token beside it, and would make itself another secret by that.
            change.end_registration_token(self.id);
        }
        if !self.asked.makes_a_secret() {
            change.let_pass();
        }
        if let Some(replay) = &self.replay {
            replay.keep(act, &state, author.is_itself, &decision.reply, change)?;
        }
        Ok(decision)
    }

    /// Counts and logs it, once it is durable.
    pub(super) fn tell(&self, app: &App, by: &Caller) {
        let action = match &self.asked {
            Asked::Rotate(input) => return SecretMove::tell(app, self.id, by, input.step.slot()),
            Asked::Undo => {
                app.metrics.undone.inc();
                SecretAction::Undo
            }
            Asked::Revoke(_) => {
                app.metrics.revocations.inc();
                SecretAction::Revoke
            }
        };
        tracing::info!(client = %self.id, by = %by.profile, action = action.as_str(), "secrets were moved");
    }
}

/// Whether the caller may do such a thing at all.
fn check_author(caller: &Caller, rotates: bool, id: &str) -> Result<(), Outcome> {
    if if rotates { may_rotate(caller, id) } else { is_admin(caller) } {
        return Ok(());
    }
    Err(Outcome::forbidden("Only an admin of the project may rotate a client's secret"))
}

impl Asked {
    fn decide(&self, act: Act<'_>, state: &ClientState) -> Result<SecretMove, Outcome> {
        let slots = || state.slots.at(act.now);
        let (action, moved) = match self {
            Self::Rotate(input) => {
                return SecretMove::decide(act, input.step, &input.presented, state)
                    .map_err(|error| Outcome::invalid(error.to_string()));
            }
            Self::Undo => (SecretAction::Undo, slots().undo()),
            Self::Revoke(input) => (SecretAction::Revoke, slots().revoke(input.slot)),
        };
        let moved = moved.map_err(|error: NoSuchSecret| Outcome::conflict(error.to_string()))?;
        let is_own = moved.ended.iter().any(|ended| ended.slot.id == act.caller.proof);
        let is_last = moved.slots.active().is_none() && moved.slots.retiring().is_none();
        if is_own && is_last {
            return Err(Outcome::conflict(
                "This is the last secret of the client you are logged in with: this change would lock you out. \
                 Rotate it first, then revoke the retiring one",
            ));
        }
        Ok(SecretMove { action, fresh: None, moved })
    }

    /// Whether it makes a new secret. No bound delays a request that only ends secrets.
    const fn makes_a_secret(&self) -> bool {
        matches!(self, Self::Rotate(RotateInput { step: Step::Rotate { .. }, .. }))
    }

    /// Whether the tokens of the secret that ends by it end too.
    const fn revokes_tokens(&self) -> bool {
        match self {
            Self::Rotate(RotateInput { step: Step::Retire { revoke_tokens, .. }, .. }) => *revoke_tokens,
            Self::Rotate(_) | Self::Undo => false,
            Self::Revoke(input) => input.revoke_tokens,
        }
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
                let rules = act.app.rules(&state.settings);
                let (secret, fresh) = fresh_secret(act, client, rules.visibility);
                let RetireAfter(after) = retire_after.unwrap_or(rules.retire_after);
                let ends = after.map(|after| act.now.plus(after));
                let moved = slots.rotate(&presented, fresh, ends)?;
                Ok(Self { action: SecretAction::Rotate, fresh: Some(secret), moved })
            }
            Step::Retire { .. } => {
                let moved = slots.retire(&presented)?;
                Ok(Self { action: SecretAction::Retire, fresh: None, moved })
            }
        }
    }

    /// Follows the project's setting where a rotation would end a retiring secret that is still in use: lets it be,
    /// warns, or refuses it.
    pub(crate) async fn check_overwrite(
        &mut self,
        act: Act<'_>,
        state: &ClientState,
    ) -> Result<Option<&'static str>, Outcome> {
        if state.slots.at(act.now).retiring().is_none() {
            return Ok(None);
        }
        let setting = act.app.rules(&state.settings).overwrite;
        if setting == SecretOverwrite::Allow {
            return Ok(None);
        }
        let in_use = |found: &Evidence| {
            let advice = judge(&found.known(), EVIDENCE_UNUSED_FOR_DEFAULT, found.reach.now);
            advice.in_use.then_some(advice.reason)
        };
        let Some(why) = Evidence::find(act, state, in_use).await? else { return Ok(None) };
        if setting == SecretOverwrite::Warn {
            self.action = SecretAction::Overwrite;
            return Ok(Some("The retiring secret that this rotation ended was still in use"));
        }
        Err(Outcome::conflict(format!(
            "This would end a retiring secret that is still in use; an admin of the project can force it. {why}"
        )))
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

/// Values in, values out: what the move changes, and what it answers.
fn decide(
    act: Act<'_>,
    author: &SecretAuthor<'_>,
    SecretMove { action, fresh, moved }: SecretMove,
    revokes_tokens: bool,
    state: &ClientState,
) -> Result<Decision, Outcome> {
    let current = &state.resource;
    let (next, resource) = next_version_as_is(act, current, author.seen.resource.clone());
    let version = next.version;
    let mut change = act.change();
    change.update(next.clone(), current.version, None);
    record_move(act, &author.authority, action, &moved, state, &mut change);
    if revokes_tokens {
        let last_expires = act.now.plus(TOKEN_LIFETIME_MAX);
        for ended in moved.ended.iter().filter(|ended| ended.expired.is_none()) {
            change.revoke_tokens_of(ended.slot.id, current.id.into(), last_expires);
        }
    }

    let after = ClientState { resource: next, slots: moved.stored(), ..state.clone() };
    let shown = if author.is_itself {
        ShownSecrets { secret: fresh, retiring: None }
    } else {
        let shown = ShownSecrets::of(act.app, &after, act.now)?;
        match act.app.rules(&after.settings).visibility {
            SecretVisibility::Recoverable => shown,
            SecretVisibility::Once => ShownSecrets { secret: fresh, ..shown },
        }
    };
    let reply = Reply::ok(author.answer(resource, &shown)?).of_version(version, act.now);
    Ok(Decision { reply, change: Some(change), fate: None })
}
