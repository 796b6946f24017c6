//! The documented rotation, from end to end.

use crate::app::TestApp;

#[tokio::test]
async fn a_secret_rotates_and_retires_and_nobody_is_locked_out() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    assert!(test.lets_in(&client.id, &client.secret).await);

    let rotated = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let new = rotated.text_at("/secret");
    assert_eq!(rotated.text_at("/retiringSecret"), client.secret);
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);

    let retired = test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    assert_eq!(retired.text_at("/secret"), new);
    assert_eq!(retired.json().get("retiringSecret"), None);
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
}
