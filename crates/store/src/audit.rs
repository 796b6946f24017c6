//! Audit records as they become durable: each is put at the end of the chain of whoever writes it, in the
//! transaction of the change that it tells of.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use keyrelay_core::audit::{AuditKey, Link, RecordDigest, What};
use keyrelay_core::fhir::search::IndexEntry;
use keyrelay_core::id::{ChainId, ResourceId};
use keyrelay_core::keyring::Sealed;
use keyrelay_core::random::Entropy;
use keyrelay_core::time::Timestamp;

use crate::change::args;
use crate::database::{Arg, Effect, Statement};
use crate::{Change, Conflict, ResourceVersion, Store, StoreError};

/// What chains are made with.
pub(crate) struct Chaining {
    key: AuditKey,
    entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for Chaining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chaining")
    }
}

/// Known once the server has read the key, which is in the database.
pub(crate) type WhenKnown = Arc<OnceLock<Chaining>>;

/// A record that a change makes.
pub(crate) struct Record {
    event: ResourceId,
    digest: RecordDigest,
}

/// The chain of one writer, up to what is durable.
#[derive(Clone)]
pub(crate) struct Chain {
    chaining: WhenKnown,
    /// None before the first record.
    last: Option<Link>,
}

impl Chain {
    pub(crate) const fn new(chaining: WhenKnown) -> Self {
        Self { chaining, last: None }
    }

    /// The statements that put records at its end, and the chain as it is once they are durable.
    pub(crate) fn with(&self, records: &[Record]) -> Result<(Vec<Statement>, Self), StoreError> {
        let mut next = self.clone();
        let statements = records.iter().map(|record| {
            let event = Some(record.event);
            next.add(event, &What::Record(record.digest))
        });
        let statements = statements.collect::<Result<_, _>>()?;
        Ok((statements, next))
    }

    /// The statement that says that nothing comes after; none where nothing came before.
    pub(crate) fn end(mut self) -> Option<Statement> {
        self.last?;
        self.add(None, &What::End).ok()
    }

    /// Begins another one: it is not known what became of the last link.
    pub(crate) fn leave(&mut self) {
        self.last = None;
    }

    fn add(&mut self, event: Option<ResourceId>, what: &What) -> Result<Statement, StoreError> {
        let unknown = StoreError::Corrupt { what: "the key of audit records" };
        let Chaining { key, entropy } = self.chaining.get().ok_or(unknown)?;
        let link = match &self.last {
            Some(last) => key.after(last, what),
            None => key.first(ChainId::random(entropy.as_ref()), what),
        };
        self.last = Some(link);
        Ok(Statement {
            sql: Cow::Borrowed("INSERT INTO audit_link (chain, nth, event_id, mac) VALUES ($1, $2, $3, $4)"),
            args: args![link.chain, link.nth, event, link.mac.to_string()],
            effect: Effect::ChangesOne(Conflict::Id),
        })
    }
}

impl Change {
    /// Makes an audit record. It is never changed again.
    pub fn record(&mut self, record: ResourceVersion, index: &[IndexEntry]) {
        let ResourceVersion { id, version, project, last_updated, ref content, .. } = record;
        let digest = RecordDigest::of(id, version, project, last_updated, content);
        self.records.push(Record { event: id, digest });
        self.create(record, index);
    }

    /// Keeps the key that audit records are chained with, if there is none yet.
    pub fn create_audit_key(&mut self, sealed: &Sealed, now: Timestamp) {
        self.push(
            "INSERT INTO audit_key (id, sealed, created) VALUES (1, $1, $2)",
            args![sealed.as_bytes().to_vec(), now],
            Some(Conflict::Exists),
        );
    }
}

impl Store {
    /// The key that audit records are chained with, wrapped; `None` before the first server has made it.
    pub async fn audit_key(&self) -> Result<Option<Sealed>, StoreError> {
        let rows = self.0.database.fetch_access("SELECT sealed FROM audit_key", Vec::new()).await?;
        rows.first().map(|row| row.blob(0).map(Sealed::from_bytes)).transpose()
    }

    /// Whether a client has a secret, or there is an audit record.
    pub async fn has_secrets_or_records(&self) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM client WHERE active_id IS NOT NULL OR retiring_id IS NOT NULL \
                   UNION ALL SELECT 1 FROM resource WHERE resource_type = 'AuditEvent' LIMIT 1";
        Ok(!self.0.database.fetch_access(sql, Vec::new()).await?.is_empty())
    }

    /// From now on audit records can be made.
    pub fn chain_audit_with(&self, key: AuditKey, entropy: Arc<dyn Entropy>) {
        // Whoever comes second has the same key: there is one in the database.
        let _ = self.0.chaining.set(Chaining { key, entropy });
    }
}
