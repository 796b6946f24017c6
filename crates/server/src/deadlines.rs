//! Tells that a deadline of a secret is near, and that it has passed, and records the end of one. Any number of
//! servers look; one of them tells. Nothing depends on it but the telling: a secret past its deadline is refused by
//! whoever reads it.
//!
//! Each look goes on from where the last one of this server ended, a little before that, for a change may take its
//! time until it can be seen. So the work is that of the deadlines that come up, not of all that there are. Which
//! deadlines a client has, and when to warn of them, is decided in `core/src/deadline.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use keyrelay_core::audit::EndedByDeadline;
use keyrelay_core::deadline::{Deadline, DeadlineCause};
use keyrelay_core::event::{Event, What};
use keyrelay_core::id::{ClientId, EventId, ProjectId, ResourceId, SecretId};
use keyrelay_core::limits::{EVENTS_KEPT, EXPIRY_LOOK_BACK, EXPIRY_ROWS, MAXIMUM_AGE_INTERVAL};
use keyrelay_core::slots::SlotKind;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, ClientState, Conflict, FoundAt, Once, StoreError};
use tokio::sync::Mutex;

use crate::{App, audit};

/// Up to when this server has looked; `None` before its first look.
#[derive(Debug, Default)]
pub(crate) struct Looked(Mutex<LookedUntil>);

#[derive(Debug, Default)]
struct LookedUntil {
    deadlines: Option<Timestamp>,
    ages: Option<Timestamp>,
}

/// A time since the last look, and what is looked for in it.
#[derive(Clone, Copy)]
struct Look {
    since: Timestamp,
    now: Timestamp,
    /// How long before a deadline; nothing for one that has passed.
    before: Duration,
}

/// What distinguishes the projects.
struct Times {
    /// How long before a deadline somebody is to be told, and nothing.
    before: BTreeSet<Duration>,
    /// How old a secret may become, with each of these times.
    ages: BTreeSet<(Duration, Duration)>,
}

/// Tells of all that came up since the last look.
pub(crate) async fn tell(app: &App) -> Result<(), StoreError> {
    let mut looked = app.deadlines.0.lock().await;
    let now = app.now();
    // What came up while no server ran is told as long as anything is kept of it.
    let since = |until: Option<Timestamp>| {
        until.map_or_else(|| now.minus(EVENTS_KEPT), |until| until.minus(EXPIRY_LOOK_BACK))
    };
    let times = times(app).await?;
    for before in times.before.iter().copied() {
        let look = Look { since: since(looked.deadlines), now, before };
        walk_deadlines(app, look).await?;
    }
    looked.deadlines = Some(now);
    if looked.ages.is_some_and(|until| until <= now && now.since(until) < MAXIMUM_AGE_INTERVAL) {
        return Ok(());
    }
    for (age, before) in times.ages {
        let look = Look { since: since(looked.ages), now, before };
        for kind in [SlotKind::Active, SlotKind::Retiring] {
            walk_ages(app, look, age, kind).await?;
        }
    }
    looked.ages = Some(now);
    Ok(())
}

async fn times(app: &App) -> Result<Times, StoreError> {
    let mut times = Times { before: BTreeSet::from([Duration::ZERO]), ages: BTreeSet::new() };
    let of_projects = app.store.secret_settings().await?;
    for rules in of_projects.iter().map(|settings| app.rules(settings)) {
        let before = [Duration::ZERO].into_iter().chain(rules.warn_before.times().iter().copied());
        times.before.extend(before.clone());
        times.ages.extend(
            rules.maximum_age.0.into_iter().flat_map(|age| before.clone().map(move |before| (age, before))),
        );
    }
    Ok(times)
}

async fn walk_deadlines(app: &App, look: Look) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let (after, until) = (look.since.plus(look.before), look.now.plus(look.before));
        let found = app.store.clients_with_deadlines(after, until, last).await?;
        tell_some(app, &found, look).await?;
        last = found.last().copied();
        if is_last_page(&found) {
            return Ok(());
        }
    }
}

