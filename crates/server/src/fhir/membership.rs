//! What is particular to ProjectMembership: it decides who is admin, so everything it names must be
//! there, in the same project.

use keyrelay_core::caller::Profile;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId};
use keyrelay_store::MembershipRow;
use serde_json::{Map, Value};

use super::versions::Act;
use crate::App;
use crate::error::Outcome;

/// The project that a membership names.
pub(super) fn project(resource: &Map<String, Value>) -> Result<ProjectId, Outcome> {
    let id = reference(resource, "project", ResourceType::Project)?;
    id.map(ProjectId::from)
        .ok_or_else(|| Outcome::invalid_at("ProjectMembership.project", "A membership names its project"))
}

/// The narrow row of a membership.
pub(super) async fn row(
    act: Act<'_>,
    id: MembershipId,
    own_project: ProjectId,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<MembershipRow, Outcome> {
    if project(resource)? != own_project {
        return Err(Outcome::invalid_at(
            "ProjectMembership.project",
            "The project must be the one the membership belongs to",
        ));
    }
    if resource.contains_key("access") {
        return Err(Outcome::not_supported("Use accessPolicy: parameterised policies are not enforced here")
            .at("ProjectMembership.access"));
    }
    let client = reference(resource, "profile", ResourceType::ClientApplication)?;
    if client != reference(resource, "user", ResourceType::ClientApplication)? {
        return Err(Outcome::invalid_at(
            "ProjectMembership.user",
            "For a client application, user and profile are the same",
        ));
    }
    if let Some(client) = client {
        must_exist(act, ResourceType::ClientApplication, client, own_project, "ProjectMembership.profile")
            .await?;
    }
    let policy = reference(resource, "accessPolicy", ResourceType::AccessPolicy)?;
    if let Some(policy) = policy {
        must_exist(act, ResourceType::AccessPolicy, policy, own_project, "ProjectMembership.accessPolicy")
            .await?;
    }
    let flag = |name: &str| resource.get(name).and_then(Value::as_bool);
    let row = MembershipRow {
        id,
        project: own_project,
        client: client.map(ClientId::from),
        user: None,
        profile: client.map(|client| Profile::client(client.into())),
        active: flag("active").unwrap_or(true),
        admin: flag("admin").unwrap_or(false),
        policy,
    };
    let same_policy = before.and_then(|before| before.get("accessPolicy")) == resource.get("accessPolicy");
    let same_member = row.client == act.caller.client.filter(|_| act.caller.login.is_none())
        && row.user == act.caller.login.map(|login| login.user)
        && row.profile == Some(act.caller.profile);
    let keeps_in = row.active && row.admin && same_member && same_policy;
    if act.caller.membership == id && !keeps_in {
        return Err(Outcome::conflict("This is your own membership: this change would lock you out"));
    }
    Ok(row)
}

/// Reads a reference to a resource of one type. `None` if the element is not there.
pub(super) fn reference(
    resource: &Map<String, Value>,
    element: &str,
    target: ResourceType,
) -> Result<Option<ResourceId>, Outcome> {
    let Some(value) = resource.get(element) else { return Ok(None) };
    let text = value.get("reference").and_then(Value::as_str).unwrap_or_default();
    let id = text
        .strip_prefix(target.as_str())
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(ResourceId::parse);
    id.map(Some).ok_or_else(|| {
        Outcome::invalid_at(
            format!("ProjectMembership.{element}"),
            format!("This must be a reference of the form {target}/[id]"),
        )
    })
}

/// Makes sure that a resource is there, in the project.
pub(super) async fn must_exist(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    expression: &'static str,
) -> Result<(), Outcome> {
    if is_there(act.app, resource_type, id, project).await? {
        Ok(())
    } else {
        Err(Outcome::invalid_at(expression, format!("There is no such {resource_type} in the project")))
    }
}

/// Whether a resource is there, in the project.
pub(crate) async fn is_there(
    app: &App,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
) -> Result<bool, Outcome> {
    let found = app.store.resource(resource_type, id).await?;
    Ok(found.is_some_and(|version| !version.deleted && version.project == Some(project)))
}
