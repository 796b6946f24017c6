//! What everything above relies on, whichever database answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyrelay_core::caller::{Caller, Profile};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::{IndexRows, SearchQuery, index_entries, matches_rows, parse_query};
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId, SecretId, VersionId};
use keyrelay_core::keyring::{Keyring, SecretVisibility};
use keyrelay_core::limits::FORMER_SECRETS_MAX;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::secret_rules::{
    AgeSettings, MaximumAge, PastMaximumAge, RetireAfter, SecretOverwrite, SecretRules, SecretSettings,
    WarnBefore,
};
use keyrelay_core::slots::{Lifespan, SecretSlots, SlotKind};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{
    Change, ClientRow, ClientState, Conflict, MembershipRow, ProjectRow, ResourceVersion, Search, Store,
    StoreError, TestDatabase,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

/// A store with one project and one client in it.
struct Stage {
    store: Store,
    _dir: TempDir,
    entropy: SeededEntropy,
    keyring: Keyring,
    project: ProjectId,
    client: ClientId,
    secret: PlainSecret,
}

impl Stage {
    async fn open() -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let database = TestDatabase::new(dir.path()).await;
        let store = database.open().await.unwrap();
        let keyring = Keyring::parse_file(&Keyring::new_file(&entropy)).unwrap();
        let (project, client) = (ProjectId::random(&entropy), ClientId::random(&entropy));
        let secret = PlainSecret::generate(&entropy);
        let stage = Self { store, _dir: dir, entropy, keyring, project, client, secret };
        stage.put_project(SecretVisibility::Recoverable).await;
        let mut change = Change::new();
        change.create(stage.first(ResourceType::ClientApplication, client.into(), &json!({})), &[]);
        let slots = SecretSlots::with_active(stage.slot(&stage.secret));
        change.create_client(&stage.row(client), &slots);
        stage.store.commit(change).await.unwrap();
        stage
    }

    async fn put_project(&self, visibility: SecretVisibility) {
        self.put_settings(SecretSettings { visibility: Some(visibility), ..SecretSettings::default() }).await;
    }

    async fn put_settings(&self, secrets: SecretSettings) {
        let mut change = Change::new();
        change.put_project(&ProjectRow {
            id: self.project,
            name: Some("Clinic".to_owned()),
            active: true,
            super_admin: false,
            secrets,
        });
        self.store.commit(change).await.unwrap();
    }

    fn row(&self, id: ClientId) -> ClientRow {
        ClientRow {
            id,
            project: self.project,
            name: Some("Reader".to_owned()),
            active: true,
            refresh_token_lifetime: None,
            access_token_lifetime: None,
            grant_types: None,
            default_scope: None,
        }
    }

    fn first(&self, resource_type: ResourceType, id: ResourceId, content: &Value) -> ResourceVersion {
        ResourceVersion {
            resource_type,
            id,
            project: Some(self.project),
            version: VersionId::random(&self.entropy),
            revision: 1,
            last_updated: NOW,
            deleted: false,
            content: content.to_string(),
        }
    }

    fn next(&self, current: &ResourceVersion) -> ResourceVersion {
        ResourceVersion {
            version: VersionId::random(&self.entropy),
            revision: current.revision + 1,
            ..current.clone()
        }
    }

    fn slot(&self, secret: &PlainSecret) -> keyrelay_core::slots::Slot {
        let id = SecretId::random(&self.entropy);
        let visibility = SecretVisibility::Recoverable;
        self.keyring.fill_slot(self.client, id, secret, visibility, NOW, &self.entropy)
    }

    async fn history(&self, kind: ResourceType, id: ResourceId) -> Vec<ResourceVersion> {
        let turn = self.store.turn(self.project).await.unwrap();
        self.store.history(kind, id, (0, 1000), &turn).await.unwrap().versions
    }

    async fn state(&self) -> ClientState {
        self.store.client(self.client).await.unwrap().unwrap()
    }

    /// The change that rotates (or retires, without `fresh`) from a before that was read.
    fn moved(&self, before: &ClientState, presented: &PlainSecret, fresh: Option<&PlainSecret>) -> Change {
        let presented = self.keyring.present(self.client, presented);
        let slots = before.slots.at(NOW);
        let moved = match fresh {
            Some(fresh) => slots.rotate(&presented, self.slot(fresh), None),
            None => slots.retire(&presented),
        }
        .unwrap();
        let mut change = Change::new();
        change.update(self.next(&before.resource), before.resource.version, None);
        change.move_secrets(self.client, &moved, before.former_count, NOW);
        change
    }

    async fn accepts(&self, secret: &PlainSecret) -> Option<SlotKind> {
        let access = self.store.access(self.client).await.unwrap().unwrap();
        let granting = access.slots.granting(NOW, Lifespan::ENDLESS);
        granting.verify(&self.keyring.present(self.client, secret)).ok().map(|verified| verified.kind)
    }
}

