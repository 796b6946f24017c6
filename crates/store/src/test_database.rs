//! A database of one's own for each test: a file, or, where the environment names a PostgreSQL server, a
//! schema there. So every test runs on both, in two runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_postgres::NoTls;

use crate::{PostgresConfig, ReadBounds, Store, StoreError};

/// Names the URL of a PostgreSQL server whose databases may be filled with rubbish.
pub const SERVER_VARIABLE: &str = "KEYRELAY_TEST_POSTGRES";

/// Numbers the schemas of this process: folders of several tests may have the same last name.
static SCHEMAS: AtomicU64 = AtomicU64::new(0);

/// An empty database that nobody else uses.
#[derive(Clone, Debug)]
pub enum TestDatabase {
    /// A SQLite file that will be made.
    File(PathBuf),
    /// The URL of a schema.
    Schema(String),
}

impl TestDatabase {
    /// The database of a test that has this directory to itself.
    ///
    /// # Panics
    /// If the server that the environment names does not answer.
    pub async fn new(dir: &Path) -> Self {
        let Ok(server) = std::env::var(SERVER_VARIABLE) else {
            return Self::File(dir.join("keyrelay.sqlite"));
        };
        let name = dir.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        // PostgreSQL cuts identifiers at 63 bytes.
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
        let schema = format!("t{}_{}_{name}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let (client, connection) =
            tokio_postgres::connect(&server, NoTls).await.expect("the PostgreSQL server answers");
        let connection = tokio::spawn(connection);
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.expect("a schema can be made");
        drop(client);
        let _ = connection.await;
        Self::Schema(format!("{server}?options=-c%20search_path%3D{schema}"))
    }

    /// Whether it is PostgreSQL.
    #[must_use]
    pub const fn is_postgres(&self) -> bool {
        matches!(self, Self::Schema(_))
    }

    /// The same database, reached by something that stands before the server. A file is what it is.
    #[must_use]
    pub fn through(&self, address: SocketAddr) -> Self {
        let Self::Schema(url) = self else { return self.clone() };
        let (user, rest) = url.split_once('@').unwrap_or(("postgres://keyrelay", url));
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        Self::Schema(format!("{user}@{address}/{path}"))
    }

    /// Where the server is.
    ///
    /// # Panics
    /// If there is none, or its URL does not name an IP address and a port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let url = self.url();
        let host = url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).map(|(host, _)| host);
        host.and_then(|host| host.parse().ok()).expect("a URL like postgres://user@127.0.0.1:5432/name")
    }

    /// What `--database-url` takes.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::File(path) => format!("sqlite://{}", path.display()),
            Self::Schema(url) => url.clone(),
        }
    }

    /// Opens it.
    pub async fn open(&self) -> Result<Store, StoreError> {
        self.open_within(ReadBounds::default()).await
    }

    /// Opens it, with other bounds of reads.
    pub async fn open_within(&self, bounds: ReadBounds) -> Result<Store, StoreError> {
        match self {
            Self::File(path) => Store::open_sqlite_within(path, bounds).await,
            Self::Schema(url) => Store::open_postgres_within(&PostgresConfig::parse(url)?, bounds).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn folders_of_one_name_get_databases_of_their_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (one.path().join("there"), other.path().join("there"));
        let (one, other) = (TestDatabase::new(&one).await, TestDatabase::new(&other).await);
        assert_ne!(one.url(), other.url());
    }
}
