//! Client assertions that were used, so that none is used twice, also not after a restart.

use keyrelay_core::caller::Profile;
use keyrelay_core::change_rates::Payer;
use keyrelay_core::id::{ClientId, ProjectId};
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Conflict, Store, StoreError};

impl Store {
    /// Marks an assertion as used until it is dead. False if it was used before. `jti` is the digest of
    /// its `jti`, in base64url. It counts against the rates of the client and its project, separately from
    /// their changes, so that neither blocks the other.
    pub async fn use_assertion(
        &self,
        client: ClientId,
        project: ProjectId,
        jti: String,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut change = Change::new();
        change.is_assertion = true;
        change.payer = Some(Payer { project, author: Profile::client(client), is_admin: false, at: now });
        change.push(
            "INSERT INTO used_assertion (client_id, jti, expires) VALUES ($1, $2, $3)",
            args![client, jti, expires],
            Some(Conflict::Exists),
        );
        match self.commit(change).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict(Conflict::Exists)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
