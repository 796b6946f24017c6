//! Clients that register themselves (RFC 7591) and manage themselves afterwards (RFC 7592).

use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::limits::{REGISTRATION_GRANT_LIFETIME_DEFAULT, REGISTRATION_GRANT_LIFETIME_MAX};
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const REDIRECT: &str = "https://app.example.test/back";

async fn issue(test: &TestApp, who: impl Into<As>, body: &Value) -> Answer {
    let path = format!("admin/projects/{}/registration", test.project);
    test.request(who, Method::POST, &path).json(body).send().await
}

/// An initial access token of the project's admin.
pub async fn initial(test: &TestApp, body: &Value) -> As {
    As::Bearer(issue(test, &test.admin, body).await.expect(201).text_at("/initial_access_token"))
}

async fn send(test: &TestApp, who: impl Into<As>, method: Method, path: &str, body: &Value) -> Answer {
    test.request(who, method, path).body("application/json", body.to_string()).send().await
}

pub async fn register(test: &TestApp, token: &As, body: &Value) -> Answer {
    send(test, token, Method::POST, "oauth2/register", body).await
}

pub fn robot() -> Value {
    json!({ "client_name": "Nightly export", "grant_types": ["client_credentials"] })
}

/// A client that registered itself, and what lets it manage itself.
pub struct Registered {
    pub client: Credentials,
    pub path: String,
    pub token: As,
}

impl Registered {
    pub fn of(answer: &Answer) -> Self {
        let id = answer.text_at("/client_id");
        let path = answer.text_at("/registration_client_uri");
        Self {
            path: path.splitn(4, '/').nth(3).unwrap().to_owned(),
            client: Credentials { id, secret: answer.text_at("/client_secret") },
            token: As::Bearer(answer.text_at("/registration_access_token")),
        }
    }

    pub async fn new(test: &TestApp) -> Self {
        let token = initial(test, &json!({})).await;
        Self::of(&register(test, &token, &robot()).await.expect(201))
    }

    async fn get(&self, test: &TestApp) -> Answer {
        test.request(&self.token, Method::GET, &self.path).send().await
    }

    /// Sends the metadata of [`robot`], with more.
    pub async fn put(&self, test: &TestApp, more: &Value) -> Answer {
        let mut body = robot();
        body["client_id"] = json!(self.client.id);
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        send(test, &self.token, Method::PUT, &self.path, &body).await
    }

    async fn delete(&self, test: &TestApp) -> Answer {
        test.request(&self.token, Method::DELETE, &self.path).send().await
    }

    /// The client application as an admin reads it.
    async fn resource(&self, test: &TestApp) -> Value {
        test.get(&test.admin, &self.client.path()).await.expect(200).json()
    }
}

#[track_caller]
pub fn refused(answer: &Answer, status: u16, error: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.text_at("/error"), error, "{}", answer.text);
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.text_at("/error_description")
}

#[track_caller]
pub fn not_let_in(answer: &Answer) {
    refused(answer, 401, "invalid_token");
    assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
}

