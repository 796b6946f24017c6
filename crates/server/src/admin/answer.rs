//! What the routes answer by which an admin manages things of a project, and how they find the project.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::limits::MEMBER_NAME_CHARS_SHOWN;
use serde_json::{Map, Value};

use crate::App;
use crate::error::Outcome;
use crate::fhir::{Rendered, is_there};
use crate::headers::{JSON, NO_STORE};

/// A status, and a body where there is something to say.
pub(super) type Answer = Result<(StatusCode, Option<Rendered>), Outcome>;

/// An answer that nobody keeps.
pub(super) fn respond(answer: Answer) -> Response {
    match answer {
        Ok((status, Some(body))) => {
            (status, [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.into_string()).into_response()
        }
        Ok((status, None)) => (status, [(CACHE_CONTROL, NO_STORE)]).into_response(),
        Err(outcome) => outcome.into_response(),
    }
}

/// The project of a path, if it is there and the caller reaches it.
pub(super) async fn reached(app: &App, caller: &Caller, project: &str) -> Result<ProjectId, Outcome> {
    let project =
        ProjectId::parse(project).filter(|id| caller.reaches(*id)).ok_or_else(Outcome::not_found)?;
    if is_there(app, ResourceType::Project, project.into(), project).await? {
        Ok(project)
    } else {
        Err(Outcome::not_found())
    }
}

/// Refuses a body with an unknown member, and names the member.
pub(super) fn check_members(body: &Map<String, Value>, known: &[&str]) -> Result<(), Outcome> {
    check_members_within("", body, known)
}

/// The same for a part of a body. `within` is where it is, such as `membership.`.
pub(super) fn check_members_within(
    within: &str,
    part: &Map<String, Value>,
    known: &[&str],
) -> Result<(), Outcome> {
    let Some(unknown) = part.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let name: String = unknown.chars().take(MEMBER_NAME_CHARS_SHOWN).flat_map(char::escape_debug).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let text = format!("The body has an unknown member `{within}{name}`; known are: {known}");
    Err(Outcome::invalid_at(format!("{within}{name}"), text))
}

/// Reads a reference to an AccessPolicy, which is in the body at `at`. Its `display` is ignored.
pub(super) fn policy_reference(at: &str, value: &Value) -> Result<ResourceId, Outcome> {
    if let Some(reference) = value.as_object() {
        check_members_within(&format!("{at}."), reference, &["reference", "display"])?;
    }
    let reference = value.get("reference").and_then(Value::as_str).unwrap_or_default();
    let id = reference.strip_prefix("AccessPolicy/").and_then(ResourceId::parse);
    let text = format!("{at} must be a reference of the form {{\"reference\": \"AccessPolicy/[id]\"}}");
    id.ok_or_else(|| Outcome::invalid_at(at, text))
}
