//! Names with hidden characters: refused by every route, and isolated on pages if they were stored before.

use keyrelay_core::fhir::ResourceType;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, TestApp};
use crate::people::{EMAIL, PASSWORD, ann, authorize_path, invite, make_ann, make_app, submit};
use crate::redirects::{store_as_before, store_resource_as_before};

const HIDDEN: [char; 7] = ['\u{202e}', '\u{2066}', '\u{200f}', '\u{9b}', '\n', '\u{200b}', '\u{e0041}'];

#[track_caller]
fn refused_at(answer: &Answer, expression: &str) {
    answer.refused(400, "invalid");
    assert_eq!(answer.text_at("/issue/0/expression/0"), expression);
}

#[tokio::test]
async fn no_route_accepts_a_name_with_hidden_characters() {
    let test = TestApp::start().await;
    let id = make_app(&test).await;
    let registration = format!("admin/projects/{}/registration", test.project);
    let token =
        test.request(&test.admin, Method::POST, &registration).json(&json!({ "uses": 9 })).send().await;
    let token = As::Bearer(token.expect(201).text_at("/initial_access_token"));
    let client_path = format!("admin/projects/{}/client", test.project);
    for hidden in HIDDEN {
        // `\u{9b}` alone is refused by the schema of FHIR already, with another code.
        if hidden.is_control() && hidden != '\n' {
            continue;
        }
        let name = format!("Bank{hidden}moc.tset");
        let whole = json!({ "resourceType": "ClientApplication", "name": name });
        refused_at(&test.post(&test.admin, "ClientApplication", &whole).await, "ClientApplication.name");
        let put = json!({ "resourceType": "ClientApplication", "id": id, "name": name });
        let path = format!("ClientApplication/{id}");
        refused_at(&test.put(&test.admin, &path, &put).await, "ClientApplication.name");
        let renamed = json!([{ "op": "replace", "path": "/name", "value": name }]);
        refused_at(&test.patch(&test.admin, &path, &renamed).await, "ClientApplication.name");
        let made = test.request(&test.admin, Method::POST, &client_path).json(&json!({ "name": name }));
        refused_at(&made.send().await, "ClientApplication.name");
        let project = json!({ "resourceType": "Project", "name": name });
        refused_at(&test.post(&test.super_admin, "Project", &project).await, "Project.name");
        let patch_project = test.patch(&test.admin, &format!("Project/{}", test.project), &renamed).await;
        refused_at(&patch_project, "Project.name");
        let person = json!({ "resourceType": "Practitioner", "name": [{}, { "given": ["Ann", name] }] });
        let person = test.post(&test.admin, "Practitioner", &person).await;
        assert_eq!(person.status, 400, "{}", person.text);
        let person = json!({ "resourceType": "Practitioner", "name": [{ "given": ["Ann", name] }] });
        refused_at(&test.post(&test.admin, "Practitioner", &person).await, "Practitioner.name[0].given[1]");
        for member in ["firstName", "lastName"] {
            let mut body = ann();
            body[member] = json!(name);
            refused_at(&invite(&test, &body).await, &format!("User.{member}"));
        }
        let body = json!({ "client_name": name, "redirect_uris": ["https://app.example.test/back"] });
        let registered = test.request(&token, Method::POST, "oauth2/register");
        let registered = registered.body("application/json", body.to_string()).send().await;
        assert_eq!(registered.status, 400, "{}", registered.text);
        assert_eq!(registered.text_at("/error"), "invalid_client_metadata");
        assert!(registered.text_at("/error_description").contains("client_name"), "{}", registered.text);
    }
    for unseen in ["\u{200b}", "\u{ad}", "\u{feff}", "\u{115f}", "\u{3164}", "\u{e0041}", "\u{200d}"] {
        let whole = json!({ "resourceType": "ClientApplication", "name": unseen });
        refused_at(&test.post(&test.admin, "ClientApplication", &whole).await, "ClientApplication.name");
        let body = json!({ "client_name": unseen, "redirect_uris": ["https://app.example.test/back"] });
        let registered = test.request(&token, Method::POST, "oauth2/register");
        let registered = registered.body("application/json", body.to_string()).send().await;
        assert!(registered.text_at("/error_description").contains("client_name"), "{}", registered.text);
    }
    let mut body = ann();
    body["email"] = json!("ann\u{202e}@example.test");
    refused_at(&invite(&test, &body).await, "email");
    // Names of scripts that are written from right to left need none of them.
    let hebrew = json!([{ "op": "replace", "path": "/name", "value": "מרפאה 1" }]);
    test.patch(&test.admin, &format!("ClientApplication/{id}"), &hebrew).await.expect(200);
}

#[tokio::test]
async fn an_older_name_is_readable_and_isolated_on_pages() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let id = make_app(&test).await;
    store_as_before(&test, &id, "Viewer", "Vie\u{202e}wer").await;
    let read = test.get(&test.admin, &format!("ClientApplication/{id}")).await.expect(200);
    assert_eq!(read.json()["name"], Value::from("Vie\u{202e}wer"));
    let path = authorize_path(&id, "&scope=openid");
    let page = test.request(As::Anonymous, Method::GET, &path).send().await.expect(200);
    assert!(page.text.contains("<bdi>Viewer</bdi>"), "{}", page.text);
    let form = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
    let page = submit(&test, &path, "", &form).await.expect(200);
    for name in ["Viewer", "Ann Doe", "Clinic", "https://app.example.test/back"] {
        assert!(page.text.contains(&format!("<bdi>{name}</bdi>")), "{}", page.text);
    }
}

#[tokio::test]
async fn an_older_name_blocks_no_other_change() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let users = test.get(&test.admin, "User?email=ann@example.test").await.expect(200).resources();
    let user = users[0]["id"].as_str().unwrap();
    store_resource_as_before(&test, ResourceType::User, user, "\"Ann\"", "\"A\u{202e}nn\"").await;
    store_resource_as_before(&test, ResourceType::User, user, EMAIL, "ann\u{200f}@example.test").await;
    let app = make_app(&test).await;
    store_as_before(&test, &app, "Viewer", "Vie\u{202e}wer").await;
    let changes = [
        (format!("User/{user}"), json!({ "op": "add", "path": "/active", "value": false }), "firstName"),
        (
            format!("ClientApplication/{app}"),
            json!({ "op": "add", "path": "/status", "value": "off" }),
            "name",
        ),
    ];
    for (path, change, named) in changes {
        test.patch(&test.admin, &path, &json!([change])).await.expect(200);
        let whole = test.get(&test.admin, &path).await.expect(200).json();
        test.put(&test.admin, &path, &whole).await.expect(200);
        let other = json!([{ "op": "replace", "path": format!("/{named}"), "value": "A\u{202e}n" }]);
        let expression = format!("{}.{named}", path.split('/').next().unwrap());
        refused_at(&test.patch(&test.admin, &path, &other).await, &expression);
    }
}