#[tokio::test]
async fn of_two_changes_to_one_version_one_wins_and_the_other_leaves_no_trace() {
    let stage = Stage::open().await;
    let before = stage.state().await;
    let (a, b) = (PlainSecret::generate(&stage.entropy), PlainSecret::generate(&stage.entropy));
    let changes =
        [stage.moved(&before, &stage.secret, Some(&a)), stage.moved(&before, &stage.secret, Some(&b))];
    let [first, second] = changes.map(|change| stage.store.commit(change));
    let (first, second) = tokio::join!(first, second);
    // Which of them it is, is for the database to say.
    let (won, lost, why) = if first.is_ok() { (a, b, second) } else { (b, a, first) };
    assert!(matches!(why, Err(StoreError::Conflict(Conflict::Version))), "{why:?}");
    assert_eq!(stage.accepts(&won).await, Some(SlotKind::Active));
    assert_eq!(stage.accepts(&stage.secret).await, Some(SlotKind::Retiring));
    assert_eq!(stage.accepts(&lost).await, None);
    let history = stage.history(ResourceType::ClientApplication, stage.client.into()).await;
    assert_eq!(history.iter().map(|version| version.revision).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_fails_takes_none_of_its_group_with_it() {
    let stage = Stage::open().await;
    let taken = stage.state().await.resource;
    let commits = (0..100).map(|n| {
        let mut change = Change::new();
        let id = ResourceId::random(&stage.entropy);
        change.create(stage.first(ResourceType::AccessPolicy, id, &json!({ "n": n })), &[]);
        if n % 3 == 0 {
            change.create(taken.clone(), &[]);
        }
        let store = stage.store.clone();
        tokio::spawn(async move { (n, id, store.commit(change).await) })
    });
    for commit in commits.collect::<Vec<_>>() {
        let (n, id, outcome) = commit.await.unwrap();
        let found = stage.store.resource(ResourceType::AccessPolicy, id).await.unwrap();
        assert_eq!(outcome.is_ok(), n % 3 != 0, "{n}");
        assert_eq!(found.is_some(), n % 3 != 0, "{n}");
        assert!(!matches!(outcome, Err(error) if !matches!(error, StoreError::Conflict(Conflict::Id))));
    }
}

/// P3: an answer comes from a read that began after it was asked for, however many ask at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_secret_is_never_read_again() {
    let stage = Arc::new(Stage::open().await);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (stage, stop) = (Arc::clone(&stage), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    stage.store.access(stage.client).await.unwrap();
                }
            })
        })
        .collect();
    let mut current = stage.secret.duplicate();
    for round in 0..200 {
        let fresh = PlainSecret::generate(&stage.entropy);
        let before = stage.state().await;
        stage.store.commit(stage.moved(&before, &current, Some(&fresh))).await.unwrap();
        assert_eq!(stage.accepts(&fresh).await, Some(SlotKind::Active), "round {round}");
        let before = stage.state().await;
        stage.store.commit(stage.moved(&before, &current, None)).await.unwrap();
        assert_eq!(stage.accepts(&current).await, None, "round {round}");
        current = fresh;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn former_secrets_are_known_and_bounded() {
    let stage = Stage::open().await;
    let rounds = usize::try_from(FORMER_SECRETS_MAX).unwrap() + 20;
    let mut secrets = vec![stage.secret.duplicate()];
    for _ in 0..rounds {
        let fresh = PlainSecret::generate(&stage.entropy);
        let before = stage.state().await;
        let current = secrets.last().unwrap();
        stage.store.commit(stage.moved(&before, current, Some(&fresh))).await.unwrap();
        secrets.push(fresh);
    }
    let mut known = 0;
    for secret in &secrets {
        let presented = stage.keyring.present(stage.client, secret);
        known += i64::from(stage.store.former_secret(stage.client, &presented, NOW).await.unwrap().is_some());
    }
    assert_eq!(known, FORMER_SECRETS_MAX);
    let presented = stage.keyring.present(stage.client, &secrets[rounds - 2]);
    assert!(
        stage.store.former_secret(stage.client, &presented, NOW).await.unwrap().is_some(),
        "the last that ended"
    );
    let other = ClientId::random(&stage.entropy);
    assert!(stage.store.former_secret(other, &presented, NOW).await.unwrap().is_none());
}

/// Rotates with a deadline a minute after [`NOW`], and gives that.
async fn rotate_until(stage: &Stage, fresh: &PlainSecret) -> Timestamp {
    let ends = NOW.plus(Duration::from_mins(1));
    let before = stage.state().await;
    let presented = stage.keyring.present(stage.client, &stage.secret);
    let moved = before.slots.at(NOW).rotate(&presented, stage.slot(fresh), Some(ends)).unwrap();
    let mut change = Change::new();
    change.update(stage.next(&before.resource), before.resource.version, None);
    change.move_secrets(stage.client, &moved, before.former_count, NOW);
    stage.store.commit(change).await.unwrap();
    ends
}

#[tokio::test]
async fn a_secret_past_its_deadline_is_a_former_one_before_and_after_the_move_that_records_it() {
    let stage = Stage::open().await;
    let fresh = PlainSecret::generate(&stage.entropy);
    let ends = rotate_until(&stage, &fresh).await;
    let last = ends.minus(Duration::from_millis(1));
    let presented = stage.keyring.present(stage.client, &stage.secret);
    let former = async |at| stage.store.former_secret(stage.client, &presented, at).await.unwrap();
    let before = stage.state().await;
    let id = before.slots.at(last).retiring().unwrap().id;
    assert!(before.slots.at(ends).retiring().is_none());
    assert_eq!((former(last).await, former(ends).await), (None, Some(id)));

    // One move ends two: the one whose deadline has passed, and the one that it replaces.
    let moved = before.slots.at(ends).replace(stage.slot(&PlainSecret::generate(&stage.entropy)));
    assert_eq!(moved.ended.iter().map(|ended| ended.expired).collect::<Vec<_>>(), [Some(ends), None]);
    let mut change = Change::new();
    change.update(stage.next(&before.resource), before.resource.version, None);
    change.move_secrets(stage.client, &moved, before.former_count, ends);
    stage.store.commit(change).await.unwrap();
    let after = stage.state().await;
    assert_eq!(after.former_count, 2);
    assert!(after.slots.kept(SlotKind::Retiring).is_none());
    assert_eq!(former(last).await, Some(id), "it is written down");
    let replaced = stage.keyring.present(stage.client, &fresh);
    assert!(stage.store.former_secret(stage.client, &replaced, ends).await.unwrap().is_some());
}

#[tokio::test]
async fn a_secret_makes_nobody_an_author_from_its_deadline_on() {
    let stage = Stage::open().await;
    let author = author(&stage).await;
    let ends = rotate_until(&stage, &PlainSecret::generate(&stage.entropy)).await;
    for (at, may) in [(ends.minus(Duration::from_millis(1)), true), (ends, false)] {
        let made = ResourceId::random(&stage.entropy);
        let mut change = Change::new();
        change.require(&author, &SecretRules::default(), at);
        change.create(stage.first(ResourceType::AccessPolicy, made, &json!({})), &[]);
        let outcome = stage.store.commit(change).await;
        assert_eq!(outcome.is_ok(), may, "{outcome:?}");
        assert_eq!(stage.store.resource(ResourceType::AccessPolicy, made).await.unwrap().is_some(), may);
    }
}

#[tokio::test]
async fn a_secret_that_is_too_old_makes_nobody_an_author_where_project_or_server_say_so() {
    let stage = Stage::open().await;
    let author = author(&stage).await;
    let (day, ms) = (Duration::from_hours(24), Duration::from_millis(1));
    let refused = |maximum, past| AgeSettings { maximum, past };
    let (refuse, report) = (Some(PastMaximumAge::Refuse), Some(PastMaximumAge::Report));
    let rules = |past_maximum_age| SecretRules {
        maximum_age: MaximumAge(Some(2 * day)),
        past_maximum_age,
        ..SecretRules::default()
    };
    let (refusing, reporting) = (rules(PastMaximumAge::Refuse), rules(PastMaximumAge::Report));
    for (age, rules, lives) in [
        (AgeSettings::default(), &SecretRules::default(), None),
        (AgeSettings::default(), &reporting, None),
        (AgeSettings::default(), &refusing, Some(2 * day)),
        (refused(None, refuse), &reporting, Some(2 * day)),
        (refused(Some(MaximumAge(Some(day))), None), &refusing, Some(day)),
        (refused(Some(MaximumAge(Some(day))), report), &refusing, None),
        (refused(Some(MaximumAge(None)), refuse), &refusing, None),
    ] {
        stage.put_settings(SecretSettings { age, ..SecretSettings::default() }).await;
        let access = stage.store.access(stage.client).await.unwrap().unwrap();
        assert_eq!(access.secret_age, age, "as it was written");
        let times = match lives {
            Some(lives) => vec![(NOW.plus(lives).minus(ms), true), (NOW.plus(lives), false)],
            None => vec![(NOW.plus(400 * day), true)],
        };
        for (at, may) in times {
            let mut change = Change::new();
            change.require(&author, rules, at);
            let outcome = stage.store.commit(change).await;
            assert_eq!(outcome.is_ok(), may, "{age:?} {at} {outcome:?}");
        }
    }
}

#[tokio::test]
async fn what_a_project_says_about_secrets_is_read_with_them() {
    let stage = Stage::open().await;
    let hour = Duration::from_hours(1);
    for settings in [
        SecretSettings::default(),
        SecretSettings {
            visibility: Some(SecretVisibility::Recoverable),
            overwrite: Some(SecretOverwrite::Refuse),
            age: AgeSettings { maximum: Some(MaximumAge(Some(hour))), past: Some(PastMaximumAge::Refuse) },
            retire_after: Some(RetireAfter(Some(hour))),
            warn_before: Some(WarnBefore::of(vec![hour, 2 * hour])),
        },
        SecretSettings {
            visibility: Some(SecretVisibility::Once),
            overwrite: Some(SecretOverwrite::Allow),
            age: AgeSettings { maximum: Some(MaximumAge(None)), past: Some(PastMaximumAge::Report) },
            retire_after: Some(RetireAfter(None)),
            warn_before: Some(WarnBefore::of(Vec::new())),
        },
    ] {
        stage.put_settings(settings.clone()).await;
        assert_eq!(stage.state().await.settings, settings);
    }
}

#[tokio::test]
async fn a_project_that_shows_secrets_once_keeps_no_ciphertext_even_in_a_race() {
    let stage = Stage::open().await;
    let before = stage.state().await;
    let fresh = PlainSecret::generate(&stage.entropy);
    // Decided while the project still kept them, written after it was told not to.
    let change = stage.moved(&before, &stage.secret, Some(&fresh));
    stage.put_project(SecretVisibility::Once).await;
    stage.store.commit(change).await.unwrap();
    let before = stage.state().await;
    assert_eq!(before.settings.visibility, Some(SecretVisibility::Once));
    for kind in [SlotKind::Active, SlotKind::Retiring] {
        assert!(before.slots.kept(kind).unwrap().sealed.is_none());
    }
    assert_eq!(stage.accepts(&fresh).await, Some(SlotKind::Active));
}

/// The client of the stage, as an admin that its secret has let in.
async fn author(stage: &Stage) -> Caller {
    let mut change = Change::new();
    change.put_membership(&MembershipRow {
        id: MembershipId::random(&stage.entropy),
        project: stage.project,
        client: Some(stage.client),
        user: None,
        profile: Some(Profile::client(stage.client)),
        active: true,
        admin: true,
        policy: None,
    });
    stage.store.commit(change).await.unwrap();
    let access = stage.store.access(stage.client).await.unwrap().unwrap();
    let proof = access.slots.kept(SlotKind::Active).unwrap().id;
    Caller { by_token: false, ..access.admit(None, proof, Scope::default()).unwrap() }
}

/// What ends the proof of its author, and another change of that author; and what the other makes.
async fn two_changes(stage: &Stage, author: &Caller) -> (Change, ResourceId) {
    let before = stage.state().await;
    let replaced = before.slots.at(NOW).replace(stage.slot(&PlainSecret::generate(&stage.entropy)));
    let mut first = Change::new();
    first.require(author, &SecretRules::default(), NOW);
    first.move_secrets(stage.client, &replaced, before.former_count, NOW);
    let made = ResourceId::random(&stage.entropy);
    let mut second = Change::new();
    second.require(author, &SecretRules::default(), NOW);
    second.create(stage.first(ResourceType::AccessPolicy, made, &json!({})), &[]);
    first.append(second);
    (first, made)
}

#[tokio::test]
async fn two_changes_put_together_are_made_both_or_neither_by_an_author_as_it_was_before() {
    let stage = Stage::open().await;
    let author = author(&stage).await;
    let (change, made) = two_changes(&stage, &author).await;
    stage.store.commit(change).await.unwrap();
    let found = stage.store.resource(ResourceType::AccessPolicy, made).await.unwrap();
    assert!(found.is_some());
    assert_eq!(stage.accepts(&stage.secret).await, None);
    // By now nobody is let in by that proof.
    let slots = stage.state().await.slots;
    let (change, made) = two_changes(&stage, &author).await;
    let refused = stage.store.commit(change).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Caller))), "{refused:?}");
    let found = stage.store.resource(ResourceType::AccessPolicy, made).await.unwrap();
    assert!(found.is_none());
    let kept = stage.state().await.slots;
    assert_eq!(
        kept.kept(SlotKind::Active).map(|slot| slot.id),
        slots.kept(SlotKind::Active).map(|slot| slot.id)
    );
}

