//! Deletes events that are too old or too many. Each project has its own bound. Above the bound of all projects, the
//! project with the most events loses its oldest, so that no tenant can erase what another has not received yet.
//! Deleted events that were not delivered are counted at their webhook, and streams report the gap to their readers.

use std::collections::BTreeMap;

use keyrelay_core::id::{EventId, ProjectId};
use keyrelay_core::limits::{
    EVENTS_KEPT, EVENTS_MAX, EVENTS_PER_PROJECT_MAX, EVENTS_SWEEP_CHANGES_MAX, EVENTS_SWEPT_AT_ONCE,
};
use keyrelay_core::shares::fair_bound;
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::{Arg, Row};
use crate::group::placeholders;
use crate::{Change, Store, StoreError};

/// Bounds of the events that are kept.
#[derive(Clone, Copy, Debug)]
pub struct EventBounds {
    /// Of one project.
    pub per_project: i64,
    /// Of all projects.
    pub all: i64,
}

impl Default for EventBounds {
    fn default() -> Self {
        Self { per_project: EVENTS_PER_PROJECT_MAX, all: EVENTS_MAX }
    }
}

/// What one sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweptEvents {
    /// Events, delivered or not.
    pub events: u64,
    /// Deliveries that were still pending.
    pub undelivered: u64,
}

/// An event that is to be deleted.
struct Surplus {
    id: EventId,
    project: ProjectId,
    seq: i64,
}

/// The last numbered event stays, so that no number is used twice.
const NOT_THE_LAST: &str = "seq < (SELECT MAX(n.seq) FROM event n WHERE n.seq IS NOT NULL)";

impl Store {
    /// Deletes events older than [`EVENTS_KEPT`] and those beyond the bounds, the oldest first, in small changes.
    pub async fn sweep_events(&self, bounds: EventBounds, now: Timestamp) -> Result<SweptEvents, StoreError> {
        let mut swept = SweptEvents::default();
        let mut changes = EVENTS_SWEEP_CHANGES_MAX;
        let oldest = EventId::first_at(now.minus(EVENTS_KEPT));
        let sql = "SELECT 1 FROM event WHERE id < $1 LIMIT 1";
        if !self.0.database.fetch(sql, args![oldest]).await?.is_empty() {
            // The number shows readers the gap.
            self.number_events().await?;
            let sql = format!(
                "SELECT id, project_id, seq FROM event WHERE id < $1 AND {NOT_THE_LAST} ORDER BY id LIMIT $2"
            );
            while changes > 0 {
                let surplus = self.surplus(sql.clone(), args![oldest, at_once(i64::MAX)]).await?;
                if surplus.is_empty() {
                    break;
                }
                self.drop_events(&surplus, now, &mut swept).await?;
                changes -= 1;
            }
        }
        let sql = "SELECT project_id, COUNT(*) FROM event GROUP BY project_id";
        let counts = self.0.database.fetch(sql, Vec::new()).await?;
        for (project, mut over) in projects_over(&counts, bounds.per_project, bounds.all)? {
            self.number_events().await?;
            let sql = format!(
                "SELECT id, project_id, seq FROM event WHERE project_id = $1 AND {NOT_THE_LAST} ORDER BY seq LIMIT $2"
            );
            while over > 0 && changes > 0 {
                let surplus = self.surplus(sql.clone(), args![project, at_once(over)]).await?;
                if surplus.is_empty() {
                    break;
                }
                self.drop_events(&surplus, now, &mut swept).await?;
                over -= i64::try_from(surplus.len()).unwrap_or(i64::MAX);
                changes -= 1;
            }
        }
        let mut change = Change::new();
        change.push(
            "DELETE FROM event_gap WHERE NOT EXISTS (SELECT 1 FROM project p WHERE p.id = event_gap.project_id) \
             AND NOT EXISTS (SELECT 1 FROM event e WHERE e.project_id = event_gap.project_id)",
            Vec::new(),
            None,
        );
        self.commit(change).await?;
        Ok(swept)
    }

