//! Header values that are used in more than one place.

use http::HeaderValue;

/// `application/fhir+json`.
pub(crate) const FHIR_JSON: HeaderValue = HeaderValue::from_static("application/fhir+json; charset=utf-8");
/// `application/json`.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// For answers that nobody may keep.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