#[tokio::test]
async fn a_client_has_one_membership_and_its_project_decides() {
    let stage = Stage::open().await;
    let row = |id| MembershipRow {
        id,
        project: stage.project,
        client: Some(stage.client),
        user: None,
        profile: Some(Profile::client(stage.client)),
        active: true,
        admin: true,
        policy: None,
    };
    let put = |row| {
        let mut change = Change::new();
        change.put_membership(&row);
        stage.store.commit(change)
    };
    let first = MembershipId::random(&stage.entropy);
    put(row(first)).await.unwrap();
    put(MembershipRow { admin: false, ..row(first) }).await.unwrap();
    let second = put(row(MembershipId::random(&stage.entropy))).await;
    assert!(matches!(second, Err(StoreError::Conflict(Conflict::Membership))));
    let membership = stage.store.access(stage.client).await.unwrap().unwrap().membership.unwrap();
    assert_eq!((membership.id, membership.admin), (first, false));

    let policy = ResourceId::random(&stage.entropy);
    put(MembershipRow { policy: Some(policy), ..row(first) }).await.unwrap();
    let membership = stage.store.access(stage.client).await.unwrap().unwrap().membership.unwrap();
    let allows =
        membership.policy.unwrap().allows(keyrelay_core::policy::Interaction::Read, ResourceType::Project);
    assert!(!allows, "a policy that is not there allows nothing");

    let mut change = Change::new();
    change.delete_project(stage.project);
    stage.store.commit(change).await.unwrap();
    assert!(stage.store.access(stage.client).await.unwrap().is_none());
}

