//! What a login gives to a client: a confidential one proves itself at every step of it, by either secret
//! of a rotation; a public one must have nothing to prove itself by; and all of it ends in time.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};
use crate::assertion::Key;
use crate::people::{
    EMAIL, PASSWORD, REDIRECT, VERIFIER, authorize_path, browse, claims, cookie_of, decide, grant_refused,
    json_post, log_in, make_ann, make_app, redeem, redeem_for, refresh, returned, submit,
};

/// How a client sends its secret.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Basic,
    Form,
}

const WAYS: [Way; 2] = [Way::Basic, Way::Form];

/// An application of the project that has a secret.
pub async fn make_confidential(test: &TestApp, more: Value) -> Credentials {
    let mut body = json!({ "name": "Viewer", "redirectUris": [REDIRECT] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = format!("admin/projects/{}/client", test.project);
    let made = test.request(&test.admin, Method::POST, &path).json(&body).send().await.expect(201);
    Credentials { id: made.text_at("/id"), secret: made.text_at("/secret") }
}

/// Sends a form of a client to the authorization server.
pub async fn send(test: &TestApp, path: &str, who: &Credentials, way: Way, form: &[(&str, &str)]) -> Answer {
    match way {
        Way::Basic => test.request(who, Method::POST, path).form(form).send().await,
        Way::Form => {
            let own = [("client_id", who.id.as_str()), ("client_secret", who.secret.as_str())];
            let form: Vec<_> = form.iter().copied().chain(own).collect();
            test.request(As::Anonymous, Method::POST, path).form(&form).send().await
        }
    }
}

/// The verifier comes last.
pub fn code_form(code: &str) -> [(&str, &str); 4] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ]
}

pub fn refresh_form(token: &str) -> [(&str, &str); 2] {
    [("grant_type", "refresh_token"), ("refresh_token", token)]
}

#[track_caller]
fn client_refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.text);
    assert_eq!(answer.text_at("/error"), "invalid_client", "{what}");
}

#[tokio::test]
async fn both_secrets_of_a_rotation_serve_a_whole_login() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_confidential(&test, json!({})).await;
    let new = test.rotate(&test.admin, &client.id, "secret", &client.secret).await.expect(200);
    let mut proofs = Vec::new();
    for who in [client.clone(), client.with(&new.text_at("/secret"))] {
        for way in WAYS {
            let code = browse(&test, &client.id, "&scope=openid+offline_access").await;
            let first = send(&test, "oauth2/token", &who, way, &code_form(&code)).await.expect(200);
            let refresh = first.text_at("/refresh_token");
            let fresh = send(&test, "oauth2/token", &who, way, &refresh_form(&refresh)).await.expect(200);
            let token = fresh.text_at("/access_token");
            let asked = [("token", token.as_str())];
            let active = async || {
                let told = send(&test, "oauth2/introspect", &who, way, &asked).await.expect(200).json();
                told["active"].as_bool().unwrap()
            };
            assert!(active().await, "{way:?}");
            proofs.push(claims(&token)["sid"].clone());
            send(&test, "oauth2/revoke", &who, way, &asked).await.expect(200);
            assert!(!active().await, "{way:?}");
            test.get(&As::Bearer(token), "Practitioner").await.refused(401, "login");
        }
    }
    // The token says which of the two it was.
    assert!(proofs[0] == proofs[1] && proofs[2] == proofs[3] && proofs[0] != proofs[2], "{proofs:?}");
}

#[tokio::test]
async fn without_its_secret_a_confidential_client_gets_nothing_of_a_login() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let former = make_confidential(&test, json!({})).await;
    let answer = test.rotate(&test.admin, &former.id, "secret", &former.secret).await.expect(200);
    let client = former.with(&answer.text_at("/secret"));
    test.rotate(&test.admin, &former.id, "retiringSecret", &former.secret).await.expect(200);

    let code = browse(&test, &client.id, "&scope=openid+offline_access").await;
    let by_nobody = async |form: &[(&str, &str)]| {
        let form: Vec<_> = form.iter().copied().chain([("client_id", client.id.as_str())]).collect();
        test.token(As::Anonymous, &form).await
    };
    let all_refused = async |form: &[(&str, &str)]| {
        client_refused(&by_nobody(form).await, "no secret");
        for wrong in ["", "wrong", &former.secret, &test.admin.secret] {
            for way in WAYS {
                let answer = send(&test, "oauth2/token", &client.with(wrong), way, form).await;
                client_refused(&answer, &format!("{wrong} {way:?}"));
            }
        }
        // One that is let in, but whose login it is not.
        grant_refused(&send(&test, "oauth2/token", &test.admin, Way::Basic, form).await);
        // And a login without a client is another one.
        grant_refused(&test.token(As::Anonymous, form).await);
    };
    all_refused(&code_form(&code)).await;
    // Whoever tries it without the secret does not use it up.
    let first = send(&test, "oauth2/token", &client, Way::Form, &code_form(&code)).await.expect(200);
    let token = first.text_at("/refresh_token");
    all_refused(&refresh_form(&token)).await;
    let access = first.text_at("/access_token");
    for path in ["oauth2/introspect", "oauth2/revoke"] {
        for way in WAYS {
            let answer = send(&test, path, &former, way, &[("token", &access)]).await;
            client_refused(&answer, path);
        }
    }
    test.get(&As::Bearer(access), "Practitioner").await.expect(200);
    send(&test, "oauth2/token", &client, Way::Basic, &refresh_form(&token)).await.expect(200);
}

