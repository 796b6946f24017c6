//! `POST /oauth2/token`: what a grant gives, and how each refusal looks.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, START, TestApp};
use crate::jwt;

const GRANT: (&str, &str) = ("grant_type", "client_credentials");

async fn grant_with_scope(test: &TestApp, client: &Credentials, scope: &str) -> Answer {
    test.token(client, &[GRANT, ("scope", scope)]).await
}

/// A token of this client for a scope.
async fn scoped(test: &TestApp, client: &Credentials, scope: &str) -> As {
    As::Bearer(grant_with_scope(test, client, scope).await.expect(200).text_at("/access_token"))
}

async fn patch(test: &TestApp, path: &str, element: &str, value: Value) -> Answer {
    let operations = json!([{ "op": "add", "path": format!("/{element}"), "value": value }]);
    test.patch(&test.super_admin, path, &operations).await
}

#[track_caller]
fn oauth_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.text_at("/error"), code, "{}", answer.text);
    assert!(!answer.text_at("/error_description").is_empty());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_grant_names_its_project_and_profile() {
    let test = TestApp::start().await;
    let answer = test.grant(&test.member.id, &test.member.secret).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.json(),
        json!({
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "openid",
            "access_token": answer.text_at("/access_token"),
            "project": { "reference": format!("Project/{}", test.project), "display": "Clinic" },
            "profile": { "reference": test.member.path(), "display": "Reader" },
        })
    );
}

#[tokio::test]
async fn the_token_is_signed_by_a_published_key_and_carries_its_claims() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let token = test.grant(&client.id, &client.secret).await.expect(200).text_at("/access_token");
    let jwks = test.request(As::Anonymous, Method::GET, ".well-known/jwks.json").send().await.expect(200);
    let issuer = format!("http://{}/", test.address);
    let claims = jwt::verify(&token, &jwks.json(), &issuer);

    let claim = |name: &str| claims[name].as_str().unwrap_or_else(|| panic!("{name} in {claims}")).to_owned();
    let now = START.epoch_seconds();
    assert_eq!(
        claims,
        json!({
            "iss": issuer,
            "sub": client.id,
            "aud": issuer,
            "client_id": client.id,
            "login_id": claim("login_id"),
            "username": client.id,
            "scope": "openid",
            "profile": client.path(),
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "jti": claim("jti"),
            "sid": claim("sid"),
        })
    );
    assert_eq!(jwt::header(&token)["typ"], "at+jwt");

    let again = test.grant(&client.id, &client.secret).await.expect(200).text_at("/access_token");
    let again = jwt::verify(&again, &jwks.json(), &issuer);
    assert_ne!(again["jti"], claims["jti"]);
    assert_eq!(again["sid"], claims["sid"]);
    let new = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.text_at("/secret");
    let by_new = test.grant(&client.id, &new).await.expect(200).text_at("/access_token");
    let by_old = test.grant(&client.id, &client.secret).await.expect(200).text_at("/access_token");
    assert_ne!(jwt::verify(&by_new, &jwks.json(), &issuer)["sid"], claims["sid"]);
    assert_eq!(jwt::verify(&by_old, &jwks.json(), &issuer)["sid"], claims["sid"]);
}

