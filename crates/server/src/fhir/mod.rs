//! The FHIR API (R4). [`handle`] takes a request off HTTP, decides who asks, and hands it to
//! [`dispatch`], which does every interaction that [`route`] knows; a batch hands its entries to the same.

mod access;
mod access_policy;
mod bundle;
mod client_application;
mod conformance;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod membership;
mod names;
mod new_client;
mod parameters;
mod patch;
mod pending;
mod project;
mod read;
mod render;
mod replay;
mod request;
mod rotate_secret;
mod route;
mod search;
mod secret_author;
mod secret_status;
mod user;
mod versions;
mod write;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderMap, IF_MATCH};
use http::{HeaderName, Method};
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ResourceId;
use keyrelay_core::policy::Interaction;
use percent_encoding::percent_decode_str;

use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::router::FHIR_BASE;
pub(crate) use access::{check_change, check_new, own, seen};
pub(crate) use client_application::{
    fresh_secret, record_creation, record_move, row as client_row, stored_redirects,
};
pub(crate) use conformance::Conformance;
pub(crate) use membership::is_there;
pub(crate) use names::check_names;
pub(crate) use new_client::{NewClient, create_with_secret};
pub(crate) use parameters::Step;
pub(crate) use render::{Rendered, ShownSecrets, stored_resource};
pub(crate) use request::{Content, check_if_match, check_json, etag, warning_header};
use request::{FhirRequest, Reply};
pub(crate) use rotate_secret::SecretMove;
use route::{READ_METHODS, Route};
pub(crate) use user::email;
pub(crate) use versions::{Act, deletion, first_version, first_version_as_is, next_version};
use write::Write;
pub(crate) use write::{check_resource, committed, same_apart_from_meta};

/// Every path under the FHIR base.
pub(crate) async fn handle(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let segments = match segments(parts.uri.path().strip_prefix(FHIR_BASE).unwrap_or_default()) {
        Ok(segments) => segments,
        Err(outcome) => return outcome.into_response(),
    };
    if segments.as_slice() == ["metadata"] {
        return conformance::capability_statement(&app, &parts.method);
    }
    let answer = async {
        let caller = auth::caller(&app, &parts.headers, from).await?;
        let request = FhirRequest {
            method: if parts.method == Method::HEAD { Method::GET } else { parts.method },
            segments,
            query: parts.uri.query().map(str::to_owned),
            if_match: header(&parts.headers, &IF_MATCH)?,
            if_none_exist: header(&parts.headers, &HeaderName::from_static("if-none-exist"))?,
            extended: parts.headers.get("x-medplum").is_some_and(|value| value == "extended"),
            from,
            is_rehearsal: false,
        };
        let content = Content::Http { headers: parts.headers, body };
        if request.segments.is_empty() {
            bundle::handle(&app, &caller, &request, content).await
        } else {
            dispatch(&app, &caller, &request, content).await
        }
    };
    match answer.await {
        Ok(reply) => reply.into_response(),
        Err(outcome) => outcome.into_response(),
    }
}

/// Does one interaction.
pub(crate) async fn dispatch(
    app: &App,
    caller: &Caller,
    request: &FhirRequest,
    content: Content,
) -> Result<Reply, Outcome> {
    let resource_id = |id| ResourceId::parse(id).ok_or_else(Outcome::not_found);
    let extended = request.extended;
    let act = Act { is_rehearsal: request.is_rehearsal, ..Act::now(app, caller, request.from) };
    match Route::of(request)? {
        Route::Definitions(kind, rest) => conformance::dispatch(app, kind, rest, request),
        Route::Search(kind) => {
            allow(caller, Interaction::Search, kind)?;
            let query = request.query.clone().unwrap_or_default();
            search::search(act, kind, &query, extended).await
        }
        Route::SearchByForm(kind) => {
            allow(caller, Interaction::Search, kind)?;
            let query = [request.query.clone().unwrap_or_default(), content.into_form().await?];
            let caller = &auth::again(app, caller, request.from).await?;
            search::search(Act { caller, ..act }, kind, query.join("&").trim_matches('&'), extended).await
        }
        Route::Read(kind, id) => {
            allow(caller, Interaction::Read, kind)?;
            read::read(act, Interaction::Read, kind, resource_id(id)?, extended).await
        }
        Route::History(kind, id) => {
            allow(caller, Interaction::History, kind)?;
            read::history(
                app,
                caller,
                kind,
                resource_id(id)?,
                request.query.as_deref().unwrap_or_default(),
                extended,
            )
            .await
        }
        Route::Vread(kind, id, version) => {
            allow(caller, Interaction::Vread, kind)?;
            read::vread(app, caller, kind, resource_id(id)?, version, extended).await
        }
        Route::SecretStatus(id) => secret_status::secret_status(app, caller, id, request).await,
        Route::Write(route) => {
            let write = Write::read(app, caller, route, content).await?;
            write.carry_out(app, caller, request).await
        }
    }
}

/// Decides, before anything of the request is looked at, whether the caller may do this at all.
fn allow(caller: &Caller, interaction: Interaction, resource_type: ResourceType) -> Result<(), Outcome> {
    if !interaction.is_reading() && !resource_type.is_writable() {
        return Err(Outcome::method_not_allowed(READ_METHODS));
    }
    if caller.may(interaction, resource_type) {
        Ok(())
    } else {
        let what = interaction.as_str();
        Err(Outcome::forbidden(format!("You may not {what} resources of type {resource_type}")))
    }
}

/// The parts of a path, decoded. What cannot be decoded is nowhere.
fn segments(path: &str) -> Result<Vec<String>, Outcome> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| match percent_decode_str(segment).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(Outcome::not_found()),
        })
        .collect()
}

/// A header that may come once.
fn header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Outcome> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.map(|text| Some(text.to_owned()))
        .ok_or_else(|| Outcome::invalid(format!("The header {name} cannot be used as it is")))
}
