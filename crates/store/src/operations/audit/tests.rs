use std::sync::Arc;

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::random::SeededEntropy;
use rusqlite::OpenFlags;
use serde_json::json;

use super::*;
use crate::operations::direct::open_file;
use crate::{Change, PostgresConfig, ResourceVersion, Store, TestDatabase};

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

struct Stage {
    _dir: tempfile::TempDir,
    database: TestDatabase,
    place: Place,
    entropy: Arc<SeededEntropy>,
    keyring: Keyring,
    /// Whether there was nothing before.
    is_first: bool,
}

impl Stage {
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = TestDatabase::new(dir.path()).await;
        let place = match &database {
            TestDatabase::File(path) => Place::File(path.clone()),
            TestDatabase::Schema(url) => Place::Postgres(Box::new(PostgresConfig::parse(url).unwrap())),
        };
        let entropy = Arc::new(SeededEntropy::new(1));
        let keyring = Keyring::parse_file(&Keyring::new_file(entropy.as_ref())).unwrap();
        Self { _dir: dir, database, place, entropy, keyring, is_first: true }
    }

    /// One run of a server that makes so many records, one after another.
    async fn run(&self, records: i64) -> Store {
        let store = self.database.open().await.unwrap();
        let key = if let Some(sealed) = store.audit_key().await.unwrap() {
            self.keyring.unwrap_audit_root(&sealed).unwrap().key
        } else {
            let beginning = AuditBeginning { since: NOW, is_first: self.is_first };
            let (root, bytes) = AuditRoot::generate(beginning, self.entropy.as_ref());
            let mut change = Change::new();
            change.create_audit_key(&self.keyring.wrap_audit_root(&bytes, self.entropy.as_ref()), NOW);
            store.commit(change).await.unwrap();
            root.key
        };
        store.chain_audit_with(key, self.entropy.clone());
        for _ in 0..records {
            self.record(&store).await;
        }
        store
    }

    async fn record(&self, store: &Store) {
        let mut change = Change::new();
        let content = json!({ "resourceType": "AuditEvent", "recorded": NOW.to_instant(), "entity": [] });
        let index = index_entries(ResourceType::AuditEvent, content.as_object().unwrap());
        assert!(!index.is_empty());
        change.record(self.version(&content.to_string()), &index);
        store.commit(change).await.unwrap();
    }

    fn version(&self, content: &str) -> ResourceVersion {
        ResourceVersion {
            resource_type: ResourceType::AuditEvent,
            id: ResourceId::random(self.entropy.as_ref()),
            project: None,
            version: VersionId::random(self.entropy.as_ref()),
            revision: 1,
            last_updated: NOW,
            deleted: false,
            content: content.to_owned(),
        }
    }

    async fn verify(&self, noted: &[NotedHead]) -> AuditReport {
        verify_audit(&self.place, &self.keyring, noted, &mut |_, _| {}).await.unwrap().unwrap()
    }

    /// What somebody does who can write to the database.
    async fn tamper(&self, sql: &str) -> Result<(), StoreError> {
        let direct = match &self.place {
            Place::File(path) => Direct::Sqlite(open_file(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()),
            Place::Postgres(_) => Direct::open(&self.place).await.unwrap(),
        };
        direct.run(sql).await
    }

    /// The same, by somebody who takes the triggers away first.
    async fn tamper_unhindered(&self, sql: &str) {
        let triggers = if self.database.is_postgres() {
            "ALTER TABLE resource DISABLE TRIGGER ALL; ALTER TABLE audit_link DISABLE TRIGGER ALL"
        } else {
            "DROP TRIGGER IF EXISTS audit_record_is_not_changed; \
             DROP TRIGGER IF EXISTS audit_record_is_not_deleted; \
             DROP TRIGGER IF EXISTS audit_link_is_not_changed; \
             DROP TRIGGER IF EXISTS audit_link_is_not_deleted"
        };
        self.tamper(&format!("{triggers}; {sql}")).await.unwrap();
    }
}

const NTH: &str = "(SELECT event_id FROM audit_link WHERE nth = ";

#[tokio::test]
async fn what_servers_wrote_is_proved_in_order_and_after_a_restart() {
    let stage = Stage::set().await;
    stage.run(3).await.close().await;
    let open = stage.run(2).await;
    let report = stage.verify(&[]).await;
    assert_eq!((report.records, report.found, report.older), (5, 0, 0), "{report:?}");
    let mut ended: Vec<_> = report.heads.iter().map(|head| (head.ended, head.link.nth)).collect();
    ended.sort_unstable();
    assert_eq!(ended, [(false, 2), (true, 4)]);
    open.close().await;
    assert!(stage.verify(&[]).await.heads.iter().all(|head| head.ended));
}

#[tokio::test]
async fn records_are_only_added() {
    let stage = Stage::set().await;
    stage.run(2).await.close().await;
    for sql in [
        "UPDATE resource SET content = '{}'",
        "DELETE FROM resource",
        "UPDATE audit_link SET mac = ''",
        "DELETE FROM audit_link",
    ] {
        let refused = stage.tamper(sql).await.unwrap_err().to_string();
        assert!(refused.contains("audit records are only added"), "{sql}: {refused}");
    }
    assert_eq!(stage.verify(&[]).await.found, 0);
}

