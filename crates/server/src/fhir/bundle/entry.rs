//! An entry of a Bundle: the request that it stands for, and the answer to it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::App;
use crate::error::Outcome;
use crate::fhir::render::Rendered;
use crate::fhir::request::{Content, FhirRequest, Reply, etag};
use crate::fhir::segments;

/// The answer to an entry.
#[derive(Serialize)]
pub(super) struct ResponseEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Box<RawValue>>,
    response: EntryResponse,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryResponse {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_modified: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Value>,
}

impl ResponseEntry {
    /// What became of an entry.
    pub(super) fn of(answer: Result<Reply, Outcome>) -> Self {
        answer.and_then(Self::done).unwrap_or_else(|outcome| Self::failed(&outcome))
    }

    /// Of one that was done.
    pub(super) fn done(reply: Reply) -> Result<Self, Outcome> {
        let warning = reply.warning.as_deref().map(|text| {
            let issue =
                json!({ "severity": "warning", "code": "informational", "details": { "text": text } });
            json!({ "resourceType": "OperationOutcome", "issue": [issue] })
        });
        Ok(Self {
            resource: reply.body.map(Rendered::into_part).transpose()?,
            response: EntryResponse {
                status: reply.status.as_u16().to_string(),
                location: reply.location,
                etag: reply.version.map(|(version, _)| etag(version)),
                last_modified: reply.version.map(|(_, last_updated)| last_updated.to_instant()),
                outcome: warning,
            },
        })
    }

    fn failed(outcome: &Outcome) -> Self {
        Self {
            resource: None,
            response: EntryResponse {
                status: outcome.status.as_u16().to_string(),
                location: None,
                etag: None,
                last_modified: None,
                outcome: Some(outcome.to_resource()),
            },
        }
    }
}

/// Reads the request that an entry stands for, and what comes with it.
pub(super) fn read_entry(
    app: &App,
    bundle: &FhirRequest,
    n: usize,
    entry: Value,
) -> Result<(FhirRequest, Content), Outcome> {
    let at = |element: &str| format!("Bundle.entry[{n}].{element}");
    let Value::Object(mut entry) = entry else {
        return Err(Outcome::invalid_at(format!("Bundle.entry[{n}]"), "An entry must be an object"));
    };
    let Some(Value::Object(request)) = entry.remove("request") else {
        return Err(Outcome::invalid_at(at("request"), "An entry needs a request"));
    };
    let text = |name: &str| request.get(name).and_then(Value::as_str);
    let method = text("method")
        .filter(|method| ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].contains(method))
        .and_then(|method| method.parse::<Method>().ok())
        .ok_or_else(|| {
            Outcome::invalid_at(
                at("request.method"),
                "The method must be GET, HEAD, POST, PUT, PATCH or DELETE",
            )
        })?;
    let url = text("url").ok_or_else(|| Outcome::invalid_at(at("request.url"), "A request needs a url"))?;
    let base = app.config.base_url.fhir();
    let url = url.strip_prefix(base.as_str()).unwrap_or(url);
    if url.contains("://") {
        return Err(Outcome::invalid_at(
            at("request.url"),
            "The url must be relative to the base of this server",
        ));
    }
    let (path, query) =
        url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query.to_owned())));
    let content = match (method.clone(), entry.remove("resource")) {
        (_, None) => Content::Empty,
        (Method::PATCH, Some(Value::Object(binary))) => patch_of(&binary, &at("resource"))?,
        (_, Some(resource)) => Content::Json(resource),
    };
    let request = FhirRequest {
        method: if method == Method::HEAD { Method::GET } else { method },
        segments: segments(path)?,
        query,
        if_match: text("ifMatch").map(str::to_owned),
        if_none_exist: text("ifNoneExist").map(str::to_owned),
        extended: bundle.extended,
        from: bundle.from,
        is_rehearsal: false,
    };
    Ok((request, content))
}

/// The patch in a Binary (FHIR R4 §3.1.0.7.2).
fn patch_of(binary: &Map<String, Value>, expression: &str) -> Result<Content, Outcome> {
    let text = |name: &str| binary.get(name).and_then(Value::as_str);
    let is_patch =
        text("resourceType") == Some("Binary") && text("contentType") == Some("application/json-patch+json");
    let decoded = text("data").and_then(|data| STANDARD.decode(data).ok());
    match decoded {
        Some(bytes) if is_patch => Ok(Content::Patch(Bytes::from(bytes))),
        _ => Err(Outcome::invalid_at(
            expression,
            "A patch is a Binary of contentType application/json-patch+json with base64 data",
        )),
    }
}
