//! What is particular to ProjectMembership: it decides who is admin, so everything it names must be
//! there, in the same project.

use keyrelay_core::caller::{Caller, Profile, Role};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId, UserId};
use keyrelay_store::{MembershipRow, UserRow};
use serde_json::{Map, Value, json};

use super::versions::Act;
use super::write::Particulars;
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
    check_inviter(act, resource, before)?;
    let member = member(act, own_project, resource).await?;
    let policy = reference(resource, "accessPolicy", ResourceType::AccessPolicy)?;
    if let Some(policy) = policy {
        must_exist(act, ResourceType::AccessPolicy, policy, own_project, "ProjectMembership.accessPolicy")
            .await?;
    }
    let flag = |name: &str| resource.get(name).and_then(Value::as_bool);
    let row = MembershipRow {
        id,
        project: own_project,
        client: member.client,
        user: member.user,
        profile: Some(member.profile),
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

/// Refuses an invitation in another person's name: `invitedBy` must name its author, stay unchanged, or be left out.
fn check_inviter(
    act: Act<'_>,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    let Some(inviter) = resource.get("invitedBy") else { return Ok(()) };
    let Caller { login, client, .. } = act.caller;
    let author = match (login, client) {
        (Some(login), _) => Some(format!("User/{}", login.user)),
        (None, client) => client.map(|client| Profile::client(client).to_string()),
    };
    let is_author = author.as_ref().is_some_and(|author| *inviter == json!({ "reference": author }));
    if is_author || before.and_then(|before| before.get("invitedBy")) == Some(inviter) {
        return Ok(());
    }
    let author =
        author.map_or_else(String::new, |author| format!(", which is {{\"reference\": \"{author}\"}}"));
    let text = format!("invitedBy names the caller itself{author}: write that, or leave it out");
    Err(Outcome::invalid_at("ProjectMembership.invitedBy", text))
}

/// Whether two versions of a membership name one member and one profile.
pub(super) fn is_of_same_member(before: &Map<String, Value>, after: &Map<String, Value>) -> bool {
    ["user", "profile"].iter().all(|element| {
        let named = |resource: &Map<String, Value>| resource.get(*element)?.get("reference").cloned();
        named(before) == named(after)
    })
}

/// Who is the member, and in whose name.
struct Member {
    client: Option<ClientId>,
    user: Option<UserId>,
    profile: Profile,
}

/// A client application acts in its own name; a person has a User to log in with and a Practitioner
/// to act as.
async fn member(act: Act<'_>, project: ProjectId, resource: &Map<String, Value>) -> Result<Member, Outcome> {
    let named = |element: &str| {
        let text = resource.get(element).and_then(|value| value.get("reference")).and_then(Value::as_str);
        text.and_then(Profile::parse)
    };
    let forms = "A membership is of a ClientApplication (user and profile are the same), or of a User with a Practitioner as profile";
    let (Some(user), Some(profile)) = (named("user"), named("profile")) else {
        return Err(Outcome::invalid_at("ProjectMembership.user", forms));
    };
    match (user.resource_type, profile.resource_type) {
        (ResourceType::ClientApplication, _) if user == profile => {
            let expression = "ProjectMembership.profile";
            must_exist(act, ResourceType::ClientApplication, profile.id, project, expression).await?;
            Ok(Member { client: Some(profile.id.into()), user: None, profile })
        }
        (ResourceType::User, ResourceType::Practitioner) => {
            let expression = "ProjectMembership.profile";
            must_exist(act, ResourceType::Practitioner, profile.id, project, expression).await?;
            must_be_user(act, user.id.into(), project).await?;
            Ok(Member { client: None, user: Some(user.id.into()), profile })
        }
        _ => Err(Outcome::invalid_at("ProjectMembership.user", forms)),
    }
}

/// Makes sure that a user can be a member: one of the project, or, if a Super Admin says so, one that is
/// for every project.
async fn must_be_user(act: Act<'_>, user: UserId, project: ProjectId) -> Result<(), Outcome> {
    let fits = |row: &UserRow| match row.project {
        Some(own) => own == project,
        None => act.caller.role == Role::SuperAdmin,
    };
    let is_fit = match act.pending.of(ResourceType::User, user.into()) {
        Some(fate) => matches!(fate.particulars(), Some(Particulars::User(row, _)) if fits(row)),
        None => act.app.store.user(user).await?.is_some_and(|account| fits(&account.row)),
    };
    if is_fit {
        Ok(())
    } else {
        Err(Outcome::invalid_at("ProjectMembership.user", "There is no such User in the project"))
    }
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
    if will_be_there(act, resource_type, id, project).await? {
        Ok(())
    } else {
        Err(Outcome::invalid_at(expression, format!("There is no such {resource_type} in the project")))
    }
}

/// Whether a resource is there, in the project, once everything is done that is done at the same time.
pub(super) async fn will_be_there(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
) -> Result<bool, Outcome> {
    match act.pending.is_there(resource_type, id, project) {
        Some(is_there) => Ok(is_there),
        None => is_there(act.app, resource_type, id, project).await,
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
