//! Bounds how many callers of secrets are counted separately, fairly between projects. Beyond the bound, the callers
//! that a project saw longest ago are summed. No count is lost by that, so evidence about a secret only becomes less
//! detailed.

use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{
    SWEEP_CHANGES_MAX, SWEEP_ROWS, USAGE_CALLERS_STORED_MAX, USAGE_CALLERS_STORED_PER_PROJECT_MAX,
};

use crate::change::args;
use crate::database::Arg;
use crate::event_sweep::projects_over;
use crate::{Change, Store, StoreError};

/// Bounds of the callers that are counted separately in the database.
#[derive(Clone, Copy, Debug)]
pub struct CallerBounds {
    /// Of one project.
    pub per_project: i64,
    /// Of all projects.
    pub all: i64,
}

impl Default for CallerBounds {
    fn default() -> Self {
        Self { per_project: USAGE_CALLERS_STORED_PER_PROJECT_MAX, all: USAGE_CALLERS_STORED_MAX }
    }
}

/// The callers that a project saw longest ago. The order is total, so two statements of one change affect the same
/// rows.
macro_rules! oldest {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM secret_caller WHERE project_id = $1 \
             ORDER BY last_seen, client_id, secret_id, address, agent, instance LIMIT $2"
        )
    };
}

impl Store {
    /// Sums callers beyond the bounds, in small changes, and returns how many.
    pub async fn sweep_callers(&self, bounds: CallerBounds) -> Result<u64, StoreError> {
        let sql =
            "SELECT project_id, COUNT(*) FROM secret_caller WHERE project_id IS NOT NULL GROUP BY project_id";
        let counts = self.0.database.fetch(sql, Vec::new()).await?;
        let (mut changes, mut folded) = (SWEEP_CHANGES_MAX, 0);
        for (project, mut over) in projects_over(&counts, bounds.per_project, bounds.all)? {
            while over > 0 && changes > 0 {
                let some = over.min(SWEEP_ROWS);
                let mut change = Change::new();
                change.fold_oldest_callers(project, some);
                self.commit(change).await?;
                (over, changes, folded) = (over - some, changes - 1, folded + some.unsigned_abs());
            }
        }
        Ok(folded)
    }
}

impl Change {
    fn fold_oldest_callers(&mut self, project: ProjectId, callers: i64) {
        self.push(
            concat!(
                "INSERT INTO secret_caller \
                 (client_id, secret_id, address, agent, instance, uses, refused, first_seen, last_seen) \
                 SELECT client_id, secret_id, '', '', '', CAST(SUM(uses) AS BIGINT), CAST(SUM(refused) AS BIGINT), \
                 MIN(first_seen), MAX(last_seen) FROM (",
                oldest!("client_id, secret_id, uses, refused, first_seen, last_seen"),
                ") AS surplus WHERE TRUE GROUP BY client_id, secret_id \
                 ON CONFLICT (client_id, secret_id, address, agent, instance) DO UPDATE SET \
                 uses = secret_caller.uses + excluded.uses, refused = secret_caller.refused + excluded.refused, \
                 first_seen = CASE WHEN excluded.first_seen < secret_caller.first_seen THEN excluded.first_seen \
                 ELSE secret_caller.first_seen END, \
                 last_seen = CASE WHEN excluded.last_seen > secret_caller.last_seen THEN excluded.last_seen \
                 ELSE secret_caller.last_seen END"
            ),
            args![project, callers],
            None,
        );
        self.push(
            concat!(
                "DELETE FROM secret_caller WHERE (client_id, secret_id, address, agent, instance) IN (",
                oldest!("client_id, secret_id, address, agent, instance"),
                ")"
            ),
            args![project, callers],
            None,
        );
    }
}
