//! Which path leads where, and how a body is read: within its size and its time.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use keyrelay_core::limits::{BODY_BYTES_MAX, BODY_TIMEOUT};

use crate::error::Outcome;
use crate::headers::{JSON, NO_STORE};
use crate::{App, admin, fhir, login, oauth, ui};

/// Where the FHIR API begins.
pub(crate) const FHIR_BASE: &str = "/fhir/R4";

/// All routes of the server.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/oauth2/token", any(oauth::token))
        .route("/oauth2/introspect", any(oauth::introspect))
        .route("/oauth2/revoke", any(oauth::revoke))
        .route("/oauth2/userinfo", any(oauth::userinfo))
        .route("/oauth2/logout", any(oauth::logout))
        .route("/oauth2/authorize", any(login::authorize))
        .route("/auth/login", any(login::login))
        .route("/auth/profile", any(login::profile))
        .route("/auth/mfa/verify", any(login::verify_second_factor))
        .route("/auth/mfa/status", any(login::status))
        .route("/auth/mfa/enroll", any(login::enroll))
        .route("/auth/mfa/disable", any(login::disable))
        .route("/ui/style.css", get(ui::style))
        .route("/auth/revoke", any(oauth::revoke_login))
        .route(FHIR_BASE, any(fhir::handle))
        .route("/fhir/R4/", any(fhir::handle))
        .route("/fhir/R4/{*path}", any(fhir::handle))
        .route("/fhir/R4/.well-known/smart-configuration", get(oauth::smart_configuration))
        .route("/.well-known/smart-configuration", get(oauth::smart_configuration))
        .route("/.well-known/openid-configuration", get(oauth::openid_configuration))
        .route("/.well-known/oauth-authorization-server", get(oauth::authorization_server))
        .route("/.well-known/oauth-protected-resource", get(oauth::protected_resource))
        .route("/.well-known/jwks.json", get(oauth::jwks))
        .route("/admin/projects/{id}/client", any(admin::create_client))
        .route("/admin/projects/{id}/invite", any(admin::invite))
        .route("/auth/setpassword/{ticket}", any(login::set_password))
        .route("/auth/changepassword", any(login::change_password))
        .route("/auth/me", any(admin::me))
        .route("/healthcheck", get(healthcheck))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn nowhere() -> Outcome {
    Outcome::not_found()
}

async fn wrong_method() -> Outcome {
    Outcome::method_not_allowed("GET")
}

async fn healthcheck(State(app): State<App>) -> Response {
    let ok = app.store.ping().await.is_ok();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ok": ok, "version": env!("CARGO_PKG_VERSION") });
    (status, [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.to_string()).into_response()
}

async fn livez() -> &'static str {
    "ok"
}

async fn readyz(State(app): State<App>) -> Response {
    match app.store.ping().await {
        Ok(()) => "ok".into_response(),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer").into_response()
        }
    }
}

async fn metrics(State(app): State<App>) -> Response {
    let text = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, text)], app.metrics.encode()).into_response()
}

/// Reads a body of at most [`BODY_BYTES_MAX`] within [`BODY_TIMEOUT`].
pub(crate) async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Outcome> {
    read_body_of(headers, body, BODY_BYTES_MAX).await
}

/// Reads a body of at most `bytes_max` within [`BODY_TIMEOUT`].
pub(crate) async fn read_body_of(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Outcome> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(Outcome::too_large(bytes_max));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await {
        Err(_) => Err(Outcome::too_slow()),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Outcome::too_large(bytes_max)),
        Ok(Err(_)) => Err(Outcome::invalid("The body ended too early")),
    }
}
