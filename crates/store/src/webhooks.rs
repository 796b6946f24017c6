//! Webhooks, and what is to be delivered to them. Each delivery has a row until it is done, so nothing has to be
//! remembered of where a reader was. Several servers share the work: whoever moves `leased_until` from what was
//! read has the webhook to itself until then, and one that dies loses it when that time has come.

use keyrelay_core::caller::Profile;
use keyrelay_core::event::EventKind;
use keyrelay_core::id::{EventId, ProjectId, WebhookId};
use keyrelay_core::keyring::Sealed;
use keyrelay_core::limits::WEBHOOKS_PER_PROJECT_MAX;
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::{Arg, Row};
use crate::later::Later;
use crate::{Change, Conflict, Store, StoreError};

/// Where events of a project are sent.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Names it.
    pub id: WebhookId,
    /// Whose events.
    pub project: ProjectId,
    /// Where to.
    pub url: String,
    /// Which events; `None` for all, also those of kinds that come later.
    pub kinds: Option<Vec<EventKind>>,
    /// When it was made.
    pub created: Timestamp,
    /// By whom.
    pub created_by: Profile,
    /// What deliveries are signed with.
    pub signing: Sealed,
    /// What they were signed with before, and until when they are signed with that, too.
    pub retiring: Option<(Sealed, Timestamp)>,
    /// When its receiver said that it is gone.
    pub disabled: Option<Timestamp>,
}

/// How deliveries to a webhook go.
#[derive(Clone, Debug, Default)]
pub struct WebhookHealth {
    /// Deliveries that are still tried.
    pub pending: i64,
    /// Deliveries that were given up and can be sent again.
    pub dead: i64,
    /// Deliveries whose event was deleted before they succeeded, and when that last happened.
    pub dropped: i64,
    /// See `dropped`.
    pub last_dropped: Option<Timestamp>,
    /// Attempts in a row that failed.
    pub failures: i64,
    /// When one last succeeded.
    pub last_success: Option<Timestamp>,
    /// When one last failed, and why.
    pub last_failure: Option<(Timestamp, String)>,
}

/// A webhook that has something due and that nobody delivers to.
#[derive(Clone, Copy, Debug)]
pub struct DueWebhook {
    /// Which.
    pub id: WebhookId,
    /// When the last lease of it ended.
    leased_until: Timestamp,
    /// Attempts in a row that failed.
    pub failures: u32,
}

/// One event that is to be sent to one webhook.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: EventId,
    /// When it happened.
    pub happened: Timestamp,
    /// What is sent.
    pub payload: String,
    /// How often that failed.
    pub attempts: u32,
}

const COLUMNS: &str = "w.id, w.project_id, w.url, w.types, w.created, w.created_by, w.signing_sealed, \
                       w.retiring_sealed, w.retiring_ends, w.disabled";

fn read(row: &Row) -> Result<Webhook, StoreError> {
    let corrupt = |what| StoreError::Corrupt { what };
    let kinds = row.opt_text(3)?.map(|types| {
        let kinds = types.split_whitespace().map(EventKind::parse);
        kinds.collect::<Option<Vec<_>>>().ok_or(corrupt("webhook.types"))
    });
    let retiring = match (row.opt_blob(7)?, row.opt_int(8)?) {
        (Some(sealed), Some(ends)) => Some((Sealed::from_bytes(sealed), Timestamp::from_epoch_ms(ends))),
        _ => None,
    };
    Ok(Webhook {
        id: row.id(0, WebhookId::parse, "webhook.id")?,
        project: row.id(1, ProjectId::parse, "webhook.project_id")?,
        url: row.text(2)?,
        kinds: kinds.transpose()?,
        created: Timestamp::from_epoch_ms(row.int(4)?),
        created_by: row.id(5, Profile::parse, "webhook.created_by")?,
        signing: Sealed::from_bytes(row.blob(6)?),
        retiring,
        disabled: row.opt_int(9)?.map(Timestamp::from_epoch_ms),
    })
}

fn health(row: &Row, at: usize) -> Result<WebhookHealth, StoreError> {
    let time = |column| row.opt_int(column).map(|ms| ms.map(Timestamp::from_epoch_ms));
    let last_failure = match (time(at + 4)?, row.opt_text(at + 5)?) {
        (Some(failed), Some(problem)) => Some((failed, problem)),
        _ => None,
    };
    Ok(WebhookHealth {
        pending: row.int(at)?,
        dead: row.int(at + 1)?,
        failures: row.int(at + 2)?,
        dropped: row.int(at + 6)?,
        last_dropped: time(at + 7)?,
        last_success: time(at + 3)?,
        last_failure,
    })
}