#[tokio::test]
async fn whatever_is_changed_shows() {
    let tampered = [
        (format!("UPDATE resource SET content = '{{}}' WHERE id = {NTH}2)"), "link 2 is broken"),
        (format!("UPDATE resource SET last_updated = 1 WHERE id = {NTH}2)"), "link 2 is broken"),
        (format!("UPDATE resource SET project_id = version_id WHERE id = {NTH}2)"), "link 2 is broken"),
        (format!("UPDATE resource SET deleted = (1 = 1) WHERE id = {NTH}2)"), "of link 2 is missing"),
        (format!("DELETE FROM resource WHERE id = {NTH}3)"), "of link 3 is missing"),
        ("DELETE FROM audit_link WHERE nth = 2".to_owned(), "link 2 is missing"),
        ("DELETE FROM audit_link WHERE nth = 1".to_owned(), "link 1 is missing"),
        ("UPDATE audit_link SET nth = 9 WHERE event_id IS NULL".to_owned(), "link 5 is missing"),
        (
            "INSERT INTO audit_link SELECT chain, 6, 'x', mac FROM audit_link WHERE nth = 1".to_owned(),
            "comes after its end",
        ),
        (
            "INSERT INTO resource SELECT 'forged', resource_type, project_id, version_id, revision, \
             last_updated, deleted, content FROM resource LIMIT 1"
                .to_owned(),
            "AuditEvent/forged is in no chain",
        ),
        (
            "INSERT INTO resource SELECT 'older', resource_type, project_id, version_id, revision, 1, deleted, \
             content FROM resource LIMIT 1; UPDATE audit_key SET created = created + 1000"
                .to_owned(),
            "AuditEvent/older is in no chain",
        ),
        (
            "INSERT INTO resource_history (id, revision, version_id, resource_type, project_id, last_updated, deleted, \
             content) SELECT id, 0, version_id, resource_type, project_id, 1, deleted, '{}' FROM resource LIMIT 1"
                .to_owned(),
            "has an earlier version",
        ),
        (format!("DELETE FROM search_index WHERE resource_id = {NTH}2)"), "the search index was changed"),
        (format!("UPDATE search_index SET value = 'x' WHERE resource_id = {NTH}2)"), "the search index was changed"),
    ];
    for (sql, told) in tampered {
        let stage = Stage::set().await;
        stage.run(4).await.close().await;
        stage.tamper_unhindered(&sql).await;
        let report = stage.verify(&[]).await;
        let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(findings.iter().any(|finding| finding.contains(told)), "{sql}: {findings:?}");
    }
}

#[tokio::test]
async fn an_end_that_is_cut_off_shows_where_the_head_was_noted() {
    let stage = Stage::set().await;
    let store = stage.run(3).await;
    let note = |report: AuditReport| {
        let link = report.heads[0].link;
        [NotedHead { chain: link.chain, nth: link.nth, mac: link.mac }]
    };
    let noted = note(stage.verify(&[]).await);
    stage.record(&store).await;
    assert_eq!(stage.verify(&noted).await.found, 0, "a chain that has grown");
    let noted = note(stage.verify(&[]).await);
    store.close().await;
    stage.tamper_unhindered("DELETE FROM audit_link WHERE nth > 3").await;
    stage.tamper_unhindered("DELETE FROM resource WHERE id NOT IN (SELECT event_id FROM audit_link)").await;
    assert_eq!(stage.verify(&[]).await.found, 0, "nothing in the database tells of it");
    assert!(matches!(stage.verify(&noted).await.findings[..], [Finding::HeadGone { nth: 4, .. }]));
}

#[tokio::test]
async fn a_secret_that_no_record_tells_of_shows() {
    let stage = Stage::set().await;
    stage.run(1).await.close().await;
    let secret = SecretId::random(stage.entropy.as_ref());
    stage
        .tamper_unhindered(&format!(
            "INSERT INTO client (id, project_id, active, active_id, active_created, former_count) \
             VALUES ('someone', 'p', (1 = 1), '{secret}', {}, 0)",
            NOW.epoch_ms()
        ))
        .await;
    let findings = stage.verify(&[]).await.findings;
    assert_eq!(findings, [Finding::SecretUnrecorded { client: "someone".to_owned(), secret }]);
}

/// A database that was there before there were chains has records and secrets that none tells of.
#[tokio::test]
async fn what_was_there_before_the_first_chain_is_counted_only() {
    let stage = Stage { is_first: false, ..Stage::set().await };
    stage.run(1).await.close().await;
    let secret = SecretId::random(stage.entropy.as_ref());
    let earlier = NOW.epoch_ms() - 1;
    stage
        .tamper(&format!(
            "INSERT INTO resource SELECT 'older', resource_type, project_id, version_id, revision, {earlier}, deleted, \
             content FROM resource LIMIT 1; \
             INSERT INTO client (id, project_id, active, active_id, active_created, former_count) \
             VALUES ('someone', 'p', (1 = 1), '{secret}', {earlier}, 0)"
        ))
        .await
        .unwrap();
    let report = stage.verify(&[]).await;
    assert_eq!((report.records, report.older, report.found), (1, 1, 0), "{report:?}");
}

#[tokio::test]
async fn another_master_key_proves_nothing() {
    let stage = Stage::set().await;
    stage.run(1).await.close().await;
    let other = Keyring::parse_file(&Keyring::new_file(&SeededEntropy::new(2))).unwrap();
    let refused = verify_audit(&stage.place, &other, &[], &mut |_, _| {}).await.unwrap_err();
    assert!(refused.to_string().contains("lacks that of the audit records"), "{refused}");
}
