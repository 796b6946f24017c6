//! Everything has an end, and a caller that is shut out is shut out, however long ago its request
//! began.

use keyrelay_core::limits::BODY_BYTES_MAX;
use keyrelay_server::ServeError;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::{As, TestApp};

/// Sends the head of a request, does something, and only then sends the body.
pub async fn with_late_body(
    test: &TestApp,
    path: &str,
    authorization: &str,
    body: &Value,
    meanwhile: impl Future<Output = ()>,
) -> String {
    let body = body.to_string();
    let mut stream = TcpStream::connect(test.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/fhir+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server has let the caller in when it counts its connection and asks for the body.
    test.get(As::Anonymous, "metadata").await.expect(200);
    meanwhile.await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_caller_that_is_shut_out_before_its_body_arrives_changes_nothing() {
    let test = TestApp::start().await;
    let victim = test.make_client(&test.project, "Victim").await;
    let As::Bearer(token) = test.bearer(&test.admin).await else { unreachable!() };
    let bearer = format!("Bearer {token}");
    let off = async {
        test.patch_membership(&test.admin, &json!([{ "op": "add", "path": "/active", "value": false }]))
            .await;
    };
    let rotate = format!("/fhir/R4/ClientApplication/{}/$rotate-secret", victim.id);
    let answer = with_late_body(&test, &rotate, &bearer, &json!({ "secret": victim.secret }), off).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let read = test.get(&test.super_admin, &victim.path()).await.expect(200);
    assert_eq!(read.text_at("/secret"), victim.secret);
}

#[tokio::test]
async fn a_token_that_is_revoked_before_its_body_arrives_changes_nothing() {
    let test = TestApp::start().await;
    let victim = test.make_client(&test.project, "Victim").await;
    let As::Bearer(token) = test.bearer(&test.admin).await else { unreachable!() };
    let bearer = format!("Bearer {token}");
    let revoke = async {
        let request = test.request(&test.admin, Method::POST, "oauth2/revoke");
        request.form(&[("token", &token)]).send().await.expect(200);
    };
    let rotate = format!("/fhir/R4/ClientApplication/{}/$rotate-secret", victim.id);
    let answer = with_late_body(&test, &rotate, &bearer, &json!({ "secret": victim.secret }), revoke).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let read = test.get(&test.super_admin, &victim.path()).await.expect(200);
    assert_eq!(read.text_at("/secret"), victim.secret);
}

#[tokio::test]
async fn an_entry_of_a_batch_is_done_for_whoever_the_caller_is_by_then() {
    let test = TestApp::start().await;
    let victim = test.make_client(&test.project, "Victim").await;
    let As::Bearer(token) = test.bearer(&test.admin).await else { unreachable!() };
    let bearer = format!("Bearer {token}");
    let demote = async {
        test.patch_membership(&test.admin, &json!([{ "op": "replace", "path": "/admin", "value": false }]))
            .await;
    };
    let entry = json!({ "request": { "method": "GET", "url": victim.path() } });
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] });
    let answer = with_late_body(&test, "/fhir/R4", &bearer, &batch, demote).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Victim"), "{answer}");
    assert!(!answer.contains(&victim.secret), "a member sees no secret");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_announces_the_close() {
    let test = TestApp::start().await;
    let cases = [("auth/login", 1_000_000, "413"), ("fhir/R4/ClientApplication", 1_000, "401")];
    for (path, length, status) in cases {
        let mut stream = TcpStream::connect(test.address).await.unwrap();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
    }
    // One whose body was read stays.
    let refused = test.post(&test.admin, "ClientApplication", &json!([])).await.expect(400);
    assert_eq!(refused.header("connection"), "");
    test.get(&test.member, "metadata").await.expect(200);
    assert!(
        test.token(&test.member, &[("grant_type", "client_credentials")])
            .await
            .header("connection")
            .is_empty()
    );
}