#[tokio::test]
async fn a_public_client_that_is_given_a_proof_must_use_it() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let secret = "written directly and long enough for the policy";
    let keys = json!({ "keys": [Key::es384().jwk("k1")] }).to_string();
    for (element, value) in [("secret", secret), ("jwks", keys.as_str())] {
        let client = make_app(&test).await;
        let code = browse(&test, &client, "&scope=openid+offline_access").await;
        let first = redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await.expect(200);
        let token = refresh(&test, &client, &first.text_at("/refresh_token")).await.expect(200);
        let (token, code) =
            (token.text_at("/refresh_token"), browse(&test, &client, "&scope=openid+offline_access").await);

        let patch = json!([{ "op": "add", "path": format!("/{element}"), "value": value }]);
        test.patch(&test.admin, &format!("ClientApplication/{client}"), &patch).await.expect(200);
        client_refused(&refresh(&test, &client, &token).await, element);
        client_refused(&redeem_for(&test, &client, &code, VERIFIER, REDIRECT).await, element);
        if element == "secret" {
            let client = Credentials { id: client, secret: secret.to_owned() };
            send(&test, "oauth2/token", &client, Way::Basic, &refresh_form(&token)).await.expect(200);
            send(&test, "oauth2/token", &client, Way::Form, &code_form(&code)).await.expect(200);
        }
    }
}

/// A login through a public application: the access token and the refresh token.
async fn log_in_through(test: &TestApp, client: &str) -> (As, String) {
    let code = browse(test, client, "&scope=openid+offline_access").await;
    let answer = redeem_for(test, client, &code, VERIFIER, REDIRECT).await.expect(200);
    (As::Bearer(answer.text_at("/access_token")), answer.text_at("/refresh_token"))
}

/// Whether a login works: its token on the API and in the words of introspection.
async fn is_alive(test: &TestApp, bearer: &As) -> bool {
    let asked = [("token", bearer.text())];
    let told = test.request(&test.super_admin, Method::POST, "oauth2/introspect").form(&asked).send().await;
    let active = told.expect(200).json()["active"] == true;
    let status = test.get(bearer, "Practitioner").await.status.as_u16();
    assert_eq!(status, if active { 200 } else { 401 });
    active
}

#[tokio::test]
async fn a_login_ends_at_once_with_its_client() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let path = format!("ClientApplication/{client}");
    let (bearer, mut token) = log_in_through(&test, &client).await;
    assert!(is_alive(&test, &bearer).await);
    for status in ["off", "error"] {
        let waiting = browse(&test, &client, "").await;
        let set = |value: &str| json!([{ "op": "add", "path": "/status", "value": value }]);
        test.patch(&test.admin, &path, &set(status)).await.expect(200);
        assert!(!is_alive(&test, &bearer).await, "{status}");
        client_refused(&refresh(&test, &client, &token).await, status);
        client_refused(&redeem_for(&test, &client, &waiting, VERIFIER, REDIRECT).await, status);
        let page = test.request(As::Anonymous, Method::GET, &authorize_path(&client, "")).send().await;
        assert_eq!((page.status.as_u16(), page.header("location")), (400, ""), "{status}");
        test.patch(&test.admin, &path, &set("active")).await.expect(200);
        assert!(is_alive(&test, &bearer).await, "{status}");
        token = refresh(&test, &client, &token).await.expect(200).text_at("/refresh_token");
    }
    test.delete(&test.admin, &path).await.expect(200);
    assert!(!is_alive(&test, &bearer).await);
    client_refused(&refresh(&test, &client, &token).await, "deleted");
}

#[tokio::test]
async fn a_login_ends_at_once_with_its_project() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let path = format!("Project/{}", test.project);
    let (bearer, token) = log_in_through(&test, &client).await;
    let code = log_in(&test, PASSWORD).await.expect(200).text_at("/code");
    let own = As::Bearer(redeem(&test, &code).await.expect(200).text_at("/access_token"));
    let waiting = log_in(&test, PASSWORD).await.expect(200).text_at("/code");
    let active = |value: bool| json!([{ "op": "add", "path": "/active", "value": value }]);
    test.patch(&test.super_admin, &path, &active(false)).await.expect(200);
    for bearer in [&bearer, &own] {
        assert!(!is_alive(&test, bearer).await);
    }
    client_refused(&refresh(&test, &client, &token).await, "off");
    grant_refused(&redeem(&test, &waiting).await);
    log_in(&test, PASSWORD).await.refused(400, "invalid");
    test.patch(&test.super_admin, &path, &active(true)).await.expect(200);
    for bearer in [&bearer, &own] {
        assert!(is_alive(&test, bearer).await);
    }
    test.delete(&test.super_admin, &path).await.expect(200);
    for bearer in [&bearer, &own] {
        assert!(!is_alive(&test, bearer).await);
    }
    client_refused(&refresh(&test, &client, &token).await, "deleted");
    log_in(&test, PASSWORD).await.refused(400, "invalid");
}

