//! `POST /oauth2/token`: the hot path of the whole product. One narrow read, shared with whoever
//! asks at the same time; one digest, two comparisons, one signature; no write.

use std::borrow::Cow;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::client::ClientAccess;
use keyrelay_core::grant::AccessClaims;
use keyrelay_core::id::SecretId;
use keyrelay_core::limits::{FORM_PARAMETERS_MAX, TOKEN_FORM_BYTES_MAX};
use keyrelay_core::random::random_uuid;
use keyrelay_core::scope::Scope;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::App;
use crate::auth::{ClientAddress, Credentials, NotProved, prove};
use crate::error::OAuthError;
use crate::headers::{JSON, NO_STORE};
use crate::router::read_body_of;

/// What a client is granted that names no scope and has no default one.
const SCOPE_DEFAULT: &str = "openid";
/// Parameters that must not come in the query, where every proxy logs them (RFC 6749 §2.3.1).
const NEVER_IN_QUERY: [&str; 4] = ["client_secret", "client_id", "client_assertion", "password"];

/// The token endpoint (RFC 6749 §3.2).
pub(crate) async fn token(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    match grant(&app, from, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

#[derive(Default)]
struct Form {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Zeroizing<String>>,
    scope: Option<String>,
}

async fn grant(app: &App, from: std::net::IpAddr, request: Request) -> Result<Response, OAuthError> {
    if request.method() != Method::POST {
        return Err(OAuthError::method_not_allowed());
    }
    refuse_credentials_in_query(request.uri().query())?;
    let (parts, body) = request.into_parts();
    require_form(&parts.headers)?;
    let body = read_body_of(&parts.headers, body, TOKEN_FORM_BYTES_MAX)
        .await
        .map_err(|outcome| OAuthError::body(&outcome))?;
    let mut form = Form::parse(&body)?;
    let grant_type =
        form.grant_type.take().ok_or_else(|| OAuthError::invalid_request("grant_type is missing"))?;
    if grant_type != "client_credentials" {
        return Err(OAuthError::unsupported_grant_type());
    }
    let scope = form.scope.take().map(|text| Scope::parse(&text)).transpose();
    let scope = scope.map_err(|error| OAuthError::invalid_scope(error.to_string()))?;
    let (credentials, used_basic) = credentials(app, &parts.headers, form)?;
    let proved = prove(app, credentials, from).await.map_err(|error| match error {
        NotProved::Refused => OAuthError::invalid_client(used_basic),
        NotProved::Throttled => OAuthError::throttled(),
        NotProved::Store(error) => error.into(),
    })?;
    if !proved.access.allows_grant(&grant_type) {
        return Err(OAuthError::unauthorized_client());
    }
    issue(app, &proved.access, proved.proof.id, scope)
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

impl Form {
    /// Unknown parameters are passed over, but no parameter may come twice (RFC 6749 §3.2).
    fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let mut form = Self::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::with_capacity(4);
        for (name, value) in form_urlencoded::parse(body) {
            if seen.len() >= FORM_PARAMETERS_MAX {
                return Err(OAuthError::invalid_request(format!(
                    "More than {FORM_PARAMETERS_MAX} parameters"
                )));
            }
            if seen.contains(&name) {
                return Err(OAuthError::invalid_request("A parameter is given more than once"));
            }
            match name.as_ref() {
                // Without a value it is not there.
                _ if value.is_empty() => {}
                "grant_type" => form.grant_type = Some(value.into_owned()),
                "client_id" => form.client_id = Some(value.into_owned()),
                "client_secret" => form.client_secret = Some(Zeroizing::new(value.into_owned())),
                "scope" => form.scope = Some(value.into_owned()),
                _ => {}
            }
            seen.push(name);
        }
        Ok(form)
    }
}

/// The client's credentials, from the body or by Basic. A client must not use both (RFC 6749 §2.3);
/// saying the same thing twice is let pass, because Medplum's command line does.
fn credentials(app: &App, headers: &HeaderMap, form: Form) -> Result<(Credentials, bool), OAuthError> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let header = given.next();
    if given.next().is_some() {
        return Err(OAuthError::invalid_request("More than one Authorization header"));
    }
    let basic = header.map(|value| {
        value.to_str().ok().and_then(Credentials::from_basic).ok_or_else(|| {
            OAuthError::invalid_request("The Authorization header is not Basic with an id and a secret")
        })
    });
    let basic = basic.transpose()?;
    match (basic, form.client_id, form.client_secret) {
        (Some(basic), id, Some(secret)) => {
            let body = Credentials::from_form(id.as_deref().unwrap_or_default(), secret);
            if basic.same_as(&body, app) {
                Ok((basic, true))
            } else {
                Err(OAuthError::invalid_request("Send the credentials in the body or by Basic, not both"))
            }
        }
        (Some(basic), Some(id), None) if basic.client != keyrelay_core::id::ClientId::parse(&id) => {
            Err(OAuthError::invalid_request("client_id is not the client of the Authorization header"))
        }
        (Some(basic), _, None) => Ok((basic, true)),
        (None, Some(id), Some(secret)) => Ok((Credentials::from_form(&id, secret), false)),
        (None, None, _) => Err(OAuthError::invalid_request("client_id is missing")),
        (None, Some(_), None) => Err(OAuthError::invalid_request("client_secret is missing")),
    }
}

#[derive(Serialize)]
struct Reference<'a> {
    reference: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display: Option<&'a str>,
}

#[derive(Serialize)]
struct TokenResponse<'a> {
    token_type: &'static str,
    expires_in: u64,
    scope: &'a str,
    access_token: String,
    project: Reference<'a>,
    profile: Reference<'a>,
}

fn issue(
    app: &App,
    access: &ClientAccess,
    secret: SecretId,
    scope: Option<Scope>,
) -> Result<Response, OAuthError> {
    let scope = match scope.filter(|scope| !scope.is_empty()) {
        Some(scope) => scope,
        // No scope at all would bind nothing, so one that cannot be read is an error.
        None => Scope::parse(access.default_scope.as_deref().unwrap_or(SCOPE_DEFAULT))
            .map_err(|error| OAuthError::invalid_scope(error.to_string()))?,
    };
    let now = app.now().epoch_seconds();
    let lifetime = access.token_lifetime().as_secs();
    let client = access.client.to_string();
    let profile = format!("ClientApplication/{client}");
    let base_url = app.config.base_url.as_str();
    let login_id = random_uuid(app.entropy.as_ref()).to_string();
    let token_id = random_uuid(app.entropy.as_ref()).to_string();
    let claims = AccessClaims {
        iss: base_url,
        sub: &client,
        aud: base_url,
        client_id: &client,
        login_id: &login_id,
        username: &client,
        scope: scope.as_str(),
        profile: &profile,
        iat: now,
        nbf: now,
        exp: now.saturating_add(i64::try_from(lifetime).unwrap_or(i64::MAX)),
        jti: &token_id,
        sid: &secret.to_string(),
    };
    let access_token = app.tokens.sign(&claims).ok_or_else(|| {
        tracing::error!("a token could not be signed");
        OAuthError::busy()
    })?;
    let project = format!("Project/{}", access.project.id);
    let body = serde_json::to_string(&TokenResponse {
        token_type: "Bearer",
        expires_in: lifetime,
        scope: scope.as_str(),
        access_token,
        project: Reference { reference: &project, display: access.project.name.as_deref() },
        profile: Reference { reference: &profile, display: access.name.as_deref() },
    })
    .map_err(|_| OAuthError::busy())?;
    Ok(([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response())
}
