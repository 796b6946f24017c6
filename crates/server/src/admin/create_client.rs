//! `POST /admin/projects/{id}/client`: makes a client application with a secret and a membership.

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, StatusCode};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::policy::Interaction;
use serde_json::{Map, Value};

use super::answer::{check_members, policy_reference};
use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::fhir::{Content, Rendered, create_with_secret, is_there};
use crate::headers::{FHIR_JSON, NO_STORE};

/// The members of the body; `accessPolicy` goes to the membership, the others to the client.
const MEMBERS: [&str; 7] = [
    "name",
    "description",
    "redirectUri",
    "redirectUris",
    "accessPolicy",
    "accessTokenLifetime",
    "refreshTokenLifetime",
];

pub(crate) async fn create_client(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    project: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // What cannot be decoded is no project.
    let project = project.map(|Path(project)| project).unwrap_or_default();
    match create(&app, from, &project, request).await {
        Ok(body) => {
            let headers = [(CONTENT_TYPE, FHIR_JSON), (CACHE_CONTROL, NO_STORE)];
            (StatusCode::CREATED, headers, body.into_string()).into_response()
        }
        Err(outcome) => outcome.into_response(),
    }
}

async fn create(
    app: &App,
    from: std::net::IpAddr,
    project: &str,
    request: Request,
) -> Result<Rendered, Outcome> {
    if request.method() != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let caller = auth::caller(app, &parts.headers, from).await?;
    let made = [ResourceType::ClientApplication, ResourceType::ProjectMembership];
    if !caller.is_admin() || !made.iter().all(|kind| caller.may(Interaction::Create, *kind)) {
        return Err(Outcome::forbidden("Only an admin of the project may create its clients"));
    }
    let body = Content::Http { headers: parts.headers.clone(), body }.into_object().await?;
    let project =
        ProjectId::parse(project).filter(|id| caller.reaches(*id)).ok_or_else(Outcome::not_found)?;
    if !is_there(app, ResourceType::Project, project.into(), project).await? {
        return Err(Outcome::not_found());
    }
    let (resource, policy) = read(body)?;
    if let Some(policy) = policy
        && !is_there(app, ResourceType::AccessPolicy, policy, project).await?
    {
        return Err(Outcome::invalid_at("accessPolicy", "There is no such AccessPolicy in the project"));
    }
    let extended = parts.headers.get("x-medplum").is_some_and(|value| value == "extended");
    create_with_secret(app, &caller, project, resource, policy, from, extended).await
}

/// Reads the body as a ClientApplication and the policy of its membership.
fn read(body: Map<String, Value>) -> Result<(Map<String, Value>, Option<ResourceId>), Outcome> {
    let mut resource = Map::new();
    resource.insert(
        "resourceType".to_owned(),
        Value::String(ResourceType::ClientApplication.as_str().to_owned()),
    );
    let mut policy = None;
    check_members(&body, &MEMBERS)?;
    for (name, value) in body {
        if name == "accessPolicy" {
            policy = Some(policy_reference("accessPolicy", &value)?);
        } else {
            resource.insert(name, value);
        }
    }
    if resource.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Outcome::invalid_at("name", "A client application needs a name"));
    }
    Ok((resource, policy))
}
