//! What the routes answer by which an admin manages things of a project, and how they find the project.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ProjectId;
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

/// Refuses a body with a member that nobody looks at.
pub(super) fn check_members(body: &Map<String, Value>, known: &[&str]) -> Result<(), Outcome> {
    if body.keys().all(|name| known.contains(&name.as_str())) {
        return Ok(());
    }
    let known = known.join(", ");
    Err(Outcome::invalid(format!("The body has an unknown member; known are: {known}")))
}
