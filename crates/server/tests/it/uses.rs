//! What is counted of uses, whatever becomes of the way to the database: each once, and nothing is called
//! complete that is not.

use std::time::Duration;

use keyrelay_chaos::proxy::Mode;
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::USAGE_CALLERS_KEPT;
use keyrelay_core::time::Clock;

use crate::app::{Credentials, START, TestApp};
use crate::secret_status::{part, status};

/// How often a client was let in by its one secret, as it is written down.
async fn accepted(test: &TestApp, client: &Credentials) -> i64 {
    let told = status(test, client, "").await;
    let secret = SecretId::parse(part(&told, &["secret", "id"]).as_str().unwrap()).unwrap();
    let id = ClientId::parse(&client.id).unwrap();
    let written = test.store().await.usage(id, [secret, SecretId::NIL, SecretId::NIL], START).await.unwrap();
    written.get(&secret).and_then(|used| used.total).map_or(0, |total| total.accepted)
}

/// Whether anything is written down of secrets of a client.
async fn is_anything_kept(test: &TestApp, client: &Credentials, secrets: [SecretId; 3]) -> bool {
    let id = ClientId::parse(&client.id).unwrap();
    !test.store().await.usage(id, secrets, test.clock.now()).await.unwrap().is_empty()
}

#[tokio::test]
async fn uses_are_forgotten_with_their_client() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let first = part(&status(&test, &old, "").await, &["secret", "id"]).clone();
    test.grant(&old.id, &old.secret).await.expect(200);
    let new = old
        .with(&test.rotate(&test.admin, &old.id, "secret", &old.secret).await.expect(200).text_at("/secret"));
    test.rotate(&test.admin, &old.id, "retiringSecret", &old.secret).await.expect(200);
    test.grant(&new.id, &new.secret).await.expect(200);
    test.grant(&new.id, "wrong").await.expect(401);
    let second = part(&status(&test, &old, "").await, &["secret", "id"]).clone();
    let [first, second] = [first, second].map(|id| SecretId::parse(id.as_str().unwrap()).unwrap());
    let all = [first, second, SecretId::NIL];
    for id in all {
        assert!(is_anything_kept(&test, &old, [id; 3]).await, "{id}");
    }
    // What of that is not written down yet comes when the client is gone, and goes when it is old enough.
    test.grant(&new.id, &new.secret).await.expect(200);
    test.delete(&test.admin, &old.path()).await.expect(200);
    assert!(!is_anything_kept(&test, &old, all).await);
    test.app.flush_usage().await;
    assert!(is_anything_kept(&test, &old, [second; 3]).await);
    test.clock.advance(USAGE_CALLERS_KEPT + Duration::from_millis(1));
    test.app.sweep().await;
    assert!(!is_anything_kept(&test, &old, all).await);
}

#[tokio::test]
async fn the_sum_of_a_secret_is_kept_for_as_long_as_its_client_has_or_had_it() {
    let test = TestApp::start().await;
    let old = test.make_client(&test.project, "Nightly export").await;
    let mut secrets = Vec::new();
    let mut current = old.clone();
    for _ in 0..3 {
        test.grant(&current.id, &current.secret).await.expect(200);
        let id = part(&status(&test, &old, "").await, &["secret", "id"]).clone();
        secrets.push(SecretId::parse(id.as_str().unwrap()).unwrap());
        let rotated = test.rotate(&test.admin, &old.id, "secret", &current.secret).await.expect(200);
        current = old.with(&rotated.text_at("/secret"));
    }
    test.grant(&current.id, &current.secret).await.expect(200);
    test.app.flush_usage().await;
    test.clock.advance(USAGE_CALLERS_KEPT + Duration::from_millis(1));
    test.app.sweep().await;
    // One retiring, two former. The current one tells how often it was used, however long ago.
    assert!(is_anything_kept(&test, &old, [secrets[0]; 3]).await, "its next refusal is counted on");
    assert!(is_anything_kept(&test, &old, [secrets[2]; 3]).await);
    assert_eq!(part(&status(&test, &old, "").await, &["secret", "uses"]), 1);
}

#[tokio::test]
async fn counts_whose_commit_was_not_confirmed_are_counted_once_and_leave_no_gap() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    let client = test.make_client(&test.project, "Nightly export").await;
    let mut uses = 0;
    for mode in [Mode::KeepCommits, Mode::LoseAnswersToCommits] {
        for _ in 0..3 {
            node.grant(&client.id, &client.secret).await.expect(200);
            uses += 1;
        }
        test.clock.advance(Duration::from_secs(7));
        let mut lost = proxy.commits_lost();
        proxy.set(mode);
        let heal = async {
            lost.changed().await.unwrap();
            proxy.set(Mode::Pass);
            proxy.cut();
        };
        tokio::join!(node.app.flush_usage(), heal);
        // What came meanwhile is counted as well.
        node.grant(&client.id, &client.secret).await.expect(200);
        uses += 1;
        assert!(node.app.flush_usage().await.is_some());
        assert_eq!(accepted(&test, &client).await, uses, "{mode:?}");
        let told = status(&node, &client, "").await;
        assert_eq!(part(&told, &["gapAfter"]), &serde_json::Value::Null);
    }
    let told = status(&node, &client, "").await;
    assert_eq!(part(&told, &["completeUntil"]), "2026-01-01T00:00:14.000Z");
}

#[tokio::test]
async fn counts_are_written_down_although_nobody_waits_for_it_any_more() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    let client = test.make_client(&test.project, "Nightly export").await;
    node.grant(&client.id, &client.secret).await.expect(200);
    let mut lost = proxy.commits_lost();
    proxy.set(Mode::KeepCommits);
    let app = node.app.clone();
    let asked = tokio::spawn(async move { app.flush_usage().await });
    lost.changed().await.unwrap();
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    proxy.set(Mode::Pass);
    proxy.cut();
    assert!(node.app.flush_usage().await.is_some());
    assert_eq!(accepted(&test, &client).await, 1);
}