    /// The number of the last event of a project that was deleted; 0 if there is none.
    pub async fn events_dropped_up_to(&self, project: ProjectId) -> Result<i64, StoreError> {
        let sql = "SELECT seq FROM event_gap WHERE project_id = $1";
        self.0.database.fetch(sql, args![project]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    async fn surplus(&self, sql: String, args: Vec<Arg>) -> Result<Vec<Surplus>, StoreError> {
        let read = |row: &Row| {
            Ok(Surplus {
                id: row.id(0, EventId::parse, "event.id")?,
                project: row.id(1, ProjectId::parse, "event.project_id")?,
                seq: row.int(2)?,
            })
        };
        self.0.database.fetch(sql, args).await?.iter().map(read).collect()
    }

    async fn drop_events(
        &self,
        surplus: &[Surplus],
        now: Timestamp,
        swept: &mut SweptEvents,
    ) -> Result<(), StoreError> {
        let mut ids: Vec<Arg> = surplus.iter().map(|event| event.id.into()).collect();
        // Always the same number of ids, so that each statement has one text.
        if let Some(last) = ids.last().cloned() {
            ids.resize(EVENTS_SWEPT_AT_ONCE.max(ids.len()), last);
        }
        let of_events = placeholders(ids.len());
        let pending = format!(
            "SELECT COUNT(*) FROM webhook_delivery WHERE event_id IN ({of_events}) AND due IS NOT NULL"
        );
        let pending = self.0.database.fetch(pending, ids.clone()).await?;
        let pending = pending.first().map_or(Ok(0), |row| row.int(0))?;

        let mut change = Change::new();
        let mut gaps: BTreeMap<ProjectId, i64> = BTreeMap::new();
        for event in surplus {
            let gap = gaps.entry(event.project).or_default();
            *gap = event.seq.max(*gap);
        }
        for (project, seq) in gaps {
            change.push(
                "INSERT INTO event_gap (project_id, seq) VALUES ($1, $2) ON CONFLICT (project_id) DO UPDATE \
                 SET seq = CASE WHEN excluded.seq > event_gap.seq THEN excluded.seq ELSE event_gap.seq END",
                args![project, seq],
                None,
            );
        }
        let at = ids.len() + 1;
        change.push_text(
            format!(
                "UPDATE webhook_state SET last_dropped = ${at}, dropped = dropped + (SELECT COUNT(*) \
                 FROM webhook_delivery d WHERE d.webhook_id = webhook_state.webhook_id AND d.event_id IN ({of_events})) \
                 WHERE webhook_id IN (SELECT g.webhook_id FROM webhook_delivery g WHERE g.event_id IN ({of_events}))"
            ),
            [ids.as_slice(), &[now.into()]].concat(),
        );
        for table in ["webhook_delivery WHERE event_id", "event WHERE id"] {
            change.push_text(format!("DELETE FROM {table} IN ({of_events})"), ids.clone());
        }
        self.commit(change).await?;
        swept.events += u64::try_from(surplus.len()).unwrap_or(u64::MAX);
        swept.undelivered += u64::try_from(pending).unwrap_or_default();
        Ok(())
    }
}

/// The projects with too many rows of a table, each with the excess. `counts` has each project with any rows.
pub(crate) fn projects_over(
    counts: &[Row],
    per_project: i64,
    all: i64,
) -> Result<Vec<(ProjectId, i64)>, StoreError> {
    let read = |row: &Row| Ok((row.id(0, ProjectId::parse, "the project of a row")?, row.int(1)?));
    let counts: Vec<(ProjectId, i64)> = counts.iter().map(read).collect::<Result<_, StoreError>>()?;
    let kept: Vec<i64> = counts.iter().map(|(_, count)| (*count).min(per_project)).collect();
    let bound = fair_bound(&kept, all).min(per_project);
    let over = counts.into_iter().map(|(project, count)| (project, count - bound));
    Ok(over.filter(|(_, over)| *over > 0).collect())
}

fn at_once(over: i64) -> i64 {
    over.min(i64::try_from(EVENTS_SWEPT_AT_ONCE).unwrap_or(i64::MAX))
}
