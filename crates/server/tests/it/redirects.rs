//! Where codes may be sent: redirect URIs that no route accepts, and that are no longer used if they were registered
//! before.

use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ResourceId, VersionId};
use keyrelay_core::random::SeededEntropy;
use keyrelay_store::{Change, ResourceVersion};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};
use crate::people::{EMAIL, PASSWORD, REDIRECT, authorize_path, json_post, make_ann, make_app};
use crate::registration::{Registered, initial, refused, register};

/// URIs that a browser would pass to another program, or to another host than the text suggests.
const REFUSED: [&str; 10] = [
    "ms-msdt:/id",
    "smb://server/share",
    "chrome://settings",
    "javascript:alert(1)",
    "data:text/html,x",
    "https:a.test",
    "https://ann@app.example.test/back",
    "https://*.example.test/back",
    "https://app.example.test/back#x",
    "http://app.example.test/back",
];
const ALLOWED: [&str; 4] = [
    "https://app.example.test/back",
    "http://localhost:3000/",
    "http://[::1]:8080/x",
    "com.example.app:/back",
];

fn client(uris: &Value) -> Value {
    json!({ "resourceType": "ClientApplication", "name": "Viewer", "redirectUris": uris })
}

#[tokio::test]
async fn no_route_accepts_an_unsafe_redirect_uri() {
    let test = TestApp::start().await;
    let id = make_app(&test).await;
    let path = format!("ClientApplication/{id}");
    let admin_path = format!("admin/projects/{}/client", test.project);
    let registration = format!("admin/projects/{}/registration", test.project);
    let token =
        test.request(&test.admin, Method::POST, &registration).json(&json!({ "uses": 100 })).send().await;
    let token = As::Bearer(token.expect(201).text_at("/initial_access_token"));
    for (uris, is_allowed) in [(REFUSED.as_slice(), false), (ALLOWED.as_slice(), true)] {
        for uri in uris {
            let both = json!([REDIRECT, uri]);
            let mut whole = client(&both);
            whole["id"] = json!(id);
            let add = json!([{ "op": "add", "path": "/redirectUris", "value": both }]);
            let single = json!([{ "op": "add", "path": "/redirectUri", "value": uri }]);
            let answers = [
                test.post(&test.admin, "ClientApplication", &client(&both)).await,
                test.put(&test.admin, &path, &whole).await,
                test.patch(&test.admin, &path, &add).await,
            ];
            let single = test.patch(&test.admin, &path, &single).await;
            let made = json!({ "name": "Viewer", "redirectUris": both });
            let made = test.request(&test.admin, Method::POST, &admin_path).json(&made).send().await;
            let metadata = json!({ "redirect_uris": both });
            let registered = test.request(&token, Method::POST, "oauth2/register");
            let registered = registered.body("application/json", metadata.to_string()).send().await;
            if is_allowed {
                for answer in answers.into_iter().chain([single, made, registered]) {
                    assert!(answer.status.is_success(), "{uri}: {}", answer.text);
                }
                continue;
            }
            for answer in answers.into_iter().chain([made]) {
                answer.refused(400, "invalid");
                assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.redirectUris[1]");
            }
            single.refused(400, "invalid");
            assert_eq!(single.text_at("/issue/0/expression/0"), "ClientApplication.redirectUri");
            assert_eq!(registered.status, 400, "{uri}");
            assert_eq!(registered.text_at("/error"), "invalid_redirect_uri");
        }
    }
}

/// Stores a value in a resource that today's routes refuse.
pub async fn store_as_before(test: &TestApp, client: &str, from: &str, to: &str) {
    store_resource_as_before(test, ResourceType::ClientApplication, client, from, to).await;
}

pub async fn store_resource_as_before(test: &TestApp, kind: ResourceType, id: &str, from: &str, to: &str) {
    let store = test.store().await;
    let id = ResourceId::parse(id).unwrap();
    let found = store.resource(kind, id).await.unwrap().unwrap();
    let (previous, content) = (found.version, found.content.replace(from, to));
    assert_ne!(content, found.content);
    let version =
        VersionId::random(&SeededEntropy::new(4711_u64.wrapping_add(found.revision.unsigned_abs())));
    let next = ResourceVersion { version, revision: found.revision + 1, content, ..found };
    let mut change = Change::new();
    change.update(next, previous, None);
    store.commit(change).await.unwrap();
}

#[tokio::test]
async fn an_older_unsafe_redirect_uri_is_readable_and_unused() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let id = make_app(&test).await;
    store_as_before(&test, &id, REDIRECT, "ms-msdt:/id").await;
    let read = test.get(&test.admin, &format!("ClientApplication/{id}")).await.expect(200);
    assert_eq!(read.json()["redirectUris"], json!(["ms-msdt:/id"]));

    let path = authorize_path(&id, "").replace(REDIRECT, "ms-msdt:/id");
    let page = test.request(As::Anonymous, Method::GET, &path).send().await;
    assert_eq!((page.status.as_u16(), page.header("location")), (400, ""));
    let unknown = test.request(As::Anonymous, Method::GET, &path.replace("msdt", "other")).send().await;
    assert_eq!(page.text, unknown.text);
    let body = json!({ "email": EMAIL, "password": PASSWORD, "clientId": id, "redirectUri": "ms-msdt:/id" });
    json_post(&test, As::Anonymous, "auth/login", &body).await.refused(400, "invalid");
}

