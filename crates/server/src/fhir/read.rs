//! Reading one resource: its current version, a version, all versions. A secret is shown with the
//! current version only, and only to an admin; versions never had one.

use http::StatusCode;
use keyrelay_core::audit::Recorded;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::limits::{HISTORY_ENTRIES_MAX, HISTORY_OFFSET_MAX};
use keyrelay_core::policy::Interaction;
use keyrelay_store::ResourceVersion;
use serde::Serialize;
use serde_json::value::RawValue;

use super::access::{View, secrets_for, view, view_found};
use super::render::{Rendered, ShownSecrets, render};
use super::request::{Reply, etag};
use super::search::Link;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
    link: Vec<Link>,
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

/// The requested part of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HistoryQuery {
    offset: u32,
    count: u32,
}

impl HistoryQuery {
    fn read(query: &str) -> Result<Self, Outcome> {
        let mut read = Self { offset: 0, count: HISTORY_ENTRIES_MAX };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (place, max) = match name.as_ref() {
                "_count" => (&mut read.count, HISTORY_ENTRIES_MAX),
                "_offset" => (&mut read.offset, HISTORY_OFFSET_MAX),
                "_format" | "_pretty" => continue,
                _ => return Err(Outcome::not_supported("A history takes _count and _offset only")),
            };
            *place = value
                .parse()
                .ok()
                .filter(|number| *number <= max)
                .ok_or_else(|| Outcome::invalid(format!("{name} must be a number from 0 to {max}")))?;
        }
        Ok(read)
    }

    fn link(self, relation: &'static str, url: &str) -> Link {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        if self.count != HISTORY_ENTRIES_MAX {
            pairs.append_pair("_count", &self.count.to_string());
        }
        if self.offset != 0 {
            pairs.append_pair("_offset", &self.offset.to_string());
        }
        let pairs = pairs.finish();
        let url = if pairs.is_empty() { url.to_owned() } else { format!("{url}?{pairs}") };
        Link { relation, url }
    }
}

pub(crate) async fn history(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    query: &str,
    extended: bool,
) -> Result<Reply, Outcome> {
    let asked = HistoryQuery::read(query)?;
    let newest = app.store.resource(resource_type, id).await?.ok_or_else(Outcome::not_found)?;
    view(caller, Interaction::History, &newest)?;
    let turn = app.store.turn(caller.project).await?;
    let mut page = app.store.history(resource_type, id, (asked.offset, asked.count), &turn).await?;
    let read_bytes = page.versions.iter().map(|version| version.content.len()).sum();
    budget::take(read_bytes)?;
    let url = format!("{resource_type}/{id}");
    let full_url = format!("{}/{url}", app.config.base_url.fhir());
    let mut entry = Vec::with_capacity(page.versions.len());
    for version in &page.versions {
        // As in a search: other requests get a turn in between.
        tokio::task::yield_now().await;
        // One that is not within the caller's limits, as the others are.
        let Ok(seen) = view(caller, Interaction::History, version) else { continue };
        entry.push(history_entry(&seen, version, &url, &full_url, extended)?);
    }
    let passed = u32::try_from(page.versions.len()).unwrap_or(u32::MAX);
    drop(std::mem::take(&mut page.versions));
    budget::give_back(read_bytes);
    let history_url = format!("{full_url}/_history");
    let mut link = vec![asked.link("self", &history_url)];
    if page.more && asked.count > 0 {
        let next = HistoryQuery { offset: asked.offset.saturating_add(passed), ..asked };
        link.push(next.link("next", &history_url));
    }
    // If some versions may be hidden, the total is known only after all were checked.
    let total = if caller.policy.is_none() && !caller.scope.is_restricted() {
        Some(page.total)
    } else if asked.offset == 0 && !page.more {
        i64::try_from(entry.len()).ok()
    } else {
        None
    };
    let bundle = HistoryBundle { resource_type: "Bundle", r#type: "history", total, link, entry };
    Ok(Reply::ok(Rendered::assemble(&bundle)?).of_version(newest.version, newest.last_updated))
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
