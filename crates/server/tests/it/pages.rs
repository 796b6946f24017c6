//! The page for the second factor, in a browser. The server accepts a form only from its own pages, and only from the
//! login and the person that the page was made for.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{
    EMAIL, PASSWORD, REDIRECT, VERIFIER, authorize_path, claims, cookie_of, decide, invite, make_ann,
    make_app, mark_of, path_of, redeem_for, returned, submit, token,
};

const SIGN_IN: [(&str, &str); 3] = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];

/// Which step a page asks for, if it is one of ours: with a form, and without a script.
fn step_of(page: &Answer) -> &str {
    assert!(page.text.contains("<form method=\"post\"") && !page.text.contains("<script"), "{}", page.text);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(page.header("cache-control"), "no-store");
    let (_, rest) = page.text.split_once("name=\"step\" value=\"").unwrap();
    rest.split_once('"').unwrap().0
}

/// The last step: agrees, and redeems the code that this gives.
async fn agree(test: &TestApp, client: &str, path: &str, cookie: &str, page: &Answer) -> Answer {
    let back = submit(test, path, cookie, &decide(page, "allow")).await;
    redeem_for(test, client, &returned(&back, "code"), VERIFIER, REDIRECT).await.expect(200)
}

#[tokio::test]
async fn a_browser_is_asked_for_the_second_factor() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let bearer = token(&test).await;
    let app = Authenticator::enrol(&test, &bearer).await;
    test.clock.advance(Duration::from_mins(1));

    let client = make_app(&test).await;
    let path = authorize_path(&client, "&scope=openid");
    let page = submit(&test, &path, "", &SIGN_IN).await.expect(200);
    assert_eq!(step_of(&page), "second-factor");
    let cookie = cookie_of(&page);
    let (right, wrong) = (app.code(&test), app.wrong_code(&test));
    // Nobody gets past the page without it, and no other browser with it.
    submit(&test, &path, &cookie, &decide(&page, "allow")).await.expect(400);
    let form = [("step", "second-factor"), ("login", mark_of(&page)), ("token", wrong.as_str())];
    let again = submit(&test, &path, &cookie, &form).await.expect(400);
    assert_eq!(step_of(&again), "second-factor");
    let form = [("step", "second-factor"), ("login", mark_of(&again)), ("token", right.as_str())];
    assert_eq!(step_of(&submit(&test, &path, "", &form).await.expect(400)), "sign-in");
    let page = submit(&test, &path, &cookie, &form).await.expect(200);
    assert_eq!(step_of(&page), "consent");
    let tokens = agree(&test, &client, &path, &cookie, &page).await;
    test.get(&As::Bearer(tokens.text_at("/access_token")), "Practitioner").await.expect(200);

    // The code was used: another login needs the next one.
    let page = submit(&test, &path, "", &SIGN_IN).await.expect(200);
    let form = [("step", "second-factor"), ("login", mark_of(&page)), ("token", right.as_str())];
    let answer = submit(&test, &path, &cookie_of(&page), &form).await.expect(400);
    assert_eq!(step_of(&answer), "second-factor");
}

/// A person of the project beside Ann.
const BO: &str = "bo@example.test";

async fn make_bo(test: &TestApp) {
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Bo", "lastName": "Roe", "email": BO, "password": PASSWORD,
    });
    invite(test, &body).await.expect(200);
}

#[tokio::test]
async fn only_the_person_who_saw_the_page_can_consent() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    make_bo(&test).await;
    let client = make_app(&test).await;
    let path = authorize_path(&client, "&scope=openid");
    let sign_in = |email| [("step", "sign-in"), ("email", email), ("password", PASSWORD)];
    let anns = submit(&test, &path, "", &sign_in(EMAIL)).await.expect(200);
    let bos = submit(&test, &path, "", &sign_in(BO)).await.expect(200);
    let again = submit(&test, &path, "", &sign_in(EMAIL)).await.expect(200);
    // The cookie of another person, or of another login of the same one; a mark of another step, of none, or made up.
    let stale = mark_of(&anns).replace(|c: char| c.is_ascii_lowercase(), "A");
    for mark in [mark_of(&bos), mark_of(&again), &stale, "", "x"] {
        for decision in ["allow", "deny"] {
            let form = [("step", "consent"), ("login", mark), ("decision", decision)];
            let answer = submit(&test, &path, &cookie_of(&anns), &form).await.expect(400);
            assert_eq!((step_of(&answer), answer.header("location")), ("sign-in", ""));
        }
    }
    let unmarked = [("step", "consent"), ("decision", "allow")];
    submit(&test, &path, &cookie_of(&anns), &unmarked).await.expect(400);
    // None of these changed anything, and the answer of each person counts for that person.
    let subject = |answer: &Answer| claims(&answer.text_at("/id_token"))["sub"].clone();
    let of_ann = agree(&test, &client, &path, &cookie_of(&anns), &anns).await;
    let of_bo = agree(&test, &client, &path, &cookie_of(&bos), &bos).await;
    assert_ne!(subject(&of_ann), subject(&of_bo));
    assert_eq!(subject(&agree(&test, &client, &path, &cookie_of(&again), &again).await), subject(&of_ann));
}

