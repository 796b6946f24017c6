//! How often each secret was used, when, and by whom. In tables and statements of its own, so that
//! writing about a secret can never change one (P6).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use keyrelay_core::id::{ClientId, NodeId, ProjectId, SecretId};
use keyrelay_core::limits::{
    SWEEP_ROWS, USAGE_CALLERS_KEPT, USAGE_CALLERS_PER_SECRET_MAX, USAGE_SILENCE_MAX,
};
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{CallerUsage, Minute, Presenter, SecretUsage, Tally, UsageKey};

use crate::change::args;
use crate::database::{Arg, Row};
use crate::later::Later;
use crate::{Change, Conflict, Store, StoreError};

/// Callers in one statement: few enough texts to keep their plans, and a fleet in few of them.
const CALLERS_CHUNK: usize = 25;

/// What is known of the uses of one secret.
#[derive(Clone, Debug, Default)]
pub struct UsageOfSecret {
    /// All of them; none where it was never used.
    pub total: Option<Tally>,
    /// Those of the last hour and of the last day.
    pub recent: Recent,
    /// By who presented it, who was last first.
    pub callers: Vec<CallerUsage>,
}

/// Proofs that let somebody in, and proofs that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Accepted in the last hour.
    pub accepted_hour: i64,
    /// Accepted in the last day.
    pub accepted_day: i64,
    /// Refused in the last hour.
    pub refused_hour: i64,
    /// Refused in the last day.
    pub refused_day: i64,
}

/// The uses of one secret in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageOfMinute {
    /// Which.
    pub minute: Minute,
    /// Proofs that were accepted in it.
    pub accepted: i64,
    /// Proofs that were refused in it.
    pub refused: i64,
}

/// Up to when a server has written down what it counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageMark {
    /// The server.
    pub node: NodeId,
    /// All that it counted until then is in the database.
    pub complete_until: Timestamp,
    /// How often it has written. Whatever it writes moves this on by one, from what it knows: so of two
    /// attempts at one flush, only one can be made.
    pub flushes: i64,
    /// When it was found that it had ended without a word; what it counted between its last flush and then
    /// may be lost.
    pub ended: Option<Timestamp>,
}

impl UsageMark {
    /// As it is after one more flush.
    #[must_use]
    pub const fn moved(self, complete_until: Timestamp) -> Self {
        Self { complete_until, flushes: self.flushes + 1, ended: None, ..self }
    }
}

impl Store {
    /// Adds counted uses to what is written down, and moves the mark of the server that counted them, which
    /// must be where it was. If it is not known whether that was done, the same again does it if, and only
    /// if, it was not; otherwise it is a conflict.
    pub async fn add_usage(
        &self,
        counted: &[(UsageKey, SecretUsage)],
        mark: UsageMark,
        complete_until: Timestamp,
    ) -> Result<UsageMark, StoreError> {
        let mut change = Change::new();
        let moved = mark.moved(complete_until);
        change.push(
            "UPDATE usage_mark SET complete_until = $3, flushes = $4, ended = NULL WHERE node = $1 AND flushes = $2",
            args![mark.node, mark.flushes, moved.complete_until, moved.flushes],
            Some(Conflict::Version),
        );
        for (key, usage) in counted {
            change.add_usage(*key, usage);
        }
        self.commit(change).await?;
        Ok(moved)
    }

    /// Says that a server ends, and has written down all that it counted.
    pub async fn end_usage(&self, node: NodeId) -> Result<(), StoreError> {
        let mut change = Change::new();
        change.push("DELETE FROM usage_mark WHERE node = $1", args![node], None);
        self.commit(change).await
    }

    /// Says that a server counts, and has nothing from before `complete_until` to write down: were it killed at
    /// once, its mark would tell. Where nobody else can use the database, whoever has a mark in it has ended.
    pub async fn begin_usage(
        &self,
        node: NodeId,
        complete_until: Timestamp,
        now: Timestamp,
    ) -> Result<UsageMark, StoreError> {
        let mut change = Change::new();
        change.push(
            "INSERT INTO usage_began (began) SELECT CAST($1 AS BIGINT) \
             WHERE NOT EXISTS (SELECT 1 FROM usage_began)",
            args![now],
            None,
        );
        if !self.is_shared() {
            change.push("UPDATE usage_mark SET ended = $1 WHERE ended IS NULL", args![now], None);
        }
        let mark = UsageMark { node, complete_until, flushes: 0, ended: None };
        change.push(
            "INSERT INTO usage_mark (node, complete_until, flushes) VALUES ($1, $2, $3)",
            args![mark.node, mark.complete_until, mark.flushes],
            Some(Conflict::Id),
        );
        self.commit(change).await?;
        Ok(mark)
    }

