//! Several servers on one database: what one has answered is true on every other, at once.

use crate::app::{Credentials, TestApp};

/// Rotations and retirements; a long run sets `KEYRELAY_TEST_ROUNDS`.
fn rounds() -> usize {
    std::env::var("KEYRELAY_TEST_ROUNDS").ok().map_or(100, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn what_one_node_rotates_or_retires_is_so_on_every_other_at_once() {
    let test = TestApp::start().await;
    let other = test.beside().await;
    let mut client = test.make_client(&test.project, "Nightly export").await;
    let nodes = [&test, &other];
    for round in 0..rounds() {
        let (one, another) = (nodes[round % 2], nodes[(round + 1) % 2]);
        let rotated = one.rotate(&one.admin, &client.id, "secret", &client.secret).await.expect(200);
        let fresh = Credentials { id: client.id.clone(), secret: rotated.text_at("/secret") };
        let status = another.grant(&fresh.id, &fresh.secret).await.status;
        assert_eq!(status, 200, "round {round}: the new secret, on the other node");
        let status = another.grant(&client.id, &client.secret).await.status;
        assert_eq!(status, 200, "round {round}: the retiring secret, on the other node");
        one.rotate(&one.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
        let status = another.grant(&client.id, &client.secret).await.status;
        assert_eq!(status, 401, "round {round}: the retired secret, on the other node");
        client = fresh;
        // Forgives the failure, which the limiter counted.
        test.clock.advance(keyrelay_core::limits::FAILURE_FORGIVEN_AFTER);
    }
}

#[tokio::test]
async fn of_rotations_at_once_on_two_nodes_one_wins() {
    let test = TestApp::start().await;
    let other = test.beside().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let rotate = |node: usize| {
        let node = if node.is_multiple_of(2) { &test } else { &other };
        node.rotate(&node.admin, &client.id, "secret", &client.secret)
    };
    let answers = futures_util::future::join_all((0..32).map(rotate)).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| answer.status == 400).count();
    assert_eq!((won, refused), (1, 31));
}

#[tokio::test]
async fn whoever_is_switched_off_on_one_node_is_out_on_every_other() {
    let test = TestApp::start().await;
    let other = test.beside().await;
    let token = test.bearer(&test.member).await;
    other.get(&token, "ClientApplication").await.expect(200);
    let off = serde_json::json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &test.member.path(), &off).await.expect(200);
    other.get(&token, "ClientApplication").await.expect(401);
    assert!(!other.lets_in(&test.member.id, &test.member.secret).await);
}
