//! Group reads on a real PostgreSQL that is slow, or loses connections: who is held up by it, and who is
//! not. Without a server that the environment names, nothing runs.

use std::time::Duration;

use keyrelay_core::id::{ClientId, SessionId};
use keyrelay_core::random::SeededEntropy;
use keyrelay_store::{Store, StoreError, TestDatabase};
use tempfile::TempDir;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::{Client, NoTls};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_mins(1);

/// A store, and a connection of somebody else to its database.
struct Stage {
    store: Store,
    other: Client,
    entropy: SeededEntropy,
    _dir: TempDir,
}

impl Stage {
    async fn open() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let database = TestDatabase::new(dir.path()).await;
        if !database.is_postgres() {
            return None;
        }
        let store = database.open().await.unwrap();
        let (other, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        let stage = Self { store, other, entropy: SeededEntropy::new(1), _dir: dir };
        // Every connection is made, and knows its query.
        for _ in 0..4 {
            let reads = (stage.ask(), stage.ask_session());
            assert!(reads.0.await.unwrap().is_ok() && reads.1.await.unwrap().is_ok());
        }
        Some(stage)
    }

    /// Reads some client: whether it was answered.
    fn ask(&self) -> JoinHandle<Result<(), StoreError>> {
        let (store, id) = (self.store.clone(), ClientId::random(&self.entropy));
        tokio::spawn(async move { store.access(id).await.map(drop) })
    }

    fn ask_session(&self) -> JoinHandle<Result<(), StoreError>> {
        let (store, id) = (self.store.clone(), SessionId::random(&self.entropy));
        tokio::spawn(async move { store.session(id).await.map(drop) })
    }

    /// Until this is undone, whoever reads the table waits.
    async fn hold(&self, table: &str) {
        self.other
            .batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            .await
            .unwrap();
    }

    async fn release(&self) {
        self.other.batch_execute("ROLLBACK").await.unwrap();
    }

    /// The connections that wait for the table, as soon as there are so many.
    async fn waiting(&self, table: &str, count: usize) -> Vec<i32> {
        let sql = format!(
            "SELECT pid FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass ORDER BY pid"
        );
        let poll = async {
            loop {
                let rows = self.other.query(&sql, &[]).await.unwrap();
                if rows.len() >= count {
                    return rows.iter().map(|row| row.get(0)).collect();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, poll).await.expect("reads reach the database")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_of_read_that_is_slow_holds_up_no_other() {
    let Some(stage) = Stage::open().await else { return };
    stage.hold("session").await;
    let slow: Vec<_> = (0..100).map(|_| stage.ask_session()).collect();
    stage.waiting("session", 2).await;
    let others: JoinSet<_> = (0..100).map(|_| stage.ask()).collect();
    assert!(others.join_all().await.into_iter().all(|answer| answer.unwrap().is_ok()));
    assert!(slow.iter().all(|read| !read.is_finished()));
    stage.release().await;
    for read in slow {
        read.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_connection_is_lost_takes_no_other_with_it() {
    let Some(stage) = Stage::open().await else { return };
    stage.hold("client").await;
    let first = stage.ask();
    let [pid] = stage.waiting("client", 1).await[..] else { panic!("one connection reads") };
    let second = stage.ask();
    stage.waiting("client", 2).await;
    // Both connections are busy; this one waits for the next that is free.
    let third = stage.ask();
    stage.other.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    stage.release().await;
    // It is asked again, over another connection.
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    for _ in 0..10 {
        stage.ask().await.unwrap().unwrap();
    }
}
