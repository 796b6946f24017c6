//! Resources and their versions, as JSON without secrets.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId, VersionId};
use keyrelay_core::time::Timestamp;

use crate::database::{Arg, Row};
use crate::{ResourceVersion, Store, StoreError};

/// The columns of a resource version in the order of [`read`], of a table called `r`.
pub(crate) const COLUMNS: &str =
    "r.id, r.resource_type, r.project_id, r.version_id, r.revision, r.last_updated, r.deleted, r.content";

/// Reads a row that begins with [`COLUMNS`].
pub(crate) fn read(row: &Row) -> Result<ResourceVersion, StoreError> {
    Ok(ResourceVersion {
        id: row.id(0, ResourceId::parse, "resource.id")?,
        resource_type: row.id(1, |name| name.parse::<ResourceType>().ok(), "resource.resource_type")?,
        project: row.opt_id(2, ProjectId::parse, "resource.project_id")?,
        version: row.id(3, VersionId::parse, "resource.version_id")?,
        revision: row.int(4)?,
        last_updated: Timestamp::from_epoch_ms(row.int(5)?),
        deleted: row.boolean(6)?,
        content: row.text(7)?,
    })
}

impl Store {
    /// The current version of a resource, also one that says it is deleted.
    pub async fn resource(
        &self,
        resource_type: ResourceType,
        id: ResourceId,
    ) -> Result<Option<ResourceVersion>, StoreError> {
        let sql = "SELECT r.id, r.resource_type, r.project_id, r.version_id, r.revision, r.last_updated, r.deleted, r.content \
                   FROM resource r WHERE r.id = $1 AND r.resource_type = $2";
        let rows = self.0.database.fetch(sql, vec![Arg::from(id), Arg::from(resource_type.as_str())]).await?;
        rows.first().map(read).transpose()
    }

    /// One version of a resource.
    pub async fn version(
        &self,
        resource_type: ResourceType,
        id: ResourceId,
        version: VersionId,
    ) -> Result<Option<ResourceVersion>, StoreError> {
        let sql = "SELECT r.id, r.resource_type, r.project_id, r.version_id, r.revision, r.last_updated, r.deleted, r.content \
                   FROM resource r WHERE r.id = $1 AND r.resource_type = $2 AND r.version_id = $3 \
                   UNION ALL \
                   SELECT h.id, h.resource_type, h.project_id, h.version_id, h.revision, h.last_updated, h.deleted, h.content \
                   FROM resource_history h WHERE h.id = $1 AND h.resource_type = $2 AND h.version_id = $3";
        let args = vec![Arg::from(id), Arg::from(resource_type.as_str()), Arg::from(version)];
        self.0.database.fetch(sql, args).await?.first().map(read).transpose()
    }
}
