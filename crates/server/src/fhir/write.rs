//! Creating, changing and deleting resources. Every change is decided on a version that was read and
//! becomes durable only if that is still the current one; if not, it is read and decided again.
//! What is particular to a type is in the file of that type, behind [`Particulars`].

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::validate;
use keyrelay_core::fhir::search::{SearchQuery, index_entries};
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::limits::{CONFLICT_RETRIES_MAX, INDEX_ROWS_MAX, NAME_CHARS_MAX};
use keyrelay_core::policy::Interaction;
use keyrelay_store::{
    Change, ClientRow, ClientState, Conflict, MembershipRow, ProjectRow, ResourceVersion, Search, StoreError,
    UserRow,
};
use serde_json::{Map, Value, json};

use super::access::{self, SECRETS, View, check_outcome, not_to_write, secrets_for, view, written};
use super::client_application::{self, WrittenSecrets};
use super::render::{ShownSecrets, stored_resource};
use super::request::{Content, FhirRequest, Reply};
use super::search::{find, read_query_of};
use super::versions::{Act, CLIENTS_META, deletion, first_version, next_version};
use super::{access_policy, allow, membership, patch, project, user};
use crate::App;
use crate::error::Outcome;

/// A resource as it is to be stored, and the secrets that came with it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) resource: Map<String, Value>,
    pub(super) secrets: WrittenSecrets,
}

impl Draft {
    /// Takes the secrets out of a body.
    fn take(resource_type: ResourceType, mut resource: Map<String, Value>) -> Result<Self, Outcome> {
        if resource.get("resourceType").and_then(Value::as_str) != Some(resource_type.as_str()) {
            return Err(Outcome::invalid_at(
                "resourceType",
                format!("The body must be a resource of type {resource_type}"),
            ));
        }
        let secrets = match resource_type {
            ResourceType::ClientApplication => client_application::take_secrets(&mut resource)?,
            _ => WrittenSecrets::default(),
        };
        Ok(Self { resource, secrets })
    }

    /// Checks that it can be stored.
    fn check(&self, resource_type: ResourceType) -> Result<(), Outcome> {
        check_resource(resource_type, &self.resource)
    }

    /// Refuses a secret that the caller must not see: whether it is the right one would tell. What it may
    /// see and not change is compared first; see [`decide_update`].
    fn check_secrets(&self, keeps: impl Fn(&str) -> bool) -> Result<(), Outcome> {
        let written = [self.secrets.secret.is_some(), self.secrets.retiring.is_some()];
        match SECRETS.iter().zip(written).find(|(name, written)| *written && keeps(name)) {
            Some((name, _)) => Err(not_to_write(ResourceType::ClientApplication, name)),
            None => Ok(()),
        }
    }

    /// Leaves out of a new resource what its author must not write.
    fn withhold(
        &mut self,
        act: Act<'_>,
        kind: ResourceType,
        id: ResourceId,
        project: ProjectId,
    ) -> Result<(), Outcome> {
        let withheld = access::of_new(act, kind, id, project, &self.resource)?;
        self.check_secrets(|name| withheld.keeps(name))?;
        if kind == ResourceType::ClientApplication {
            client_application::check_proofs(act.caller, project, None, &self.resource, &withheld)?;
        }
        if !act.caller.is_withheld_from(kind) {
            return Ok(());
        }
        for kept in withheld.kept() {
            kept.remove(&mut self.resource);
        }
        self.check(kind)?;
        // Without it, another rule may be the one that decides.
        access::check_new(act, kind, id, project, &self.resource)
    }
}

/// What is asked of every resource that is to be stored, whoever put it together.
pub(crate) fn check_resource(
    resource_type: ResourceType,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    refuse_foreign_credentials(resource_type, resource)?;
    validate(resource).map_err(Outcome::schema)?;
    let name = resource.get("name").and_then(Value::as_str);
    if name.is_some_and(|name| name.chars().count() > NAME_CHARS_MAX) {
        let text = format!("A name has at most {NAME_CHARS_MAX} characters");
        return Err(Outcome::invalid_at(format!("{resource_type}.name"), text));
    }
    if index_entries(resource_type, resource).len() > INDEX_ROWS_MAX {
        let text = format!("The resource has more than {INDEX_ROWS_MAX} values that can be searched for");
        return Err(Outcome::invalid(text));
    }
    Ok(())
}