#[tokio::test]
async fn refresh_tokens_wait_as_long_as_the_client_is_set_to() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let times = json!({ "refreshTokenLifetime": "2h", "accessTokenLifetime": "5m" });
    let client = make_confidential(&test, times).await;
    let default = make_app(&test).await;
    let (_, by_default) = log_in_through(&test, &default).await;
    let code = browse(&test, &client.id, "&scope=openid+offline_access").await;
    let first = send(&test, "oauth2/token", &client, Way::Basic, &code_form(&code)).await.expect(200);
    assert_eq!(first.json()["expires_in"], 300);
    let bearer = As::Bearer(first.text_at("/access_token"));
    let ask =
        async |token: &str| send(&test, "oauth2/token", &client, Way::Basic, &refresh_form(token)).await;
    let almost = Duration::from_hours(2) - Duration::from_secs(1);

    test.clock.advance(almost);
    test.get(&bearer, "Practitioner").await.refused(401, "login");
    let second = ask(&first.text_at("/refresh_token")).await.expect(200).text_at("/refresh_token");
    // Each one waits as long again.
    test.clock.advance(almost);
    let third = ask(&second).await.expect(200).text_at("/refresh_token");
    test.clock.advance(almost + Duration::from_secs(1));
    grant_refused(&ask(&third).await);
    refresh(&test, &default, &by_default).await.expect(200);
}

#[tokio::test]
async fn only_a_confidential_client_may_do_without_a_verifier() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let path = |client: &str| {
        format!("oauth2/authorize?response_type=code&client_id={client}&redirect_uri={REDIRECT}&state=xyz")
    };
    let ask = async |client: &str| test.request(As::Anonymous, Method::GET, &path(client)).send().await;
    let confidential = make_confidential(&test, json!({})).await;
    let public = make_app(&test).await;
    for id in [&confidential.id, &public] {
        assert_eq!(returned(&ask(id).await, "error"), "invalid_request");
        let optional = json!([{ "op": "add", "path": "/pkceOptional", "value": true }]);
        test.patch(&test.admin, &format!("ClientApplication/{id}"), &optional).await.expect(200);
    }
    assert_eq!(returned(&ask(&public).await, "error"), "invalid_request");

    let send_without = async |code: &str| {
        let [form @ .., _verifier] = code_form(code);
        send(&test, "oauth2/token", &confidential, Way::Basic, &form).await
    };
    let path = path(&confidential.id);
    let form = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
    let page = submit(&test, &path, "", &form).await.expect(200);
    let back = submit(&test, &path, &cookie_of(&page), &decide(&page, "allow")).await;
    let code = returned(&back, "code");
    // A verifier without a challenge: somebody took the challenge out (RFC 9700 §4.8.2).
    grant_refused(&send(&test, "oauth2/token", &confidential, Way::Basic, &code_form(&code)).await);
    send_without(&code).await.expect(200);
    // Optional is not unchecked.
    let code = browse(&test, &confidential.id, "").await;
    grant_refused(&send_without(&code).await);
    send(&test, "oauth2/token", &confidential, Way::Basic, &code_form(&code)).await.expect(200);
}

#[tokio::test]
async fn of_redemptions_at_once_one_wins_and_what_it_gave_ends() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    for _ in 0..5 {
        let code = browse(&test, &client, "&scope=openid+offline_access").await;
        let redeem = || redeem_for(&test, &client, &code, VERIFIER, REDIRECT);
        let answers: [Answer; 4] = tokio::join!(redeem(), redeem(), redeem(), redeem()).into();
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!(won.len(), 1, "{answers:?}");
        for answer in lost {
            grant_refused(answer);
        }
        // RFC 6749 §4.1.2: a code that comes twice takes with it what it gave.
        test.get(&As::Bearer(won[0].text_at("/access_token")), "Practitioner").await.refused(401, "login");
        grant_refused(&refresh(&test, &client, &won[0].text_at("/refresh_token")).await);
    }
}

#[tokio::test]
async fn an_application_without_pages_may_do_without_a_verifier_on_the_same_terms() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let confidential = make_confidential(&test, json!({})).await;
    let public = make_app(&test).await;
    let ask = async |client: &str| {
        let body = json!({ "email": EMAIL, "password": PASSWORD, "clientId": client });
        json_post(&test, As::Anonymous, "auth/login", &body).await
    };
    for id in [&confidential.id, &public] {
        ask(id).await.refused(400, "invalid");
        let optional = json!([{ "op": "add", "path": "/pkceOptional", "value": true }]);
        test.patch(&test.admin, &format!("ClientApplication/{id}"), &optional).await.expect(200);
    }
    ask(&public).await.refused(400, "invalid");
    let code = ask(&confidential.id).await.expect(200).text_at("/code");
    let form = [("grant_type", "authorization_code"), ("code", code.as_str())];
    send(&test, "oauth2/token", &confidential, Way::Basic, &form).await.expect(200);
}