#[tokio::test]
async fn a_client_registers_itself_and_is_let_in() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({})).await;
    let body = json!({
        "client_name": "Nightly export",
        "client_name#de": "Export in der Nacht",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_post",
        "scope": "system/Practitioner.rs openid",
        "contacts": ["ops@example.test"],
        "client_id": "of my own choice",
        "client_secret": "of my own choice, and long enough for one",
    });
    let answer = register(&test, &token, &body).await.expect(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("content-type"), "application/json");
    let told = answer.json();
    let made = Registered::of(&answer);
    assert_eq!(told["client_id_issued_at"], test.clock.now().epoch_seconds());
    assert_eq!(told["client_secret_expires_at"], 0);
    assert_eq!(told["grant_types"], json!(["client_credentials"]));
    assert_eq!(told["response_types"], json!([]));
    assert_eq!(told["redirect_uris"], json!([]));
    assert_eq!(told["token_endpoint_auth_method"], "client_secret_post");
    assert_eq!(told["scope"], "system/Practitioner.rs openid");
    assert_eq!((&told["contacts"], &told["client_name#de"]), (&Value::Null, &Value::Null));
    assert_eq!(made.path, format!("oauth2/register/{}", made.client.id));
    assert!(made.client.secret.starts_with("krs_"));
    assert!(test.lets_in(&made.client.id, &made.client.secret).await);

    let resource = made.resource(&test).await;
    assert_eq!(resource["name"], "Nightly export");
    assert_eq!(resource["grantType"], json!(["client_credentials"]));
    assert_eq!(resource["defaultScope"], json!(["system/Practitioner.rs", "openid"]));
    assert_eq!(resource["secret"], json!(made.client.secret));
    let membership = test.membership_of(&made.client).await;
    assert_eq!(membership["project"]["reference"], json!(format!("Project/{}", test.project)));
    assert_eq!((&membership["admin"], &membership["accessPolicy"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn each_method_gives_what_it_needs() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({ "uses": 5 })).await;
    let answer = register(&test, &token, &json!({ "redirect_uris": [REDIRECT] })).await.expect(201);
    let told = answer.json();
    assert_eq!(told["grant_types"], json!(["authorization_code"]));
    assert_eq!(told["response_types"], json!(["code"]));
    assert_eq!(told["token_endpoint_auth_method"], "client_secret_basic");
    // Without the grant, its secret is for people's codes only.
    let made = Registered::of(&answer);
    assert!(test.get(&made.client, "Project").await.status == 401);
    refused(&test.grant(&made.client.id, &made.client.secret).await, 400, "unauthorized_client");

    let public = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "response_types": ["code"] });
    let told = register(&test, &token, &public).await.expect(201).json();
    assert_eq!((&told["client_secret"], &told["client_secret_expires_at"]), (&Value::Null, &Value::Null));
    assert_eq!(told["redirect_uris"], json!([REDIRECT]));

    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "k" });
    let keys = json!({
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": { "keys": [key] },
    });
    let told = register(&test, &token, &keys).await.expect(201).json();
    assert_eq!(told["client_secret"], Value::Null);
    assert_eq!(told["jwks"]["keys"], json!([key]));
}

#[tokio::test]
async fn a_token_registers_as_many_clients_as_it_says_while_it_lasts() {
    let test = TestApp::start().await;
    let once = initial(&test, &json!({})).await;
    let body = robot();
    let answers = join_all((0..8).map(|_| register(&test, &once, &body))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    answers.iter().filter(|answer| answer.status != 201).for_each(not_let_in);

    let twice = initial(&test, &json!({ "uses": 2, "lifetime": "1h" })).await;
    for _ in 0..2 {
        register(&test, &twice, &robot()).await.expect(201);
    }
    not_let_in(&register(&test, &twice, &robot()).await);

    let late = initial(&test, &json!({})).await;
    test.clock.advance(REGISTRATION_GRANT_LIFETIME_DEFAULT.saturating_sub(Duration::from_secs(1)));
    let path = format!("admin/projects/{}/registration", test.project);
    let listed = test.request(&test.admin, Method::GET, &path).send().await.expect(200).json();
    assert_eq!(listed["registrations"].as_array().unwrap().len(), 1);
    assert_eq!(listed["registrations"][0]["expires_in"], 1);
    assert_eq!(listed["registrations"][0]["initial_access_token"], Value::Null);
    test.clock.advance(Duration::from_secs(1));
    not_let_in(&register(&test, &late, &robot()).await);
}

#[tokio::test]
async fn a_token_that_was_revoked_or_is_none_registers_nobody() {
    let test = TestApp::start().await;
    let issued = issue(&test, &test.admin, &json!({ "uses": 3 })).await.expect(201);
    let token = As::Bearer(issued.text_at("/initial_access_token"));
    let made = Registered::of(&register(&test, &token, &robot()).await.expect(201));
    let path = format!("admin/projects/{}/registration/{}", test.project, issued.text_at("/id"));
    test.request(&test.member, Method::DELETE, &path).send().await.refused(403, "forbidden");
    test.request(&test.stranger, Method::DELETE, &path).send().await.refused(404, "not-found");
    test.request(&test.admin, Method::DELETE, &path).send().await.expect(204);
    test.request(&test.admin, Method::DELETE, &path).send().await.refused(404, "not-found");
    assert!(test.lets_in(&made.client.id, &made.client.secret).await);

    let not_initial = [
        token,
        As::Anonymous,
        As::Bearer("kri_".to_owned()),
        As::from(&test.admin),
        test.bearer(&test.admin).await,
        made.token.clone(),
    ];
    for who in not_initial {
        not_let_in(&register(&test, &who, &robot()).await);
    }

    let token = initial(&test, &json!({})).await;
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    test.patch(&test.super_admin, &format!("Project/{}", test.project), &off).await.expect(200);
    not_let_in(&register(&test, &token, &robot()).await);
}

#[tokio::test]
async fn the_scope_of_its_token_binds_a_registered_client_however_it_comes_in() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({ "scope": "openid system/Practitioner.rs" })).await;
    let made = Registered::of(&register(&test, &token, &robot()).await.expect(201));
    let ask = async |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        test.token(&made.client, &form).await
    };
    // An admin may take the default scope away, and the bound stays.
    let unset = json!([{ "op": "remove", "path": "/defaultScope" }]);
    test.patch(&test.admin, &made.client.path(), &unset).await.expect(200);
    assert_eq!(ask("").await.expect(200).text_at("/scope"), "openid system/Practitioner.rs");
    // Without a resource scope a token would be bound by the role alone.
    refused(&ask("openid").await, 400, "invalid_scope");
    // By Basic no scope is asked for at all.
    test.get(&made.client, "Practitioner").await.expect(200);
    test.get(&made.client, "Project").await.refused(403, "forbidden");
    let bearer = As::Bearer(ask("").await.text_at("/access_token"));
    test.get(&bearer, "Practitioner").await.expect(200);
    test.get(&bearer, "Project").await.refused(403, "forbidden");

    let mut unbound = robot();
    unbound["scope"] = json!("openid");
    let token = initial(&test, &json!({ "scope": "openid system/Practitioner.rs" })).await;
    refused(&register(&test, &token, &unbound).await, 400, "invalid_client_metadata");
}