/// Credentials of other systems would be kept in clear, in every version: they are not taken at all.
fn refuse_foreign_credentials(
    resource_type: ResourceType,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    let paths: &[&[&str]] = match resource_type {
        ResourceType::Project => &[
            &["secret"],
            &["systemSecret"],
            &["site", "googleClientSecret"],
            &["site", "recaptchaSecretKey"],
        ],
        ResourceType::ClientApplication => {
            &[&["identityProvider", "clientSecret"], &["identityProvider", "userInfoApiKey"]]
        }
        _ => &[],
    };
    let is_there = |path: &&&[&str]| {
        let (first, rest) = (path.first().and_then(|name| resource.get(*name)), path.get(1));
        match (first, rest) {
            (Some(Value::Array(list)), Some(name)) => list.iter().any(|item| item.get(name).is_some()),
            (Some(value), Some(name)) => value.get(name).is_some(),
            (value, None) => value.is_some(),
            (None, Some(_)) => false,
        }
    };
    match paths.iter().find(is_there) {
        Some(path) => Err(Outcome::not_supported(
            "Keyrelay keeps no credentials of other systems: leave this element out",
        )
        .at(format!("{resource_type}.{}", path.join(".")))),
        None => Ok(()),
    }
}

/// The narrow row that goes with a resource, and the project it belongs to.
pub(super) enum Particulars {
    Client(ClientRow),
    Project(ProjectRow),
    Membership(MembershipRow),
    User(UserRow, ProjectId),
    /// A resource of that project which has no row of its own.
    Plain(ProjectId),
}

impl Particulars {
    fn project(&self) -> ProjectId {
        match self {
            Self::Client(row) => row.project,
            Self::Project(row) => row.id,
            Self::Membership(row) => row.project,
            Self::User(_, project) | Self::Plain(project) => *project,
        }
    }
}

/// What `read` made of a resource of that type: checks that are not in the schema.
async fn particulars(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    draft: &Draft,
    before: Option<&Map<String, Value>>,
) -> Result<Particulars, Outcome> {
    match resource_type {
        ResourceType::ClientApplication => {
            client_application::row(act.app, act.caller, id.into(), project, &draft.resource)
                .map(Particulars::Client)
        }
        ResourceType::Project => {
            project::row(act.caller, id.into(), &draft.resource, before).map(Particulars::Project)
        }
        ResourceType::ProjectMembership => membership::row(act, id.into(), project, &draft.resource, before)
            .await
            .map(Particulars::Membership),
        ResourceType::AccessPolicy => {
            access_policy::check(&draft.resource).map(|()| Particulars::Plain(project))
        }
        ResourceType::User => {
            user::row(act, id.into(), project, &draft.resource).map(|row| Particulars::User(row, project))
        }
        ResourceType::Practitioner => Ok(Particulars::Plain(project)),
        _ => Err(Outcome::not_found()),
    }
}

