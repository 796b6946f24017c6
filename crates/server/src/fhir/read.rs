//! Reading one resource: its current version, a version, all versions. A secret is shown with the
//! current version only, and only to an admin; versions never had one.

use http::StatusCode;
use keyrelay_core::audit::Recorded;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::limits::ANSWER_BYTES_MAX;
use keyrelay_core::policy::Interaction;
use keyrelay_store::ResourceVersion;
use serde::Serialize;
use serde_json::value::RawValue;

use super::access::{View, secrets_for, view, view_found};
use super::render::{Rendered, ShownSecrets, render};
use super::request::{Reply, etag};
use super::versions::Act;
use crate::App;
use crate::audit::Seen;
use crate::budget;
use crate::error::Outcome;

/// The current version, by the right to read or, for what a condition finds, to search.
pub(super) async fn read(
    act: Act<'_>,
    interaction: Interaction,
    resource_type: ResourceType,
    id: ResourceId,
    extended: bool,
) -> Result<Reply, Outcome> {
    let (app, caller) = (act.app, act.caller);
    if resource_type != ResourceType::ClientApplication {
        let found = app.store.resource(resource_type, id).await?.ok_or_else(Outcome::not_found)?;
        let view = view(caller, interaction, &found)?;
        return reply(&view, &found, &ShownSecrets::default(), extended);
    }
    let state = app.store.client(id.into()).await?.ok_or_else(Outcome::not_found)?;
    let view = view(caller, interaction, &state.resource)?;
    let shown = secrets_for(app, caller, &state, &view.resource)?;
    let reply = reply(&view, &state.resource, &shown, extended)?;
    let mut seen = Seen::default();
    seen.take_up(&state, &shown, act.now);
    seen.commit(act, Recorded::Read).await?;
    Ok(reply)
}

/// A version as an answer.
pub(super) fn reply(
    view: &View<'_>,
    version: &ResourceVersion,
    shown: &ShownSecrets,
    extended: bool,
) -> Result<Reply, Outcome> {
    if version.deleted {
        return Err(Outcome::gone());
    }
    let body = render(view.visible(), shown, extended)?;
    Ok(Reply::ok(body).of_version(version.version, version.last_updated))
}

/// A version, for somebody to whom both it and the current one are there: what was once within a caller's
/// limits is not a way to what has left them.
pub(crate) async fn vread(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    version: &str,
    extended: bool,
) -> Result<Reply, Outcome> {
    let version = VersionId::parse(version).ok_or_else(Outcome::not_found)?;
    let found = app.store.version(resource_type, id, version).await?.ok_or_else(Outcome::not_found)?;
    let seen = view(caller, Interaction::Vread, &found)?;
    view_found(caller, Interaction::Vread, app.store.resource(resource_type, id).await?.as_ref())?;
    reply(&seen, &found, &ShownSecrets::default(), extended)
}

#[derive(Serialize)]
struct HistoryBundle {
    #[serde(rename = "resourceType")]
    resource_type: &'static str,
    r#type: &'static str,
    total: usize,
    entry: Vec<HistoryEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryEntry {
    full_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Box<RawValue>>,
    request: HistoryRequest,
    response: HistoryResponse,
}

#[derive(Serialize)]
struct HistoryRequest {
    method: &'static str,
    url: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HistoryResponse {
    status: String,
    etag: String,
    last_modified: String,
}

pub(crate) async fn history(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    extended: bool,
) -> Result<Reply, Outcome> {
    let turn = app.store.turn(caller.project).await?;
    let versions = app.store.history(resource_type, id, &turn).await?;
    budget::take(versions.iter().map(|version| version.content.len()).sum())?;
    let newest = versions.first().ok_or_else(Outcome::not_found)?;
    view(caller, Interaction::History, newest)?;
    let (newest_version, newest_updated) = (newest.version, newest.last_updated);
    let url = format!("{resource_type}/{id}");
    let full_url = format!("{}/{url}", app.config.base_url.fhir());
    let mut entry = Vec::with_capacity(versions.len());
    let (mut bytes, mut total) = (0, 0);
    for version in &versions {
        // As in a search: others are answered in between.
        tokio::task::yield_now().await;
        // One that is not within the caller's limits, as the others are.
        let Ok(seen) = view(caller, Interaction::History, version) else { continue };
        total += 1;
        if bytes <= ANSWER_BYTES_MAX {
            bytes += version.content.len();
            entry.push(history_entry(&seen, version, &url, &full_url, extended)?);
        }
    }
    let bundle = HistoryBundle { resource_type: "Bundle", r#type: "history", total, entry };
    Ok(Reply::ok(Rendered::assemble(&bundle)?).of_version(newest_version, newest_updated))
}

fn history_entry(
    seen: &View<'_>,
    version: &ResourceVersion,
    url: &str,
    full_url: &str,
    extended: bool,
) -> Result<HistoryEntry, Outcome> {
    let (method, status) = match (version.deleted, version.revision) {
        (true, _) => ("DELETE", StatusCode::NO_CONTENT),
        (false, 1) => ("POST", StatusCode::CREATED),
        (false, _) => ("PUT", StatusCode::OK),
    };
    let resource = if version.deleted {
        None
    } else {
        Some(render(seen.visible(), &ShownSecrets::default(), extended)?.into_part()?)
    };
    Ok(HistoryEntry {
        full_url: full_url.to_owned(),
        resource,
        request: HistoryRequest { method, url: url.to_owned() },
        response: HistoryResponse {
            status: status.as_u16().to_string(),
            etag: etag(version.version),
            last_modified: version.last_updated.to_instant(),
        },
    })
}