#[tokio::test]
async fn what_is_registered_stays_within_the_bounds_of_its_token() {
    let test = TestApp::start().await;
    let policy = json!({
        "resourceType": "AccessPolicy",
        "resource": [{ "resourceType": "Practitioner", "readonly": true }],
    });
    let policy = test.post(&test.admin, "AccessPolicy", &policy).await.expect(201).text_at("/id");
    let reference = json!({ "reference": format!("AccessPolicy/{policy}") });
    let bounds = json!({
        "uses": 3,
        "accessPolicy": reference,
        "grantType": ["client_credentials"],
        "scope": "system/Practitioner.rs openid",
    });
    let token = initial(&test, &bounds).await;
    let mut people = robot();
    people["grant_types"] = json!(["client_credentials", "authorization_code"]);
    people["redirect_uris"] = json!([REDIRECT]);
    refused(&register(&test, &token, &people).await, 400, "invalid_client_metadata");
    let mut wide = robot();
    wide["scope"] = json!("openid system/*.cruds");
    refused(&register(&test, &token, &wide).await, 400, "invalid_client_metadata");

    let answer = register(&test, &token, &robot()).await.expect(201);
    assert_eq!(answer.text_at("/scope"), "system/Practitioner.rs openid");
    let made = Registered::of(&answer);
    assert_eq!(test.membership_of(&made.client).await["accessPolicy"], reference);
    assert_eq!(test.get(&made.client, "Practitioner").await.status, 200);
    test.get(&made.client, "Project").await.refused(403, "forbidden");
    // Nor does it ask for more with a token.
    let ask = async |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("scope", scope)];
        test.token(&made.client, &form).await
    };
    let granted = ask("system/Practitioner.rs system/*.rs").await.expect(200).text_at("/scope");
    assert_eq!(granted, "system/Practitioner.rs");
    for beyond in ["system/*.cruds", "openid system/*.rs", "system/Patient.rs"] {
        refused(&ask(beyond).await, 400, "invalid_scope");
    }
    refused(&made.put(&test, &json!({ "scope": "system/*.cruds" })).await, 400, "invalid_client_metadata");
    let people = json!({ "grant_types": ["authorization_code"], "redirect_uris": [REDIRECT] });
    refused(&made.put(&test, &people).await, 400, "invalid_client_metadata");

    // Without the policy, what would be made is not what the admin meant.
    test.delete(&test.admin, &format!("AccessPolicy/{policy}")).await.expect(200);
    not_let_in(&register(&test, &token, &robot()).await);
}

