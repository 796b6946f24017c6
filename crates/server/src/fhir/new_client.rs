//! A client application with its membership, made in one change: what an admin does by
//! `POST /admin/projects/{id}/client`, and what a client does that registers itself.

use keyrelay_core::caller::{Caller, Profile};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::SecretSlots;
use keyrelay_store::{Change, MembershipRow, ResourceVersion};
use serde_json::{Map, Value, json};

use super::access::{check_new, not_to_write, of_new};
use super::client_application::{fresh_secret, record_creation, row, visibility};
use super::render::{Rendered, ShownSecrets, render, stored_resource};
use super::versions::{Act, first_version};
use super::write::check_resource;
use crate::App;
use crate::error::Outcome;

/// A client application that is about to be made.
pub(crate) struct NewClient {
    /// Its id.
    pub(crate) id: ClientId,
    /// The project it belongs to.
    pub(crate) project: ProjectId,
    /// The resource, without `id` and `meta`.
    pub(crate) resource: Map<String, Value>,
    /// The policy of its membership.
    pub(crate) policy: Option<ResourceId>,
    /// Whether it is to have a secret.
    pub(crate) with_secret: bool,
}

impl NewClient {
    /// Adds the client, its secret and its membership to a change.
    pub(crate) async fn add(
        self,
        act: Act<'_>,
        change: &mut Change,
    ) -> Result<(ResourceVersion, Option<PlainSecret>), Outcome> {
        let Self { id, project, resource, policy, with_secret } = self;
        check_resource(ResourceType::ClientApplication, &resource, None)?;
        let row = row(act.app, act.caller, id, project, &resource, None)?;
        let is_itself = act.caller.client == Some(id);
        if !is_itself {
            check_author(act, id, project, &resource)?;
        }
        let (secret, slots) = if with_secret {
            let (secret, slot) = fresh_secret(act, id, visibility(act, project).await?);
            record_creation(act, id, project, &slot, change);
            (Some(secret), SecretSlots::with_active(slot))
        } else {
            (None, SecretSlots::empty())
        };
        let version =
            first_version(act, ResourceType::ClientApplication, id.into(), project, resource, change)?;
        change.create_client(&row, &slots);
        let (membership, body) = membership(act, id, project, row.name.as_deref(), policy);
        if !is_itself {
            check_new(act, ResourceType::ProjectMembership, membership.id.into(), project, &body)?;
        }
        first_version(act, ResourceType::ProjectMembership, membership.id.into(), project, body, change)?;
        change.put_membership(&membership);
        Ok((version, secret))
    }
}

/// Whether somebody may make a client like that, and be shown its secret. A client that makes itself is
/// bound by what it was given to register with.
fn check_author(
    act: Act<'_>,
    id: ClientId,
    project: ProjectId,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    let kind = ResourceType::ClientApplication;
    check_new(act, kind, id.into(), project, resource)?;
    if of_new(act, kind, id.into(), project, resource)?.keeps("secret") {
        return Err(not_to_write(kind, "secret"));
    }
    Ok(())
}

fn membership(
    act: Act<'_>,
    client: ClientId,
    project: ProjectId,
    name: Option<&str>,
    policy: Option<ResourceId>,
) -> (MembershipRow, Map<String, Value>) {
    let mut member = Map::new();
    member.insert("reference".to_owned(), json!(format!("ClientApplication/{client}")));
    if let Some(name) = name {
        member.insert("display".to_owned(), json!(name));
    }
    let mut body = Map::new();
    body.insert("resourceType".to_owned(), json!("ProjectMembership"));
    body.insert("project".to_owned(), json!({ "reference": format!("Project/{project}") }));
    body.insert("user".to_owned(), Value::Object(member.clone()));
    body.insert("profile".to_owned(), Value::Object(member));
    if let Some(policy) = policy {
        body.insert("accessPolicy".to_owned(), json!({ "reference": format!("AccessPolicy/{policy}") }));
    }
    let row = MembershipRow {
        id: MembershipId::random(act.app.entropy.as_ref()),
        project,
        client: Some(client),
        user: None,
        profile: Some(Profile::client(client)),
        active: true,
        admin: false,
        policy,
    };
    (row, body)
}

/// Makes a client with a fresh secret, and its membership, for an admin.
pub(crate) async fn create_with_secret(
    app: &App,
    caller: &Caller,
    project: ProjectId,
    resource: Map<String, Value>,
    policy: Option<ResourceId>,
    from: std::net::IpAddr,
    extended: bool,
) -> Result<Rendered, Outcome> {
    let act = Act::now(app, caller, from);
    let id = ClientId::random(app.entropy.as_ref());
    let new = NewClient { id, project, resource, policy, with_secret: true };
    let mut change = act.change();
    let (version, secret) = new.add(act, &mut change).await?;
    let shown = ShownSecrets { secret, retiring: None };
    let body = render(stored_resource(&version)?, &shown, extended)?;
    app.store.commit(change).await?;
    Ok(body)
}
