//! What clients are told while the database cannot be reached, or does not answer: that they should try
//! again, and the truth about what they asked for. On SQLite there is nothing to lose on the way.

use keyrelay_chaos::proxy::Mode;
use reqwest::Method;

use crate::app::{As, TestApp};

#[tokio::test]
async fn while_the_database_hangs_everything_is_answered_503_and_then_works_again() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    let client = test.make_client(&test.project, "Nightly export").await;
    node.get(&client, &client.path()).await.expect(200);
    for mode in [Mode::Hang, Mode::Lose] {
        proxy.set(mode);
        let path = client.path();
        let (grant, read, rotation, search, ready, live) = tokio::join!(
            node.grant(&client.id, &client.secret),
            node.get(&client, &path),
            node.rotate(&test.admin, &client.id, "secret", &client.secret),
            node.get(&test.admin, "ClientApplication?name=x"),
            node.request(As::Anonymous, Method::GET, "readyz").send(),
            node.request(As::Anonymous, Method::GET, "livez").send(),
        );
        for answer in [&read, &rotation, &search] {
            assert!(answer.refused(503, "transient").contains("nothing was changed"), "{}", answer.text);
        }
        for answer in [&grant, &read, &rotation, &search] {
            assert_eq!(answer.header("retry-after"), "1", "{}", answer.text);
        }
        assert_eq!(grant.expect(503).text_at("/error"), "temporarily_unavailable");
        assert_eq!((ready.status.as_u16(), live.status.as_u16()), (503, 200), "{}", ready.text);
        // Somebody else's way to the database is as good as ever.
        test.grant(&client.id, &client.secret).await.expect(200);
        proxy.set(Mode::Pass);
        node.grant(&client.id, &client.secret).await.expect(200);
        node.request(As::Anonymous, Method::GET, "readyz").send().await.expect(200);
    }
    node.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
}

#[tokio::test]
async fn a_rotation_whose_commit_was_not_confirmed_is_answered_by_what_happened() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    for mode in [Mode::KeepCommits, Mode::LoseAnswersToCommits] {
        let client = test.make_client(&test.project, "Nightly export").await;
        let mut lost = proxy.commits_lost();
        proxy.set(mode);
        let heal = async {
            lost.changed().await.unwrap();
            proxy.set(Mode::Pass);
            proxy.cut();
        };
        let rotate = node.rotate(&test.admin, &client.id, "secret", &client.secret);
        let (rotated, ()) = tokio::join!(rotate, heal);
        let fresh = client.with(&rotated.expect(200).text_at("/secret"));
        for secret in [&client, &fresh] {
            assert!(test.lets_in(&secret.id, &secret.secret).await, "{mode:?}");
            assert!(node.lets_in(&secret.id, &secret.secret).await, "{mode:?}");
        }
        let history = test.get(&test.admin, &format!("{}/_history", client.path())).await.expect(200);
        assert_eq!(history.resources().len(), 2, "it was rotated once");
    }
}

#[tokio::test]
async fn a_rotation_in_doubt_is_not_answered_200_and_says_so() {
    let test = TestApp::start().await;
    let Some((node, proxy)) = test.beside_through_proxy().await else { return };
    let client = test.make_client(&test.project, "Nightly export").await;
    proxy.set(Mode::LoseAnswersToCommits);
    let lose = async {
        // It happened, and nobody told the node.
        while test.get(&test.admin, &client.path()).await.json()["retiringSecret"].is_null() {
            tokio::task::yield_now().await;
        }
        proxy.set(Mode::Hang);
        proxy.cut();
    };
    let rotate = node.rotate(&test.admin, &client.id, "secret", &client.secret);
    let (answer, ()) = tokio::join!(rotate, lose);
    let told = answer.refused(503, "transient");
    assert!(told.contains("may have been made or not: read again to see"), "{told}");
    assert_eq!(answer.header("retry-after"), "1");
    // So an admin reads, and finds the new secret; whoever only tries again is told that it is too late.
    let found = test.get(&test.admin, &client.path()).await.expect(200);
    assert_eq!(found.text_at("/retiringSecret"), client.secret);
    assert!(test.lets_in(&client.id, &found.text_at("/secret")).await);
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.refused(400, "invalid");
}
