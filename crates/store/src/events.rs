//! Events: written by the change that they tell of, so that there is none without the other.
//!
//! Whoever reads them in their order must not miss one whose transaction ends after that of a later one. So
//! the order is given after the fact: [`Store::number_events`] gives the next numbers to all that are there
//! and have none. Two who number at once cannot both succeed, for a number is unique; so when a number can be
//! seen, all smaller ones can, and "after the last number that I saw" misses nothing, however long a
//! transaction took and whatever the clocks say. Numbers are given only while somebody reads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keyrelay_core::event::{Event, EventKind};
use keyrelay_core::id::{ClientId, EventId, ProjectId, SecretId};
use keyrelay_core::limits::{EVENTS_KEPT, EVIDENCE_UNUSED_FOR_DEFAULT, EXPIRY_ROWS, READ_GROUP_MAX};
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::slots::SlotKind;
use keyrelay_core::time::Timestamp;
use tokio::sync::watch;

use crate::change::args;
use crate::database::{Arg, Row};
use crate::group::placeholders;
use crate::projects::{SETTINGS, settings};
use crate::{Change, Conflict, Store, StoreError};

/// Events of which it is not known yet whether they were written; what is above is not counted.
const PERHAPS_MAX: usize = 10_000;
/// Events that get their numbers at once.
const NUMBERED_AT_ONCE: i64 = 1000;

/// What the changes of this server have told.
#[derive(Debug)]
pub(crate) struct Told {
    counts: [AtomicU64; EventKind::ALL.len()],
    perhaps: Mutex<Vec<(EventKind, EventId)>>,
    changed: watch::Sender<()>,
}

impl Default for Told {
    fn default() -> Self {
        Self { counts: Default::default(), perhaps: Mutex::default(), changed: watch::channel(()).0 }
    }
}

/// What one change tells, once it is durable.
#[derive(Default)]
pub(crate) struct Tells {
    sure: Vec<EventKind>,
    perhaps: Vec<(EventKind, EventId)>,
}

impl Tells {
    pub(crate) fn append(&mut self, other: Self) {
        self.sure.extend(other.sure);
        self.perhaps.extend(other.perhaps);
    }
}

impl Told {
    /// Counts what a change that was made has told, and wakes who waits for it.
    pub(crate) fn add(&self, tells: Tells) {
        if tells.sure.is_empty() && tells.perhaps.is_empty() {
            return;
        }
        tells.sure.iter().for_each(|kind| self.count(*kind));
        let mut perhaps = self.perhaps.lock().unwrap_or_else(PoisonError::into_inner);
        let room = PERHAPS_MAX.saturating_sub(perhaps.len());
        perhaps.extend(tells.perhaps.into_iter().take(room));
        self.changed.send_replace(());
    }