#[tokio::test]
async fn every_refusal_has_one_body() {
    let test = TestApp::start().await;
    let client = async |name: &str| test.make_client(&test.project, name).await;
    let (off, deleted) = (client("Off").await, client("Deleted").await);
    let (blocked, suspended) = (client("Blocked").await, client("Suspended").await);
    patch(&test, &off.path(), "status", json!("off")).await.expect(200);
    test.delete(&test.admin, &deleted.path()).await.expect(200);
    let rules = json!([{ "value": "*", "action": "block" }]);
    test.put_under_policy(&blocked, &json!({ "ipAccessRule": rules })).await;
    test.patch_membership(&suspended, &json!([{ "op": "add", "path": "/active", "value": false }])).await;
    let secret = "written directly and long enough for the policy";
    let body = json!({ "resourceType": "ClientApplication", "secret": secret });
    let id = test.post(&test.admin, "ClientApplication", &body).await.expect(201).text_at("/id");
    let homeless = Credentials { id, secret: secret.to_owned() };
    let closed = test.make_project("Closed").await;
    let of_closed = test.make_client(&closed, "Of a closed project").await;
    patch(&test, &format!("Project/{closed}"), "active", json!(false)).await.expect(200);
    let id = "0198c2f0-1111-4222-8333-944455566677".to_owned();
    let unknown = Credentials { id, secret: test.member.secret.clone() };
    let malformed = Credentials { id: "me".to_owned(), secret: test.member.secret.clone() };
    let wrong = [test.member.with("wrong"), test.member.with(&test.admin.secret)];

    let mut bodies = Vec::new();
    let refused = [off, deleted, blocked, suspended, homeless, of_closed, unknown, malformed];
    for client in refused.iter().chain(&wrong) {
        let by_form = test.grant(&client.id, &client.secret).await;
        oauth_error(&by_form, 401, "invalid_client");
        assert!(by_form.headers.get("www-authenticate").is_none());
        let by_basic = test.token(client, &[GRANT]).await;
        oauth_error(&by_basic, 401, "invalid_client");
        assert!(by_basic.header("www-authenticate").starts_with("Basic "), "{:?}", by_basic.headers);
        bodies.extend([by_form.text, by_basic.text]);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

#[tokio::test]
async fn a_request_that_is_not_well_formed_is_refused_before_any_secret_is_tried() {
    let test = TestApp::start().await;
    let (id, secret) = (test.member.id.as_str(), test.member.secret.as_str());
    let (client_id, client_secret) = (("client_id", id), ("client_secret", secret));
    for form in [
        &[client_id, client_secret][..],
        &[GRANT, client_secret],
        &[GRANT, client_id],
        &[GRANT],
        &[],
        &[GRANT, client_id, client_secret, client_secret],
        &[GRANT, client_id, client_id, client_secret],
        &[GRANT, GRANT, client_id, client_secret],
        &[GRANT, client_id, client_secret, ("scope", "openid"), ("scope", "openid")],
        &[GRANT, client_id, client_secret, ("other", "1"), ("other", "2")],
        // A parameter without a value is not there (RFC 6749 §3.2).
        &[("grant_type", ""), client_id, client_secret],
        &[GRANT, ("client_id", ""), client_secret],
        &[GRANT, client_id, ("client_secret", "")],
    ] {
        let answer = test.token(As::Anonymous, form).await;
        oauth_error(&answer, 400, "invalid_request");
        assert!(!answer.text.contains(secret), "{}", answer.text);
    }
    for name in ["client_id", "client_secret"] {
        let path = format!("oauth2/token?{name}=x");
        let request = test.request(As::Anonymous, Method::POST, &path);
        let answer = request.form(&[GRANT, client_id, client_secret]).send().await;
        oauth_error(&answer, 400, "invalid_request");
    }
    let as_json = json!({ "grant_type": "client_credentials", "client_id": id, "client_secret": secret });
    let request = test.request(As::Anonymous, Method::POST, "oauth2/token");
    oauth_error(&request.body("application/json", as_json.to_string()).send().await, 400, "invalid_request");
    test.grant(id, secret).await.expect(200);
}

#[tokio::test]
async fn basic_and_body_must_not_disagree() {
    let test = TestApp::start().await;
    let client = &test.member;
    let (id, secret) = (("client_id", client.id.as_str()), ("client_secret", client.secret.as_str()));
    for form in [
        &[GRANT, id, ("client_secret", "another")][..],
        &[GRANT, ("client_id", &test.admin.id), secret],
        &[GRANT, ("client_id", &test.admin.id), ("client_secret", &test.admin.secret)],
        &[GRANT, ("client_id", &test.admin.id)],
        &[GRANT, secret],
    ] {
        oauth_error(&test.token(client, form).await, 400, "invalid_request");
    }
    // Medplum's command line says the same thing twice.
    test.token(client, &[GRANT, id, secret]).await.expect(200);
    test.token(client, &[GRANT, id]).await.expect(200);
    test.token(client, &[GRANT, id, ("client_secret", "")]).await.expect(200);
    let wrong = client.with("wrong");
    let twice_wrong = test.token(&wrong, &[GRANT, id, ("client_secret", "wrong")]).await;
    oauth_error(&twice_wrong, 401, "invalid_client");
}

#[tokio::test]
async fn only_post_and_only_known_grants() {
    let test = TestApp::start().await;
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = test.request(&test.member, method, "oauth2/token").send().await;
        oauth_error(&answer, 405, "invalid_request");
        assert_eq!(answer.header("allow"), "POST");
    }
    for grant in ["password", "CLIENT_CREDENTIALS", "urn:ietf:params:oauth:grant-type:device_code"] {
        let answer = test.token(&test.member, &[("grant_type", grant)]).await;
        oauth_error(&answer, 400, "unsupported_grant_type");
    }
}

#[tokio::test]
async fn a_client_may_use_only_the_grants_it_names() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Web app").await;
    let path = client.path();
    patch(&test, &path, "grantType", json!(["authorization_code", "refresh_token"])).await.expect(200);
    oauth_error(&test.grant(&client.id, &client.secret).await, 400, "unauthorized_client");
    // That is for who knows the secret to know.
    oauth_error(&test.grant(&client.id, "wrong").await, 401, "invalid_client");
    patch(&test, &path, "grantType", json!(["authorization_code", "client_credentials"])).await.expect(200);
    test.grant(&client.id, &client.secret).await.expect(200);
}