    /// Since when callers are told apart.
    pub async fn usage_began(&self) -> Result<Option<Timestamp>, StoreError> {
        let rows = self.0.database.fetch("SELECT MIN(began) FROM usage_began", Vec::new()).await?;
        let began = rows.first().map(|row| row.opt_int(0)).transpose()?;
        Ok(began.flatten().map(Timestamp::from_epoch_ms))
    }

    /// Up to when each server that is at work, or ended out of order, has written down what it counted.
    pub async fn usage_marks(&self) -> Result<Vec<UsageMark>, StoreError> {
        let sql = "SELECT node, complete_until, flushes, ended FROM usage_mark ORDER BY node";
        let rows = self.0.database.fetch(sql, Vec::new()).await?;
        let mark = |row: &Row| {
            Ok(UsageMark {
                node: row.id(0, NodeId::parse, "usage_mark.node")?,
                complete_until: Timestamp::from_epoch_ms(row.int(1)?),
                flushes: row.int(2)?,
                ended: row.opt_int(3)?.map(Timestamp::from_epoch_ms),
            })
        };
        rows.iter().map(mark).collect()
    }

    /// The uses of some secrets of a client, up to the last flush of each server.
    pub async fn usage(
        &self,
        client: ClientId,
        secrets: [SecretId; 3],
        now: Timestamp,
    ) -> Result<HashMap<SecretId, UsageOfSecret>, StoreError> {
        let mut found: HashMap<SecretId, UsageOfSecret> = HashMap::new();
        let [first, second, third] = secrets;
        let sql = "SELECT secret_id, uses, refused, first_used, last_used FROM secret_usage \
                   WHERE client_id = $1 AND secret_id IN ($2, $3, $4)";
        for row in self.0.database.fetch(sql, args![client, first, second, third]).await? {
            found.entry(secret(&row)?).or_default().total = Some(tally(&row, 1)?);
        }
        let sql = "SELECT secret_id, CAST(SUM(CASE WHEN minute > $5 THEN uses ELSE 0 END) AS BIGINT), \
                   CAST(SUM(uses) AS BIGINT), CAST(SUM(CASE WHEN minute > $5 THEN refused ELSE 0 END) AS BIGINT), \
                   CAST(SUM(refused) AS BIGINT) FROM secret_minute \
                   WHERE client_id = $1 AND secret_id IN ($2, $3, $4) AND minute > $6 GROUP BY secret_id";
        let minute = Minute::of(now).number();
        let args = args![client, first, second, third, minute - 60, minute - 24 * 60];
        for row in self.0.database.fetch(sql, args).await? {
            found.entry(secret(&row)?).or_default().recent = Recent {
                accepted_hour: row.int(1)?,
                accepted_day: row.int(2)?,
                refused_hour: row.int(3)?,
                refused_day: row.int(4)?,
            };
        }
        let sql = "SELECT secret_id, uses, refused, first_seen, last_seen, address, agent, instance FROM secret_caller \
                   WHERE client_id = $1 AND secret_id IN ($2, $3, $4) ORDER BY last_seen DESC, address, agent, instance";
        for row in self.0.database.fetch(sql, args![client, first, second, third]).await? {
            let caller = CallerUsage { caller: presenter(&row, 5)?, tally: tally(&row, 1)? };
            found.entry(secret(&row)?).or_default().callers.push(caller);
        }
        Ok(found)
    }
}

impl Store {
    /// The uses of some secrets of a client, minute by minute, from the one after `after` on. A minute without
    /// any use is not among them.
    pub async fn usage_by_minute(
        &self,
        client: ClientId,
        secrets: [SecretId; 3],
        after: Minute,
    ) -> Result<HashMap<SecretId, Vec<UsageOfMinute>>, StoreError> {
        let mut found: HashMap<SecretId, Vec<UsageOfMinute>> = HashMap::new();
        let [first, second, third] = secrets;
        let sql = "SELECT secret_id, minute, uses, refused FROM secret_minute \
                   WHERE client_id = $1 AND secret_id IN ($2, $3, $4) AND minute > $5 ORDER BY minute";
        let args = args![client, first, second, third, after.number()];
        for row in self.0.database.fetch(sql, args).await? {
            let minute = Minute::from_number(row.int(1)?);
            let usage = UsageOfMinute { minute, accepted: row.int(2)?, refused: row.int(3)? };
            found.entry(secret(&row)?).or_default().push(usage);
        }
        Ok(found)
    }
}

fn secret(row: &Row) -> Result<SecretId, StoreError> {
    row.id(0, SecretId::parse, "the secret of a count")
}

