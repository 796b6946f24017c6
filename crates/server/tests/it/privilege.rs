//! Attempts to become more than one is: by role, by project, by what decides about both.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Credentials, TestApp};

const ROLES: [&str; 3] = ["member", "project-admin", "super-admin"];

async fn role(test: &TestApp, who: &Credentials) -> String {
    test.request(who, Method::GET, "auth/me").send().await.expect(200).text_at("/role")
}

fn set(element: &str, value: &Value) -> Value {
    json!([{ "op": "add", "path": format!("/{element}"), "value": value }])
}

fn membership_of(client: &str, project: &str) -> Value {
    let profile = json!({ "reference": format!("ClientApplication/{client}") });
    json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": format!("Project/{project}") },
        "user": profile,
        "profile": profile,
        "admin": true,
    })
}

async fn bare_client(test: &TestApp, who: &Credentials) -> String {
    let body = json!({ "resourceType": "ClientApplication", "name": "New" });
    test.post(who, "ClientApplication", &body).await.expect(201).text_at("/id")
}

#[tokio::test]
async fn a_member_does_not_make_itself_more_not_even_under_a_generous_policy() {
    let test = TestApp::start().await;
    for policy in [None, Some(json!({ "resource": [{ "resourceType": "*" }] }))] {
        if let Some(policy) = &policy {
            test.put_under_policy(&test.member, policy).await;
        }
        let membership = test.membership_of(&test.member).await;
        let path = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
        let mut admin = membership.clone();
        admin["admin"] = json!(true);
        let all = json!({ "resourceType": "AccessPolicy", "resource": [{ "resourceType": "*" }] });
        let project = format!("Project/{}", test.project);
        let another = bare_client(&test, &test.admin).await;
        for answer in [
            test.put(&test.member, &path, &admin).await,
            test.patch(&test.member, &path, &set("admin", &json!(true))).await,
            test.delete(&test.member, &path).await,
            test.post(&test.member, "ProjectMembership", &membership_of(&another, &test.project)).await,
            test.post(&test.member, "AccessPolicy", &all).await,
            test.patch(&test.member, &project, &set("superAdmin", &json!(true))).await,
            test.patch(&test.member, &project, &set("name", &json!("Mine"))).await,
            test.delete(&test.member, &project).await,
            test.post(&test.member, "Project", &json!({ "resourceType": "Project", "name": "Mine" })).await,
            test.request(&test.member, Method::POST, &format!("admin/projects/{}/client", test.project))
                .json(&json!({ "name": "Mine" }))
                .send()
                .await,
        ] {
            answer.refused(403, "forbidden");
        }
        assert_eq!(test.membership_of(&test.member).await, membership);
        assert_eq!(role(&test, &test.member).await, ROLES[0]);
    }
}

#[tokio::test]
async fn a_policy_that_binds_a_client_is_not_that_clients_to_change() {
    let test = TestApp::start().await;
    let rules = json!([{ "resourceType": "ClientApplication" }, { "resourceType": "AccessPolicy" }]);
    test.put_under_policy(&test.member, &json!({ "resource": rules })).await;
    let policy =
        test.membership_of(&test.member).await["accessPolicy"]["reference"].as_str().unwrap().to_owned();
    test.get(&test.member, &policy).await.expect(200);
    let wider = set("resource/0/resourceType", &json!("*"));
    test.patch(&test.member, &policy, &wider).await.refused(403, "forbidden");
    test.delete(&test.member, &policy).await.refused(403, "forbidden");

    // An admin under a policy is held by it just so.
    let narrow = json!({ "resource": [{ "resourceType": "*", "readonly": true }] });
    test.put_under_policy(&test.admin, &narrow).await;
    let membership = test.membership_of(&test.admin).await;
    let path = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
    let loose = json!([{ "op": "remove", "path": "/accessPolicy" }]);
    test.patch(&test.admin, &path, &loose).await.refused(403, "forbidden");
    let create = test.request(&test.admin, Method::POST, &format!("admin/projects/{}/client", test.project));
    create.json(&json!({ "name": "Free" })).send().await.refused(403, "forbidden");
    test.get(&test.admin, &test.member.path()).await.expect(200);
}

