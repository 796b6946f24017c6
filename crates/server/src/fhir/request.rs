//! A FHIR request and its answer, apart from HTTP, so that an entry of a batch is the same thing as
//! a request of its own.

use std::borrow::Cow;
use std::net::IpAddr;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keyrelay_core::id::VersionId;
use keyrelay_core::limits::SEARCH_FORM_BYTES_MAX;
use keyrelay_core::time::Timestamp;
use serde_json::{Map, Value};

use super::render::Rendered;
use crate::body::{bounded, read_body};
use crate::budget;
use crate::error::Outcome;
use crate::headers::{FHIR_JSON, NO_STORE};

/// One interaction that somebody asks for.
#[derive(Clone, Debug)]
pub(crate) struct FhirRequest {
    pub(crate) method: Method,
    /// The path below the base, decoded.
    pub(crate) segments: Vec<String>,
    pub(crate) query: Option<String>,
    pub(crate) if_match: Option<String>,
    pub(crate) if_none_exist: Option<String>,
    /// `X-Medplum: extended`: show all of `meta`.
    pub(crate) extended: bool,
    pub(crate) from: IpAddr,
    /// See [`super::Act::is_rehearsal`].
    pub(crate) is_rehearsal: bool,
}

/// What came with a request, not yet looked at. Its `Debug` shows no value: it may be a secret.
pub(crate) enum Content {
    /// A body as it comes over HTTP.
    Http { headers: HeaderMap, body: Body },
    /// The resource of a batch entry.
    Json(Value),
    /// A JSON Patch in a batch entry.
    Patch(Bytes),
    /// Nothing.
    Empty,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http { .. } => "Http",
            Self::Json(_) => "Json",
            Self::Patch(_) => "Patch",
            Self::Empty => "Empty",
        })
    }
}

const RESOURCE_MEDIA: [&str; 2] = ["application/fhir+json", "application/json"];
const PATCH_MEDIA: [&str; 3] = ["application/json-patch+json", "application/json", "application/fhir+json"];
const FORM_MEDIA: [&str; 1] = ["application/x-www-form-urlencoded"];

impl Content {
    /// The header fields that came with it; an entry of a Bundle has none of its own.
    pub(crate) const fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Http { headers, .. } => Some(headers),
            Self::Json(_) | Self::Patch(_) | Self::Empty => None,
        }
    }

    /// The same with a bound of its own, where the route has one for whole resources.
    pub(super) fn within(self, bytes_max: usize) -> Self {
        match self {
            Self::Http { headers, body } => Self::Http { headers, body: bounded(body, bytes_max) },
            other => other,
        }
    }

    /// The body as a JSON object.
    pub(crate) async fn into_object(self) -> Result<Map<String, Value>, Outcome> {
        let value = match self {
            Self::Json(value) => value,
            Self::Http { headers, body } => budget::parse(&read(&headers, body, &RESOURCE_MEDIA).await?)?,
            Self::Patch(_) => return Err(Outcome::invalid("A patch is not a resource")),
            Self::Empty => return Err(missing()),
        };
        match value {
            Value::Object(map) => Ok(map),
            _ => Err(Outcome::invalid("The body must be a JSON object")),
        }
    }

    /// The body as a JSON Patch document.
    pub(crate) async fn into_patch(self) -> Result<Value, Outcome> {
        let bytes = match self {
            Self::Patch(bytes) => bytes,
            Self::Http { headers, body } => read(&headers, body, &PATCH_MEDIA).await?,
            Self::Json(_) => {
                return Err(Outcome::invalid(
                    "A patch in a Bundle is a Binary of application/json-patch+json",
                ));
            }
            Self::Empty => return Err(missing()),
        };
        budget::parse(&bytes)
    }

    /// The body as form parameters, as `_search` sends them; none at all is fine.
    pub(crate) async fn into_form(self) -> Result<String, Outcome> {
        match self.within(SEARCH_FORM_BYTES_MAX) {
            Self::Empty => Ok(String::new()),
            Self::Http { headers, body } => {
                let bytes = read_body(body).await?;
                if !bytes.is_empty() {
                    check_media(&headers, &FORM_MEDIA)?;
                }
                String::from_utf8(bytes.into()).map_err(|_| Outcome::invalid("The body is not UTF-8"))
            }
            Self::Json(_) | Self::Patch(_) => Err(Outcome::invalid("The body must be a form")),
        }
    }
}

