//! `POST /oauth2/token`: the hot path of the whole product. For a client in its own name it is one
//! narrow read, shared with whoever asks at the same time; one digest, two comparisons, one
//! signature; no write. What people's logins give is in `login_grants`.

use std::borrow::Cow;
use std::net::IpAddr;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use keyrelay_core::caller::Caller;
use keyrelay_core::client::Acts;
use keyrelay_core::limits::{FORM_PARAMETERS_MAX, TOKEN_BYTES_MAX};
use keyrelay_core::scope::{BadScope, Grantee, Scope};
use keyrelay_core::secret::PlainSecret;
use zeroize::Zeroizing;

use super::client_auth::{ClientParameters, Endpoint};
use super::{issue, login_grants};
use crate::auth::{ClientAddress, Proved};
use crate::body::read_body;
use crate::error::OAuthError;
use crate::{App, cors};

/// The grants there are (RFC 6749 §1.3).
pub(crate) const GRANT_TYPES: [&str; 3] = ["client_credentials", "authorization_code", "refresh_token"];
/// What a client is granted that names no scope and has no default one.
const SCOPE_DEFAULT: &str = "openid";
/// Parameters that must not come in the query, where every proxy logs them (RFC 6749 §2.3.1).
const NEVER_IN_QUERY: [&str; 8] = [
    "client_secret",
    "client_id",
    "client_assertion",
    "password",
    "code",
    "code_verifier",
    "refresh_token",
    "token",
];

/// The token endpoint (RFC 6749 §3.2).
pub(crate) async fn token(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    let read = async {
        let (headers, body) = read_form(request).await?;
        Form::parse(&body).map(|form| (headers, form))
    };
    let (headers, form) = match read.await {
        Ok(read) => read,
        Err(error) => return error.into_response(),
    };
    let client = form.client.named();
    let mut response = match grant(&app, from, &headers, form).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    cors::answered_to(&headers, client, &mut response);
    response
}

/// The parameters of a token request.
#[derive(Default)]
pub(super) struct Form {
    pub(super) client: ClientParameters,
    pub(super) grant_type: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) code: Option<PlainSecret>,
    pub(super) redirect_uri: Option<String>,
    pub(super) code_verifier: Option<PlainSecret>,
    pub(super) refresh_token: Option<PlainSecret>,
}

async fn grant(app: &App, from: IpAddr, headers: &HeaderMap, mut form: Form) -> Result<Response, OAuthError> {
    let grant_type =
        form.grant_type.take().ok_or_else(|| OAuthError::invalid_request("grant_type is missing"))?;
    if !GRANT_TYPES.contains(&grant_type.as_str()) {
        return Err(OAuthError::unsupported_grant_type(&GRANT_TYPES));
    }
    let scope = form.scope.take().map(|text| Scope::parse(&text)).transpose();
    let scope = scope.map_err(|error| OAuthError::invalid_scope(error.to_string()))?;
    // What is rarer is in a box: a future is moved with all that it may ever hold.
    match grant_type.as_str() {
        "authorization_code" => Box::pin(login_grants::by_code(app, headers, form, from)).await,
        "refresh_token" => Box::pin(login_grants::by_refresh_token(app, headers, form, scope, from)).await,
        _ => {
            let proved =
                form.client.authenticate(app, headers, Endpoint::Token, Acts::ForItself, from).await?;
            if !proved.access.allows_grant(&grant_type) {
                return Err(OAuthError::unauthorized_client());
            }
            let scope = scope_of_client(&proved, scope, from)?;
            issue::to_client(app, &proved.access, proved.proof, &scope)
        }
    }
}