#[tokio::test]
async fn a_scope_binds_its_token() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let reader = scoped(&test, &test.admin, "openid system/ClientApplication.read").await;
    test.get(&reader, &client.path()).await.expect(200);
    test.get(&reader, "ClientApplication").await.expect(200);
    test.get(&reader, &format!("Project/{}", test.project)).await.refused(403, "forbidden");
    test.rotate(&reader, &client.id, "secret", &client.secret).await.refused(403, "forbidden");
    let renamed = json!([{ "op": "add", "path": "/name", "value": "Renamed" }]);
    test.patch(&reader, &client.path(), &renamed).await.refused(403, "forbidden");
    test.delete(&reader, &client.path()).await.refused(403, "forbidden");
    let path = format!("admin/projects/{}/client", test.project);
    let create = test.request(&reader, Method::POST, &path).json(&json!({ "name": "More" }));
    create.send().await.refused(403, "forbidden");
    let url = format!("{}/$rotate-secret", client.path());
    let entry =
        json!({ "request": { "method": "POST", "url": url }, "resource": { "secret": client.secret } });
    let bundle = json!({ "resourceType": "Bundle", "type": "batch", "entry": [entry] });
    let batch = test.post(&reader, "", &bundle).await.expect(200);
    assert_eq!(batch.text_at("/entry/0/response/status"), "403");

    let updater = scoped(&test, &test.admin, "system/ClientApplication.u").await;
    test.get(&updater, &client.path()).await.refused(403, "forbidden");
    test.rotate(&updater, &client.id, "secret", &client.secret).await.expect(200);
    // A scope never widens.
    let wide = scoped(&test, &test.member, "system/*.*").await;
    test.patch(&wide, &client.path(), &renamed).await.refused(403, "forbidden");
    // Nor does it reach beyond its query.
    let narrow = scoped(&test, &test.admin, "system/ClientApplication.rus?name=read").await;
    test.get(&narrow, &client.path()).await.refused(404, "not-found");
    test.patch(&narrow, &client.path(), &renamed).await.refused(404, "not-found");
    test.rotate(&narrow, &client.id, "secret", &client.secret).await.refused(404, "not-found");
    test.get(&narrow, &test.member.path()).await.expect(200);
    let found = test.get(&narrow, "ClientApplication?_total=accurate").await.expect(200);
    assert_eq!((found.json()["total"].clone(), found.resources().len()), (json!(1), 1));
}

#[tokio::test]
async fn the_scope_is_what_was_asked_for_or_the_default() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    let answer = grant_with_scope(&test, &client, " openid   system/*.read ").await.expect(200);
    assert_eq!(answer.text_at("/scope"), "openid system/*.read");
    let scope = json!(["openid", "system/ClientApplication.read"]);
    patch(&test, &client.path(), "defaultScope", scope).await.expect(200);
    for form in [&[GRANT][..], &[GRANT, ("scope", "")]] {
        let answer = test.token(&client, form).await.expect(200);
        assert_eq!(answer.text_at("/scope"), "openid system/ClientApplication.read");
        let token = As::Bearer(answer.text_at("/access_token"));
        test.get(&token, &client.path()).await.expect(200);
        test.get(&token, "Project").await.refused(403, "forbidden");
    }
    for scope in ["a\"b", "a\\b", "é", "a\nb", &"x".repeat(2049)] {
        oauth_error(&grant_with_scope(&test, &client, scope).await, 400, "invalid_scope");
    }
}

/// What is granted, or the error.
async fn granted(test: &TestApp, client: &Credentials, scope: &str) -> String {
    let answer = grant_with_scope(test, client, scope).await;
    if answer.status == 200 { answer.text_at("/scope") } else { answer.text_at("/error") }
}