#[tokio::test]
async fn versions_are_read_by_name_and_the_deletion_is_one() {
    let stage = Stage::open().await;
    let first = stage.state().await.resource;
    let second = ResourceVersion { content: json!({ "n": 2 }).to_string(), ..stage.next(&first) };
    let third = ResourceVersion { deleted: true, content: String::new(), ..stage.next(&second) };
    for (version, previous) in [(&second, &first), (&third, &second)] {
        let mut change = Change::new();
        change.update(version.clone(), previous.version, Some(&[]));
        stage.store.commit(change).await.unwrap();
    }
    let (kind, id) = (ResourceType::ClientApplication, first.id);
    for version in [&first, &second, &third] {
        let found = stage.store.version(kind, id, version.version).await.unwrap().unwrap();
        assert_eq!(
            (found.revision, found.deleted, &found.content),
            (version.revision, version.deleted, &version.content)
        );
    }
    assert!(stage.store.version(ResourceType::Project, id, first.version).await.unwrap().is_none());
    assert!(stage.store.resource(kind, id).await.unwrap().unwrap().deleted);
    assert_eq!(stage.history(kind, id).await.len(), 3);
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyrelay.sqlite");
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = Store::open_sqlite(&path).await.unwrap_err();
    assert!(matches!(refused, StoreError::NewerSchema { found: 99, .. }), "{refused}");
}

