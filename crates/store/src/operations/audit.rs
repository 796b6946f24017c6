//! Looks for audit records that were changed, taken out or put in, and for secrets that no record tells of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use keyrelay_core::audit::{AuditBeginning, AuditKey, AuditRoot, Link, LinkMac, RecordDigest, What};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::{ChainId, ProjectId, ResourceId, SecretId, VersionId};
use keyrelay_core::keyring::{Keyring, Sealed};
use keyrelay_core::limits::{AUDIT_FINDINGS_MAX, READ_GROUP_MAX};
use keyrelay_core::time::Timestamp;
use serde_json::Value;

use super::direct::Direct;
use super::{Place, Progress, schema};
use crate::StoreError;
use crate::database::{Arg, Row};
use crate::group::placeholders;

/// Links that are read at once.
const PAGE: i64 = 2000;

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A link is missing: the first of those that follow each other in a chain.
    LinkMissing {
        /// In this chain.
        chain: ChainId,
        /// At this place.
        nth: i64,
    },
    /// A link does not fit its record and the links before it: one of them was changed.
    LinkBroken {
        /// In this chain.
        chain: ChainId,
        /// At this place.
        nth: i64,
        /// Its record.
        event: String,
    },
    /// A link has a record that is not there.
    RecordMissing {
        /// In this chain.
        chain: ChainId,
        /// At this place.
        nth: i64,
        /// What is missing.
        event: String,
    },
    /// A link comes after the end of its chain.
    AfterTheEnd {
        /// In this chain.
        chain: ChainId,
        /// At this place.
        nth: i64,
    },
    /// A record is in no chain: it was put in, or its link was taken out.
    RecordUnchained {
        /// The record.
        event: String,
    },
    /// A search does not find a record by what is in it, or finds it by what is not.
    IndexChanged {
        /// The record.
        event: String,
    },
    /// A record has an earlier version: no record ever changes, so it was put in.
    HistoryPutIn {
        /// The record.
        event: String,
    },
    /// A client has a secret that no record tells of: what told of it was taken out, or the secret was put in.
    SecretUnrecorded {
        /// Whose.
        client: String,
        /// Which.
        secret: SecretId,
    },
    /// A chain does not have the link that it had when its head was noted.
    HeadGone {
        /// Which chain.
        chain: ChainId,
        /// The place that was noted.
        nth: i64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkMissing { chain, nth } => write!(f, "chain {chain}: link {nth} is missing"),
            Self::LinkBroken { chain, nth, event } => {
                write!(f, "chain {chain}: link {nth} is broken: AuditEvent/{event} or a link was changed")
            }
            Self::RecordMissing { chain, nth, event } => {
                write!(f, "chain {chain}: AuditEvent/{event} of link {nth} is missing")
            }
            Self::AfterTheEnd { chain, nth } => write!(f, "chain {chain}: link {nth} comes after its end"),
            Self::RecordUnchained { event } => write!(f, "AuditEvent/{event} is in no chain"),
            Self::IndexChanged { event } => {
                write!(f, "AuditEvent/{event} is not found by what is in it: the search index was changed")
            }
            Self::HistoryPutIn { event } => write!(f, "AuditEvent/{event} has an earlier version, put in"),
            Self::SecretUnrecorded { client, secret } => {
                write!(f, "ClientApplication/{client} has the secret {secret}, which no record tells of")
            }
            Self::HeadGone { chain, nth } => {
                write!(f, "chain {chain}: link {nth} is not the one that was noted, or is missing")
            }
        }
    }
}

/// The head of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Its last link.
    pub link: Link,
    /// Whether its writer ended in order.
    pub ended: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct AuditReport {
    /// Records that were proved.
    pub records: u64,
    /// Records from before there were chains.
    pub older: u64,
    /// The heads of all chains.
    pub heads: Vec<Head>,
    /// What was found, [`AUDIT_FINDINGS_MAX`] at most.
    pub findings: Vec<Finding>,
    /// How much was found in all.
    pub found: u64,
}

