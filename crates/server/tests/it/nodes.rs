//! Several servers on one database: what one has answered is true on every other, at once.

use crate::app::{Credentials, TestApp};

/// Rotations and retirements; a long run sets `KEYRELAY_TEST_ROUNDS`.
fn rounds() -> usize {
    std::env::var("KEYRELAY_TEST_ROUNDS").ok().map_or(100, |rounds| rounds.parse().unwrap())
}

#[tokio::test]
async fn what_one_of_two_nodes_rotates_or_retires_is_so_on_the_other_at_once() {
    what_one_rotates_or_retires_is_so_on_all(2).await;
}

#[tokio::test]
async fn what_one_of_three_nodes_rotates_or_retires_is_so_on_the_others_at_once() {
    what_one_rotates_or_retires_is_so_on_all(3).await;
}

async fn what_one_rotates_or_retires_is_so_on_all(n: usize) {
    let test = TestApp::start().await;
    let mut beside = Vec::with_capacity(n);
    for _ in 1..n {
        beside.push(test.beside().await);
    }
    let nodes: Vec<&TestApp> = std::iter::once(&test).chain(&beside).collect();
    let mut client = test.make_client(&test.project, "Nightly export").await;
    for round in 0..rounds() {
        let one = nodes[round % n];
        let others: Vec<&TestApp> = (1..n).map(|after| nodes[(round + after) % n]).collect();
        let rotated = one.rotate(&one.admin, &client.id, "secret", &client.secret).await.expect(200);
        let fresh = client.with(&rotated.text_at("/secret"));
        let statuses = grants(&others, &fresh).await;
        assert_eq!(statuses, vec![200; n - 1], "round {round}: the new secret, on the other nodes");
        let statuses = grants(&others, &client).await;
        assert_eq!(statuses, vec![200; n - 1], "round {round}: the retiring secret, on the other nodes");
        one.rotate(&one.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
        let statuses = grants(&others, &client).await;
        assert_eq!(statuses, vec![401; n - 1], "round {round}: the retired secret, on the other nodes");
        client = fresh;
        // Forgives the failures, which the limiters counted.
        test.clock.advance(keyrelay_core::limits::FAILURE_FORGIVEN_AFTER);
    }
}

/// What each node answers to a grant, all asked at the same moment.
async fn grants(nodes: &[&TestApp], client: &Credentials) -> Vec<u16> {
    let asked =
        nodes.iter().map(|node| async { node.grant(&client.id, &client.secret).await.status.as_u16() });
    futures_util::future::join_all(asked).await
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
