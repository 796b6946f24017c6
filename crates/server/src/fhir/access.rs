//! What a caller's policy and scope make of one resource: whether it is there for the caller, and which
//! of its elements. Everything that shows or changes a resource comes through here.

use keyrelay_core::caller::{Caller, Verdict, Withheld};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::policy::{Interaction, Subject};
use keyrelay_store::{ClientState, ResourceVersion};
use serde_json::{Map, Value};

use super::render::{Rendered, ShownSecrets, render, stored_resource};
use super::request::Reply;
use super::versions::Act;
use crate::App;
use crate::error::Outcome;

/// The two elements that are kept apart from the resource.
pub(super) const SECRETS: [&str; 2] = ["secret", "retiringSecret"];

/// One version of a resource, for a caller that may do something with it.
pub(super) struct View<'c> {
    /// All of it; nothing where it is deleted.
    pub(super) resource: Map<String, Value>,
    pub(super) withheld: Withheld<'c>,
}

impl View<'_> {
    /// What the caller sees of it.
    pub(super) fn visible(&self) -> Map<String, Value> {
        let mut visible = self.resource.clone();
        for hidden in self.withheld.hidden() {
            hidden.remove(&mut visible);
        }
        visible
    }
}

/// A version as the rules look at it.
pub(super) fn subject<'a>(version: &ResourceVersion, resource: &'a Map<String, Value>) -> Subject<'a> {
    let content = (!version.deleted).then_some(resource);
    Subject::new(version.resource_type, version.id, version.project, version.last_updated, content)
}

/// Lets a caller do something with a version, or says the 404 that says nothing, or the 403 to somebody
/// who sees the resource.
pub(super) fn view<'c>(
    caller: &'c Caller,
    interaction: Interaction,
    version: &ResourceVersion,
) -> Result<View<'c>, Outcome> {
    if !version.project.is_some_and(|project| caller.reaches(project)) {
        return Err(Outcome::not_found());
    }
    let resource = if version.deleted { Map::new() } else { stored_resource(version)? };
    match caller.judge(interaction, &subject(version, &resource)) {
        Verdict::Allowed(withheld) => Ok(View { resource, withheld }),
        Verdict::Forbidden => Err(Outcome::forbidden(format!(
            "You may not {} this {}",
            interaction.as_str(),
            version.resource_type
        ))),
        Verdict::NotThere => Err(Outcome::not_found()),
    }
}

/// The same of what may not be there at all.
pub(super) fn view_found<'c>(
    caller: &'c Caller,
    interaction: Interaction,
    version: Option<&ResourceVersion>,
) -> Result<View<'c>, Outcome> {
    view(caller, interaction, version.ok_or_else(Outcome::not_found)?)
}

/// Whether a caller may change a resource, for routes beside the FHIR ones.
pub(crate) fn check_change(caller: &Caller, version: Option<&ResourceVersion>) -> Result<(), Outcome> {
    let refused = |_| Outcome::forbidden("You may not do this: what you may do is limited to others");
    view_found(caller, Interaction::Update, version).map(drop).map_err(refused)
}

/// What a caller sees of a resource, for routes beside the FHIR ones.
pub(crate) fn seen(caller: &Caller, version: &ResourceVersion) -> Result<Map<String, Value>, Outcome> {
    view(caller, Interaction::Read, version).map(|view| view.visible())
}

/// Whether a caller may leave a resource like that behind.
pub(super) fn check_outcome(
    caller: &Caller,
    version: &ResourceVersion,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    match caller.judge(Interaction::Update, &subject(version, resource)) {
        Verdict::Allowed(_) => Ok(()),
        Verdict::Forbidden | Verdict::NotThere => Err(Outcome::forbidden(format!(
            "The {} would be one that you may not update: what you may do is limited to some of them",
            version.resource_type
        ))),
    }
}

