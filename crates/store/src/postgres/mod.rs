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
mod reads;
mod session;
#[cfg(test)]
mod simulation;
mod value;
mod write;

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use config::PostgresConfig;
use keyrelay_core::limits::DATABASE_WAIT_MAX;
pub(crate) use migrate::{NO_TIMEOUTS, reach, run as migrate};
pub(crate) use session::params;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
pub(crate) use value::row;

use self::config::Connect;
use self::link::Link;
use self::pool::Pool;
use crate::StoreError;
use crate::audit::Chain;
use crate::database::{Arg, Row};
use crate::group::{GroupQuery, Reads};
use crate::turns::ReadBounds;
use crate::writer::Request as WriteRequest;

/// How many connections there are of each sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    /// For each kind of group read. As many queries of the kind may be under way at once.
    group: usize,
    /// For small reads that logins and grants depend on, each one query at a time.
    access: usize,
    /// For other small reads.
    small: usize,
    /// For reads whose cost the caller chooses.
    search: usize,
    /// That write, each one change at a time.
    write: usize,
}

impl Sizes {
    /// A sixth of the read connections for each of the three kinds of group read and the three other kinds; the
    /// remainder is for searches. At least one for each.
    const fn of(reads: usize, writes: usize) -> Self {
        let each = if reads < 6 { 1 } else { reads / 6 };
        let search = reads.saturating_sub(5 * each);
        Self {
            group: each,
            access: each,
            small: each,
            search: if search == 0 { 1 } else { search },
            write: if writes == 0 { 1 } else { writes },
        }
    }
}

/// The chains that no change is under way for.
fn free(chains: &Mutex<Vec<Chain>>) -> MutexGuard<'_, Vec<Chain>> {
    chains.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A database that is open, and the connections to it.
pub(crate) struct Postgres {
    connect: Connect,
    sizes: Sizes,
    pub(crate) access: Pool,
    pub(crate) small: Pool,
    pub(crate) search: Pool,
    writers: Arc<Pool>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("sizes", &self.sizes).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Connects, and brings the schema up to date.
    pub(crate) async fn open(config: &PostgresConfig, bounds: ReadBounds) -> Result<Self, StoreError> {
        migrate::run(config).await?;
        let searching = config.connector_within(bounds.search);
        Ok(Self::on(config.connector(), &searching, config.sizes(), bounds.wait))
    }

    fn on(connect: Connect, searching: &Connect, sizes: Sizes, wait: Duration) -> Self {
        let links = |n, connect: &Connect| (0..n).map(|_| Link::start(Arc::clone(connect))).collect();
        Self {
            access: Pool::new(links(sizes.access, &connect), DATABASE_WAIT_MAX),
            small: Pool::new(links(sizes.small, &connect), DATABASE_WAIT_MAX),
            search: Pool::new(links(sizes.search, searching), wait),
            writers: Arc::new(Pool::new(links(sizes.write, &connect), DATABASE_WAIT_MAX)),
            connect,
            sizes,
        }
    }

    /// Answers reads in groups until their queue ends, over connections that nothing else uses.
    pub(crate) fn serve_reads<K, V>(&self, reads: &Arc<Reads<K, V>>, query: GroupQuery<K, V>)
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let query = Arc::new(query);
        for _ in 0..self.sizes.group {
            let link = Link::start(Arc::clone(&self.connect));
            tokio::spawn(reads::serve(link, reads.lane(), Arc::clone(&query)));
        }
    }

    /// Makes changes durable until their queue ends, then waits for those under way. Changes that are made at
    /// the same time put their records into chains of their own, which begin as `chain`; one after another, into
    /// the same.
    pub(crate) fn serve_writes(
        &self,
        mut requests: mpsc::Receiver<WriteRequest>,
        chain: Chain,
    ) -> JoinHandle<()> {
        let writers = Arc::clone(&self.writers);
        let chains = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                while running.try_join_next().is_some() {}
                let Some(request) = requests.recv().await else { break };
                // Who has waited too long by now is told so at once.
                let link = writers.take_until(request.deadline()).await;
                let chains = Arc::clone(&chains);
                let mut chain = free(&chains).pop().unwrap_or_else(|| chain.clone());
                running.spawn(async move {
                    let deadline = request.deadline();
                    let (change, answer) = request.into_parts();
                    let outcome = match link {
                        Ok(link) => write::commit(&link, change, &mut chain, deadline).await,
                        Err(error) => Err(error),
                    };
                    // Before the answer: whoever waits for it may go on with the next change.
                    free(&chains).push(chain);
                    // Whoever asked may have gone away.
                    let _ = answer.send(outcome);
                });
            }
            while running.join_next().await.is_some() {}
            let chains = std::mem::take(&mut *free(&chains));
            if let Ok(link) = writers.take().await {
                write::end(&link, chains).await;
            }
        })
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

#[cfg(test)]
mod tests {
    use keyrelay_core::limits::{DATABASE_CONNECTIONS_MAX, DATABASE_READ_CONNECTIONS_MIN};

    use super::*;

    #[test]
    fn every_kind_of_read_has_connections_of_its_own() {
        let split = |reads| {
            let Sizes { group, access, small, search, .. } = Sizes::of(reads, 8);
            (group, access, small, search)
        };
        assert_eq!([6, 12, 17].map(split), [(1, 1, 1, 1), (2, 2, 2, 2), (2, 2, 2, 7)]);
        for reads in DATABASE_READ_CONNECTIONS_MIN..=DATABASE_CONNECTIONS_MAX {
            let (group, access, small, search) = split(reads);
            assert!([group, access, small, search].into_iter().all(|n| n >= 1), "{reads}");
            assert_eq!(3 * group + access + small + search, reads);
        }
    }
}
