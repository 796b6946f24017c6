//! `rotate-own-secret`: a client application that a policy lets rotate its own secret, and may do nothing more.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const RULE: &str = r#"{"resourceType": "ClientApplication", "interaction": ["rotate-own-secret"]}"#;

fn rule() -> Value {
    serde_json::from_str(RULE).unwrap()
}

/// A client under a policy with these rules.
async fn under(test: &TestApp, rules: &Value) -> Credentials {
    let client = test.make_client(&test.project, "Nightly export").await;
    test.put_under_policy(&client, &json!({ "name": "Its own", "resource": rules })).await;
    client
}

async fn status_of(test: &TestApp, who: impl Into<As>, client: &Credentials) -> Answer {
    test.get(who, &format!("{}/$secret-status", client.path())).await
}

async fn rotate(test: &TestApp, who: impl Into<As>, client: &Credentials) -> Answer {
    test.rotate(who, &client.id, "secret", &client.secret).await
}

#[tokio::test]
async fn a_client_rotates_its_own_secret_and_is_told_no_more_than_that() {
    for visibility in ["recoverable", "once"] {
        let test = TestApp::start().await;
        test.set(&test.project, "secretVisibility", visibility).await;
        let old = under(&test, &json!([rule()])).await;
        let asked = async |key: &str| {
            let request = test.fhir(&old, Method::POST, &format!("{}/$rotate-secret", old.path()));
            request.header("idempotency-key", key).json(&json!({ "secret": old.secret })).send().await
        };
        let rotated = asked("1").await.expect(200);
        let new = old.with(&rotated.text_at("/secret"));
        let mut names: Vec<_> = rotated.json().as_object().unwrap().keys().cloned().collect();
        names.sort();
        assert_eq!(names, ["id", "meta", "resourceType", "secret"]);
        assert!(asked("1").await.text == rotated.text, "another answer");
        for client in [&old, &new] {
            status_of(&test, client, client).await.expect(200);
        }
        // Who has the old secret only must not get the new one for it.
        let retired = test.rotate(&old, &old.id, "retiringSecret", &old.secret).await.expect(200);
        assert!(!retired.text.contains(&new.secret) && retired.json()["secret"].is_null());
        assert!(!test.lets_in(&old.id, &old.secret).await);
        let path = format!("AuditEvent?entity={}&subtype=rotate-secret", old.path());
        let events = test.get(&test.admin, &path).await.expect(200).resources();
        assert_eq!(events[0]["agent"][0]["who"]["reference"], old.path());
    }
}

/// Who is no admin is none in the project of Super Admins either.
#[tokio::test]
async fn in_the_project_of_super_admins_it_is_as_anywhere() {
    let test = TestApp::start().await;
    let of_super_admin = test.membership_of(&test.super_admin).await;
    let project = of_super_admin["project"]["reference"].as_str().unwrap().trim_start_matches("Project/");
    let client = test.make_client(project, "Nightly export").await;
    test.put_under_policy(&client, &json!({ "name": "Its own", "resource": [rule()] })).await;
    let token = test.bearer(&client).await;
    rotate(&test, token, &client).await.expect(200);
}

