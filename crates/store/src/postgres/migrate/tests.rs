//! Many nodes that start at once, and two versions that run beside each other: the newer one is this program
//! with migrations that it does not have yet. Without a server that the environment names, nothing of that
//! runs.

use std::path::Path;

use keyrelay_core::id::ProjectId;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::secret_rules::SecretSettings;

use super::*;
use crate::database::Database;
use crate::postgres::Postgres;
use crate::turns::ReadBounds;
use crate::{Change, ProjectRow, Store, TestDatabase};

const NODES: usize = 16;
/// Adds what the program of today does not know, and takes nothing away.
const EXPANDS: &str = "ALTER TABLE project ADD COLUMN region TEXT; \
                       CREATE TABLE project_region (project_id TEXT NOT NULL PRIMARY KEY, region TEXT NOT NULL)";
/// Takes away what the program of today needs.
const CONTRACTS: &str = "ALTER TABLE project DROP COLUMN secret_once";

/// The migrations of a later version.
fn and(more: &[(&'static str, usize)]) -> Vec<Migration> {
    let more = more.iter().map(|(text, beyond)| {
        let needs = i64::try_from(MIGRATIONS.len() + beyond).unwrap();
        Migration { text, needs }
    });
    MIGRATIONS.into_iter().chain(more).collect()
}

/// A node that runs the version with these migrations.
async fn node(config: &PostgresConfig, migrations: &[Migration]) -> Result<Store, StoreError> {
    run_to(config, migrations).await?;
    let (connect, bounds) = (config.connector(), ReadBounds::default());
    let postgres = Postgres::on(connect.clone(), &connect, config.sizes(), bounds.wait);
    Store::on(Database::Postgres(postgres), bounds).await
}

async fn database(dir: &Path) -> Option<PostgresConfig> {
    let database = TestDatabase::new(dir).await;
    database.is_postgres().then(|| PostgresConfig::parse(&database.url()).unwrap())
}

async fn ask(config: &PostgresConfig, sql: &str) -> String {
    let (client, connection) = config.connect().await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = client.query_one(sql, &[]).await.unwrap().get(0);
    drop(client);
    connection.await.unwrap();
    answer
}

/// Writes a project and reads it back, as a node does in passing.
async fn works(store: &Store, id: ProjectId, name: &str) {
    let mut change = Change::new();
    change.put_project(&ProjectRow {
        id,
        name: Some(name.to_owned()),
        active: true,
        super_admin: false,
        secrets: SecretSettings::default(),
    });
    store.commit(change).await.unwrap();
    assert!(!store.is_empty().await.unwrap());
    // Every kind of group read, on connections that may have prepared it before.
    let entropy = SeededEntropy::new(1);
    assert!(store.access(keyrelay_core::id::ClientId::random(&entropy)).await.unwrap().is_none());
    assert!(store.client(keyrelay_core::id::ClientId::random(&entropy)).await.unwrap().is_none());
    assert!(store.session(keyrelay_core::id::SessionId::random(&entropy)).await.unwrap().is_none());
}

#[test]
fn both_databases_have_every_migration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let files = |database| std::fs::read_dir(folder.join(database)).unwrap().count();
    assert_eq!([MIGRATIONS.len(), crate::sqlite::MIGRATIONS.len()], [files("postgres"), files("sqlite")]);
    assert_eq!(files("postgres"), files("sqlite"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_nodes_start_at_once_on_an_empty_database() {
    let dir = tempfile::tempdir().unwrap();
    let Some(config) = database(dir.path()).await else { return };
    let config = config.with_connections(1, 1);
    let starting: Vec<_> = (0..NODES)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move { node(&config, &MIGRATIONS).await })
        })
        .collect();
    let id = ProjectId::random(&SeededEntropy::new(2));
    for (n, node) in starting.into_iter().enumerate() {
        works(&node.await.unwrap().unwrap(), id, &n.to_string()).await;
    }
    let done = "SELECT string_agg(version::text, ',' ORDER BY version) FROM schema_version";
    let each_once: Vec<_> = (1..=MIGRATIONS.len()).map(|version| version.to_string()).collect();
    assert_eq!(ask(&config, done).await, each_once.join(","));
}

#[tokio::test]
async fn this_version_and_the_next_run_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let Some(config) = database(dir.path()).await else { return };
    let id = ProjectId::random(&SeededEntropy::new(2));
    let now = node(&config, &MIGRATIONS).await.unwrap();
    works(&now, id, "before").await;

    let expanded = and(&[(EXPANDS, 0)]);
    let next = node(&config, &expanded).await.unwrap();
    ask(&config, "UPDATE project SET region = 'north' RETURNING region").await;
    for (n, store) in [&now, &next, &now].into_iter().enumerate() {
        works(store, id, &n.to_string()).await;
    }
    // A node of this version is started again while the next one runs.
    works(&node(&config, &MIGRATIONS).await.unwrap(), id, "again").await;
    let both = "SELECT name || ' in the ' || region FROM project";
    assert_eq!(ask(&config, both).await, "again in the north");
}

#[tokio::test]
async fn what_projects_could_say_about_secrets_before_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let Some(config) = database(dir.path()).await else { return };
    run_to(&config, &MIGRATIONS[..7]).await.unwrap();
    for (id, once, settings) in [
        ("silent", false, r#""setting":[{"name":"x","valueBoolean":true}]"#),
        (
            "shown",
            false,
            r#""setting":[{"name":"x"},{"name":"secretVisibility","valueString":"recoverable"}]"#,
        ),
        (
            "once",
            true,
            r#""setting":[{"name":"secretVisibility"},{"name":"secretOverwrite","valueString":"warn"}]"#,
        ),
        ("none", false, ""),
    ] {
        let sql = format!(
            "WITH p AS (INSERT INTO project (id, active, super_admin, secret_once) \
             VALUES ('{id}', TRUE, FALSE, {once})) INSERT INTO resource \
             VALUES ('{id}', 'Project', '{id}', 'v', 1, 0, FALSE, '{{{settings}}}') RETURNING id"
        );
        ask(&config, &sql).await;
    }
    run_to(&config, &MIGRATIONS).await.unwrap();
    let said = "SELECT string_agg(concat_ws(' ', id, secret_recoverable, secret_overwrite), ', ' ORDER BY id) FROM project";
    assert_eq!(ask(&config, said).await, "none f, once f warn, shown t, silent f");
}

#[tokio::test]
async fn a_version_that_a_schema_is_too_new_for_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let Some(config) = database(dir.path()).await else { return };
    let id = ProjectId::random(&SeededEntropy::new(2));
    works(&node(&config, &MIGRATIONS).await.unwrap(), id, "before").await;
    run_to(&config, &and(&[(EXPANDS, 0), (CONTRACTS, 2)])).await.unwrap();
    let refused = node(&config, &MIGRATIONS).await.unwrap_err();
    let (known, found) = (MIGRATIONS.len(), MIGRATIONS.len() + 2);
    assert_eq!(
        refused.to_string(),
        format!(
            "the database has schema version {found}, but this program knows {known} only: use a newer keyrelay"
        )
    );
    assert_eq!(
        ask(&config, "SELECT name FROM project").await,
        "before",
        "a program that is refused changes nothing"
    );
}
