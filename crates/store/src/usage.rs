//! How often each secret was used. In tables and statements of its own, so that writing about a
//! secret can never change one (P6).

use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::time::Timestamp;

use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// Uses of one secret, counted since the last flush or since ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The secret.
    pub secret: SecretId,
    /// The client it belongs or belonged to.
    pub client: ClientId,
    /// How often it let somebody in.
    pub uses: i64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

impl Store {
    /// Adds counted uses to what is written down.
    pub async fn add_usage(&self, uses: &[Use]) -> Result<(), StoreError> {
        let mut change = Change::new();
        for used in uses {
            change.add_usage(used);
        }
        self.commit(change).await
    }

    /// How often a secret was used, up to the last flush.
    pub async fn usage(&self, secret: SecretId) -> Result<Option<Use>, StoreError> {
        let sql = "SELECT client_id, uses, first_used, last_used FROM secret_usage WHERE secret_id = $1";
        let rows = self.0.database.fetch(sql, vec![Arg::from(secret)]).await?;
        rows.first()
            .map(|row| {
                Ok(Use {
                    secret,
                    client: row.id(0, ClientId::parse, "secret_usage.client_id")?,
                    uses: row.int(1)?,
                    first: Timestamp::from_epoch_ms(row.int(2)?),
                    last: Timestamp::from_epoch_ms(row.int(3)?),
                })
            })
            .transpose()
    }
}
