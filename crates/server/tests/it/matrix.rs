//! Who may do what, at a glance.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};

/// One operation, and the status for each of [`callers`].
type Row = (Method, String, Value, [u16; 6]);

/// Anonymous, a member, a member under a policy that allows everything, an admin of another project,
/// the project's admin, a Super Admin.
async fn callers(test: &TestApp) -> [As; 6] {
    let powerful = test.make_client(&test.project, "Powerful").await;
    test.put_under_policy(&powerful, &json!({ "resource": [{ "resourceType": "*" }] })).await;
    [
        As::Anonymous,
        test.bearer(&test.member).await,
        test.bearer(&powerful).await,
        test.bearer(&test.stranger).await,
        test.bearer(&test.admin).await,
        test.bearer(&test.super_admin).await,
    ]
}

/// The operations, on resources of one project. None of them changes what another row needs.
async fn rows(test: &TestApp) -> Vec<Row> {
    let client = test.make_client(&test.project, "Nightly export").await;
    let membership = test.membership_of(&client).await;
    let membership_path = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
    let policy =
        json!({ "resourceType": "AccessPolicy", "name": "All", "resource": [{ "resourceType": "*" }] });
    let policy_id = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    let rotate = format!("{}/$rotate-secret", client.path());
    let project = format!("Project/{}", test.project);
    let (client_path, policy_path) = (client.path(), format!("AccessPolicy/{policy_id}"));
    let none = || Value::Null;
    let get = |path: &str, statuses| (Method::GET, path.to_owned(), Value::Null, statuses);
    let nothing = json!([]);
    let new_client = json!({ "resourceType": "ClientApplication", "name": "New" });
    let new_project = json!({ "resourceType": "Project", "name": "New" });
    vec![
        get("metadata", [200; 6]),
        get("OperationDefinition", [401, 200, 200, 200, 200, 200]),
        get(&client_path, [401, 200, 200, 404, 200, 200]),
        get(&format!("{client_path}/_history"), [401, 200, 200, 404, 200, 200]),
        get("ClientApplication", [401, 200, 200, 200, 200, 200]),
        get(&project, [401, 200, 200, 404, 200, 200]),
        get(&policy_path, [401, 200, 200, 404, 200, 200]),
        get(&membership_path, [401, 403, 200, 404, 200, 200]),
        get("AuditEvent", [401, 403, 200, 200, 200, 200]),
        // `wrong` never matches: 400 is as far as one can get.
        (Method::POST, rotate, json!({ "secret": "wrong" }), [401, 403, 403, 404, 400, 400]),
        (Method::POST, "ClientApplication".to_owned(), new_client, [401, 403, 201, 201, 201, 201]),
        (Method::PATCH, client_path.clone(), nothing.clone(), [401, 403, 200, 404, 200, 200]),
        (Method::POST, "AccessPolicy".to_owned(), policy, [401, 403, 403, 201, 201, 201]),
        (Method::PATCH, policy_path.clone(), nothing.clone(), [401, 403, 403, 404, 200, 200]),
        (Method::POST, "ProjectMembership".to_owned(), membership, [401, 403, 403, 403, 409, 409]),
        (Method::PATCH, membership_path.clone(), nothing.clone(), [401, 403, 403, 404, 200, 200]),
        (Method::POST, "Project".to_owned(), new_project, [401, 403, 403, 403, 403, 201]),
        (Method::PATCH, project.clone(), nothing, [401, 403, 403, 404, 200, 200]),
        (Method::POST, "AuditEvent".to_owned(), json!({}), [401, 405, 405, 405, 405, 405]),
        (Method::DELETE, membership_path, none(), [401, 403, 403, 404, 200, 200]),
        (Method::DELETE, policy_path, none(), [401, 403, 403, 404, 200, 200]),
        (Method::DELETE, client_path, none(), [401, 403, 200, 404, 200, 200]),
        (Method::DELETE, project, none(), [401, 403, 403, 403, 403, 200]),
    ]
}

#[tokio::test]
async fn each_caller_gets_exactly_its_own() {
    let test = TestApp::start().await;
    let callers = callers(&test).await;
    let mut wrong = Vec::new();
    for (method, path, body, expected) in rows(&test).await {
        let mut found = Vec::new();
        for who in &callers {
            let request = test.fhir(who, method.clone(), &path);
            let request = if body.is_null() { request } else { request.json(&body) };
            found.push(request.send().await.status.as_u16());
        }
        if found != expected {
            wrong.push(format!("{method} {path}: {found:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
