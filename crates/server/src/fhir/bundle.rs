//! Bundles. The entries of a `batch` are done one after the other, each as if it had come alone, and each with an
//! answer of its own (FHIR R4 §3.1.0.11). Those of a [`transaction`] are done all or none.

mod entry;
mod links;
mod transaction;

use http::Method;
use keyrelay_core::caller::Caller;
use keyrelay_core::limits::{ANSWER_BYTES_MAX, BUNDLE_ENTRIES_MAX};
use serde::Serialize;
use serde_json::Value;

use self::entry::{ResponseEntry, read_entry};
pub(super) use self::links::Links;
use super::dispatch;
use super::render::Rendered;
use super::request::{Content, FhirRequest, Reply};
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

impl ResponseBundle {
    fn reply(r#type: &'static str, entry: Vec<ResponseEntry>) -> Result<Reply, Outcome> {
        let bundle = Self { resource_type: "Bundle", r#type, entry };
        Ok(Reply::ok(Rendered::assemble(&bundle)?))
    }
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
    let is_transaction = match bundle.get("type").and_then(Value::as_str) {
        Some("batch") => false,
        Some("transaction") => true,
        _ => return Err(Outcome::invalid_at("Bundle.type", "The type must be batch or transaction")),
    };
    let entries = match bundle.remove("entry") {
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(Outcome::invalid_at("Bundle.entry", "entry must be an array")),
        None => Vec::new(),
    };
    if entries.len() > BUNDLE_ENTRIES_MAX {
        return Err(Outcome::invalid_at(
            "Bundle.entry",
            format!("A Bundle has at most {BUNDLE_ENTRIES_MAX} entries"),
        ));
    }
    if is_transaction {
        transaction::transaction(app, caller, request, entries).await
    } else {
        batch(app, caller, request, entries).await
    }
}

async fn batch(
    app: &App,
    caller: &Caller,
    bundle: &FhirRequest,
    entries: Vec<Value>,
) -> Result<Reply, Outcome> {
    let mut answers = Vec::with_capacity(entries.len());
    let mut bytes = 0;
    for (n, entry) in entries.into_iter().enumerate() {
        let answer = match read_entry(app, bundle, n, entry) {
            Ok(_) if bytes > ANSWER_BYTES_MAX => Err(answers_too_large()),
            Ok((entry, content)) => one(app, caller, &entry, content).await,
            Err(outcome) => Err(outcome),
        };
        bytes += answer.as_ref().ok().and_then(|reply| reply.body.as_ref()).map_or(0, Rendered::len);
        answers.push(ResponseEntry::of(answer));
    }
    ResponseBundle::reply("batch-response", answers)
}

fn answers_too_large() -> Outcome {
    Outcome::too_costly(
        "The answers to the entries before this one are too large together: send it in another Bundle",
    )
}

/// Does one entry, for whoever the caller is by now: entries before it may have taken long, or changed
/// what the caller may do.
async fn one(app: &App, caller: &Caller, entry: &FhirRequest, content: Content) -> Result<Reply, Outcome> {
    let caller = auth::again(app, caller, entry.from).await?;
    dispatch(app, &caller, entry, content).await
}
