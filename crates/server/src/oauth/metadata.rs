//! What client libraries read to configure themselves: authorization server metadata (RFC 8414,
//! OpenID Connect Discovery), protected resource metadata (RFC 9728), SMART configuration, and the
//! public keys (RFC 7517). They name only what is there.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::limits::METADATA_MAX_AGE;
use serde_json::{Value, json};

use super::assertion::ALGORITHM_NAMES;
use super::token::GRANT_TYPES;
use crate::App;
use crate::ClientCertificates;
use crate::headers::{JSON, NO_STORE};

const AUTH_METHODS: [&str; 3] = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
/// At the token and revocation endpoints also a client that has nothing to prove itself by, for people.
const TOKEN_AUTH_METHODS: [&str; 4] =
    ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
const SCOPES: [&str; 10] = [
    "openid",
    "profile",
    "fhirUser",
    "email",
    "offline_access",
    "online_access",
    "system/*.cruds",
    "system/*.read",
    "user/*.cruds",
    "user/*.read",
];

fn answer(body: &Value) -> Response {
    // Short, so that a change is seen soon; long enough to spare a request per token.
    let cache = HeaderValue::try_from(format!("public, max-age={}", METADATA_MAX_AGE.as_secs()));
    let cache = cache.unwrap_or(NO_STORE);
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, cache)], body.to_string()).into_response()
}

/// Adds the ways of RFC 8705 §2 to those there always are.
fn methods(app: &App, always: &[&'static str]) -> Vec<&'static str> {
    let mut methods = always.to_vec();
    if app.config.client_certificates != ClientCertificates::Off {
        methods.extend(["tls_client_auth", "self_signed_tls_client_auth"]);
    }
    methods
}

fn server_metadata(app: &App) -> Value {
    let base_url = &app.config.base_url;
    let mut metadata = json!({
        "tls_client_certificate_bound_access_tokens": app.config.client_certificates != ClientCertificates::Off,
        "issuer": base_url.as_str(),
        "token_endpoint": base_url.join("oauth2/token"),
        "jwks_uri": base_url.join(".well-known/jwks.json"),
        "token_endpoint_auth_methods_supported": methods(app, &TOKEN_AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHM_NAMES,
        "grant_types_supported": GRANT_TYPES,
        "authorization_endpoint": base_url.join("oauth2/authorize"),
        "registration_endpoint": base_url.join("oauth2/register"),
        "authorization_response_iss_parameter_supported": true,
        "code_challenge_methods_supported": ["S256"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "introspection_endpoint": base_url.join("oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": methods(app, &AUTH_METHODS),
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHM_NAMES,
        "revocation_endpoint": base_url.join("oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": methods(app, &TOKEN_AUTH_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHM_NAMES,
        "scopes_supported": SCOPES,
    });
    if let (Some(map), Some(aliases)) = (metadata.as_object_mut(), mtls_aliases(app)) {
        map.insert("mtls_endpoint_aliases".to_owned(), aliases);
    }
    metadata
}

/// Where clients with certificates are to come instead (RFC 8705 §5).
fn mtls_aliases(app: &App) -> Option<Value> {
    let base_url = app.config.mtls_base_url.as_ref()?;
    Some(json!({
        "token_endpoint": base_url.join("oauth2/token"),
        "introspection_endpoint": base_url.join("oauth2/introspect"),
        "revocation_endpoint": base_url.join("oauth2/revoke"),
        "userinfo_endpoint": base_url.join("oauth2/userinfo"),
    }))
}

/// `/.well-known/oauth-authorization-server` (RFC 8414 §3).
pub(crate) async fn authorization_server(State(app): State<App>) -> Response {
    answer(&server_metadata(&app))
}

/// `/.well-known/openid-configuration` (OpenID Connect Discovery 1.0 §4).
pub(crate) async fn openid_configuration(State(app): State<App>) -> Response {
    let mut metadata = server_metadata(&app);
    if let Some(map) = metadata.as_object_mut() {
        map.insert("userinfo_endpoint".to_owned(), json!(app.config.base_url.join("oauth2/userinfo")));
        let claims =
            ["sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "sid", "name", "email", "fhirUser"];
        map.insert("claims_supported".to_owned(), json!(claims));
        map.insert("subject_types_supported".to_owned(), json!(["public"]));
        map.insert(
            "id_token_signing_alg_values_supported".to_owned(),
            json!(app.tokens.algorithms(app.now())),
        );
    }
    answer(&metadata)
}

/// `/.well-known/oauth-protected-resource` (RFC 9728 §3).
pub(crate) async fn protected_resource(State(app): State<App>) -> Response {
    let base_url = &app.config.base_url;
    answer(&json!({
        "resource": base_url.as_str(),
        "authorization_servers": [base_url.as_str()],
        "jwks_uri": base_url.join(".well-known/jwks.json"),
        "bearer_methods_supported": ["header"],
    }))
}

/// `/.well-known/smart-configuration` (SMART App Launch 2.2, "Conformance").
pub(crate) async fn smart_configuration(State(app): State<App>) -> Response {
    let base_url = &app.config.base_url;
    answer(&json!({
        "issuer": base_url.as_str(),
        "jwks_uri": base_url.join(".well-known/jwks.json"),
        "token_endpoint": base_url.join("oauth2/token"),
        "token_endpoint_auth_methods_supported": methods(&app, &TOKEN_AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHM_NAMES,
        "grant_types_supported": GRANT_TYPES,
        "response_types_supported": ["code"],
        "authorization_endpoint": base_url.join("oauth2/authorize"),
        "registration_endpoint": base_url.join("oauth2/register"),
        "code_challenge_methods_supported": ["S256"],
        "introspection_endpoint": base_url.join("oauth2/introspect"),
        "revocation_endpoint": base_url.join("oauth2/revoke"),
        "scopes_supported": SCOPES,
        "capabilities": [
            "launch-standalone",
            "client-public",
            "client-confidential-symmetric",
            "client-confidential-asymmetric",
            "sso-openid-connect",
            "permission-offline",
            "permission-online",
            "permission-user",
            "permission-v1",
            "permission-v2",
        ],
    }))
}

/// `/.well-known/jwks.json` (RFC 7517 §5).
pub(crate) async fn jwks(State(app): State<App>) -> Response {
    answer(&app.tokens.jwks(app.now()))
}