async fn walk_ages(app: &App, look: Look, age: Duration, kind: SlotKind) -> Result<(), StoreError> {
    let mut last = None;
    loop {
        let made = |at: Timestamp| at.plus(look.before).minus(age);
        let found = app.store.clients_with_secrets_from(kind, made(look.since), made(look.now), last).await?;
        tell_some(app, &found, look).await?;
        last = found.last().copied();
        if is_last_page(&found) {
            return Ok(());
        }
    }
}

fn is_last_page(found: &[FoundAt]) -> bool {
    found.len() < usize::try_from(EXPIRY_ROWS).unwrap_or(usize::MAX)
}

/// Tells of the deadlines of some clients, as far as they are what is looked for and were not told.
async fn tell_some(app: &App, found: &[FoundAt], look: Look) -> Result<(), StoreError> {
    let ids: Vec<ResourceId> = found.iter().map(|found| found.client.into()).collect();
    let mut due = Vec::new();
    for (client, state) in app.store.clients(&ids, None).await? {
        let Some(project) = state.resource.project else { continue };
        due.extend(due_of(app, &state, look).into_iter().map(|due| (client, project, due)));
    }
    let secrets: Vec<SecretId> = due.iter().map(|(_, _, (deadline, _))| deadline.secret).collect();
    let told = app.store.told_of(&secrets).await?;
    for (client, project, (deadline, once)) in due {
        if !told.contains(&(deadline.secret, once.name())) {
            tell_one(app, (client, project), &deadline, once).await?;
        }
    }
    Ok(())
}

/// The deadlines of a client that are looked for: those that passed since then, or whose warning came up.
fn due_of(app: &App, state: &ClientState, look: Look) -> Vec<(Deadline, Once)> {
    let Look { since, now, before } = look;
    let rules = app.rules(&state.settings);
    let came_up = |at: Timestamp| since < at && at <= now;
    let due = Deadline::of(&state.slots, &rules).into_iter().filter_map(|deadline| {
        let ends = deadline.at;
        if before.is_zero() {
            return came_up(ends).then_some((deadline, Once::Expired(ends)));
        }
        let warned = deadline.warnings(&rules.warn_before).any(|at| at == ends.minus(before) && came_up(at));
        (warned && now < ends).then_some((deadline, Once::Expiring { ends, before }))
    });
    due.collect()
}

async fn tell_one(
    app: &App,
    (client, project): (ClientId, ProjectId),
    deadline: &Deadline,
    once: Once,
) -> Result<(), StoreError> {
    let Deadline { secret, at: ends, cause, .. } = *deadline;
    let what = match once {
        Once::Expiring { .. } => What::Expiring { secret, ends, cause },
        Once::Expired(_) | Once::FormerSeen { .. } => What::Expired { secret, ends, cause },
    };
    let now = app.now();
    let event = Event { id: EventId::made_at(now, app.entropy.as_ref()), at: now, project, client, what };
    let mut change = Change::new();
    change.tell_once(&event, secret, once);
    if matches!((once, cause), (Once::Expired(_), DeadlineCause::RetireAfter)) {
        let ended = EndedByDeadline { client, project, secret, ended: ends, at: now };
        audit::add(
            app.entropy.as_ref(),
            now,
            project,
            |id, version| ended.to_resource(id, version),
            &mut change,
        );
    }
    match app.store.commit(change).await {
        Ok(()) => {
            let (kind, cause): (_, DeadlineCause) = (event.kind().as_str(), cause);
            tracing::info!(%client, %secret, kind, cause = cause.as_str(), "a deadline was told of");
            Ok(())
        }
        // Another server was faster.
        Err(StoreError::Conflict(Conflict::Exists)) => Ok(()),
        Err(error) => Err(error),
    }
}
