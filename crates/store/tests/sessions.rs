//! The logins of a person are bounded when they are made, so that they can all be ended in one change.

use std::time::Duration;

use keyrelay_core::id::{SessionId, UserId};
use keyrelay_core::limits::SESSIONS_PER_PERSON_MAX;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::scope::Scope;
use keyrelay_core::session::{Session, Stage};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Store, TestDatabase, UserRow};
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

struct Logins {
    store: Store,
    entropy: SeededEntropy,
    _dir: TempDir,
}

impl Logins {
    async fn open() -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
        Self { store, entropy, _dir: dir }
    }

    async fn person(&self, email: &str) -> UserId {
        let id = UserId::random(&self.entropy);
        let mut change = Change::new();
        change.put_user(&UserRow { id, project: None, email: email.to_owned(), name: None, active: true });
        self.store.commit(change).await.unwrap();
        id
    }

    /// A login whose password was right.
    async fn begin(&self, user: UserId, now: Timestamp) -> Session {
        let id = SessionId::random(&self.entropy);
        let session = Session::begin(id, user, None, Scope::default(), now);
        let mut change = Change::new();
        change.create_session(&session);
        self.store.commit(change).await.unwrap();
        session
    }

    /// A login whose code was redeemed.
    async fn grant(&self, user: UserId, now: Timestamp) -> Session {
        let code = self.begin(user, now).await.with_code(now);
        let granted = code.clone().redeem(now, Duration::from_hours(1)).unwrap();
        for session in [&code, &granted] {
            let mut change = Change::new();
            change.move_session(session);
            self.store.commit(change).await.unwrap();
        }
        granted
    }

    async fn stages(&self, sessions: &[Session]) -> Vec<Option<Stage>> {
        let mut stages = Vec::new();
        for session in sessions {
            let found = self.store.session(session.id).await.unwrap();
            stages.push(found.map(|access| access.session.stage));
        }
        stages
    }
}

#[tokio::test]
async fn the_least_recently_used_login_ends_above_the_bound() {
    let logins = Logins::open().await;
    let (ann, bo) = (logins.person("ann@example.test").await, logins.person("bo@example.test").await);
    let others = [logins.grant(bo, NOW).await, logins.begin(bo, NOW).await];
    let most = usize::try_from(SESSIONS_PER_PERSON_MAX).unwrap();
    let mut open = Vec::new();
    for n in 0..most + 2 {
        let now = NOW.plus(Duration::from_secs(u64::try_from(n).unwrap()));
        open.push(logins.grant(ann, now).await);
    }
    let granted = [vec![None; 2], vec![Some(Stage::Granted); most]].concat();
    assert_eq!(logins.stages(&open).await, granted);

    // A caller with only the password ends no open login. All have the same time: the newest is kept.
    let mut begun = Vec::new();
    for _ in 0..most + 2 {
        let session = logins.begin(ann, NOW).await;
        assert_eq!(logins.stages(std::slice::from_ref(&session)).await, [Some(Stage::SecondFactor)]);
        begun.push(session);
    }
    assert_eq!(logins.stages(&open).await, granted);
    let unfinished = logins.stages(&begun).await;
    assert_eq!(unfinished.iter().flatten().count(), most);

    // Ended logins are deleted before others.
    let mut change = Change::new();
    change.end_session(open[most].id);
    logins.store.commit(change).await.unwrap();
    assert_eq!(logins.stages(&open[most..=most]).await, [Some(Stage::Ended)]);
    logins.begin(ann, NOW).await;
    assert_eq!(logins.stages(&open[most..=most]).await, [None]);
    let left = logins.stages(&begun).await;
    assert_eq!(left.iter().flatten().count(), most - 1);

    let mut change = Change::new();
    change.end_sessions_of(ann, Some(open[most + 1].id));
    logins.store.commit(change).await.unwrap();
    let all: Vec<Session> = open.into_iter().chain(begun).collect();
    let stages = logins.stages(&all).await;
    assert_eq!(stages.iter().flatten().filter(|stage| **stage == Stage::Granted).count(), 1);
    assert_eq!(stages[most + 1], Some(Stage::Granted));
    let live = stages.iter().flatten().filter(|stage| **stage != Stage::Ended).count();
    assert_eq!(live, 1, "{stages:?}");
    assert_eq!(logins.stages(&others).await, [Some(Stage::Granted), Some(Stage::SecondFactor)]);
}