#[tokio::test]
async fn an_older_unsafe_redirect_uri_blocks_no_other_change() {
    let test = TestApp::start().await;
    let id = make_app(&test).await;
    let path = format!("ClientApplication/{id}");
    store_as_before(&test, &id, REDIRECT, "ms-msdt:/id").await;
    let mut whole = test.get(&test.admin, &path).await.expect(200).json();
    whole["status"] = json!("off");
    test.put(&test.admin, &path, &whole).await.expect(200);
    let on = json!([{ "op": "replace", "path": "/status", "value": "active" }]);
    test.patch(&test.admin, &path, &on).await.expect(200);
    // It may move, but no other unsafe one is accepted.
    let more = json!([{ "op": "add", "path": "/redirectUris/0", "value": "smb://server/share" }]);
    let answer = test.patch(&test.admin, &path, &more).await;
    answer.refused(400, "invalid");
    assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.redirectUris[0]");
    let more = json!([{ "op": "add", "path": "/redirectUris/0", "value": REDIRECT }]);
    let answer = test.patch(&test.admin, &path, &more).await.expect(200);
    assert_eq!(answer.json()["redirectUris"], json!([REDIRECT, "ms-msdt:/id"]));
    // Once removed, it is not accepted again.
    let gone = json!([{ "op": "remove", "path": "/redirectUris/1" }]);
    test.patch(&test.admin, &path, &gone).await.expect(200);
    let back = json!([{ "op": "add", "path": "/redirectUris/-", "value": "ms-msdt:/id" }]);
    test.patch(&test.admin, &path, &back).await.refused(400, "invalid");
}

#[tokio::test]
async fn a_client_that_registered_before_a_rule_rotates_its_secret() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({})).await;
    let mut body = json!({ "client_name": "Viewer", "redirect_uris": [REDIRECT] });
    let registered = Registered::of(&register(&test, &token, &body).await.expect(201));
    store_as_before(&test, &registered.client.id, REDIRECT, "ms-msdt:/id").await;
    store_as_before(&test, &registered.client.id, "Viewer", "Vie\u{202e}wer").await;
    body["client_name"] = json!("Vie\u{202e}wer");
    body["redirect_uris"] = json!(["ms-msdt:/id"]);
    body["grant_types"] = json!(["authorization_code"]);
    body["client_secret"] = json!(registered.client.secret);
    body["rotate_secret"] = json!(true);
    for (member, value, error) in [
        ("redirect_uris", json!(["ms-msdt:/id", "smb://server/share"]), "invalid_redirect_uri"),
        ("client_name", json!("Vie\u{202e}wer 2"), "invalid_client_metadata"),
    ] {
        let mut other = body.clone();
        other[member] = value;
        refused(&registered.put(&test, &other).await, 400, error);
    }
    let rotated = registered.put(&test, &body).await.expect(200);
    assert_ne!(rotated.text_at("/client_secret"), registered.client.secret);
    assert_eq!(rotated.json()["redirect_uris"], json!(["ms-msdt:/id"]));
}

/// A disabled client, one with another redirect URI, one without logins of people, and unknown ids.
async fn clients_of_nobody(test: &TestApp) -> Vec<(String, &'static str)> {
    let off = make_app(test).await;
    let patch = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &format!("ClientApplication/{off}"), &patch).await.expect(200);
    let robots = make_app(test).await;
    let patch = json!([{ "op": "add", "path": "/grantType", "value": ["client_credentials"] }]);
    test.patch(&test.admin, &format!("ClientApplication/{robots}"), &patch).await.expect(200);
    let gone = make_app(test).await;
    test.delete(&test.admin, &format!("ClientApplication/{gone}")).await.expect(200);
    vec![
        (off, REDIRECT),
        (robots, REDIRECT),
        (gone, REDIRECT),
        (make_app(test).await, "https://app.example.test/other"),
        ("0198c2f0-1111-4222-8333-944455566677".to_owned(), REDIRECT),
        ("nonsense".to_owned(), REDIRECT),
    ]
}

#[tokio::test]
async fn the_sign_in_page_does_not_reveal_which_clients_exist() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let mut pages = Vec::new();
    for (id, redirect) in clients_of_nobody(&test).await {
        let path = authorize_path(&id, "").replace(REDIRECT, redirect);
        for method in [Method::GET, Method::POST] {
            let mut page = test.request(As::Anonymous, method, &path).send().await;
            page.headers.remove("date");
            assert_eq!((page.status.as_u16(), page.header("location")), (400, ""), "{path}");
            pages.push((page.headers, page.text));
        }
    }
    for page in &pages {
        assert_eq!(page, &pages[0]);
    }
}

#[tokio::test]
async fn a_login_does_not_reveal_which_clients_exist() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let known = make_app(&test).await;
    let log_in = async |client: &str, redirect: &str, password: &str| {
        let body =
            json!({ "email": EMAIL, "password": password, "clientId": client, "redirectUri": redirect });
        let mut answer = json_post(&test, As::Anonymous, "auth/login", &body).await;
        answer.headers.remove("date");
        (answer.status, answer.headers, answer.text)
    };
    // A caller without a password learns neither the client's requirements, such as PKCE, nor that it exists.
    let wrong = log_in(&known, REDIRECT, "not the password").await;
    assert_eq!(wrong.0, 400);
    for (id, redirect) in clients_of_nobody(&test).await {
        for password in ["not the password", PASSWORD] {
            assert_eq!(log_in(&id, redirect, password).await, wrong, "{id} {redirect}");
        }
    }
    let told = log_in(&known, REDIRECT, PASSWORD).await;
    assert!(told.0 == 400 && told.2.contains("codeChallenge is needed"), "{told:?}");
}
