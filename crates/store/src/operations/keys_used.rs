//! Which master keys a database needs, and for what. A key may be taken out of the master key file when
//! nothing needs it.

use std::collections::BTreeMap;
use std::fmt;

use keyrelay_core::keyring::{KeyId, Keyring};
use keyrelay_core::time::Timestamp;

use super::Place;
use super::direct::Direct;
use crate::StoreError;
use crate::database::Arg;

/// What is sealed or proved under a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyUse {
    /// A secret that can be shown again: sealed, and so its digest can be made again too.
    Secret,
    /// A secret of which only the digest is kept. It stays under its key until it is rotated.
    SecretOnce,
    /// The private part of a signing key.
    SigningKey,
    /// The key that audit records are chained with.
    AuditKey,
    /// A person's second factor.
    SecondFactor,
    /// What deliveries to a webhook are signed with.
    Webhook,
    /// An answer that is kept for its `Idempotency-Key`.
    KeptAnswer,
    /// The digest of a secret that has ended. Without its key, the secret is refused all the same, but an
    /// attempt with it is no longer told apart from any wrong one.
    FormerSecret,
}

/// The queries that count them. Between them they name every column of bytes.
const QUERIES: [(KeyUse, &str); 11] = [
    (
        KeyUse::Secret,
        "SELECT substr(active_proof, 1, 8), COUNT(*) FROM client \
         WHERE active_proof IS NOT NULL AND active_sealed IS NOT NULL GROUP BY 1",
    ),
    (
        KeyUse::Secret,
        "SELECT substr(retiring_proof, 1, 8), COUNT(*) FROM client \
         WHERE retiring_proof IS NOT NULL AND retiring_sealed IS NOT NULL GROUP BY 1",
    ),
    (
        KeyUse::SecretOnce,
        "SELECT substr(active_proof, 1, 8), COUNT(*) FROM client \
         WHERE active_proof IS NOT NULL AND active_sealed IS NULL GROUP BY 1",
    ),
    (
        KeyUse::SecretOnce,
        "SELECT substr(retiring_proof, 1, 8), COUNT(*) FROM client \
         WHERE retiring_proof IS NOT NULL AND retiring_sealed IS NULL GROUP BY 1",
    ),
    (KeyUse::SigningKey, "SELECT substr(sealed, 2, 8), COUNT(*) FROM signing_key GROUP BY 1"),
    (KeyUse::AuditKey, "SELECT substr(sealed, 2, 8), COUNT(*) FROM audit_key GROUP BY 1"),
    (
        KeyUse::SecondFactor,
        "SELECT substr(totp_sealed, 2, 8), COUNT(*) FROM user_account WHERE totp_sealed IS NOT NULL GROUP BY 1",
    ),
    (KeyUse::Webhook, "SELECT substr(signing_sealed, 2, 8), COUNT(*) FROM webhook GROUP BY 1"),
    (
        KeyUse::Webhook,
        "SELECT substr(retiring_sealed, 2, 8), COUNT(*) FROM webhook WHERE retiring_sealed IS NOT NULL GROUP BY 1",
    ),
    (KeyUse::KeptAnswer, "SELECT substr(sealed, 2, 8), COUNT(*) FROM kept_answer GROUP BY 1"),
    (KeyUse::FormerSecret, "SELECT substr(proof, 1, 8), COUNT(*) FROM former_secret GROUP BY 1"),
];

/// How often each master key is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysUsed(BTreeMap<[u8; 8], BTreeMap<KeyUse, u64>>);

/// Counts what a database needs, of one moment or nearly so.
pub async fn keys_used(place: &Place) -> Result<KeysUsed, StoreError> {
    let direct = Direct::open(place).await?;
    super::schema::require_known(&direct).await?;
    of(&direct).await
}

pub(super) async fn of(direct: &Direct) -> Result<KeysUsed, StoreError> {
    let mut found = KeysUsed::default();
    for (what, sql) in QUERIES {
        for row in direct.fetch(sql, &[]).await? {
            let unreadable = StoreError::Corrupt { what: "the name of a master key" };
            let key = <[u8; 8]>::try_from(row.blob(0)?).map_err(|_| unreadable)?;
            let count = u64::try_from(row.int(1)?).unwrap_or(0);
            *found.0.entry(key).or_default().entry(what).or_default() += count;
        }
    }
    Ok(found)
}

impl KeysUsed {
    /// Every key that something needs, with what and how often.
    pub fn keys(&self) -> impl Iterator<Item = (KeyId, &BTreeMap<KeyUse, u64>)> {
        self.0.iter().map(|(key, uses)| (KeyId::from_bytes(*key), uses))
    }

    /// What one key is needed for.
    #[must_use]
    pub fn of(&self, key: KeyId) -> Option<&BTreeMap<KeyUse, u64>> {
        self.0.get(key.as_bytes())
    }

