//! A profile belongs to one user of a project, and records name user, membership, login and client beside it, so that
//! no person acts under the name of another.

use futures_util::future::join_all;
use keyrelay_core::caller::Profile;
use keyrelay_core::id::{MembershipId, ProjectId, UserId};
use keyrelay_store::{Change, MembershipRow};
use serde_json::{Value, json};

use crate::app::{As, TestApp};
use crate::jwt;
use crate::people::{REDIRECT, VERIFIER, browse, make_ann, make_app, redeem_for};

async fn make_user(test: &TestApp, name: &str) -> String {
    let body = json!({
        "resourceType": "User",
        "firstName": name,
        "lastName": "Roe",
        "email": format!("{name}@example.test"),
        "project": { "reference": format!("Project/{}", test.project) },
    });
    test.post(&test.admin, "User", &body).await.expect(201).text_at("/id")
}

async fn make_practitioner(test: &TestApp) -> String {
    let body = json!({ "resourceType": "Practitioner", "name": [{ "family": "Roe" }] });
    format!("Practitioner/{}", test.post(&test.admin, "Practitioner", &body).await.expect(201).text_at("/id"))
}

fn membership(test: &TestApp, user: &str, profile: &str) -> Value {
    json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": format!("Project/{}", test.project) },
        "user": { "reference": format!("User/{user}") },
        "profile": { "reference": profile },
    })
}

fn path_of(resource: &Value) -> String {
    format!("ProjectMembership/{}", resource["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_profile_of_another_user_is_refused_on_every_way_of_writing() {
    let test = TestApp::start().await;
    let ann = make_ann(&test, true).await;
    let profile = ann["profile"]["reference"].as_str().unwrap();
    let bob = make_user(&test, "bob").await;
    let own = make_practitioner(&test).await;
    let bobs = test.post(&test.admin, "ProjectMembership", &membership(&test, &bob, &own)).await.expect(201);
    let bobs = bobs.json();
    let eve = make_user(&test, "eve").await;
    let mut taken = bobs.clone();
    taken["profile"] = json!({ "reference": profile });
    let new = membership(&test, &eve, profile);
    let patch = json!([{ "op": "replace", "path": "/profile/reference", "value": profile }]);
    let entry = json!({ "request": { "method": "POST", "url": "ProjectMembership" }, "resource": new });
    let bundle = |kind: &str| json!({ "resourceType": "Bundle", "type": kind, "entry": [entry] });
    for answer in [
        test.post(&test.admin, "ProjectMembership", &new).await,
        test.put(&test.admin, &path_of(&bobs), &taken).await,
        test.patch(&test.admin, &path_of(&bobs), &patch).await,
        test.post(&test.admin, "", &bundle("transaction")).await,
    ] {
        let told = answer.refused(409, "conflict");
        assert!(told.contains("another user of the project has this profile"), "{told}");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ProjectMembership.profile");
    }
    let batch = test.post(&test.admin, "", &bundle("batch")).await.expect(200);
    assert_eq!(batch.text_at("/entry/0/response/status"), "409");
    // Both at once, in one transaction: neither comes first.
    let free = make_practitioner(&test).await;
    let entries: Vec<Value> = [&eve, &make_user(&test, "joe").await]
        .iter()
        .map(|user| {
            let resource = membership(&test, user, &free);
            json!({ "request": { "method": "POST", "url": "ProjectMembership" }, "resource": resource })
        })
        .collect();
    let both = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
    test.post(&test.admin, "", &both).await.refused(409, "conflict");
    // Its owner can change the membership, and a free profile can be taken.
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    test.patch(&test.admin, &path_of(&ann), &off).await.expect(200);
    test.post(&test.admin, "ProjectMembership", &membership(&test, &eve, &free)).await.expect(201);
    // A profile that is given up in the same transaction is free.
    let swap = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [
        { "request": { "method": "POST", "url": "ProjectMembership" },
          "resource": membership(&test, &make_user(&test, "kim").await, &own) },
        { "request": { "method": "DELETE", "url": path_of(&bobs) } },
    ] });
    test.post(&test.admin, "", &swap).await.expect(200);
}

