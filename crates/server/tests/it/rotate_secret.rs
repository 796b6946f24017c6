//! `POST [base]/ClientApplication/[id]/$rotate-secret`: who may, with what, and what comes back.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

/// The path of the operation on one client.
fn operation(id: &str) -> String {
    format!("ClientApplication/{id}/$rotate-secret")
}

fn parameters(list: &Value) -> Value {
    json!({ "resourceType": "Parameters", "parameter": list })
}

async fn stage() -> (TestApp, Credentials) {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    (test, client)
}

/// Rotates, and gives the new secret.
async fn rotated(test: &TestApp, client: &Credentials) -> String {
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200).text_at("/secret")
}

async fn version_of(test: &TestApp, client: &Credentials) -> String {
    test.get(&test.admin, &client.path()).await.expect(200).text_at("/meta/versionId")
}

#[tokio::test]
async fn the_answer_is_the_bare_client_with_its_new_version() {
    let (test, client) = stage().await;
    let before = version_of(&test, &client).await;
    test.clock.advance(Duration::from_mins(1));

    let answer = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let version = answer.text_at("/meta/versionId");
    assert_ne!(version, before);
    assert_eq!(version, version_of(&test, &client).await);
    assert_eq!(answer.header("etag"), format!("W/\"{version}\""));
    assert_eq!(answer.header("last-modified"), "Thu, 01 Jan 2026 00:01:00 GMT");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-type"), "application/fhir+json; charset=utf-8");

    let secret = answer.text_at("/secret");
    assert!(secret.starts_with("krs_") && secret != client.secret, "{secret}");
    let author = test.author(&test.admin).await;
    assert_eq!(
        answer.json(),
        json!({
            "resourceType": "ClientApplication",
            "id": client.id,
            "meta": {
                "versionId": version,
                "lastUpdated": "2026-01-01T00:01:00.000Z",
                "project": test.project,
                "compartment": [{ "reference": format!("Project/{}", test.project) }],
                "author": author,
            },
            "name": "Nightly export",
            "secret": secret,
            "retiringSecret": client.secret,
        })
    );
}

#[tokio::test]
async fn a_plain_object_says_the_same_as_parameters() {
    let (test, client) = stage().await;
    let path = format!("fhir/R4/{}", operation(&client.id));
    let call = |body: Value| {
        test.request(&test.admin, Method::POST, &path).body("application/json", body.to_string()).send()
    };
    let new = call(json!({ "secret": client.secret })).await.expect(200).text_at("/secret");
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);

    let retired = call(json!({ "retiringSecret": client.secret })).await.expect(200);
    assert_eq!((retired.text_at("/secret"), retired.json().get("retiringSecret")), (new.clone(), None));
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
}

#[tokio::test]
async fn a_second_rotation_ends_the_first_secret() {
    let (test, client) = stage().await;
    let second = rotated(&test, &client).await;
    let answer = test.rotate(&test.admin, &client.id, "secret", &second).await.expect(200);
    assert_eq!(answer.text_at("/retiringSecret"), second);
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &second).await);
    assert!(test.lets_in(&client.id, &answer.text_at("/secret")).await);
}

#[tokio::test]
async fn a_value_that_is_not_in_its_slot_changes_nothing() {
    let (test, client) = stage().await;
    let another = test.make_client(&test.project, "Another").await;
    for (name, value) in
        [("secret", "wrong"), ("secret", &another.secret), ("retiringSecret", &client.secret)]
    {
        let answer = test.rotate(&test.admin, &client.id, name, value).await;
        assert_eq!(answer.refused(400, "invalid"), "Provided secret does not match client", "{name}");
    }

    let new = rotated(&test, &client).await;
    let version = version_of(&test, &client).await;
    for (name, value) in
        [("secret", &client.secret), ("retiringSecret", &new), ("retiringSecret", &another.secret)]
    {
        let answer = test.rotate(&test.admin, &client.id, name, value).await;
        assert_eq!(answer.refused(400, "invalid"), "Provided secret does not match client", "{name}");
        assert!(!answer.text.contains(value), "{}", answer.text);
    }
    assert_eq!(version_of(&test, &client).await, version);
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
}