#[tokio::test]
async fn metadata_that_cannot_be_had_is_refused_and_uses_nothing() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({})).await;
    let redirect = "invalid_redirect_uri";
    let metadata = "invalid_client_metadata";
    for (change, error) in [
        (json!({ "redirect_uris": [] }), redirect),
        (json!({ "redirect_uris": null }), redirect),
        (json!({ "redirect_uris": ["http://app.example.test/back"] }), redirect),
        (json!({ "redirect_uris": ["https://app.example.test/#x"] }), redirect),
        (json!({ "redirect_uris": ["javascript:alert(1)"] }), redirect),
        (json!({ "redirect_uris": "https://app.example.test/" }), metadata),
        (json!({ "grant_types": ["password"] }), metadata),
        (json!({ "grant_types": [] }), metadata),
        (json!({ "grant_types": ["client_credentials"], "response_types": ["code"] }), metadata),
        (json!({ "response_types": ["token"] }), metadata),
        (json!({ "token_endpoint_auth_method": "client_secret_jwt" }), metadata),
        (json!({ "token_endpoint_auth_method": "private_key_jwt" }), metadata),
        (json!({ "token_endpoint_auth_method": "none", "grant_types": ["client_credentials"] }), metadata),
        (json!({ "token_endpoint_auth_method": "none", "jwks": { "keys": [] } }), metadata),
        (json!({ "jwks": { "keys": [] } }), metadata),
        (json!({ "jwks": "{}" }), metadata),
        (json!({ "jwks": { "keys": [] }, "jwks_uri": "https://app.example.test/keys" }), metadata),
        (json!({ "scope": "quote\"d" }), metadata),
        (json!({ "scope": 7 }), metadata),
        (json!({ "client_name": ["a", "list"] }), metadata),
        (json!({ "client_name": "x".repeat(300) }), metadata),
        (json!({ "client_name": " " }), metadata),
        (json!({ "software_statement": "e30.e30.e30" }), "unapproved_software_statement"),
    ] {
        let mut body = json!({ "client_name": "Viewer", "redirect_uris": [REDIRECT] });
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let said = refused(&register(&test, &token, &body).await, 400, error);
        assert!(!said.is_empty() && !said.contains("ClientApplication."), "{change}: {said}");
    }
    for body in ["", "{", "[]", "{\"a\":1,\"a\":2}"] {
        let answer = test.request(&token, Method::POST, "oauth2/register").body("application/json", body);
        refused(&answer.send().await, 400, metadata);
    }
    let form = test.request(&token, Method::POST, "oauth2/register").form(&[("client_name", "x")]);
    refused(&form.send().await, 415, metadata);
    let get = test.request(&token, Method::GET, "oauth2/register").send().await;
    refused(&get, 405, "invalid_request");
    assert_eq!(get.header("allow"), "POST");
    register(&test, &token, &robot()).await.expect(201);
}

#[tokio::test]
async fn a_client_reads_and_changes_what_it_registered_and_no_more() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let read = made.get(&test).await.expect(200);
    assert_eq!(read.text_at("/client_secret"), made.client.secret);
    assert_eq!(As::Bearer(read.text_at("/registration_access_token")).text(), made.token.text());

    let patch = json!([
        { "op": "add", "path": "/description", "value": "An admin's words" },
        { "op": "add", "path": "/accessTokenLifetime", "value": "5m" },
    ]);
    test.patch(&test.admin, &made.client.path(), &patch).await.expect(200);
    let body = json!({ "client_name": "Export", "scope": "openid", "client_secret": made.client.secret });
    let told = made.put(&test, &body).await.expect(200);
    assert_eq!((told.text_at("/client_name"), told.text_at("/scope")), ("Export".into(), "openid".into()));
    let resource = made.resource(&test).await;
    assert_eq!(resource["description"], "An admin's words");
    assert_eq!(resource["accessTokenLifetime"], "5m");
    assert_eq!(resource["meta"]["versionId"], json!(told.header("etag").trim_matches(['W', '/', '"'])));
    // What is left out is deleted; the same again is no new version.
    let told = made.put(&test, &json!({ "client_name": null })).await.expect(200);
    assert_eq!((&told.json()["client_name"], &told.json()["scope"]), (&Value::Null, &Value::Null));
    assert_eq!(made.resource(&test).await["name"], Value::Null);
    let again = made.put(&test, &json!({ "client_name": null })).await.expect(200);
    assert_eq!(again.header("etag"), told.header("etag"));

    for change in [
        json!({ "client_id": null }),
        json!({ "client_id": test.member.id }),
        json!({ "client_secret": "wrong" }),
        json!({ "client_secret": 1 }),
        json!({ "client_id_issued_at": 1 }),
        json!({ "client_secret_expires_at": 0 }),
        json!({ "registration_client_uri": "https://app.example.test/" }),
        json!({ "registration_access_token": made.token.text() }),
        json!({ "token_endpoint_auth_method": "none", "grant_types": ["authorization_code"], "redirect_uris": [REDIRECT] }),
        json!({ "rotate_secret": true }),
        json!({ "rotate_secret": "yes" }),
        json!({ "rotate_secret": true, "client_secret": "wrong" }),
        json!({ "retire_secret": made.client.secret }),
        json!({ "rotate_secret": true, "client_secret": made.client.secret, "retire_secret": "x" }),
    ] {
        refused(&made.put(&test, &change).await, 400, "invalid_client_metadata");
    }
    assert_eq!(made.get(&test).await.header("etag"), told.header("etag"));
    assert!(test.lets_in(&made.client.id, &made.client.secret).await);
}

