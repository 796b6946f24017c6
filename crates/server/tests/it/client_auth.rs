//! Every place that takes a client secret takes the same secrets and refuses the same clients:
//! `client_secret_post`, `client_secret_basic`, and Basic straight on the API.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const GRANT: [(&str, &str); 1] = [("grant_type", "client_credentials")];

async fn stage() -> (TestApp, Credentials) {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    (test, client)
}

/// Sends one `Authorization` header to the token endpoint and to the API; gives both answers.
async fn with_header(test: &TestApp, client: &Credentials, authorization: &str) -> [Answer; 2] {
    let token = test.request(As::Anonymous, Method::POST, "oauth2/token").form(&GRANT);
    let fhir = test.fhir(As::Anonymous, Method::GET, &client.path());
    [
        token.header("authorization", authorization).send().await,
        fhir.header("authorization", authorization).send().await,
    ]
}

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

async fn patch(test: &TestApp, path: &str, element: &str, value: Value) {
    let operations = json!([{ "op": "add", "path": format!("/{element}"), "value": value }]);
    test.patch(&test.super_admin, path, &operations).await.expect(200);
}

#[tokio::test]
async fn both_secrets_work_in_every_place_until_one_is_retired() {
    let (test, client) = stage().await;
    let answer = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let new = answer.text_at("/secret");
    for secret in [&client.secret, &new] {
        assert!(test.lets_in(&client.id, secret).await);
        let me = test.request(&client.with(secret), Method::GET, "auth/me").send().await.expect(200);
        assert_eq!(me.text_at("/profile/id"), client.id);
        let bundle = json!({ "resourceType": "Bundle", "type": "batch" });
        test.post(&client.with(secret), "", &bundle).await.expect(200);
    }
    test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    assert!(!test.lets_in(&client.id, &client.secret).await);
    test.request(&client, Method::GET, "auth/me").send().await.refused(401, "login");
    test.post(&client, "", &json!({})).await.refused(401, "login");
}

#[tokio::test]
async fn an_admin_rotates_its_own_secret_with_either_secret() {
    let test = TestApp::start().await;
    let first = test.admin.clone();
    let second = test.rotate(&first, &first.id, "secret", &first.secret).await.expect(200).text_at("/secret");
    let retired = test.rotate(&first, &first.id, "retiringSecret", &first.secret).await.expect(200);
    assert_eq!(retired.text_at("/secret"), second);
    test.rotate(&first, &first.id, "secret", &second).await.refused(401, "login");
    test.rotate(&first.with(&second), &first.id, "secret", &second).await.expect(200);
}

#[tokio::test]
async fn a_secret_of_any_characters_works_plain_and_form_urlencoded() {
    let (test, client) = stage().await;
    let secret = "a:b::c +d%2B%zz/=&?#é \"quoted\" e\\f, g~h";
    patch(&test, &client.path(), "secret", json!(secret)).await;
    assert!(test.lets_in(&client.id, secret).await);

    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    for header in [
        basic(&client.id, secret),
        basic(&encode(&client.id), &encode(secret)),
        basic(&client.id, &encode(secret).replace("%20", "+")),
        basic(&client.id, secret).replacen("Basic", "bAsIc", 1),
    ] {
        for answer in with_header(&test, &client, &header).await {
            answer.expect(200);
        }
    }
    let up_to_the_second_colon = &secret[..3];
    let twice = encode(&encode(secret));
    for wrong in [up_to_the_second_colon, "a", &twice, &secret.to_uppercase()] {
        assert!(!test.lets_in(&client.id, wrong).await, "{wrong}");
    }
}

#[tokio::test]
async fn what_is_no_basic_header_lets_nobody_in() {
    let (test, client) = stage().await;
    let encoded = STANDARD.encode(format!("{}:{}", client.id, client.secret));
    for header in [
        "Basic".to_owned(),
        "Basic !!!!".to_owned(),
        format!("Basic{encoded}"),
        format!("Digest {encoded}"),
        encoded.clone(),
        format!("Basic {}", STANDARD.encode(&client.id)),
        format!("Basic {}", STANDARD.encode([0xff, b':', 0xfe])),
    ] {
        let [token, fhir] = with_header(&test, &client, &header).await;
        assert_eq!(token.expect(400).text_at("/error"), "invalid_request", "{header}");
        fhir.refused(401, "login");
    }
    // Which of two headers counts is nobody's guess.
    let header = format!("Basic {encoded}");
    let request = test.fhir(&client, Method::GET, &client.path()).header("authorization", &header);
    request.send().await.refused(401, "login");
    let request = test.request(&client, Method::POST, "oauth2/token").form(&GRANT);
    let answer = request.header("authorization", &header).send().await.expect(400);
    assert_eq!(answer.text_at("/error"), "invalid_request");
}