#[tokio::test]
async fn an_input_that_names_no_slot_is_refused_with_what_is_wrong() {
    let (test, client) = stage().await;
    let secret = &client.secret;
    let one = |parameter: Value| parameters(&json!([parameter]));
    let twice =
        json!([{ "name": "secret", "valueString": secret }, { "name": "secret", "valueString": secret }]);
    let both = json!([
        { "name": "secret", "valueString": secret },
        { "name": "retiringSecret", "valueString": secret },
    ]);
    for (body, expression, text) in [
        (json!({}), "Parameters.parameter", "No parameter"),
        (json!({ "resourceType": "Parameters" }), "Parameters.parameter", "No parameter"),
        (parameters(&json!([])), "Parameters.parameter", "No parameter"),
        (parameters(&both), "Parameters.parameter[1]", "exactly one of"),
        (parameters(&twice), "Parameters.parameter[1]", "Too many"),
        (json!({ "secret": secret, "retiringSecret": secret }), "retiringSecret", "exactly one of"),
        (json!({ "secret": "" }), "secret", "empty"),
        (one(json!({ "name": "secret", "valueString": "" })), "Parameters.parameter[0]", "empty"),
        (json!({ "secret": 7 }), "secret", "must be a string"),
        (json!({ "secret": null }), "secret", "must be a string"),
        (
            one(json!({ "name": "secret", "valueCode": secret })),
            "Parameters.parameter[0].valueCode",
            "valueString",
        ),
        (
            one(json!({ "name": "secret", "valueString": 7 })),
            "Parameters.parameter[0].valueString",
            "must be a string",
        ),
        (one(json!({ "name": "secret" })), "Parameters.parameter[0]", "valueString"),
        (one(json!({ "valueString": secret })), "Parameters.parameter[0].name", "name"),
        (one(json!({ "name": "Secret", "valueString": secret })), "Parameters.parameter[0]", "Unknown"),
        (json!({ "client_secret": secret }), "client_secret", "Unknown"),
        (json!({ "resourceType": "Patient", "secret": secret }), "resourceType", "Parameters"),
    ] {
        let answer = test.post(&test.admin, &operation(&client.id), &body).await;
        let found = answer.refused(400, "invalid");
        assert!(found.contains(text), "{body}: {found}");
        assert_eq!(answer.text_at("/issue/0/expression/0"), expression, "{body}");
        assert!(!answer.text.contains(secret), "{}", answer.text);
    }
    let read = test.get(&test.admin, &client.path()).await.expect(200);
    assert_eq!((read.text_at("/secret"), read.json().get("retiringSecret")), (client.secret.clone(), None));
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let (test, client) = stage().await;
    let send = |content_type: &'static str, body: String| {
        test.fhir(&test.admin, Method::POST, &operation(&client.id)).body(content_type, body).send()
    };
    let json = format!("{{\"secret\": \"{}\"}}", client.secret);
    for (content_type, body, status, code) in [
        ("application/fhir+json", json[..json.len() - 1].to_owned(), 400, "structure"),
        ("application/json", format!("{json} {json}"), 400, "structure"),
        ("application/json", json.replace('{', "{\"secret\": \"a\","), 400, "structure"),
        ("application/json", format!("[{json}]"), 400, "invalid"),
        ("application/json", String::new(), 400, "invalid"),
        ("application/fhir+xml", "<Parameters/>".to_owned(), 415, "not-supported"),
        ("application/x-www-form-urlencoded", format!("secret={}", client.secret), 415, "not-supported"),
        ("text/plain", json.clone(), 415, "not-supported"),
    ] {
        let answer = send(content_type, body.clone()).await;
        answer.refused(status, code);
        assert!(!answer.text.contains(&client.secret), "{content_type}: {}", answer.text);
    }
    send("application/fhir+json; charset=utf-8", json).await.expect(200);
}

