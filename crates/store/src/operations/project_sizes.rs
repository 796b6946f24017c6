//! The number of resources of projects, for `keyrelay doctor`.

use keyrelay_core::id::ProjectId;

use super::Place;
use super::direct::Direct;
use crate::StoreError;

/// The projects with the most resources, each with their number, without audit records and deleted ones.
pub async fn largest_projects(place: &Place) -> Result<Vec<(ProjectId, i64)>, StoreError> {
    let sql = "SELECT project_id, COUNT(*) FROM resource WHERE NOT deleted AND resource_type <> 'AuditEvent' \
               AND project_id IS NOT NULL GROUP BY project_id ORDER BY COUNT(*) DESC, project_id LIMIT 5";
    let rows = Direct::open(place).await?.fetch(sql, &[]).await?;
    let read =
        |row: &crate::database::Row| Ok((row.id(0, ProjectId::parse, "resource.project_id")?, row.int(1)?));
    rows.iter().map(read).collect()
}