#[tokio::test]
async fn one_of_many_concurrent_users_gets_a_profile() {
    let test = TestApp::start().await;
    let profile = make_practitioner(&test).await;
    let mut bodies = Vec::new();
    for name in ["ada", "bea", "cem", "dan", "eve", "fay"] {
        bodies.push(membership(&test, &make_user(&test, name).await, &profile));
    }
    let answers = join_all(bodies.iter().map(|body| test.post(&test.admin, "ProjectMembership", body))).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!(
        (made, refused),
        (1, 5),
        "{:?}",
        answers.iter().map(|answer| answer.status).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_profile_shared_before_stays_and_takes_no_third_user() {
    let test = TestApp::start().await;
    let ann = make_ann(&test, true).await;
    let profile = ann["profile"]["reference"].as_str().unwrap();
    let bob = make_user(&test, "bob").await;
    let own = make_practitioner(&test).await;
    let bobs =
        test.post(&test.admin, "ProjectMembership", &membership(&test, &bob, &own)).await.expect(201).json();
    // As an earlier version of the server would have written it.
    let mut change = Change::new();
    change.change_membership(&MembershipRow {
        id: MembershipId::parse(bobs["id"].as_str().unwrap()).unwrap(),
        project: ProjectId::parse(&test.project).unwrap(),
        client: None,
        user: Some(UserId::parse(&bob).unwrap()),
        profile: Some(Profile::parse(profile).unwrap()),
        active: true,
        admin: false,
        policy: None,
    });
    test.store().await.commit(change).await.unwrap();
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    test.patch(&test.admin, &path_of(&ann), &off).await.expect(200);
    let eve = make_user(&test, "eve").await;
    test.post(&test.admin, "ProjectMembership", &membership(&test, &eve, profile))
        .await
        .refused(409, "conflict");
}

fn beside(reference: &Value) -> Vec<(&str, &str)> {
    let found = reference["extension"].as_array().unwrap().iter().map(|extension| {
        let value =
            extension["valueString"].as_str().or_else(|| extension["valueReference"]["reference"].as_str());
        (extension["url"].as_str().unwrap(), value.unwrap())
    });
    found.collect()
}

#[tokio::test]
async fn records_name_user_membership_login_and_client_beside_the_profile() {
    let test = TestApp::start().await;
    let ann = make_ann(&test, true).await;
    let app = make_app(&test).await;
    let code = browse(&test, &app, "&scope=openid%20user/*.*").await;
    let answer = redeem_for(&test, &app, &code, VERIFIER, REDIRECT).await.expect(200);
    let token = answer.text_at("/access_token");
    let session = jwt::claims(&token)["login_id"].as_str().unwrap().to_owned();
    let bearer = As::Bearer(token);
    test.rotate(&bearer, &test.member.id, "secret", &test.member.secret).await.expect(200);
    let path = format!("AuditEvent?entity={}&subtype=rotate-secret", test.member.path());
    let found = test.get(&test.admin, &path).await.expect(200).resources();
    let who = &found[0]["agent"][0]["who"];
    let (membership, client) = (path_of(&ann), format!("ClientApplication/{app}"));
    let expected = [
        ("urn:keyrelay:membership", membership.as_str()),
        ("urn:keyrelay:user", ann["user"]["reference"].as_str().unwrap()),
        ("urn:keyrelay:session", session.as_str()),
        ("urn:keyrelay:client", client.as_str()),
    ];
    assert_eq!((&who["reference"], beside(who)), (&ann["profile"]["reference"], expected.to_vec()));
    let read =
        test.fhir(&test.admin, reqwest::Method::GET, &test.member.path()).header("x-medplum", "extended");
    let author = read.send().await.expect(200).json()["meta"]["author"].clone();
    assert_eq!((&author["reference"], beside(&author)), (&ann["profile"]["reference"], expected.to_vec()));
    // A client in its own name has no login.
    test.patch(&test.admin, &test.member.path(), &json!([{ "op": "add", "path": "/name", "value": "New" }]))
        .await
        .expect(200);
    let read =
        test.fhir(&test.admin, reqwest::Method::GET, &test.member.path()).header("x-medplum", "extended");
    let author = read.send().await.expect(200).json()["meta"]["author"].clone();
    let names: Vec<&str> = beside(&author).into_iter().map(|(url, _)| url).collect();
    assert_eq!(names, ["urn:keyrelay:membership", "urn:keyrelay:client"]);
}

#[tokio::test]
async fn a_membership_names_its_author_as_the_inviter_or_nobody() {
    let test = TestApp::start().await;
    let ann = make_ann(&test, true).await;
    let anns = ann["user"]["reference"].as_str().unwrap().to_owned();
    let itself = test.admin.path();
    let mut names = 0..;
    let mut new = async |inviter: Value| {
        let user = make_user(&test, &format!("user{}", names.next().unwrap())).await;
        let mut body = membership(&test, &user, &make_practitioner(&test).await);
        body["invitedBy"] = inviter;
        body
    };
    let other = json!({ "reference": anns });
    let made = test.post(&test.admin, "ProjectMembership", &new(json!({ "reference": itself })).await).await;
    let made = made.expect(201).json();
    let mut changed = made.clone();
    changed["invitedBy"] = other.clone();
    let patch = json!([{ "op": "replace", "path": "/invitedBy", "value": other }]);
    let entry = json!({ "request": { "method": "POST", "url": "ProjectMembership" }, "resource": new(other.clone()).await });
    let transaction = json!({ "resourceType": "Bundle", "type": "transaction", "entry": [entry] });
    for answer in [
        test.post(&test.admin, "ProjectMembership", &new(other).await).await,
        test.post(&test.admin, "ProjectMembership", &new(json!({ "display": "Ann" })).await).await,
        test.post(
            &test.admin,
            "ProjectMembership",
            &new(json!({ "reference": itself, "display": "Ann" })).await,
        )
        .await,
        test.put(&test.admin, &path_of(&made), &changed).await,
        test.patch(&test.admin, &path_of(&made), &patch).await,
        test.post(&test.admin, "", &transaction).await,
    ] {
        let told = answer.refused(400, "invalid");
        assert!(told.contains(&itself), "{told}");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ProjectMembership.invitedBy");
    }
    // Another admin can change the membership with its `invitedBy`, and is the author of its own creates.
    let app = make_app(&test).await;
    let code = browse(&test, &app, "&scope=openid%20user/*.*").await;
    let token = redeem_for(&test, &app, &code, VERIFIER, REDIRECT).await.expect(200).text_at("/access_token");
    let bearer = As::Bearer(token);
    let mut changed = made.clone();
    changed["admin"] = json!(true);
    test.put(&bearer, &path_of(&made), &changed).await.expect(200);
    test.post(&bearer, "ProjectMembership", &new(json!({ "reference": anns })).await).await.expect(201);
}
