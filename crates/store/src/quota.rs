//! Bounds the number of resources of a project. The count is remembered for a while, so that not every create costs a
//! count; before a refusal it is counted again. Changes that run at the same time, on this server and on others, may
//! exceed the bound by their number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use keyrelay_core::change_rates::ResourcesMax;
use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{CHANGE_RATE_KEYS_MAX, PROJECT_RESOURCES_COUNTED_EVERY};
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// What counts as a resource of a project; the same condition as that of the index.
const COUNTED: &str = "project_id = $1 AND NOT deleted AND resource_type <> 'AuditEvent'";

/// The remembered counts of projects.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    /// `None` until it is set: commands that open a database have no bound.
    most: OnceLock<ResourcesMax>,
    counts: Mutex<HashMap<ProjectId, Count>>,
    refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    resources: i64,
    at: Timestamp,
}

impl Store {
    /// From now on refuses changes that give a project more resources than this. Only the first call has an effect.
    pub fn hold_to_quota(&self, most: ResourcesMax) {
        let _ = self.0.quota.most.set(most);
    }

    /// The number of changes that this server has refused because a project had too many resources.
    #[must_use]
    pub fn changes_over_quota(&self) -> u64 {
        self.0.quota.refused.load(Ordering::Relaxed)
    }

    /// Checks the resources that a change would make, unless no quota binds its author.
    pub(crate) async fn check_quota(&self, change: &Change) -> Result<(), StoreError> {
        let (Some(ResourcesMax(Some(most))), Some(payer)) = (self.0.quota.most.get(), change.payer) else {
            return Ok(());
        };
        for (project, made) in &change.resources {
            let after = |count: Count| count.resources.saturating_add(*made);
            let known = self.known(*project).filter(|count| {
                payer.at.since(count.at) < PROJECT_RESOURCES_COUNTED_EVERY && after(*count) <= *most
            });
            let count = match known {
                Some(count) => count,
                None => Count { resources: self.resources_of(*project).await?, at: payer.at },
            };
            if after(count) > *most {
                self.0.quota.refused.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::OverQuota { most: *most });
            }
            self.remember(*project, Count { resources: after(count), ..count });
        }
        Ok(())
    }

    async fn resources_of(&self, project: ProjectId) -> Result<i64, StoreError> {
        let sql = format!("SELECT COUNT(*) FROM resource WHERE {COUNTED}");
        self.0.database.fetch(sql, args![project]).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    fn known(&self, project: ProjectId) -> Option<Count> {
        self.0.quota.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&project).copied()
    }

    fn remember(&self, project: ProjectId, count: Count) {
        let mut counts = self.0.quota.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= CHANGE_RATE_KEYS_MAX {
            // They will be counted again.
            counts.clear();
        }
        counts.insert(project, count);
    }
}
