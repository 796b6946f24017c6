//! Ending tokens and logins before their time: `POST /oauth2/revoke` (RFC 7009), and the ways in which
//! a person logs out. What belongs to a login ends with it, at once, everywhere.

use std::net::IpAddr;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::client::Acts;
use keyrelay_core::id::{ClientId, SessionId};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use keyrelay_store::Change;
use serde_json::json;

use super::client_auth::{ClientParameters, Endpoint};
use super::jose::Bearer;
use super::token::{each_parameter, read_form, secret_parameter};
use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::{OAuthError, Outcome};
use crate::headers::{JSON, NO_STORE};
use crate::members::Members;

/// The revocation endpoint (RFC 7009 §2). A token that is not the client's own, or is none at all, is
/// answered like one that was revoked.
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    match revoke_token(&app, from, request).await {
        Ok(()) => (StatusCode::OK, [(CACHE_CONTROL, NO_STORE)]).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn revoke_token(app: &App, from: IpAddr, request: Request) -> Result<(), OAuthError> {
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
    let proved = client.authenticate(app, &headers, Endpoint::Revocation, Acts::ForPeople, from).await?;
    let token = token.ok_or_else(|| OAuthError::invalid_request("token is missing"))?;
    let change = revocation(app, proved.access.client, &token).await?;
    match change {
        Some(change) => Ok(app.store.commit(change).await?),
        None => Ok(()),
    }
}

/// What revoking a client's own token changes. An access token of a login takes the login with it: the
/// client would only ask for the next one.
async fn revocation(app: &App, client: ClientId, token: &PlainSecret) -> Result<Option<Change>, OAuthError> {
    let mut change = Change::new();
    let session = match app.keyring.read_ticket(TicketKind::Refresh, token) {
        Some(ticket) => SessionId::from(ticket.of),
        None => match app.tokens.verify(token.reveal(), app.now()) {
            Some(verified) => match verified.bearer {
                Bearer::Client(bearer) => {
                    change.revoke_token(verified.id, client, verified.expires);
                    return Ok((bearer == client).then_some(change));
                }
                Bearer::Login(session) => session,
            },
            None => return Ok(None),
        },
    };
    let access = app.store.session(session).await?;
    if access.is_none_or(|access| access.session.client != Some(client)) {
        return Ok(None);
    }
    change.end_session(session);
    Ok(Some(change))
}

/// `POST /oauth2/logout` with a token: ends the login that the token came from, or, for a client in its
/// own name, the token.
pub(crate) async fn logout(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let done = async {
        if method != Method::POST {
            return Err(Outcome::method_not_allowed("POST"));
        }
        let caller = auth::caller(&app, &headers, from).await?;
        let mut change = Change::new();
        match (caller.login, auth::bearer(&app, &headers)) {
            (Some(login), _) => change.end_session(login.session),
            (None, Some(token)) => {
                if let Bearer::Client(client) = token.bearer {
                    change.revoke_token(token.id, client, token.expires);
                }
            }
            (None, None) => return Err(Outcome::invalid("Log out with the token that is to end")),
        }
        Ok(app.store.commit(change).await?)
    };
    told(done.await)
}

/// `POST /auth/revoke`: ends one of the caller's own logins, named by its `loginId`.
pub(crate) async fn revoke_login(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    let done = async {
        if request.method() != Method::POST {
            return Err(Outcome::method_not_allowed("POST"));
        }
        let (parts, body) = request.into_parts();
        let caller = auth::caller(&app, &parts.headers, from).await?;
        let named = Members::read(&parts.headers, body, &["loginId"]).await?.needed("loginId")?;
        let session = SessionId::parse(&named)
            .ok_or_else(|| Outcome::invalid_at("loginId", "loginId must be the id of a login of yours"))?;
        let access = app.store.session(session).await?;
        let own = access.filter(|access| caller.login.is_some_and(|login| login.user == access.user.id));
        own.ok_or_else(Outcome::not_found)?;
        let mut change = Change::new();
        change.end_session(session);
        Ok(app.store.commit(change).await?)
    };
    told(done.await)
}

/// The answer in the shape that Medplum's clients read.
fn told(done: Result<(), Outcome>) -> Response {
    match done {
        Ok(()) => {
            let ok = json!({
                "resourceType": "OperationOutcome",
                "id": "ok",
                "issue": [{ "severity": "information", "code": "informational", "details": { "text": "All OK" } }],
            });
            ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], ok.to_string()).into_response()
        }
        Err(outcome) => outcome.into_response(),
    }
}
