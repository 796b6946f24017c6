//! A `batch` Bundle: its entries are done one after the other, each as if it had come alone, and
//! each with an answer of its own (FHIR R4 §3.1.0.11).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use keyrelay_core::caller::Caller;
use keyrelay_core::limits::{ANSWER_BYTES_MAX, BUNDLE_ENTRIES_MAX};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::render::Rendered;
use super::request::{Content, FhirRequest, Reply, etag};
use super::{dispatch, segments};
use crate::App;
use crate::auth;
use crate::error::Outcome;

#[derive(Serialize)]
struct ResponseBundle {
    #[serde(rename = "resourceType")]
    resource_type: &'static str,
    r#type: &'static str,
    entry: Vec<ResponseEntry>,
}

#[derive(Serialize)]
struct ResponseEntry {
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

pub(super) async fn handle(
    app: &App,
    caller: &Caller,
    request: &FhirRequest,
    content: Content,
) -> Result<Reply, Outcome> {
    if request.method != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let mut bundle = content.into_object().await?;
    if bundle.get("resourceType").and_then(Value::as_str) != Some("Bundle") {
        return Err(Outcome::invalid_at("resourceType", "The body must be a Bundle"));
    }
    match bundle.get("type").and_then(Value::as_str) {
        Some("batch") => {}
        Some("transaction") => {
            return Err(Outcome::not_supported(
                "Bundles of type transaction are not supported: send a batch",
            )
            .at("Bundle.type"));
        }
        _ => return Err(Outcome::invalid_at("Bundle.type", "The type must be batch")),
    }
    let entries = match bundle.remove("entry") {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(Outcome::invalid_at("Bundle.entry", "entry must be an array")),
        None => Vec::new(),
    };
    if entries.len() > BUNDLE_ENTRIES_MAX {
        return Err(Outcome::invalid_at(
            "Bundle.entry",
            format!("A batch has at most {BUNDLE_ENTRIES_MAX} entries"),
        ));
    }
    let mut answers = Vec::with_capacity(entries.len());
    let mut bytes = 0;
    for (n, entry) in entries.into_iter().enumerate() {
        let answer = match read_entry(app, request, n, entry) {
            Ok(_) if bytes > ANSWER_BYTES_MAX => Err(Outcome::answer_too_large()),
            Ok((entry, content)) => one(app, caller, &entry, content).await,
            Err(outcome) => Err(outcome),
        };
        bytes += answer.as_ref().ok().and_then(|reply| reply.body.as_ref()).map_or(0, Rendered::len);
        answers.push(answer_entry(answer)?);
    }
    let bundle = ResponseBundle { resource_type: "Bundle", r#type: "batch-response", entry: answers };
    Ok(Reply::ok(Rendered::serialize(&bundle)?))
}

/// Does one entry, for whoever the caller is by now: entries before it may have taken long, or changed
/// what the caller may do.
async fn one(app: &App, caller: &Caller, entry: &FhirRequest, content: Content) -> Result<Reply, Outcome> {
    let caller = auth::again(app, caller, entry.from).await?;
    dispatch(app, &caller, entry, content).await
}

fn answer_entry(answer: Result<Reply, Outcome>) -> Result<ResponseEntry, Outcome> {
    Ok(match answer {
        Ok(reply) => ResponseEntry {
            resource: reply.body.map(Rendered::into_part).transpose()?,
            response: EntryResponse {
                status: reply.status.as_u16().to_string(),
                location: reply.location,
                etag: reply.version.map(|(version, _)| etag(version)),
                last_modified: reply.version.map(|(_, last_updated)| last_updated.to_instant()),
                outcome: None,
            },
        },
        Err(outcome) => ResponseEntry {
            resource: None,
            response: EntryResponse {
                status: outcome.status.as_u16().to_string(),
                location: None,
                etag: None,
                last_modified: None,
                outcome: Some(outcome.to_resource()),
            },
        },
    })
}

fn read_entry(
    app: &App,
    batch: &FhirRequest,
    n: usize,
    entry: Value,
) -> Result<(FhirRequest, Content), Outcome> {
    let at = |element: &str| format!("Bundle.entry[{n}].{element}");
    let Value::Object(mut entry) = entry else {
        return Err(Outcome::invalid_at(format!("Bundle.entry[{n}]"), "An entry must be an object"));
    };
    let Some(Value::Object(request)) = entry.remove("request") else {
        return Err(Outcome::invalid_at(at("request"), "An entry of a batch needs a request"));
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
        extended: batch.extended,
        from: batch.from,
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
