//! What the server says about itself: the CapabilityStatement, to anyone, and the definitions of its
//! types, operations and search parameters, to whoever has logged in. Generated, so read only.

use std::sync::OnceLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Method;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::conformance::{
    self, OauthEndpoint, operation_definitions, search_parameters, structure_definitions,
};
use keyrelay_core::fhir::search::{IndexEntry, index_entries, matches};
use keyrelay_core::time::Timestamp;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::render::Rendered;
use super::request::{FhirRequest, Reply};
use super::route::READ_METHODS;
use super::search::{bundle, plain_entry, read_query};
use crate::App;
use crate::config::BaseUrl;
use crate::error::Outcome;
use crate::headers::{FHIR_JSON, NO_STORE};

struct Definition {
    resource_type: ResourceType,
    id: String,
    resource: Box<RawValue>,
    index: Vec<IndexEntry>,
}

/// The statement and the definitions, built at the first request: they never change while the server runs, and
/// anonymous callers may request the statement at any rate.
pub(crate) struct Conformance {
    base_url: String,
    since: Timestamp,
    statement: OnceLock<Bytes>,
    definitions: OnceLock<Vec<Definition>>,
}

impl Conformance {
    pub(crate) fn new(base_url: &BaseUrl, since: Timestamp) -> Self {
        Self {
            base_url: base_url.as_str().to_owned(),
            since,
            statement: OnceLock::new(),
            definitions: OnceLock::new(),
        }
    }

    fn capability_statement(&self) -> Value {
        conformance::capability_statement(&conformance::Conformance {
            base_url: &self.base_url,
            version: env!("CARGO_PKG_VERSION"),
            date_rfc3339: &self.since.to_instant(),
            oauth_endpoints: &[
                OauthEndpoint::Authorize,
                OauthEndpoint::Token,
                OauthEndpoint::Introspect,
                OauthEndpoint::Revoke,
            ],
        })
    }

    /// The text of the statement, which all answers share.
    fn statement_text(&self) -> Bytes {
        self.statement.get_or_init(|| self.capability_statement().to_string().into()).clone()
    }

    fn definitions(&self) -> &[Definition] {
        self.definitions.get_or_init(|| {
            let all = [
                structure_definitions(),
                operation_definitions(&self.base_url),
                search_parameters(&self.base_url),
            ];
            all.into_iter()
                .flatten()
                .chain([self.capability_statement()])
                .filter_map(|resource| Definition::of(&resource))
                .collect()
        })
    }
}

impl Definition {
    fn of(resource: &Value) -> Option<Self> {
        let map = resource.as_object()?;
        let resource_type: ResourceType = map.get("resourceType")?.as_str()?.parse().ok()?;
        let id = map.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let index = index_entries(resource_type, map);
        Some(Self { resource_type, id, index, resource: to_raw_value(resource).ok()? })
    }
}

/// `GET [base]/metadata`, which asks for no credentials (FHIR R4 §3.1.0.14).
pub(super) fn capability_statement(app: &App, method: &Method) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Outcome::method_not_allowed(READ_METHODS).into_response();
    }
    let headers = [(CONTENT_TYPE, FHIR_JSON), (CACHE_CONTROL, NO_STORE)];
    (headers, app.conformance.statement_text()).into_response()
}

pub(super) fn dispatch(
    app: &App,
    resource_type: ResourceType,
    rest: &[String],
    request: &FhirRequest,
) -> Result<Reply, Outcome> {
    if request.method != Method::GET {
        return Err(Outcome::method_not_allowed(READ_METHODS));
    }
    let of_type = || {
        app.conformance.definitions().iter().filter(|definition| definition.resource_type == resource_type)
    };
    match rest {
        [] => {
            let text = request.query.as_deref().unwrap_or_default();
            let query = read_query(resource_type, text)?;
            let since = app.conformance.since.epoch_ms();
            let found: Vec<&Definition> = of_type()
                .filter(|definition| matches(&query.filters, &definition.index, &definition.id, since))
                .collect();
            let total = i64::try_from(found.len()).ok();
            let page = found.iter().skip(query.offset as usize).take(query.count as usize);
            let base = format!("{}/{resource_type}", app.config.base_url.fhir());
            let entry = page
                .map(|definition| plain_entry(format!("{base}/{}", definition.id), &definition.resource))
                .collect::<Result<Vec<_>, _>>()?;
            let end = query.offset.saturating_add(query.count);
            let next = (found.len() > end as usize && query.count > 0).then_some(end);
            Ok(Reply::ok(Rendered::assemble(&bundle(&base, text, &query, next, total, entry))?))
        }
        [id] => of_type()
            .find(|definition| definition.id == *id)
            .ok_or_else(Outcome::not_found)
            .and_then(|definition| Rendered::serialize(&definition.resource).map(Reply::ok)),
        _ => Err(Outcome::not_found()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_written_once_for_all_answers() {
        let base_url = BaseUrl::parse("https://keyrelay.example.test").unwrap();
        let conformance = Conformance::new(&base_url, Timestamp::from_epoch_ms(0));
        let (first, second) = (conformance.statement_text(), conformance.statement_text());
        assert_eq!((first.as_ptr(), first.len()), (second.as_ptr(), second.len()));
        assert_eq!(serde_json::from_slice::<Value>(&first).unwrap(), conformance.capability_statement());
    }
}
