//! What a grant gives: the access token (RFC 9068), for people also the ID token (OpenID Connect Core
//! §2) and the refresh token, and the answer that carries them.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::caller::Profile;
use keyrelay_core::client::{ClientAccess, Proof};
use keyrelay_core::grant::{AccessClaims, Confirmation, IdClaims};
use keyrelay_core::random::random_uuid;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::session::SessionAccess;
use serde::{Serialize, Serializer};

use crate::App;
use crate::error::OAuthError;
use crate::headers::{JSON, NO_STORE};

/// `typ` of an ID token.
const ID_TOKEN: &str = "JWT";

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
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "revealed")]
    refresh_token: Option<PlainSecret>,
    project: Reference<'a>,
    profile: Reference<'a>,
}

/// The one place where a refresh token is laid open: in the answer that gives it.
#[expect(clippy::ref_option, reason = "the shape that serde asks for")]
fn revealed<S: Serializer>(token: &Option<PlainSecret>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_some(&token.as_ref().map(PlainSecret::reveal))
}

fn answer(body: &TokenResponse<'_>) -> Result<Response, OAuthError> {
    let body = serde_json::to_string(body).map_err(|_| OAuthError::busy())?;
    Ok(([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response())
}

fn failed_to_sign() -> OAuthError {
    tracing::error!("a token could not be signed");
    OAuthError::busy()
}

/// A token for a client in its own name (RFC 6749 §4.4).
pub(super) fn to_client(
    app: &App,
    access: &ClientAccess,
    proof: Proof,
    scope: &Scope,
) -> Result<Response, OAuthError> {
    let at = app.now();
    let now = at.epoch_seconds();
    let lifetime = access.token_lifetime().as_secs();
    let client = access.client.to_string();
    let profile = Profile::client(access.client).to_string();
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
        sid: &proof.id.to_string(),
        auth_time: None,
        cnf: Confirmation::of(proof.kind),
    };
    let access_token = app.tokens.sign(&claims, at).ok_or_else(failed_to_sign)?;
    let project = format!("Project/{}", access.project.id);
    answer(&TokenResponse {
        token_type: "Bearer",
        expires_in: lifetime,
        scope: scope.as_str(),
        access_token,
        id_token: None,
        refresh_token: None,
        project: Reference { reference: &project, display: access.project.name.as_deref() },
        profile: Reference { reference: &profile, display: access.name.as_deref() },
    })
}

/// Tokens for a client in the name of a person who is logged in, and whose member `profile` is.
pub(super) fn to_person(
    app: &App,
    access: &SessionAccess,
    profile: Profile,
    proof: Proof,
    scope: &Scope,
    refresh_token: Option<PlainSecret>,
) -> Result<Response, OAuthError> {
    let (session, user) = (&access.session, &access.user);
    let at = app.now();
    let now = at.epoch_seconds();
    let lifetime = access.token_lifetime().as_secs();
    let expires = now.saturating_add(i64::try_from(lifetime).unwrap_or(i64::MAX));
    let base_url = app.config.base_url.as_str();
    // A login without a client is with this server itself.
    let client = session.client.map_or_else(|| base_url.to_owned(), |client| client.to_string());
    let (subject, session_id) = (user.id.to_string(), session.id.to_string());
    let profile_reference = profile.to_string();
    let token_id = random_uuid(app.entropy.as_ref()).to_string();
    let authenticated = session.authenticated.epoch_seconds();
    let claims = AccessClaims {
        iss: base_url,
        sub: &subject,
        aud: base_url,
        client_id: &client,
        login_id: &session_id,
        username: &subject,
        scope: scope.as_str(),
        profile: &profile_reference,
        iat: now,
        nbf: now,
        exp: expires,
        jti: &token_id,
        sid: &proof.id.to_string(),
        auth_time: Some(authenticated),
        cnf: Confirmation::of(proof.kind),
    };
    let access_token = app.tokens.sign(&claims, at).ok_or_else(failed_to_sign)?;
    let fhir_user = format!("{}/{profile_reference}", app.config.base_url.fhir());
    let id_token = scope.has("openid").then(|| {
        app.tokens.sign_as(
            ID_TOKEN,
            &IdClaims {
                iss: base_url,
                sub: &subject,
                aud: &client,
                iat: now,
                exp: expires,
                auth_time: authenticated,
                nonce: session.nonce.as_deref(),
                sid: &session_id,
                fhir_user: (scope.has("fhirUser") || scope.has("profile")).then_some(&fhir_user),
                name: user.name.as_deref().filter(|_| scope.has("profile")),
                email: scope.has("email").then_some(&user.email),
            },
            at,
        )
    });
    let id_token = id_token.map(|token| token.ok_or_else(failed_to_sign)).transpose()?;
    let project = access.project.as_ref();
    answer(&TokenResponse {
        token_type: "Bearer",
        expires_in: lifetime,
        scope: scope.as_str(),
        access_token,
        id_token,
        refresh_token,
        project: Reference {
            reference: &project.map(|project| format!("Project/{}", project.id)).unwrap_or_default(),
            display: project.and_then(|project| project.name.as_deref()),
        },
        profile: Reference { reference: &profile_reference, display: user.name.as_deref() },
    })
}