#[tokio::test]
async fn a_too_large_resource_is_refused_and_not_stored() {
    let test = TestApp::start_configured(|config| config.resource_bytes_max = BODY_BYTES_MAX).await;
    let client = test.make_client(&test.project, "Grows").await;
    let long = "x".repeat(900 * 1024);
    let add = |path: &str, value: &Value| json!([{ "op": "add", "path": path, "value": value }]);
    test.patch(&test.admin, &client.path(), &add("/description", &json!(long))).await.expect(200);
    test.patch(&test.admin, &client.path(), &add("/launchUri", &json!(long))).await.refused(400, "invalid");
    test.patch(&test.admin, &client.path(), &add("/name", &json!("n".repeat(257))))
        .await
        .refused(400, "invalid");

    let rule = json!({ "resourceType": "Project" });
    let policy = json!({ "resourceType": "AccessPolicy", "resource": vec![rule; 101] });
    test.post(&test.admin, "AccessPolicy", &policy).await.refused(400, "not-supported");
    let rule = json!({ "resourceType": "Project", "interaction": vec!["read"; 1000] });
    let policy = json!({ "resourceType": "AccessPolicy", "name": "Long", "resource": vec![rule; 12] });
    test.post(&test.admin, "AccessPolicy", &policy).await.refused(400, "invalid");

    let tags: Vec<Value> = (0..600).map(|n| json!({ "system": "urn:x", "code": format!("t{n}") })).collect();
    let tagged = json!({ "resourceType": "AccessPolicy", "name": "Tagged", "meta": { "tag": tags } });
    test.post(&test.admin, "AccessPolicy", &tagged).await.refused(400, "invalid");
    assert!(test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn a_search_and_a_token_request_have_bounds() {
    let test = TestApp::start().await;
    let same = vec!["a"; 90].join(",");
    let query = format!("ClientApplication?name={same}&name={same}&name={same}");
    test.get(&test.admin, &query).await.expect(200);
    let names = |from: u32| (from..from + 90).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let query = format!("ClientApplication?name={}&name={}&name={}", names(0), names(100), names(200));
    test.get(&test.admin, &query).await.refused(403, "too-costly");
    let form = [("grant_type", "client_credentials"), ("padding", &"x".repeat(20_000))];
    let answer =
        test.request(As::Anonymous, Method::POST, "oauth2/token").form(&form).send().await.expect(413);
    assert_eq!(answer.text_at("/error"), "invalid_request");
}

#[tokio::test]
async fn the_answer_to_a_batch_ends_where_it_becomes_too_large() {
    let test = TestApp::start_configured(|config| {
        config.bytes_in_flight *= 4;
        config.resource_bytes_max = BODY_BYTES_MAX;
    })
    .await;
    let client = test.make_client(&test.project, "Large").await;
    let large = json!([{ "op": "add", "path": "/description", "value": "x".repeat(900 * 1024) }]);
    test.patch(&test.admin, &client.path(), &large).await.expect(200);
    let entry = json!({ "request": { "method": "GET", "url": client.path() } });
    let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": vec![entry; 20] });
    let answer = test.post(&test.admin, "", &batch).await.expect(200);
    let statuses: Vec<Value> = answer.json()["entry"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["response"]["status"].clone())
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == "200").count(), 10);
    assert_eq!(statuses.last(), Some(&json!("413")));
    let page = test.get(&test.admin, "ClientApplication?_count=1000").await.expect(200);
    assert!(page.text.len() < 16 * 1024 * 1024);
}

#[tokio::test]
async fn of_many_who_create_if_none_exists_one_does() {
    let test = TestApp::start().await;
    let create = || {
        let body = json!({ "resourceType": "AccessPolicy", "name": "Only one" });
        test.fhir(&test.admin, Method::POST, "AccessPolicy")
            .header("If-None-Exist", "name=Only one")
            .json(&body)
            .send()
    };
    let answers = futures_util::future::join_all((0..16).map(|_| create())).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let found = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((created, found), (1, 15));
    assert!(answers.iter().all(|answer| answer.text_at("/id") == answers[0].text_at("/id")));
}

#[tokio::test]
async fn an_admin_who_may_not_change_a_client_does_not_see_its_secret() {
    let test = TestApp::start().await;
    let reader = test.make_client(&test.project, "Reading admin").await;
    test.make_admin(&reader).await;
    assert_eq!(
        test.get(&reader, &test.member.path()).await.expect(200).text_at("/secret"),
        test.member.secret
    );
    test.put_under_policy(&reader, &json!({ "resource": [{ "resourceType": "*", "readonly": true }] })).await;
    let read = test.get(&reader, &test.member.path()).await.expect(200);
    assert_eq!(read.json().get("secret"), None);
}

