//! The life of a resource: create, read, versions, change, delete, and what is refused on the way.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, Credentials, TestApp};

/// A client without a secret and without a membership; gives its id.
async fn bare_client(test: &TestApp, name: &str) -> String {
    let body = json!({ "resourceType": "ClientApplication", "name": name });
    test.post(&test.admin, "ClientApplication", &body).await.expect(201).text_at("/id")
}

fn membership_body(test: &TestApp, client: &str) -> Value {
    let profile = json!({ "reference": format!("ClientApplication/{client}") });
    json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": format!("Project/{}", test.project) },
        "user": profile,
        "profile": profile,
    })
}

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36 && bytes[8] == b'-' && bytes[14] == b'4' && text.to_lowercase() == text
}

/// A resource of each type that can be written, an element to change, and who may.
async fn one_of_each(test: &TestApp) -> Vec<(Value, &'static str, Value, Credentials)> {
    let client = bare_client(test, "Joins later").await;
    let policy =
        json!({ "resourceType": "AccessPolicy", "name": "All", "resource": [{ "resourceType": "*" }] });
    let client_body = json!({ "resourceType": "ClientApplication", "name": "Nightly export" });
    let project = json!({ "resourceType": "Project", "name": "Ward" });
    vec![
        (client_body, "description", json!("Runs at night"), test.admin.clone()),
        (policy, "name", json!("Everything"), test.admin.clone()),
        (membership_body(test, &client), "admin", json!(true), test.admin.clone()),
        (project, "description", json!("Third floor"), test.super_admin.clone()),
    ]
}

#[tokio::test]
async fn a_resource_lives_through_its_versions() {
    let test = TestApp::start().await;
    for (body, element, value, who) in one_of_each(&test).await {
        let name = body["resourceType"].as_str().unwrap().to_owned();
        let created = test.post(&who, &name, &body).await.expect(201);
        let (id, first) = (created.text_at("/id"), created.text_at("/meta/versionId"));
        assert!(is_uuid(&id) && is_uuid(&first), "{id} {first}");
        let path = format!("{name}/{id}");
        let location = format!("http://{}/fhir/R4/{path}/_history/{first}", test.address);
        assert_eq!(created.header("location"), location);
        assert_eq!(created.header("etag"), format!("W/\"{first}\""));
        assert!(created.header("last-modified").starts_with("Thu, 01 Jan 2026 00:00:0"));
        assert_eq!(test.get(&who, &path).await.expect(200).json(), created.json());

        test.clock.advance(Duration::from_secs(1));
        let mut changed = created.json();
        changed[element] = value.clone();
        let put = test.put(&who, &path, &changed).await.expect(200);
        assert_eq!(put.json()[element], value);
        assert_ne!(put.text_at("/meta/versionId"), first);
        let tag = json!([{ "op": "add", "path": "/meta/tag", "value": [{ "code": "kept" }] }]);
        let patched = test.patch(&who, &path, &tag).await.expect(200);
        assert_eq!(patched.text_at("/meta/tag/0/code"), "kept");

        let vread = test.get(&who, &format!("{path}/_history/{first}")).await.expect(200);
        assert_eq!((vread.json(), vread.header("etag")), (created.json(), created.header("etag")));
        test.delete(&who, &path).await.expect(200);
        test.get(&who, &path).await.refused(410, "deleted");
        test.put(&who, &path, &changed).await.refused(410, "deleted");
        test.patch(&who, &path, &tag).await.refused(410, "deleted");
        test.delete(&who, &path).await.expect(200);

        let history = test.get(&who, &format!("{path}/_history")).await.expect(200);
        let methods: Vec<String> =
            (0..4).map(|n| history.text_at(&format!("/entry/{n}/request/method"))).collect();
        assert_eq!(methods, ["DELETE", "PUT", "PUT", "POST"], "{name}");
        assert_eq!((&history.json()["total"], history.text_at("/type")), (&json!(4), "history".to_owned()));
        let deleted = history.text_at("/entry/0/response/etag");
        let deleted = deleted.trim_start_matches("W/").trim_matches('"');
        test.get(&who, &format!("{path}/_history/{deleted}")).await.refused(410, "deleted");
        assert!(test.get(&who, &format!("{name}?_id={id}")).await.expect(200).resources().is_empty());
    }
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let test = TestApp::start().await;
    let unknown = "0198c2f0-1111-4222-8333-944455566677";
    let client = test.make_client(&test.project, "Nightly export").await;
    let body = |id: &str| json!({ "resourceType": "ClientApplication", "id": id, "name": "x" });
    for id in [unknown, "no-uuid"] {
        let path = format!("ClientApplication/{id}");
        test.get(&test.admin, &path).await.refused(404, "not-found");
        test.get(&test.admin, &format!("{path}/_history")).await.refused(404, "not-found");
        test.put(&test.admin, &path, &body(id)).await.refused(404, "not-found");
        test.patch(&test.admin, &path, &json!([])).await.refused(404, "not-found");
        test.delete(&test.admin, &path).await.refused(404, "not-found");
        let version = format!("{}/_history/{id}", client.path());
        test.get(&test.admin, &version).await.refused(404, "not-found");
    }
    // An id is that of one type.
    test.get(&test.admin, &format!("Project/{}", client.id)).await.refused(404, "not-found");
    for path in
        ["Patient", "clientapplication", "ClientApplication/x/y", "ClientApplication/_history", "$export"]
    {
        test.get(&test.super_admin, path).await.refused(404, "not-found");
    }
}

