//! The pages that people see: plain HTML, readable without a style sheet, usable by keyboard and screen
//! reader, and without any script. Whatever comes from outside is escaped by the templates, and the
//! Content Security Policy lets nothing in that the server did not write.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderValue, StatusCode};
use keyrelay_core::scope::Scope;

use crate::headers::NO_STORE;

/// Asks for email and password.
#[derive(Template)]
#[template(path = "sign_in.html")]
pub(crate) struct SignIn<'a> {
    pub(crate) base: &'a str,
    pub(crate) action: &'a str,
    pub(crate) client: &'a str,
    pub(crate) email: &'a str,
    pub(crate) problem: Option<&'a str>,
}

/// Asks for the code of an authenticator app.
#[derive(Template)]
#[template(path = "second_factor.html")]
pub(crate) struct SecondFactor<'a> {
    pub(crate) base: &'a str,
    pub(crate) action: &'a str,
    pub(crate) login: &'a str,
    pub(crate) problem: Option<&'a str>,
}

/// Asks whether the client may have what it asks for.
#[derive(Template)]
#[template(path = "consent.html")]
pub(crate) struct Consent<'a> {
    pub(crate) base: &'a str,
    pub(crate) action: &'a str,
    pub(crate) login: &'a str,
    pub(crate) client: &'a str,
    pub(crate) person: &'a str,
    pub(crate) project: &'a str,
    pub(crate) target: &'a str,
    pub(crate) scopes: &'a [ScopeLine<'a>],
}

/// One scope, in words.
pub(crate) struct ScopeLine<'a> {
    pub(crate) words: &'static str,
    pub(crate) text: &'a str,
    /// Whether the words need the text beside them.
    pub(crate) show_text: bool,
}

impl<'a> ScopeLine<'a> {
    /// All that somebody is asked to agree to. Without resource scopes a token may do whatever the person
    /// may, and that has no word of its own.
    pub(crate) fn all(scope: &'a Scope) -> Vec<Self> {
        let everything = (!scope.is_restricted()).then_some(Self {
            words: "Do everything that you may do here",
            text: "",
            show_text: false,
        });
        everything.into_iter().chain(scope.as_str().split_ascii_whitespace().map(Self::of)).collect()
    }

    fn of(text: &'a str) -> Self {
        let words = match text {
            "openid" => "Know that it is you",
            "profile" | "fhirUser" => "See your name and your record as a user",
            "email" => "See your email address",
            "offline_access" => "Keep this access when you are away",
            "online_access" => "Keep this access while you are signed in",
            _ if text.starts_with("user/") || text.starts_with("patient/") => {
                "Work with records as far as you may"
            }
            _ => "Something that the application knows by this name",
        };
        let known =
            matches!(text, "openid" | "profile" | "fhirUser" | "email" | "offline_access" | "online_access");
        Self { words, text, show_text: !known }
    }
}

/// Asks for a new password.
#[derive(Template)]
#[template(path = "set_password.html")]
pub(crate) struct SetPassword<'a> {
    pub(crate) base: &'a str,
    pub(crate) action: &'a str,
    pub(crate) email: &'a str,
    pub(crate) problem: Option<&'a str>,
}

/// Says something and asks nothing.
#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct Message<'a> {
    pub(crate) base: &'a str,
    pub(crate) title: &'a str,
    pub(crate) text: &'a str,
}

/// Writes a page. `form_target` is where a form of it may lead to besides this server: browsers ask the
/// policy also about the redirect that answers a form.
pub(crate) fn page(status: StatusCode, template: &impl Template, form_target: Option<&str>) -> Response {
    let Ok(html) = template.render() else {
        tracing::error!("a page could not be written");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; form-action 'self'{}{}; base-uri 'none'; frame-ancestors 'none'",
        if form_target.is_some() { " " } else { "" },
        form_target.unwrap_or_default()
    );
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, policy),
        // Not `no-referrer`: with that, browsers hide from us where a form of ours came from.
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (CACHE_CONTROL, NO_STORE),
    ];
    (status, headers, html).into_response()
}

/// `GET /ui/style.css`.
pub(crate) async fn style() -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
    ];
    (headers, include_str!("../../templates/style.css")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        let hostile = "\"><script>alert(1)</script>";
        let html = SignIn {
            base: "http://x/",
            action: hostile,
            client: hostile,
            email: hostile,
            problem: Some(hostile),
        }
        .render()
        .unwrap();
        assert!(!html.contains("<script") && !html.contains("\"><"), "{html}");
        let scopes = [ScopeLine::of(hostile)];
        let html = Consent {
            base: "http://x/",
            action: hostile,
            login: hostile,
            client: hostile,
            person: hostile,
            project: hostile,
            target: hostile,
            scopes: &scopes,
        }
        .render()
        .unwrap();
        assert!(!html.contains("<script"), "{html}");
    }
}
