//! Counts of uses: summed over time and servers, bounded, and never in a statement that touches a secret.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyrelay_core::id::{ClientId, NodeId, ProjectId, SecretId};
use keyrelay_core::limits::{USAGE_CALLERS_KEPT, USAGE_CALLERS_PER_SECRET_MAX, USAGE_SILENCE_MAX};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{Outcome, PresenterRef, Tally, UsageCounts, UsageKey};
use keyrelay_store::{CallerBounds, Change, Conflict, Store, StoreError, TestDatabase};
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
            counts.count(ProjectId::NIL, key, *outcome, by, at(*ms));
        }
        counts.into_ordered()
    };
    let began = stage.store.begin_usage(node, at(1), at(1)).await.unwrap();
    let first = counted(&[(Outcome::Accepted, "curl", 10), (Outcome::Accepted, "curl", 60_020)]);
    let mark = stage.store.add_usage(&first, began, at(60_030)).await.unwrap();
    let second = counted(&[(Outcome::Accepted, "node", 5), (Outcome::Refused, "curl", 60_040)]);
    let mark = stage.store.add_usage(&second, mark, at(60_050)).await.unwrap();
    // What is written once more, because it is not known whether it was, is not written again.
    for again in [began, mark.moved(at(60_050))] {
        let refused = stage.store.add_usage(&second, again, at(60_060)).await;
        assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
    }
    stage.store.close().await;
    assert!(matches!(stage.store.add_usage(&second, mark, at(60_060)).await, Err(StoreError::Closed)));

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
    assert_eq!(again.usage_marks().await.unwrap(), [mark]);
    assert_eq!((mark.flushes, mark.complete_until, mark.ended), (2, at(60_050), None));
    again.end_usage(node).await.unwrap();
    assert_eq!(again.usage_marks().await.unwrap(), []);
}

#[tokio::test]
async fn of_a_server_that_ended_without_a_word_it_is_kept_when_that_was_found() {
    let stage = Stage::open().await;
    let at = |ms| Timestamp::from_epoch_ms(ms);
    let [killed, second, third] = [(); 3].map(|()| NodeId::random(&stage.entropy));
    let is_shared = stage.store.is_shared();
    let mark = stage.store.begin_usage(killed, at(7), at(7)).await.unwrap();
    stage.store.begin_usage(second, at(9), at(9)).await.unwrap();
    let ended = async |node| {
        let marks = stage.store.usage_marks().await.unwrap();
        marks.into_iter().find(|mark| mark.node == node).map(|mark| mark.ended)
    };
    // Where it cannot be another's, nobody who has a mark is left. Elsewhere nobody knows yet.
    assert_eq!(ended(killed).await, Some((!is_shared).then(|| at(9))));
    assert_eq!(ended(second).await, Some(None));
    assert_eq!(stage.store.usage_began().await.unwrap(), Some(at(7)), "whoever began first");
    // It writes after all; then it is silent, and is not said to be so by itself.
    let mark = stage.store.add_usage(&[], mark, at(20)).await.unwrap();
    assert_eq!(ended(killed).await, Some(None));
    let sweep = async |node, now| {
        stage.store.sweep_usage(node, now).await.unwrap();
    };
    let silent = at(21).plus(USAGE_SILENCE_MAX);
    for (node, now, found) in [
        (second, silent.minus(Duration::from_millis(1)), None),
        (killed, silent, None),
        (third, silent, Some(silent)),
    ] {
        sweep(node, now).await;
        assert_eq!(ended(killed).await, Some(found));
    }
    // It is found once, and forgotten when nothing that it counted matters any more.
    sweep(third, silent.plus(USAGE_CALLERS_KEPT)).await;
    assert_eq!(ended(killed).await, Some(Some(silent)));
    sweep(third, silent.plus(USAGE_CALLERS_KEPT).plus(Duration::from_millis(1))).await;
    assert_eq!(ended(killed).await, None);
    let refused = stage.store.add_usage(&[], mark, at(30)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::Version))), "{refused:?}");
}

