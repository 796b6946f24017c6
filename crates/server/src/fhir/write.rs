//! Creating, changing and deleting resources, and moving their secrets. Every change is decided on a version
//! that was read and becomes durable only if that is still the current one; if not, it is read and decided again.
//! A transaction decides its entries by the same functions, and writes what they come to at once.
//! What is particular to a type is in the file of that type, behind [`Particulars`].

mod create;
mod delete;
mod draft;
mod particulars;
mod update;

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use keyrelay_core::limits::CONFLICT_RETRIES_MAX;
use keyrelay_core::policy::Interaction;
use keyrelay_store::{Change, Conflict, StoreError};
use serde_json::{Map, Value};

pub(super) use self::create::{Existing, New};
use self::delete::Deletion;
pub(crate) use self::draft::check_resource;
pub(super) use self::particulars::Particulars;
use self::update::Update;
use super::allow;
use super::bundle::Links;
use super::pending::Fate;
use super::request::{Content, FhirRequest, Reply};
use super::rotate_secret::Rotation;
use super::route::WriteRoute;
use super::versions::{Act, CLIENTS_META};
use crate::App;
use crate::auth;
use crate::budget;
use crate::error::Outcome;

/// A write that somebody may ask for and that can be read. What is there has not been looked at.
pub(super) enum Write {
    Create(New),
    Update(Update),
    Delete(Deletion),
    Rotate(Rotation),
}

/// What a write comes to, before any of it is written. The answer is here already, so that nothing can fail
/// after the commit.
pub(super) struct Decision {
    pub(super) reply: Reply,
    /// None where it is so already.
    pub(super) change: Option<Change>,
    /// What becomes of the resource, where others may depend on it.
    pub(super) fate: Option<Fate>,
}

impl Decision {
    /// It is so already.
    pub(super) const fn nothing(reply: Reply) -> Self {
        Self { reply, change: None, fate: None }
    }
}

impl Write {
    /// Decides whether the caller may do such a thing at all, and only then reads the body.
    pub(super) async fn read(
        app: &App,
        caller: &Caller,
        route: WriteRoute<'_>,
        content: Content,
    ) -> Result<Self, Outcome> {
        let known = |id| ResourceId::parse(id).ok_or_else(Outcome::not_found);
        Ok(match route {
            WriteRoute::Create(kind) => {
                allow(caller, Interaction::Create, kind)?;
                Self::Create(New::read(app, kind, content).await?)
            }
            WriteRoute::Put(kind, id) => {
                allow(caller, Interaction::Update, kind)?;
                let edit = update::Edit::put(kind, id, content).await?;
                Self::Update(Update { resource_type: kind, id: known(id)?, edit })
            }
            WriteRoute::Patch(kind, id) => {
                allow(caller, Interaction::Update, kind)?;
                let edit = update::Edit::patch(content).await?;
                Self::Update(Update { resource_type: kind, id: known(id)?, edit })
            }
            WriteRoute::Delete(kind, id) => {
                allow(caller, Interaction::Delete, kind)?;
                Self::Delete(Deletion { resource_type: kind, id: known(id)? })
            }
            WriteRoute::MoveSecrets(moves, id) => {
                Self::Rotate(Rotation::read(caller, moves, id, content).await?)
            }
        })
    }

    /// Which resource it is about; of one that is to be made, the id that it will have.
    pub(super) fn target(&self) -> (ResourceType, ResourceId) {
        match self {
            Self::Create(new) => (new.resource_type, new.id),
            Self::Update(update) => (update.resource_type, update.id),
            Self::Delete(deletion) => (deletion.resource_type, deletion.id),
            Self::Rotate(rotation) => (ResourceType::ClientApplication, rotation.id.into()),
        }
    }

    /// The same write with the links to other entries of its transaction put in place; `None` where it has no
    /// place for any.
    pub(super) fn linked(&self, links: &Links<'_>) -> Result<Option<Self>, Outcome> {
        Ok(match self {
            Self::Create(new) => Some(Self::Create(new.linked(links)?)),
            Self::Update(update) => Some(Self::Update(update.linked(links)?)),
            Self::Delete(_) | Self::Rotate(_) => None,
        })
    }

    /// Checks what can be checked of it alone.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Outcome> {
        match self {
            Self::Create(new) => new.check(caller),
            Self::Update(update) => update.check(caller),
            Self::Rotate(rotation) => rotation.check(caller),
            Self::Delete(_) => Ok(()),
        }
    }

    /// Decides it on what is there now. It has been checked, and the condition of a [`New`] has found nothing.
    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        match self {
            Self::Create(new) => new.decide(act, request).await,
            Self::Update(update) => update.decide(act, request).await,
            Self::Delete(deletion) => deletion.decide(act, request).await,
            Self::Rotate(rotation) => rotation.decide(act, request).await,
        }
    }

    /// Decides it until what was decided could be written.
    pub(super) async fn carry_out(
        &self,
        app: &App,
        caller: &Caller,
        request: &FhirRequest,
    ) -> Result<Reply, Outcome> {
        let by_now;
        let mut caller = caller;
        // What is given again is bound to its caller by no commit, and the body may have taken long.
        if matches!(self, Self::Rotate(rotation) if rotation.may_be_replayed()) {
            by_now = auth::again(app, caller, request.from).await?;
            caller = &by_now;
        }
        self.check(caller)?;
        let taken = budget::taken();
        for _ in 0..CONFLICT_RETRIES_MAX {
            budget::back_to(taken);
            let act = Act::now(app, caller, request.from);
            let existing = match self {
                Self::Create(new) => new.existing(act, request).await?,
                _ => Existing::NotAsked,
            };
            if let Existing::Found(_, reply) = existing {
                return Ok(reply);
            }
            let Decision { reply, change, .. } = self.decide(act, request).await?;
            let Some(mut change) = change else { return Ok(reply) };
            if let Existing::Nothing(mark) = &existing {
                change.require_unwritten(mark);
            }
            if committed(app, change).await? {
                self.tell(app, caller);
                return Ok(reply);
            }
        }
        Err(Outcome::busy())
    }

    /// Counts and logs it, once it is durable.
    pub(super) fn tell(&self, app: &App, caller: &Caller) {
        if let Self::Rotate(rotation) = self {
            rotation.tell(app, caller);
        }
    }
}

/// Commits a change. False if somebody else was faster, so that it must be decided again.
pub(crate) async fn committed(app: &App, change: Change) -> Result<bool, Outcome> {
    match app.store.commit(change).await {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict(Conflict::Version | Conflict::Exists)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether two versions say the same, apart from what the server writes at the head.
pub(crate) fn same_apart_from_meta(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let clients_meta = |resource: &Map<String, Value>, name: &str| {
        resource.get("meta").and_then(|meta| meta.get(name)).cloned()
    };
    let rest = |resource: &Map<String, Value>| {
        let mut rest = resource.clone();
        rest.shift_remove("meta");
        rest
    };
    rest(a) == rest(b) && CLIENTS_META.iter().all(|name| clients_meta(a, name) == clients_meta(b, name))
}
