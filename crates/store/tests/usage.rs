//! Counts of uses: summed over time and servers, bounded, and never in a statement that touches a secret.

use std::net::{Ipv4Addr, Ipv6Addr};

use keyrelay_core::id::{ClientId, NodeId, SecretId};
use keyrelay_core::limits::{USAGE_CALLERS_KEPT, USAGE_CALLERS_PER_SECRET_MAX};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{Outcome, PresenterRef, Tally, UsageCounts, UsageKey};
use keyrelay_store::{Change, Store, StoreError, TestDatabase, UsageMark};
use tempfile::TempDir;

/// An empty store. Counts name clients and secrets, and need none to be there.
struct Stage {
    store: Store,
    database: TestDatabase,
    _dir: TempDir,
    entropy: SeededEntropy,
    client: ClientId,
}

impl Stage {
    async fn open() -> Self {
        let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
        let database = TestDatabase::new(dir.path()).await;
        let store = database.open().await.unwrap();
        let client = ClientId::random(&entropy);
        Self { store, database, _dir: dir, entropy, client }
    }
}

#[tokio::test]
async fn use_is_summed_and_survives_a_restart() {
    let stage = Stage::open().await;
    let secret = SecretId::random(&stage.entropy);
    let at = |ms| Timestamp::from_epoch_ms(ms);
    let key = UsageKey { client: stage.client, secret };
    let node = NodeId::random(&stage.entropy);
    let counted = |proofs: &[(Outcome, &str, i64)]| {
        let mut counts = UsageCounts::default();
        for (outcome, agent, ms) in proofs {
            let by = PresenterRef::new(Ipv6Addr::LOCALHOST.into(), agent, "worker-1");
            counts.count(key, *outcome, by, at(*ms));
        }
        counts.into_ordered()
    };
    let mark = |ms| UsageMark { node, complete_until: at(ms) };
    let first = counted(&[(Outcome::Accepted, "curl", 10), (Outcome::Accepted, "curl", 60_020)]);
    stage.store.add_usage(&first, Some(mark(60_030))).await.unwrap();
    let second = counted(&[(Outcome::Accepted, "node", 5), (Outcome::Refused, "curl", 60_040)]);
    stage.store.add_usage(&second, Some(mark(60_050))).await.unwrap();
    stage.store.close().await;
    assert!(matches!(stage.store.add_usage(&second, None).await, Err(StoreError::Closed)));

    let again = stage.database.open().await.unwrap();
    let secrets = [secret, SecretId::NIL, SecretId::NIL];
    let found = again.usage(stage.client, secrets, at(60_000 * 60)).await.unwrap();
    let found = &found[&secret];
    let tally =
        |accepted, refused, first, last| Tally { accepted, refused, first: at(first), last: at(last) };
    // Who came late with something early does not turn the last time back.
    assert_eq!(found.total, Some(tally(3, 1, 10, 60_040)));
    let callers: Vec<_> = found
        .callers
        .iter()
        .map(|by| {
            (by.caller.as_ref().map(|caller| (caller.agent.as_str(), caller.instance.as_str())), by.tally)
        })
        .collect();
    let expected = [
        (Some(("curl", "worker-1")), tally(2, 1, 10, 60_040)),
        (Some(("node", "worker-1")), tally(1, 0, 5, 5)),
    ];
    assert_eq!(callers, expected);
    // The first minute is an hour ago, the second is not.
    assert_eq!((found.recent.accepted_hour, found.recent.refused_hour), (1, 1));
    assert_eq!((found.recent.accepted_day, found.recent.refused_day), (3, 1));
    assert_eq!(again.usage_marks().await.unwrap(), [mark(60_050)]);
    assert_eq!(again.usage_began().await.unwrap(), None);
    for at in [7, 5, 9] {
        again.begin_usage(Timestamp::from_epoch_ms(at)).await.unwrap();
    }
    assert_eq!(again.usage_began().await.unwrap(), Some(Timestamp::from_epoch_ms(7)), "whoever began first");
    again.end_usage(node).await.unwrap();
    assert_eq!(again.usage_marks().await.unwrap(), []);
}

#[tokio::test]
async fn callers_of_a_secret_are_bounded_and_the_rest_is_summed() {
    let stage = Stage::open().await;
    let key = UsageKey { client: stage.client, secret: SecretId::random(&stage.entropy) };
    let rounds = USAGE_CALLERS_PER_SECRET_MAX / 100 + 2;
    for round in 0..rounds {
        let mut counts = UsageCounts::default();
        for n in 0..100 {
            let agent = format!("agent {round}/{n}");
            let ms = i64::try_from(round * 100 + n).unwrap();
            let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), &agent, "");
            counts.count(key, Outcome::Accepted, by, Timestamp::from_epoch_ms(ms));
        }
        stage.store.add_usage(&counts.into_ordered(), None).await.unwrap();
    }
    let now = Timestamp::from_epoch_ms(1_000_000);
    let found = stage.store.usage(key.client, [key.secret, SecretId::NIL, SecretId::NIL], now).await.unwrap();
    let callers = &found[&key.secret].callers;
    let known = callers.iter().filter(|by| by.caller.is_some()).count();
    assert_eq!(known, USAGE_CALLERS_PER_SECRET_MAX);
    // Those that were seen last are told apart.
    let last = callers[0].caller.as_ref().unwrap();
    assert_eq!(last.agent, format!("agent {}/99", rounds - 1));
    let all = i64::try_from(rounds * 100).unwrap();
    assert_eq!(callers.iter().map(|by| by.tally.accepted).sum::<i64>(), all);
    assert_eq!(found[&key.secret].total.unwrap().accepted, all);
    let mut change = Change::new();
    change.sweep_usage(now.plus(USAGE_CALLERS_KEPT));
    stage.store.commit(change).await.unwrap();
    let found = stage.store.usage(key.client, [key.secret, SecretId::NIL, SecretId::NIL], now).await.unwrap();
    assert_eq!(found[&key.secret].callers, []);
}
