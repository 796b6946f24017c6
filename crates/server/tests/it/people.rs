//! People: invited, logging in through an application or in a browser, with what they then may do, and
//! how it ends.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::limits::{CODE_LIFETIME, LOGIN_FAILURES_FREE, REFRESH_GRACE};
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

pub const EMAIL: &str = "ann@example.test";
pub const PASSWORD: &str = "four plain words here";
pub const REDIRECT: &str = "https://app.example.test/back";
pub const VERIFIER: &str = "0123456789-0123456789-0123456789-0123456789";

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()))
}

/// Where a link leads, below the base URL.
pub fn path_of(link: &str) -> &str {
    link.splitn(4, '/').nth(3).unwrap()
}

pub async fn invite(test: &TestApp, body: &Value) -> Answer {
    let path = format!("admin/projects/{}/invite", test.project);
    test.request(&test.admin, Method::POST, &path).json(body).send().await
}

pub fn ann() -> Value {
    json!({ "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": EMAIL })
}

/// A person of the project who has a password; gives the membership.
pub async fn make_ann(test: &TestApp, admin: bool) -> Value {
    let mut body = ann();
    body["password"] = json!(PASSWORD);
    body["membership"] = json!({ "admin": admin });
    invite(test, &body).await.expect(200).json()
}

/// A public application of the project.
pub async fn make_app(test: &TestApp) -> String {
    let body = json!({ "resourceType": "ClientApplication", "name": "Viewer", "redirectUris": [REDIRECT] });
    test.post(&test.admin, "ClientApplication", &body).await.expect(201).text_at("/id")
}

pub async fn json_post(test: &TestApp, who: impl Into<As>, path: &str, body: &Value) -> Answer {
    test.request(who, Method::POST, path).body("application/json", body.to_string()).send().await
}

pub async fn log_in(test: &TestApp, password: &str) -> Answer {
    json_post(test, As::Anonymous, "auth/login", &json!({ "email": EMAIL, "password": password })).await
}

pub async fn redeem(test: &TestApp, code: &str) -> Answer {
    let form = [("grant_type", "authorization_code"), ("code", code)];
    test.token(As::Anonymous, &form).await
}

/// A login without an application, and its token.
pub async fn token(test: &TestApp) -> As {
    let code = log_in(test, PASSWORD).await.expect(200).text_at("/code");
    As::Bearer(redeem(test, &code).await.expect(200).text_at("/access_token"))
}

pub fn authorize_path(client: &str, more: &str) -> String {
    let challenge = challenge();
    format!(
        "oauth2/authorize?response_type=code&client_id={client}&redirect_uri={REDIRECT}&state=xyz&nonce=n1\
         &code_challenge={challenge}&code_challenge_method=S256{more}"
    )
}

/// What a browser does with a form, without following where it leads.
pub async fn submit(test: &TestApp, path: &str, cookie: &str, form: &[(&str, &str)]) -> Answer {
    let request = test.request(As::Anonymous, Method::POST, path).form(form);
    request.header("cookie", cookie).header("origin", &format!("http://{}", test.address)).send().await
}

/// The mark of the login that a page's form sends along.
pub fn mark_of(page: &Answer) -> &str {
    let (_, rest) =
        page.text.split_once("name=\"login\" value=\"").unwrap_or_else(|| panic!("{}", page.text));
    rest.split_once('"').unwrap().0
}

/// What a browser sends when a person decides on a page for consent.
pub fn decide<'a>(page: &'a Answer, decision: &'static str) -> [(&'static str, &'a str); 3] {
    [("step", "consent"), ("login", mark_of(page)), ("decision", decision)]
}

pub fn cookie_of(answer: &Answer) -> String {
    answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
}

/// A parameter of the redirect.
pub fn returned(answer: &Answer, name: &str) -> String {
    assert_eq!(answer.status, 303, "{}", answer.text);
    let location = answer.header("location");
    assert!(location.starts_with(REDIRECT), "{location}");
    let query = location.split_once('?').unwrap().1;
    let found = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("no {name} in {location}")).1.into_owned()
}

