//! Moving what is sealed under older master keys to the first one, while everything goes on.
//!
//! The tables are walked in the order of their ids, some rows at a time, and what is under an older key is
//! written back under the first. Each statement is bound to the value that was read: where somebody rotated
//! meanwhile, nothing is written, and the next walk looks again. So it can be stopped at any moment and
//! begun anew, by several at once too. A secret itself never changes here (P6): the same value is kept under
//! another key, in the same slot, with the same id.

use keyrelay_core::id::{ClientId, UserId, WebhookId};
use keyrelay_core::idempotency::KeptAnswerId;
use keyrelay_core::keyring::{Keyring, KeyringError, Sealed};
use keyrelay_core::limits::{RESEAL_ROWS, RESEAL_STATEMENTS, RESEAL_WALKS_MAX};
use keyrelay_core::random::Entropy;
use keyrelay_core::slots::{Slot, SlotKind, StoredSlots};

use crate::change::args;
use crate::clients::{proof, slots};
use crate::database::{Arg, Row};
use crate::{Change, Store, StoreError};

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that were moved to the first key.
    pub moved: u64,
    /// Values that do not open: under a key that is not listed, or damaged.
    pub unopened: u64,
}

/// One walk through all tables.
struct Walk<'a> {
    store: &'a Store,
    keyring: &'a Keyring,
    entropy: &'a dyn Entropy,
    told: &'a mut (dyn FnMut(u64) + Send),
    change: Change,
    waiting: usize,
    done: Resealed,
}

impl Store {
    /// Moves everything that can be moved to the first key. `told` hears how many values were moved so far.
    pub async fn reseal(
        &self,
        keyring: &Keyring,
        entropy: &dyn Entropy,
        told: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Resealed, StoreError> {
        let mut all = Resealed::default();
        for _ in 0..RESEAL_WALKS_MAX {
            let before = all.moved;
            let mut told_of_all = |moved| told(before + moved);
            let (change, done) = (Change::new(), Resealed::default());
            let told = &mut told_of_all;
            let mut walk = Walk { store: self, keyring, entropy, told, change, waiting: 0, done };
            walk.signing_keys().await?;
            walk.audit_key().await?;
            walk.second_factors().await?;
            walk.webhooks().await?;
            walk.clients().await?;
            walk.kept_answers().await?;
            walk.write().await?;
            all = Resealed { moved: before + walk.done.moved, unopened: walk.done.unopened };
            if walk.done.moved == 0 {
                break;
            }
        }
        Ok(all)
    }
}

impl Walk<'_> {
    async fn signing_keys(&mut self) -> Result<(), StoreError> {
        for stored in self.store.signing_keys().await? {
            let id = stored.key.id;
            let resealed = self.keyring.reseal_signing_key(id, &stored.sealed, self.entropy);
            if let Some(sealed) = self.opened(resealed) {
                let sql = "UPDATE signing_key SET sealed = $1 WHERE id = $2 AND sealed = $3";
                self.push(sql, args![bytes(&sealed), id, bytes(&stored.sealed)]).await?;
            }
        }
        Ok(())
    }

    async fn audit_key(&mut self) -> Result<(), StoreError> {
        let Some(stored) = self.store.audit_key().await? else { return Ok(()) };
        let resealed = self.keyring.reseal_audit_root(&stored, self.entropy);
        if let Some(sealed) = self.opened(resealed) {
            let sql = "UPDATE audit_key SET sealed = $1 WHERE sealed = $2";
            self.push(sql, args![bytes(&sealed), bytes(&stored)]).await?;
        }
        Ok(())
    }

    async fn second_factors(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT id, totp_sealed FROM user_account WHERE id > $1 AND totp_sealed IS NOT NULL \
                   ORDER BY id LIMIT $2";
        let mut pages = Pages::of(sql);
        while let Some(rows) = pages.next(self.store).await? {
            for row in &rows {
                let user = row.id(0, UserId::parse, "user_account.id")?;
                let sealed = Sealed::from_bytes(row.blob(1)?);
                let resealed = self.keyring.reseal_second_factor(user, &sealed, self.entropy);
                if let Some(fresh) = self.opened(resealed) {
                    let sql = "UPDATE user_account SET totp_sealed = $1 WHERE id = $2 AND totp_sealed = $3";
                    self.push(sql, args![bytes(&fresh), user, bytes(&sealed)]).await?;
                }
            }
        }
        Ok(())
    }