#[tokio::test]
async fn a_code_counts_only_for_the_person_who_saw_the_page() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let app = Authenticator::enrol(&test, &token(&test).await).await;
    test.clock.advance(Duration::from_mins(1));
    let client = make_app(&test).await;
    let path = authorize_path(&client, "&scope=openid");
    let first = submit(&test, &path, "", &SIGN_IN).await.expect(200);
    let second = submit(&test, &path, "", &SIGN_IN).await.expect(200);
    let code = app.code(&test);
    let form = |mark| [("step", "second-factor"), ("login", mark), ("token", code.as_str())];
    let answer = submit(&test, &path, &cookie_of(&second), &form(mark_of(&first))).await.expect(400);
    assert_eq!(step_of(&answer), "sign-in");
    // The code was not checked, so it still works.
    let answer = submit(&test, &path, &cookie_of(&second), &form(mark_of(&second))).await.expect(200);
    assert_eq!(step_of(&answer), "consent");
}

/// What browsers say of where a form comes from, and whether it is taken.
fn origins(test: &TestApp) -> Vec<(Option<&'static str>, Option<String>, bool)> {
    let own = format!("http://{}", test.address);
    let host = own.rsplit_once(':').unwrap().0.to_owned();
    vec![
        (Some("same-origin"), Some(own.clone()), true),
        (Some("same-origin"), None, true),
        (None, Some(own.clone()), true),
        // No browser: what has no cookies needs no such protection.
        (None, None, true),
        (Some("cross-site"), Some(own.clone()), false),
        (Some("cross-site"), None, false),
        (Some("same-site"), None, false),
        (Some("none"), None, false),
        (Some("SAME-ORIGIN"), None, false),
        (Some("same-origin"), Some("https://evil.example.test".to_owned()), false),
        (None, Some("null".to_owned()), false),
        (None, Some(String::new()), false),
        (None, Some(host), false),
        (None, Some(format!("{own}.evil.example.test")), false),
        (None, Some(format!("{own}/")), false),
    ]
}

#[tokio::test]
async fn a_form_is_taken_from_a_page_of_this_server_only() {
    let test = TestApp::start().await;
    make_ann(&test, false).await;
    let client = make_app(&test).await;
    let path = authorize_path(&client, "&scope=openid");
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Cy", "lastName": "Poe", "email": "cy@example.test",
    });
    let link = invite(&test, &body).await.expect(200).text_at("/extension/0/valueUrl");
    let send = async |path: &str, cookie: &str, from: (Option<&str>, Option<&str>), form: &[(&str, &str)]| {
        let request = test.request(As::Anonymous, Method::POST, path).form(form).header("cookie", cookie);
        let request =
            from.0.into_iter().fold(request, |request, site| request.header("sec-fetch-site", site));
        let request = from.1.into_iter().fold(request, |request, origin| request.header("origin", origin));
        request.send().await
    };
    // Too short: taken, but without a consequence.
    let short = [("password", "short"), ("again", "short")];
    for (site, origin, taken) in origins(&test) {
        let from = (site, origin.as_deref());
        let page = send(&path, "", from, &SIGN_IN).await;
        assert_eq!(page.status.as_u16(), if taken { 200 } else { 403 }, "sign-in from {from:?}");
        assert_eq!(page.header("set-cookie").is_empty(), !taken);
        let set = send(path_of(&link), "", from, &short).await;
        assert_eq!(set.status.as_u16(), if taken { 400 } else { 403 }, "password from {from:?}");

        let page = submit(&test, &path, "", &SIGN_IN).await.expect(200);
        let (cookie, allow) = (cookie_of(&page), decide(&page, "allow"));
        let back = send(&path, &cookie, from, &allow).await;
        if taken {
            returned(&back, "code");
        } else {
            assert_eq!((back.status.as_u16(), back.header("location")), (403, ""), "consent from {from:?}");
            // And it has changed nothing.
            returned(&submit(&test, &path, &cookie, &allow).await, "code");
        }
        test.clock.advance(Duration::from_secs(2));
    }
}