impl AuditReport {
    fn find(&mut self, finding: Finding) {
        self.found += 1;
        if self.findings.len() < AUDIT_FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// A head that was noted earlier, and kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct NotedHead {
    /// Which chain.
    pub chain: ChainId,
    /// Its length then.
    pub nth: i64,
    /// What proved it.
    pub mac: LinkMac,
}

/// Checks all records of a database as of one moment, while servers may use it. `None` if no server has made
/// the key of the chains yet. Progress is in links.
pub async fn verify_audit(
    place: &Place,
    keyring: &Keyring,
    noted: &[NotedHead],
    progress: Progress<'_>,
) -> Result<Option<AuditReport>, StoreError> {
    let direct = Direct::open(place).await?;
    direct.begin_reading().await?;
    schema::require_known(&direct).await?;
    let found = direct.fetch("SELECT sealed, created FROM audit_key", &[]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let root = keyring.unwrap_audit_root(&Sealed::from_bytes(row.blob(0)?));
    let AuditRoot { key, beginning } =
        root.map_err(|_| StoreError::MissingKeys { keys: "that of the audit records".to_owned() })?;
    let since = match beginning {
        // Nothing can be from before, whatever it says.
        Some(AuditBeginning { is_first: true, .. }) => i64::MIN,
        Some(AuditBeginning { since, .. }) => since.epoch_ms(),
        None => row.int(1)?,
    };
    let total = count(&direct, "SELECT COUNT(*) FROM audit_link").await?;
    let mut walk = Walk {
        key,
        noted: noted.iter().map(|head| (head.chain, *head)).collect(),
        unrecorded: secrets_since(&direct, since).await?,
        chain: None,
        report: AuditReport::default(),
    };
    let mut after = (String::new(), 0);
    let mut done = 0;
    loop {
        let rows =
            direct.fetch(LINKS, &[Arg::from(after.0.as_str()), Arg::from(after.1), Arg::from(PAGE)]).await?;
        let Some(last) = rows.last() else { break };
        after = (last.text(0)?, last.int(1)?);
        let mut indexed = indexed(&direct, &rows).await?;
        for row in &rows {
            walk.take(row, &mut indexed)?;
        }
        done += u64::try_from(rows.len()).unwrap_or(0);
        progress(done, total);
    }
    walk.finish(&direct, since).await.map(Some)
}

/// Links after one, with their records.
const LINKS: &str = "SELECT l.chain, l.nth, l.event_id, l.mac, r.version_id, r.project_id, r.last_updated, r.content \
     FROM audit_link l LEFT JOIN resource r ON r.id = l.event_id AND r.resource_type = 'AuditEvent' AND NOT r.deleted \
     WHERE l.chain > $1 OR (l.chain = $1 AND l.nth > $2) ORDER BY l.chain, l.nth LIMIT $3";

/// By what some records are found, each by its id.
type Indexed = BTreeMap<String, BTreeSet<(String, String, String)>>;

/// By what the records of some links are found.
async fn indexed(direct: &Direct, links: &[Row]) -> Result<Indexed, StoreError> {
    let mut indexed = Indexed::new();
    let events = links.iter().filter_map(|link| link.opt_text(2).transpose());
    let events = events.collect::<Result<Vec<_>, _>>()?;
    for some in events.chunks(READ_GROUP_MAX) {
        let sql = format!(
            "SELECT resource_id, code, system, value FROM search_index \
             WHERE resource_type = 'AuditEvent' AND resource_id IN ({})",
            placeholders(some.len())
        );
        let ids: Vec<Arg> = some.iter().map(|id| Arg::from(id.as_str())).collect();
        for row in direct.fetch(&sql, &ids).await? {
            let by = (row.text(1)?, row.text(2)?, row.text(3)?);
            indexed.entry(row.text(0)?).or_default().insert(by);
        }
    }
    Ok(indexed)
}

/// By what a record should be found.
fn should_be_indexed(content: &str) -> BTreeSet<(String, String, String)> {
    let Ok(Value::Object(event)) = serde_json::from_str(content) else { return BTreeSet::new() };
    let entries = index_entries(ResourceType::AuditEvent, &event).into_iter();
    // What begins so is in columns.
    let entries = entries.filter(|entry| !entry.code.starts_with('_'));
    entries.map(|entry| (entry.code.to_owned(), entry.system.unwrap_or_default(), entry.value)).collect()
}

async fn count(direct: &Direct, sql: &str) -> Result<u64, StoreError> {
    let rows = direct.fetch(sql, &[]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0)).map(|n| u64::try_from(n).unwrap_or(0))
}

/// The secrets that were made since there are chains, each with its client.
async fn secrets_since(direct: &Direct, since: i64) -> Result<BTreeMap<SecretId, String>, StoreError> {
    let sql = "SELECT id, active_id FROM client WHERE active_created >= $1 \
               UNION ALL SELECT id, retiring_id FROM client WHERE retiring_created >= $1";
    let rows = direct.fetch(sql, &[Arg::from(since)]).await?;
    rows.iter().map(|row| Ok((row.id(1, SecretId::parse, "client.active_id")?, row.text(0)?))).collect()
}

struct Walk {
    key: AuditKey,
    noted: BTreeMap<ChainId, NotedHead>,
    unrecorded: BTreeMap<SecretId, String>,
    /// The chain that is being walked, up to its last link.
    chain: Option<Head>,
    report: AuditReport,
}

impl Walk {
    fn take(&mut self, row: &Row, indexed: &mut Indexed) -> Result<(), StoreError> {
        let chain = row.id(0, ChainId::parse, "audit_link.chain")?;
        let (nth, event) = (row.int(1)?, row.opt_text(2)?);
        if let (Some(event), Some(content)) = (&event, row.opt_text(7)?)
            && indexed.remove(event).unwrap_or_default() != should_be_indexed(&content)
        {
            self.report.find(Finding::IndexChanged { event: event.clone() });
        }
        let kept = LinkMac::parse(&row.text(3)?);
        let before = self.chain.filter(|head| head.link.chain == chain);
        if before.is_none() {
            self.leave();
        }
        if before.is_some_and(|head| head.ended) {
            self.report.find(Finding::AfterTheEnd { chain, nth });
        }
        let expected = before.map_or(1, |head| head.link.nth + 1);
        if nth != expected {
            self.report.find(Finding::LinkMissing { chain, nth: expected });
        }
        let what = self.what(row, chain, nth, event.as_deref())?;
        let proved = what.map(|what| match before {
            Some(head) => self.key.after(&head.link, &what),
            None => self.key.first(chain, &what),
        });
        let event = event.unwrap_or_default();
        match (proved, kept) {
            (Some(link), Some(mac)) if nth == expected && !link.mac.matches(&mac) => {
                self.report.find(Finding::LinkBroken { chain, nth, event });
            }
            (_, None) => self.report.find(Finding::LinkBroken { chain, nth, event }),
            (Some(_), Some(_)) if what != Some(What::End) => self.report.records += 1,
            _ => {}
        }
        // What follows is held against what is kept, so that one change is found once.
        if let Some(mac) = kept.or(proved.map(|link| link.mac)) {
            self.note(chain, nth, mac);
            let ended = what == Some(What::End);
            self.chain = Some(Head { link: Link { chain, nth, mac }, ended });
        }
        Ok(())
    }

