//! Keys that sign tokens, as they are kept: wrapped. When each comes and goes is decided in
//! [`keyrelay_core::signing`].

use keyrelay_core::id::SigningKeyId;
use keyrelay_core::keyring::Sealed;
use keyrelay_core::signing::{ScheduledKey, SigningAlgorithm};
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Conflict, Store, StoreError};

/// A signing key whose private part is wrapped under a master key.
#[derive(Clone, Debug)]
pub struct StoredSigningKey {
    /// Its name, and when it signs.
    pub key: ScheduledKey,
    /// PKCS#8, wrapped.
    pub sealed: Sealed,
}

impl Store {
    /// All signing keys, in the order of their generations.
    pub async fn signing_keys(&self) -> Result<Vec<StoredSigningKey>, StoreError> {
        let sql = "SELECT id, algorithm, generation, signs_from, sealed FROM signing_key ORDER BY generation";
        let rows = self.0.database.fetch_access(sql, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                let algorithm = SigningAlgorithm::parse(&row.text(1)?);
                let key = ScheduledKey {
                    id: row.id(0, SigningKeyId::parse, "signing_key.id")?,
                    algorithm: algorithm.ok_or(StoreError::Corrupt { what: "signing_key.algorithm" })?,
                    generation: row.int(2)?,
                    signs_from: Timestamp::from_epoch_ms(row.int(3)?),
                };
                Ok(StoredSigningKey { key, sealed: Sealed::from_bytes(row.blob(4)?) })
            })
            .collect()
    }
}

impl Change {
    /// Keeps a signing key, if there is none of its generation.
    pub fn create_signing_key(&mut self, key: &ScheduledKey, sealed: &Sealed, now: Timestamp) {
        self.push(
            "INSERT INTO signing_key (id, algorithm, generation, signs_from, sealed, created) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            args![
                key.id,
                key.algorithm.as_str(),
                key.generation,
                key.signs_from,
                sealed.as_bytes().to_vec(),
                now,
            ],
            Some(Conflict::Exists),
        );
    }

    /// Forgets a signing key: nothing that it signed verifies from now on.
    pub fn forget_signing_key(&mut self, id: SigningKeyId) {
        self.push("DELETE FROM signing_key WHERE id = $1", args![id], None);
    }
}
