//! The audit records that this server makes: each in the change that it tells of. What changes nothing, that
//! somebody was shown a secret, is a change by itself, made before the answer is sent: a reading that could
//! not be recorded does not happen.

use std::collections::BTreeMap;

use keyrelay_core::audit::{
    AuditBeginning, AuditKey, AuditRoot, Done, Recorded, Refusals, SecretEvent, SecretsOf, WebhookAction,
    WebhookEvent,
};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::{ClientId, ProjectId, ResourceId, VersionId};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::AUDIT_REFUSALS_PER_CHANGE;
use keyrelay_core::random::{Entropy, time_ordered_uuid};
use keyrelay_core::slots::{Slot, SlotKind};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, ClientState, Conflict, ResourceVersion, Store, StoreError, Webhook};
use serde_json::Value;

use crate::App;
use crate::error::{Outcome, StartError};
use crate::fhir::{Act, ShownSecrets};

/// The key of the audit chains; the first server of all makes it.
pub(crate) async fn key(
    store: &Store,
    keyring: &Keyring,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<AuditKey, StartError> {
    if let Some(sealed) = store.audit_key().await? {
        return Ok(keyring.unwrap_audit_root(&sealed)?.key);
    }
    let beginning = AuditBeginning { since: now, is_first: !store.has_secrets_or_records().await? };
    let (AuditRoot { key, .. }, bytes) = AuditRoot::generate(beginning, entropy);
    let mut change = Change::new();
    change.create_audit_key(&keyring.wrap_audit_root(&bytes, entropy), now);
    match store.commit(change).await {
        // Nothing is recorded where nothing is changed.
        Ok(()) | Err(StoreError::ReadOnly) => Ok(key),
        // Another server was faster, and its key is the one.
        Err(StoreError::Conflict(Conflict::Exists)) => {
            let sealed = store.audit_key().await?.ok_or(StoreError::Busy)?;
            Ok(keyring.unwrap_audit_root(&sealed)?.key)
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds what is done to secrets to the change that does it.
pub(crate) fn record(
    act: Act<'_>,
    what: Recorded,
    project: ProjectId,
    of: &[SecretsOf<'_>],
    change: &mut Change,
) {
    let event = SecretEvent { what, of, done: done(act, project) };
    let entropy = act.app.entropy.as_ref();
    add(entropy, act.now, project, |id, version| event.to_resource(id, version), change);
}

/// Adds what is done to a webhook to the change that does it.
pub(crate) fn record_webhook(act: Act<'_>, what: WebhookAction, webhook: &Webhook, change: &mut Change) {
    let url = webhook.url.parse::<http::Uri>().ok();
    let to = url.as_ref().and_then(http::Uri::authority).map_or("", |authority| authority.as_str());
    let event = WebhookEvent { what, webhook: webhook.id, to, done: done(act, webhook.project) };
    let entropy = act.app.entropy.as_ref();
    add(entropy, act.now, webhook.project, |id, version| event.to_resource(id, version), change);
}

const fn done(act: Act<'_>, project: ProjectId) -> Done {
    Done { project, by: act.caller.author(), from: act.from, at: act.now }
}

/// Records that an answer is given again, before it is. Which secrets are in it is not known here: they are
/// those of the move that it was the answer to.
pub(crate) async fn record_replay(act: Act<'_>, state: &ClientState) -> Result<(), Outcome> {
    let Some(project) = state.resource.project else { return Ok(()) };
    let of = SecretsOf { client: state.resource.id.into(), active: None, retiring: None, ended: &[] };
    let mut change = act.change();
    record(act, Recorded::Read, project, &[of], &mut change);
    Ok(act.app.store.commit(change).await?)
}

/// Adds a record to a change.
pub(crate) fn add(
    entropy: &dyn Entropy,
    now: Timestamp,
    project: ProjectId,
    write: impl FnOnce(ResourceId, VersionId) -> Value,
    change: &mut Change,
) {
    let id = ResourceId::from(time_ordered_uuid(now, entropy));
    let version = VersionId::random(entropy);
    let resource = write(id, version);
    let index =
        resource.as_object().map(|map| index_entries(ResourceType::AuditEvent, map)).unwrap_or_default();
    let record = ResourceVersion {
        resource_type: ResourceType::AuditEvent,
        id,
        project: Some(project),
        version,
        revision: 1,
        last_updated: now,
        deleted: false,
        content: resource.to_string(),
    };
    change.record(record, &index);
}

/// Adds the end of a client's secrets, with the client itself.
pub(crate) fn record_deletion(act: Act<'_>, state: &ClientState, change: &mut Change) {
    let Some(project) = state.resource.project else { return };
    let kept = [SlotKind::Active, SlotKind::Retiring].map(|kind| state.slots.kept(kind));
    let ended: Vec<_> = kept.into_iter().flatten().map(|slot: &Slot| slot.id).collect();
    if !ended.is_empty() {
        let of = SecretsOf { client: state.resource.id.into(), active: None, retiring: None, ended: &ended };
        record(act, Recorded::Deleted, project, &[of], change);
    }
}

/// The secrets of clients that one answer shows, by project.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<ProjectId, Vec<SecretsOf<'static>>>);

impl Seen {
    /// Takes up what is shown of a client, if anything is.
    pub(crate) fn take_up(&mut self, state: &ClientState, shown: &ShownSecrets, now: Timestamp) {
        let slots = state.slots.at(now);
        let active = slots.active().filter(|_| shown.secret.is_some()).map(|slot| slot.id);
        let retiring = slots.retiring().filter(|_| shown.retiring.is_some()).map(|slot| slot.id);
        if let Some(project) = state.resource.project
            && (active.is_some() || retiring.is_some())
        {
            let client = state.resource.id.into();
            self.0.entry(project).or_default().push(SecretsOf { client, active, retiring, ended: &[] });
        }
    }

    /// Whether nothing was shown.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the records to a change.
    pub(crate) fn record(&self, act: Act<'_>, what: Recorded, change: &mut Change) {
        for (project, of) in &self.0 {
            record(act, what, *project, of, change);
        }
    }

    /// Makes the records durable, before anybody is shown anything.
    pub(crate) async fn commit(&self, act: Act<'_>, what: Recorded) -> Result<(), Outcome> {
        if self.is_empty() || act.is_rehearsal {
            return Ok(());
        }
        let mut change = act.change();
        self.record(act, what, &mut change);
        Ok(act.app.store.commit(change).await?)
    }
}

/// Records the proofs that were refused, as far as it is time to, or all of them.
pub(crate) async fn record_refusals(app: &App, all: bool) {
    if app.store.refuses_changes() {
        return;
    }
    let due = app.usage.refused().take_due(app.now(), all);
    for some in due.chunks(AUDIT_REFUSALS_PER_CHANGE) {
        if let Err(error) = record_some_refusals(app, some).await {
            tracing::warn!(%error, "refused proofs could not be recorded; it is tried again");
            let mut refused = app.usage.refused();
            for (client, refusals) in some {
                refused.take_back(*client, refusals.clone());
            }
        }
    }
}

async fn record_some_refusals(app: &App, some: &[(ClientId, Refusals)]) -> Result<(), StoreError> {
    let (now, mut change) = (app.now(), Change::new());
    for (client, refusals) in some {
        let state = app.store.client(*client).await?;
        let Some(project) = state.and_then(|state| state.resource.project) else { continue };
        refusals.told(*client, project, now, |proofs| {
            add(
                app.entropy.as_ref(),
                now,
                project,
                |id, version| proofs.to_resource(id, version),
                &mut change,
            );
        });
    }
    if change.is_empty() { Ok(()) } else { app.store.commit(change).await }
}