    /// What a link should prove; none if its record is not there.
    fn what(
        &mut self,
        row: &Row,
        chain: ChainId,
        nth: i64,
        event: Option<&str>,
    ) -> Result<Option<What>, StoreError> {
        let Some(event) = event else { return Ok(Some(What::End)) };
        let Some(content) = row.opt_text(7)? else {
            self.report.find(Finding::RecordMissing { chain, nth, event: event.to_owned() });
            return Ok(None);
        };
        for secret in secrets_named(&content) {
            self.unrecorded.remove(&secret);
        }
        let id = ResourceId::parse(event).ok_or(StoreError::Corrupt { what: "audit_link.event_id" })?;
        let version = row.id(4, VersionId::parse, "resource.version_id")?;
        let project = row.opt_id(5, ProjectId::parse, "resource.project_id")?;
        let at = Timestamp::from_epoch_ms(row.int(6)?);
        Ok(Some(What::Record(RecordDigest::of(id, version, project, at, &content))))
    }

    /// Compares a link with what was noted of its chain.
    fn note(&mut self, chain: ChainId, nth: i64, mac: LinkMac) {
        if self.noted.get(&chain).is_some_and(|noted| noted.nth == nth && noted.mac.matches(&mac)) {
            self.noted.remove(&chain);
        }
    }

    fn leave(&mut self) {
        self.report.heads.extend(self.chain.take());
    }

    async fn finish(mut self, direct: &Direct, since: i64) -> Result<AuditReport, StoreError> {
        self.leave();
        for head in std::mem::take(&mut self.noted).into_values() {
            self.report.find(Finding::HeadGone { chain: head.chain, nth: head.nth });
        }
        for (secret, client) in std::mem::take(&mut self.unrecorded) {
            self.report.find(Finding::SecretUnrecorded { client, secret });
        }
        let sql = "SELECT DISTINCT id FROM resource_history WHERE resource_type = 'AuditEvent' ORDER BY id";
        for row in direct.fetch(sql, &[]).await? {
            self.report.find(Finding::HistoryPutIn { event: row.text(0)? });
        }
        let unchained = "FROM resource r LEFT JOIN audit_link l ON l.event_id = r.id \
                         WHERE r.resource_type = 'AuditEvent' AND l.event_id IS NULL";
        let sql = format!("SELECT r.id {unchained} AND r.last_updated >= $1 ORDER BY r.id");
        for row in direct.fetch(&sql, &[Arg::from(since)]).await? {
            self.report.find(Finding::RecordUnchained { event: row.text(0)? });
        }
        let older = format!("SELECT COUNT(*) {unchained} AND r.last_updated < {since}");
        self.report.older = count(direct, &older).await?;
        Ok(self.report)
    }
}

/// The secrets that a record names.
fn secrets_named(content: &str) -> BTreeSet<SecretId> {
    let Ok(event) = serde_json::from_str::<Value>(content) else { return BTreeSet::new() };
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let details = list(&event, "entity").into_iter().flat_map(|entity| list(&entity, "detail"));
    details.filter_map(|detail| SecretId::parse(detail.get("valueString")?.as_str()?)).collect()
}

#[cfg(test)]
mod tests;