#[tokio::test]
async fn unknown_malformed_and_foreign_clients_are_the_same_404() {
    let (test, client) = stage().await;
    let foreign = test.make_client(&test.other_project, "Theirs").await;
    let foreign_gone = test.make_client(&test.other_project, "Theirs, deleted").await;
    test.delete(&test.stranger, &foreign_gone.path()).await.expect(200);
    let mut bodies = Vec::new();
    for (id, secret) in [
        ("0198c2f0-1111-4222-8333-944455566677", &client.secret),
        ("no-uuid", &client.secret),
        (client.id.to_uppercase().as_str(), &client.secret),
        (&foreign.id, &foreign.secret),
        (&foreign_gone.id, &foreign_gone.secret),
    ] {
        let answer = test.rotate(&test.admin, id, "secret", secret).await;
        answer.refused(404, "not-found");
        bodies.push(answer.text);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    assert!(test.lets_in(&foreign.id, &foreign.secret).await);
}

#[tokio::test]
async fn a_super_admin_rotates_in_every_project() {
    let test = TestApp::start().await;
    for client in [&test.member, &test.stranger] {
        let answer = test.rotate(&test.super_admin, &client.id, "secret", &client.secret).await.expect(200);
        assert_eq!(answer.text_at("/meta/author/reference"), test.super_admin.path());
        assert!(test.lets_in(&client.id, &answer.text_at("/secret")).await);
    }
}

#[tokio::test]
async fn a_deleted_client_is_gone() {
    let (test, client) = stage().await;
    test.delete(&test.admin, &client.path()).await.expect(200);
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.refused(410, "deleted");
}

#[tokio::test]
async fn without_good_credentials_the_answer_is_a_challenge() {
    let (test, client) = stage().await;
    for who in [
        As::Anonymous,
        As::Bearer("nonsense".to_owned()),
        As::Basic(test.admin.with("wrong")),
        As::Basic(test.admin.with("")),
    ] {
        let answer = test.rotate(&who, &client.id, "secret", &client.secret).await;
        answer.refused(401, "login");
        let challenges: Vec<&str> =
            answer.headers.get_all("www-authenticate").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(challenges, ["Bearer realm=\"fhir\"", "Basic realm=\"fhir\", charset=\"UTF-8\""]);
    }
}

#[tokio::test]
async fn who_is_no_admin_may_not_even_for_itself() {
    let (test, client) = stage().await;
    for who in [As::from(&client), test.bearer(&client).await, As::from(&test.member)] {
        let answer = test.rotate(&who, &client.id, "secret", &client.secret).await;
        assert!(answer.refused(403, "forbidden").contains("admin"), "{}", answer.text);
    }
    // Writing clients by policy is not being an admin.
    let policy = json!({ "resource": [{ "resourceType": "*" }] });
    test.put_under_policy(&test.member, &policy).await;
    test.rotate(&test.member, &client.id, "secret", &client.secret).await.refused(403, "forbidden");
    // And a policy narrows an admin.
    let policy = json!({ "resource": [{ "resourceType": "*", "readonly": true }] });
    test.put_under_policy(&test.admin, &policy).await;
    test.rotate(&test.admin, &client.id, "secret", &client.secret).await.refused(403, "forbidden");

    let read = test.get(&test.super_admin, &client.path()).await.expect(200);
    assert_eq!((read.text_at("/secret"), read.json().get("retiringSecret")), (client.secret.clone(), None));
}

#[tokio::test]
async fn authority_comes_before_the_body_and_the_body_before_the_client() {
    let test = TestApp::start().await;
    let send = |who: &Credentials, body: &'static str| {
        test.fhir(who, Method::POST, &operation("no-such-client")).body("application/json", body).send()
    };
    send(&test.member, "{ nonsense").await.refused(403, "forbidden");
    send(&test.admin, "{ nonsense").await.refused(400, "structure");
    send(&test.admin, "{}").await.refused(400, "invalid");
    send(&test.admin, "{\"secret\": \"x\"}").await.refused(404, "not-found");
}

#[tokio::test]
async fn if_match_of_another_version_is_412_and_changes_nothing() {
    let (test, client) = stage().await;
    let first = version_of(&test, &client).await;
    let call = |if_match: String, name: &'static str, value: &str| {
        let request = test.fhir(&test.admin, Method::POST, &operation(&client.id));
        request.header("if-match", &if_match).json(&json!({ name: value })).send()
    };
    let new = call(format!("W/\"{first}\""), "secret", &client.secret).await.expect(200).text_at("/secret");

    let stale = call(format!("W/\"{first}\""), "retiringSecret", &client.secret).await;
    stale.refused(412, "conflict");
    call(format!("W/\"{first}\""), "secret", &new).await.refused(412, "conflict");
    assert!(test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);

    let second = version_of(&test, &client).await;
    call(format!("\"{second}\""), "retiringSecret", &client.secret).await.expect(200);
    assert!(!test.lets_in(&client.id, &client.secret).await);
}