/// Names and queries that meet often, with everything that is special to SQL in them.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![Just("a%"), Just("A_b"), Just("a\\b"), Just("ab"), Just("'; --"), Just("é"), Just("B a")]
        .prop_map(str::to_owned)
}

fn query() -> impl Strategy<Value = (String, String)> {
    let code = prop_oneof![
        Just("name"),
        Just("name:exact"),
        Just("name:contains"),
        Just("name:missing"),
        Just("status"),
        Just("status:not"),
        Just("_lastUpdated"),
        Just("_id"),
    ];
    (code, word(), any::<bool>(), 0..4_i64).prop_map(|(code, word, flag, day)| {
        let value = match code {
            "name:missing" => flag.to_string(),
            "status" | "status:not" => (if flag { "active" } else { "off" }).to_owned(),
            "_lastUpdated" => format!("{}2026-01-0{}", if flag { "ge" } else { "lt" }, day + 1),
            "_id" => uuid(u128::try_from(day).unwrap()).to_string(),
            _ => word.replace('\\', "\\\\").replace(',', "\\,"),
        };
        (code.to_owned(), value)
    })
}

fn uuid(n: u128) -> ResourceId {
    ResourceId::from(uuid::Uuid::from_u128(n))
}

fn resource(n: usize, name: Option<&String>, active: bool) -> (ResourceId, Timestamp, Map<String, Value>) {
    let id = uuid(n as u128);
    let updated = NOW.plus(std::time::Duration::from_secs(86_400 * n as u64));
    let mut body = json!({ "resourceType": "ClientApplication", "id": id.to_string(), "status": if active { "active" } else { "off" } });
    if let Some(name) = name {
        body["name"] = json!(name);
    }
    (id, updated, body.as_object().unwrap().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The SQL finds what the plain meaning of the query, evaluated in memory, finds.
    #[test]
    fn sql_and_meaning_agree(
        named in prop::collection::vec((prop::option::of(word()), any::<bool>()), 0..6),
        asked in prop::collection::vec(query(), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
            let entropy = SeededEntropy::new(1);
            let kind = ResourceType::ClientApplication;
            let query: SearchQuery = parse_query(kind, asked.clone().into_iter()).unwrap();
            let mut expected = Vec::new();
            let mut change = Change::new();
            for (n, (name, active)) in named.iter().enumerate() {
                let (id, last_updated, body) = resource(n, name.as_ref(), *active);
                let index = index_entries(kind, &body);
                let rows = IndexRows::new(index.clone());
                if matches_rows(&query.filters, &rows, &id.to_string(), last_updated.epoch_ms()) {
                    expected.push(id);
                }
                let version = ResourceVersion {
                    resource_type: kind, id, project: None, version: VersionId::random(&entropy), revision: 1,
                    last_updated, deleted: false, content: String::new(),
                };
                change.create(version, &index);
            }
            store.commit(change).await.unwrap();
            let search = Search { resource_type: kind, project: None, query: &query, limits: &[] };
            let turn = store.turn(ProjectId::random(&entropy)).await.unwrap();
            let page = store.search(search, true, &turn).await.unwrap();
            let mut found: Vec<ResourceId> = page.matches.iter().map(|version| version.id).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{asked:?}");
            assert_eq!(page.total, i64::try_from(expected.len()).ok());
        });
    }
}