pub(super) async fn create(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    request: &FhirRequest,
    content: Content,
) -> Result<Reply, Outcome> {
    let act = Act::now(app, caller, request.from);
    let extended = request.extended;
    let mut draft = Draft::take(resource_type, content.into_object().await?)?;
    if !caller.is_withheld_from(resource_type) {
        draft.check(resource_type)?;
    }
    let condition = match &request.if_none_exist {
        Some(text) => Some(condition(caller, resource_type, text)?),
        None => None,
    };
    if let Some(condition) = &condition
        && let Some(reply) = existing(act, resource_type, condition, extended).await?
    {
        return Ok(reply);
    }
    let id = ResourceId::random(app.entropy.as_ref());
    let project = project_of_new(act, resource_type, id, &draft.resource).await?;
    draft.withhold(act, resource_type, id, project)?;
    let particulars = particulars(act, resource_type, id, project, &draft, None).await?;
    let mut change = act.change();
    if let Some(query) = &condition {
        let limits = caller.search_limits(resource_type);
        change.require_none(&Search { resource_type, project: caller.reach(), query, limits: &limits });
    }
    let version = first_version(act, resource_type, id, particulars.project(), draft.resource, &mut change);
    let shown = match &particulars {
        Particulars::Client(row) => client_application::create(act, row, &draft.secrets, &mut change).await?,
        other => {
            put_row(other, &mut change);
            ShownSecrets::default()
        }
    };
    let location =
        format!("{}/{resource_type}/{id}/_history/{}", app.config.base_url.fhir(), version.version);
    let resource = stored_resource(&version)?;
    let answer = written(caller, &version, resource, &shown, extended)?.created_at(location);
    match (app.store.commit(change).await, &condition) {
        (Err(StoreError::Conflict(Conflict::Exists)), Some(condition)) => {
            // Somebody made it meanwhile: that is what is answered.
            return existing(act, resource_type, condition, extended).await?.ok_or_else(Outcome::busy);
        }
        (outcome, _) => outcome?,
    }
    Ok(answer)
}

fn put_row(particulars: &Particulars, change: &mut Change) {
    match particulars {
        Particulars::Client(row) => change.update_client(row),
        Particulars::Project(row) => {
            change.put_project(row);
            if row.secret_visibility == keyrelay_core::keyring::SecretVisibility::Once {
                change.forget_sealed_secrets(row.id);
            }
        }
        Particulars::Membership(row) => change.put_membership(row),
        Particulars::User(row, _) => change.put_user(row),
        Particulars::Plain(_) => {}
    }
}

/// The search of an `If-None-Exist` header. What it finds is shown, so it takes the right to search.
fn condition(caller: &Caller, resource_type: ResourceType, text: &str) -> Result<SearchQuery, Outcome> {
    allow(caller, Interaction::Search, resource_type)?;
    let query = read_query_of(caller, resource_type, text.trim_start_matches('?'))?;
    if query.filters.is_empty() {
        return Err(Outcome::invalid("If-None-Exist names no search parameter"));
    }
    Ok(query)
}

/// The one resource that `If-None-Exist` finds (FHIR R4 §3.1.0.8.1).
async fn existing(
    act: Act<'_>,
    resource_type: ResourceType,
    condition: &SearchQuery,
    extended: bool,
) -> Result<Option<Reply>, Outcome> {
    let page = find(act.app, act.caller, resource_type, condition, false).await?;
    match page.matches.as_slice() {
        [] => Ok(None),
        [found] if !page.more => {
            let by = Interaction::Search;
            super::read::read(act.app, act.caller, by, resource_type, found.id, extended).await.map(Some)
        }
        _ => Err(Outcome::precondition_failed("If-None-Exist finds more than one resource")),
    }
}

/// The project that a new resource belongs to. A Super Admin may choose one in `meta.project`.
async fn project_of_new(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    resource: &Map<String, Value>,
) -> Result<ProjectId, Outcome> {
    if resource_type == ResourceType::Project {
        return Ok(id.into());
    }
    let mut named = meta_project(resource)?;
    if named.is_none() && resource_type == ResourceType::ProjectMembership {
        named = Some(membership::project(resource)?);
    }
    let project = named.unwrap_or(act.caller.project);
    if !act.caller.reaches(project) {
        return Err(Outcome::forbidden("You may create resources in your own project only")
            .at(format!("{resource_type}.meta.project")));
    }
    if project != act.caller.project {
        let found = act.app.store.resource(ResourceType::Project, project.into()).await?;
        if found.is_none_or(|version| version.deleted) {
            return Err(Outcome::invalid_at(
                format!("{resource_type}.meta.project"),
                "There is no such Project",
            ));
        }
    }
    Ok(project)
}

fn meta_project(resource: &Map<String, Value>) -> Result<Option<ProjectId>, Outcome> {
    let named = resource.get("meta").and_then(|meta| meta.get("project")).and_then(Value::as_str);
    named
        .map(|text| {
            let id = text.strip_prefix("Project/").unwrap_or(text);
            ProjectId::parse(id)
                .ok_or_else(|| Outcome::invalid_at("meta.project", "This is not the id of a Project"))
        })
        .transpose()
}