    /// The keys that are needed and not listed, but for those that only former secrets need.
    #[must_use]
    pub fn missing(&self, keyring: &Keyring) -> Self {
        let listed = keyring.key_ids();
        let mut missing = self.0.clone();
        missing.retain(|key, uses| {
            uses.remove(&KeyUse::FormerSecret);
            !uses.is_empty() && !listed.contains(&KeyId::from_bytes(*key))
        });
        Self(missing)
    }

    /// Whether nothing is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses a keyring that lacks a key which is needed.
    pub fn require(&self, keyring: &Keyring) -> Result<(), StoreError> {
        let missing = self.missing(keyring);
        if missing.is_empty() { Ok(()) } else { Err(StoreError::MissingKeys { keys: missing.to_string() }) }
    }
}

/// What was handed out as a ticket and may come back. Tickets are not kept, so nobody can tell under which
/// key they were made: those from before a key was put first need an older one until they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tickets {
    /// Logins that can be refreshed.
    pub logins: u64,
    /// Links that set a password.
    pub password_links: u64,
    /// Initial access tokens of client registration.
    pub initial_access: u64,
    /// When the last of all these ends.
    pub last_end: Option<Timestamp>,
    /// Registration access tokens. They do not end by themselves; a client can ask for a new one.
    pub registrations: u64,
}

/// The queries that count tickets, each with when the last ends.
const TICKETS: [&str; 4] = [
    "SELECT COUNT(*), MAX(expires) FROM session WHERE refreshable AND expires > $1",
    "SELECT COUNT(*), MAX(password_link_until) FROM user_account WHERE password_link_until > $1",
    "SELECT COUNT(*), MAX(expires) FROM registration_grant WHERE uses_left > 0 AND expires > $1",
    "SELECT COUNT(*) FROM client_registration WHERE registered <= $1",
];

/// Counts the tickets that may come back.
pub async fn tickets(place: &Place, now: Timestamp) -> Result<Tickets, StoreError> {
    let direct = Direct::open(place).await?;
    let (mut counts, mut last_end) = ([0; TICKETS.len()], None);
    for (sql, count) in TICKETS.iter().zip(&mut counts) {
        let rows = direct.fetch(sql, &[Arg::from(now)]).await?;
        let Some(row) = rows.first() else { continue };
        *count = u64::try_from(row.int(0)?).unwrap_or(0);
        last_end = last_end.max(row.opt_int(1)?);
    }
    let [logins, password_links, initial_access, registrations] = counts;
    let last_end = last_end.map(Timestamp::from_epoch_ms);
    Ok(Tickets { logins, password_links, initial_access, last_end, registrations })
}

/// `key 0123456789abcdef (4 secrets, 1 signing key)`, one after another.
impl fmt::Display for KeysUsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, uses)) in self.keys().enumerate() {
            let uses: Vec<String> = uses.iter().map(|(what, count)| what.counted(*count)).collect();
            write!(f, "{}key {key} ({})", if n > 0 { ", " } else { "" }, uses.join(", "))?;
        }
        Ok(())
    }
}

impl KeyUse {
    /// Whether it can be moved to another key. Of what is only a digest, nothing else can be made.
    #[must_use]
    pub const fn is_movable(self) -> bool {
        match self {
            Self::Secret
            | Self::SigningKey
            | Self::AuditKey
            | Self::SecondFactor
            | Self::Webhook
            | Self::KeptAnswer => true,
            Self::SecretOnce | Self::FormerSecret => false,
        }
    }

    /// `1 signing key`, `3 signing keys`.
    #[must_use]
    pub fn counted(self, count: u64) -> String {
        let (one, many) = match self {
            Self::Secret => ("secret", "secrets"),
            Self::SecretOnce => ("secret shown once", "secrets shown once"),
            Self::SigningKey => ("signing key", "signing keys"),
            Self::AuditKey => ("audit key", "audit keys"),
            Self::SecondFactor => ("second factor", "second factors"),
            Self::Webhook => ("webhook secret", "webhook secrets"),
            Self::KeptAnswer => ("kept answer", "kept answers"),
            Self::FormerSecret => ("former secret", "former secrets"),
        };
        format!("{count} {}", if count == 1 { one } else { many })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::tables::{self, Kind};

    /// A column of bytes that a migration adds is under some master key: it must be counted.
    #[test]
    fn every_column_of_bytes_is_counted() {
        for table in tables::known().unwrap() {
            for column in table.columns.iter().filter(|column| column.kind == Kind::Bytes) {
                let named = QUERIES.iter().any(|(_, sql)| {
                    sql.contains(&format!("FROM {}", table.name)) && sql.contains(column.name.as_str())
                });
                assert!(named, "{}.{}", table.name, column.name);
            }
        }
    }
}