#[tokio::test]
async fn nothing_else_says_that_a_client_may() {
    let test = TestApp::start().await;
    let every = json!(["create", "read", "update", "delete", "search", "history", "vread"]);
    for rules in [
        json!([{ "resourceType": "Project" }]),
        json!([{ "resourceType": "*" }]),
        json!([{ "resourceType": "ClientApplication" }]),
        json!([{ "resourceType": "ClientApplication", "interaction": every }]),
        json!([{ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"], "readonly": true }]),
        json!([{ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"],
                 "criteria": "ClientApplication?name=Another" }]),
    ] {
        let client = under(&test, &rules).await;
        let refused = rotate(&test, &client, &client).await;
        assert!(matches!(refused.status.as_u16(), 403 | 404), "{rules}: {}", refused.text);
        let refused = status_of(&test, &client, &client).await;
        assert!(matches!(refused.status.as_u16(), 403 | 404), "{rules}: {}", refused.text);
        assert_eq!(test.get(&test.admin, &client.path()).await.text_at("/secret"), client.secret);
    }
    rotate(&test, &test.member, &test.member).await.refused(403, "forbidden");
    let named = json!([{ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"],
                         "criteria": "ClientApplication?name=Nightly export" }]);
    let client = under(&test, &named).await;
    rotate(&test, &client, &client).await.expect(200);
    for resource_type in ["*", "Project"] {
        let rule = json!({ "resourceType": resource_type, "interaction": ["rotate-own-secret"] });
        let policy = json!({ "resourceType": "AccessPolicy", "resource": [rule] });
        let told = test.post(&test.admin, "AccessPolicy", &policy).await.refused(400, "not-supported");
        assert!(told.contains("needs a rule about ClientApplication"), "{told}");
    }
}

#[tokio::test]
async fn it_may_do_nothing_else_and_nothing_to_others() {
    let test = TestApp::start().await;
    let client = under(&test, &json!([rule()])).await;
    let other = under(&test, &json!([rule()])).await;
    for victim in [&other, &test.member, &test.admin, &test.stranger] {
        rotate(&test, &client, victim).await.refused(403, "forbidden");
        status_of(&test, &client, victim).await.refused(403, "forbidden");
    }
    test.rotate(&client, &client.id, "secret", &client.secret).await.expect(200);
    let path = client.path();
    let secret = test.get(&test.admin, &path).await.text_at("/secret");
    let body = json!({ "resourceType": "ClientApplication", "id": client.id, "name": "Changed" });
    for (method, path, body) in [
        (Method::POST, format!("{path}/$undo-rotation"), json!({})),
        (Method::POST, format!("{path}/$revoke-secret"), json!({ "slot": "retiringSecret" })),
        (Method::POST, format!("{path}/$rotate-secret"), json!({ "secret": secret, "force": true })),
        (Method::PUT, path.clone(), body.clone()),
        (Method::POST, "ClientApplication".to_owned(), body),
    ] {
        let answer = test.fhir(&client, method, &path).json(&body).send().await;
        answer.refused(403, "forbidden");
    }
    test.patch(&client, &path, &json!([])).await.refused(403, "forbidden");
    test.delete(&client, &path).await.refused(403, "forbidden");
    test.get(&client, &path).await.refused(403, "forbidden");
    test.get(&client, "ClientApplication").await.refused(403, "forbidden");
    test.get(&client, "Project").await.refused(403, "forbidden");
    let found = test.get(&test.admin, &path).await.expect(200);
    assert_eq!((found.text_at("/secret"), found.text_at("/name")), (secret, "Nightly export".to_owned()));
}

#[tokio::test]
async fn a_token_that_is_limited_or_a_membership_that_is_off_does_not_do() {
    let test = TestApp::start().await;
    let client = under(&test, &json!([rule(), { "resourceType": "Practitioner" }])).await;
    let form = [("grant_type", "client_credentials"), ("scope", "system/Practitioner.rs")];
    let limited = As::Bearer(test.token(&client, &form).await.expect(200).text_at("/access_token"));
    rotate(&test, &limited, &client).await.refused(403, "forbidden");
    status_of(&test, &limited, &client).await.refused(403, "forbidden");
    let token = test.bearer(&client).await;
    let active = async |active: bool| {
        let patch = json!([{ "op": "add", "path": "/active", "value": active }]);
        test.patch_membership(&client, &patch).await;
    };
    active(false).await;
    for who in [As::from(&client), token.clone()] {
        rotate(&test, &who, &client).await.refused(401, "login");
        status_of(&test, &who, &client).await.refused(401, "login");
    }
    active(true).await;
    // The policy of this moment decides, also for a token from before.
    let nothing = json!([{ "op": "remove", "path": "/accessPolicy" }]);
    test.patch_membership(&client, &nothing).await;
    rotate(&test, &token, &client).await.refused(403, "forbidden");
    test.put_under_policy(&client, &json!({ "resource": [rule()] })).await;
    rotate(&test, &token, &client).await.expect(200);
}

#[tokio::test]
async fn an_admin_that_may_not_change_itself_may_do_no_more_than_that() {
    let test = TestApp::start().await;
    let others = json!({ "resourceType": "ClientApplication", "criteria": "ClientApplication?name=Reader" });
    let client = under(&test, &json!([rule(), others])).await;
    test.make_admin(&client).await;
    let other = test.rotate(&client, &test.member.id, "secret", &test.member.secret).await.expect(200);
    assert_eq!(other.text_at("/name"), "Reader");
    let own = rotate(&test, &client, &client).await.expect(200);
    assert_eq!(own.json()["name"], Value::Null);
    for (operation, body) in [("$undo-rotation", json!({})), ("$revoke-secret", json!({ "slot": "secret" }))]
    {
        let path = format!("{}/{operation}", client.path());
        test.post(&client, &path, &body).await.refused(404, "not-found");
    }
    assert!(test.grant(&client.id, &own.text_at("/secret")).await.status.is_success());
}