#[tokio::test]
async fn the_id_in_a_body_is_the_one_in_the_url() {
    let test = TestApp::start().await;
    for id in [json!(test.admin.id), json!("x"), json!(7), Value::Null] {
        let body = json!({ "resourceType": "ClientApplication", "id": id, "name": "Renamed" });
        let answer = test.put(&test.admin, &test.member.path(), &body).await;
        answer.refused(400, "invalid");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.id");
    }
    let body = json!({ "resourceType": "ClientApplication", "name": "Renamed" });
    test.put(&test.admin, &test.member.path(), &body).await.refused(400, "invalid");
    assert_eq!(test.get(&test.admin, &test.member.path()).await.text_at("/name"), "Reader");
}

#[tokio::test]
async fn if_match_guards_every_change() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let first = test.get(&test.admin, &client.path()).await.text_at("/meta/versionId");
    let rename = json!([{ "op": "replace", "path": "/name", "value": "Renamed" }]);
    let send = |method: Method, body: &Value, version: &str| {
        let request =
            test.fhir(&test.admin, method, &client.path()).header("if-match", &format!("W/\"{version}\""));
        request.json(body).send()
    };
    let second = send(Method::PATCH, &rename, &first).await.expect(200).text_at("/meta/versionId");
    let current = test.get(&test.admin, &client.path()).await.json();
    let mut body = current.clone();
    body["name"] = json!("Stale");
    for (method, body) in [(Method::PUT, &body), (Method::PATCH, &rename), (Method::DELETE, &Value::Null)] {
        send(method.clone(), body, &first).await.refused(412, "conflict");
        send(method, body, "no-version").await.refused(412, "conflict");
    }
    assert_eq!(test.get(&test.admin, &client.path()).await.json(), current);
    let third = send(Method::PUT, &body, &second).await.expect(200).text_at("/meta/versionId");
    send(Method::DELETE, &Value::Null, &third).await.expect(200);
}

#[tokio::test]
async fn a_change_of_nothing_makes_no_version() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let before = test.get(&test.admin, &client.path()).await;
    test.clock.advance(Duration::from_mins(1));
    let same = json!([{ "op": "replace", "path": "/name", "value": "Nightly export" }]);
    for answer in [
        test.put(&test.admin, &client.path(), &before.json()).await,
        test.patch(&test.admin, &client.path(), &same).await,
        test.patch(&test.admin, &client.path(), &json!([])).await,
    ] {
        assert_eq!(answer.status, 200);
        assert_eq!((answer.json(), answer.header("etag")), (before.json(), before.header("etag")));
    }
    let history = test.get(&test.admin, &format!("{}/_history", client.path())).await;
    assert_eq!(history.json()["total"], 1);
}

