//! PostgreSQL, for when one machine is not enough. Any number of nodes share one database, which is
//! their only coordination: what one has committed, the next read of every other finds.
//!
//! Reads of the hot path go over connections of their own, several in flight; each change is one
//! serializable transaction. A connection that is lost is made again beside the requests, which wait
//! for it for a bounded time.

mod config;
mod link;
mod migrate;
mod pool;
mod session;
mod value;
mod write;

use std::hash::Hash;
use std::sync::Arc;

pub use config::PostgresConfig;
use keyrelay_core::limits::READ_GROUP_MAX;
pub(crate) use migrate::{NO_TIMEOUTS, reach, run as migrate};
pub(crate) use session::params;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
pub(crate) use value::row;

use self::link::Link;
use self::pool::Pool;
use crate::StoreError;
use crate::database::{Arg, Row};
use crate::group::{GroupQuery, Request as ReadRequest};
use crate::writer::Request as WriteRequest;

/// Connections that the group reads share.
const HOT_LINKS: usize = 2;
/// Queries of one kind of group read under way at once.
const READS_IN_FLIGHT: usize = 2;
/// Connections for reads outside the hot path.
const COLD_LINKS: usize = 4;
/// Connections that write, each one change at a time.
const WRITE_LINKS: usize = 8;

/// A database that is open, and the connections to it.
#[derive(Debug)]
pub(crate) struct Postgres {
    hot: Arc<[Link]>,
    cold: Pool,
    writers: Arc<Pool>,
}

impl Postgres {
    /// Connects, and brings the schema up to date.
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Self, StoreError> {
        migrate::run(config).await?;
        let links = |n| (0..n).map(|_| Link::start(config.clone())).collect::<Vec<_>>();
        Ok(Self {
            hot: links(HOT_LINKS).into(),
            cold: Pool::new(links(COLD_LINKS)),
            writers: Arc::new(Pool::new(links(WRITE_LINKS))),
        })
    }

    /// Answers reads in groups until their queue ends. A group is taken from the queue only once its
    /// query can be sent, so that every request of it has arrived before (P3).
    pub(crate) fn serve_reads<K, V>(
        &self,
        mut requests: mpsc::Receiver<ReadRequest<K, V>>,
        query: GroupQuery<K, V>,
    ) where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let links = Arc::clone(&self.hot);
        let (places, query) = (Arc::new(Semaphore::new(READS_IN_FLIGHT)), Arc::new(query));
        tokio::spawn(async move {
            for n in 0.. {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let mut group = Vec::with_capacity(READ_GROUP_MAX);
                if requests.recv_many(&mut group, READ_GROUP_MAX).await == 0 {
                    return;
                }
                let (links, query) = (Arc::clone(&links), Arc::clone(&query));
                tokio::spawn(async move {
                    let (sql, args) = query.ask(&group);
                    let found = links[n % links.len()].fetch(&sql, &args).await;
                    query.tell(group, found);
                    drop(place);
                });
            }
        });
    }

    /// Makes changes durable until their queue ends, then waits for those under way.
    pub(crate) fn serve_writes(&self, mut requests: mpsc::Receiver<WriteRequest>) -> JoinHandle<()> {
        let writers = Arc::clone(&self.writers);
        tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                while running.try_join_next().is_some() {}
                let Some(request) = requests.recv().await else { break };
                // Who has waited too long by now is told so at once.
                let link = writers.take_until(request.deadline()).await;
                running.spawn(async move {
                    let deadline = request.deadline();
                    let (change, answer) = request.into_parts();
                    let outcome = match link {
                        Ok(link) => write::commit(&link, change, deadline).await,
                        Err(error) => Err(error),
                    };
                    // Whoever asked may have gone away.
                    let _ = answer.send(outcome);
                });
            }
            while running.join_next().await.is_some() {}
        })
    }

    /// Runs a query outside the hot path.
    pub(crate) async fn fetch(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        self.cold.take().await?.fetch(sql, args).await
    }

    /// Runs a query whose plan is not worth keeping.
    pub(crate) async fn fetch_once(&self, sql: &str, args: &[Arg]) -> Result<Vec<Row>, StoreError> {
        self.cold.take().await?.fetch_once(sql, args).await
    }
}

/// Runs a query on a connection that is in nobody's pool.
pub(crate) async fn fetch_directly(
    client: &tokio_postgres::Client,
    sql: &str,
    args: &[Arg],
) -> Result<Vec<Row>, StoreError> {
    value::rows(&client.query(sql, &params(args)).await?)
}
