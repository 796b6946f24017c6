//! Forgets what is dead. How much that is, callers choose: logins, assertions, minutes of use. So it goes a few
//! rows at a time, each time by a change of its own, and nobody's change waits long for it.

use keyrelay_core::limits::{SWEEP_ROWS, USAGE_CALLERS_KEPT, USAGE_MINUTES_KEPT};
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::Minute;

use crate::change::args;
use crate::database::Arg;
use crate::{Change, Store, StoreError};

/// Rows that die at a time that is one of their columns: the table, its key, the column.
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

/// From when on the rows of a table live.
fn alive_from(table: &str, now: Timestamp) -> i64 {
    match table {
        "secret_caller" => now.minus(USAGE_CALLERS_KEPT).epoch_ms(),
        "secret_minute" => Minute::of(now.minus(USAGE_MINUTES_KEPT)).number(),
        _ => now.epoch_ms(),
    }
}

impl Change {
    /// Forgets logins, revocations, assertions, kept answers, notes of events, callers and minutes of use
    /// that are dead, the oldest [`SWEEP_ROWS`] of each.
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
    /// Whether nothing is left of what [`Change::sweep`] forgets.
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
