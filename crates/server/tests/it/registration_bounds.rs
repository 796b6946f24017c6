//! What a client that manages itself may make of itself at most: what its initial access token said, and
//! what an admin wrote since.

use serde_json::{Value, json};

use crate::app::TestApp;
use crate::registration::{Registered, initial, refused, register};

const SCOPE: &str = "openid system/Practitioner.rs";

fn patch(op: &str, path: &str, value: &Value) -> Value {
    json!([{ "op": op, "path": path, "value": value }])
}

#[tokio::test]
async fn what_an_admin_narrowed_the_client_does_not_widen() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let both = json!({
        "grant_types": ["client_credentials", "authorization_code"],
        "redirect_uris": ["https://app.example.test/back"],
    });
    let mut wide = both.clone();
    wide["scope"] = json!("openid system/*.rs");
    made.put(&test, &wide).await.expect(200);

    let path = made.client.path();
    test.patch(&test.admin, &path, &patch("replace", "/grantType", &json!(["client_credentials"])))
        .await
        .expect(200);
    let narrow = json!(SCOPE.split(' ').collect::<Vec<_>>());
    test.patch(&test.admin, &path, &patch("replace", "/defaultScope", &narrow)).await.expect(200);
    refused(&made.put(&test, &both).await, 400, "invalid_client_metadata");
    let wide = json!({ "scope": "openid system/*.rs" });
    refused(&made.put(&test, &wide).await, 400, "invalid_client_metadata");
    let told = made.put(&test, &json!({ "client_name": "Weekly export" })).await.expect(200).json();
    assert_eq!((&told["grant_types"], &told["scope"]), (&json!(["client_credentials"]), &json!(SCOPE)));
    let form = [("grant_type", "client_credentials"), ("scope", "system/Practitioner.rs system/Project.rs")];
    let granted = test.token(&made.client, &form).await.expect(200).text_at("/scope");
    assert_eq!(granted, "system/Practitioner.rs");

    // What an admin wrote an admin may widen.
    let both_grants = json!(["client_credentials", "authorization_code"]);
    test.patch(&test.admin, &path, &patch("replace", "/grantType", &both_grants)).await.expect(200);
    made.put(&test, &both).await.expect(200);
}

#[tokio::test]
async fn a_write_beside_them_leaves_the_bounds_alone() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    test.patch(&test.admin, &made.client.path(), &patch("add", "/description", &json!("Nightly")))
        .await
        .expect(200);
    let both = json!({ "grant_types": ["client_credentials", "refresh_token"] });
    made.put(&test, &both).await.expect(200);
}

#[tokio::test]
async fn grant_types_that_are_left_out_are_those_of_the_initial_access_token() {
    let test = TestApp::start().await;
    let bounds = json!({ "grantType": ["authorization_code"] });
    let body = json!({
        "client_name": "Viewer",
        "grant_types": ["authorization_code"],
        "redirect_uris": ["https://app.example.test/back"],
    });
    let token = initial(&test, &bounds).await;
    let made = Registered::of(&register(&test, &token, &body).await.expect(201));
    let refused = || async {
        let answer = test.token(&made.client, &[("grant_type", "client_credentials")]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text_at("/error")),
            (400, "unauthorized_client".to_owned())
        );
        test.get(&made.client, "Practitioner").await.refused(401, "login");
    };
    refused().await;
    let path = made.client.path();
    let remove = json!([{ "op": "remove", "path": "/grantType" }]);
    test.patch(&test.admin, &path, &remove).await.expect(200);
    refused().await;
    // Anybody else has all, as ever.
    let free = test.make_client(&test.project, "Free").await;
    assert!(test.lets_in(&free.id, &free.secret).await);
}

#[tokio::test]
async fn the_default_scope_of_a_client_that_an_admin_made_bounds_nothing() {
    let test = TestApp::start().await;
    let narrow = json!(SCOPE.split(' ').collect::<Vec<_>>());
    test.patch(&test.admin, &test.member.path(), &patch("add", "/defaultScope", &narrow)).await.expect(200);
    let form = [("grant_type", "client_credentials"), ("scope", "system/Practitioner.rs system/Project.rs")];
    let granted = test.token(&test.member, &form).await.expect(200).text_at("/scope");
    assert_eq!(granted, "system/Practitioner.rs system/Project.rs");
}
