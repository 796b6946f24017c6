//! Work that belongs to a change but would take long: it may touch a row for each client of a project, or each caller
//! of a client. It runs after the commit and before the answer, a few rows at a time, each time in its own change.

use keyrelay_core::id::{ClientId, ProjectId, WebhookId};
use keyrelay_core::limits::{KEPT_ANSWERS_PER_CLIENT_MAX, SWEEP_CHANGES_MAX, SWEEP_ROWS};
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Later {
    /// Delete the sealed values of a project's secrets, unless the project makes them readable again before that.
    SealedOf(ProjectId),
    /// Delete the records of who used the secrets of a deleted client.
    UsesOf(ClientId),
    /// Delete the kept answers that a project no longer returns.
    AnswersOf(ProjectId),
    /// Delete the deliveries of a deleted webhook.
    DeliveriesOf(WebhookId),
    /// Stop the deliveries of a webhook. A delivery that remains is tried once, and then stopped here again.
    StopDeliveriesOf(WebhookId),
    /// Delete the deliveries of all deleted webhooks.
    LostDeliveries,
}

/// A page of the deliveries of a webhook, from one event on to another.
const PAGE: &str = "webhook_id = $1 AND event_id > $2 AND event_id <= $3";
/// Clients whose kept answers one change deletes.
const CLIENTS_AT_ONCE: i64 = SWEEP_ROWS / KEPT_ANSWERS_PER_CLIENT_MAX;

