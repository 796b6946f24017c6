//! Making a resource, unless there is one already where that is a condition.

use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{SearchQuery, index_entries};
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::policy::Interaction;
use keyrelay_store::WriteMark;
use serde_json::{Map, Value};

use super::Decision;
use super::draft::Draft;
use super::particulars::{Particulars, particulars, put_row};
use crate::App;
use crate::error::Outcome;
use crate::fhir::access::written;
use crate::fhir::bundle::Links;
use crate::fhir::pending::Fate;
use crate::fhir::render::{ShownSecrets, stored_resource};
use crate::fhir::request::{Content, FhirRequest, Reply};
use crate::fhir::search::{find, read_query_of};
use crate::fhir::versions::{Act, first_version};
use crate::fhir::{allow, client_application, membership, read};

/// The result of a condition.
pub(in crate::fhir) enum Existing {
    /// The request has no condition.
    NotAsked,
    /// Nothing, as long as nothing was written since the mark.
    Nothing(WriteMark),
    Found(ResourceId, Reply),
}

/// A resource that somebody wants to make.
pub(in crate::fhir) struct New {
    pub(super) resource_type: ResourceType,
    /// The id that it will have.
    pub(super) id: ResourceId,
    draft: Draft,
}

impl New {
    pub(super) async fn read(
        app: &App,
        resource_type: ResourceType,
        content: Content,
    ) -> Result<Self, Outcome> {
        let draft = Draft::take(resource_type, content.into_object().await?)?;
        Ok(Self { resource_type, id: ResourceId::random(app.entropy.as_ref()), draft })
    }

    /// Checks what can be checked of it alone.
    pub(super) fn check(&self, caller: &Caller) -> Result<(), Outcome> {
        if caller.is_withheld_from(self.resource_type) {
            Ok(())
        } else {
            self.draft.check(self.resource_type)
        }
    }

    /// The same with the links of its transaction put in place.
    pub(super) fn linked(&self, links: &Links<'_>) -> Result<Self, Outcome> {
        Ok(Self { draft: self.draft.linked(links)?, ..*self })
    }

    /// The one resource that `If-None-Exist` finds, as an answer (FHIR R4 §3.1.0.8.1). The search is not part of the
    /// change, because its author chooses how long it takes.
    pub(in crate::fhir) async fn existing(
        &self,
        act: Act<'_>,
        request: &FhirRequest,
    ) -> Result<Existing, Outcome> {
        let Some(condition) = self.condition(act.caller, request)? else { return Ok(Existing::NotAsked) };
        // Before the search, so that every later write moves the mark.
        let mark = act.app.store.write_mark(self.resource_type, act.caller.reach()).await?;
        let turn = act.app.store.turn(act.caller.project).await?;
        let page = find(act.app, act.caller, self.resource_type, &condition, false, &turn).await?;
        drop(turn);
        match page.matches.as_slice() {
            [] => Ok(Existing::Nothing(mark)),
            [found] if !page.more => {
                let (by, kind) = (Interaction::Search, self.resource_type);
                let reply = read::read(act, by, kind, found.id, request.extended).await?;
                Ok(Existing::Found(found.id, reply))
            }
            _ => Err(Outcome::precondition_failed("If-None-Exist finds more than one resource")),
        }
    }

    /// The search of an `If-None-Exist` header. What it finds is shown, so it takes the right to search.
    fn condition(&self, caller: &Caller, request: &FhirRequest) -> Result<Option<SearchQuery>, Outcome> {
        let Some(text) = &request.if_none_exist else { return Ok(None) };
        allow(caller, Interaction::Search, self.resource_type)?;
        let query = read_query_of(caller, self.resource_type, text.trim_start_matches('?'))?;
        if query.filters.is_empty() {
            return Err(Outcome::invalid("If-None-Exist names no search parameter"));
        }
        Ok(Some(query))
    }

    /// Decides it where [`New::existing`] has found nothing. That nothing came meanwhile,
    /// [`Change::require_unwritten`](keyrelay_store::Change::require_unwritten) says.
    pub(super) async fn decide(&self, act: Act<'_>, request: &FhirRequest) -> Result<Decision, Outcome> {
        let (caller, kind, id) = (act.caller, self.resource_type, self.id);
        let mut draft = self.draft.copied();
        let project = project_of_new(act, kind, id, &draft.resource).await?;
        draft.withhold(act, kind, id, project)?;
        let particulars = particulars(act, kind, id, project, &draft.resource, None).await?;
        let mut change = act.change();
        if let Some(query) = &self.condition(caller, request)?
            && act.pending.makes_match(kind, &query.filters)
        {
            let text = "Another entry of the transaction makes what ifNoneExist asks for";
            return Err(Outcome::invalid(text));
        }
        let version = first_version(act, kind, id, particulars.project(), draft.resource, &mut change)?;
        let shown = match &particulars {
            Particulars::Client(row) => {
                client_application::create(act, row, &draft.secrets, &mut change).await?
            }
            other => {
                put_row(act.app, other, &mut change);
                ShownSecrets::default()
            }
        };
        let base = act.app.config.base_url.fhir();
        let location = format!("{base}/{kind}/{id}/_history/{}", version.version);
        let resource = stored_resource(&version)?;
        let fate = Fate::Made(particulars, act.now, index_entries(kind, &resource));
        let reply = written(caller, &version, resource, &shown, request.extended)?.created_at(location);
        Ok(Decision { reply, change: Some(change), fate: Some(fate) })
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
    if project != act.caller.project
        && !membership::will_be_there(act, ResourceType::Project, project.into(), project).await?
    {
        let at = format!("{resource_type}.meta.project");
        return Err(Outcome::invalid_at(at, "There is no such Project"));
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