#[tokio::test]
async fn only_post_is_allowed() {
    let (test, client) = stage().await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let request = test.fhir(&test.admin, method.clone(), &operation(&client.id));
        let answer = request.json(&json!({ "secret": client.secret })).send().await;
        answer.refused(405, "not-supported");
        assert_eq!(answer.header("allow"), "POST", "{method}");
    }
    assert_eq!(test.get(&test.admin, &client.path()).await.text_at("/secret"), client.secret);
}

#[tokio::test]
async fn the_operation_is_on_one_client_only() {
    let (test, client) = stage().await;
    for path in [
        "$rotate-secret".to_owned(),
        "ClientApplication/$rotate-secret".to_owned(),
        format!("Project/{}/$rotate-secret", test.project),
        format!("ClientApplication/{}/$rotate-secret/more", client.id),
        format!("ClientApplication/{}/$rotate", client.id),
    ] {
        let answer = test.post(&test.admin, &path, &json!({ "secret": client.secret })).await;
        assert_eq!(answer.refused(404, "not-found"), "Not found", "{path}");
    }
}

#[tokio::test]
async fn a_batch_rotates_and_answers_each_entry() {
    let (test, client) = stage().await;
    let another = test.make_client(&test.project, "Another").await;
    let entry = |client: &Credentials, secret: &str| {
        json!({
            "request": { "method": "POST", "url": operation(&client.id) },
            "resource": parameters(&json!([{ "name": "secret", "valueString": secret }])),
        })
    };
    let entries =
        [entry(&client, &client.secret), entry(&another, "wrong"), entry(&another, &another.secret)];
    let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": entries });
    let answer = test.post(&test.admin, "", &bundle).await.expect(200);

    let statuses: Vec<String> =
        (0..3).map(|n| answer.text_at(&format!("/entry/{n}/response/status"))).collect();
    assert_eq!(statuses, ["200", "400", "200"]);
    assert_eq!(
        answer.text_at("/entry/1/response/outcome/issue/0/details/text"),
        "Provided secret does not match client"
    );
    for (n, client) in [(0, &client), (2, &another)] {
        assert_eq!(answer.text_at(&format!("/entry/{n}/resource/retiringSecret")), client.secret);
        assert!(test.lets_in(&client.id, &answer.text_at(&format!("/entry/{n}/resource/secret"))).await);
    }
    let as_member = test.post(&test.member, "", &bundle).await.expect(200);
    assert_eq!(as_member.text_at("/entry/0/response/status"), "403");
}

