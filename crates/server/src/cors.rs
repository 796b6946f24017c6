//! Which pages of other origins may read answers in a browser (Fetch, "CORS protocol"). A page may, if
//! its origin is the server's own, is one of the setting `allowed_origins`, or is an `allowedOrigin` of
//! the client that the request is made by. A preflight names no client, so there any client's will do.
//!
//! No answer depends on a cookie that a page could make a browser send: credentials mode is never
//! allowed. Without an `Origin` header nothing is looked up.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::PREFLIGHT_LIFETIME;
use keyrelay_core::origin::Origin;

use crate::App;
use crate::auth::{self, Credentials};

/// For what everybody may read.
const ANY: HeaderValue = HeaderValue::from_static("*");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
/// What a page may read of an answer beside what it always may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("Content-Location, ETag, Location, Retry-After, Warning, WWW-Authenticate");

/// The client that an answer is for, where only the body of the request says so.
#[derive(Clone, Copy, Debug)]
struct AnsweredTo(ClientId);

/// Who may read what is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    /// Pages of any origin: what the server publishes about itself.
    All,
    /// Pages of the origins that are allowed.
    Allowed,
    /// No page from elsewhere: pages for people, and what is for operators.
    None,
}

fn readers_of(path: &str) -> Readers {
    let below = |prefix: &str| path.starts_with(prefix);
    let whole = ["/fhir/R4/metadata", "/openapi.json"];
    if below("/.well-known/") || below("/fhir/R4/.well-known/") || whole.contains(&path) {
        Readers::All
    } else if path == "/oauth2/authorize" || below("/auth/setpassword/") {
        Readers::None
    } else if below("/fhir/") || below("/oauth2/") || below("/auth/") || below("/admin/") {
        Readers::Allowed
    } else {
        Readers::None
    }
}

/// Answers a request by `next`, says who may read the answer, and answers what browsers ask beforehand.
pub(crate) async fn answer<F: Future<Output = Response>>(
    app: &App,
    request: Request<Body>,
    next: impl FnOnce(Request<Body>) -> F,
) -> Response {
    let readers = readers_of(request.uri().path());
    match (readers, request.headers().get(ORIGIN).cloned()) {
        (Readers::None, _) | (Readers::Allowed, None) => next(request).await,
        (Readers::All, _) => {
            let mut response =
                if is_preflight(&request) { preflight(request.headers()) } else { next(request).await };
            response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
            response
        }
        // Boxed, so that it takes no room in the requests of everybody else.
        (Readers::Allowed, Some(origin)) => Box::pin(to_allowed(app, origin, request, next)).await,
    }
}

async fn to_allowed<F: Future<Output = Response>>(
    app: &App,
    origin: HeaderValue,
    request: Request<Body>,
    next: impl FnOnce(Request<Body>) -> F,
) -> Response {
    let (mut response, allowed) = if is_preflight(&request) {
        let allowed = is_allowed(app, &origin, None).await;
        (if allowed { preflight(request.headers()) } else { next(request).await }, allowed)
    } else {
        let named = client_of(app, request.headers());
        let response = next(request).await;
        let answered_to = response.extensions().get().map(|AnsweredTo(client)| *client);
        let allowed = is_allowed(app, &origin, answered_to.or(named)).await;
        (response, allowed)
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if allowed {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn is_preflight(request: &Request<Body>) -> bool {
    let has = |name| request.headers().contains_key(name);
    request.method() == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight. Header fields that are not known mean nothing, so all that are asked for
/// are allowed.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let told = response.headers_mut();
    told.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    told.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_LIFETIME.as_secs()));
    if let Some(fields) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        told.insert(ACCESS_CONTROL_ALLOW_HEADERS, fields.clone());
    }
    response
}

/// The client that a request says it is made by, in its head.
fn client_of(app: &App, headers: &HeaderMap) -> Option<ClientId> {
    if let Some(token) = auth::bearer(app, headers) {
        return token.client;
    }
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    Credentials::from_basic(header)?.client
}

/// Notes the client that an answer is for, if somebody is going to ask.
pub(crate) fn answered_to(headers: &HeaderMap, client: Option<ClientId>, response: &mut Response) {
    if let Some(client) = client.filter(|_| headers.contains_key(ORIGIN)) {
        response.extensions_mut().insert(AnsweredTo(client));
    }
}

async fn is_allowed(app: &App, origin: &HeaderValue, client: Option<ClientId>) -> bool {
    let Some(origin) = origin.to_str().ok().and_then(|text| Origin::parse(text).ok()) else { return false };
    if app.config.base_url.origin().as_ref() == Some(&origin) || app.config.allowed_origins.contains(&origin)
    {
        return true;
    }
    app.store.allows_origin(&origin, client).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "whether an origin is allowed could not be read");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_for_people_and_operators_are_for_no_other_page() {
        for path in ["/oauth2/authorize", "/auth/setpassword/x", "/ui/style.css", "/metrics", "/", "/nowhere"]
        {
            assert_eq!(readers_of(path), Readers::None, "{path}");
        }
        for path in ["/oauth2/token", "/auth/login", "/auth/mfa/verify", "/fhir/R4", "/fhir/R4/Project"] {
            assert_eq!(readers_of(path), Readers::Allowed, "{path}");
        }
        for path in ["/.well-known/jwks.json", "/fhir/R4/metadata"] {
            assert_eq!(readers_of(path), Readers::All, "{path}");
        }
    }
}