#[tokio::test]
async fn a_project_admin_does_not_turn_the_switches_of_a_super_admin() {
    let test = TestApp::start().await;
    let path = format!("Project/{}", test.project);
    let before = test.get(&test.super_admin, &path).await.json();
    for (element, value) in [
        ("superAdmin", json!(true)),
        ("superAdmin", json!(false)),
        ("active", json!(true)),
        ("features", json!(["bots"])),
        ("systemSetting", json!([{ "name": "x", "valueString": "y" }])),
        ("link", json!([{ "project": { "reference": format!("Project/{}", test.other_project) } }])),
    ] {
        let answer = test.patch(&test.admin, &path, &set(element, &value)).await;
        answer.refused(403, "forbidden");
        assert_eq!(answer.text_at("/issue/0/expression/0"), format!("Project.{element}"));
        let mut body = before.clone();
        body[element] = value;
        test.put(&test.admin, &path, &body).await.refused(403, "forbidden");
    }
    assert_eq!(test.get(&test.super_admin, &path).await.json(), before);
    test.post(&test.admin, "Project", &json!({ "resourceType": "Project" })).await.refused(403, "forbidden");
    test.delete(&test.admin, &path).await.refused(403, "forbidden");
    // What is the project's own business stays so, and what a Super Admin has set stays set.
    test.patch(&test.super_admin, &path, &set("features", &json!(["bots"]))).await.expect(200);
    let answer = test.patch(&test.admin, &path, &set("name", &json!("Hospital"))).await.expect(200);
    assert_eq!(answer.json()["features"], json!(["bots"]));
    assert_eq!(role(&test, &test.admin).await, ROLES[1]);
}

