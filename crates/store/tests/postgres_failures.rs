//! What the store answers when PostgreSQL, or the way to it, fails: the truth, in time, and everything
//! again once it works again. Without a server that the environment names, nothing runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_chaos::postgres::Cluster;
use keyrelay_chaos::proxy::{Mode, Proxy};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, NodeId, ProjectId, ResourceId, SecretId, VersionId};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{Outcome, PresenterRef, UsageCounts, UsageKey};
use keyrelay_store::{
    Change, Conflict, PostgresConfig, ResourceVersion, SERVER_VARIABLE, Store, StoreError, TestDatabase,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls};

const KIND: ResourceType = ResourceType::Practitioner;

/// A store behind a proxy, with one resource, and a way to the same database beside it.
struct Stage {
    proxy: Proxy,
    store: Store,
    /// As itself, not by the proxy.
    beside: Store,
    /// For what no store does.
    sql: Client,
    database: TestDatabase,
    entropy: SeededEntropy,
    first: ResourceVersion,
    _dir: TempDir,
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Stage {
    /// None where there is no server.
    async fn open() -> Option<Self> {
        std::env::var(SERVER_VARIABLE).ok()?;
        let dir = tempfile::tempdir().unwrap();
        let database = TestDatabase::new(dir.path()).await;
        Some(Self::on(database, dir).await)
    }

    /// In a database of its own, and its name.
    async fn alone(name: &str) -> Option<(Self, String)> {
        let server = std::env::var(SERVER_VARIABLE).ok()?;
        let name = format!("{name}_{}", std::process::id());
        connect(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (base, _) = server.rsplit_once('/').unwrap();
        let database = TestDatabase::Schema(format!("{base}/{name}"));
        Some((Self::on(database, tempfile::tempdir().unwrap()).await, name))
    }

    async fn on(database: TestDatabase, dir: TempDir) -> Self {
        let proxy = Proxy::start(database.address()).await.unwrap();
        let beside = database.open().await.unwrap();
        let store = database.through(proxy.address()).open().await.unwrap();
        let sql = connect(&database.url()).await;
        let entropy = SeededEntropy::new(1);
        let first = ResourceVersion {
            resource_type: KIND,
            id: ResourceId::random(&entropy),
            project: None,
            version: VersionId::random(&entropy),
            revision: 1,
            last_updated: Timestamp::from_epoch_ms(0),
            deleted: false,
            content: "{}".to_owned(),
        };
        let mut change = Change::new();
        change.create(first.clone(), &[]);
        store.commit(change).await.unwrap();
        Self { proxy, store, beside, sql, database, entropy, first, _dir: dir }
    }

    /// A new version of the resource that follows on `current`.
    fn change(&self, current: &ResourceVersion) -> (Change, VersionId) {
        let version = VersionId::random(&self.entropy);
        let next = ResourceVersion { version, revision: current.revision + 1, ..current.clone() };
        let mut change = Change::new();
        change.update(next, current.version, None);
        (change, version)
    }

    fn commit(&self, change: Change) -> JoinHandle<Result<(), StoreError>> {
        let store = self.store.clone();
        tokio::spawn(async move { store.commit(change).await })
    }

    /// The version that the database has, whatever stands before it.
    async fn current(&self) -> ResourceVersion {
        self.beside.resource(KIND, self.first.id).await.unwrap().unwrap()
    }

    /// Sends a change whose commit, or the answer to it, is lost.
    async fn lose(&self, mode: Mode) -> (JoinHandle<Result<(), StoreError>>, VersionId) {
        let mut lost = self.proxy.commits_lost();
        self.proxy.set(mode);
        let (change, version) = self.change(&self.first);
        let outcome = self.commit(change);
        lost.changed().await.unwrap();
        (outcome, version)
    }

    /// Ends what is lost, and lets through what comes from now on.
    fn heal(&self) {
        self.proxy.set(Mode::Pass);
        self.proxy.cut();
    }

    /// Waits until it is at work again, however long a busy machine takes for it.
    async fn recovers(&self) {
        let recovered = async { while self.store.access(ClientId::NIL).await.is_err() {} };
        tokio::time::timeout(Duration::from_mins(1), recovered).await.expect("it is not taken up again");
    }

    /// A read and a change, as they should be.
    async fn works(&self) {
        self.store.access(ClientId::NIL).await.unwrap();
        let (change, version) = self.change(&self.current().await);
        self.store.commit(change).await.unwrap();
        assert_eq!(self.current().await.version, version);
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_made_and_made_once() {
    let Some(stage) = Stage::open().await else { return };
    let (outcome, version) = stage.lose(Mode::LoseAnswersToCommits).await;
    assert_eq!(stage.current().await.version, version, "it was made");
    stage.heal();
    outcome.await.unwrap().unwrap();
    let turn = stage.beside.turn(ProjectId::NIL).await.unwrap();
    assert_eq!(stage.beside.history(KIND, stage.first.id, (0, 10), &turn).await.unwrap().versions.len(), 2);
    stage.works().await;
}

#[tokio::test]
async fn a_commit_that_does_not_arrive_is_made_again() {
    let Some(stage) = Stage::open().await else { return };
    let (outcome, version) = stage.lose(Mode::KeepCommits).await;
    assert_eq!(stage.current().await.version, stage.first.version, "it was not made");
    stage.heal();
    outcome.await.unwrap().unwrap();
    assert_eq!(stage.current().await.version, version);
}

#[tokio::test]
async fn a_change_in_doubt_that_somebody_else_came_before_is_a_conflict() {
    let Some(stage) = Stage::open().await else { return };
    let (outcome, version) = stage.lose(Mode::KeepCommits).await;
    stage.proxy.set(Mode::Hang);
    stage.proxy.cut();
    let (other, won) = stage.change(&stage.first);
    stage.beside.commit(other).await.unwrap();
    stage.heal();
    let refused = outcome.await.unwrap();
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
    assert_eq!(stage.current().await.version, won);
    let made = stage.beside.version(KIND, stage.first.id, version).await.unwrap();
    assert!(made.is_none());
}

#[tokio::test]
async fn of_a_change_in_doubt_nothing_is_said_while_the_database_is_away() {
    let Some(stage) = Stage::open().await else { return };
    for mode in [Mode::KeepCommits, Mode::LoseAnswersToCommits] {
        let current = stage.current().await;
        let (change, _) = stage.change(&current);
        let mut lost = stage.proxy.commits_lost();
        stage.proxy.set(mode);
        let outcome = stage.commit(change);
        lost.changed().await.unwrap();
        stage.proxy.set(Mode::Hang);
        stage.proxy.cut();
        let told = outcome.await.unwrap();
        assert!(matches!(told, Err(StoreError::Unknown)), "{mode:?}: {told:?}");
        stage.heal();
        stage.works().await;
    }
}

#[tokio::test]
async fn uses_that_may_have_been_counted_are_not_counted_again() {
    let Some(stage) = Stage::open().await else { return };
    let key = UsageKey { client: ClientId::NIL, secret: SecretId::random(&stage.entropy) };
    let (by, at) = (PresenterRef::new(Ipv4Addr::LOCALHOST.into(), "curl", ""), Timestamp::from_epoch_ms(0));
    let mut counts = UsageCounts::default();
    for _ in 0..3 {
        counts.count(keyrelay_core::id::ProjectId::NIL, key, Outcome::Accepted, by, at);
    }
    let counted = counts.into_ordered();
    let mut mark = stage.store.begin_usage(NodeId::random(&stage.entropy), at, at).await.unwrap();
    for (mode, uses) in [(Mode::KeepCommits, 3), (Mode::LoseAnswersToCommits, 6)] {
        let mut lost = stage.proxy.commits_lost();
        stage.proxy.set(mode);
        let (store, flushed) = (stage.store.clone(), counted.clone());
        let outcome = tokio::spawn(async move { store.add_usage(&flushed, mark, at).await });
        lost.changed().await.unwrap();
        stage.heal();
        match (outcome.await.unwrap(), mode) {
            // It did not arrive, so it was made again.
            (Ok(moved), Mode::KeepCommits) => mark = moved,
            // It was made, and cannot be made again.
            (Err(StoreError::Unknown), Mode::LoseAnswersToCommits) => {
                let again = stage.store.add_usage(&counted, mark, at).await;
                assert!(matches!(again, Err(StoreError::Conflict(Conflict::Version))), "{again:?}");
                assert_eq!(stage.beside.usage_marks().await.unwrap(), [mark.moved(at)]);
            }
            (told, _) => panic!("{mode:?}: {told:?}"),
        }
        let found =
            stage.beside.usage(key.client, [key.secret, SecretId::NIL, SecretId::NIL], at).await.unwrap();
        assert_eq!(found[&key.secret].total.map(|total| total.accepted), Some(uses));
    }
}

#[tokio::test]
async fn a_database_that_hangs_is_told_of_in_time_and_taken_up_again() {
    let Some(stage) = Stage::open().await else { return };
    // Holding everything back, and losing it without closing anything.
    for mode in [Mode::Hang, Mode::Lose] {
        stage.proxy.set(mode);
        let (change, _) = stage.change(&stage.current().await);
        let asked = (stage.store.access(ClientId::NIL), stage.store.commit(change), stage.store.ping());
        let told = tokio::join!(asked.0, asked.1, asked.2);
        assert!(matches!(told.0, Err(StoreError::Busy)), "{mode:?}: {:?}", told.0);
        assert!(matches!(told.1, Err(StoreError::Busy)), "{mode:?}: {:?}", told.1);
        assert!(matches!(told.2, Err(StoreError::Busy)), "{mode:?}: {:?}", told.2);
        stage.proxy.set(Mode::Pass);
        stage.recovers().await;
        stage.works().await;
        stage.store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_is_made_again() {
    let Some(stage) = Stage::open().await else { return };
    stage.proxy.cut();
    stage.works().await;
}

#[tokio::test]
async fn connections_that_the_server_ends_are_made_again() {
    let Some((stage, name)) = Stage::alone("ended").await else { return };
    // As when a server is shut down.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()";
    assert!(stage.sql.query(sql, &[&name]).await.unwrap().len() > 2);
    stage.works().await;
}

#[tokio::test]
async fn a_full_disk_refuses_changes_and_nothing_else() {
    let Some(stage) = Stage::open().await else { return };
    // At the statement, and at the commit.
    for trigger in [
        "CREATE TRIGGER full_disk BEFORE UPDATE ON resource FOR EACH ROW EXECUTE FUNCTION full_disk()",
        "CREATE CONSTRAINT TRIGGER full_disk AFTER UPDATE ON resource DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION full_disk()",
    ] {
        let function = "CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
                        $$BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'No space left on device'; END$$";
        stage.sql.batch_execute(&format!("{function}; {trigger}")).await.unwrap();
        let before = stage.current().await;
        let (change, _) = stage.change(&before);
        let refused = stage.store.commit(change).await;
        assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
        assert_eq!(stage.current().await.version, before.version);
        stage.store.access(ClientId::NIL).await.unwrap();
        stage.sql.batch_execute("DROP TRIGGER full_disk ON resource").await.unwrap();
        stage.works().await;
    }
}

#[tokio::test]
async fn a_change_that_was_serialized_away_is_made_again() {
    let Some(stage) = Stage::open().await else { return };
    let setting = "CREATE SEQUENCE tries; CREATE FUNCTION in_the_way() RETURNS trigger LANGUAGE plpgsql AS \
                   $$BEGIN IF nextval('tries') < 3 THEN RAISE SQLSTATE '40001'; END IF; RETURN NULL; END$$; \
                   CREATE CONSTRAINT TRIGGER in_the_way AFTER UPDATE ON resource DEFERRABLE INITIALLY DEFERRED \
                   FOR EACH ROW EXECUTE FUNCTION in_the_way()";
    stage.sql.batch_execute(setting).await.unwrap();
    stage.works().await;
    let tries: i64 = stage.sql.query_one("SELECT last_value FROM tries", &[]).await.unwrap().get(0);
    assert_eq!(tries, 3);
}

#[tokio::test]
async fn a_primary_that_becomes_read_only_is_not_written_to_and_found_again() {
    let Some((stage, name)) = Stage::alone("read_only").await else { return };
    let read_only = |on: bool| format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}");
    stage.sql.batch_execute(&read_only(true)).await.unwrap();
    stage.proxy.cut();
    let (change, _) = stage.change(&stage.first);
    let (read, written) = tokio::join!(stage.store.access(ClientId::NIL), stage.store.commit(change));
    assert!(matches!(read, Err(StoreError::Busy)), "it may be a standby, and behind: {read:?}");
    assert!(matches!(written, Err(StoreError::Busy)), "{written:?}");
    stage
        .sql
        .batch_execute(&format!("SET default_transaction_read_only = off; {}", read_only(false)))
        .await
        .unwrap();
    stage.works().await;
}

#[tokio::test]
async fn what_is_answered_is_on_the_disk_also_where_the_database_is_set_not_to_wait_for_it() {
    let Some((stage, name)) = Stage::alone("lazy").await else { return };
    let setting = format!(
        "ALTER DATABASE {name} SET synchronous_commit = off; \
         CREATE FUNCTION eager() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN IF current_setting('synchronous_commit') <> 'on' THEN RAISE 'lazy'; END IF; RETURN NEW; END$$; \
         CREATE TRIGGER eager BEFORE UPDATE ON resource FOR EACH ROW EXECUTE FUNCTION eager()"
    );
    stage.sql.batch_execute(&setting).await.unwrap();
    stage.proxy.cut();
    stage.works().await;
}

#[tokio::test]
async fn a_host_that_hangs_or_cannot_be_written_to_is_passed_over() {
    let Some(stage) = Stage::open().await else { return };
    let hangs = Proxy::start(stage.database.address()).await.unwrap();
    hangs.set(Mode::Hang);
    let nobody = keyrelay_chaos::nodes::free_address().unwrap();
    let url = stage.database.url();
    let here = stage.database.address().to_string();
    let url = url.replace(&here, &format!("{},{nobody},{here}", hangs.address()));
    let config = PostgresConfig::parse(&url).unwrap();
    let opened = timeout(Duration::from_mins(1), Store::open_postgres(&config));
    let store = opened.await.expect("an answer in time").unwrap();
    store.resource(KIND, stage.first.id).await.unwrap().unwrap();
}

/// A server gives the id of a transaction again that it lost in a crash. Whoever asks after a lost commit
/// by that id is told what became of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_crash_lost_is_not_taken_for_another() {
    let Some((stage, cluster)) = on_a_cluster().await else { return };
    let (outcome, version) = stage.lose(Mode::KeepCommits).await;
    // Nobody learns of the crash before other transactions have been made after it.
    stage.proxy.set(Mode::Hang);
    let crash = move || {
        cluster.stop_primary().unwrap();
        cluster.start_primary().unwrap();
        cluster
    };
    let cluster = tokio::task::spawn_blocking(crash).await.unwrap();
    let others = connect(&stage.database.url()).await;
    for _ in 0..20 {
        others.batch_execute("CREATE TABLE another (); DROP TABLE another").await.unwrap();
    }
    stage.heal();
    outcome.await.unwrap().unwrap();
    assert_eq!(stage.current().await.version, version, "what was answered is so");
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

/// A primary that waits for its standby, and a stage on it.
async fn on_a_cluster() -> Option<(Stage, Cluster)> {
    let server = std::env::var(SERVER_VARIABLE).ok()?;
    let sql = connect(&server).await;
    let row = sql.query_one("SELECT setting FROM pg_config WHERE name = 'BINDIR'", &[]).await.unwrap();
    let programs = PathBuf::from(row.get::<_, String>(0));
    let runtime = tokio::runtime::Handle::current();
    let start = move || Cluster::start(&programs, runtime).unwrap();
    let cluster = tokio::task::spawn_blocking(start).await.unwrap();
    let address: SocketAddr = cluster.addresses()[cluster.primary()];
    let database = TestDatabase::Schema(format!("postgres://keyrelay@{address}/postgres"));
    Some((Stage::on(database, tempfile::tempdir().unwrap()).await, cluster))
}

/// While the standby is away a commit waits on the server for as long as it takes, even when nobody waits
/// for it any more.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_standby_is_away_commits_do_not_pile_up_and_reads_go_on() {
    let Some((stage, cluster)) = on_a_cluster().await else { return };
    // Each in a project of its own: writes of one project that are counted together wait for each other.
    let resources: Vec<ResourceVersion> = (0..12)
        .map(|_| ResourceVersion {
            id: ResourceId::random(&stage.entropy),
            project: Some(ProjectId::random(&stage.entropy)),
            ..stage.first.clone()
        })
        .collect();
    let away = move || cluster.stop_standby().map(|()| cluster);
    let cluster = tokio::task::spawn_blocking(away).await.unwrap().unwrap();
    let make = |resource: &ResourceVersion| {
        let mut change = Change::new();
        change.create(resource.clone(), &[]);
        stage.store.commit(change)
    };
    let told = join_all(resources.iter().map(make)).await;
    let in_doubt = told.iter().filter(|told| matches!(told, Err(StoreError::Unknown))).count();
    let refused = told.iter().filter(|told| matches!(told, Err(StoreError::Busy))).count();
    assert_eq!((in_doubt, refused), (8, 4), "as many as there are connections: {told:?}");
    let again = stage.store.commit(stage.change(&stage.first).0).await;
    assert!(matches!(again, Err(StoreError::Busy)), "no connection is free: {again:?}");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waiting: i64 = stage.sql.query_one(waiting, &[]).await.unwrap().get(0);
    assert_eq!(waiting, 8);
    stage.store.access(ClientId::NIL).await.unwrap();
    stage.store.ping().await.unwrap();
    let back = move || cluster.start_standby().map(|()| cluster);
    let cluster = tokio::task::spawn_blocking(back).await.unwrap().unwrap();
    stage.works().await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}
