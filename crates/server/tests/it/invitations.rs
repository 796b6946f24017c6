//! Invitations again: a link that lapsed or was lost is replaced, and an admin resets what a person has
//! lost, without a second membership.

use keyrelay_core::limits::SET_PASSWORD_LIFETIME;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{PASSWORD, ann, invite, log_in, make_ann, path_of, submit, token};

const OTHER_PASSWORD: &str = "four other plain words";

fn again(name: &str, value: Value) -> Value {
    let mut body = ann();
    body[name] = value;
    body
}

fn link_of(answer: &Answer) -> String {
    path_of(&answer.text_at("/extension/0/valueUrl")).to_owned()
}

async fn open(test: &TestApp, path: &str) -> u16 {
    test.request(As::Anonymous, Method::GET, path).send().await.status.as_u16()
}

async fn set(test: &TestApp, path: &str, password: &str) {
    submit(test, path, "", &[("password", password), ("again", password)]).await.expect(200);
}

#[tokio::test]
async fn a_link_is_over_when_it_is_too_old_or_replaced() {
    let test = TestApp::start().await;
    let first = invite(&test, &ann()).await.expect(200);
    test.clock.advance(SET_PASSWORD_LIFETIME);
    assert_eq!(open(&test, &link_of(&first)).await, 404);
    for wrong in ["x", "krp_", "krp_AAAA", "%00", "krp_%ff"] {
        assert_eq!(open(&test, &format!("auth/setpassword/{wrong}")).await, 404);
    }
    let second = invite(&test, &ann()).await.expect(200);
    assert_eq!(open(&test, &link_of(&first)).await, 404);
    assert_eq!(open(&test, &link_of(&second)).await, 200);
    let third = invite(&test, &ann()).await.expect(200);
    assert_eq!(open(&test, &link_of(&second)).await, 404);
    set(&test, &link_of(&third), PASSWORD).await;
    log_in(&test, PASSWORD).await.expect(200);

    // It is the same member all along.
    let told = |answer: &Answer| {
        let mut body = answer.json();
        body.as_object_mut().unwrap().remove("extension");
        body
    };
    assert_eq!((told(&second), told(&third)), (told(&first), told(&first)));
    for kind in ["User", "Practitioner"] {
        assert_eq!(test.get(&test.admin, kind).await.expect(200).resources().len(), 1, "{kind}");
    }
}

