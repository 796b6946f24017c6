//! What the database holds to when clients register: a token registers no more than it says, and a
//! change by a token that has passed changes nothing, however both were read.

use std::time::Duration;

use keyrelay_core::id::{ClientId, ProjectId, RegistrationGrantId};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::registration::{AuthMethod, Registration, RegistrationBounds};
use keyrelay_core::scope::Scope;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Conflict, ProjectRow, RegistrationGrant, Store, StoreError};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);
const HOUR: Duration = Duration::from_hours(1);

struct Stage {
    store: Store,
    grant: RegistrationGrant,
    _dir: TempDir,
}

impl Stage {
    async fn open(uses_left: i64) -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let store = Store::open_sqlite(&dir.path().join("keyrelay.sqlite")).await.unwrap();
        let grant = RegistrationGrant {
            id: RegistrationGrantId::random(&entropy),
            project: ProjectId::random(&entropy),
            policy: None,
            bounds: RegistrationBounds {
                grant_types: Some(vec!["client_credentials".to_owned(), "refresh_token".to_owned()]),
                scope: Some(Scope::parse("openid system/*.rs").unwrap()),
            },
            expires: NOW.plus(HOUR),
            uses_left,
        };
        let stage = Self { store, grant, _dir: dir };
        stage.put_project(true).await;
        let mut change = Change::new();
        change.create_registration_grant(&stage.grant);
        stage.store.commit(change).await.unwrap();
        stage
    }

    async fn put_project(&self, active: bool) {
        let mut change = Change::new();
        change.put_project(&ProjectRow {
            id: self.grant.project,
            name: None,
            active,
            super_admin: false,
            secrets: SecretSettings::default(),
        });
        self.store.commit(change).await.unwrap();
    }

    async fn uses(&self, now: Timestamp) -> bool {
        let mut change = Change::new();
        change.use_registration_grant(self.grant.id, now);
        match self.store.commit(change).await {
            Ok(()) => true,
            Err(StoreError::Conflict(Conflict::Caller)) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_grant_reads_back_and_is_used_as_often_as_it_says() {
    let stage = Stage::open(2).await;
    let read = stage.store.registration_grant(stage.grant.id).await.unwrap().unwrap();
    assert_eq!((read.project, read.policy, read.uses_left), (stage.grant.project, None, 2));
    assert_eq!(read.bounds, stage.grant.bounds);
    assert_eq!([stage.uses(NOW).await, stage.uses(NOW).await, stage.uses(NOW).await], [true, true, false]);
    assert!(stage.store.registration_grants(stage.grant.project, NOW).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_grant_past_its_time_revoked_or_of_a_project_that_is_off_is_not_used() {
    let stage = Stage::open(9).await;
    assert!(!stage.uses(NOW.plus(HOUR)).await);
    stage.put_project(false).await;
    assert!(!stage.uses(NOW).await);
    stage.put_project(true).await;
    assert!(stage.uses(NOW).await);
    let mut change = Change::new();
    change.delete_registration_grant(stage.grant.id, stage.grant.project);
    stage.store.commit(change).await.unwrap();
    assert!(!stage.uses(NOW).await);
}

#[tokio::test]
async fn a_change_by_a_token_that_has_passed_changes_nothing() {
    let stage = Stage::open(1).await;
    let client = ClientId::random(&SeededEntropy::new(2));
    let registration = Registration {
        client,
        generation: 0,
        auth_method: AuthMethod::SecretBasic,
        bounds: RegistrationBounds::default(),
        registered: NOW,
    };
    let mut change = Change::new();
    change.create_registration(&registration);
    stage.store.commit(change).await.unwrap();
    let next = Registration { generation: 1, auth_method: AuthMethod::PrivateKey, ..registration };
    let outcomes = [(); 2].map(|()| {
        let mut change = Change::new();
        change.update_registration(&next, 0);
        stage.store.commit(change)
    });
    let [first, second] = outcomes;
    assert!(matches!(tokio::join!(first, second), (Ok(()), Err(StoreError::Conflict(Conflict::Caller)))));
    let read = stage.store.registration(client).await.unwrap().unwrap();
    assert_eq!((read.generation, read.auth_method, read.registered), (1, AuthMethod::PrivateKey, NOW));
    assert_eq!(read.bounds, RegistrationBounds::default());
}