/// Logs in by the pages, up to the code.
pub async fn browse(test: &TestApp, client: &str, more: &str) -> String {
    let path = authorize_path(client, more);
    let page = test.request(As::Anonymous, Method::GET, &path).send().await.expect(200);
    assert!(page.text.contains("Viewer") && !page.text.contains("<script"));
    let form = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
    let page = submit(test, &path, "", &form).await.expect(200);
    assert!(page.text.contains("Allow"), "{}", page.text);
    let answer = submit(test, &path, &cookie_of(&page), &decide(&page, "allow")).await;
    assert_eq!(returned(&answer, "state"), "xyz");
    assert_eq!(returned(&answer, "iss"), format!("http://{}/", test.address));
    returned(&answer, "code")
}

pub async fn redeem_for(test: &TestApp, client: &str, code: &str, verifier: &str, redirect: &str) -> Answer {
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code),
        ("code_verifier", verifier),
        ("redirect_uri", redirect),
    ];
    test.token(As::Anonymous, &form).await
}

pub async fn refresh(test: &TestApp, client: &str, token: &str) -> Answer {
    let form = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
    test.token(As::Anonymous, &form).await
}

pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[track_caller]
pub fn grant_refused(answer: &Answer) {
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert_eq!(answer.text_at("/error"), "invalid_grant");
}

#[tokio::test]
async fn an_invited_person_sets_a_password_once_and_logs_in() {
    let test = TestApp::start().await;
    let answer = invite(&test, &ann()).await.expect(200);
    assert_eq!(answer.text_at("/resourceType"), "ProjectMembership");
    assert_eq!(answer.header("cache-control"), "no-store");
    let link = answer.text_at("/extension/0/valueUrl");
    let stored = test.get(&test.admin, &format!("ProjectMembership/{}", answer.text_at("/id"))).await;
    assert_eq!(stored.expect(200).json()["extension"], Value::Null);
    log_in(&test, PASSWORD).await.refused(400, "invalid");

    let path = path_of(&link);
    let page = test.request(As::Anonymous, Method::GET, path).send().await.expect(200);
    assert!(
        page.text.contains(EMAIL) && page.header("content-security-policy").contains("default-src 'none'")
    );
    for (password, again) in
        [("short", "short"), (PASSWORD, "another one here"), ("password123", "password123")]
    {
        submit(&test, path, "", &[("password", password), ("again", again)]).await.expect(400);
    }
    let form = [("password", PASSWORD), ("again", PASSWORD)];
    let elsewhere = test.request(As::Anonymous, Method::POST, path).form(&form);
    elsewhere.header("origin", "https://evil.example.test").send().await.expect(403);
    submit(&test, path, "", &form).await.expect(200);
    submit(&test, path, "", &form).await.expect(404);
    test.request(As::Anonymous, Method::GET, path).send().await.expect(404);

    let me = test.request(&token(&test).await, Method::GET, "auth/me").send().await.expect(200).json();
    assert_eq!(me["user"]["email"], EMAIL);
    assert_eq!(me["profile"]["resourceType"], "Practitioner");
    assert_eq!(me["role"], "member");
    // Invited again, the person is a member already.
    invite(&test, &ann()).await.refused(409, "conflict");
}

#[tokio::test]
async fn only_an_admin_of_the_project_invites() {
    let test = TestApp::start().await;
    let path = format!("admin/projects/{}/invite", test.project);
    for (who, status) in [(&test.member, 403), (&test.stranger, 404)] {
        test.request(who, Method::POST, &path).json(&ann()).send().await.expect(status);
    }
    test.request(As::Anonymous, Method::POST, &path).json(&ann()).send().await.expect(401);
    for (name, value) in [
        ("email", json!("nobody")),
        ("firstName", json!("")),
        ("resourceType", json!("Patient")),
        ("password", json!("short")),
        ("scope", json!("server")),
        ("nonsense", json!(true)),
    ] {
        let mut body = ann();
        body[name] = value;
        invite(&test, &body).await.expect(400);
    }
    let users = test.get(&test.admin, "User").await.expect(200);
    assert!(users.resources().is_empty());
    test.get(&test.member, "User").await.refused(403, "forbidden");
}

