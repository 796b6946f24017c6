//! Counts of the changes that wrote resources of a type in a project. A conditional create searches before its change,
//! for as long as that takes; the change itself checks only the count. While the count is the same, the search would
//! find the same.

use std::borrow::Cow;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ProjectId;

use crate::change::args;
use crate::database::{Arg, Effect, Statement};
use crate::{Conflict, Store, StoreError};

/// The number of rows that share a count; the first digit of a random id chooses one.
pub(crate) const WRITE_SLOTS: u32 = 16;

/// The count of a type when it was read. A rotation is not counted, because the only searchable value that it changes
/// is the time of the version.
#[derive(Clone, Copy, Debug)]
pub struct WriteMark {
    resource_type: ResourceType,
    /// `None` for all projects.
    project: Option<ProjectId>,
    writes: i64,
}

const OF_PROJECT: &str = "SELECT CAST(COALESCE(SUM(w.writes), 0) AS BIGINT) AS n FROM resource_writes w \
                          WHERE w.resource_type = $1 AND w.project_id = $2";
const OF_ALL: &str = "SELECT CAST(COALESCE(SUM(w.writes), 0) AS BIGINT) AS n FROM resource_writes w \
                      WHERE w.resource_type = $1";

fn sum(resource_type: ResourceType, project: Option<ProjectId>) -> (&'static str, Vec<Arg>) {
    match project {
        Some(project) => (OF_PROJECT, args![resource_type.as_str(), project]),
        None => (OF_ALL, args![resource_type.as_str()]),
    }
}

impl WriteMark {
    /// Finds a row if nothing was written since.
    pub(crate) fn is_still(&self) -> Statement {
        let (sql, mut args) = sum(self.resource_type, self.project);
        args.push(Arg::from(self.writes));
        let sql = format!("SELECT 1 FROM ({sql}) AS counted WHERE counted.n = ${}", args.len());
        Statement { sql: Cow::Owned(sql), args, effect: Effect::FindsOne(Conflict::Version) }
    }
}

impl Store {
    /// The count of a type in a project, or in all projects. Read it before a search:
    /// [`crate::Change::require_unwritten`] then refuses a change if anything was written after it.
    pub async fn write_mark(
        &self,
        resource_type: ResourceType,
        project: Option<ProjectId>,
    ) -> Result<WriteMark, StoreError> {
        let (sql, args) = sum(resource_type, project);
        let rows = self.0.database.fetch(sql, args).await?;
        let writes = rows.first().map_or(Ok(0), |row| row.int(0))?;
        Ok(WriteMark { resource_type, project, writes })
    }
}