#[tokio::test]
async fn callers_of_a_secret_are_bounded_and_the_rest_is_summed() {
    let stage = Stage::open().await;
    let key = UsageKey { client: stage.client, secret: SecretId::random(&stage.entropy) };
    let rounds = USAGE_CALLERS_PER_SECRET_MAX / 100 + 2;
    let node = NodeId::random(&stage.entropy);
    let start = Timestamp::from_epoch_ms(0);
    let mut mark = stage.store.begin_usage(node, start, start).await.unwrap();
    for round in 0..rounds {
        let mut counts = UsageCounts::default();
        for n in 0..100 {
            let agent = format!("agent {round}/{n}");
            let ms = i64::try_from(round * 100 + n).unwrap();
            let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), &agent, "");
            counts.count(ProjectId::NIL, key, Outcome::Accepted, by, Timestamp::from_epoch_ms(ms));
        }
        mark = stage.store.add_usage(&counts.into_ordered(), mark, mark.complete_until).await.unwrap();
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
    let later = now.plus(USAGE_CALLERS_KEPT);
    stage.store.sweep_usage(node, later).await.unwrap();
    while !stage.store.is_swept(later).await.unwrap() {
        let mut change = Change::new();
        change.sweep(later);
        stage.store.commit(change).await.unwrap();
    }
    let found = stage.store.usage(key.client, [key.secret, SecretId::NIL, SecretId::NIL], now).await.unwrap();
    assert!(found.is_empty(), "nor is the sum kept of a secret that no client has: {found:?}");
}

#[tokio::test]
async fn a_project_with_too_many_callers_has_its_own_oldest_summed() {
    let stage = Stage::open().await;
    let [flooder, other] = [(); 2].map(|()| ProjectId::random(&stage.entropy));
    let key = |client| UsageKey { client, secret: SecretId::random(&stage.entropy) };
    let keys = [key(stage.client), key(ClientId::random(&stage.entropy))];
    let third = key(ClientId::random(&stage.entropy));
    let at = Timestamp::from_epoch_ms;
    let mut counts = UsageCounts::default();
    // The other project came first, so the oldest callers of all are not those that are summed.
    for n in 0..5 {
        let agent = format!("other {n}");
        let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), &agent, "");
        counts.count(other, third, Outcome::Accepted, by, at(n));
    }
    for n in 0..40 {
        let agent = format!("agent {n}");
        let by = PresenterRef::new(Ipv4Addr::LOCALHOST.into(), &agent, "");
        let key = keys[usize::try_from(n % 2).unwrap()];
        counts.count(flooder, key, Outcome::Accepted, by, at(100 + n));
    }
    let mark = stage.store.begin_usage(NodeId::random(&stage.entropy), at(0), at(0)).await.unwrap();
    stage.store.add_usage(&counts.into_ordered(), mark, at(200)).await.unwrap();
    let found = async |key: UsageKey| {
        let secrets = [key.secret, SecretId::NIL, SecretId::NIL];
        let mut found = stage.store.usage(key.client, secrets, at(1_000)).await.unwrap();
        found.remove(&key.secret).unwrap().callers
    };
    let named = async |key| found(key).await.iter().filter(|by| by.caller.is_some()).count();
    let sweep =
        async |per_project, all| stage.store.sweep_callers(CallerBounds { per_project, all }).await.unwrap();

    assert_eq!(sweep(40, 45).await, 0);
    assert_eq!(sweep(40, 25).await, 20, "the other has less than its share");
    assert_eq!(sweep(10, 25).await, 10);
    assert_eq!((named(keys[0]).await, named(keys[1]).await, named(third).await), (5, 5, 5));
    for (n, key) in keys.into_iter().enumerate() {
        let callers = found(key).await;
        assert_eq!(callers[0].caller.as_ref().unwrap().agent, format!("agent {}", 38 + n), "seen last");
        let first = i64::try_from(100 + n).unwrap();
        let sum = callers.iter().find(|by| by.caller.is_none()).unwrap();
        assert_eq!(sum.tally, Tally { accepted: 15, refused: 0, first: at(first), last: at(first + 28) });
    }
    assert_eq!(sweep(10, 15).await, 0, "sums count as no callers");
    // Both are over the bound: each keeps the callers that it saw last.
    assert_eq!(sweep(2, 4).await, 11);
    assert_eq!((named(keys[0]).await, named(keys[1]).await, named(third).await), (1, 1, 2));
}