#[tokio::test]
async fn no_more_is_granted_than_one_may_have() {
    let test = TestApp::start().await;
    for (who, asked, expected) in [
        (&test.admin, "system/ClientApplication.cruds", "system/ClientApplication.cruds"),
        (&test.admin, "system/Project.cruds", "system/Project.rus"),
        (&test.member, "system/ClientApplication.cruds", "system/ClientApplication.rs"),
        (&test.member, "openid system/ClientApplication.*", "openid system/ClientApplication.rs"),
        (&test.member, "system/ClientApplication.write", "invalid_scope"),
        (&test.member, "openid system/User.rs", "invalid_scope"),
        (&test.member, "system/User.rs system/Project.rs", "system/Project.rs"),
        (
            &test.member,
            "system/Patient.rs system/Observation.cruds",
            "system/Patient.rs system/Observation.cruds",
        ),
        (&test.member, "user/ClientApplication.rs", "invalid_scope"),
        (&test.member, "openid patient/Patient.rs", "invalid_scope"),
        (&test.member, "openid shoes fhirUser", "openid fhirUser"),
        (&test.member, "shoes", "invalid_scope"),
        (&test.member, "system/ClientApplication.rs?colour=red", "invalid_scope"),
    ] {
        assert_eq!(granted(&test, who, asked).await, expected, "{asked}");
    }
    let narrow = json!({ "resource": [
        { "resourceType": "ClientApplication", "interaction": ["read", "update"] },
        { "resourceType": "Project", "criteria": "Project?name=x", "readonly": true },
    ] });
    test.put_under_policy(&test.admin, &narrow).await;
    let asked = "system/ClientApplication.cruds?name=a system/Project.rs system/AccessPolicy.rs";
    assert_eq!(
        granted(&test, &test.admin, asked).await,
        "system/ClientApplication.ru?name=a system/Project.rs"
    );
    // Other FHIR servers read tokens too: of their types a policy allows what it allows of all.
    assert_eq!(granted(&test, &test.admin, "system/Patient.rs").await, "invalid_scope");
    assert_eq!(
        granted(&test, &test.admin, "system/*.ru").await,
        "system/Project.r system/ClientApplication.ru"
    );
    // A default scope is a wish as any other.
    patch(&test, &test.member.path(), "defaultScope", json!(["user/*.rs", "system/ClientApplication.crs"]))
        .await
        .expect(200);
    let answer = test.grant(&test.member.id, &test.member.secret).await.expect(200);
    assert_eq!(answer.text_at("/scope"), "system/ClientApplication.rs");
    assert_eq!(granted(&test, &test.member, "system/Project.rs").await, "system/Project.rs");
    patch(&test, &test.member.path(), "defaultScope", json!(["openid", "user/*.rs"])).await.expect(200);
    oauth_error(&test.grant(&test.member.id, &test.member.secret).await, 400, "invalid_scope");
}

#[tokio::test]
async fn a_default_scope_that_cannot_be_read_never_means_no_bound() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    for scope in
        [json!(["system/ClientApplication.read", "a\"b"]), json!(["x".repeat(2000), "y".repeat(100)])]
    {
        let answer = patch(&test, &client.path(), "defaultScope", scope).await;
        answer.refused(400, "invalid");
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.defaultScope");
    }
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_client_says() {
    let test = TestApp::start().await;
    let client = test.make_client(&test.project, "Nightly export").await;
    patch(&test, &client.path(), "accessTokenLifetime", json!("90s")).await.expect(200);
    let answer = test.grant(&client.id, &client.secret).await.expect(200);
    assert_eq!(answer.json()["expires_in"], 90);
    let token = As::Bearer(answer.text_at("/access_token"));
    test.clock.advance(Duration::from_secs(89));
    test.get(&token, &client.path()).await.expect(200);
    test.clock.advance(Duration::from_secs(1));
    test.get(&token, &client.path()).await.refused(401, "login");

    for lifetime in ["25h", "1", "0s", "-1h"] {
        let answer = patch(&test, &client.path(), "accessTokenLifetime", json!(lifetime)).await;
        assert_eq!(answer.status, 400, "{lifetime}: {}", answer.text);
        assert_eq!(answer.text_at("/issue/0/expression/0"), "ClientApplication.accessTokenLifetime");
    }
}
