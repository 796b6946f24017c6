//! `POST /admin/projects/{id}/invite`: makes a person a member of a project. No mail is sent: the admin
//! who invites is given a link, and hands it on. Whoever has the link sets the password, once. Who is invited
//! again stays the member that it is, and gets another link: while there is no password, or on `upsert`.

use std::net::IpAddr;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{Method, StatusCode};
use keyrelay_core::caller::Profile;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::validate;
use keyrelay_core::id::{MembershipId, ProjectId, ResourceId, UserId};
use keyrelay_core::limits::SET_PASSWORD_LIFETIME;
use keyrelay_core::password::PlainPassword;
use keyrelay_core::policy::Interaction;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use keyrelay_store::{Change, MembershipRow, UserRow};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::answer::check_members;
use super::member::Wishes;
use crate::App;
use crate::auth;
use crate::error::Outcome;
use crate::fhir::{
    Act, Content, Rendered, check_change, check_names, check_new, email, first_version, is_there, seen,
    stored_resource,
};
use crate::headers::{FHIR_JSON, NO_STORE};
use crate::limiter::Attempt;
use crate::login::hash;

/// The members of the body.
const MEMBERS: [&str; 12] = [
    "resourceType",
    "firstName",
    "lastName",
    "email",
    "externalId",
    "password",
    "sendEmail",
    "membership",
    "admin",
    "accessPolicy",
    "scope",
    "upsert",
];
/// What is made by it.
const MADE: [ResourceType; 3] =
    [ResourceType::User, ResourceType::Practitioner, ResourceType::ProjectMembership];

pub(crate) async fn invite(
    State(app): State<App>,
    Attempt(from): Attempt,
    project: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let project = project.map(|Path(project)| project).unwrap_or_default();
    match answer(&app, from, &project, request).await {
        Ok(body) => {
            let headers = [(CONTENT_TYPE, FHIR_JSON), (CACHE_CONTROL, NO_STORE)];
            (StatusCode::OK, headers, body.into_string()).into_response()
        }
        Err(outcome) => outcome.into_response(),
    }
}

/// Who is invited, and as what.
struct Invitation {
    first_name: String,
    last_name: String,
    email: String,
    external_id: Option<String>,
    password: Option<PlainPassword>,
    /// The requested membership.
    member: Wishes,
    /// Whether a person who has a password may set another one.
    upsert: bool,
}

async fn answer(app: &App, from: IpAddr, project: &str, request: Request) -> Result<Rendered, Outcome> {
    if request.method() != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let caller = auth::caller(app, &parts.headers, from).await?;
    if !caller.is_admin() || !MADE.iter().all(|kind| caller.may(Interaction::Create, *kind)) {
        return Err(Outcome::forbidden("Only an admin of the project may invite people to it"));
    }
    let body = Content::Http { headers: parts.headers, body }.into_object().await?;
    let project =
        ProjectId::parse(project).filter(|id| caller.reaches(*id)).ok_or_else(Outcome::not_found)?;
    if !is_there(app, ResourceType::Project, project.into(), project).await? {
        return Err(Outcome::not_found());
    }
    let invitation = read(project, body)?;
    if let Some(policy) = invitation.member.policy
        && !is_there(app, ResourceType::AccessPolicy, policy, project).await?
    {
        return Err(Outcome::invalid_at("accessPolicy", "There is no such AccessPolicy in the project"));
    }
    make(Act::now(app, &caller, from), project, invitation).await
}

