//! What goes wrong, in the words of each protocol: [`Outcome`] for FHIR, [`OAuthError`] for the
//! token endpoint. Both say what was wrong and what to do; internals go to the log.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use keyrelay_core::change_rates::{OverRate, RateOf};
use keyrelay_core::fhir::json::JsonError;
use keyrelay_core::fhir::schema::Issue;
use keyrelay_core::limits;
use keyrelay_core::secret::without_secrets;
use keyrelay_store::{Conflict, StoreError};
use serde_json::{Value, json};

use crate::budget::Refused;
use crate::headers::{FHIR_JSON, JSON};
use crate::ui;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The master keys do not fit the database.
    #[error(transparent)]
    Keyring(#[from] keyrelay_core::keyring::KeyringError),
    /// A signing key in the database cannot be used.
    #[error("signing key {id} in the database cannot be used: {problem}")]
    SigningKey {
        /// Its `kid`.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file or a socket failed.
    #[error("{action}")]
    Io {
        /// What was tried, with its object.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A setting for the first start is wrong.
    #[error("{0}")]
    Bootstrap(String),
}

/// Why a server ended without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The store can no longer read or write.
    #[error("a thread that the database needs has ended: restart the server, and report its log")]
    Store,
}

/// A FHIR error: a status and an OperationOutcome (FHIR R4 §2.27).
#[derive(Debug)]
pub struct Outcome {
    pub(crate) status: StatusCode,
    issues: Vec<OutcomeIssue>,
    allow: Option<&'static str>,
    challenge: bool,
    /// How long to wait before trying again.
    retry_after: Option<Duration>,
}

#[derive(Debug)]
struct OutcomeIssue {
    code: &'static str,
    text: String,
    /// The elements at fault.
    expression: Vec<String>,
}

impl Outcome {
    fn new(status: StatusCode, code: &'static str, text: impl Into<String>) -> Self {
        let issues = vec![OutcomeIssue { code, text: text.into(), expression: Vec::new() }];
        Self { status, issues, allow: None, challenge: false, retry_after: None }
    }

    /// 400: the input as a whole is wrong.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", text)
    }

    /// 400: one element is wrong.
    pub(crate) fn invalid_at(expression: impl Into<String>, text: impl Into<String>) -> Self {
        Self::invalid(text).at(expression)
    }

    /// 400: something valid that this server does not do.
    pub(crate) fn not_supported(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "not-supported", text)
    }

    /// 400: the resource does not fit its definition.
    pub(crate) fn schema(issues: Vec<Issue>) -> Self {
        let issues = issues
            .into_iter()
            .map(|issue| OutcomeIssue {
                code: issue.code.as_str(),
                text: format!("{}: {}", issue.expression, issue.text),
                expression: vec![issue.expression],
            })
            .collect();
        Self { status: StatusCode::BAD_REQUEST, issues, allow: None, challenge: false, retry_after: None }
    }

    /// 401: who are you?
    pub(crate) fn login() -> Self {
        let text = "Authentication is required, or the credentials are not valid";
        Self { challenge: true, ..Self::new(StatusCode::UNAUTHORIZED, "login", text) }
    }

    /// 403.
    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", text)
    }

    /// 404: the same for what is not there, what is malformed, and what is somebody else's.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found")
    }

    /// 410.
    pub(crate) fn gone() -> Self {
        Self::new(StatusCode::GONE, "deleted", "This resource has been deleted")
    }

    /// 405.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let text = format!("This method is not allowed here; allowed: {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "not-supported", text) }
    }

    /// 409.
    pub(crate) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", text)
    }

    /// 412.
    pub(crate) fn precondition_failed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "conflict", text)
    }

    /// 413.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let text = format!("The body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-long", text)
    }

    /// 422: the key of another request (draft-ietf-httpapi-idempotency-key-header §2.7).
    pub(crate) fn other_request() -> Self {
        let text = "Another request came under this Idempotency-Key; nothing was changed: take a new key for a new request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "business-rule", text)
    }

    /// 413: something valid that is more than is done at once.
    pub(crate) fn too_costly(text: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-costly", text)
    }

    /// 403: a project has reached a bound.
    pub(crate) fn over_quota(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "too-costly", text)
    }

    /// 403: a search needs more of the database than one request may use.
    pub(crate) fn search_too_costly(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "too-costly", text)
    }

    /// 429: too many searches of the project are under way.
    pub(crate) fn crowded() -> Self {
        let text = "Too many searches of your project are under way; nothing was changed: try again later";
        let outcome = Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", text);
        Self { retry_after: Some(limits::RETRY_AFTER), ..outcome }
    }

    /// 415.
    pub(crate) fn unsupported_media_type(text: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-supported", text)
    }

    /// 408.
    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The body did not arrive in time")
    }

    /// 429: one that comes after the wait is heard.
    pub(crate) fn throttled(wait: Duration) -> Self {
        let outcome = Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", too_many(wait));
        Self { retry_after: Some(wait), ..outcome }
    }

    /// 429: a bound is reached; the text names the bound.
    pub(crate) fn at_bound(text: String, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "throttled", text) }
    }

    /// 429: a client or a project has written more than its rate allows.
    fn over_rate(OverRate { of, wait }: OverRate) -> Self {
        let (whose, setting) = match of {
            RateOf::Client => ("This client", "--client-change-rate"),
            RateOf::Project => ("This project", "--project-change-rate"),
        };
        let text = format!(
            "{whose} writes more than its rate allows ({setting} of the server): try again in {} s",
            whole_seconds(wait)
        );
        Self::at_bound(text, wait)
    }

    /// 503: nothing has changed, try again.
    pub(crate) fn busy() -> Self {
        let text = "The server is busy; nothing was changed: try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text)
    }

    /// 503: too many bytes are in flight; 413 if the request can never fit.
    pub(crate) fn of_bytes(refused: Refused) -> Self {
        let text = match refused {
            Refused::TooHeavy(most) => {
                let text = format!("This request takes more than {most} bytes of memory: divide it");
                return Self::too_costly(text);
            }
            Refused::Full => "Too many bytes are in flight; nothing was changed: try again",
            Refused::Share => {
                "Too many bytes of this address or project are in flight; nothing was changed: try again"
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text)
    }

    /// 503: all connections of the server or of the address are taken.
    pub(crate) fn full() -> Self {
        let most = limits::CONNECTIONS_PER_ADDRESS_MAX;
        let text = format!(
            "All connections of this server are taken, or the {most} of one address: close some, or try again"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text)
    }

    /// 500: our fault. The log has the rest.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", "Something went wrong on the server")
    }

    /// Names the element at fault.
    pub(crate) fn at(mut self, expression: impl Into<String>) -> Self {
        if let Some(issue) = self.issues.first_mut() {
            issue.expression = vec![expression.into()];
        }
        self
    }

    /// Names the entry of a transaction that is at fault, beside the element in it.
    pub(crate) fn in_entry(mut self, n: usize) -> Self {
        let entry = format!("Bundle.entry[{n}]");
        for issue in &mut self.issues {
            if !issue.expression.iter().any(|named| named.starts_with(&entry)) {
                issue.expression.push(entry.clone());
            }
        }
        self
    }

    /// The outcome as a resource. Its `id` is what Medplum's clients tell the status by.
    pub(crate) fn to_resource(&self) -> Value {
        let issues: Vec<Value> = self
            .issues
            .iter()
            .map(|issue| {
                let text = without_secrets(&issue.text);
                let mut value =
                    json!({ "severity": "error", "code": issue.code, "details": { "text": text } });
                if let (Some(map), false) = (value.as_object_mut(), issue.expression.is_empty()) {
                    let named = issue.expression.iter().map(|element| without_secrets(element));
                    map.insert("expression".to_owned(), named.collect());
                }
                value
            })
            .collect();
        match self.client_id() {
            Some(id) => json!({ "resourceType": "OperationOutcome", "id": id, "issue": issues }),
            None => json!({ "resourceType": "OperationOutcome", "issue": issues }),
        }
    }

    /// The same for a person, as a page.
    pub(crate) fn to_page(&self, base: &str) -> Response {
        let text = match self.retry_after {
            Some(wait) => &too_many(wait),
            None => "The server cannot answer now. Please try again.",
        };
        let template = ui::Message { base, title: "This did not work", text };
        let mut response = ui::page(self.status, &template, None);
        add_retry_after(self.status, self.retry_after, &mut response);
        response
    }

    fn client_id(&self) -> Option<&'static str> {
        Some(match self.status {
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::NOT_FOUND => "not-found",
            StatusCode::GONE => "gone",
            StatusCode::CONFLICT => "conflict",
            StatusCode::PRECONDITION_FAILED => "precondition-failed",
            StatusCode::PAYLOAD_TOO_LARGE => "content-too-large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported-media-type",
            StatusCode::TOO_MANY_REQUESTS => "too-many-requests",
            _ => return None,
        })
    }
}

