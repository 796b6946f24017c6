//! Pages of resources, bounded by the bytes that are read for them. The ids and sizes of a page are read first, then
//! the first resources that together have at most [`PAGE_BYTES_MAX`]. The contents of other rows are not read.

use std::collections::HashMap;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::limits::{PAGE_BYTES_MAX, READ_GROUP_MAX};

use crate::database::{Arg, Row};
use crate::group::placeholders;
use crate::resources::{COLUMNS, read};
use crate::{ResourceVersion, Store, StoreError, Turn};

/// The size of a content as a column, without reading the content.
pub(crate) const SIZE: &str = "CAST(octet_length(r.content) AS BIGINT)";

/// One page of the versions of a resource.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// The versions, newest first.
    pub versions: Vec<ResourceVersion>,
    /// Whether there are more behind them.
    pub more: bool,
    /// How many there are in all.
    pub total: i64,
}

/// How many of these rows, which have an id and a size, are read for one page; one at least.
pub(crate) fn fitting<I>(
    rows: &[Row],
    count: usize,
    id: impl Fn(&Row) -> Result<I, StoreError>,
) -> Result<Vec<I>, StoreError> {
    let (mut ids, mut bytes) = (Vec::new(), 0_usize);
    for row in rows.iter().take(count) {
        bytes = bytes.saturating_add(usize::try_from(row.int(1)?).unwrap_or(usize::MAX));
        if bytes > PAGE_BYTES_MAX && !ids.is_empty() {
            break;
        }
        ids.push(id(row)?);
    }
    Ok(ids)
}

impl Store {
    /// The resources of a page, in its order. One that was deleted meanwhile is left out.
    pub(crate) async fn current(
        &self,
        ids: &[ResourceId],
        turn: &Turn,
    ) -> Result<Vec<ResourceVersion>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(READ_GROUP_MAX) {
            let places = placeholders(chunk.len());
            let sql = format!("SELECT {COLUMNS} FROM resource r WHERE NOT r.deleted AND r.id IN ({places})");
            let args = chunk.iter().copied().map(Arg::from).collect();
            for row in self.0.database.fetch_in_turn(turn, sql, args).await? {
                let version = read(&row)?;
                found.insert(version.id, version);
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// A page of the versions of a resource, newest first.
    pub async fn history(
        &self,
        resource_type: ResourceType,
        id: ResourceId,
        (offset, count): (u32, u32),
        turn: &Turn,
    ) -> Result<HistoryPage, StoreError> {
        let of = |columns: &str, rest: &str| {
            let old = columns.replace("r.", "h.");
            format!(
                "SELECT {columns} FROM resource r WHERE r.id = $1 AND r.resource_type = $2 {rest} UNION ALL \
                 SELECT {old} FROM resource_history h WHERE h.id = $1 AND h.resource_type = $2 {}",
                rest.replace("r.", "h.")
            )
        };
        let args = || vec![Arg::from(id), Arg::from(resource_type.as_str())];
        let sql = format!("SELECT COUNT(*) FROM ({}) v", of("r.version_id", ""));
        let rows = self.0.database.fetch_in_turn(turn, sql, args()).await?;
        let total = rows.first().map_or(Ok(0), |row| row.int(0))?;

        let listed = of(&format!("r.version_id, {SIZE}, r.revision AS revision"), "");
        let sql = format!("{listed} ORDER BY revision DESC LIMIT $3 OFFSET $4");
        let mut bounds = args();
        // One row more than requested shows whether a next page exists.
        bounds.extend([Arg::from(i64::from(count) + 1), Arg::from(i64::from(offset))]);
        let rows = self.0.database.fetch_in_turn(turn, sql, bounds).await?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let ids = fitting(&rows, count, |row| row.id(0, VersionId::parse, "resource.version_id"))?;

        let mut found = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(READ_GROUP_MAX) {
            let places: Vec<String> = (0..chunk.len()).map(|n| format!("${}", n + 3)).collect();
            let sql = of(COLUMNS, &format!("AND r.version_id IN ({})", places.join(", ")));
            let args = args().into_iter().chain(chunk.iter().copied().map(Arg::from)).collect();
            for row in self.0.database.fetch_in_turn(turn, sql, args).await? {
                let version = read(&row)?;
                found.insert(version.version, version);
            }
        }
        let versions = ids.iter().filter_map(|id| found.remove(id)).collect();
        Ok(HistoryPage { versions, more: rows.len() > ids.len(), total })
    }
}