/// Sends the same call many times at once; gives the answers that succeeded and those that did not.
async fn race(
    test: &TestApp,
    client: &Credentials,
    name: &str,
    callers: usize,
) -> (Vec<Answer>, Vec<Answer>) {
    let who = test.bearer(&test.admin).await;
    let calls = (0..callers).map(|_| test.rotate(&who, &client.id, name, &client.secret));
    join_all(calls).await.into_iter().partition(|answer| answer.status == StatusCode::OK)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_rotations_with_one_secret_exactly_one_wins() {
    let (test, client) = stage().await;
    let (won, lost) = race(&test, &client, "secret", 64).await;
    assert_eq!((won.len(), lost.len()), (1, 63));
    for answer in &lost {
        assert_eq!(answer.refused(400, "invalid"), "Provided secret does not match client");
    }
    let (new, old) = (won[0].text_at("/secret"), won[0].text_at("/retiringSecret"));
    assert_eq!(old, client.secret);
    assert!(test.lets_in(&client.id, &new).await);
    assert!(test.lets_in(&client.id, &old).await);
    let read = test.get(&test.admin, &client.path()).await;
    assert_eq!((read.text_at("/secret"), read.text_at("/retiringSecret")), (new, old));
    let history = test.get(&test.admin, &format!("{}/_history", client.path())).await;
    assert_eq!(history.json()["total"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_retirements_exactly_one_wins() {
    let (test, client) = stage().await;
    let new = rotated(&test, &client).await;
    let (won, lost) = race(&test, &client, "retiringSecret", 16).await;
    assert_eq!((won.len(), lost.len()), (1, 15));
    for answer in &lost {
        assert_eq!(answer.refused(400, "invalid"), "Provided secret does not match client");
    }
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rotation_among_other_changes_loses_neither() {
    let (test, client) = stage().await;
    let who = test.bearer(&test.admin).await;
    let names = (0..8).map(|n| {
        let operations =
            json!([{ "op": "add", "path": "/redirectUris", "value": [format!("https://{n}.example.test")] }]);
        let (test, path, who) = (&test, client.path(), who.clone());
        async move { test.patch(&who, &path, &operations).await.expect(200) }
    });
    let (patched, rotated) =
        tokio::join!(join_all(names), test.rotate(&who, &client.id, "secret", &client.secret));
    let new = rotated.expect(200).text_at("/secret");
    assert!(test.lets_in(&client.id, &new).await);
    let history = test.get(&test.admin, &format!("{}/_history", client.path())).await;
    assert_eq!(history.json()["total"], patched.len() + 2);
    let read = test.get(&test.admin, &client.path()).await;
    assert!(read.text_at("/redirectUris/0").ends_with(".example.test"));
}

#[tokio::test]
async fn no_preference_hides_the_new_secret() {
    let (test, client) = stage().await;
    let mut secret = client.secret.clone();
    for prefer in ["return=minimal", "return=OperationOutcome", "respond-async"] {
        let request = test.fhir(&test.admin, Method::POST, &operation(&client.id)).header("prefer", prefer);
        let answer = request.json(&json!({ "secret": secret })).send().await.expect(200);
        assert_eq!(answer.text_at("/retiringSecret"), secret, "{prefer}");
        secret = answer.text_at("/secret");
    }
    assert!(test.lets_in(&client.id, &secret).await);
}

#[tokio::test]
async fn a_project_that_shows_secrets_once_shows_each_once() {
    let test = TestApp::start().await;
    let before = test.make_client(&test.project, "From before").await;
    test.set(&test.project, "secretVisibility", "once").await;
    let client = test.make_client(&test.project, "Nightly export").await;
    assert!(test.lets_in(&before.id, &before.secret).await);

    let rotated = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let new = rotated.text_at("/secret");
    assert_eq!(rotated.json().get("retiringSecret"), None);
    assert!(test.lets_in(&client.id, &new).await);
    assert!(test.lets_in(&client.id, &client.secret).await);

    let retired = test.rotate(&test.admin, &client.id, "retiringSecret", &client.secret).await.expect(200);
    assert_eq!(retired.json().get("secret"), None);
    assert!(!test.lets_in(&client.id, &client.secret).await);
    assert!(test.lets_in(&client.id, &new).await);

    // Nothing that was hidden comes back with the setting.
    test.set(&test.project, "secretVisibility", "recoverable").await;
    for client in [&before, &client] {
        let read = test.get(&test.super_admin, &client.path()).await.expect(200);
        assert_eq!(read.json().get("secret"), None);
    }
    let rotated = test.rotate(&test.admin, &client.id, "secret", &new).await.expect(200);
    let read = test.get(&test.admin, &client.path()).await;
    assert_eq!(read.text_at("/secret"), rotated.text_at("/secret"));
}

/// What is told of wrong input names what was wrong, which may be a secret in the wrong place.
#[tokio::test]
async fn no_error_repeats_a_secret_that_was_sent_as_a_name() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let (path, value) = (client.path(), &client.secret);
    let admin = &test.admin;
    let twice = format!("{{\"{value}\": 1, \"{value}\": 2}}");
    let rotate = format!("{path}/$rotate-secret");
    let mut named = json!({ "resourceType": "ClientApplication", "id": client.id, "name": "x" });
    named[value] = json!(1);
    let origin = json!({ "resourceType": "ClientApplication", "id": client.id, "allowedOrigin": [value] });
    for request in [
        test.fhir(admin, Method::POST, &rotate).body("application/json", twice),
        test.fhir(admin, Method::GET, &format!("ClientApplication?{value}=x")),
        test.fhir(admin, Method::GET, &format!("ClientApplication?name:{value}=x")),
        test.fhir(admin, Method::PUT, &path).json(&named),
        test.fhir(admin, Method::PUT, &path).json(&origin),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains("krs_…") && !answer.text.contains(value.as_str()), "{}", answer.text);
    }
    let form = [("grant_type", "client_credentials"), (value.as_str(), "1"), (value.as_str(), "2")];
    let answer = test.request(As::Anonymous, Method::POST, "oauth2/token").form(&form).send().await;
    assert!(!answer.text.contains(value.as_str()), "{}", answer.text);
}
