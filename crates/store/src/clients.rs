//! Client applications with their secrets, as whoever shows or changes them needs both at once.

use std::collections::HashMap;

use keyrelay_core::caller::Profile;
use keyrelay_core::id::{ClientId, ResourceId, SecretId};
use keyrelay_core::keyring::{KeyId, Sealed};
use keyrelay_core::limits::READ_GROUP_MAX;
use keyrelay_core::secret::SecretDigest;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::slots::{Presented, Slot, SlotKind, StoredSlots};
use keyrelay_core::time::Timestamp;

use crate::database::{Arg, Row};
use crate::group::{GroupQuery, placeholders};
use crate::projects::{SETTINGS, settings};
use crate::resources::{self, COLUMNS};
use crate::{ResourceVersion, Store, StoreError, Turn};

/// A client application and its secrets, of the same moment.
#[derive(Clone, Debug)]
pub struct ClientState {
    /// The current version of the resource.
    pub resource: ResourceVersion,
    /// Its secrets, each in its time; empty for a deleted client.
    pub slots: StoredSlots,
    /// How many of its secrets have ended.
    pub former_count: i64,
    /// What its project says about its secrets.
    pub settings: SecretSettings,
}

impl ClientState {
    /// Whether the client proves itself by a secret, or did before its last one was revoked: then it is not let
    /// in at its word as one that never had any.
    #[must_use]
    pub const fn has_or_had_secret(&self) -> bool {
        self.slots.kept(SlotKind::Active).is_some() || self.former_count > 0
    }
}

/// Reads many clients, deleted ones too.
pub(crate) const QUERY: GroupQuery<ClientId, ClientState> =
    GroupQuery { text, row: |row| read(row).map(|state| (state.resource.id.into(), state)) };

fn text(ids: &[ClientId]) -> (String, Vec<Arg>) {
    let text = format!(
        "SELECT {COLUMNS}, \
         c.active_id, c.active_proof, c.active_sealed, c.active_created, c.active_by, \
         c.retiring_id, c.retiring_proof, c.retiring_sealed, c.retiring_created, c.retiring_by, c.retiring_ends, \
         c.former_count, {SETTINGS} \
         FROM resource r LEFT JOIN client c ON c.id = r.id LEFT JOIN project p ON p.id = r.project_id \
         WHERE r.id IN ({})",
        placeholders(ids.len())
    );
    (text, ids.iter().copied().map(Arg::from).collect())
}

fn read(row: &Row) -> Result<ClientState, StoreError> {
    Ok(ClientState {
        resource: resources::read(row)?,
        slots: slots(row, 8)?,
        former_count: row.opt_int(19)?.unwrap_or(0),
        settings: settings(row, 20)?,
    })
}

/// Reads the two slots from eleven columns, `id, proof, sealed, created, by` each, and when the retiring one ends.
pub(crate) fn slots(row: &Row, first: usize) -> Result<StoredSlots, StoreError> {
    let retiring = slot(row, first + 5)?;
    Ok(match (slot(row, first)?, retiring) {
        (Some(active), Some(retiring)) => {
            let ends = row.opt_int(first + 10)?.map(Timestamp::from_epoch_ms);
            StoredSlots::with_both(active, retiring, ends)
        }
        (Some(active), None) => StoredSlots::with_active(active),
        (None, None) => StoredSlots::empty(),
        (None, Some(_)) => return Err(StoreError::Corrupt { what: "client.active_id" }),
    })
}

fn slot(row: &Row, first: usize) -> Result<Option<Slot>, StoreError> {
    let Some(id) = row.opt_id(first, SecretId::parse, "client.active_id or retiring_id")? else {
        return Ok(None);
    };
    let proof = row.blob(first + 1)?;
    let (key, digest) =
        split_proof(&proof).ok_or(StoreError::Corrupt { what: "client.active_proof or retiring_proof" })?;
    Ok(Some(Slot {
        id,
        key,
        digest,
        sealed: row.opt_blob(first + 2)?.map(Sealed::from_bytes),
        created: Timestamp::from_epoch_ms(row.int(first + 3)?),
        by: row.opt_id(first + 4, Profile::parse, "client.active_by or retiring_by")?,
    }))
}

/// What a `*_proof` column holds: the master key's id and the digest made under it.
pub(crate) fn proof(slot: &Slot) -> Vec<u8> {
    join_proof(slot.key, &slot.digest)
}

fn join_proof(key: KeyId, digest: &SecretDigest) -> Vec<u8> {
    [key.as_bytes().as_slice(), digest.as_bytes()].concat()
}

fn split_proof(bytes: &[u8]) -> Option<(KeyId, SecretDigest)> {
    let (key, digest) = bytes.split_first_chunk::<8>()?;
    Some((KeyId::from_bytes(*key), SecretDigest::from_bytes(digest.try_into().ok()?)))
}

impl Store {
    /// Which of a client's former secrets a presented value is, if it is one of the last
    /// [`keyrelay_core::limits::FORMER_SECRETS_MAX`], or the retiring one whose deadline has passed at `now`. The last
    /// secrets of a client that was deleted, or whose project was, are former ones too.
    pub async fn former_secret(
        &self,
        client: ClientId,
        presented: &Presented,
        now: Timestamp,
    ) -> Result<Option<SecretId>, StoreError> {
        for (key, digest) in presented.digests() {
            let sql = "SELECT secret_id FROM former_secret WHERE client_id = $1 AND proof = $2 \
                       UNION ALL SELECT retiring_id FROM client \
                       WHERE id = $1 AND retiring_proof = $2 AND retiring_ends <= $3 \
                       UNION ALL SELECT CASE WHEN active_proof = $2 THEN active_id ELSE retiring_id END FROM client \
                       WHERE id = $1 AND (active_proof = $2 OR retiring_proof = $2) \
                       AND NOT EXISTS (SELECT 1 FROM project p WHERE p.id = client.project_id) LIMIT 1";
            let args = vec![Arg::from(client), Arg::from(join_proof(key, digest)), Arg::from(now)];
            if let Some(row) = self.0.database.fetch_access(sql, args).await?.first() {
                return row.id(0, SecretId::parse, "former_secret.secret_id").map(Some);
            }
        }
        Ok(None)
    }

    /// The client applications among `ids`, with their secrets; in the turn of a project, if a caller asked for them.
    pub async fn clients(
        &self,
        ids: &[ResourceId],
        turn: Option<&Turn>,
    ) -> Result<HashMap<ClientId, ClientState>, StoreError> {
        let mut found = HashMap::with_capacity(ids.len());
        // Not by the queue that rotations wait in: a large page would fill it.
        for chunk in ids.chunks(READ_GROUP_MAX) {
            let ids: Vec<ClientId> = chunk.iter().copied().map(ClientId::from).collect();
            let (sql, args) = text(&ids);
            let rows = match turn {
                Some(turn) => self.0.database.fetch_in_turn(turn, sql, args).await?,
                None => self.0.database.fetch_once(sql, args).await?,
            };
            for row in rows {
                let state = read(&row)?;
                found.insert(ClientId::from(state.resource.id), state);
            }
        }
        Ok(found)
    }
}