    fn count(&self, kind: EventKind) {
        if let Some(count) = self.counts.get(kind.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event in its order.
#[derive(Clone, Debug)]
pub struct NumberedEvent {
    /// Its number.
    pub seq: i64,
    /// Its kind.
    pub kind: EventKind,
    /// What is sent of it.
    pub payload: String,
}

/// A client, and the moment that it was found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundAt {
    /// The client.
    pub client: ClientId,
    /// The moment.
    pub at: Timestamp,
}

impl Store {
    /// Wakes whenever this server has told something.
    #[must_use]
    pub fn events_told(&self) -> watch::Receiver<()> {
        self.0.told.changed.subscribe()
    }

    /// How often this server has told something of a kind.
    #[must_use]
    pub fn events_counted(&self, kind: EventKind) -> u64 {
        self.0.told.counts.get(kind.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts those events that a change has told only if something was so.
    pub async fn count_perhaps_told(&self) -> Result<(), StoreError> {
        let perhaps = {
            let mut perhaps = self.0.told.perhaps.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *perhaps)
        };
        for some in perhaps.chunks(READ_GROUP_MAX) {
            let sql = format!("SELECT type FROM event WHERE id IN ({})", placeholders(some.len()));
            let ids = some.iter().map(|(_, id)| Arg::from(*id)).collect();
            for row in self.0.database.fetch_once(sql, ids).await? {
                let kind = EventKind::parse(&row.text(0)?);
                self.0.told.count(kind.ok_or(StoreError::Corrupt { what: "event.type" })?);
            }
        }
        Ok(())
    }

    /// Gives numbers to the events that have none, in the order of their time.
    pub async fn number_events(&self) -> Result<(), StoreError> {
        let sql = "SELECT id FROM event WHERE seq IS NULL LIMIT 1";
        while !self.0.database.fetch(sql, Vec::new()).await?.is_empty() {
            let mut change = Change::new();
            // The last of the numbered is never swept, so that no number is given twice.
            change.push(
                "UPDATE event SET seq = numbered.seq FROM ( \
                 SELECT u.id, (SELECT COALESCE(MAX(seq), 0) FROM event WHERE seq IS NOT NULL) \
                 + ROW_NUMBER() OVER (ORDER BY u.at, u.id) AS seq \
                 FROM (SELECT id, at FROM event WHERE seq IS NULL ORDER BY at, id LIMIT $1) AS u) AS numbered \
                 WHERE event.id = numbered.id AND event.seq IS NULL",
                args![NUMBERED_AT_ONCE],
                None,
            );
            match self.commit(change).await {
                // Somebody else was faster.
                Err(StoreError::Conflict(_)) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// The number of the last event that has one.
    pub async fn last_event(&self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(MAX(seq), 0) FROM event WHERE seq IS NOT NULL";
        self.0.database.fetch(sql, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }

    /// The events of a project after a number.
    pub async fn events_after(
        &self,
        seq: i64,
        project: ProjectId,
        limit: i64,
    ) -> Result<Vec<NumberedEvent>, StoreError> {
        let sql =
            "SELECT seq, type, payload FROM event WHERE seq > $1 AND project_id = $2 ORDER BY seq LIMIT $3";
        let rows = self.0.database.fetch(sql, args![seq, project, limit]).await?;
        let read = |row: &Row| {
            let kind = EventKind::parse(&row.text(1)?);
            Ok(NumberedEvent {
                seq: row.int(0)?,
                kind: kind.ok_or(StoreError::Corrupt { what: "event.type" })?,
                payload: row.text(2)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Clients whose retiring secret ends after `after` and by `until`, in that order, after the one that was found
    /// last; at most [`EXPIRY_ROWS`].
    pub async fn clients_with_deadlines(
        &self,
        after: Timestamp,
        until: Timestamp,
        last: Option<FoundAt>,
    ) -> Result<Vec<FoundAt>, StoreError> {
        self.found_at("retiring_ends", (after, until, last)).await
    }

    /// Clients whose secret in a slot was made after `after` and by `until`, as above. It looks at all clients.
    pub async fn clients_with_secrets_from(
        &self,
        kind: SlotKind,
        after: Timestamp,
        until: Timestamp,
        last: Option<FoundAt>,
    ) -> Result<Vec<FoundAt>, StoreError> {
        let created = match kind {
            SlotKind::Active => "active_created",
            SlotKind::Retiring => "retiring_created",
        };
        self.found_at(created, (after, until, last)).await
    }

    async fn found_at(
        &self,
        at: &'static str,
        (after, until, last): (Timestamp, Timestamp, Option<FoundAt>),
    ) -> Result<Vec<FoundAt>, StoreError> {
        let sql = format!(
            "SELECT id, {at} FROM client WHERE {at} >= $1 AND {at} <= $2 AND ({at} > $1 OR id > $3) \
             ORDER BY {at}, id LIMIT $4"
        );
        let (from, client) = match last {
            Some(last) => (last.at, last.client.to_string()),
            None => (after.plus(Duration::from_millis(1)), String::new()),
        };
        let rows = self.0.database.fetch(sql, args![from, until, client, EXPIRY_ROWS]).await?;
        let read = |row: &Row| {
            let client = row.id(0, ClientId::parse, "client.id")?;
            Ok(FoundAt { client, at: Timestamp::from_epoch_ms(row.int(1)?) })
        };
        rows.iter().map(read).collect()
    }

    /// All that projects say about their secrets; what several say, once.
    pub async fn secret_settings(&self) -> Result<Vec<SecretSettings>, StoreError> {
        let sql = format!("SELECT DISTINCT {SETTINGS} FROM project p");
        self.0.database.fetch(sql, Vec::new()).await?.iter().map(|row| settings(row, 0)).collect()
    }

    /// What was told of some secrets and is not to be told again.
    pub async fn told_of(&self, secrets: &[SecretId]) -> Result<HashSet<(SecretId, String)>, StoreError> {
        let mut told = HashSet::new();
        for some in secrets.chunks(READ_GROUP_MAX) {
            let sql = format!(
                "SELECT secret_id, what FROM event_told WHERE secret_id IN ({})",
                placeholders(some.len())
            );
            for row in self.0.database.fetch_once(sql, some.iter().copied().map(Arg::from).collect()).await? {
                told.insert((row.id(0, SecretId::parse, "event_told.secret_id")?, row.text(1)?));
            }
        }
        Ok(told)
    }

    /// Of which project a client is or was, and how often a secret of it was refused, as far as that is written
    /// down. None if there never was such a client.
    pub async fn refused_before(
        &self,
        client: ClientId,
        secret: SecretId,
    ) -> Result<Option<(ProjectId, i64)>, StoreError> {
        let sql = "SELECT r.project_id, COALESCE(u.refused, 0) FROM resource r \
                   LEFT JOIN secret_usage u ON u.secret_id = $2 \
                   WHERE r.id = $1 AND r.resource_type = 'ClientApplication'";
        let rows = self.0.database.fetch(sql, args![client, secret]).await?;
        let read = |row: &Row| Ok((row.id(0, ProjectId::parse, "resource.project_id")?, row.int(1)?));
        rows.first().map(read).transpose()
    }
}

/// What is told once only of a secret, by the name that it has in the database.
#[derive(Clone, Copy, Debug)]
pub enum Once {
    /// That a deadline is near.
    Expiring {
        /// The deadline.
        ends: Timestamp,
        /// How long before it: each of several warnings is told.
        before: Duration,
    },
    /// That it has passed.
    Expired(Timestamp),
    /// That a former secret was seen, in one period of time.
    FormerSeen {
        /// The number of the period.
        period: i64,
        /// When it is over.
        until: Timestamp,
    },
}

impl Once {
    /// The name of it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Expiring { ends, before } => format!("expiring {} {}", ends.epoch_ms(), before.as_millis()),
            Self::Expired(ends) => format!("expired {}", ends.epoch_ms()),
            Self::FormerSeen { period, .. } => format!("former {period}"),
        }
    }

    /// Until when it must be remembered: a deadline is looked for until [`EVENTS_KEPT`] after it.
    fn until(self) -> Timestamp {
        match self {
            Self::Expiring { ends, .. } | Self::Expired(ends) => ends.plus(EVENTS_KEPT).plus(EVENTS_KEPT),
            Self::FormerSeen { until, .. } => until,
        }
    }
}

impl Change {
    /// Tells something, together with what the change does.
    pub fn tell(&mut self, event: &Event) {
        self.push(
            "INSERT INTO event (id, project_id, type, at, payload) VALUES ($1, $2, $3, $4, $5)",
            event_args(event),
            Some(Conflict::Id),
        );
        self.deliver(event);
        self.tells.sure.push(event.kind());
    }

    /// Makes the change depend on something not having been told of a secret, and tells it.
    pub fn tell_once(&mut self, event: &Event, secret: SecretId, once: Once) {
        self.push(
            "INSERT INTO event_told (secret_id, what, client_id, until) VALUES ($1, $2, $3, $4)",
            args![secret, once.name(), event.client, once.until()],
            Some(Conflict::Exists),
        );
        self.tell(event);
    }

    /// Tells something of a secret unless that was told before. The change is made in either case.
    pub fn tell_unless_told(&mut self, event: &Event, secret: SecretId, once: Once) {
        self.tell_where(
            event,
            "NOT EXISTS (SELECT 1 FROM event_told t WHERE t.secret_id = $6 AND t.what = $7)",
            &[Arg::from(secret), Arg::from(once.name())],
        );
        self.push(
            "INSERT INTO event_told (secret_id, what, client_id, until) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (secret_id, what) DO NOTHING",
            args![secret, once.name(), event.client, once.until()],
            None,
        );
    }

    /// Tells that a rotation ended a secret in use: if somebody has used it lately, and has not used its
    /// successor since, by what is written down.
    pub fn tell_if_in_use(&mut self, event: &Event, secret: SecretId, successor: SecretId) {
        let since = event.at.minus(EVIDENCE_UNUSED_FOR_DEFAULT);
        self.tell_where(
            event,
            "EXISTS (SELECT 1 FROM secret_caller r WHERE r.client_id = $6 AND r.secret_id = $7 \
             AND r.uses > 0 AND r.last_seen > $9 AND NOT EXISTS (SELECT 1 FROM secret_caller s \
             WHERE s.client_id = r.client_id AND s.secret_id = $8 AND s.address = r.address AND s.agent = r.agent \
             AND s.instance = r.instance AND s.last_seen >= r.last_seen))",
            &[event.client.into(), secret.into(), successor.into(), since.into()],
        );
    }

    /// Tells something if a condition holds, whose parameters begin with `$6`. The deliveries ask the condition too,
    /// and not whether there is the event: all changes add to the end of the events, so on PostgreSQL whoever reads
    /// there stands in the way of every other.
    fn tell_where(&mut self, event: &Event, condition: &str, parameters: &[Arg]) {
        let with = |own: Vec<Arg>| [own.as_slice(), parameters].concat();
        let told = format!(
            "INSERT INTO event (id, project_id, type, at, payload) SELECT $1, $2, $3, CAST($4 AS BIGINT), $5 \
             WHERE {condition}"
        );
        self.push_text(told, with(event_args(event)));
        self.push_text(format!("{DELIVER} AND {condition}"), with(delivery_args(event)));
        self.tells.perhaps.push((event.kind(), event.id));
    }

    /// Notes for each webhook that wants an event that it is to be delivered there. Webhooks seldom change, so
    /// changes at once do not stand in each other's way.
    fn deliver(&mut self, event: &Event) {
        self.push(DELIVER, delivery_args(event), None);
    }
}

/// Adds a delivery of an event for each webhook that wants it.
const DELIVER: &str = "INSERT INTO webhook_delivery (webhook_id, event_id, attempts, due) \
     SELECT w.id, $1, CAST($5 AS BIGINT), CAST($2 AS BIGINT) FROM webhook w \
     WHERE w.project_id = $3 AND w.disabled IS NULL AND (w.types IS NULL OR w.types LIKE $4)";

fn event_args(event: &Event) -> Vec<Arg> {
    args![event.id, event.project, event.kind().as_str(), event.at, event.to_json().to_string()]
}

fn delivery_args(event: &Event) -> Vec<Arg> {
    args![event.id, event.at, event.project, format!("% {} %", event.kind().as_str()), 0_i64]
}
