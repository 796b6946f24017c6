//! Attempts at an account, by password or code. Each is counted as a failure before it is judged, and only
//! afterwards, if it was none, is that taken back: whoever guesses many times at once learns no more than
//! whoever guesses one by one.

use std::time::Duration;

use keyrelay_core::limits::{CONFLICT_RETRIES_MAX, LOGIN_WAIT_FIRST};
use keyrelay_core::lockout;
use keyrelay_store::{Change, Conflict, StoreError, UserAccount};

use crate::App;

/// Counts an attempt. Gives the account as it was before, if the attempt may be judged; if not, how long the
/// account still waits.
pub(super) async fn count(
    app: &App,
    mut account: UserAccount,
) -> Result<Result<UserAccount, Duration>, StoreError> {
    let now = app.now();
    for _ in 0..CONFLICT_RETRIES_MAX {
        if let Some(wait) = lockout::wait(account.failures, account.last_failure, now) {
            return Ok(Err(wait));
        }
        let mut change = Change::new();
        change.count_login_failure(account.row.id, account.failures, now);
        match app.store.commit(change).await {
            Ok(()) => return Ok(Ok(account)),
            // Another attempt was counted meanwhile: this one comes after it.
            Err(StoreError::Conflict(Conflict::Version)) => {}
            Err(error) => return Err(error),
        }
        let Some(found) = app.store.user(account.row.id).await? else { break };
        account = found;
    }
    Ok(Err(LOGIN_WAIT_FIRST))
}