#[tokio::test]
async fn every_way_of_not_being_let_in_looks_the_same() {
    let test = TestApp::start().await;
    let membership = make_ann(&test, false).await;
    let wrong = log_in(&test, "not the password").await;
    wrong.refused(400, "invalid");
    let body = json!({ "email": "nobody@example.test", "password": PASSWORD });
    assert_eq!(json_post(&test, As::Anonymous, "auth/login", &body).await.text, wrong.text);
    let path = format!("ProjectMembership/{}", membership["id"].as_str().unwrap());
    let off = json!([{ "op": "add", "path": "/active", "value": false }]);
    test.patch(&test.admin, &path, &off).await.expect(200);
    assert_eq!(log_in(&test, PASSWORD).await.text, wrong.text);
}

#[tokio::test]
async fn too_many_failures_make_an_account_wait_for_a_while() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    for _ in 0..=LOGIN_FAILURES_FREE {
        log_in(&test, "not the password").await.expect(400);
    }
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    test.clock.advance(Duration::from_secs(2));
    log_in(&test, PASSWORD).await.expect(200);
    // Forgiven: the next failure is free again.
    log_in(&test, "not the password").await.expect(400);
    log_in(&test, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_code_works_once_and_a_second_use_ends_what_it_gave() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let code = log_in(&test, PASSWORD).await.expect(200).text_at("/code");
    let bearer = As::Bearer(redeem(&test, &code).await.expect(200).text_at("/access_token"));
    test.get(&bearer, "Practitioner").await.expect(200);
    grant_refused(&redeem(&test, &code).await);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
    let late = log_in(&test, PASSWORD).await.expect(200).text_at("/code");
    test.clock.advance(CODE_LIFETIME);
    grant_refused(&redeem(&test, &late).await);
    for wrong in ["x", "krc_AAAA", code.replace("krc_", "krr_").as_str()] {
        grant_refused(&redeem(&test, wrong).await);
    }
}

#[tokio::test]
async fn a_browser_logs_a_person_in_and_comes_back_with_a_code() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let code = browse(&test, &client, "&scope=openid+fhirUser+offline_access+user/*.read").await;
    grant_refused(&redeem_for(&test, &client, &code, &VERIFIER.replace('0', "1"), REDIRECT).await);
    grant_refused(&redeem_for(&test, &client, &code, VERIFIER, "https://app.example.test/other").await);
    let other = make_app(&test).await;
    grant_refused(&redeem_for(&test, &other, &code, VERIFIER, REDIRECT).await);
    let answer = redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await.expect(200);
    let id_token = claims(&answer.text_at("/id_token"));
    assert_eq!((&id_token["aud"], &id_token["nonce"]), (&json!(client), &json!("n1")));
    assert!(id_token["fhirUser"].as_str().unwrap().contains("/fhir/R4/Practitioner/"));
    let access_token = answer.text_at("/access_token");
    assert_eq!(claims(&access_token)["client_id"], json!(client));
    assert_eq!(claims(&access_token)["sub"], id_token["sub"]);
    let bearer = As::Bearer(access_token);
    let info = test.request(&bearer, Method::GET, "oauth2/userinfo").send().await.expect(200).json();
    assert_eq!((&info["sub"], &info["fhirUser"]), (&id_token["sub"], &id_token["fhirUser"]));
    test.get(&bearer, "Practitioner").await.expect(200);
    // An ID token is no access token.
    test.get(&As::Bearer(answer.text_at("/id_token")), "Practitioner").await.refused(401, "login");
}