impl IntoResponse for Outcome {
    fn into_response(self) -> Response {
        self.to_response()
    }
}

impl Outcome {
    /// The outcome as an answer.
    pub(crate) fn to_response(&self) -> Response {
        let mut response = (
            self.status,
            [(CONTENT_TYPE, FHIR_JSON), (CACHE_CONTROL, HeaderValue::from_static("no-store"))],
            self.to_resource().to_string(),
        )
            .into_response();
        let headers = response.headers_mut();
        if self.challenge {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fhir\""));
            headers.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"fhir\", charset=\"UTF-8\""),
            );
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        add_retry_after(self.status, self.retry_after, &mut response);
        response
    }
}

/// In words.
fn too_many(wait: Duration) -> String {
    let seconds = whole_seconds(wait);
    format!("Too many attempts: try again in {seconds} second{}", if seconds == 1 { "" } else { "s" })
}

/// As many seconds as it takes until the time is over.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Adds `Retry-After` (RFC 9110 §10.2.3) where a wait is known, and to every 503.
fn add_retry_after(status: StatusCode, wait: Option<Duration>, response: &mut Response) {
    let busy = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(limits::RETRY_AFTER);
    if let Some(wait) = wait.or(busy) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
}

impl From<StoreError> for Outcome {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(Conflict::Membership) => Self::conflict(Conflict::Membership.to_string()),
            StoreError::Conflict(Conflict::Profile) => {
                Self::conflict(Conflict::Profile.to_string()).at("ProjectMembership.profile")
            }
            StoreError::Conflict(Conflict::Caller) => Self::login(),
            StoreError::Conflict(
                conflict @ (Conflict::Version | Conflict::Id | Conflict::Exists | Conflict::Email),
            ) => Self::conflict(conflict.to_string()),
            StoreError::OverRate(over) => Self::over_rate(over),
            StoreError::OverQuota { most } => {
                let text = format!(
                    "The project has {most} resources, as many as it may (--project-resources-max of the server): delete some"
                );
                Self::new(StatusCode::FORBIDDEN, "too-costly", text)
            }
            StoreError::Unknown => {
                tracing::error!("it is not known whether a change was made");
                let text = "The database failed while it wrote; the change may have been made or not: read again to see";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "transient", text)
            }
            StoreError::Corrupt { what } => {
                tracing::error!(what, "the database holds something unreadable");
                Self::internal()
            }
            StoreError::TooCostly => Self::search_too_costly(
                "The database needs too long for this search; nothing was changed. Narrow it: fewer values, a \
                 smaller _offset, no _total, exact values instead of :contains",
            ),
            StoreError::Crowded => Self::crowded(),
            error => {
                tracing::warn!(%error, "the store did not answer");
                Self::busy()
            }
        }
    }
}