#[tokio::test]
async fn a_conditional_create_creates_once() {
    let test = TestApp::start().await;
    let body = json!({ "resourceType": "ClientApplication", "name": "Only one" });
    let create = |condition: &'static str| {
        test.fhir(&test.admin, Method::POST, "ClientApplication")
            .header("if-none-exist", condition)
            .json(&body)
            .send()
    };
    let first = create("name:exact=Only one").await.expect(201);
    let second = create("?name:exact=Only%20one").await.expect(200);
    assert_eq!(first.json(), second.json());
    test.post(&test.admin, "ClientApplication", &body).await.expect(201);
    create("name:exact=Only one").await.refused(412, "conflict");
    for condition in ["", "_count=1", "nonsense=1"] {
        create(condition).await.refused(400, "invalid");
    }
    let found = test.get(&test.admin, "ClientApplication?name:exact=Only one&_summary=count").await;
    assert_eq!(found.json()["total"], 2);
    // It shows what it finds, so it takes the right to find.
    let grant = [("grant_type", "client_credentials"), ("scope", "system/ClientApplication.c")];
    let token = test.token(&test.admin, &grant).await.expect(200).text_at("/access_token");
    let who = crate::app::As::Bearer(token);
    let request = test.fhir(&who, Method::POST, "ClientApplication").json(&body);
    request.header("if-none-exist", "name=Reader").send().await.refused(403, "forbidden");
    test.post(&who, "ClientApplication", &body).await.expect(201);
}

#[tokio::test]
async fn what_does_not_fit_the_definition_is_refused_by_name() {
    let test = TestApp::start().await;
    let client = |name: &str, value: Value| json!({ "resourceType": "ClientApplication", name: value });
    let rule = |rule: Value| json!({ "resourceType": "AccessPolicy", "resource": [rule] });
    for (body, code, expression) in [
        (client("nmae", json!("x")), "structure", "ClientApplication.nmae"),
        (client("status", json!("on")), "value", "ClientApplication.status"),
        (client("status", json!("ACTIVE")), "value", "ClientApplication.status"),
        (client("name", json!(["x"])), "structure", "ClientApplication.name"),
        (client("name", json!("")), "value", "ClientApplication.name"),
        (client("redirectUris", json!("https://x")), "structure", "ClientApplication.redirectUris"),
        (client("redirectUris", json!([])), "structure", "ClientApplication.redirectUris"),
        (client("redirectUris", json!(["https://x", 7])), "structure", "ClientApplication.redirectUris[1]"),
        (client("pkceOptional", json!("true")), "structure", "ClientApplication.pkceOptional"),
        (client("signInForm", json!({ "x": 1 })), "structure", "ClientApplication.signInForm.x"),
        (client("accessTokenLifetime", json!("soon")), "value", "ClientApplication.accessTokenLifetime"),
        (rule(json!({ "readonly": true })), "required", "AccessPolicy.resource[0].resourceType"),
        (
            rule(json!({ "resourceType": "*", "interaction": ["eat"] })),
            "value",
            "AccessPolicy.resource[0].interaction[0]",
        ),
    ] {
        let name = body["resourceType"].as_str().unwrap();
        let answer = test.post(&test.admin, name, &body).await;
        answer.refused(400, code);
        assert_eq!(answer.text_at("/issue/0/expression/0"), expression, "{}", answer.text);
    }
    let two = json!({ "resourceType": "ClientApplication", "status": "on", "nmae": "x" });
    let answer = test.post(&test.admin, "ClientApplication", &two).await.expect(400);
    assert_eq!(answer.json()["issue"].as_array().unwrap().len(), 2);
    assert!(answer.text.contains("did you mean 'name'?"), "{}", answer.text);
    for body in [json!({}), json!({ "resourceType": "Project" }), json!({ "resourceType": 7 }), json!([])] {
        test.post(&test.admin, "ClientApplication", &body).await.refused(400, "invalid");
    }
}