#[tokio::test]
async fn refresh_tokens_rotate_and_an_old_one_ends_the_login() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let code = browse(&test, &client, "&scope=openid+offline_access").await;
    let first = redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await.expect(200);
    let (one, bearer) = (first.text_at("/refresh_token"), As::Bearer(first.text_at("/access_token")));
    let two = refresh(&test, &client, &one).await.expect(200).text_at("/refresh_token");
    assert_ne!(one, two);
    // The reply was lost: asked again at once, the same is given.
    assert_eq!(refresh(&test, &client, &one).await.expect(200).text_at("/refresh_token"), two);
    let three = refresh(&test, &client, &two).await.expect(200).text_at("/refresh_token");
    let form = [("grant_type", "refresh_token"), ("refresh_token", three.as_str())];
    grant_refused(&test.token(As::Anonymous, &form).await);
    let wide = [
        ("grant_type", "refresh_token"),
        ("client_id", client.as_str()),
        ("refresh_token", three.as_str()),
        ("scope", "openid user/*.cruds"),
    ];
    let answer = test.token(As::Anonymous, &wide).await;
    assert_eq!((answer.status.as_u16(), answer.text_at("/error").as_str()), (400, "invalid_scope"));
    test.clock.advance(REFRESH_GRACE + Duration::from_millis(1));
    test.get(&bearer, "Practitioner").await.expect(200);
    grant_refused(&refresh(&test, &client, &two).await);
    grant_refused(&refresh(&test, &client, &three).await);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
}

#[tokio::test]
async fn a_person_is_granted_what_a_person_may_have() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let asked = "&scope=openid+shoes+offline_access+user/ClientApplication.cruds+system/*.rs+user/Patient.rs";
    let code = browse(&test, &client, asked).await;
    let first = redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await.expect(200);
    let granted = "openid offline_access user/ClientApplication.rs user/Patient.rs";
    assert_eq!(first.text_at("/scope"), granted);
    assert_eq!(claims(&first.text_at("/access_token"))["scope"], json!(granted));
    let bearer = As::Bearer(first.text_at("/access_token"));
    test.get(&bearer, "ClientApplication").await.expect(200);
    test.get(&bearer, "Practitioner").await.refused(403, "forbidden");
    let mut token = first.text_at("/refresh_token");
    for (asked, expected) in [
        ("", granted),
        (granted, granted),
        ("user/ClientApplication.cruds", "user/ClientApplication.rs"),
        ("openid user/Patient.rs", "openid user/Patient.rs"),
    ] {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &client),
            ("refresh_token", &token),
            ("scope", asked),
        ];
        let answer = test.token(As::Anonymous, &form).await.expect(200);
        assert_eq!(answer.text_at("/scope"), expected, "{asked}");
        token = answer.text_at("/refresh_token");
    }
    // Without a resource scope the token would be bound by nothing but the person's role.
    for wider in ["openid", "offline_access openid"] {
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &client),
            ("refresh_token", &token),
            ("scope", wider),
        ];
        let answer = test.token(As::Anonymous, &form).await;
        assert_eq!((answer.status.as_u16(), answer.text_at("/error").as_str()), (400, "invalid_scope"));
    }
    let answer =
        test.request(As::Anonymous, Method::GET, &authorize_path(&client, "&scope=system/*.rs")).send().await;
    assert!(answer.header("location").contains("error=invalid_scope"), "{}", answer.header("location"));
}

