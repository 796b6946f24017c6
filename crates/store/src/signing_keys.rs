//! Keys that sign tokens, as they are kept: wrapped.

use keyrelay_core::id::SigningKeyId;
use keyrelay_core::keyring::Sealed;
use keyrelay_core::time::Timestamp;

use crate::{Store, StoreError};

/// A signing key whose private part is wrapped under a master key.
#[derive(Clone, Debug)]
pub struct StoredSigningKey {
    /// Its `kid`.
    pub id: SigningKeyId,
    /// Its `alg` (RFC 7518 §3.1).
    pub algorithm: String,
    /// PKCS#8, wrapped.
    pub sealed: Sealed,
    /// When it was made.
    pub created: Timestamp,
}

impl Store {
    /// All signing keys, newest first.
    pub async fn signing_keys(&self) -> Result<Vec<StoredSigningKey>, StoreError> {
        let sql = "SELECT id, algorithm, sealed, created FROM signing_key ORDER BY created DESC, id";
        let rows = self.0.database.fetch(sql, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredSigningKey {
                    id: row.id(0, SigningKeyId::parse, "signing_key.id")?,
                    algorithm: row.text(1)?,
                    sealed: Sealed::from_bytes(row.blob(2)?),
                    created: Timestamp::from_epoch_ms(row.int(3)?),
                })
            })
            .collect()
    }
}