fn read(project: ProjectId, mut body: Map<String, Value>) -> Result<Invitation, Outcome> {
    check_members(&body, &MEMBERS)?;
    let password = match body.remove("password") {
        Some(Value::String(text)) => Some(
            PlainPassword::presented(Zeroizing::new(text))
                .ok_or_else(|| Outcome::invalid_at("password", "password is too long"))?,
        ),
        None => None,
        Some(_) => return Err(Outcome::invalid_at("password", "password must be a string")),
    };
    let text = |name: &'static str| match body.get(name) {
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        None => Ok(None),
        Some(_) => Err(Outcome::invalid_at(name, format!("{name} must be a string"))),
    };
    let needed = |name: &'static str| {
        text(name)?.ok_or_else(|| Outcome::invalid_at(name, format!("{name} is missing")))
    };
    if needed("resourceType")? != ResourceType::Practitioner.as_str() {
        return Err(Outcome::not_supported("People are invited as Practitioner").at("resourceType"));
    }
    match text("scope")?.as_deref() {
        None | Some("project") => {}
        Some(_) => {
            return Err(Outcome::not_supported(
                "An invited account is for its project only: scope must be project, or left out",
            )
            .at("scope"));
        }
    }
    let upsert = match body.get("upsert") {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(_) => return Err(Outcome::invalid_at("upsert", "upsert must be true or false")),
    };
    match body.get("sendEmail") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => {
            let text =
                "This server sends no mail: leave sendEmail out, and give the person the link in the answer";
            return Err(Outcome::not_supported(text).at("sendEmail"));
        }
        Some(_) => return Err(Outcome::invalid_at("sendEmail", "sendEmail must be true or false")),
    }
    let email = email(&needed("email")?, "email")?;
    if let Some(password) = &password {
        let problem = password.check(&email);
        problem.map_err(|problem| Outcome::invalid_at("password", format!("The password {problem}")))?;
    }
    Ok(Invitation {
        first_name: needed("firstName")?,
        last_name: needed("lastName")?,
        email,
        external_id: text("externalId")?,
        password,
        member: Wishes::read(project, &body)?,
        upsert,
    })
}

async fn make(act: Act<'_>, project: ProjectId, invitation: Invitation) -> Result<Rendered, Outcome> {
    let app = act.app;
    let name = format!("{} {}", invitation.first_name, invitation.last_name);
    let known = app.store.user_by_email(&invitation.email, project).await?;
    let mut change = act.change();
    let user = match &known {
        Some(account) => {
            // The invitation may give out a link that sets the password.
            let found = app.store.resource(ResourceType::User, account.row.id.into()).await?;
            check_change(act.caller, found.as_ref())?;
            same_person(&stored_resource(&found.ok_or_else(Outcome::not_found)?)?, &invitation)?;
            account.row.id
        }
        None => make_user(act, project, &invitation, &name, &mut change)?,
    };
    let has_password = known.as_ref().is_some_and(|account| account.password_hash.is_some());
    let may_set_password = !has_password || invitation.upsert;
    let membership = match app.store.membership_of(user, project).await? {
        Some(_) if !may_set_password => {
            return Err(Outcome::conflict(
                "The person is a member already, and has a password: with upsert = true, there is a link that sets another one",
            ));
        }
        Some(membership) => same_member(act, membership, &invitation).await?,
        None => make_member(act, project, user, &name, &invitation, &mut change)?,
    };
    let link = match invitation.password {
        Some(_) if has_password => {
            return Err(Outcome::conflict(
                "There is an account of this email, and it has a password: leave password out",
            ));
        }
        Some(password) => {
            change.set_password(user, hash(app, password).await?, None);
            None
        }
        None if may_set_password => {
            let link = known.as_ref().map_or(0, |account| account.password_link).saturating_add(1);
            change.open_password_link(user, link, act.now.plus(SET_PASSWORD_LIFETIME));
            Some(app.keyring.issue_ticket(TicketKind::SetPassword, user.uuid(), link))
        }
        None => None,
    };
    let answer = Rendered::serialize(&WithLink { app, membership: &membership, link: link.as_ref() })?;
    app.store.commit(change).await?;
    tracing::info!(%user, %project, by = %act.caller.profile, "a person was invited");
    Ok(answer)
}

/// The membership of a person who has one in the project. An invitation does not change it, so it must not say
/// that it is another.
async fn same_member(
    act: Act<'_>,
    membership: MembershipId,
    invitation: &Invitation,
) -> Result<Map<String, Value>, Outcome> {
    let found = act.app.store.resource(ResourceType::ProjectMembership, membership.into()).await?;
    let resource = seen(act.caller, &found.ok_or_else(Outcome::not_found)?)?;
    match invitation.member.differs_from(&resource) {
        None => Ok(resource),
        Some(name) => Err(Outcome::conflict(format!(
            "The person is a member already, with another {name}: change the ProjectMembership, or leave {name} out"
        ))
        .at(format!("membership.{name}"))),
    }
}

