//! `POST /oauth2/introspect` (RFC 7662): says to a resource server whether a token works at this
//! moment, which includes the state of its client, login, membership and project.

use std::net::IpAddr;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::caller::Caller;
use keyrelay_core::client::{Acts, ClientAccess};
use keyrelay_core::id::{ProjectId, SecretId, SessionId};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use serde_json::{Map, Value, json};

use super::client_auth::{ClientParameters, Endpoint};
use super::jose::claims_of;
use super::token::{each_parameter, read_form, secret_parameter};
use crate::App;
use crate::auth::{ClientAddress, admit_token};
use crate::error::OAuthError;
use crate::headers::{JSON, NO_STORE};

/// The introspection endpoint (RFC 7662 §2).
pub(crate) async fn introspect(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    match answer(&app, from, request).await {
        Ok(body) => ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.to_string()).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn answer(app: &App, from: IpAddr, request: Request) -> Result<Value, OAuthError> {
    let (headers, body) = read_form(request).await?;
    let (mut client, mut token) = (ClientParameters::default(), None);
    each_parameter(&body, |name, value| {
        if let Some(value) = client.take(name, value)
            && name == "token"
        {
            token = secret_parameter(value);
        }
    })?;
    drop(body);
    let proved = client.authenticate(app, &headers, Endpoint::Introspection, Acts::ForItself, from).await?;
    let token = token.ok_or_else(|| OAuthError::invalid_request("token is missing"))?;
    let told = match refresh_token(app, &proved.access, &token).await? {
        None => access_token(app, &proved.access, &token).await?,
        told => told,
    };
    Ok(told.map_or_else(|| json!({ "active": false }), Value::Object))
}

/// Whether a resource server may learn of tokens of that project: of its own, and one of the Super
/// Admin project of all.
fn may_ask(asks: &ClientAccess, about: ProjectId) -> bool {
    let is_super = asks.project.super_admin && asks.membership.as_ref().is_some_and(|m| m.admin);
    asks.project.id == about || is_super
}

async fn access_token(
    app: &App,
    asks: &ClientAccess,
    token: &PlainSecret,
) -> Result<Option<Map<String, Value>>, OAuthError> {
    let text = token.reveal();
    let Some(verified) = app.tokens.verify(text, app.now()) else { return Ok(None) };
    // The address that asks is the resource server's, not the bearer's.
    let Ok(caller) = admit_token(app, &verified, None).await? else { return Ok(None) };
    if !may_ask(asks, caller.project) {
        return Ok(None);
    }
    let mut told = claims_of(text).unwrap_or_default();
    told.insert("active".to_owned(), Value::Bool(true));
    told.insert("token_type".to_owned(), json!("Bearer"));
    add_caller(&mut told, &caller);
    Ok(Some(told))
}

async fn refresh_token(
    app: &App,
    asks: &ClientAccess,
    token: &PlainSecret,
) -> Result<Option<Map<String, Value>>, OAuthError> {
    let Some(ticket) = app.keyring.read_ticket(TicketKind::Refresh, token) else { return Ok(None) };
    let Some(access) = app.store.session(SessionId::from(ticket.of)).await? else { return Ok(None) };
    let session = &access.session;
    let is_current = session.refreshable && session.generation == ticket.generation;
    let admitted = access.admit(None, SecretId::NIL, session.scope.clone(), app.now());
    let Some(caller) = admitted.ok().filter(|caller| is_current && may_ask(asks, caller.project)) else {
        return Ok(None);
    };
    let mut told = Map::new();
    told.insert("active".to_owned(), Value::Bool(true));
    told.insert("token_type".to_owned(), json!("refresh_token"));
    told.insert("iss".to_owned(), json!(app.config.base_url.as_str()));
    told.insert("sub".to_owned(), json!(session.user.to_string()));
    told.insert("scope".to_owned(), json!(session.scope.as_str()));
    told.insert("exp".to_owned(), json!(session.expires.epoch_seconds()));
    if let Some(client) = session.client {
        told.insert("client_id".to_owned(), json!(client.to_string()));
    }
    add_caller(&mut told, &caller);
    Ok(Some(told))
}

fn add_caller(told: &mut Map<String, Value>, caller: &Caller) {
    told.insert("profile".to_owned(), json!(caller.profile.to_string()));
    told.insert("project".to_owned(), json!(format!("Project/{}", caller.project)));
}