#[tokio::test]
async fn a_client_rotates_and_retires_its_own_secret() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let (id, old) = (&made.client.id, &made.client.secret);
    let rotate = json!({ "client_secret": old, "rotate_secret": true });
    let answers = join_all((0..6).map(|_| made.put(&test, &rotate))).await;
    let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        refused(answer, 400, "invalid_client_metadata");
    }
    let new = won[0].text_at("/client_secret");
    assert_ne!(new, *old);
    assert!(test.lets_in(id, old).await && test.lets_in(id, &new).await);
    let resource = made.resource(&test).await;
    assert_eq!((&resource["secret"], &resource["retiringSecret"]), (&json!(new), &json!(old)));

    // The one that retires is not the current one, and the current one does not retire.
    refused(&made.put(&test, &rotate).await, 400, "invalid_client_metadata");
    refused(&made.put(&test, &json!({ "retire_secret": new })).await, 400, "invalid_client_metadata");
    made.put(&test, &json!({ "retire_secret": old })).await.expect(200);
    assert!(!test.lets_in(id, old).await && test.lets_in(id, &new).await);

    let events =
        test.get(&test.admin, &format!("AuditEvent?entity=ClientApplication/{id}")).await.resources();
    let mut codes: Vec<&str> =
        events.iter().filter_map(|event| event["subtype"][1]["code"].as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["create-secret", "read-secret", "retire-secret", "rotate-secret"], "{events:?}");
    for event in events.iter().filter(|event| event["subtype"][1]["code"] != "read-secret") {
        assert_eq!(event["agent"][0]["who"]["reference"], json!(format!("ClientApplication/{id}")));
    }
    let history = test.get(&test.admin, &format!("{}/_history", made.client.path())).await.expect(200).text;
    assert!(!history.contains(old.as_str()) && !history.contains(&new));
}

#[tokio::test]
async fn a_client_that_overwrites_a_secret_in_use_is_held_to_the_setting_of_the_project() {
    for setting in ["allow", "warn", "refuse"] {
        let test = TestApp::start().await;
        test.set(&test.project, "secretOverwrite", setting).await;
        let made = Registered::new(&test).await;
        let rotate = async |secret: &str| {
            made.put(&test, &json!({ "client_secret": secret, "rotate_secret": true })).await
        };
        let new = rotate(&made.client.secret).await.expect(200).text_at("/client_secret");
        test.bearer(&made.client).await;
        let answer = rotate(&new).await;
        assert_eq!(answer.header("warning").contains("was still in use"), setting == "warn", "{setting}");
        if setting == "refuse" {
            refused(&answer, 409, "invalid_client_metadata");
            assert!(test.lets_in(&made.client.id, &made.client.secret).await, "nothing was changed");
            continue;
        }
        answer.expect(200);
        let path = format!("AuditEvent?entity={}&subtype=overwrite-secret-in-use", made.client.path());
        let events = test.get(&test.admin, &path).await.expect(200).resources();
        assert_eq!(events.len(), usize::from(setting == "warn"), "{setting}");
    }
}

#[tokio::test]
async fn where_secrets_are_shown_once_only_the_answer_that_made_one_has_it() {
    let test = TestApp::start().await;
    test.set(&test.project, "secretVisibility", "once").await;
    let made = Registered::new(&test).await;
    let read = made.get(&test).await.expect(200).json();
    assert_eq!((&read["client_secret"], &read["client_secret_expires_at"]), (&Value::Null, &json!(0)));
    let rotate = json!({ "client_secret": made.client.secret, "rotate_secret": true });
    let new = made.put(&test, &rotate).await.expect(200).text_at("/client_secret");
    assert!(
        test.lets_in(&made.client.id, &new).await && test.lets_in(&made.client.id, &made.client.secret).await
    );
    assert_eq!(made.put(&test, &json!({})).await.expect(200).json()["client_secret"], Value::Null);
}