fn missing() -> Outcome {
    Outcome::invalid("The body is missing")
}

async fn read(headers: &HeaderMap, body: Body, media: &[&'static str]) -> Result<Bytes, Outcome> {
    check_media(headers, media)?;
    let bytes = read_body(body).await?;
    if bytes.is_empty() { Err(missing()) } else { Ok(bytes) }
}

/// Refuses a body that says it is something else than JSON.
pub(crate) fn check_json(headers: &HeaderMap) -> Result<(), Outcome> {
    check_media(headers, &RESOURCE_MEDIA)
}

/// A body without a type is taken for what is expected.
fn check_media(headers: &HeaderMap, expected: &[&'static str]) -> Result<(), Outcome> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if expected.iter().any(|known| known.eq_ignore_ascii_case(media)) {
        Ok(())
    } else {
        Err(Outcome::unsupported_media_type(&format!("Content-Type must be {}", expected.join(" or "))))
    }
}

impl FhirRequest {
    /// Checks `If-Match` against the current version.
    pub(crate) fn check_if_match(&self, current: VersionId) -> Result<(), Outcome> {
        check_if_match(self.if_match.as_deref(), current)
    }
}

/// Checks an `If-Match` header (RFC 9110 §13.1.1), if there is one, against the current version.
pub(crate) fn check_if_match(wanted: Option<&str>, current: VersionId) -> Result<(), Outcome> {
    let Some(wanted) = wanted else { return Ok(()) };
    let names_current = wanted.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.trim_matches('"') == current.to_string()
    });
    if names_current {
        Ok(())
    } else {
        Err(Outcome::precondition_failed(
            "If-Match names another version than the current one: read again and decide again",
        ))
    }
}

/// The answer to a request that succeeded.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Rendered>,
    pub(crate) version: Option<(VersionId, Timestamp)>,
    pub(crate) location: Option<String>,
    /// What the caller should know although it is done (`Warning`, RFC 7234 §5.5).
    pub(crate) warning: Option<Cow<'static, str>>,
}

impl Reply {
    /// 200 with a body.
    pub(crate) const fn ok(body: Rendered) -> Self {
        Self { status: StatusCode::OK, body: Some(body), version: None, location: None, warning: None }
    }

    /// With the `ETag` and `Last-Modified` of a version.
    pub(crate) const fn of_version(mut self, version: VersionId, last_updated: Timestamp) -> Self {
        self.version = Some((version, last_updated));
        self
    }

    /// 201 with `Location`.
    pub(crate) fn created_at(mut self, location: String) -> Self {
        self.status = StatusCode::CREATED;
        self.location = Some(location);
        self
    }
}

/// The entity tag of a version (FHIR R4 §3.1.0.8: always weak).
pub(crate) fn etag(version: VersionId) -> String {
    format!("W/\"{version}\"")
}

/// A text as the header `Warning`.
pub(crate) fn warning_header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::try_from(format!("199 - \"{text}\"")).ok().map(|value| (WARNING, value))
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Some(body) => (self.status, [(CONTENT_TYPE, FHIR_JSON)], body.into_string()).into_response(),
            None => self.status.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, NO_STORE);
        if let Some((version, last_updated)) = self.version {
            let values = [(ETAG, etag(version)), (LAST_MODIFIED, last_updated.to_http_date())];
            headers.extend(
                values
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?))),
            );
        }
        headers.extend(self.warning.as_deref().and_then(warning_header));
        if let Some(location) = self.location.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(LOCATION, location);
        }
        response
    }
}