fn tally(row: &Row, at: usize) -> Result<Tally, StoreError> {
    Ok(Tally {
        accepted: row.int(at)?,
        refused: row.int(at + 1)?,
        first: Timestamp::from_epoch_ms(row.int(at + 2)?),
        last: Timestamp::from_epoch_ms(row.int(at + 3)?),
    })
}

fn presenter(row: &Row, at: usize) -> Result<Option<Presenter>, StoreError> {
    let address = row.text(at)?;
    if address.is_empty() {
        return Ok(None);
    }
    let corrupt = StoreError::Corrupt { what: "secret_caller.address" };
    let address: IpAddr = address.parse().map_err(|_| corrupt)?;
    Ok(Some(Presenter { address, agent: row.text(at + 1)?, instance: row.text(at + 2)? }))
}

impl Change {
    fn add_usage(&mut self, key: UsageKey, usage: &SecretUsage) {
        // What is none of the client's secrets has no sum of its own: attempts are of many kinds.
        if key.secret != SecretId::NIL {
            let total = &usage.total;
            self.push(
                "INSERT INTO secret_usage (secret_id, client_id, uses, refused, first_used, last_used) \
                 VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (secret_id) DO UPDATE SET uses = secret_usage.uses + excluded.uses, \
                 refused = secret_usage.refused + excluded.refused, \
                 last_used = CASE WHEN excluded.last_used > secret_usage.last_used THEN excluded.last_used \
                 ELSE secret_usage.last_used END",
                args![key.secret, key.client, total.accepted, total.refused, total.first, total.last],
                None,
            );
        }
        for (minute, tally) in &usage.minutes {
            self.push(
                "INSERT INTO secret_minute (client_id, secret_id, minute, uses, refused) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (client_id, secret_id, minute) DO UPDATE SET uses = secret_minute.uses + excluded.uses, \
                 refused = secret_minute.refused + excluded.refused",
                args![key.client, key.secret, minute.number(), tally.accepted, tally.refused],
                None,
            );
        }
        let mut callers: Vec<_> = usage.callers.iter().map(|(by, tally)| (Some(by), tally)).collect();
        callers.sort_unstable_by_key(|(by, _)| *by);
        callers.extend(usage.others.as_ref().map(|others| (None, others)));
        for some in callers.chunks(CALLERS_CHUNK) {
            self.add_callers(key, usage.project, some);
        }
        self.fold_callers(key);
    }

    /// Callers of one secret; without a presenter, those that are no longer told apart.
    fn add_callers(&mut self, key: UsageKey, project: ProjectId, callers: &[(Option<&Presenter>, &Tally)]) {
        let mut sql = String::from(
            "INSERT INTO secret_caller \
             (client_id, secret_id, address, agent, instance, uses, refused, first_seen, last_seen, project_id) VALUES ",
        );
        let mut args = args![key.client, key.secret];
        for (n, (by, tally)) in callers.iter().enumerate() {
            let separator = if n == 0 { "($1, $2" } else { ", ($1, $2" };
            sql.push_str(separator);
            for n in 1..=8 {
                // Writing to a String cannot fail.
                let _ = write!(sql, ", ${}", args.len() + n);
            }
            sql.push(')');
            let address = by.map_or_else(String::new, |by| by.address.to_string());
            let [agent, instance] = by.map_or(["", ""], |by| [&by.agent, &by.instance]);
            args.extend(args![
                address,
                agent,
                instance,
                tally.accepted,
                tally.refused,
                tally.first,
                tally.last,
                by.map(|_| project)
            ]);
        }
        sql.push_str(
            " ON CONFLICT (client_id, secret_id, address, agent, instance) DO UPDATE SET \
             uses = secret_caller.uses + excluded.uses, refused = secret_caller.refused + excluded.refused, \
             last_seen = CASE WHEN excluded.last_seen > secret_caller.last_seen THEN excluded.last_seen \
             ELSE secret_caller.last_seen END",
        );
        self.push_text(sql, args);
    }