/// An invitation does not change an existing account, so its members must not differ from that account.
fn same_person(user: &Map<String, Value>, invitation: &Invitation) -> Result<(), Outcome> {
    let is = |name: &str, wants: &str| user.get(name).and_then(Value::as_str) == Some(wants);
    let Invitation { first_name, last_name, external_id, .. } = invitation;
    let differs = [
        ("firstName", Some(first_name)),
        ("lastName", Some(last_name)),
        ("externalId", external_id.as_ref()),
    ]
    .into_iter()
    .find(|(name, wants)| wants.is_some_and(|wants| !is(name, wants)));
    match differs {
        None => Ok(()),
        Some((name, _)) => Err(Outcome::conflict(format!(
            "The person of this email has an account with another {name}: change the User, or send what it has"
        ))
        .at(name)),
    }
}

/// A new membership, and the Practitioner in whose name the person acts.
fn make_member(
    act: Act<'_>,
    project: ProjectId,
    user: UserId,
    name: &str,
    invitation: &Invitation,
    change: &mut Change,
) -> Result<Map<String, Value>, Outcome> {
    let practitioner = ResourceId::random(act.app.entropy.as_ref());
    let resource = json!({
        "resourceType": "Practitioner",
        "name": [{ "given": [invitation.first_name], "family": invitation.last_name }],
        "telecom": [{ "system": "email", "use": "work", "value": invitation.email }],
    });
    let resource = checked(resource)?;
    check_new(act, ResourceType::Practitioner, practitioner, project, &resource)?;
    first_version(act, ResourceType::Practitioner, practitioner, project, resource, change)?;
    let profile = Profile { resource_type: ResourceType::Practitioner, id: practitioner };

    let membership = MembershipId::random(act.app.entropy.as_ref());
    let Wishes { admin, active, policy, .. } = invitation.member;
    let mut resource = json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": format!("Project/{project}") },
        "user": { "reference": format!("User/{user}"), "display": name },
        "profile": { "reference": profile.to_string(), "display": name },
        "userName": invitation.email,
        "admin": admin.unwrap_or(false),
    });
    if let Some(map) = resource.as_object_mut() {
        invitation.member.put_into(map);
    }
    let resource = checked(resource)?;
    let kind = ResourceType::ProjectMembership;
    check_new(act, kind, membership.into(), project, &resource)?;
    let version = first_version(act, kind, membership.into(), project, resource, change)?;
    change.put_membership(&MembershipRow {
        id: membership,
        project,
        client: None,
        user: Some(user),
        profile: Some(profile),
        active: active.unwrap_or(true),
        admin: admin.unwrap_or(false),
        policy,
    });
    stored_resource(&version)
}

fn make_user(
    act: Act<'_>,
    project: ProjectId,
    invitation: &Invitation,
    name: &str,
    change: &mut Change,
) -> Result<UserId, Outcome> {
    let user = UserId::random(act.app.entropy.as_ref());
    let mut resource = json!({
        "resourceType": "User",
        "firstName": invitation.first_name,
        "lastName": invitation.last_name,
        "email": invitation.email,
        "project": { "reference": format!("Project/{project}") },
    });
    if let (Some(map), Some(external)) = (resource.as_object_mut(), &invitation.external_id) {
        map.insert("externalId".to_owned(), json!(external));
    }
    let resource = checked(resource)?;
    check_new(act, ResourceType::User, user.into(), project, &resource)?;
    first_version(act, ResourceType::User, user.into(), project, resource, change)?;
    change.put_user(&UserRow {
        id: user,
        project: Some(project),
        email: invitation.email.clone(),
        name: Some(name.to_owned()),
        active: true,
    });
    Ok(user)
}

/// A resource that was put together here of what somebody sent.
fn checked(resource: Value) -> Result<Map<String, Value>, Outcome> {
    let Value::Object(map) = resource else { return Err(Outcome::internal()) };
    validate(&map).map_err(Outcome::schema)?;
    check_names(&map, None)?;
    Ok(map)
}

/// The membership, with the link beside it: in the answer only, never in what is stored.
struct WithLink<'a> {
    app: &'a App,
    membership: &'a Map<String, Value>,
    link: Option<&'a PlainSecret>,
}

impl Serialize for WithLink<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.membership {
            map.serialize_entry(name, value)?;
        }
        if let Some(link) = self.link {
            let base = &self.app.config.base_url;
            let path = Zeroizing::new(format!("auth/setpassword/{}", link.reveal()));
            map.serialize_entry(
                "extension",
                &[json!({
                    "url": base.join("fhir/StructureDefinition/set-password-link"),
                    "valueUrl": base.join(&path),
                })],
            )?;
        }
        map.end()
    }
}