#[tokio::test]
async fn a_login_ends_at_once_with_what_it_rests_on() {
    let test = TestApp::start().await;
    let membership = make_ann(&test, false).await;
    let user = membership["user"]["reference"].as_str().unwrap();
    let off = |value: bool| json!([{ "op": "add", "path": "/active", "value": value }]);
    for path in [user.to_owned(), format!("ProjectMembership/{}", membership["id"].as_str().unwrap())] {
        let bearer = token(&test).await;
        test.get(&bearer, "Practitioner").await.expect(200);
        test.patch(&test.admin, &path, &off(false)).await.expect(200);
        test.get(&bearer, "Practitioner").await.refused(401, "login");
        test.patch(&test.admin, &path, &off(true)).await.expect(200);
        test.get(&bearer, "Practitioner").await.expect(200);
    }
    let bearer = token(&test).await;
    test.request(&bearer, Method::POST, "oauth2/logout").json(&json!({})).send().await.expect(200);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
    let bearer = token(&test).await;
    test.delete(&test.admin, user).await.expect(200);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
}

#[tokio::test]
async fn a_bad_request_is_told_to_the_client_only_where_it_registered() {
    let test = TestApp::start().await;
    let client = make_app(&test).await;
    let get = |path: String| {
        let test = &test;
        async move { test.request(As::Anonymous, Method::GET, &path).send().await }
    };
    for path in [
        "oauth2/authorize".to_owned(),
        format!("oauth2/authorize?response_type=code&client_id={client}"),
        authorize_path(&client, "").replace("/back", "/back2"),
        authorize_path(&client, "&state=again"),
        authorize_path("0198c2f0-1111-4222-8333-944455566677", ""),
    ] {
        let answer = get(path.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (400, ""), "{path}");
    }
    for (path, error) in [
        (authorize_path(&client, "").replace("type=code", "type=token"), "unsupported_response_type"),
        (authorize_path(&client, "").replace("S256", "plain"), "invalid_request"),
        (authorize_path(&client, "").replace("code_challenge=", "x="), "invalid_request"),
        (authorize_path(&client, "&aud=https://elsewhere.example.test"), "invalid_request"),
        (authorize_path(&client, "&prompt=none"), "login_required"),
        (authorize_path(&client, "&scope=%22"), "invalid_scope"),
    ] {
        let answer = get(path).await;
        assert_eq!(returned(&answer, "error"), error);
        assert_eq!(returned(&answer, "state"), "xyz");
    }
}

#[tokio::test]
async fn consent_is_asked_of_the_browser_that_logged_in_and_for_what_was_shown() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let path = authorize_path(&client, "&scope=openid");
    let form = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
    let foreign = test.request(As::Anonymous, Method::POST, &path).form(&form);
    foreign.header("origin", "https://evil.example.test").send().await.expect(403);
    submit(&test, &path, "", &[("step", "sign-in"), ("email", EMAIL), ("password", "wrong wrong")])
        .await
        .expect(400);
    let page = submit(&test, &path, "", &form).await.expect(200);
    let cookie = cookie_of(&page);
    assert!(page.header("set-cookie").contains("HttpOnly; SameSite=Lax"));
    // Without resource scopes a token is bound by nothing but the person's role, and that is said.
    let everything = "Do everything that you may do here";
    assert!(page.text.contains(everything) && page.text.contains("Know that it is you"), "{}", page.text);
    let narrow = authorize_path(&client, "&scope=openid+user/Practitioner.rs");
    let narrow = submit(&test, &narrow, "", &form).await.expect(200);
    assert!(!narrow.text.contains(everything) && narrow.text.contains("user/Practitioner.rs"));
    let allow = decide(&page, "allow");
    submit(&test, &path, "", &allow).await.expect(400);
    // Agreed to `openid`; another scope, or another application, was not asked about.
    let wider = authorize_path(&client, "&scope=openid+user/*.cruds");
    submit(&test, &wider, &cookie, &allow).await.expect(400);
    let other = authorize_path(&make_app(&test).await, "&scope=openid");
    submit(&test, &other, &cookie, &allow).await.expect(400);
    let denied = submit(&test, &path, &cookie, &decide(&page, "deny")).await;
    assert_eq!(returned(&denied, "error"), "access_denied");
    submit(&test, &path, &cookie, &allow).await.expect(400);
}