#[tokio::test]
async fn a_project_admin_is_nobody_in_another_project() {
    let test = TestApp::start().await;
    let theirs = test.membership_of(&test.stranger).await;
    let membership = format!("ProjectMembership/{}", theirs["id"].as_str().unwrap());
    let policy = json!({
        "resourceType": "AccessPolicy",
        "meta": { "project": test.other_project },
        "resource": [{ "resourceType": "*" }],
    });
    let policy = test.post(&test.super_admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    let secret = json!(test.stranger.secret);
    test.rotate(&test.stranger, &test.stranger.id, "secret", &test.stranger.secret).await.expect(200);
    let events = test.get(&test.super_admin, &format!("AuditEvent?entity={}", test.stranger.path())).await;
    let event = events.resources()[0]["id"].as_str().unwrap().to_owned();

    for path in [
        test.stranger.path(),
        membership.clone(),
        format!("Project/{}", test.other_project),
        format!("AccessPolicy/{policy}"),
    ] {
        let (name, id) = path.split_once('/').unwrap();
        let body = json!({ "resourceType": name, "id": id });
        test.get(&test.admin, &path).await.refused(404, "not-found");
        test.get(&test.admin, &format!("{path}/_history")).await.refused(404, "not-found");
        test.patch(&test.admin, &path, &set("name", &secret)).await.refused(404, "not-found");
        let whole = if name == "ProjectMembership" { theirs.clone() } else { body };
        test.put(&test.admin, &path, &whole).await.refused(404, "not-found");
        let gone = test.delete(&test.admin, &path).await;
        assert!([403, 404].contains(&gone.status.as_u16()), "{path}: {}", gone.text);
        let version = test.get(&test.super_admin, &path).await.expect(200).text_at("/meta/versionId");
        test.get(&test.admin, &format!("{path}/_history/{version}")).await.refused(404, "not-found");
    }
    test.get(&test.admin, &format!("AuditEvent/{event}")).await.refused(404, "not-found");
    let create = format!("admin/projects/{}/client", test.other_project);
    let create = test.request(&test.admin, Method::POST, &create).json(&json!({ "name": "Ours" }));
    create.send().await.refused(404, "not-found");
}

#[tokio::test]
async fn nothing_is_put_into_another_project_or_taken_from_it() {
    let test = TestApp::start().await;
    let ours = bare_client(&test, &test.admin).await;
    let theirs = bare_client(&test, &test.stranger).await;
    let meta = json!({ "project": test.other_project });
    for (name, mut body) in [
        ("ClientApplication", json!({ "name": "Ours" })),
        ("AccessPolicy", json!({ "resource": [{ "resourceType": "*" }] })),
        ("ProjectMembership", membership_of(&ours, &test.other_project)),
    ] {
        body["resourceType"] = json!(name);
        body["meta"] = meta.clone();
        test.post(&test.admin, name, &body).await.refused(403, "forbidden");
    }
    let membership = membership_of(&ours, &test.other_project);
    test.post(&test.admin, "ProjectMembership", &membership).await.refused(403, "forbidden");
    let membership = membership_of(&theirs, &test.project);
    test.post(&test.admin, "ProjectMembership", &membership).await.refused(400, "invalid");

    let own = test.membership_of(&test.member).await["id"].as_str().unwrap().to_owned();
    let moved = set("project", &json!({ "reference": format!("Project/{}", test.other_project) }));
    test.patch(&test.admin, &format!("ProjectMembership/{own}"), &moved).await.refused(400, "invalid");
    for profile in [&theirs, &test.stranger.id] {
        let reference = json!({ "reference": format!("ClientApplication/{profile}") });
        let taken = json!([
            { "op": "replace", "path": "/user", "value": reference },
            { "op": "replace", "path": "/profile", "value": reference },
        ]);
        test.patch(&test.admin, &format!("ProjectMembership/{own}"), &taken).await.refused(400, "invalid");
    }
}

#[tokio::test]
async fn a_resource_stays_in_its_project() {
    let test = TestApp::start().await;
    let path = test.member.path();
    for who in [&test.admin, &test.super_admin] {
        let extended = test.fhir(who, Method::GET, &path).header("x-medplum", "extended").send().await;
        let mut body = extended.expect(200).json();
        body["meta"]["project"] = json!(test.other_project);
        body["description"] = json!(format!("Written by {}", who.id));
        test.put(who, &path, &body).await.expect(200);
        let moved = set("meta/project", &json!(test.other_project));
        test.patch(who, &path, &moved).await.expect(200);
    }
    test.get(&test.admin, &path).await.expect(200);
    test.get(&test.stranger, &path).await.refused(404, "not-found");
}

#[tokio::test]
async fn a_super_admin_places_resources_in_projects_that_are_there() {
    let test = TestApp::start().await;
    let place = async |project: &str| {
        let body =
            json!({ "resourceType": "ClientApplication", "meta": { "project": project }, "name": "Placed" });
        test.post(&test.super_admin, "ClientApplication", &body).await
    };
    for project in [test.other_project.clone(), format!("Project/{}", test.other_project)] {
        let id = place(&project).await.expect(201).text_at("/id");
        test.get(&test.stranger, &format!("ClientApplication/{id}")).await.expect(200);
        test.get(&test.admin, &format!("ClientApplication/{id}")).await.refused(404, "not-found");
        test.post(&test.super_admin, "ProjectMembership", &membership_of(&id, &test.other_project))
            .await
            .expect(201);
    }
    for project in ["0198c2f0-1111-4222-8333-944455566677", "no-uuid"] {
        place(project).await.refused(400, "invalid");
    }
    let closed = test.make_project("Closed").await;
    test.delete(&test.super_admin, &format!("Project/{closed}")).await.expect(200);
    place(&closed).await.refused(400, "invalid");
}

#[tokio::test]
async fn nobody_locks_itself_out_by_accident() {
    let test = TestApp::start().await;
    for who in [&test.admin, &test.super_admin] {
        let membership = test.membership_of(who).await["id"].as_str().unwrap().to_owned();
        let path = format!("ProjectMembership/{membership}");
        for (element, value) in [("admin", json!(false)), ("active", json!(false))] {
            test.patch(who, &path, &set(element, &value)).await.refused(409, "conflict");
        }
    }
    let me = test.request(&test.super_admin, Method::GET, "auth/me").send().await;
    let project = format!("Project/{}", me.text_at("/project/id"));
    for (element, value) in [("superAdmin", json!(false)), ("active", json!(false))] {
        test.patch(&test.super_admin, &project, &set(element, &value)).await.refused(409, "conflict");
    }
    test.delete(&test.super_admin, &project).await.refused(409, "conflict");
    assert_eq!(role(&test, &test.super_admin).await, ROLES[2]);
}

#[tokio::test]
async fn a_rule_that_hides_elements_of_some_clients_lets_no_odd_body_into_the_others() {
    let test = TestApp::start().await;
    let admin = test.make_client(&test.project, "Bound").await;
    test.make_admin(&admin).await;
    let client = bare_client(&test, &test.admin).await;
    let rules = json!([
        { "resourceType": "ClientApplication", "criteria": "ClientApplication?name=Quiet", "hiddenFields": ["description"] },
        { "resourceType": "ClientApplication" },
    ]);
    test.put_under_policy(&admin, &json!({ "resource": rules })).await;
    let path = format!("ClientApplication/{client}");
    let body = |name: &str, value: &Value| json!({ "resourceType": "ClientApplication", "id": client, "name": "New", name: value });
    test.put(&admin, &path, &body("odd", &json!(1))).await.refused(400, "structure");
    test.put(&admin, &path, &body("status", &json!("odd"))).await.refused(400, "value");
    let foreign = json!({ "clientSecret": "of another system" });
    test.put(&admin, &path, &body("identityProvider", &foreign)).await.refused(400, "not-supported");
    test.put(&admin, &path, &body("description", &json!("Plain"))).await.expect(200);
}
