//! What the database holds to of answers that are kept: they move to another master key, and none is kept that
//! shows more than the project does at that moment.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId, VersionId};
use keyrelay_core::idempotency::{IdempotencyKey, KeptAnswerId};
use keyrelay_core::keyring::{Keyring, SecretVisibility};
use keyrelay_core::limits::KEPT_ANSWER_LIFETIME;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::slots::SecretSlots;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{
    Change, ClientRow, Conflict, KeptAnswer, ProjectRow, ResourceVersion, Store, StoreError, TestDatabase,
};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

struct Stage {
    store: Store,
    entropy: SeededEntropy,
    project: ProjectId,
    client: ClientId,
    _dir: TempDir,
}

/// The settings of a project that says no more than that.
fn saying(visibility: SecretVisibility) -> SecretSettings {
    SecretSettings { visibility: Some(visibility), ..SecretSettings::default() }
}

impl Stage {
    async fn open() -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
        let (project, client) = (ProjectId::random(&entropy), ClientId::random(&entropy));
        let stage = Self { store, entropy, project, client, _dir: dir };
        stage.put_project(SecretVisibility::Recoverable).await;
        let mut change = Change::new();
        let row = ClientRow {
            id: client,
            project,
            name: None,
            active: true,
            access_token_lifetime: None,
            refresh_token_lifetime: None,
            grant_types: None,
            default_scope: None,
        };
        change.create_client(&row, &SecretSlots::empty());
        stage.store.commit(change).await.unwrap();
        stage
    }

    async fn put_project(&self, secret_visibility: SecretVisibility) {
        let mut change = Change::new();
        let (id, active, super_admin) = (self.project, true, false);
        change.put_project(&ProjectRow {
            id,
            name: None,
            active,
            super_admin,
            secrets: saying(secret_visibility),
        });
        self.store.commit(change).await.unwrap();
    }

    fn id(key: &str) -> KeptAnswerId {
        KeptAnswerId::of(MembershipId::NIL, &IdempotencyKey::parse(key).unwrap())
    }

    /// Keeps an answer that was written while secrets were shown like that, beside another change.
    async fn keep(
        &self,
        ring: &Keyring,
        key: &str,
        visibility: SecretVisibility,
        now: Timestamp,
    ) -> (Result<(), StoreError>, ResourceId) {
        let (id, other) = (Self::id(key), ResourceId::random(&self.entropy));
        let sealed = ring.seal_answer(id, self.client, key.as_bytes(), &self.entropy);
        let mut change = Change::new();
        change.create(
            ResourceVersion {
                resource_type: ResourceType::Practitioner,
                id: other,
                project: Some(self.project),
                version: VersionId::random(&self.entropy),
                revision: 1,
                last_updated: now,
                deleted: false,
                content: "{}".to_owned(),
            },
            &[],
        );
        change.keep_answer(&KeptAnswer { id, client: self.client, sealed }, &saying(visibility), now);
        (self.store.commit(change).await, other)
    }

    /// What an answer opens to.
    async fn kept(&self, ring: &Keyring, key: &str, now: Timestamp) -> Option<Vec<u8>> {
        let kept = self.store.kept_answer(Self::id(key), now).await.unwrap()?;
        assert_eq!(kept.client, self.client);
        Some(ring.open_answer(kept.id, kept.client, &kept.sealed).unwrap().to_vec())
    }
}

#[tokio::test]
async fn kept_answers_move_to_another_master_key() {
    let stage = Stage::open().await;
    let old = Keyring::new_file(&SeededEntropy::new(10)).to_string();
    let both = Keyring::with_new_first(&old, &SeededEntropy::new(11)).to_string();
    let new: String = both.lines().filter(|line| !old.contains(line)).collect();
    let [old, both, new] = [&old, &both, &new].map(|text| Keyring::parse_file(text).unwrap());
    for key in ["a", "b", "c"] {
        stage.keep(&old, key, SecretVisibility::Recoverable, NOW).await.0.unwrap();
    }
    let resealed = stage.store.reseal(&both, &stage.entropy, &mut |_| {}).await.unwrap();
    assert_eq!((resealed.moved, resealed.unopened), (3, 0));
    for key in ["a", "b", "c"] {
        assert_eq!(stage.kept(&new, key, NOW).await.as_deref(), Some(key.as_bytes()));
    }
    let again = stage.store.reseal(&both, &stage.entropy, &mut |_| {}).await.unwrap();
    assert_eq!((again.moved, again.unopened), (0, 0));
}

#[tokio::test]
async fn no_answer_is_kept_that_was_written_before_secrets_were_shown_once() {
    let stage = Stage::open().await;
    let ring = Keyring::parse_file(&Keyring::new_file(&stage.entropy)).unwrap();
    stage.put_project(SecretVisibility::Once).await;
    let (refused, other) = stage.keep(&ring, "a", SecretVisibility::Recoverable, NOW).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
    assert!(stage.store.resource(ResourceType::Practitioner, other).await.unwrap().is_none(), "nor made");
    assert_eq!(stage.kept(&ring, "a", NOW).await, None);
    stage.keep(&ring, "a", SecretVisibility::Once, NOW).await.0.unwrap();
    assert!(stage.kept(&ring, "a", NOW).await.is_some());
}

#[tokio::test]
async fn a_key_is_taken_until_its_answer_is_over() {
    let stage = Stage::open().await;
    let ring = Keyring::parse_file(&Keyring::new_file(&stage.entropy)).unwrap();
    let keep = |now| stage.keep(&ring, "a", SecretVisibility::Recoverable, now);
    keep(NOW).await.0.unwrap();
    let end = NOW.plus(KEPT_ANSWER_LIFETIME);
    let last = Timestamp::from_epoch_ms(end.epoch_ms() - 1);
    let (refused, _) = keep(last).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
    assert!(stage.kept(&ring, "a", last).await.is_some());
    assert_eq!(stage.kept(&ring, "a", end).await, None);
    keep(end).await.0.unwrap();
    assert!(stage.kept(&ring, "a", end).await.is_some());
}