#[tokio::test]
async fn a_wrong_secret_lets_nobody_in() {
    let (test, client) = stage().await;
    let damaged = format!("{}x", &client.secret[..client.secret.len() - 1]);
    for wrong in ["", "wrong", &damaged, &client.secret.to_lowercase(), &test.admin.secret] {
        let credentials = client.with(wrong);
        test.token(&credentials, &GRANT).await.expect(401);
        test.get(&credentials, &client.path()).await.refused(401, "login");
    }
    assert!(test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn a_replaced_secret_ends_at_once_and_the_retiring_one_stays() {
    let (test, client) = stage().await;
    let answer = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let rotated = answer.text_at("/secret");
    let chosen = "chosen by an admin, long enough to be allowed";
    patch(&test, &client.path(), "secret", json!(chosen)).await;
    assert!(test.lets_in(&client.id, chosen).await);
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(!test.lets_in(&client.id, &rotated).await);
}

#[tokio::test]
async fn a_client_that_is_not_active_is_not_let_in() {
    let (test, client) = stage().await;
    let new = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.text_at("/secret");
    for status in ["off", "error"] {
        patch(&test, &client.path(), "status", json!(status)).await;
        assert!(!test.lets_in(&client.id, &client.secret).await, "{status}");
        assert!(!test.lets_in(&client.id, &new).await, "{status}");
        patch(&test, &client.path(), "status", json!("active")).await;
        assert!(test.lets_in(&client.id, &client.secret).await);
        assert!(test.lets_in(&client.id, &new).await);
    }
    test.delete(&test.admin, &client.path()).await.expect(200);
    assert!(!test.lets_in(&client.id, &new).await);
}

#[tokio::test]
async fn a_client_without_an_active_membership_is_not_let_in() {
    let (test, client) = stage().await;
    let membership =
        format!("ProjectMembership/{}", test.membership_of(&client).await["id"].as_str().unwrap());
    patch(&test, &membership, "active", json!(false)).await;
    assert!(!test.lets_in(&client.id, &client.secret).await);
    patch(&test, &membership, "active", json!(true)).await;
    assert!(test.lets_in(&client.id, &client.secret).await);
    test.delete(&test.admin, &membership).await.expect(200);
    assert!(!test.lets_in(&client.id, &client.secret).await);

    let secret = "written directly and long enough for the policy";
    let body = json!({ "resourceType": "ClientApplication", "name": "Nobody's", "secret": secret });
    let id = test.post(&test.admin, "ClientApplication", &body).await.expect(201).text_at("/id");
    assert!(!test.lets_in(&id, secret).await);
}

#[tokio::test]
async fn a_client_of_an_inactive_or_deleted_project_is_not_let_in() {
    let (test, client) = stage().await;
    let project = format!("Project/{}", test.project);
    patch(&test, &project, "active", json!(false)).await;
    assert!(!test.lets_in(&client.id, &client.secret).await);
    patch(&test, &project, "active", json!(true)).await;
    assert!(test.lets_in(&client.id, &client.secret).await);
    test.delete(&test.super_admin, &project).await.expect(200);
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&test.stranger.id, &test.stranger.secret).await);
}

/// Whether a client gets in from the second address, by form, by Basic, and by a token it has.
async fn lets_in_elsewhere(test: &TestApp, client: &Credentials, token: &As) -> bool {
    let form = test.grant_elsewhere(&client.id, &client.secret).await.status;
    let basic = test.request_elsewhere(client, Method::POST, "oauth2/token").form(&GRANT).send().await.status;
    let fhir = test.request_elsewhere(client, Method::GET, "auth/me").send().await.status;
    let bearer = test.request_elsewhere(token, Method::GET, "auth/me").send().await.status;
    let all = [form, basic, fhir, bearer].map(|status| status.as_u16());
    assert!(all == [200; 4] || all == [401; 4], "{all:?}");
    all == [200; 4]
}

#[tokio::test]
async fn the_first_address_rule_that_matches_decides() {
    let (test, client) = stage().await;
    let token = test.bearer(&client).await;
    assert!(lets_in_elsewhere(&test, &client, &token).await);
    for (rules, here, elsewhere) in [
        (json!([{ "value": "127.0.0.2", "action": "block" }]), true, false),
        (json!([{ "value": "127.0.0.0/30", "action": "block" }]), false, false),
        (
            json!([{ "value": "127.0.0.2/32", "action": "allow" }, { "value": "*", "action": "block" }]),
            false,
            true,
        ),
        (
            json!([{ "value": "*", "action": "allow" }, { "value": "127.0.0.2", "action": "block" }]),
            true,
            true,
        ),
        (json!([{ "value": "10.0.0.0/8", "action": "block" }]), true, true),
    ] {
        let policy = json!({ "resource": [{ "resourceType": "*" }], "ipAccessRule": rules });
        test.put_under_policy(&client, &policy).await;
        assert_eq!(test.lets_in(&client.id, &client.secret).await, here, "{rules}");
        assert_eq!(lets_in_elsewhere(&test, &client, &token).await, elsewhere, "{rules}");
    }
}

#[tokio::test]
async fn under_a_policy_that_is_gone_nothing_is_allowed() {
    let (test, client) = stage().await;
    test.put_under_policy(&client, &json!({ "resource": [{ "resourceType": "*" }] })).await;
    test.get(&client, &client.path()).await.expect(200);
    let policy = test.membership_of(&client).await["accessPolicy"]["reference"].as_str().unwrap().to_owned();
    test.delete(&test.admin, &policy).await.expect(200);
    test.get(&client, &client.path()).await.refused(403, "forbidden");
}