impl Store {
    /// Runs the work that is left of a durable change. A failure is logged and does not change the answer: no caller
    /// sees the remaining rows, and a sweep retries.
    pub(crate) async fn do_later(&self, later: Vec<Later>) {
        for later in later {
            let done = match later {
                Later::SealedOf(project) => self.forget_sealed_of(project).await,
                Later::UsesOf(client) => self.forget_rows_of(client).await,
                Later::AnswersOf(project) => self.forget_answers_of(project).await,
                Later::DeliveriesOf(webhook) => self.forget_deliveries_of(webhook).await,
                Later::StopDeliveriesOf(webhook) => {
                    let stop =
                        format!("UPDATE webhook_delivery SET due = NULL WHERE {PAGE} AND due IS NOT NULL");
                    self.each_page_of(webhook, &stop, &[]).await
                }
                Later::LostDeliveries => self.forget_lost_deliveries().await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, ?later, "failed to delete what a change left; a sweep retries");
            }
        }
    }

    /// Deletes the sealed values that a server left because it ended early.
    pub async fn forget_sealed_left(&self) -> Result<(), StoreError> {
        let sql = "SELECT p.id FROM project p WHERE p.secret_once";
        for row in self.0.database.fetch(sql, Vec::new()).await? {
            self.forget_sealed_of(row.id(0, ProjectId::parse, "project.id")?).await?;
        }
        Ok(())
    }

    async fn forget_sealed_of(&self, project: ProjectId) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let sql = "SELECT c.id, (c.active_sealed IS NOT NULL OR c.retiring_sealed IS NOT NULL) FROM client c \
                       WHERE c.project_id = $1 AND c.id > $2 ORDER BY c.id LIMIT $3";
            let rows = self.0.database.fetch(sql, args![project, after.clone(), SWEEP_ROWS]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let until = last.text(0)?;
            let mut sealed = rows.iter().map(|row| row.boolean(1));
            if sealed.any(|sealed| sealed.unwrap_or(true)) {
                let mut change = Change::new();
                change.push(
                    "UPDATE client SET active_sealed = NULL, retiring_sealed = NULL \
                     WHERE project_id = $1 AND id > $2 AND id <= $3 \
                     AND (active_sealed IS NOT NULL OR retiring_sealed IS NOT NULL) \
                     AND NOT COALESCE((SELECT p.secret_recoverable FROM project p \
                     WHERE p.id = client.project_id), FALSE)",
                    args![project, after, until.clone()],
                    None,
                );
                self.0.writer.commit(change).await?;
            }
            after = until;
        }
    }

    /// Makes undelivered events of a webhook due now, with all their retries.
    pub async fn resend_deliveries(&self, webhook: WebhookId, now: Timestamp) -> Result<(), StoreError> {
        let resend = format!("UPDATE webhook_delivery SET due = $4, attempts = 0 WHERE {PAGE}");
        self.each_page_of(webhook, &resend, &[Arg::from(now)]).await
    }

    /// Deletes the deliveries of deleted webhooks.
    pub async fn forget_lost_deliveries(&self) -> Result<(), StoreError> {
        let sql = "SELECT d.webhook_id, EXISTS (SELECT 1 FROM webhook w WHERE w.id = d.webhook_id) \
                   FROM webhook_delivery d WHERE d.webhook_id > $1 ORDER BY d.webhook_id LIMIT 1";
        let mut after = String::new();
        while let [row] = self.0.database.fetch(sql, args![after]).await?.as_slice() {
            if !row.boolean(1)? {
                let webhook = row.id(0, WebhookId::parse, "webhook_delivery.webhook_id")?;
                self.forget_deliveries_of(webhook).await?;
            }
            after = row.text(0)?;
        }
        Ok(())
    }

    async fn forget_deliveries_of(&self, webhook: WebhookId) -> Result<(), StoreError> {
        self.each_page_of(webhook, &format!("DELETE FROM webhook_delivery WHERE {PAGE}"), &[]).await
    }

    /// Runs the statement for all deliveries of a webhook, in many changes. Deliveries that are added meanwhile may
    /// be missed.
    async fn each_page_of(&self, webhook: WebhookId, sql: &str, more: &[Arg]) -> Result<(), StoreError> {
        let next = "SELECT event_id FROM webhook_delivery WHERE webhook_id = $1 AND event_id > $2 \
                    ORDER BY event_id LIMIT $3";
        let mut after = String::new();
        loop {
            let rows = self.0.database.fetch(next, args![webhook, after.clone(), SWEEP_ROWS]).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let until = last.text(0)?;
            let mut change = Change::new();
            let mut args = args![webhook, after, until.clone()];
            args.extend_from_slice(more);
            change.push_text(sql.to_owned(), args);
            self.0.writer.commit(change).await?;
            after = until;
        }
    }

    async fn forget_answers_of(&self, project: ProjectId) -> Result<(), StoreError> {
        let is_over = "epoch <> (SELECT p.answers_epoch FROM project p WHERE p.id = $1)";
        let clients = format!(
            "SELECT c.id FROM client c WHERE c.project_id = $1 AND c.id > $2 AND EXISTS \
             (SELECT 1 FROM kept_answer k WHERE k.client_id = c.id AND k.{is_over}) ORDER BY c.id LIMIT $3"
        );
        let mut after = String::new();
        loop {
            let args = args![project, after, CLIENTS_AT_ONCE];
            let rows = self.0.database.fetch(clients.clone(), args).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.text(0)?;
            let mut change = Change::new();
            for row in &rows {
                let sql = format!("DELETE FROM kept_answer WHERE client_id = $2 AND {is_over}");
                change.push_text(sql, args![project, row.text(0)?]);
            }
            self.0.writer.commit(change).await?;
        }
    }

    async fn forget_rows_of(&self, client: ClientId) -> Result<(), StoreError> {
        for (table, key) in [
            ("secret_caller", "client_id, secret_id, address, agent, instance"),
            ("secret_minute", "client_id, secret_id, minute"),
        ] {
            let left = format!("SELECT 1 FROM {table} WHERE client_id = $1 LIMIT 1");
            for _ in 0..SWEEP_CHANGES_MAX {
                if self.0.database.fetch(left.clone(), args![client]).await?.is_empty() {
                    break;
                }
                let mut change = Change::new();
                let sql = format!(
                    "DELETE FROM {table} WHERE ({key}) IN \
                     (SELECT {key} FROM {table} WHERE client_id = $1 LIMIT $2)"
                );
                change.push_text(sql, args![client, SWEEP_ROWS]);
                self.0.writer.commit(change).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::id::{EventId, NodeId};
    use keyrelay_core::limits::USAGE_CALLERS_KEPT;
    use keyrelay_core::random::SeededEntropy;
    use keyrelay_core::secret_rules::SecretSettings;
    use keyrelay_core::slots::SecretSlots;
    use tempfile::TempDir;

    use super::*;
    use crate::{ClientRow, ProjectRow, TestDatabase};

    const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);
    /// So many that one change does not do it.
    const MANY: i64 = 2 * SWEEP_ROWS + 1;
    /// Numbers from 1 on.
    const NUMBERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ";

    struct Stage {
        store: Store,
        entropy: SeededEntropy,
        _dir: TempDir,
    }

    impl Stage {
        async fn open() -> Self {
            let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
            let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
            Self { store, entropy, _dir: dir }
        }

        async fn insert(&self, many: i64, insert: &str, args: Vec<Arg>) {
            let mut change = Change::new();
            change.push_text(format!("{NUMBERS}{many}) {insert} FROM n"), args);
            self.store.commit(change).await.unwrap();
        }

        async fn count(&self, of: &str) -> i64 {
            let sql = format!("SELECT COUNT(*) FROM {of}");
            self.store.0.database.fetch(sql, Vec::new()).await.unwrap()[0].int(0).unwrap()
        }

        async fn deliveries(&self, webhook: WebhookId) {
            let insert = "INSERT INTO webhook_delivery (webhook_id, event_id, attempts, due) SELECT $1, 'e' || i, 3, 5";
            self.insert(MANY, insert, args![webhook]).await;
        }

        async fn project(&self, clients: i64) -> (ProjectId, Vec<ClientId>) {
            let id = ProjectId::random(&self.entropy);
            let mut change = Change::new();
            let secrets = SecretSettings::default();
            change.put_project(&ProjectRow { id, name: None, active: true, super_admin: false, secrets });
            let ids: Vec<ClientId> = (0..clients).map(|_| ClientId::random(&self.entropy)).collect();
            for client in &ids {
                let row = ClientRow {
                    id: *client,
                    project: id,
                    name: None,
                    active: true,
                    access_token_lifetime: None,
                    refresh_token_lifetime: None,
                    grant_types: None,
                    default_scope: None,
                };
                change.create_client(&row, &SecretSlots::empty());
            }
            self.store.commit(change).await.unwrap();
            (id, ids)
        }
    }

    /// No statement of a change names a table of which it may leave many rows.
    fn leaves(mut change: Change, table: &str) -> Change {
        for statement in change.statements_mut() {
            assert!(!statement.sql.contains(table), "{}", statement.sql);
        }
        change
    }

    #[tokio::test]
    async fn deliveries_of_a_webhook_are_changed_in_pages() {
        let stage = Stage::open().await;
        let (project, _) = stage.project(0).await;
        let [webhook, other, lost] = [(); 3].map(|()| WebhookId::random(&stage.entropy));
        for id in [webhook, other] {
            let insert = "INSERT INTO webhook (id, project_id, url, created, created_by, signing_sealed) \
                          SELECT $1, $2, '', 0, '', $3";
            stage.insert(1, insert, args![id, project, Vec::<u8>::new()]).await;
        }
        for id in [webhook, other, lost] {
            stage.deliveries(id).await;
        }
        let mut change = Change::new();
        change.disable_webhook(webhook, NOW);
        stage.store.commit(leaves(change, "webhook_delivery")).await.unwrap();
        assert_eq!(stage.count("webhook_delivery WHERE due IS NULL").await, MANY);

        let mut change = Change::new();
        change.resend(webhook, project);
        stage.store.commit(leaves(change, "webhook_delivery")).await.unwrap();
        stage.store.resend_deliveries(webhook, NOW).await.unwrap();
        let sent = format!("webhook_delivery WHERE due = {} AND attempts = 0", NOW.epoch_ms());
        assert_eq!(stage.count(&sent).await, MANY);

        let mut change = Change::new();
        change.delete_webhook(webhook, project);
        stage.store.commit(leaves(change, "webhook_delivery")).await.unwrap();
        assert_eq!([stage.count(&sent).await, stage.count("webhook_delivery").await], [0, 2 * MANY]);
        // What a server left because it ended early.
        stage.store.forget_lost_deliveries().await.unwrap();
        assert_eq!(stage.count("webhook_delivery").await, MANY);
        let mut change = Change::new();
        change.delete_project(project);
        stage.store.commit(leaves(change, "webhook_delivery")).await.unwrap();
        assert_eq!(stage.count("webhook_delivery").await, 0);
    }

    #[tokio::test]
    async fn kept_answers_end_at_once_and_are_deleted_in_pages() {
        let stage = Stage::open().await;
        let insert =
            "INSERT INTO kept_answer (id, client_id, expires, sealed, epoch) SELECT $1 || i, $1, 1, $2, 0";
        let clients = 2 * CLIENTS_AT_ONCE + 1;
        let ((project, ids), (_, others)) = (stage.project(clients).await, stage.project(1).await);
        for client in ids.iter().chain(&others) {
            stage.insert(2, insert, args![*client, Vec::<u8>::new()]).await;
        }
        let mut change = Change::new();
        change.forget_kept_answers(project);
        let later = std::mem::take(&mut change.later);
        stage.store.commit(leaves(change, "kept_answer")).await.unwrap();
        let given = "kept_answer k JOIN client c ON c.id = k.client_id JOIN project p ON p.id = c.project_id \
                     WHERE k.epoch = p.answers_epoch";
        assert_eq!([stage.count(given).await, stage.count("kept_answer").await], [2, 2 * clients + 2]);
        stage.store.do_later(later).await;
        assert_eq!(stage.count("kept_answer").await, 2);
    }

    #[tokio::test]
    async fn old_sums_of_use_are_swept_in_pages() {
        let stage = Stage::open().await;
        let (_, clients) = stage.project(1).await;
        let kept = EventId::first_at(NOW).to_string();
        let mut change = Change::new();
        change.push(
            "UPDATE client SET retiring_id = $1 WHERE id = $2",
            args![kept.clone(), clients[0]],
            None,
        );
        stage.store.commit(change).await.unwrap();
        let insert = |secret: &str| {
            format!(
                "INSERT INTO secret_usage (secret_id, client_id, uses, first_used, last_used) \
                 SELECT {secret}, $1, 1, 0, i % 3"
            )
        };
        stage.insert(MANY, &insert("'s' || i"), args![clients[0]]).await;
        stage.insert(1, &insert("$2"), args![clients[0], kept]).await;
        let node = NodeId::random(&stage.entropy);
        stage.store.sweep_usage(node, Timestamp::from_epoch_ms(0).plus(USAGE_CALLERS_KEPT)).await.unwrap();
        assert_eq!(stage.count("secret_usage").await, MANY + 1, "none is old");
        stage.store.sweep_usage(node, NOW).await.unwrap();
        assert_eq!(stage.count("secret_usage").await, 1);
    }
}