impl Store {
    /// The webhooks of a project, oldest first, or one of them.
    pub async fn webhooks(
        &self,
        project: ProjectId,
        only: Option<WebhookId>,
    ) -> Result<Vec<(Webhook, WebhookHealth)>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS}, \
             (SELECT COUNT(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.due IS NOT NULL), \
             (SELECT COUNT(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.due IS NULL), \
             s.failures, s.last_success, s.last_failure, s.last_problem, s.dropped, s.last_dropped \
             FROM webhook w JOIN webhook_state s ON s.webhook_id = w.id \
             WHERE w.project_id = $1 AND ($2 = '' OR w.id = $2) ORDER BY w.created, w.id"
        );
        let only = only.map_or_else(String::new, |id| id.to_string());
        let rows = self.0.database.fetch(sql, args![project, only]).await?;
        rows.iter().map(|row| Ok((read(row)?, health(row, 10)?))).collect()
    }

    /// One webhook.
    pub async fn webhook(&self, id: WebhookId) -> Result<Option<Webhook>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhook w WHERE w.id = $1");
        self.0.database.fetch(sql, args![id]).await?.first().map(read).transpose()
    }

    /// Webhooks to which something is due, that nobody delivers to and that may be tried; those that had
    /// their last turn first before the others.
    pub async fn due_webhooks(&self, now: Timestamp, limit: i64) -> Result<Vec<DueWebhook>, StoreError> {
        let sql = "SELECT s.webhook_id, s.leased_until, s.failures FROM webhook_state s \
                   WHERE s.leased_until <= $1 AND s.rests_until <= $1 AND EXISTS \
                   (SELECT 1 FROM webhook_delivery d WHERE d.webhook_id = s.webhook_id AND d.due <= $1) \
                   ORDER BY s.leased_until, s.webhook_id LIMIT $2";
        let rows = self.0.database.fetch(sql, args![now, limit]).await?;
        let read = |row: &Row| {
            Ok(DueWebhook {
                id: row.id(0, WebhookId::parse, "webhook_state.webhook_id")?,
                leased_until: Timestamp::from_epoch_ms(row.int(1)?),
                failures: u32::try_from(row.int(2)?).unwrap_or(u32::MAX),
            })
        };
        rows.iter().map(read).collect()
    }

    /// What is due to a webhook, in the order in which it happened.
    pub async fn due_deliveries(
        &self,
        webhook: WebhookId,
        now: Timestamp,
        limit: i64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let sql = "SELECT d.event_id, e.at, e.payload, d.attempts FROM webhook_delivery d \
                   JOIN event e ON e.id = d.event_id WHERE d.webhook_id = $1 AND d.due <= $2 \
                   ORDER BY d.due, d.event_id LIMIT $3";
        let rows = self.0.database.fetch(sql, args![webhook, now, limit]).await?;
        let read = |row: &Row| {
            Ok(Delivery {
                event: row.id(0, EventId::parse, "webhook_delivery.event_id")?,
                happened: Timestamp::from_epoch_ms(row.int(1)?),
                payload: row.text(2)?,
                attempts: u32::try_from(row.int(3)?).unwrap_or(u32::MAX),
            })
        };
        rows.iter().map(read).collect()
    }

    /// How many deliveries are still tried, over all webhooks.
    pub async fn deliveries_pending(&self) -> Result<i64, StoreError> {
        let sql = "SELECT COUNT(*) FROM webhook_delivery WHERE due IS NOT NULL";
        self.0.database.fetch(sql, Vec::new()).await?.first().map_or(Ok(0), |row| row.int(0))
    }
}

impl Change {
    /// Keeps a webhook, if its project has not too many: [`Conflict::Exists`].
    pub fn create_webhook(&mut self, webhook: &Webhook) {
        let types = webhook.kinds.as_ref().map(|kinds| {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            format!(" {} ", names.join(" "))
        });
        self.push(
            "INSERT INTO webhook (id, project_id, url, types, created, created_by, signing_sealed) \
             SELECT $1, $2, $3, $4, CAST($5 AS BIGINT), $6, $7 \
             WHERE (SELECT COUNT(*) FROM webhook w WHERE w.project_id = $2) < $8",
            args![
                webhook.id,
                webhook.project,
                webhook.url.clone(),
                types,
                webhook.created,
                webhook.created_by.to_string(),
                webhook.signing.as_bytes().to_vec(),
                WEBHOOKS_PER_PROJECT_MAX,
            ],
            Some(Conflict::Exists),
        );
        self.push(
            "INSERT INTO webhook_state (webhook_id, leased_until, rests_until, failures) VALUES ($1, 0, 0, 0)",
            args![webhook.id],
            Some(Conflict::Id),
        );
    }

