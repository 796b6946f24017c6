//! Versions of resources: what the server writes at the head of one, and who it says did it.

use std::net::IpAddr;

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::fhir::weight::Weight;
use keyrelay_core::id::{ProjectId, ResourceId, VersionId};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, ResourceVersion};
use serde_json::{Map, Value, json};

use super::pending::{self, Pending};
use super::render::stored_resource;
use crate::App;
use crate::error::Outcome;

/// The parts of `meta` that are a client's to say.
pub(super) const CLIENTS_META: [&str; 4] = ["profile", "security", "tag", "source"];

/// Who does something, when, and from where.
#[derive(Clone, Copy)]
pub(crate) struct Act<'a> {
    pub(crate) app: &'a App,
    pub(crate) caller: &'a Caller,
    pub(crate) now: Timestamp,
    pub(crate) from: IpAddr,
    /// What is done at the same time, as far as it is decided.
    pub(super) pending: &'a Pending,
    /// Whether this only finds out if it could be done: nobody is shown the answer.
    pub(crate) is_rehearsal: bool,
}

impl<'a> Act<'a> {
    pub(crate) fn now(app: &'a App, caller: &'a Caller, from: IpAddr) -> Self {
        Self { app, caller, now: app.now(), from, pending: &pending::NOTHING, is_rehearsal: false }
    }

    /// The same, as a part of a transaction of which so much is decided.
    pub(super) const fn after(self, pending: &'a Pending) -> Self {
        Self { pending, ..self }
    }

    /// An empty change of this author, which nobody makes who may not any more.
    pub(crate) fn change(&self) -> Change {
        let mut change = Change::new();
        change.require(self.caller, &self.app.config.secrets, self.now);
        change
    }
}

/// Adds the first version of a resource that a caller creates to a change.
pub(crate) fn first_version(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    resource: Map<String, Value>,
    change: &mut Change,
) -> Result<ResourceVersion, Outcome> {
    check_weight(act, &resource, None)?;
    Ok(first_version_as_is(act, resource_type, id, project, resource, change))
}

/// Adds the first version of a resource that the server itself creates to a change.
pub(crate) fn first_version_as_is(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    resource: Map<String, Value>,
    change: &mut Change,
) -> ResourceVersion {
    let version = VersionId::random(act.app.entropy.as_ref());
    let resource = stamp(act, resource, id, version, Some(project));
    let index = index_entries(resource_type, &resource);
    let version = ResourceVersion {
        resource_type,
        id,
        project: Some(project),
        version,
        revision: 1,
        last_updated: act.now,
        deleted: false,
        content: Value::Object(resource).to_string(),
    };
    change.create(version.clone(), &index);
    version
}

/// The version of a resource that follows `current`, and the resource as it will be.
pub(crate) fn next_version(
    act: Act<'_>,
    current: &ResourceVersion,
    resource: Map<String, Value>,
) -> Result<(ResourceVersion, Map<String, Value>), Outcome> {
    check_weight(act, &resource, Some(current))?;
    Ok(next_version_as_is(act, current, resource))
}

/// The same for an unchanged resource: no bound on documents prevents a move of secrets.
pub(crate) fn next_version_as_is(
    act: Act<'_>,
    current: &ResourceVersion,
    resource: Map<String, Value>,
) -> (ResourceVersion, Map<String, Value>) {
    let version = VersionId::random(act.app.entropy.as_ref());
    let resource = stamp(act, resource, current.id, version, current.project);
    let next = ResourceVersion {
        version,
        revision: current.revision + 1,
        last_updated: act.now,
        content: Value::Object(resource.clone()).to_string(),
        ..current.clone()
    };
    (next, resource)
}

/// The version that says that a resource is gone.
pub(crate) fn deletion(act: Act<'_>, current: &ResourceVersion) -> ResourceVersion {
    ResourceVersion {
        version: VersionId::random(act.app.entropy.as_ref()),
        revision: current.revision + 1,
        last_updated: act.now,
        deleted: true,
        content: String::new(),
        ..current.clone()
    }
}

/// Refuses a resource that is too heavy, whatever built it. One that was too heavy before may become lighter.
fn check_weight(
    act: Act<'_>,
    resource: &Map<String, Value>,
    current: Option<&ResourceVersion>,
) -> Result<(), Outcome> {
    let most = Weight { bytes: act.app.config.resource_bytes_max, ..Weight::DOCUMENT };
    let weight = weight_of(resource);
    let Err(bound) = weight.check(most) else { return Ok(()) };
    let before = current.map(stored_resource).transpose()?.map(|before| weight_of(&before));
    if before.is_some_and(|before| weight.check(most.or(before)).is_ok()) {
        return Ok(());
    }
    Err(Outcome::invalid(format!("The resource would be {bound}; nothing was changed")))
}

/// The weight of the elements that a client chooses.
fn weight_of(resource: &Map<String, Value>) -> Weight {
    let meta = resource.get("meta").and_then(Value::as_object).into_iter().flatten();
    let meta = meta.filter(|(name, _)| CLIENTS_META.contains(&name.as_str()));
    let members = resource.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "meta"));
    members.chain(meta).enumerate().fold(Weight::of_object(&Map::new()), |weight, (n, (name, value))| {
        weight.plus(Weight::of(value).inside(1)).plus(Weight::place(Some(name), n))
    })
}

/// Puts `resourceType`, `id` and `meta` at the head of a resource. Of the client's `meta`, what is
/// the client's to say stays: tags, profiles, security labels.
fn stamp(
    act: Act<'_>,
    resource: Map<String, Value>,
    id: ResourceId,
    version: VersionId,
    project: Option<ProjectId>,
) -> Map<String, Value> {
    let mut meta = Map::new();
    meta.insert("versionId".to_owned(), json!(version.to_string()));
    meta.insert("lastUpdated".to_owned(), json!(act.now.to_instant()));
    if let Some(given) = resource.get("meta").and_then(Value::as_object) {
        for name in CLIENTS_META {
            if let Some(value) = given.get(name) {
                meta.insert(name.to_owned(), value.clone());
            }
        }
    }
    if let Some(project) = project {
        meta.insert("project".to_owned(), json!(project.to_string()));
        meta.insert("compartment".to_owned(), json!([{ "reference": format!("Project/{project}") }]));
    }
    let mut author = act.caller.author().reference();
    if let Some(name) = &act.caller.name {
        author["display"] = json!(name);
    }
    meta.insert("author".to_owned(), author);

    let mut stamped = Map::new();
    if let Some(resource_type) = resource.get("resourceType") {
        stamped.insert("resourceType".to_owned(), resource_type.clone());
    }
    stamped.insert("id".to_owned(), json!(id.to_string()));
    stamped.insert("meta".to_owned(), Value::Object(meta));
    stamped.extend(
        resource.into_iter().filter(|(name, _)| !matches!(name.as_str(), "resourceType" | "id" | "meta")),
    );
    stamped
}