/// A change to a resource that is there.
pub(super) enum Edit {
    /// The whole resource.
    Put(Draft),
    /// Its differences.
    Patch(patch::Patch),
}

impl Edit {
    pub(super) async fn put(
        caller: &Caller,
        resource_type: ResourceType,
        id: &str,
        content: Content,
    ) -> Result<Self, Outcome> {
        let resource = content.into_object().await?;
        if resource.get("id").and_then(Value::as_str) != Some(id) {
            return Err(Outcome::invalid_at(
                format!("{resource_type}.id"),
                "The id in the body must be the id in the URL",
            ));
        }
        let draft = Draft::take(resource_type, resource)?;
        // Where elements may be withheld, the body is whole only with what is stored of them.
        if !caller.is_withheld_from(resource_type) {
            draft.check(resource_type)?;
        }
        Ok(Self::Put(draft))
    }

    pub(super) async fn patch(content: Content) -> Result<Self, Outcome> {
        patch::Patch::read(&content.into_patch().await?).map(Self::Patch)
    }

    /// What the resource is after the change. What is withheld from its author stays as it is, and a patch
    /// is applied to what the author sees.
    fn apply(&self, resource_type: ResourceType, before: &View<'_>) -> Result<Draft, Outcome> {
        let mut draft = match self {
            Self::Put(draft) => Draft { resource: draft.resource.clone(), secrets: draft.secrets.copied() },
            Self::Patch(patch) => {
                let patched = patch.apply(resource_type, &before.visible())?;
                if patched.get("id") != before.resource.get("id") {
                    return Err(Outcome::invalid_at(
                        format!("{resource_type}.id"),
                        "A patch cannot change the id",
                    ));
                }
                Draft::take(resource_type, patched)?
            }
        };
        draft.check_secrets(|name| before.withheld.hides(name))?;
        let mut restored = false;
        for kept in before.withheld.kept() {
            kept.restore(&mut draft.resource, &before.resource);
            restored = true;
        }
        if restored || matches!(self, Self::Patch(_)) {
            draft.check(resource_type)?;
        }
        Ok(draft)
    }
}

pub(super) async fn update(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    edit: &Edit,
    request: &FhirRequest,
) -> Result<Reply, Outcome> {
    for _ in 0..CONFLICT_RETRIES_MAX {
        let act = Act::now(app, caller, request.from);
        let (current, client) = load(act, resource_type, id).await?;
        let before = view(caller, Interaction::Update, &current)?;
        if current.deleted {
            return Err(Outcome::gone());
        }
        request.check_if_match(current.version)?;
        let draft = edit.apply(resource_type, &before)?;
        match decide_update(act, &current, client, &before, draft, request.extended).await? {
            Decision::Nothing(reply) => return Ok(reply),
            Decision::Commit(change, reply) => {
                if committed(app, change).await? {
                    return Ok(reply);
                }
            }
        }
    }
    Err(Outcome::busy())
}

enum Decision {
    /// It is so already.
    Nothing(Reply),
    Commit(Change, Reply),
}

async fn load(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
) -> Result<(ResourceVersion, Option<ClientState>), Outcome> {
    if resource_type == ResourceType::ClientApplication {
        let state = act.app.store.client(id.into()).await?.ok_or_else(Outcome::not_found)?;
        return Ok((state.resource.clone(), Some(state)));
    }
    let found = act.app.store.resource(resource_type, id).await?;
    Ok((found.ok_or_else(Outcome::not_found)?, None))
}