#[tokio::test]
async fn a_client_moves_from_keys_to_a_secret() {
    let test = TestApp::start().await;
    let token = initial(&test, &json!({})).await;
    let mut body = robot();
    body["token_endpoint_auth_method"] = json!("private_key_jwt");
    body["jwks_uri"] = json!("https://app.example.test/keys");
    let answer = register(&test, &token, &body).await.expect(201).json();
    let made = Registered {
        client: Credentials { id: answer["client_id"].as_str().unwrap().to_owned(), secret: String::new() },
        path: format!("oauth2/register/{}", answer["client_id"].as_str().unwrap()),
        token: As::Bearer(answer["registration_access_token"].as_str().unwrap().to_owned()),
    };
    let secret = made.put(&test, &json!({})).await.expect(200).text_at("/client_secret");
    assert!(test.lets_in(&made.client.id, &secret).await);
    assert_eq!(made.resource(&test).await["jwksUri"], Value::Null);
}

#[tokio::test]
async fn a_registration_access_token_is_rotated_and_the_one_before_ends() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let answer = made.put(&test, &json!({ "rotate_registration_access_token": true })).await.expect(200);
    let token = As::Bearer(answer.text_at("/registration_access_token"));
    assert_ne!(token.text(), made.token.text());
    not_let_in(&made.get(&test).await);
    not_let_in(&made.put(&test, &json!({})).await);
    not_let_in(&made.delete(&test).await);
    let made = Registered { token, ..made };
    made.get(&test).await.expect(200);
}

#[tokio::test]
async fn nobody_else_manages_a_client_and_all_are_told_the_same() {
    let test = TestApp::start().await;
    let (made, other) = (Registered::new(&test).await, Registered::new(&test).await);
    let off = Registered::new(&test).await;
    let patch = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &off.client.path(), &patch).await.expect(200);
    let alone = Registered::new(&test).await;
    test.patch_membership(&alone.client, &json!([{ "op": "add", "path": "/active", "value": false }])).await;
    let deleted = Registered::new(&test).await;
    test.delete(&test.admin, &deleted.client.path()).await.expect(200);
    let unknown = "oauth2/register/0198c2f0-1111-4222-8333-944455566677".to_owned();

    let secret = As::from(&made.client);
    let access = test.bearer(&made.client).await;
    let cases = [
        (&made.path, &other.token),
        (&made.path, &As::Anonymous),
        (&made.path, &secret),
        (&made.path, &access),
        (&unknown, &made.token),
        (&off.path, &off.token),
        (&alone.path, &alone.token),
        (&deleted.path, &deleted.token),
        // What an admin made has no such token.
        (&format!("oauth2/register/{}", test.member.id), &made.token),
        (&"oauth2/register/%ff".to_owned(), &made.token),
    ];
    let mut texts = Vec::new();
    for (path, who) in cases {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = send(&test, who, method, path, &robot()).await;
            not_let_in(&answer);
            texts.push((answer.text.clone(), answer.header("www-authenticate").to_owned()));
        }
    }
    texts.dedup();
    assert_eq!(texts.len(), 1);
    let post = send(&test, &made.token, Method::POST, &made.path, &robot()).await;
    refused(&post, 405, "invalid_request");
    assert_eq!(post.header("allow"), "GET, PUT, DELETE");
}

#[tokio::test]
async fn a_client_that_deletes_itself_is_gone_at_once() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let membership = test.membership_of(&made.client).await["id"].as_str().unwrap().to_owned();
    let bearer = test.bearer(&made.client).await;
    test.get(&bearer, "Project").await.expect(200);
    let answer = made.delete(&test).await.expect(204);
    assert_eq!(answer.text, "");
    test.get(&bearer, "Project").await.refused(401, "login");
    assert!(!test.lets_in(&made.client.id, &made.client.secret).await);
    not_let_in(&made.get(&test).await);
    not_let_in(&made.delete(&test).await);
    test.get(&test.admin, &made.client.path()).await.refused(410, "deleted");

    // Neither does anybody log in through one that needed no membership for that.
    let token = initial(&test, &json!({})).await;
    let app =
        Registered::of(&register(&test, &token, &json!({ "redirect_uris": [REDIRECT] })).await.expect(201));
    let path = format!(
        "oauth2/authorize?response_type=code&client_id={}&redirect_uri={REDIRECT}&code_challenge_method=S256&code_challenge={}",
        app.client.id,
        "A".repeat(43)
    );
    test.request(As::Anonymous, Method::GET, &path).send().await.expect(200);
    app.delete(&test).await.expect(204);
    test.request(As::Anonymous, Method::GET, &path).send().await.expect(400);
    test.get(&test.admin, &format!("ProjectMembership/{membership}")).await.refused(410, "deleted");
}

