//! Tells that the deadline of a retiring secret is near, and that it has passed. Any number of servers look; one of
//! them tells. Nothing depends on it but the telling: a secret past its deadline is refused by whoever reads it.
//!
//! Each look goes on from where the last one of this server ended, a little before that, for a change may take its
//! time until it can be seen. So the work is that of the deadlines that come up, not of all that there are.

use std::time::Duration;

use keyrelay_core::event::{Event, What};
use keyrelay_core::id::{EventId, SecretId};
use keyrelay_core::limits::{EVENTS_KEPT, EXPIRY_LOOK_BACK, EXPIRY_ROWS, EXPIRY_WARNING_DEFAULT};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Conflict, Deadline, Once, StoreError};
use tokio::sync::Mutex;

use crate::App;

/// Up to when this server has looked; `None` before its first look.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<Option<Timestamp>>);

/// Tells of all that came up since the last look.
pub(crate) async fn tell(app: &App) -> Result<(), StoreError> {
    let mut looked = app.deadlines.0.lock().await;
    let now = app.now();
    // What came up while no server ran is told as long as anything is kept of it.
    let since = looked.map_or_else(|| now.minus(EVENTS_KEPT), |until| until.minus(EXPIRY_LOOK_BACK));
    for before in [EXPIRY_WARNING_DEFAULT, Duration::ZERO] {
        let (after, until) = (since.plus(before), now.plus(before));
        let mut last = None;
        loop {
            let found = app.store.deadlines(after, until, last.as_ref()).await?;
            tell_some(app, &found, before, now).await?;
            last = found.last().copied();
            if last.is_none() || found.len() < usize::try_from(EXPIRY_ROWS).unwrap_or(usize::MAX) {
                break;
            }
        }
    }
    *looked = Some(now);
    Ok(())
}

/// Tells of deadlines that are `before` away, or nearer; that have passed, where that is no time.
async fn tell_some(
    app: &App,
    found: &[Deadline],
    before: Duration,
    now: Timestamp,
) -> Result<(), StoreError> {
    let secrets: Vec<SecretId> = found.iter().map(|deadline| deadline.secret).collect();
    let told = app.store.told_of(&secrets).await?;
    for deadline in found {
        let Deadline { secret, ends, known_since, .. } = *deadline;
        let (what, once) = if before.is_zero() {
            (What::Expired { secret, ends }, Once::Expired(ends))
        } else if ends <= now || ends.since(known_since) <= before {
            // It has passed, or whoever set it knew that it was as near.
            continue;
        } else {
            (What::Expiring { secret, ends }, Once::Expiring { ends, before })
        };
        if !told.contains(&(secret, once.name())) {
            tell_one(app, deadline, what, once).await?;
        }
    }
    Ok(())
}

async fn tell_one(app: &App, deadline: &Deadline, what: What, once: Once) -> Result<(), StoreError> {
    let (now, Deadline { client, project, secret, .. }) = (app.now(), *deadline);
    let event = Event { id: EventId::made_at(now, app.entropy.as_ref()), at: now, project, client, what };
    let mut change = Change::new();
    change.tell_once(&event, secret, once);
    match app.store.commit(change).await {
        Ok(()) => {
            tracing::info!(%client, %secret, kind = event.kind().as_str(), "a deadline was told of");
            Ok(())
        }
        // Another server was faster.
        Err(StoreError::Conflict(Conflict::Exists)) => Ok(()),
        Err(error) => Err(error),
    }
}
