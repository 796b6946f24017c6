//! The routes: each path with its handler and its largest body.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use keyrelay_core::limits::{
    ADMIN_BODY_BYTES_MAX, AUTH_BODY_BYTES_MAX, BODY_BYTES_MAX, REGISTRATION_BYTES_MAX, TOKEN_FORM_BYTES_MAX,
};
use tower::util::MapRequestLayer;

use crate::body::bounded;
use crate::error::{OAuthError, Outcome};
use crate::headers::{JSON, NO_STORE};
use crate::{App, admin, fhir, log, login, oauth, registration, ui};

/// Where the FHIR API begins.
pub(crate) const FHIR_BASE: &str = "/fhir/R4";

/// A path of the server, and the methods that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// As axum writes it: `{name}` is one segment, `{*name}` is all that follow.
    pub path: &'static str,
    /// `HEAD` goes wherever `GET` goes.
    pub methods: &'static [&'static str],
    /// Largest body, in bytes; a larger one is answered 413. 0 where no body is read.
    pub body_bytes_max: usize,
}

/// Says each route once, for the router and for whoever has to know them all: the table of who may do
/// what, and the description of the API.
macro_rules! routes {
    ($($path:literal $($method:ident)+, $bytes_max:expr => $handler:expr;)+) => {
        /// All routes of the server.
        pub const ROUTES: &[Route] = &[$(
            Route { path: $path, methods: &[$(stringify!($method)),+], body_bytes_max: $bytes_max }
        ),+];

        fn routes() -> Router<App> {
            Router::new()$(.route($path, with_bound($handler, $bytes_max)))+
        }
    };
}

/// For routes that read no body.
const NONE: usize = 0;
/// For forms, which are read before the caller is authenticated.
const FORM: usize = TOKEN_FORM_BYTES_MAX;
/// For people who log in.
const AUTH: usize = AUTH_BODY_BYTES_MAX;
const ADMIN: usize = ADMIN_BODY_BYTES_MAX;
const REGISTRATION: usize = REGISTRATION_BYTES_MAX;
/// For resources, and Bundles of them.
const FHIR: usize = BODY_BYTES_MAX;

fn with_bound(route: MethodRouter<App>, bytes_max: usize) -> MethodRouter<App> {
    route.layer(MapRequestLayer::new(move |request: Request| request.map(|body| bounded(body, bytes_max))))
}

routes! {
    "/oauth2/token" POST, FORM => any(oauth::token);
    "/oauth2/introspect" POST, FORM => any(oauth::introspect);
    "/oauth2/revoke" POST, FORM => any(oauth::revoke);
    "/oauth2/userinfo" GET POST, NONE => any(oauth::userinfo);
    "/oauth2/logout" POST, NONE => any(oauth::logout);
    "/oauth2/register" POST, REGISTRATION => any(registration::register);
    "/oauth2/register/{client}" GET PUT DELETE, REGISTRATION => any(registration::manage);
    "/oauth2/authorize" GET POST, FORM => any(login::authorize);
    "/auth/login" POST, AUTH => any(login::login);
    "/auth/profile" POST, AUTH => any(login::profile);
    "/auth/mfa/verify" POST, AUTH => any(login::verify_second_factor);
    "/auth/mfa/status" GET, NONE => any(login::status);
    "/auth/mfa/enroll" POST, AUTH => any(login::enroll);
    "/auth/mfa/disable" POST, AUTH => any(login::disable);
    "/auth/setpassword/{ticket}" GET POST, FORM => any(login::set_password);
    "/auth/changepassword" POST, AUTH => any(login::change_password);
    "/auth/revoke" POST, AUTH => any(oauth::revoke_login);
    "/auth/me" GET, NONE => any(admin::me);
    "/admin/projects/{id}/client" POST, ADMIN => any(admin::create_client);
    "/admin/projects/{id}/invite" POST, ADMIN => any(admin::invite);
    "/admin/projects/{id}/registration" GET POST, ADMIN => any(admin::registration);
    "/admin/projects/{id}/registration/{grant}" DELETE, NONE => any(admin::revoke_registration);
    "/admin/projects/{id}/events" GET, NONE => any(admin::events);
    "/admin/projects/{id}/webhooks" GET POST, ADMIN => any(admin::webhooks);
    "/admin/projects/{id}/webhooks/{webhook}" GET DELETE, NONE => any(admin::webhook);
    "/admin/projects/{id}/webhooks/{webhook}/rotate-secret" POST, ADMIN => any(admin::rotate_signing_secret);
    "/admin/projects/{id}/webhooks/{webhook}/resend" POST, ADMIN => any(admin::resend);
    "/fhir/R4" POST, FHIR => any(fhir::handle);
    "/fhir/R4/" POST, FHIR => any(fhir::handle);
    "/fhir/R4/{*path}" GET POST PUT PATCH DELETE, FHIR => any(fhir::handle);
    "/fhir/R4/.well-known/smart-configuration" GET, NONE => get(oauth::smart_configuration);
    "/.well-known/smart-configuration" GET, NONE => get(oauth::smart_configuration);
    "/.well-known/openid-configuration" GET, NONE => get(oauth::openid_configuration);
    "/.well-known/oauth-authorization-server" GET, NONE => get(oauth::authorization_server);
    "/.well-known/oauth-protected-resource" GET, NONE => get(oauth::protected_resource);
    "/.well-known/jwks.json" GET, NONE => get(oauth::jwks);
    "/openapi.json" GET, NONE => get(openapi);
    "/ui/style.css" GET, NONE => get(ui::style);
    "/healthcheck" GET, NONE => get(healthcheck);
    "/livez" GET, NONE => get(livez);
    "/readyz" GET, NONE => get(readyz);
    "/metrics" GET, NONE => get(metrics);
}

/// The server, without the connections.
pub fn router(app: App) -> Router {
    routes().fallback(nowhere).method_not_allowed_fallback(wrong_method).with_state(app)
}

/// Whether a route needs no bytes of the budget: routes for operators must work while others are refused, and
/// published documents are small or part of the program.
pub(crate) fn is_free(path: &str) -> bool {
    const FREE: [&str; 6] =
        ["/livez", "/readyz", "/healthcheck", "/metrics", "/openapi.json", "/ui/style.css"];
    FREE.contains(&path) || path.starts_with("/.well-known/") || path.starts_with("/fhir/R4/.well-known/")
}

/// Refuses a request in the error format of its route.
pub(crate) fn refuse(app: &App, path: &str, outcome: &Outcome) -> Response {
    const OAUTH: [&str; 4] = ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/oauth2/register"];
    if path == "/oauth2/authorize" || path.starts_with("/auth/setpassword/") {
        outcome.to_page(app.config.base_url.as_str())
    } else if OAUTH.iter().any(|route| path.starts_with(route)) {
        OAuthError::body(outcome).into_response()
    } else {
        outcome.to_response()
    }
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
    app.metrics.bytes_in_flight.set(i64::try_from(app.budget.used()).unwrap_or(i64::MAX));
    app.metrics.bytes_refused.inner().store(app.budget.refusals(), Ordering::Relaxed);
    app.metrics.set_process(log::lines_lost(), log::panics());
    app.metrics.set_events(|kind| app.store.events_counted(kind));
    app.metrics.set_over_rate(|of| app.store.changes_over_rate(of), app.store.changes_over_quota());
    let text = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(CONTENT_TYPE, text)], app.metrics.encode()).into_response()
}
