//! Tells that the deadline of a retiring secret is near, and that it has passed. Any number of servers look; one of
//! them tells. Nothing depends on it but the telling: a secret past its deadline is refused by whoever reads it.

use keyrelay_core::event::{Event, What};
use keyrelay_core::limits::{EXPIRY_ROWS, EXPIRY_WARNING_DEFAULT};
use keyrelay_store::{Change, Conflict, Deadline, Once, StoreError};

use crate::App;
use crate::events::event_id;

/// Tells of all that are due.
pub(crate) async fn tell(app: &App) -> Result<(), StoreError> {
    let warning_ms = i64::try_from(EXPIRY_WARNING_DEFAULT.as_millis()).unwrap_or(i64::MAX);
    loop {
        let (expiring, expired) = (
            app.store.untold_expiring(app.now(), warning_ms).await?,
            app.store.untold_expired(app.now()).await?,
        );
        for deadline in &expiring {
            let what = What::Expiring { secret: deadline.secret, ends: deadline.ends };
            tell_one(app, deadline, what, Once::Expiring(deadline.ends)).await?;
        }
        for deadline in &expired {
            let what = What::Expired { secret: deadline.secret, ends: deadline.ends };
            tell_one(app, deadline, what, Once::Expired(deadline.ends)).await?;
        }
        let rows = usize::try_from(EXPIRY_ROWS).unwrap_or(usize::MAX);
        if expiring.len() < rows && expired.len() < rows {
            return Ok(());
        }
    }
}

async fn tell_one(app: &App, deadline: &Deadline, what: What, once: Once) -> Result<(), StoreError> {
    let (now, Deadline { client, project, secret, .. }) = (app.now(), *deadline);
    let event = Event { id: event_id(now, app.entropy.as_ref()), at: now, project, client, what };
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