#[tokio::test]
async fn rules_and_credentials_that_would_not_be_kept_are_refused() {
    let test = TestApp::start().await;
    let policy = |name: &str, value: Value| json!({ "resourceType": "AccessPolicy", name: value });
    let rule =
        |name: &str, value: Value| policy("resource", json!([{ "resourceType": "Project", name: value }]));
    let of_client = |name: &str, value: Value| json!({ "resourceType": "ClientApplication", name: value });
    for (body, expression) in [
        (rule("criteria", json!("Project?colour=red")), "AccessPolicy.resource[0].criteria"),
        (rule("criteria", json!("Project?_id=%profile.id")), "AccessPolicy.resource[0].criteria"),
        (rule("hiddenFields", json!(["nmae"])), "AccessPolicy.resource[0].hiddenFields[0]"),
        (
            policy("resource", json!([{ "resourceType": "Nonsense" }])),
            "AccessPolicy.resource[0].resourceType",
        ),
        (policy("basedOn", json!([{ "reference": "AccessPolicy/x" }])), "AccessPolicy"),
        (
            policy("ipAccessRule", json!([{ "value": "10.0.0.0/99", "action": "block" }])),
            "AccessPolicy.ipAccessRule[0].value",
        ),
        (
            of_client("identityProvider", json!({ "clientSecret": "x" })),
            "ClientApplication.identityProvider.clientSecret",
        ),
    ] {
        let answer = test.post(&test.admin, body["resourceType"].as_str().unwrap(), &body).await;
        answer.refused(400, "not-supported");
        assert_eq!(answer.text_at("/issue/0/expression/0"), expression, "{}", answer.text);
    }
    let secret = json!([{ "op": "add", "path": "/secret", "value": [{ "name": "K", "valueString": "x" }] }]);
    let project = format!("Project/{}", test.project);
    test.patch(&test.admin, &project, &secret).await.refused(400, "not-supported");
    let setting = json!([{ "name": "secretVisibility", "valueString": "never" }]);
    let setting = json!([{ "op": "add", "path": "/setting", "value": setting }]);
    test.patch(&test.admin, &project, &setting).await.refused(400, "invalid");
}

#[tokio::test]
async fn meta_is_the_servers_except_for_what_describes_the_resource() {
    let test = TestApp::start().await;
    let tag = json!([{ "system": "urn:x", "code": "y" }]);
    let meta = json!({
        "versionId": "x",
        "lastUpdated": "1999-01-01T00:00:00Z",
        "author": { "reference": "ClientApplication/x" },
        "tag": tag,
    });
    let body = json!({ "resourceType": "ClientApplication", "id": "chosen", "meta": meta });
    let created = test.post(&test.admin, "ClientApplication", &body).await.expect(201);
    let (id, version) = (created.text_at("/id"), created.text_at("/meta/versionId"));
    assert!(is_uuid(&id) && is_uuid(&version));
    let plain = json!({ "versionId": version, "lastUpdated": "2026-01-01T00:00:00.000Z", "tag": tag });
    assert_eq!(created.json()["meta"], plain);

    let path = format!("ClientApplication/{id}");
    let extended = async |path: String| {
        let request = test.fhir(&test.admin, Method::GET, &path).header("x-medplum", "extended");
        request.send().await.expect(200).json()
    };
    let mut expected = plain;
    expected["project"] = json!(test.project);
    expected["compartment"] = json!([{ "reference": format!("Project/{}", test.project) }]);
    expected["author"] = test.author(&test.admin).await;
    assert_eq!(extended(path.clone()).await["meta"], expected);
    for path in [format!("{path}/_history"), format!("ClientApplication?_id={id}")] {
        assert_eq!(extended(path).await["entry"][0]["resource"]["meta"], expected);
    }
}