    /// Past the bound, those who were not seen for longest are summed up.
    fn fold_callers(&mut self, key: UsageKey) {
        let bound = i64::try_from(USAGE_CALLERS_PER_SECRET_MAX).unwrap_or(i64::MAX);
        self.push(
            "INSERT INTO secret_caller \
             (client_id, secret_id, address, agent, instance, uses, refused, first_seen, last_seen) \
             SELECT client_id, secret_id, '', '', '', CAST(SUM(uses) AS BIGINT), CAST(SUM(refused) AS BIGINT), \
             MIN(first_seen), MAX(last_seen) FROM ( \
             SELECT client_id, secret_id, uses, refused, first_seen, last_seen FROM secret_caller \
             WHERE client_id = $1 AND secret_id = $2 AND address <> '' \
             ORDER BY last_seen DESC, address, agent, instance LIMIT 1000000 OFFSET $3) AS surplus \
             WHERE TRUE GROUP BY client_id, secret_id \
             ON CONFLICT (client_id, secret_id, address, agent, instance) DO UPDATE SET \
             uses = secret_caller.uses + excluded.uses, refused = secret_caller.refused + excluded.refused, \
             last_seen = CASE WHEN excluded.last_seen > secret_caller.last_seen THEN excluded.last_seen \
             ELSE secret_caller.last_seen END",
            args![key.client, key.secret, bound],
            None,
        );
        self.push(
            "DELETE FROM secret_caller WHERE client_id = $1 AND secret_id = $2 AND (address, agent, instance) IN ( \
             SELECT address, agent, instance FROM secret_caller \
             WHERE client_id = $1 AND secret_id = $2 AND address <> '' \
             ORDER BY last_seen DESC, address, agent, instance LIMIT 1000000 OFFSET $3)",
            args![key.client, key.secret, bound],
            None,
        );
    }

    /// Forgets all uses of a client's secrets, as long as it is there. What comes after that, because it was not
    /// written down yet, is swept.
    pub(crate) fn forget_uses_of(&mut self, client: ClientId) {
        self.push(
            "DELETE FROM secret_usage WHERE secret_id IN ( \
             SELECT active_id FROM client WHERE id = $1 UNION ALL SELECT retiring_id FROM client WHERE id = $1 \
             UNION ALL SELECT secret_id FROM former_secret WHERE client_id = $1 \
             UNION ALL SELECT secret_id FROM secret_caller WHERE client_id = $1)",
            args![client],
            None,
        );
        self.later.push(Later::UsesOf(client));
    }

    /// Deletes servers that ended out of order once none of their counts matters, and records the end of each server
    /// other than `node` that has been silent for too long.
    fn sweep_marks(&mut self, node: NodeId, now: Timestamp) {
        self.push(
            "DELETE FROM usage_mark WHERE node IN (SELECT node FROM usage_mark WHERE ended < $1 LIMIT $2)",
            args![now.minus(USAGE_CALLERS_KEPT), SWEEP_ROWS],
            None,
        );
        self.push(
            "UPDATE usage_mark SET ended = $1 WHERE node IN (SELECT node FROM usage_mark \
             WHERE ended IS NULL AND node <> $2 AND complete_until < $3 LIMIT $4)",
            args![now, node, now.minus(USAGE_SILENCE_MAX), SWEEP_ROWS],
            None,
        );
    }
}

/// Whether no client still has the secret of a sum `u`, not even as a former one.
const IS_LEFT: &str = "NOT EXISTS (SELECT 1 FROM client c WHERE c.id = u.client_id AND (c.active_id = u.secret_id \
     OR c.retiring_id = u.secret_id OR EXISTS (SELECT 1 FROM former_secret f \
     WHERE f.client_id = c.id AND f.secret_id = u.secret_id)))";

impl Store {
    /// Deletes the sums of secrets that were not seen for long and that no client still has; and servers, see
    /// `sweep_marks`. The rows to read grow with all secrets, so they are read outside the changes, a few at a time.
    pub async fn sweep_usage(&self, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
        let mut marks = Change::new();
        marks.sweep_marks(node, now);
        self.commit(marks).await?;
        let page = format!(
            "SELECT u.last_used, u.secret_id, {IS_LEFT} FROM secret_usage u \
             WHERE u.last_used < $1 AND u.last_used >= $2 AND (u.last_used > $2 OR u.secret_id > $3) \
             ORDER BY u.last_used, u.secret_id LIMIT $4"
        );
        let delete = format!(
            "DELETE FROM secret_usage WHERE secret_id IN (SELECT u.secret_id FROM secret_usage u \
             WHERE u.last_used >= $1 AND u.last_used <= $2 AND (u.last_used > $1 OR u.secret_id > $3) \
             AND (u.last_used < $2 OR u.secret_id <= $4) AND {IS_LEFT})"
        );
        let (mut at, mut after) = (i64::MIN, String::new());
        loop {
            let args = args![now.minus(USAGE_CALLERS_KEPT), at, after.clone(), SWEEP_ROWS];
            let rows = self.0.database.fetch(page.clone(), args).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            let (until_at, until) = (last.int(0)?, last.text(1)?);
            if rows.iter().any(|row| row.boolean(2).unwrap_or(true)) {
                let mut change = Change::new();
                change.push_text(delete.clone(), args![at, until_at, after, until.clone()]);
                self.commit(change).await?;
            }
            (at, after) = (until_at, until);
        }
    }
}
