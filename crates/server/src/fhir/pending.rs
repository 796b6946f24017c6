//! What a transaction is about to do, for those of its entries that depend on others of them. Whoever asks the
//! store whether something is there asks here first.

use std::collections::BTreeMap;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{Filter, IndexEntry, matches};
use keyrelay_core::id::{ProjectId, ResourceId};
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::time::Timestamp;

use super::write::Particulars;

/// What becomes of one resource.
pub(super) enum Fate {
    /// It is made, at that time and with these rows in the index.
    Made(Particulars, Timestamp, Vec<IndexEntry>),
    Changed(Particulars),
    Deleted,
}

impl Fate {
    /// What there will be.
    pub(super) const fn particulars(&self) -> Option<&Particulars> {
        match self {
            Self::Made(particulars, ..) | Self::Changed(particulars) => Some(particulars),
            Self::Deleted => None,
        }
    }
}

/// What has been decided so far and is not written yet.
#[derive(Default)]
pub(crate) struct Pending(BTreeMap<(ResourceType, ResourceId), Fate>);

/// Outside of a transaction.
pub(super) static NOTHING: Pending = Pending(BTreeMap::new());

impl Pending {
    pub(super) fn note(&mut self, resource_type: ResourceType, id: ResourceId, fate: Fate) {
        self.0.insert((resource_type, id), fate);
    }

    /// What becomes of a resource. `None` where the store knows.
    pub(super) fn of(&self, resource_type: ResourceType, id: ResourceId) -> Option<&Fate> {
        self.0.get(&(resource_type, id))
    }

    /// Whether a resource will be there, in the project. `None` where the store knows.
    pub(super) fn is_there(
        &self,
        resource_type: ResourceType,
        id: ResourceId,
        project: ProjectId,
    ) -> Option<bool> {
        let fate = self.of(resource_type, id)?;
        Some(fate.particulars().is_some_and(|particulars| particulars.project() == project))
    }

    /// Whether a resource is about to go.
    pub(super) fn deletes(&self, resource_type: ResourceType, id: ResourceId) -> bool {
        matches!(self.of(resource_type, id), Some(Fate::Deleted))
    }

    /// What a project will say about its clients' secrets; `None` where the store knows. Of a project that goes,
    /// they are not shown.
    pub(super) fn settings(&self, project: ProjectId) -> Option<SecretSettings> {
        let fate = self.of(ResourceType::Project, project.into())?;
        Some(match fate.particulars() {
            Some(Particulars::Project(row)) => row.secrets.clone(),
            _ => SecretSettings { visibility: Some(SecretVisibility::Once), ..SecretSettings::default() },
        })
    }

    /// Whether something that is about to be made meets these conditions.
    pub(super) fn makes_match(&self, resource_type: ResourceType, filters: &[Filter]) -> bool {
        self.0.iter().any(|((of_type, id), fate)| match fate {
            Fate::Made(_, at, index) => {
                *of_type == resource_type && matches(filters, index, &id.to_string(), at.epoch_ms())
            }
            Fate::Changed(_) | Fate::Deleted => false,
        })
    }
}
