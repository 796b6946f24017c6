//! Signing keys as the database keeps them.

use keyrelay_core::id::SigningKeyId;
use keyrelay_core::keyring::Sealed;
use keyrelay_core::signing::{ScheduledKey, SigningAlgorithm};
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Conflict, Store, StoreError};
use uuid::Uuid;

fn key(n: u128, generation: i64) -> ScheduledKey {
    ScheduledKey {
        id: SigningKeyId::from(Uuid::from_u128(n)),
        algorithm: SigningAlgorithm::EdDsa,
        generation,
        signs_from: Timestamp::from_epoch_ms(generation * 1000),
    }
}

async fn create(store: &Store, key: &ScheduledKey) -> Result<(), StoreError> {
    let mut change = Change::new();
    change.create_signing_key(key, &Sealed::from_bytes(vec![1, 2, 3]), Timestamp::from_epoch_ms(5));
    store.commit(change).await
}

async fn keys(store: &Store) -> Vec<ScheduledKey> {
    store.signing_keys().await.unwrap().iter().map(|stored| stored.key).collect()
}

#[tokio::test]
async fn of_two_keys_of_one_generation_one_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyrelay.sqlite");
    // As two servers do.
    let (one, other) = (Store::open_sqlite(&path).await.unwrap(), Store::open_sqlite(&path).await.unwrap());
    create(&one, &key(9, 1)).await.unwrap();
    let (first, second) = (key(7, 2), key(8, 2));
    let both = tokio::join!(create(&one, &first), create(&other, &second));
    let kept = match both {
        (Ok(()), Err(StoreError::Conflict(Conflict::Exists))) => first,
        (Err(StoreError::Conflict(Conflict::Exists)), Ok(())) => second,
        both => panic!("{both:?}"),
    };
    assert_eq!(keys(&other).await, [key(9, 1), kept]);
    let mut change = Change::new();
    change.forget_signing_key(key(9, 1).id);
    other.commit(change).await.unwrap();
    assert_eq!(keys(&one).await, [kept]);
}

#[tokio::test]
async fn keys_from_before_the_schedule_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyrelay.sqlite");
    {
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch(include_str!("../migrations/sqlite/0001_initial.sql")).unwrap();
        old.execute_batch(include_str!("../migrations/sqlite/0002_people.sql")).unwrap();
        old.pragma_update(None, "user_version", 2).unwrap();
        for (n, created) in [(3_u128, 1000), (1, 2000), (2, 2000)] {
            let id = key(n, 1).id.to_string();
            old.execute("INSERT INTO signing_key VALUES (?1, 'ES256', x'00', ?2)", (id, created)).unwrap();
        }
    }
    let store = Store::open_sqlite(&path).await.unwrap();
    // The newest signed; of two of one time, the one whose id came first.
    let found: Vec<_> = keys(&store)
        .await
        .iter()
        .map(|key| (key.id.uuid().as_u128(), key.generation, key.signs_from.epoch_ms()))
        .collect();
    assert_eq!(found, [(3, 1, 1000), (2, 2, 2000), (1, 3, 2000)]);
}
