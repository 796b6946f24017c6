//! Deletes expired rows: logins, assertions, minutes of use. Callers choose how many they are, so a sweep deletes a
//! few
//! rows at a time, each time in its own change, and no other change waits long.

use keyrelay_core::limits::{SWEEP_ROWS, USAGE_CALLERS_KEPT, USAGE_MINUTES_KEPT};
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::Minute;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// Tables whose rows expire at a time in one of their columns: the table, its key, the column.
const MORTAL: [(&str, &str, &str); 8] = [
    ("session", "id", "expires"),
    ("revoked_token", "id", "expires"),
    ("used_assertion", "client_id, jti", "expires"),
    ("registration_grant", "id", "expires"),
    ("kept_answer", "id", "expires"),
    ("event_told", "secret_id, what", "until"),
    ("secret_caller", "client_id, secret_id, address, agent, instance", "last_seen"),
    ("secret_minute", "client_id, secret_id, minute", "minute"),
];

/// Rows of a table that are older than this have expired.
fn alive_from(table: &str, now: Timestamp) -> i64 {
    match table {
        "secret_caller" => now.minus(USAGE_CALLERS_KEPT).epoch_ms(),
        "secret_minute" => Minute::of(now.minus(USAGE_MINUTES_KEPT)).number(),
        _ => now.epoch_ms(),
    }
}

impl Change {
    /// Deletes expired logins, revocations, assertions, kept answers, notes of events, callers and minutes of use,
    /// the oldest [`SWEEP_ROWS`] of each.
    pub fn sweep(&mut self, now: Timestamp) {
        for (table, key, dies) in MORTAL {
            let sql = format!(
                "DELETE FROM {table} WHERE ({key}) IN \
                 (SELECT {key} FROM {table} WHERE {dies} < $1 ORDER BY {dies} LIMIT $2)"
            );
            self.push_text(sql, args![alive_from(table, now), SWEEP_ROWS]);
        }
    }
}

impl Store {
    /// Whether [`Change::sweep`] has no more rows to delete.
    pub async fn is_swept(&self, now: Timestamp) -> Result<bool, StoreError> {
        for (table, _, dies) in MORTAL {
            let sql = format!("SELECT 1 FROM {table} WHERE {dies} < $1 LIMIT 1");
            if !self.0.database.fetch(sql, args![alive_from(table, now)]).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