#[tokio::test]
async fn a_patch_that_cannot_be_applied_changes_nothing() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let before = test.get(&test.admin, &client.path()).await.json();
    let rename = json!({ "op": "replace", "path": "/name", "value": "Renamed" });
    let after_rename = |operation: Value| json!([rename, operation]);
    for (patch, status, code) in [
        (after_rename(json!({ "op": "test", "path": "/name", "value": "Nightly export" })), 409, "conflict"),
        (after_rename(json!({ "op": "remove", "path": "/nothing" })), 400, "invalid"),
        (after_rename(json!({ "op": "replace", "path": "/id", "value": "x" })), 400, "invalid"),
        (
            after_rename(json!({ "op": "replace", "path": "/resourceType", "value": "Project" })),
            400,
            "invalid",
        ),
        (after_rename(json!({ "op": "replace", "path": "", "value": 7 })), 400, "invalid"),
        (after_rename(json!({ "op": "add", "path": "/nmae", "value": "x" })), 400, "structure"),
        (after_rename(json!({ "op": "eat", "path": "/name" })), 400, "invalid"),
        (rename.clone(), 400, "invalid"),
        (json!(vec![rename.clone(); 101]), 400, "invalid"),
    ] {
        test.patch(&test.admin, &client.path(), &patch).await.refused(status, code);
        assert_eq!(test.get(&test.admin, &client.path()).await.json(), before);
    }
    let request = test.fhir(&test.admin, Method::PATCH, &client.path());
    request.body("text/plain", json!([rename]).to_string()).send().await.refused(415, "not-supported");
    let passed = json!([{ "op": "test", "path": "/name", "value": "Nightly export" }, rename]);
    let answer: Answer = test.patch(&test.admin, &client.path(), &passed).await.expect(200);
    assert_eq!(answer.text_at("/name"), "Renamed");
}

#[tokio::test]
async fn a_membership_names_what_is_there() {
    let test = TestApp::start().await;
    let client = bare_client(&test, "Joins later").await;
    let body = membership_body(&test, &client);
    let with = |name: &str, value: Value| {
        let mut changed = body.clone();
        changed[name] = value;
        changed
    };
    let to = |reference: &str| json!({ "reference": reference });
    let unknown = to("AccessPolicy/0198c2f0-1111-4222-8333-944455566677");
    let mut theirs = with("profile", to(&test.stranger.path()));
    theirs["user"] = theirs["profile"].clone();
    let mut homeless = body.clone();
    homeless.as_object_mut().unwrap().remove("project");
    let parameterised = json!([{ "policy": unknown }]);
    for (body, code, expression) in [
        (with("accessPolicy", unknown.clone()), "invalid", "ProjectMembership.accessPolicy"),
        (with("user", to(&test.member.path())), "invalid", "ProjectMembership.user"),
        (theirs, "invalid", "ProjectMembership.profile"),
        (with("access", parameterised), "not-supported", "ProjectMembership.access"),
        (homeless, "required", "ProjectMembership.project"),
    ] {
        let answer = test.post(&test.admin, "ProjectMembership", &body).await;
        answer.refused(400, code);
        assert_eq!(answer.text_at("/issue/0/expression/0"), expression);
    }
    test.post(&test.admin, "ProjectMembership", &body).await.expect(201);
    test.post(&test.admin, "ProjectMembership", &body).await.refused(409, "conflict");
}

#[tokio::test]
async fn methods_that_are_not_there_are_405_with_those_that_are() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    for (method, path, allow) in [
        (Method::PUT, "ClientApplication".to_owned(), "GET, POST"),
        (Method::DELETE, "ClientApplication".to_owned(), "GET, POST"),
        (Method::POST, client.path(), "GET, PUT, PATCH, DELETE"),
        (Method::GET, "ClientApplication/_search".to_owned(), "POST"),
        (Method::POST, format!("{}/_history", client.path()), "GET"),
        (Method::GET, String::new(), "POST"),
        (Method::POST, "metadata".to_owned(), "GET"),
        (Method::POST, "StructureDefinition".to_owned(), "GET"),
        (Method::POST, "AuditEvent".to_owned(), "GET"),
        (Method::POST, format!("AuditEvent/{}", client.id), "GET"),
        (Method::PUT, format!("AuditEvent/{}", client.id), "GET"),
        (Method::PATCH, format!("AuditEvent/{}", client.id), "GET"),
        (Method::DELETE, format!("AuditEvent/{}", client.id), "GET"),
    ] {
        let request = test.fhir(&test.super_admin, method.clone(), &path);
        let answer = request.json(&json!({ "resourceType": "AuditEvent" })).send().await;
        answer.refused(405, "not-supported");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
}
