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
use crate::{App, admin, fhir, login, oauth, registration, ui};

/// Where the FHIR API begins.
pub(crate) const FHIR_BASE: &str = "/fhir/R4";

/// A path of the server, and the methods that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// As axum writes it: `{name}` is one segment, `{*name}` is all that follow.
    pub path: &'static str,
    /// `HEAD` goes wherever `GET` goes.
    pub methods: &'static [&'static str],
}

/// Says each route once, for the router and for whoever has to know them all: the table of who may do
/// what, and the description of the API.
macro_rules! routes {
    ($($path:literal $($method:ident)+ => $handler:expr;)+) => {
        /// All routes of the server.
        pub const ROUTES: &[Route] = &[$(Route { path: $path, methods: &[$(stringify!($method)),+] }),+];

        fn routes() -> Router<App> {
            Router::new()$(.route($path, $handler))+
        }
    };
}

routes! {
    "/oauth2/token" POST => any(oauth::token);
    "/oauth2/introspect" POST => any(oauth::introspect);
    "/oauth2/revoke" POST => any(oauth::revoke);
    "/oauth2/userinfo" GET POST => any(oauth::userinfo);
    "/oauth2/logout" POST => any(oauth::logout);
    "/oauth2/register" POST => any(registration::register);
    "/oauth2/register/{client}" GET PUT DELETE => any(registration::manage);
    "/oauth2/authorize" GET POST => any(login::authorize);
    "/auth/login" POST => any(login::login);
    "/auth/profile" POST => any(login::profile);
    "/auth/mfa/verify" POST => any(login::verify_second_factor);
    "/auth/mfa/status" GET => any(login::status);
    "/auth/mfa/enroll" POST => any(login::enroll);
    "/auth/mfa/disable" POST => any(login::disable);
    "/auth/setpassword/{ticket}" GET POST => any(login::set_password);
    "/auth/changepassword" POST => any(login::change_password);
    "/auth/revoke" POST => any(oauth::revoke_login);
    "/auth/me" GET => any(admin::me);
    "/admin/projects/{id}/client" POST => any(admin::create_client);
    "/admin/projects/{id}/invite" POST => any(admin::invite);
    "/admin/projects/{id}/registration" GET POST => any(admin::registration);
    "/admin/projects/{id}/registration/{grant}" DELETE => any(admin::revoke_registration);
    "/admin/projects/{id}/events" GET => any(admin::events);
    "/admin/projects/{id}/webhooks" GET POST => any(admin::webhooks);
    "/admin/projects/{id}/webhooks/{webhook}" GET DELETE => any(admin::webhook);
    "/admin/projects/{id}/webhooks/{webhook}/rotate-secret" POST => any(admin::rotate_signing_secret);
    "/admin/projects/{id}/webhooks/{webhook}/resend" POST => any(admin::resend);
    "/fhir/R4" POST => any(fhir::handle);
    "/fhir/R4/" POST => any(fhir::handle);
    "/fhir/R4/{*path}" GET POST PUT PATCH DELETE => any(fhir::handle);
    "/fhir/R4/.well-known/smart-configuration" GET => get(oauth::smart_configuration);
    "/.well-known/smart-configuration" GET => get(oauth::smart_configuration);
    "/.well-known/openid-configuration" GET => get(oauth::openid_configuration);
    "/.well-known/oauth-authorization-server" GET => get(oauth::authorization_server);
    "/.well-known/oauth-protected-resource" GET => get(oauth::protected_resource);
    "/.well-known/jwks.json" GET => get(oauth::jwks);
    "/openapi.json" GET => get(openapi);
    "/ui/style.css" GET => get(ui::style);
    "/healthcheck" GET => get(healthcheck);
    "/livez" GET => get(livez);
    "/readyz" GET => get(readyz);
    "/metrics" GET => get(metrics);
}

/// The server, without the connections.
pub fn router(app: App) -> Router {
    routes().fallback(nowhere).method_not_allowed_fallback(wrong_method).with_state(app)
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

/// `GET /openapi.json`: the routes beside FHIR, described (OpenAPI 3.1). Every answer of a test is held
/// against it.
async fn openapi() -> Response {
    let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"))];
    (headers, include_str!("../../../docs/openapi.json")).into_response()
}

async fn metrics(State(app): State<App>) -> Response {
    app.metrics.event_streams.set(i64::try_from(app.streams.open()).unwrap_or(i64::MAX));
    app.metrics.set_events(|kind| app.store.events_counted(kind));
    app.metrics.set_over_rate(|of| app.store.changes_over_rate(of));
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
