//! What belongs to a change and would take long: as many rows as a project has clients, or a client callers. So it
//! is done after the commit and before the answer, a few rows at a time, each time by a change of its own.

use keyrelay_core::id::{ClientId, ProjectId};
use keyrelay_core::limits::{SWEEP_CHANGES_MAX, SWEEP_ROWS};

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Later {
    /// Forget the sealed values of the secrets of a project, unless it says by then that they can be read again.
    SealedOf(ProjectId),
    /// Forget who used the secrets of a client that is gone.
    UsesOf(ClientId),
}

impl Store {
    /// Does what is left of a change that is durable. What fails is logged, and does not change the answer:
    /// nothing of it is seen by anybody, and a sweep retries.
    pub(crate) async fn do_later(&self, later: Vec<Later>) {
        for later in later {
            let done = match later {
                Later::SealedOf(project) => self.forget_sealed_of(project).await,
                Later::UsesOf(client) => self.forget_rows_of(client).await,
            };
            if let Err(error) = done {
                tracing::warn!(%error, ?later, "failed to delete what a change left; a sweep retries");
            }
        }
    }

    /// Forgets the sealed values that a server left that ended before it could.
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