/// What a client is granted that acts in its own name: of what it asks for, or else of its default scope,
/// or of what its registration binds it to, as much as it may have. Without any of these there is nothing
/// to decide: that is the hot path.
fn scope_of_client(proved: &Proved, asked: Option<Scope>, from: IpAddr) -> Result<Scope, OAuthError> {
    let unreadable = |error: BadScope| OAuthError::invalid_scope(error.to_string());
    let access = &proved.access;
    let asked = match (asked.filter(|scope| !scope.is_empty()), &access.default_scope) {
        (Some(asked), _) => Some(asked),
        // No scope at all would bind nothing, so one that cannot be read is an error.
        (None, Some(default)) => Some(Scope::parse(default).map_err(unreadable)?),
        (None, None) => None,
    };
    let asked = match (asked, &access.scope_bound) {
        (Some(asked), Some(bound)) => asked.only(bound).ok_or_else(nothing_granted)?,
        (Some(asked), None) => asked,
        (None, Some(bound)) => bound.clone(),
        (None, None) => return Scope::parse(SCOPE_DEFAULT).map_err(unreadable),
    };
    let caller = access.admit(Some(from), proved.proof.id, asked);
    let caller = caller.map_err(|_| OAuthError::invalid_client(false))?;
    granted(&caller, &caller.scope, Grantee::Client)
}

/// What a caller may have of a scope (RFC 6749 §3.3).
pub(super) fn granted(caller: &Caller, asked: &Scope, to: Grantee) -> Result<Scope, OAuthError> {
    asked
        .granted(to, |interaction, kind| caller.may_be_granted(interaction, kind))
        .ok_or_else(nothing_granted)
}

fn nothing_granted() -> OAuthError {
    OAuthError::invalid_scope(
        "Nothing of the scope can be granted: system/ is for clients, user/ and patient/ for people, and each only as far as role, access policy and registration go",
    )
}

/// Reads the form of an endpoint of the authorization server, within its bounds.
pub(super) async fn read_form(request: Request) -> Result<(HeaderMap, bytes::Bytes), OAuthError> {
    if request.method() != Method::POST {
        return Err(OAuthError::method_not_allowed("POST"));
    }
    refuse_credentials_in_query(request.uri().query())?;
    let (parts, body) = request.into_parts();
    require_form(&parts.headers)?;
    let body = read_body(body).await.map_err(|outcome| OAuthError::body(&outcome))?;
    Ok((parts.headers, body))
}

fn refuse_credentials_in_query(query: Option<&str>) -> Result<(), OAuthError> {
    let named = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .any(|(name, _)| NEVER_IN_QUERY.contains(&name.as_ref()));
    if named {
        return Err(OAuthError::invalid_request(
            "Credentials do not belong in the query: send them in the body or by Basic",
        ));
    }
    Ok(())
}

fn require_form(headers: &HeaderMap) -> Result<(), OAuthError> {
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Ok(())
    } else {
        Err(OAuthError::invalid_request("Content-Type must be application/x-www-form-urlencoded"))
    }
}

/// Goes through the parameters of a form. Unknown ones are for `take` to pass over, but none may come
/// twice (RFC 6749 §3.2); without a value it is not there.
pub(super) fn each_parameter<'a>(
    body: &'a [u8],
    mut take: impl FnMut(&str, Cow<'a, str>),
) -> Result<(), OAuthError> {
    let mut seen: Vec<Cow<'_, str>> = Vec::with_capacity(4);
    for (name, value) in form_urlencoded::parse(body) {
        if seen.len() >= FORM_PARAMETERS_MAX {
            return Err(OAuthError::invalid_request(format!("More than {FORM_PARAMETERS_MAX} parameters")));
        }
        if seen.contains(&name) {
            return Err(OAuthError::invalid_request("A parameter is given more than once"));
        }
        if !value.is_empty() {
            take(name.as_ref(), value);
        }
        seen.push(name);
    }
    Ok(())
}

/// A parameter that grants something, out of sight. What cannot be one is kept as one that matches
/// nothing.
pub(super) fn secret_parameter(value: Cow<'_, str>) -> Option<PlainSecret> {
    (value.len() <= TOKEN_BYTES_MAX).then(|| PlainSecret::token(&Zeroizing::new(value.into_owned())))
}

impl Form {
    pub(super) fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let mut form = Self::default();
        each_parameter(body, |name, value| {
            let Some(value) = form.client.take(name, value) else { return };
            match name {
                "grant_type" => form.grant_type = Some(value.into_owned()),
                "scope" => form.scope = Some(value.into_owned()),
                "code" => form.code = secret_parameter(value),
                "redirect_uri" => form.redirect_uri = Some(value.into_owned()),
                "code_verifier" => form.code_verifier = secret_parameter(value),
                "refresh_token" => form.refresh_token = secret_parameter(value),
                _ => {}
            }
        })?;
        Ok(form)
    }
}
