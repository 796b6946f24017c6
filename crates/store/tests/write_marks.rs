//! Of many concurrent changes that depend on one mark, exactly one is made.

use futures_util::future::join_all;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ProjectId, ResourceId, VersionId};
use keyrelay_core::random::SeededEntropy;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{Change, Conflict, ResourceVersion, StoreError, TestDatabase, WriteMark};

const KIND: ResourceType = ResourceType::Practitioner;

fn create(entropy: &SeededEntropy, project: ProjectId, mark: Option<&WriteMark>) -> Change {
    let mut change = Change::new();
    let version = ResourceVersion {
        resource_type: KIND,
        id: ResourceId::random(entropy),
        project: Some(project),
        version: VersionId::random(entropy),
        revision: 1,
        last_updated: Timestamp::from_epoch_ms(1_000),
        deleted: false,
        content: String::new(),
    };
    change.create(version, &[]);
    if let Some(mark) = mark {
        change.require_unwritten(mark);
    }
    change
}

#[tokio::test]
async fn of_many_changes_from_one_mark_one_is_made() {
    let (dir, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(1));
    let store = TestDatabase::new(dir.path()).await.open().await.unwrap();
    let (project, other) = (ProjectId::random(&entropy), ProjectId::random(&entropy));
    for of in [Some(project), None] {
        let mark = store.write_mark(KIND, of).await.unwrap();
        let changes = (0..16).map(|_| store.commit(create(&entropy, project, Some(&mark))));
        let outcomes = join_all(changes).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        let lost = |outcome: &Result<(), StoreError>| {
            matches!(outcome, Err(StoreError::Conflict(Conflict::Version)))
        };
        assert_eq!(outcomes.iter().filter(|outcome| lost(outcome)).count(), 15, "{outcomes:?}");
    }
    // A write in another project does not move the mark of this project, but moves that of all projects.
    let own = store.write_mark(KIND, Some(project)).await.unwrap();
    let all = store.write_mark(KIND, None).await.unwrap();
    store.commit(create(&entropy, other, None)).await.unwrap();
    assert!(store.commit(create(&entropy, project, Some(&all))).await.is_err());
    store.commit(create(&entropy, project, Some(&own))).await.unwrap();
}
