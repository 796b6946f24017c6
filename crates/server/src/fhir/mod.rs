//! The FHIR API (R4). [`handle`] takes a request off HTTP, decides who asks, and hands it to
//! [`dispatch`], which knows every interaction there is; a batch hands its entries to the same.

mod access;
mod access_policy;
mod bundle;
mod client_application;
mod conformance;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod membership;
mod new_client;
mod parameters;
mod patch;
mod project;
mod read;
mod render;
mod request;
mod rotate_secret;
mod search;
mod user;
mod versions;
mod write;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderMap, IF_MATCH};
use http::{HeaderName, Method};
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::conformance::Operation;
use keyrelay_core::id::ResourceId;
use keyrelay_core::policy::Interaction;
use percent_encoding::percent_decode_str;

use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::router::FHIR_BASE;
pub(crate) use access::{check_change, check_new, own, seen};
pub(crate) use client_application::{fresh_secret, record_move, row as client_row};
pub(crate) use conformance::Conformance;
pub(crate) use membership::is_there;
pub(crate) use new_client::{NewClient, create_with_secret};
pub(crate) use render::{Rendered, ShownSecrets, stored_resource};
pub(crate) use request::{Content, check_if_match, check_json, etag};
use request::{FhirRequest, Reply};
pub(crate) use rotate_secret::SecretMove;
pub(crate) use user::email;
pub(crate) use versions::{Act, deletion, first_version, next_version};
pub(crate) use write::{check_resource, committed, same_apart_from_meta};

/// Methods of a resource type.
const TYPE_METHODS: &str = "GET, POST";
/// Methods of one resource.
const INSTANCE_METHODS: &str = "GET, PUT, PATCH, DELETE";
/// Methods of what can only be read.
const READ_METHODS: &str = "GET";
/// Methods of an operation that changes state (FHIR R4 §3.2.0.1).
const OPERATION_METHODS: &str = "POST";

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
    let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    let Some((name, rest)) = segments.split_first() else { return Err(Outcome::not_found()) };
    let resource_type: ResourceType = name.parse().map_err(|_| Outcome::not_found())?;
    if resource_type.is_conformance() {
        return conformance::dispatch(app, resource_type, rest, request);
    }
    match (rest, request.method.clone()) {
        ([], Method::GET) => {
            allow(caller, Interaction::Search, resource_type)?;
            let query = request.query.clone().unwrap_or_default();
            search::search(app, caller, resource_type, &query, request.extended).await
        }
        ([], Method::POST) => {
            allow(caller, Interaction::Create, resource_type)?;
            write::create(app, caller, resource_type, request, content).await
        }
        ([], _) if !resource_type.is_writable() => Err(Outcome::method_not_allowed(READ_METHODS)),
        ([], _) => Err(Outcome::method_not_allowed(TYPE_METHODS)),
        (["_search"], Method::POST) => {
            allow(caller, Interaction::Search, resource_type)?;
            let query = [request.query.clone().unwrap_or_default(), content.into_form().await?];
            let caller = &auth::again(app, caller, request.from).await?;
            search::search(app, caller, resource_type, query.join("&").trim_matches('&'), request.extended)
                .await
        }
        (["_search"], _) => Err(Outcome::method_not_allowed(OPERATION_METHODS)),
        ([id, rest @ ..], _) if !id.starts_with(['$', '_']) => {
            instance(app, caller, resource_type, id, rest, request, content).await
        }
        _ => Err(Outcome::not_found()),
    }
}

async fn instance(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: &str,
    rest: &[&str],
    request: &FhirRequest,
    content: Content,
) -> Result<Reply, Outcome> {
    let resource_id = || ResourceId::parse(id).ok_or_else(Outcome::not_found);
    let extended = request.extended;
    match (rest, request.method.clone()) {
        ([], Method::GET) => {
            allow(caller, Interaction::Read, resource_type)?;
            read::read(app, caller, Interaction::Read, resource_type, resource_id()?, extended).await
        }
        ([], Method::PUT) => {
            allow(caller, Interaction::Update, resource_type)?;
            let edit = write::Edit::put(caller, resource_type, id, content).await?;
            write::update(app, caller, resource_type, resource_id()?, &edit, request).await
        }
        ([], Method::PATCH) => {
            allow(caller, Interaction::Update, resource_type)?;
            let edit = write::Edit::patch(content).await?;
            write::update(app, caller, resource_type, resource_id()?, &edit, request).await
        }
        ([], Method::DELETE) => {
            allow(caller, Interaction::Delete, resource_type)?;
            write::delete(app, caller, resource_type, resource_id()?, request).await
        }
        ([], _) if !resource_type.is_writable() => Err(Outcome::method_not_allowed(READ_METHODS)),
        ([], _) => Err(Outcome::method_not_allowed(INSTANCE_METHODS)),
        (["_history"], Method::GET) => {
            allow(caller, Interaction::History, resource_type)?;
            read::history(app, caller, resource_type, resource_id()?, extended).await
        }
        (["_history", version], Method::GET) => {
            allow(caller, Interaction::Vread, resource_type)?;
            read::vread(app, caller, resource_type, resource_id()?, version, extended).await
        }
        (["_history", ..], _) if rest.len() <= 2 => Err(Outcome::method_not_allowed(READ_METHODS)),
        ([segment], method) if let Some(operation) = Operation::called(resource_type, segment) => {
            if method != Method::POST {
                return Err(Outcome::method_not_allowed(OPERATION_METHODS));
            }
            match operation {
                Operation::RotateSecret => {
                    rotate_secret::rotate_secret(app, caller, id, request, content).await
                }
            }
        }
        _ => Err(Outcome::not_found()),
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
