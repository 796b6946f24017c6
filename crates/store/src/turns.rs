//! Turns for searches and histories, whose cost the caller chooses. Each project has a few turns at once, so that its
//! reads do not delay those of other projects. A request that waits for a turn is in a queue of its project only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{
    DATABASE_WAIT_MAX, SEARCH_MAX, SEARCHES_PER_PROJECT_MAX, SEARCHES_WAITING_PER_PROJECT_MAX,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::StoreError;

/// Time limits of reads whose cost the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBounds {
    /// One search, count or history in the database.
    pub search: Duration,
    /// The wait for a turn, and the wait for a connection after it.
    pub wait: Duration,
}

impl Default for ReadBounds {
    fn default() -> Self {
        Self { search: SEARCH_MAX, wait: DATABASE_WAIT_MAX }
    }
}

type Projects = Arc<Mutex<HashMap<ProjectId, Arc<Semaphore>>>>;

/// The turns of all projects.
#[derive(Debug)]
pub(crate) struct Turns {
    projects: Projects,
    wait: Duration,
}

/// One turn of a project. It lasts until every clone is dropped: the database keeps one while it works, even if the
/// caller has gone.
#[derive(Clone, Debug)]
pub struct Turn {
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    permit: Option<OwnedSemaphorePermit>,
    _place: Place,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Dropped before the place, which checks whether others use the entry.
        drop(self.permit.take());
    }
}

/// A request that has a turn or waits for one.
#[derive(Debug)]
struct Place {
    project: ProjectId,
    projects: Projects,
    places: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut projects = lock(&self.projects);
        // The map's and this one.
        if Arc::strong_count(&self.places) == 2 {
            projects.remove(&self.project);
        }
    }
}

fn lock(projects: &Projects) -> MutexGuard<'_, HashMap<ProjectId, Arc<Semaphore>>> {
    projects.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { projects: Projects::default(), wait }
    }

    /// The next free turn of a project.
    pub(crate) async fn take(&self, project: ProjectId) -> Result<Turn, StoreError> {
        let place = self.place(project)?;
        let permit = timeout(self.wait, Arc::clone(&place.places).acquire_owned());
        let permit = permit.await.map_err(|_| StoreError::Crowded)?.map_err(|_| StoreError::Closed)?;
        Ok(Turn { _held: Arc::new(Held { permit: Some(permit), _place: place }) })
    }

    fn place(&self, project: ProjectId) -> Result<Place, StoreError> {
        let mut projects = lock(&self.projects);
        let places =
            projects.entry(project).or_insert_with(|| Arc::new(Semaphore::new(SEARCHES_PER_PROJECT_MAX)));
        // The map has one; each request that has or wants a turn has one, and one more for its permit.
        let wanting = Arc::strong_count(places) / 2;
        if wanting >= SEARCHES_PER_PROJECT_MAX + SEARCHES_WAITING_PER_PROJECT_MAX {
            return Err(StoreError::Crowded);
        }
        Ok(Place { project, projects: Arc::clone(&self.projects), places: Arc::clone(places) })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use keyrelay_core::random::SeededEntropy;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowded_project_delays_no_other_and_leaves_no_entry() {
        let entropy = SeededEntropy::new(1);
        let (one, other) = (ProjectId::random(&entropy), ProjectId::random(&entropy));
        let turns = Turns::new(Duration::from_secs(5));
        let first = turns.take(one).await.unwrap();
        let held = (first.clone(), turns.take(one).await.unwrap());
        drop(first);
        let waiting = join_all((0..=SEARCHES_WAITING_PER_PROJECT_MAX).map(|_| turns.take(one)));
        let (waited, free) = tokio::join!(waiting, turns.take(other));
        assert!(free.is_ok());
        assert!(waited.iter().all(|turn| matches!(turn, Err(StoreError::Crowded))), "{waited:?}");
        drop((held, free));
        assert!(lock(&turns.projects).is_empty());
        assert!(turns.take(one).await.is_ok());
    }
}
