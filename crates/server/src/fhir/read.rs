//! Reading one resource: its current version, a version, all versions. A secret is shown with the
//! current version only, and only to an admin; versions never had one.

use http::StatusCode;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::limits::ANSWER_BYTES_MAX;
use keyrelay_core::policy::Interaction;
use keyrelay_store::ResourceVersion;
use serde::Serialize;
use serde_json::value::RawValue;

use super::render::{Rendered, ShownSecrets, render, stored_resource};
use super::request::{Reply, etag};
use crate::App;
use crate::error::Outcome;

/// A resource within the caller's reach, or the 404 that says nothing.
pub(crate) fn within_reach<T>(
    caller: &Caller,
    found: Option<T>,
    version: impl Fn(&T) -> &ResourceVersion,
) -> Result<T, Outcome> {
    found
        .filter(|found| version(found).project.is_some_and(|project| caller.reaches(project)))
        .ok_or_else(Outcome::not_found)
}

pub(crate) async fn read(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    extended: bool,
) -> Result<Reply, Outcome> {
    if resource_type != ResourceType::ClientApplication {
        let version = within_reach(caller, app.store.resource(resource_type, id).await?, |version| version)?;
        return reply(&version, &ShownSecrets::default(), extended);
    }
    let state = within_reach(caller, app.store.client(id.into()).await?, |state| &state.resource)?;
    let shown = shown_to(app, caller, &state)?;
    reply(&state.resource, &shown, extended)
}

/// The secrets that a caller sees of a client: an admin's, unless its policy or its token narrows it to
/// less than changing the client. Whoever sees a secret can become that client.
pub(crate) fn shown_to(
    app: &App,
    caller: &Caller,
    state: &keyrelay_store::ClientState,
) -> Result<ShownSecrets, Outcome> {
    let is_whole = caller.may(Interaction::Update, ResourceType::ClientApplication);
    match state.resource.project.and_then(|project| caller.admin_of(project)) {
        Some(_) if is_whole => ShownSecrets::of(&app.keyring, state),
        _ => Ok(ShownSecrets::default()),
    }
}

/// A current version as an answer.
pub(crate) fn reply(
    version: &ResourceVersion,
    shown: &ShownSecrets,
    extended: bool,
) -> Result<Reply, Outcome> {
    if version.deleted {
        return Err(Outcome::gone());
    }
    let body = render(stored_resource(version)?, shown, extended)?;
    Ok(Reply::ok(body).of_version(version.version, version.last_updated))
}

pub(crate) async fn vread(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    version: &str,
    extended: bool,
) -> Result<Reply, Outcome> {
    let version = VersionId::parse(version).ok_or_else(Outcome::not_found)?;
    let found = app.store.version(resource_type, id, version).await?;
    reply(&within_reach(caller, found, |version| version)?, &ShownSecrets::default(), extended)
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
    let versions = app.store.history(resource_type, id).await?;
    let newest = within_reach(caller, versions.first(), |version| version)?;
    let (newest_version, newest_updated) = (newest.version, newest.last_updated);
    let url = format!("{resource_type}/{id}");
    let full_url = format!("{}/{url}", app.config.base_url.fhir());
    let mut entry = Vec::with_capacity(versions.len());
    let mut bytes = 0;
    for version in &versions {
        if bytes > ANSWER_BYTES_MAX {
            break;
        }
        bytes += version.content.len();
        entry.push(history_entry(version, &url, &full_url, extended)?);
    }
    let bundle = HistoryBundle { resource_type: "Bundle", r#type: "history", total: versions.len(), entry };
    Ok(Reply::ok(Rendered::serialize(&bundle)?).of_version(newest_version, newest_updated))
}

fn history_entry(
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
        Some(render(stored_resource(version)?, &ShownSecrets::default(), extended)?.into_part()?)
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
