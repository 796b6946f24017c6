//! How a password comes to be: by a link that an admin was given for an invited person and that works
//! once, or by the person, who knows the one before. Either ends the person's other logins. The link is for
//! who has lost what one logs in with, so it removes the second factor too.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::id::UserId;
use keyrelay_core::password::PlainPassword;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use keyrelay_store::{Change, Conflict, StoreError, UserAccount};
use serde_json::json;
use zeroize::Zeroizing;

use super::attempts;
use super::authorize::is_own_form;
use crate::App;
use crate::auth;
use crate::body::read_body;
use crate::error::Outcome;
use crate::headers::{JSON, NO_STORE};
use crate::limiter::Attempt;
use crate::members::Members;
use crate::ui::{self, page};

const OVER: &str =
    "This link has been used, has been replaced by a newer one, or is too old. Ask for a new one.";

/// `/auth/setpassword/[ticket]`: the page behind the link, and its form.
pub(crate) async fn set_password(
    State(app): State<App>,
    attempt: Result<Attempt, Outcome>,
    ticket: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return Outcome::method_not_allowed("GET, POST").into_response();
    }
    if let Err(outcome) = attempt {
        return refused(&app, &outcome);
    }
    let ticket = ticket.ok().and_then(|Path(ticket)| PlainSecret::presented(ticket).ok());
    match answer(&app, ticket, request).await {
        Ok(response) => response,
        Err(outcome) => refused(&app, &outcome),
    }
}

async fn answer(app: &App, ticket: Option<PlainSecret>, request: Request) -> Result<Response, Outcome> {
    let Some((link, account)) = open(app, ticket.as_ref()).await? else {
        return Ok(message(app, StatusCode::NOT_FOUND, OVER));
    };
    let action = request.uri().path().to_owned();
    let form = |problem: Option<&str>| {
        let template = ui::SetPassword {
            base: app.config.base_url.as_str(),
            action: &action,
            email: &account.row.email,
            problem,
        };
        let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        page(status, &template, None)
    };
    if request.method() != Method::POST {
        return Ok(form(None));
    }
    let (parts, body) = request.into_parts();
    if !is_own_form(app, &parts.headers) {
        return Ok(message(app, StatusCode::FORBIDDEN, "This form was not sent from a page of this server."));
    }
    let body = read_body(body).await?;
    let field = |wanted: &str| {
        let found = form_urlencoded::parse(&body).find(|(name, _)| name == wanted);
        Zeroizing::new(found.map(|(_, value)| value.into_owned()).unwrap_or_default())
    };
    let (text, again) = (field("password"), field("again"));
    drop(body);
    let is_same = *text == *again;
    let Some(password) = PlainPassword::presented(text).filter(|_| is_same) else {
        return Ok(form(Some("The two passwords are not the same.")));
    };
    if let Err(problem) = password.check(&account.row.email) {
        return Ok(form(Some(&format!("The password {problem}."))));
    }
    let hash = hash(app, password).await?;
    let mut change = Change::new();
    change.set_password(account.row.id, hash, Some(link));
    change.set_second_factor(account.row.id, None);
    change.end_sessions_of(account.row.id, None);
    match app.store.commit(change).await {
        Ok(()) => {
            app.attempts.forgive(&account);
            tracing::info!(user = %account.row.id, "a password was set by a link");
            let text = "Your password is set. You can close this page and sign in.";
            let template = ui::Message { base: app.config.base_url.as_str(), title: "Done", text };
            Ok(page(StatusCode::OK, &template, None))
        }
        Err(StoreError::Conflict(Conflict::Version)) => Ok(message(app, StatusCode::NOT_FOUND, OVER)),
        Err(error) => Err(error.into()),
    }
}

/// The account of a link that still works, and which of its links it is.
async fn open(app: &App, ticket: Option<&PlainSecret>) -> Result<Option<(u32, UserAccount)>, Outcome> {
    let named = ticket.and_then(|ticket| app.keyring.read_ticket(TicketKind::SetPassword, ticket));
    let Some(named) = named else { return Ok(None) };
    let account = app.store.user(UserId::from(named.of)).await?;
    let works = |account: &UserAccount| {
        account.row.active
            && account.password_link == named.generation
            && account.password_link_until.is_some_and(|until| app.now() < until)
    };
    Ok(account.filter(works).map(|account| (named.generation, account)))
}

/// Hashes a password that has been checked.
pub(crate) async fn hash(app: &App, password: PlainPassword) -> Result<String, Outcome> {
    let hashed = app.passwords.hash(password, Arc::clone(&app.entropy)).await;
    hashed.map_err(|_| Outcome::busy())?.ok_or_else(Outcome::internal)
}

fn refused(app: &App, outcome: &Outcome) -> Response {
    outcome.to_page(app.config.base_url.as_str())
}

fn message(app: &App, status: StatusCode, text: &str) -> Response {
    let template = ui::Message { base: app.config.base_url.as_str(), title: "This did not work", text };
    page(status, &template, None)
}

/// `POST /auth/changepassword`: `{oldPassword, newPassword}`, by a person who is logged in.
pub(crate) async fn change_password(
    State(app): State<App>,
    Attempt(from): Attempt,
    request: Request,
) -> Response {
    change(&app, from, request).await.unwrap_or_else(Outcome::into_response)
}

/// The body of a change of password.
struct ChangeOfPassword {
    old: PlainPassword,
    new: PlainPassword,
}

impl ChangeOfPassword {
    async fn read(headers: &HeaderMap, body: Body) -> Result<Self, Outcome> {
        let mut members = Members::read(headers, body, &["oldPassword", "newPassword"]).await?;
        Ok(Self { old: members.password("oldPassword")?, new: members.password("newPassword")? })
    }
}

async fn change(app: &App, from: IpAddr, request: Request) -> Result<Response, Outcome> {
    if request.method() != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let caller = auth::caller(app, &parts.headers, from).await?;
    let login = caller.login.ok_or_else(|| Outcome::forbidden("Only a person has a password"))?;
    let ChangeOfPassword { old, new } = ChangeOfPassword::read(&parts.headers, body).await?;
    let look = app.attempts.look();
    let account = app.store.user(login.user).await?.ok_or_else(Outcome::login)?;
    let problem = new.check(&account.row.email);
    problem.map_err(|problem| Outcome::invalid_at("newPassword", format!("The new password {problem}")))?;
    let account = attempts::count(app, account, look).await?.map_err(Outcome::throttled)?;
    let right =
        app.passwords.verify(account.password_hash.clone(), old).await.map_err(|_| Outcome::busy())?;
    if !right {
        return Err(Outcome::invalid_at("oldPassword", "This is not your password"));
    }
    let mut change = Change::new();
    change.require(&caller, &app.config.secrets, app.now());
    change.set_password(login.user, hash(app, new).await?, None);
    change.end_sessions_of(login.user, Some(login.session));
    app.store.commit(change).await?;
    app.attempts.forgive(&account);
    let body = json!({ "resourceType": "OperationOutcome", "id": "ok", "issue": [
        { "severity": "information", "code": "informational", "details": { "text": "All OK" } }
    ] });
    Ok(([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body.to_string()).into_response())
}