async fn decide_update(
    act: Act<'_>,
    current: &ResourceVersion,
    client: Option<ClientState>,
    before: &View<'_>,
    draft: Draft,
    extended: bool,
) -> Result<Decision, Outcome> {
    let (app, resource_type, id) = (act.app, current.resource_type, current.id);
    let project = current.project.ok_or_else(Outcome::not_found)?;
    let particulars = particulars(act, resource_type, id, project, &draft, Some(&before.resource)).await?;
    let moved = match &client {
        Some(state) => {
            let (was, is) = (Some(&before.resource), &draft.resource);
            client_application::check_proofs(act.caller, project, was, is, &before.withheld)?;
            client_application::replace(act, state, &draft.secrets).await?
        }
        None => None,
    };
    if moved.is_some() {
        draft.check_secrets(|name| before.withheld.keeps(name))?;
    }
    let shown = |state: &Option<ClientState>, resource: &Map<String, Value>| match state {
        Some(state) => secrets_for(app, act.caller, state, resource),
        None => Ok(ShownSecrets::default()),
    };
    if moved.is_none() && same_apart_from_meta(&before.resource, &draft.resource) {
        let shown = shown(&client, &before.resource)?;
        let reply = written(act.caller, current, before.resource.clone(), &shown, extended)?;
        return Ok(Decision::Nothing(reply));
    }
    let (next, resource) = next_version(act, current, draft.resource);
    check_outcome(act.caller, &next, &resource)?;
    let mut change = act.change();
    if let Particulars::Client(row) = &particulars {
        client_application::bound_by_admin(act, row, &before.resource, &resource, &mut change);
    }
    change.update(next.clone(), current.version, Some(&index_entries(resource_type, &resource)));
    put_row(&particulars, &mut change);
    let client = client.map(|mut state| {
        state.resource = next.clone();
        if let Some(moved) = moved {
            client_application::move_secrets(act, &moved, &state, &mut change);
            state.slots = moved.slots;
        }
        state
    });
    let shown = shown(&client, &resource)?;
    Ok(Decision::Commit(change, written(act.caller, &next, resource, &shown, extended)?))
}

/// Whether the caller is logged in through that resource.
fn is_own(caller: &Caller, id: ResourceId) -> bool {
    let through = [caller.membership.into(), caller.project.into(), caller.profile.id];
    through.contains(&id)
        || caller.client.is_some_and(|client| id == client.into())
        || caller.login.is_some_and(|login| id == login.user.into())
}

pub(super) async fn delete(
    app: &App,
    caller: &Caller,
    resource_type: ResourceType,
    id: ResourceId,
    request: &FhirRequest,
) -> Result<Reply, Outcome> {
    for _ in 0..CONFLICT_RETRIES_MAX {
        let act = Act::now(app, caller, request.from);
        let (current, _) = load(act, resource_type, id).await?;
        view(caller, Interaction::Delete, &current)?;
        if current.deleted {
            return Ok(deleted());
        }
        request.check_if_match(current.version)?;
        if is_own(caller, id) {
            return Err(Outcome::conflict(
                "You are logged in through this resource: delete it as somebody else",
            ));
        }
        let mut change = act.change();
        match resource_type {
            ResourceType::ClientApplication => change.delete_client(id.into()),
            ResourceType::Project => change.delete_project(id.into()),
            ResourceType::ProjectMembership => change.delete_membership(id.into()),
            ResourceType::User => change.delete_user(id.into()),
            _ => {}
        }
        change.update(deletion(act, &current), current.version, Some(&[]));
        if committed(app, change).await? {
            return Ok(deleted());
        }
    }
    Err(Outcome::busy())
}

fn deleted() -> Reply {
    Reply::ok(super::render::Rendered::value(&json!({
        "resourceType": "OperationOutcome",
        "id": "ok",
        "issue": [{ "severity": "information", "code": "informational", "details": { "text": "Deleted" } }]
    })))
}

/// Commits a change. False if somebody else was faster, so that it must be decided again.
pub(crate) async fn committed(app: &App, change: Change) -> Result<bool, Outcome> {
    match app.store.commit(change).await {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict(Conflict::Version)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether two versions say the same, apart from what the server writes at the head.
pub(crate) fn same_apart_from_meta(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let clients_meta = |resource: &Map<String, Value>, name: &str| {
        resource.get("meta").and_then(|meta| meta.get(name)).cloned()
    };
    let rest = |resource: &Map<String, Value>| {
        let mut rest = resource.clone();
        rest.shift_remove("meta");
        rest
    };
    rest(a) == rest(b) && CLIENTS_META.iter().all(|name| clients_meta(a, name) == clients_meta(b, name))
}