#[tokio::test]
async fn nobody_locks_itself_out() {
    let test = TestApp::start().await;
    let membership =
        format!("ProjectMembership/{}", test.membership_of(&test.admin).await["id"].as_str().unwrap());
    let policy =
        json!({ "resourceType": "AccessPolicy", "ipAccessRule": [{ "value": "*", "action": "block" }] });
    let policy = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    for (path, value) in [
        ("/active", json!(false)),
        ("/admin", json!(false)),
        ("/accessPolicy", json!({ "reference": format!("AccessPolicy/{policy}") })),
    ] {
        let patch = json!([{ "op": "add", "path": path, "value": value }]);
        test.patch(&test.admin, &membership, &patch).await.refused(409, "conflict");
    }
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &test.admin.path(), &off).await.refused(409, "conflict");
    for path in [membership, test.admin.path()] {
        test.delete(&test.admin, &path).await.refused(409, "conflict");
    }
    assert!(test.lets_in(&test.admin.id, &test.admin.secret).await);
}

#[tokio::test]
async fn a_server_that_can_no_longer_write_ends_with_an_error() {
    let test = TestApp::start().await;
    test.app.close().await;
    assert_eq!(test.ended().await, Err(ServeError::Store));
}

/// Makes a policy; gives its path.
async fn policy(test: &TestApp, rules: &Value) -> String {
    let body = json!({
        "resourceType": "AccessPolicy",
        "meta": { "project": format!("Project/{}", test.project) },
        "resource": rules,
    });
    format!(
        "AccessPolicy/{}",
        test.post(&test.super_admin, "AccessPolicy", &body).await.expect(201).text_at("/id")
    )
}

#[tokio::test]
async fn a_policy_that_comes_before_the_body_binds_what_the_body_changes() {
    let test = TestApp::start().await;
    let victim = test.make_client(&test.project, "Victim").await;
    let rotate = format!("/fhir/R4/ClientApplication/{}/$rotate-secret", victim.id);
    let body = json!({ "secret": victim.secret });
    let strict = policy(&test, &json!([{ "resourceType": "*", "readonly": true }])).await;
    let free = policy(&test, &json!([{ "resourceType": "*" }])).await;
    let put_under =
        |path: &str| json!([{ "op": "add", "path": "/accessPolicy", "value": { "reference": path } }]);
    let unchanged = async || {
        let read = test.get(&test.super_admin, &victim.path()).await.expect(200);
        assert_eq!(read.text_at("/secret"), victim.secret);
    };
    let As::Bearer(token) = test.bearer(&test.admin).await else { unreachable!() };
    let bearer = format!("Bearer {token}");

    let attach = async { test.patch_membership(&test.admin, &put_under(&strict)).await };
    let answer = with_late_body(&test, &rotate, &bearer, &body, attach).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    unchanged().await;

    // The same by another version of the policy.
    test.patch_membership(&test.admin, &put_under(&free)).await;
    let narrow = json!([{ "op": "add", "path": "/resource/0/readonly", "value": true }]);
    let change = async { drop(test.patch(&test.super_admin, &free, &narrow).await.expect(200)) };
    let answer = with_late_body(&test, &rotate, &bearer, &body, change).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    unchanged().await;

    // One that is gone allows nothing; one that stays as it is binds nobody anew.
    let widen = json!([{ "op": "remove", "path": "/resource/0/readonly" }]);
    test.patch(&test.super_admin, &free, &widen).await.expect(200);
    let remove = async { drop(test.delete(&test.super_admin, &free).await.expect(200)) };
    let answer = with_late_body(&test, &rotate, &bearer, &body, remove).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    unchanged().await;
    let free = policy(&test, &json!([{ "resourceType": "*" }])).await;
    test.patch_membership(&test.admin, &put_under(&free)).await;
    let answer = with_late_body(&test, &rotate, &bearer, &body, async {}).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