    async fn webhooks(&mut self) -> Result<(), StoreError> {
        let sql =
            "SELECT id, signing_sealed, retiring_sealed FROM webhook WHERE id > $1 ORDER BY id LIMIT $2";
        let mut pages = Pages::of(sql);
        while let Some(rows) = pages.next(self.store).await? {
            for row in &rows {
                let webhook = row.id(0, WebhookId::parse, "webhook.id")?;
                for (column, sql) in [
                    (1, "UPDATE webhook SET signing_sealed = $1 WHERE id = $2 AND signing_sealed = $3"),
                    (2, "UPDATE webhook SET retiring_sealed = $1 WHERE id = $2 AND retiring_sealed = $3"),
                ] {
                    let Some(sealed) = row.opt_blob(column)?.map(Sealed::from_bytes) else { continue };
                    let resealed = self.keyring.reseal_signing_secret(webhook, &sealed, self.entropy);
                    if let Some(fresh) = self.opened(resealed) {
                        self.push(sql, args![bytes(&fresh), webhook, bytes(&sealed)]).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn clients(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT id, active_id, active_proof, active_sealed, active_created, active_by, \
                   retiring_id, retiring_proof, retiring_sealed, retiring_created, retiring_by, retiring_ends \
                   FROM client WHERE id > $1 ORDER BY id LIMIT $2";
        let mut pages = Pages::of(sql);
        while let Some(rows) = pages.next(self.store).await? {
            for row in &rows {
                let client = row.id(0, ClientId::parse, "client.id")?;
                self.client(client, &slots(row, 1)?).await?;
            }
        }
        Ok(())
    }

    async fn client(&mut self, client: ClientId, slots: &StoredSlots) -> Result<(), StoreError> {
        for kind in [SlotKind::Active, SlotKind::Retiring] {
            let Some(slot) = slots.kept(kind) else { continue };
            let resealed = self.keyring.reseal_slot(client, slot, self.entropy);
            let Some(fresh) = self.opened(resealed) else { continue };
            let sql = match kind {
                SlotKind::Active => {
                    "UPDATE client SET active_proof = $1, active_sealed = $2 \
                     WHERE id = $3 AND active_id = $4 AND active_proof = $5"
                }
                SlotKind::Retiring => {
                    "UPDATE client SET retiring_proof = $1, retiring_sealed = $2 \
                     WHERE id = $3 AND retiring_id = $4 AND retiring_proof = $5"
                }
            };
            self.push(sql, args![proof(&fresh), sealed(&fresh), client, slot.id, proof(slot)]).await?;
        }
        Ok(())
    }

    /// Moved and not dropped: in a project that shows secrets once, an answer may be all that is left of one.
    async fn kept_answers(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT id, client_id, sealed FROM kept_answer WHERE id > $1 ORDER BY id LIMIT $2";
        let mut pages = Pages::of(sql);
        while let Some(rows) = pages.next(self.store).await? {
            for row in &rows {
                let id = row.id(0, KeptAnswerId::parse, "kept_answer.id")?;
                let client = row.id(1, ClientId::parse, "kept_answer.client_id")?;
                let sealed = Sealed::from_bytes(row.blob(2)?);
                let resealed = self.keyring.reseal_answer(id, client, &sealed, self.entropy);
                if let Some(fresh) = self.opened(resealed) {
                    let sql = "UPDATE kept_answer SET sealed = $1 WHERE id = $2 AND sealed = $3";
                    self.push(sql, args![bytes(&fresh), id.to_string(), bytes(&sealed)]).await?;
                }
            }
        }
        Ok(())
    }

    /// What was resealed, if anything was to be. What does not open is left as it is, and counted.
    fn opened<T>(&mut self, resealed: Result<Option<T>, KeyringError>) -> Option<T> {
        resealed.unwrap_or_else(|error| {
            tracing::warn!(%error, "a value cannot be moved to the first master key");
            self.done.unopened += 1;
            None
        })
    }

    async fn push(&mut self, sql: &'static str, args: Vec<Arg>) -> Result<(), StoreError> {
        self.change.push(sql, args, None);
        self.waiting += 1;
        if self.waiting < RESEAL_STATEMENTS { Ok(()) } else { self.write().await }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if self.waiting > 0 {
            self.store.commit(std::mem::take(&mut self.change)).await?;
            self.done.moved += u64::try_from(std::mem::take(&mut self.waiting)).unwrap_or(0);
            (self.told)(self.done.moved);
        }
        Ok(())
    }
}

/// The rows of a table, some at a time, in the order of the ids in their first column.
struct Pages {
    sql: &'static str,
    /// The last id that was read.
    after: String,
}

impl Pages {
    const fn of(sql: &'static str) -> Self {
        Self { sql, after: String::new() }
    }

    /// The next rows; none at the end.
    async fn next(&mut self, store: &Store) -> Result<Option<Vec<Row>>, StoreError> {
        let rows = store.0.database.fetch(self.sql, args![self.after.as_str(), RESEAL_ROWS]).await?;
        let Some(last) = rows.last() else { return Ok(None) };
        self.after = last.text(0)?;
        Ok(Some(rows))
    }
}

fn bytes(sealed: &Sealed) -> Vec<u8> {
    sealed.as_bytes().to_vec()
}

fn sealed(slot: &Slot) -> Option<Vec<u8>> {
    slot.sealed.as_ref().map(bytes)
}