#[tokio::test]
async fn an_admin_and_the_client_itself_change_one_resource() {
    let test = TestApp::start().await;
    let made = Registered::new(&test).await;
    let etag = made.get(&test).await.header("etag").to_owned();
    // Each by its own way, at the same time: neither overwrites the other.
    let rotate = json!({ "client_secret": made.client.secret, "rotate_secret": true });
    let patch = json!([{ "op": "add", "path": "/description", "value": "An admin's words" }]);
    let resource = made.client.path();
    let (own, admin) = tokio::join!(made.put(&test, &rotate), test.patch(&test.admin, &resource, &patch));
    let new = own.expect(200).text_at("/client_secret");
    admin.expect(200);
    let resource = made.resource(&test).await;
    assert_eq!((&resource["description"], &resource["secret"]), (&json!("An admin's words"), &json!(new)));
    for method in [Method::PUT, Method::DELETE] {
        let mut body = robot();
        body["client_id"] = json!(made.client.id);
        let request = test.request(&made.token, method, &made.path).header("if-match", &etag);
        refused(&request.body("application/json", body.to_string()).send().await, 412, "invalid_request");
    }
    // What an admin rotated is the client's current secret.
    let newer =
        test.rotate(&test.admin, &made.client.id, "secret", &new).await.expect(200).text_at("/secret");
    assert_eq!(made.get(&test).await.text_at("/client_secret"), newer);
}

#[tokio::test]
async fn only_an_admin_lets_clients_register() {
    let test = TestApp::start().await;
    let path = format!("admin/projects/{}/registration", test.project);
    for method in [Method::GET, Method::POST] {
        let request = |who: As| test.request(who, method.clone(), &path).json(&json!({}));
        request(As::Anonymous).send().await.refused(401, "login");
        request((&test.member).into()).send().await.refused(403, "forbidden");
        request((&test.stranger).into()).send().await.refused(404, "not-found");
        assert!(request((&test.super_admin).into()).send().await.status.is_success());
    }
    let days = format!("{}s", REGISTRATION_GRANT_LIFETIME_MAX.as_secs() + 1);
    for body in [
        json!({ "uses": 0 }),
        json!({ "uses": 1_000_000 }),
        json!({ "uses": "1" }),
        json!({ "lifetime": days }),
        json!({ "lifetime": 60 }),
        json!({ "grantType": ["password"] }),
        json!({ "grantType": [] }),
        json!({ "grantType": ["client_credentials", 1] }),
        json!({ "scope": "" }),
        json!({ "scope": "quote\"d" }),
        json!({ "accessPolicy": { "reference": "AccessPolicy/0198c2f0-1111-4222-8333-944455566677" } }),
        json!({ "accessPolicy": "x" }),
        json!({ "expiresIn": 60 }),
    ] {
        issue(&test, &test.admin, &body).await.refused(400, "invalid");
    }
    let put = test.request(&test.admin, Method::PUT, &path).json(&json!({})).send().await;
    put.refused(405, "not-supported");
    let get = test.request(&test.admin, Method::GET, &format!("{path}/x")).send().await;
    get.refused(405, "not-supported");
    test.request(&test.admin, Method::DELETE, &format!("{path}/x")).send().await.refused(404, "not-found");
}

#[tokio::test]
async fn guessing_at_tokens_is_bounded() {
    let test = TestApp::start().await;
    let mut last = register(&test, &As::Anonymous, &robot()).await;
    for _ in 0..200 {
        last = register(&test, &As::Anonymous, &robot()).await;
        if last.status == 429 {
            break;
        }
    }
    refused(&last, 429, "temporarily_unavailable");
    assert!(!last.header("retry-after").is_empty());
}