#[tokio::test]
async fn an_invitation_that_was_not_taken_yet_may_come_with_a_password() {
    let test = TestApp::start().await;
    let first = invite(&test, &ann()).await.expect(200);
    let second = invite(&test, &again("password", json!(PASSWORD))).await.expect(200);
    assert_eq!(second.text_at("/id"), first.text_at("/id"));
    assert_eq!(open(&test, &link_of(&first)).await, 404);
    log_in(&test, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn an_admin_resets_password_and_second_factor_by_a_link() {
    let test = TestApp::start().await;
    let membership = make_ann(&test, false).await;
    let bearer = token(&test).await;
    Authenticator::enrol(&test, &bearer).await;
    let said = invite(&test, &ann()).await.refused(409, "conflict");
    assert!(said.contains("upsert"), "{said}");
    invite(&test, &again("upsert", json!("yes"))).await.refused(400, "invalid");

    let answer = invite(&test, &again("upsert", json!(true))).await.expect(200);
    assert_eq!(answer.json()["id"], membership["id"]);
    // Until the link is used, nothing has changed.
    assert_eq!(log_in(&test, PASSWORD).await.expect(200).json()["mfaRequired"], true);
    test.get(&bearer, "Practitioner").await.expect(200);
    set(&test, &link_of(&answer), OTHER_PASSWORD).await;
    test.get(&bearer, "Practitioner").await.refused(401, "login");
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    log_in(&test, OTHER_PASSWORD).await.expect(200).text_at("/code");
}

#[tokio::test]
async fn an_invitation_changes_no_membership() {
    let test = TestApp::start().await;
    invite(&test, &ann()).await.expect(200);
    let policy = json!({ "resourceType": "AccessPolicy", "name": "Any" });
    let policy = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    let reference = json!({ "reference": format!("AccessPolicy/{policy}") });
    for (name, value) in [("admin", json!(true)), ("accessPolicy", reference.clone())] {
        let said = invite(&test, &again(name, value)).await.refused(409, "conflict");
        assert!(said.contains("ProjectMembership"), "{said}");
    }
    invite(&test, &again("admin", json!(false))).await.expect(200);
}

async fn make_policy(test: &TestApp) -> Value {
    let policy =
        json!({ "resourceType": "AccessPolicy", "name": "Any", "resource": [{ "resourceType": "*" }] });
    let id = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    json!({ "reference": format!("AccessPolicy/{id}") })
}

#[tokio::test]
async fn every_member_of_an_invitation_is_honoured() {
    let test = TestApp::start().await;
    let policy = make_policy(&test).await;
    let project = json!({ "reference": format!("Project/{}", test.project) });
    let with = json!({
        "resourceType": "ProjectMembership",
        "project": project,
        "admin": true,
        "active": false,
        "access": [{ "policy": policy }],
        "userName": "doe",
        "externalId": "e-1",
        "identifier": [{ "system": "urn:example", "value": "7" }],
    });
    let mut body = again("membership", with.clone());
    body["password"] = json!(PASSWORD);
    body["externalId"] = json!("u-1");
    let made = invite(&test, &body).await.expect(200).json();
    assert_eq!(made["accessPolicy"], policy);
    for name in ["admin", "active", "userName", "externalId", "identifier"] {
        assert_eq!(made[name], with[name], "{name}");
    }
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    let path = format!("ProjectMembership/{}", made["id"].as_str().unwrap());
    let on = json!([{ "op": "replace", "path": "/active", "value": true }]);
    test.patch(&test.admin, &path, &on).await.expect(200);
    log_in(&test, PASSWORD).await.expect(200);
    let user = test.get(&test.admin, made["user"]["reference"].as_str().unwrap()).await.expect(200);
    assert_eq!(user.text_at("/externalId"), "u-1");
    // A member may be invited again with the same values, and with no others.
    let again = |name: &str, value: Value| {
        let mut body = ann();
        body["upsert"] = json!(true);
        body[name] = value;
        body
    };
    invite(&test, &again("membership", json!({ "admin": true, "access": [{ "policy": policy }] })))
        .await
        .expect(200);
    let other = make_policy(&test).await;
    for (name, value, at) in [
        ("membership", json!({ "active": false }), "membership.active"),
        ("membership", json!({ "admin": false }), "membership.admin"),
        ("membership", json!({ "access": [{ "policy": other }] }), "membership.accessPolicy"),
        ("membership", json!({ "externalId": "e-2" }), "membership.externalId"),
        ("firstName", json!("Anna"), "firstName"),
        ("externalId", json!("u-2"), "externalId"),
    ] {
        let answer = invite(&test, &again(name, value)).await;
        answer.refused(409, "conflict");
        assert_eq!(answer.text_at("/issue/0/expression/0"), at);
    }
}

#[tokio::test]
async fn an_unknown_member_of_an_invitation_is_refused_by_name() {
    let test = TestApp::start().await;
    let policy = make_policy(&test).await;
    let two = json!([{ "policy": policy }, { "policy": policy }]);
    let parameter = json!([{ "policy": policy, "parameter": [{ "name": "x", "valueString": "y" }] }]);
    for (name, value, at) in [
        ("mfaRequired", json!(true), "mfaRequired"),
        ("forceNewMembership", json!(true), "forceNewMembership"),
        ("sendEmail", json!(true), "sendEmail"),
        ("sendEmail", json!("no"), "sendEmail"),
        ("admin", json!("yes"), "admin"),
        ("accessPolicy", json!("AccessPolicy/x"), "accessPolicy"),
        (
            "accessPolicy",
            json!({ "reference": policy["reference"], "identifier": {} }),
            "accessPolicy.identifier",
        ),
        ("membership", json!("admin"), "membership"),
        ("membership", json!([]), "membership"),
        ("membership", json!({ "admin": "yes" }), "membership.admin"),
        ("membership", json!({ "active": 0 }), "membership.active"),
        ("membership", json!({ "invitedBy": { "reference": "User/x" } }), "membership.invitedBy"),
        ("membership", json!({ "profile": { "reference": "Practitioner/x" } }), "membership.profile"),
        ("membership", json!({ "project": { "reference": "Project/x" } }), "membership.project"),
        ("membership", json!({ "resourceType": "User" }), "membership.resourceType"),
        ("membership", json!({ "access": policy }), "membership.access"),
        ("membership", json!({ "access": [] }), "membership.access"),
        ("membership", json!({ "access": two }), "membership.access"),
        ("membership", json!({ "access": parameter }), "membership.access.parameter"),
        ("membership", json!({ "access": [{ "policy": policy, "x": 1 }] }), "membership.access.x"),
        ("membership", json!({ "access": [{}] }), "membership.access.policy"),
        ("membership", json!({ "userName": 7 }), "ProjectMembership.userName"),
        ("membership", json!({ "x\u{202e}y": 7 }), "membership.x\\u{202e}y"),
    ] {
        let answer = invite(&test, &again(name, value.clone())).await;
        assert_eq!(answer.status, 400, "{name} {value}: {}", answer.text);
        assert_eq!(answer.text_at("/issue/0/expression/0"), at, "{value}");
    }
    let mut twice = again("admin", json!(true));
    twice["membership"] = json!({ "admin": false });
    assert_eq!(invite(&test, &twice).await.expect(400).text_at("/issue/0/expression/0"), "membership.admin");
    for kind in ["User", "Practitioner"] {
        assert!(test.get(&test.admin, kind).await.expect(200).resources().is_empty(), "{kind}");
    }
    // The other bodies that an admin sends.
    for route in ["client", "registration", "webhooks"] {
        let path = format!("admin/projects/{}/{route}", test.project);
        let body = json!({ "name": "Export", "url": "https://example.test/", "surplus": 1 });
        let body = match route {
            "client" => json!({ "name": "Export", "surplus": 1 }),
            "webhooks" => json!({ "url": body["url"], "surplus": 1 }),
            _ => json!({ "surplus": 1 }),
        };
        let answer = test.request(&test.admin, Method::POST, &path).json(&body).send().await;
        let told = answer.refused(400, "invalid");
        assert!(told.contains("`surplus`"), "{told}");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "surplus");
    }
}

/// What an admin may not do to an account by hand it may not do by a link.
#[tokio::test]
async fn who_may_not_change_the_account_renews_no_link() {
    let test = TestApp::start().await;
    invite(&test, &ann()).await.expect(200);
    let rules = json!({ "resource": [
        { "resourceType": "*", "interaction": ["create", "read", "search"] },
    ] });
    test.put_under_policy(&test.admin, &rules).await;
    invite(&test, &ann()).await.refused(403, "forbidden");
    invite(&test, &again("upsert", json!(true))).await.refused(403, "forbidden");
}
