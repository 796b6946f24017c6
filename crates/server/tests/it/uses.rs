//! What is counted of uses, whatever becomes of the way to the database: each once, and nothing is called
//! complete that is not.

use std::time::Duration;

use keyrelay_chaos::proxy::Mode;
use keyrelay_core::id::{ClientId, SecretId};

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
