//! Where Keyrelay keeps things. Every query is one SQL text that SQLite and PostgreSQL both
//! understand; which of them answers is decided in [`database`] and nowhere else.
//!
//! Reads on the hot path are answered in groups ([`group`]), each from a query that began after the
//! request arrived; writes are made durable in groups ([`writer`]) before anyone is told of them.

mod access;
mod assertions;
mod audit;
mod author;
mod change;
mod clients;
mod database;
mod error;
mod event_sweep;
mod events;
mod group;
mod kept_answers;
mod later;
mod lock;
pub mod operations;
mod origins;
mod pages;
mod postgres;
mod projects;
mod quota;
mod rates;
mod registrations;
mod reseal;
mod resources;
mod search;
mod sessions;
mod signing_keys;
mod sqlite;
mod sweep;
#[cfg(feature = "test-database")]
mod test_database;
mod turns;
mod usage;
mod usage_sweep;
mod users;
mod webhooks;
mod write_marks;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use audit::WhenKnown;
pub use change::{Change, ClientRow, MembershipRow, ResourceVersion};
pub use clients::ClientState;
use database::Database;
pub use error::{Conflict, StoreError};
pub use event_sweep::{EventBounds, SweptEvents};
pub use events::{FoundAt, NumberedEvent, Once};
use group::GroupReader;
pub use kept_answers::KeptAnswer;
use keyrelay_core::client::ClientAccess;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, ProjectId, SessionId};
use keyrelay_core::limits::DATABASE_WAIT_MAX;
use keyrelay_core::session::SessionAccess;
pub use lock::{DataDirLock, LOCK_FILE};
pub use pages::HistoryPage;
pub use postgres::PostgresConfig;
pub use projects::ProjectRow;
pub use registrations::RegistrationGrant;
pub use reseal::Resealed;
pub use search::{Page, Search};
pub use sessions::MembershipChoice;
pub use signing_keys::StoredSigningKey;
#[cfg(feature = "test-database")]
pub use test_database::{SERVER_VARIABLE, TestDatabase};
pub use turns::{ReadBounds, Turn};
pub use usage::{Recent, UsageMark, UsageOfMinute, UsageOfSecret};
pub use usage_sweep::CallerBounds;
pub use users::{UserAccount, UserRow};
pub use webhooks::{Delivery, DueWebhook, Webhook, WebhookHealth};
pub use write_marks::WriteMark;
use writer::Writer;

/// The store of one installation.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    access: GroupReader<ClientId, ClientAccess>,
    clients: GroupReader<ClientId, ClientState>,
    sessions: GroupReader<SessionId, SessionAccess>,
    writer: Writer,
    turns: turns::Turns,
    chaining: WhenKnown,
    told: events::Told,
    rates: rates::Rates,
    quota: quota::Quota,
}

impl Store {
    /// Opens the SQLite file at `path`, makes it if it is not there, and brings its schema up to date.
    ///
    /// Take the [`DataDirLock`] first: one process owns the file.
    pub async fn open_sqlite(path: &Path) -> Result<Self, StoreError> {
        Self::open_sqlite_within(path, ReadBounds::default()).await
    }

    /// The same, with other bounds of reads.
    pub async fn open_sqlite_within(path: &Path, bounds: ReadBounds) -> Result<Self, StoreError> {
        Self::on(Database::open_sqlite(path, bounds).await?, bounds).await
    }

    /// Connects to a PostgreSQL database, and brings its schema up to date. Any number of processes may
    /// use one database.
    pub async fn open_postgres(config: &PostgresConfig) -> Result<Self, StoreError> {
        Self::open_postgres_within(config, ReadBounds::default()).await
    }

    /// The same, with other bounds of reads.
    pub async fn open_postgres_within(
        config: &PostgresConfig,
        bounds: ReadBounds,
    ) -> Result<Self, StoreError> {
        Self::on(Database::open_postgres(config, bounds).await?, bounds).await
    }

    async fn on(database: Database, bounds: ReadBounds) -> Result<Self, StoreError> {
        let chaining = WhenKnown::default();
        Ok(Self(Arc::new(Inner {
            access: GroupReader::start(&database, access::QUERY).await?,
            clients: GroupReader::start(&database, clients::QUERY).await?,
            sessions: GroupReader::start(&database, sessions::QUERY).await?,
            writer: Writer::start(&database, &chaining).await?,
            turns: turns::Turns::new(bounds.wait),
            chaining,
            told: events::Told::default(),
            rates: rates::Rates::default(),
            quota: quota::Quota::default(),
            database,
        })))
    }

    /// Everything that decides whether a client gets in, as of a moment after this call began
    /// (P3). `None` for a client that does not exist or is deleted.
    pub async fn access(&self, client: ClientId) -> Result<Option<ClientAccess>, StoreError> {
        self.0.access.read(client).await
    }

    /// A client application with its secrets, as of a moment after this call began.
    pub async fn client(&self, client: ClientId) -> Result<Option<ClientState>, StoreError> {
        let found = self.0.clients.read(client).await?;
        Ok(found.filter(|state| state.resource.resource_type == ResourceType::ClientApplication))
    }

    /// Makes a change durable: all of it or nothing. When this returns `Ok`, it survives a power cut (P2).
    pub async fn commit(&self, mut change: Change) -> Result<(), StoreError> {
        let tells = std::mem::take(&mut change.tells);
        let later = std::mem::take(&mut change.later);
        self.check_quota(&change).await?;
        let charged = self.0.rates.charge(&change)?;
        let committed = self.0.writer.commit(change).await;
        if let Err(error) = &committed
            && !matches!(error, StoreError::Unknown)
        {
            self.0.rates.refund(charged);
        }
        committed?;
        self.0.told.add(tells);
        self.do_later(later).await;
        Ok(())
    }

    /// A turn of a project for a search or a history, whose cost the caller chooses, as soon as one is free.
    pub async fn turn(&self, project: ProjectId) -> Result<Turn, StoreError> {
        self.0.turns.take(project).await
    }

    /// Takes every connection for searches until the returned value is dropped, like searches that hang.
    #[cfg(feature = "test-database")]
    pub async fn hold_searches(&self) -> Result<impl Send + use<>, StoreError> {
        self.0.database.hold_searches().await
    }

    /// Whether there is no project yet.
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.0.database.fetch_access("SELECT id FROM project LIMIT 1", Vec::new()).await?.is_empty())
    }

    /// Whether other servers may use the same database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.database.is_shared()
    }

    /// Whether every task of the hot paths still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let inner = &self.0;
        inner.access.is_alive()
            && inner.clients.is_alive()
            && inner.sessions.is_alive()
            && inner.writer.is_alive()
    }

    /// Whether the database answers in time, and every task of the hot paths still runs.
    pub async fn ping(&self) -> Result<(), StoreError> {
        if !self.is_alive() {
            return Err(StoreError::Closed);
        }
        let answered = self.0.database.fetch_access("SELECT 1", Vec::new());
        tokio::time::timeout(DATABASE_WAIT_MAX, answered).await.map_err(|_| StoreError::Busy)?.map(drop)
    }

    /// From now on every change is refused, and reads go on: for a server that stays while its installation
    /// is moved elsewhere.
    pub fn refuse_changes(&self) {
        self.0.writer.is_read_only.store(true, Ordering::Relaxed);
    }

    /// Whether every change is refused.
    #[must_use]
    pub fn refuses_changes(&self) -> bool {
        self.0.writer.is_read_only.load(Ordering::Relaxed)
    }

    /// Waits for writes under way; from then on nothing is written.
    pub async fn close(&self) {
        self.0.writer.close().await;
    }
}