#[tokio::test]
async fn an_admin_who_is_a_person_rotates_a_secret_and_is_named_for_it() {
    let test = TestApp::start().await;
    let membership = make_ann(&test, true).await;
    let bearer = token(&test).await;
    test.rotate(&bearer, &test.member.id, "secret", &test.member.secret).await.expect(200);
    let path = format!("AuditEvent?entity=ClientApplication/{}", test.member.id);
    let events = test.get(&test.admin, &path).await.expect(200).resources();
    assert_eq!(events[0]["agent"][0]["who"]["reference"], membership["profile"]["reference"]);
    let changed = json!({ "oldPassword": PASSWORD, "newPassword": "another four plain words" });
    let second = token(&test).await;
    json_post(&test, &second, "auth/changepassword", &changed).await.expect(200);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
    test.get(&second, "Practitioner").await.expect(200);
    log_in(&test, PASSWORD).await.refused(400, "invalid");
}

#[tokio::test]
async fn a_resource_server_learns_whether_a_token_works_now() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let code = log_in(&test, PASSWORD).await.expect(200).text_at("/code");
    let token = redeem(&test, &code).await.expect(200).text_at("/access_token");
    let ask = |who: Credentials, token: String| {
        let test = &test;
        async move {
            let request = test.request(&who, Method::POST, "oauth2/introspect");
            request.form(&[("token", token.as_str())]).send().await.expect(200).json()
        }
    };
    let told = ask(test.member.clone(), token.clone()).await;
    assert_eq!((&told["active"], &told["iss"]), (&json!(true), &json!(format!("http://{}/", test.address))));
    assert_eq!(ask(test.stranger.clone(), token.clone()).await, json!({ "active": false }));
    assert_eq!(ask(test.super_admin.clone(), token.clone()).await["active"], true);
    assert_eq!(ask(test.member.clone(), "nonsense".to_owned()).await, json!({ "active": false }));
    let anonymous = test.request(As::Anonymous, Method::POST, "oauth2/introspect");
    anonymous.form(&[("token", token.as_str())]).send().await.expect(400);

    // A client's own token: revoked by it, and by nobody else.
    let own = test.grant(&test.member.id, &test.member.secret).await.expect(200).text_at("/access_token");
    let bearer = As::Bearer(own.clone());
    let revoke = |who: Credentials| {
        let (test, own) = (&test, own.clone());
        async move {
            let request = test.request(&who, Method::POST, "oauth2/revoke");
            request.form(&[("token", own.as_str())]).send().await.expect(200);
        }
    };
    revoke(test.admin.clone()).await;
    test.get(&bearer, "Project").await.expect(200);
    revoke(test.member.clone()).await;
    test.get(&bearer, "Project").await.refused(401, "login");
    assert_eq!(ask(test.admin.clone(), own).await, json!({ "active": false }));
    let fresh = test.bearer(&test.member).await;
    test.get(&fresh, "Project").await.expect(200);
}

#[tokio::test]
async fn a_client_may_send_its_request_as_a_form() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let path = authorize_path(&client, "");
    let (bare, query) = path.split_once('?').unwrap();
    let pairs: Vec<(String, String)> =
        form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into(), value.into())).collect();
    let pairs: Vec<(&str, &str)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // From a page of the client, not of this server.
    let request = test.request(As::Anonymous, Method::POST, bare).form(&pairs);
    let answer = request.header("origin", "https://app.example.test").send().await.expect(303);
    let target = path_of(answer.header("location")).to_owned();
    assert!(target.starts_with("oauth2/authorize?response_type=code&"), "{target}");
    let form = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
    submit(&test, &target, "", &form).await.expect(200);
    // A step of ours is none from there: without a request there is nothing to log in for.
    let answer = submit(&test, bare, "", &form).await.expect(303);
    test.request(As::Anonymous, Method::GET, path_of(answer.header("location"))).send().await.expect(400);
    let long = "x".repeat(20_000);
    submit(&test, bare, "", &[("state", &long)]).await.expect(413);
}
