//! Expired rows are deleted in small changes, however many they are.

use keyrelay_core::id::{ClientId, TokenId};
use keyrelay_core::limits::SWEEP_ROWS;
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, TestDatabase};

#[tokio::test]
async fn what_is_dead_goes_a_few_rows_at_a_time() {
    let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
    let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
    let (now, later) = (Timestamp::from_epoch_ms(1_000), Timestamp::from_epoch_ms(2_000));
    let client = ClientId::random(&entropy);
    for _ in 0..5 {
        let mut change = Change::new();
        for _ in 0..SWEEP_ROWS / 2 {
            change.revoke_token(TokenId::random(&entropy), client, now);
        }
        store.commit(change).await.unwrap();
    }
    assert!(store.is_swept(now).await.unwrap(), "they live");
    for is_last in [false, false, true] {
        let mut change = Change::new();
        change.sweep(later);
        store.commit(change).await.unwrap();
        assert_eq!(store.is_swept(later).await.unwrap(), is_last);
    }
}
