//! Answers that are kept for their `Idempotency-Key`, written with the change that they are the answer to. They
//! are sealed: what is in them, and what was asked, the server knows.

use keyrelay_core::id::{ClientId, ProjectId};
use keyrelay_core::idempotency::KeptAnswerId;
use keyrelay_core::keyring::{Sealed, SecretVisibility};
use keyrelay_core::limits::{KEPT_ANSWER_LIFETIME, KEPT_ANSWERS_PER_CLIENT_MAX};
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::Arg;
use crate::later::Later;
use crate::{Change, Conflict, Store, StoreError};

/// An answer that is kept.
#[derive(Clone, Debug)]
pub struct KeptAnswer {
    /// What it is kept under.
    pub id: KeptAnswerId,
    /// The client that it is about.
    pub client: ClientId,
    /// The answer, and what it is the answer to.
    pub sealed: Sealed,
}

impl Store {
    /// The answer that is kept under an id, if its time is not over at `now`.
    pub async fn kept_answer(
        &self,
        id: KeptAnswerId,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let sql = "SELECT k.client_id, k.sealed FROM kept_answer k JOIN client c ON c.id = k.client_id \
                   JOIN project p ON p.id = c.project_id \
                   WHERE k.id = $1 AND k.expires > $2 AND k.epoch = p.answers_epoch";
        let rows = self.0.database.fetch_access(sql, args![id.to_string(), now]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(KeptAnswer {
            id,
            client: row.id(0, ClientId::parse, "kept_answer.client_id")?,
            sealed: Sealed::from_bytes(row.blob(1)?),
        }))
    }
}

impl Change {
    /// Keeps an answer from `now` on. Where one is kept under the id already, nothing of the change is made;
    /// neither where the project shows secrets otherwise than when the answer was written: there may be more in
    /// it than is to be kept.
    pub fn keep_answer(&mut self, answer: &KeptAnswer, settings: &SecretSettings, now: Timestamp) {
        let id = answer.id.to_string();
        self.push(
            "DELETE FROM kept_answer WHERE id = $1 AND (expires <= $2 OR epoch <> (SELECT p.answers_epoch \
             FROM client c JOIN project p ON p.id = c.project_id WHERE c.id = kept_answer.client_id))",
            args![id.clone(), now],
            None,
        );
        self.push(
            "INSERT INTO kept_answer (id, client_id, expires, sealed, epoch) SELECT $1, $2, $3, $4, p.answers_epoch \
             FROM client c JOIN project p ON p.id = c.project_id WHERE c.id = $2 AND p.secret_once = $5",
            args![
                id,
                answer.client,
                now.plus(KEPT_ANSWER_LIFETIME),
                answer.sealed.as_bytes().to_vec(),
                settings.visibility == Some(SecretVisibility::Once),
            ],
            Some(Conflict::Version),
        );
        self.push(
            "DELETE FROM kept_answer WHERE client_id = $1 AND id IN ( \
             SELECT id FROM kept_answer WHERE client_id = $1 ORDER BY expires DESC, id LIMIT 1000000 OFFSET $2)",
            args![answer.client, KEPT_ANSWERS_PER_CLIENT_MAX],
            None,
        );
    }

    /// Forgets the answers that were kept while a project's secrets could be read again. Belongs before the
    /// change of the project; those that are kept in one that shows them once already stay. From this change on none
    /// of
    /// them is returned again; their rows are deleted after it.
    pub fn forget_kept_answers(&mut self, project: ProjectId) {
        self.push(
            "UPDATE project SET answers_epoch = answers_epoch + 1 WHERE id = $1 AND NOT secret_once",
            args![project],
            None,
        );
        self.later.push(Later::AnswersOf(project));
    }
}
