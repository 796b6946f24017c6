//! The sign-in page that not everybody sees, walked in a browser: the second factor. And that a form is
//! taken from a page of this server only.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::app::{Answer, As, TestApp};
use crate::authenticator::Authenticator;
use crate::people::{
    EMAIL, PASSWORD, REDIRECT, VERIFIER, authorize_path, cookie_of, invite, make_ann, make_app, path_of,
    redeem_for, returned, submit, token,
};

const SIGN_IN: [(&str, &str); 3] = [("step", "sign-in"), ("email", EMAIL), ("password", PASSWORD)];
const ALLOW: [(&str, &str); 2] = [("step", "consent"), ("decision", "allow")];

/// Which step a page asks for, if it is one of ours: with a form, and without a script.
fn step_of(page: &Answer) -> &str {
    assert!(page.text.contains("<form method=\"post\"") && !page.text.contains("<script"), "{}", page.text);
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(page.header("cache-control"), "no-store");
    let (_, rest) = page.text.split_once("name=\"step\" value=\"").unwrap();
    rest.split_once('"').unwrap().0
}

/// The last step: agrees, and redeems the code that this gives.
async fn agree(test: &TestApp, client: &str, path: &str, cookie: &str) -> Answer {
    let back = submit(test, path, cookie, &ALLOW).await;
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
    submit(&test, &path, &cookie, &ALLOW).await.expect(400);
    let again = submit(&test, &path, &cookie, &[("step", "second-factor"), ("token", &wrong)]).await;
    assert_eq!(step_of(&again.expect(400)), "second-factor");
    let form = [("step", "second-factor"), ("token", right.as_str())];
    assert_eq!(step_of(&submit(&test, &path, "", &form).await.expect(400)), "sign-in");
    let page = submit(&test, &path, &cookie, &form).await.expect(200);
    assert_eq!(step_of(&page), "consent");
    let tokens = agree(&test, &client, &path, &cookie).await;
    test.get(&As::Bearer(tokens.text_at("/access_token")), "Practitioner").await.expect(200);

    // The code was used: another login needs the next one.
    let page = submit(&test, &path, "", &SIGN_IN).await.expect(200);
    let answer = submit(&test, &path, &cookie_of(&page), &form).await.expect(400);
    assert_eq!(step_of(&answer), "second-factor");
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

        let cookie = cookie_of(&submit(&test, &path, "", &SIGN_IN).await.expect(200));
        let back = send(&path, &cookie, from, &ALLOW).await;
        if taken {
            returned(&back, "code");
        } else {
            assert_eq!((back.status.as_u16(), back.header("location")), (403, ""), "consent from {from:?}");
            // And it has changed nothing.
            returned(&submit(&test, &path, &cookie, &ALLOW).await, "code");
        }
        test.clock.advance(Duration::from_secs(2));
    }
}