    /// Signs deliveries with another secret from now on, and with the one before, which must still be the
    /// current one, until `ends`.
    pub fn rotate_signing_secret(&mut self, webhook: &Webhook, fresh: &Sealed, ends: Timestamp) {
        self.push(
            "UPDATE webhook SET signing_sealed = $1, retiring_sealed = signing_sealed, retiring_ends = $2 \
             WHERE id = $3 AND project_id = $4 AND signing_sealed = $5",
            args![
                fresh.as_bytes().to_vec(),
                ends,
                webhook.id,
                webhook.project,
                webhook.signing.as_bytes().to_vec(),
            ],
            Some(Conflict::Version),
        );
    }

    /// Ends a webhook of a project. A conflict if there is none.
    pub fn delete_webhook(&mut self, id: WebhookId, project: ProjectId) {
        self.push(
            "DELETE FROM webhook WHERE id = $1 AND project_id = $2",
            args![id, project],
            Some(Conflict::Version),
        );
        self.push("DELETE FROM webhook_state WHERE webhook_id = $1", args![id], None);
        self.later.push(Later::DeliveriesOf(id));
    }

    /// Ends the webhooks of a project.
    pub(crate) fn delete_webhooks_of(&mut self, project: ProjectId) {
        for sql in [
            "DELETE FROM webhook_state WHERE webhook_id IN (SELECT id FROM webhook WHERE project_id = $1)",
            "DELETE FROM webhook WHERE project_id = $1",
        ] {
            self.push(sql, args![project], None);
        }
        self.later.push(Later::LostDeliveries);
    }

    /// Takes a webhook to oneself, if nobody else has since it was found.
    pub fn lease_webhook(&mut self, due: &DueWebhook, until: Timestamp) {
        self.push(
            "UPDATE webhook_state SET leased_until = $1 WHERE webhook_id = $2 AND leased_until = $3",
            args![until, due.id, due.leased_until],
            Some(Conflict::Version),
        );
    }

    /// Takes up the webhooks that a server before this one had to itself when it ended; for who shares the database
    /// with nobody.
    pub fn take_over_webhooks(&mut self, now: Timestamp) {
        self.push("UPDATE webhook_state SET leased_until = $1 WHERE leased_until > $1", args![now], None);
    }

    /// Gives a webhook back before its time, if it is still one's own.
    pub fn release_webhook(&mut self, id: WebhookId, until: Timestamp, now: Timestamp) {
        self.push(
            "UPDATE webhook_state SET leased_until = $1 WHERE webhook_id = $2 AND leased_until = $3",
            args![now, id, until],
            None,
        );
    }

    /// Notes that an event was delivered.
    pub fn delivered(&mut self, webhook: WebhookId, event: EventId, now: Timestamp) {
        self.push(
            "DELETE FROM webhook_delivery WHERE webhook_id = $1 AND event_id = $2",
            args![webhook, event],
            None,
        );
        self.push(
            "UPDATE webhook_state SET last_success = $1, failures = 0 WHERE webhook_id = $2",
            args![now, webhook],
            None,
        );
    }

    /// Notes that an event was not delivered, and when it is tried again; never, without `due`.
    pub fn not_delivered(&mut self, webhook: WebhookId, event: EventId, due: Option<Timestamp>) {
        self.push(
            "UPDATE webhook_delivery SET attempts = attempts + 1, due = $1 WHERE webhook_id = $2 AND event_id = $3",
            args![due, webhook, event],
            None,
        );
    }

    /// Notes why deliveries to a webhook fail, and leaves it alone for a while.
    pub fn webhook_failed(&mut self, id: WebhookId, problem: &str, now: Timestamp, rests_until: Timestamp) {
        self.push(
            "UPDATE webhook_state SET last_failure = $1, last_problem = $2, rests_until = $3, failures = failures + 1 \
             WHERE webhook_id = $4",
            args![now, problem, rests_until, id],
            None,
        );
    }

    /// Enables a webhook of a project again, also if its receiver was gone. A conflict if the project has no such
    /// webhook. [`Store::resend_deliveries`] then sends its undelivered events.
    pub fn resend(&mut self, id: WebhookId, project: ProjectId) {
        self.push(
            "UPDATE webhook SET disabled = NULL WHERE id = $1 AND project_id = $2",
            args![id, project],
            Some(Conflict::Version),
        );
        self.push(
            "UPDATE webhook_state SET rests_until = 0, failures = 0 WHERE webhook_id = $1",
            args![id],
            None,
        );
    }

    /// Sends nothing to a webhook any more.
    pub fn disable_webhook(&mut self, id: WebhookId, now: Timestamp) {
        self.push("UPDATE webhook SET disabled = $1 WHERE id = $2", args![now, id], None);
        self.later.push(Later::StopDeliveriesOf(id));
    }
}
