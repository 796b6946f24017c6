//! What goes with a resource besides its JSON: the narrow row that is read with every token, and what its type
//! asks of it beyond the schema.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_store::{Change, ClientRow, MembershipRow, ProjectRow, UserRow};
use serde_json::{Map, Value};

use crate::App;
use crate::error::Outcome;
use crate::fhir::versions::Act;
use crate::fhir::{access_policy, client_application, membership, project, user};

/// The narrow row that goes with a resource, and the project it belongs to.
pub(in crate::fhir) enum Particulars {
    Client(ClientRow),
    Project(ProjectRow),
    Membership(MembershipRow, Member),
    User(UserRow, ProjectId),
    /// A resource of that project which has no row of its own.
    Plain(ProjectId),
}

/// Whether a membership keeps its user and profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fhir) enum Member {
    Same,
    Other,
}

impl Particulars {
    pub(in crate::fhir) const fn project(&self) -> ProjectId {
        match self {
            Self::Client(row) => row.project,
            Self::Project(row) => row.id,
            Self::Membership(row, _) => row.project,
            Self::User(_, project) | Self::Plain(project) => *project,
        }
    }
}

/// The particulars of a resource as it would be, with the checks that are not in the schema. `before` is what it
/// was, if it was anything.
pub(super) async fn particulars(
    act: Act<'_>,
    resource_type: ResourceType,
    id: ResourceId,
    project: ProjectId,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<Particulars, Outcome> {
    match resource_type {
        ResourceType::ClientApplication => {
            client_application::row(act.app, act.caller, id.into(), project, resource, before)
                .map(Particulars::Client)
        }
        ResourceType::Project => {
            project::row(act.caller, id.into(), resource, before).map(Particulars::Project)
        }
        ResourceType::ProjectMembership => {
            let row = membership::row(act, id.into(), project, resource, before).await?;
            let is_same = before.is_some_and(|before| membership::is_of_same_member(before, resource));
            Ok(Particulars::Membership(row, if is_same { Member::Same } else { Member::Other }))
        }
        ResourceType::AccessPolicy => {
            access_policy::check(resource, before).map(|()| Particulars::Plain(project))
        }
        ResourceType::User => {
            user::row(act, id.into(), project, resource).map(|row| Particulars::User(row, project))
        }
        ResourceType::Practitioner => Ok(Particulars::Plain(project)),
        _ => Err(Outcome::not_found()),
    }
}

/// Makes or changes the narrow row; that of a new client comes with its secrets instead.
pub(super) fn put_row(app: &App, particulars: &Particulars, change: &mut Change) {
    match particulars {
        Particulars::Client(row) => change.update_client(row),
        Particulars::Project(row) => {
            let shows_once = app.rules(&row.secrets).visibility == SecretVisibility::Once;
            if shows_once {
                change.forget_kept_answers(row.id);
            }
            change.put_project(row);
            if shows_once {
                change.forget_sealed_secrets(row.id);
            }
        }
        Particulars::Membership(row, Member::Same) => change.change_membership(row),
        Particulars::Membership(row, Member::Other) => change.put_membership(row),
        Particulars::User(row, _) => change.put_user(row),
        Particulars::Plain(_) => {}
    }
}