impl From<Refused> for Outcome {
    fn from(refused: Refused) -> Self {
        Self::of_bytes(refused)
    }
}

impl From<JsonError> for Outcome {
    fn from(error: JsonError) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "structure",
            format!("The body is not JSON that can be used: {error}"),
        )
    }
}

/// An error of the authorization server (RFC 6749 §5.2).
#[derive(Debug)]
pub struct OAuthError {
    status: StatusCode,
    code: &'static str,
    description: String,
    challenge: Option<&'static str>,
    allow: &'static str,
    /// How long to wait before trying again.
    retry_after: Option<Duration>,
}

/// What a client calls an element of a ClientApplication that registers itself (RFC 7591 §2).
const METADATA: [(&str, &str); 7] = [
    ("name", "client_name"),
    ("redirectUris", "redirect_uris"),
    ("grantType", "grant_types"),
    ("responseType", "response_types"),
    ("defaultScope", "scope"),
    ("jwksUri", "jwks_uri"),
    ("jwks", "jwks"),
];
const BASIC_CHALLENGE: &str = "Basic realm=\"token\", charset=\"UTF-8\"";
const BEARER_CHALLENGE: &str = "Bearer realm=\"registration\", error=\"invalid_token\"";

impl OAuthError {
    fn bad_request(code: &'static str, description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
            description: description.into(),
            challenge: None,
            allow: "",
            retry_after: None,
        }
    }

    pub(crate) fn invalid_request(description: impl Into<String>) -> Self {
        Self::bad_request("invalid_request", description)
    }

    pub(crate) fn invalid_scope(description: impl Into<String>) -> Self {
        Self::bad_request("invalid_scope", description)
    }

    pub(crate) fn invalid_grant(description: impl Into<String>) -> Self {
        Self::bad_request("invalid_grant", description)
    }

    pub(crate) fn unsupported_grant_type(supported: &[&str]) -> Self {
        let text = format!("grant_type must be one of: {}", supported.join(", "));
        Self::bad_request("unsupported_grant_type", text)
    }

    pub(crate) fn unauthorized_client() -> Self {
        Self::bad_request("unauthorized_client", "This client application may not use this grant type")
    }

    /// One answer for every way of not being let in (P5).
    pub(crate) fn invalid_client(used_basic: bool) -> Self {
        let text = "The client is unknown, its secret is wrong, or it is not allowed in";
        Self {
            status: StatusCode::UNAUTHORIZED,
            challenge: used_basic.then_some(BASIC_CHALLENGE),
            ..Self::bad_request("invalid_client", text)
        }
    }

    /// The same for an initial or registration access token (RFC 6750 §3.1).
    pub(crate) fn invalid_token() -> Self {
        let text = "The token is missing, unknown, used up or past its time, or not for this client";
        Self {
            status: StatusCode::UNAUTHORIZED,
            challenge: Some(BEARER_CHALLENGE),
            ..Self::bad_request("invalid_token", text)
        }
    }

    /// A redirect URI that a client may not register (RFC 7591 §3.2.2).
    pub(crate) fn invalid_redirect_uri(description: impl Into<String>) -> Self {
        Self::bad_request("invalid_redirect_uri", description)
    }

    /// Anything else that it may not.
    pub(crate) fn invalid_client_metadata(description: impl Into<String>) -> Self {
        Self::bad_request("invalid_client_metadata", description)
    }

    pub(crate) fn unapproved_software_statement() -> Self {
        let text = "No issuer of software statements is trusted here: leave software_statement out";
        Self::bad_request("unapproved_software_statement", text)
    }

    /// What is wrong with a body, or with the client application that it would make, in the words of
    /// RFC 7591 §3.2.2.
    pub(crate) fn metadata(outcome: &Outcome) -> Self {
        let issue = outcome.issues.first();
        let mut text = issue.map_or(String::new(), |issue| issue.text.clone());
        for (element, member) in METADATA {
            text = text.replace(&format!("ClientApplication.{element}"), member);
        }
        match outcome.status {
            StatusCode::UNAUTHORIZED => Self::invalid_token(),
            StatusCode::TOO_MANY_REQUESTS => Self {
                status: outcome.status,
                retry_after: outcome.retry_after.or(Some(limits::FAILURE_FORGIVEN_AFTER)),
                ..Self::bad_request("temporarily_unavailable", text)
            },
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self { status: outcome.status, ..Self::bad_request("server_error", text) }
            }
            StatusCode::SERVICE_UNAVAILABLE => Self::busy(),
            StatusCode::PRECONDITION_FAILED => Self { status: outcome.status, ..Self::invalid_request(text) },
            status => {
                let element = issue.and_then(|issue| issue.expression.first()).map_or("", String::as_str);
                let is_redirect = element.starts_with("ClientApplication.redirectUri");
                let error =
                    if is_redirect { Self::invalid_redirect_uri } else { Self::invalid_client_metadata };
                Self { status, ..error(text) }
            }
        }
    }

    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            allow,
            ..Self::invalid_request(format!("This method is not allowed here; allowed: {allow}"))
        }
    }

    pub(crate) fn throttled(wait: Duration) -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(wait),
            ..Self::bad_request("temporarily_unavailable", too_many(wait))
        }
    }

    pub(crate) fn busy() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Self::bad_request("temporarily_unavailable", "The server is busy: try again")
        }
    }

    pub(crate) fn body(outcome: &Outcome) -> Self {
        let named = outcome.issues.first().map_or("", |issue| issue.text.as_str());
        let text = match outcome.status {
            StatusCode::PAYLOAD_TOO_LARGE => named,
            StatusCode::SERVICE_UNAVAILABLE => return Self::busy(),
            StatusCode::REQUEST_TIMEOUT => "The body did not arrive in time",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "Content-Type must be application/x-www-form-urlencoded",
            _ => "The body cannot be read",
        };
        Self { status: outcome.status, ..Self::invalid_request(text) }
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let told = without_secrets(&self.description);
        let body = json!({ "error": self.code, "error_description": told });
        let mut response = (
            self.status,
            [(CONTENT_TYPE, JSON), (CACHE_CONTROL, HeaderValue::from_static("no-store"))],
            body.to_string(),
        )
            .into_response();
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(self.allow));
        }
        add_retry_after(self.status, self.retry_after, &mut response);
        response
    }
}

impl From<StoreError> for OAuthError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(Conflict::Caller) => return Self::invalid_token(),
            StoreError::OverRate(_) | StoreError::OverQuota { .. } => return Self::metadata(&error.into()),
            _ => {}
        }
        tracing::warn!(%error, "the store did not answer");
        Self::busy()
    }
}