/// What is withheld from a caller of a resource that it wants to make.
pub(super) fn of_new<'c>(
    act: Act<'c>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    resource: &Map<String, Value>,
) -> Result<Withheld<'c>, Outcome> {
    let subject = Subject::new(resource_type, id, Some(project), act.now, Some(resource));
    match act.caller.judge(Interaction::Create, &subject) {
        Verdict::Allowed(withheld) => Ok(withheld),
        Verdict::Forbidden | Verdict::NotThere => Err(Outcome::forbidden(format!(
            "You may not create a {resource_type} like this: what you may do is limited to some of them"
        ))),
    }
}

/// Whether a caller may make a resource just so. For what is made beside the FHIR routes, where nothing is
/// left out in silence.
pub(crate) fn check_new(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    resource: &Map<String, Value>,
) -> Result<(), Outcome> {
    let withheld = of_new(act, resource_type, id, project, resource)?;
    match withheld.kept().find(|kept| kept.is_in(resource)) {
        Some(kept) => Err(not_to_write(resource_type, kept.as_str())),
        None => Ok(()),
    }
}

/// What a caller is told of a resource that says who it is, wherever it asks: all that its policy does not
/// hide. Of one that no rule lets it read, that is `always`.
pub(crate) fn own(
    caller: &Caller,
    version: &ResourceVersion,
    always: &[&str],
) -> Result<Map<String, Value>, Outcome> {
    let mut resource = stored_resource(version)?;
    let Some(policy) = &caller.policy else { return Ok(resource) };
    match policy.rule(Interaction::Read, &subject(version, &resource)) {
        Some(rule) => rule.hidden.iter().for_each(|hidden| hidden.remove(&mut resource)),
        None => resource.retain(|name, _| always.contains(&name.as_str())),
    }
    Ok(resource)
}

/// The 403 of an element that a caller must not write.
pub(super) fn not_to_write(resource_type: ResourceType, element: &str) -> Outcome {
    Outcome::forbidden("Your access policy does not let you write this element")
        .at(format!("{resource_type}.{element}"))
}

/// The secrets that a caller sees of a client: an admin's, unless its policy or its token narrows it to
/// less than changing that client. Whoever sees a secret can become that client.
pub(super) fn secrets_for(
    app: &App,
    caller: &Caller,
    state: &ClientState,
    resource: &Map<String, Value>,
) -> Result<ShownSecrets, Outcome> {
    let Verdict::Allowed(withheld) = caller.judge(Interaction::Update, &subject(&state.resource, resource))
    else {
        return Ok(ShownSecrets::default());
    };
    // What cannot be recorded is not shown.
    if app.store.refuses_changes()
        || state.resource.project.and_then(|project| caller.admin_of(project)).is_none()
    {
        return Ok(ShownSecrets::default());
    }
    let mut shown = ShownSecrets::of(app, state, app.now())?;
    let [secret, retiring] = SECRETS.map(|name| withheld.hides(name));
    if secret {
        shown.secret = None;
    }
    if retiring {
        shown.retiring = None;
    }
    Ok(shown)
}

/// The answer to a write: what its author may read of the outcome, which may be no more than its name.
pub(super) fn written(
    caller: &Caller,
    version: &ResourceVersion,
    mut resource: Map<String, Value>,
    shown: &ShownSecrets,
    extended: bool,
) -> Result<Reply, Outcome> {
    let body = match caller.judge(Interaction::Read, &subject(version, &resource)) {
        Verdict::Allowed(withheld) => {
            for hidden in withheld.hidden() {
                hidden.remove(&mut resource);
            }
            render(resource, shown, extended)?
        }
        Verdict::Forbidden | Verdict::NotThere => named(resource, &ShownSecrets::default())?,
    };
    Ok(Reply::ok(body).of_version(version.version, version.last_updated))
}

/// A resource by its name alone, for who may know no more of it.
pub(super) fn named(mut resource: Map<String, Value>, shown: &ShownSecrets) -> Result<Rendered, Outcome> {
    resource.retain(|name, _| matches!(name.as_str(), "resourceType" | "id" | "meta"));
    if let Some(Value::Object(meta)) = resource.get_mut("meta") {
        meta.retain(|name, _| matches!(name.as_str(), "versionId" | "lastUpdated"));
    }
    render(resource, shown, false)
}
