//! `/auth/mfa/*`: a person who is logged in sets up an authenticator app, or removes it. The key is kept
//! sealed; it counts only once a code made from it was right. Only a login of the person's own may do it: an
//! application that could would shut its user out of all others.

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::caller::{Caller, Login};
use keyrelay_core::totp::TotpKey;
use keyrelay_store::{Change, UserAccount};
use serde_json::{Value, json};

use super::attempts;
use super::flow::accepted_step;
use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::headers::{JSON, NO_STORE};
use crate::limiter::Attempt;
use crate::members::Members;

fn told(body: String) -> Response {
    ([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response()
}

/// The account of a caller who is a person, and not an application that acts for one.
async fn account(app: &App, caller: &Caller) -> Result<(Login, UserAccount), Outcome> {
    let login = caller.login.ok_or_else(|| Outcome::forbidden("Only a person has a second factor"))?;
    if caller.client.is_some() {
        return Err(Outcome::forbidden(
            "An application does not set up a second factor for its user: log in without clientId",
        ));
    }
    let account = app.store.user(login.user).await?.ok_or_else(Outcome::login)?;
    Ok((login, account))
}

/// `GET /auth/mfa/status`: whether an app is set up, and if not, what to give it.
pub(crate) async fn status(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let done = async {
        if !matches!(method, Method::GET | Method::HEAD) {
            return Err(Outcome::method_not_allowed("GET"));
        }
        let caller = auth::caller(&app, &headers, from).await?;
        let (login, account) = account(&app, &caller).await?;
        if account.totp_confirmed {
            return Ok(told(json!({ "enrolled": true }).to_string()));
        }
        let key = if let Some(sealed) = &account.totp_sealed {
            let opened = app.keyring.open_second_factor(login.user, sealed).map_err(|error| {
                tracing::error!(user = %login.user, %error, "a second factor cannot be opened");
                Outcome::internal()
            })?;
            TotpKey::from_bytes(opened)
        } else {
            let key = TotpKey::generate(app.entropy.as_ref());
            let sealed = app.keyring.seal_second_factor(login.user, key.as_bytes(), app.entropy.as_ref());
            let mut change = Change::new();
            change.require(&caller, &app.config.secrets, app.now());
            change.set_second_factor(login.user, Some(&sealed));
            app.store.commit(change).await?;
            key
        };
        let uri = key.uri(app.config.base_url.host(), &account.row.email);
        Ok(told(json!({ "enrolled": false, "enrollUri": *uri }).to_string()))
    };
    done.await.unwrap_or_else(Outcome::into_response)
}

/// `POST /auth/mfa/enroll`: confirms the app by a code of it.
pub(crate) async fn enroll(State(app): State<App>, Attempt(from): Attempt, request: Request) -> Response {
    let done = with_code(&app, from, request, |account, change, step| {
        change.accept_second_factor(account.row.id, step);
        json!({ "enrolled": true })
    });
    done.await.unwrap_or_else(Outcome::into_response)
}

/// `POST /auth/mfa/disable`: removes the app, by a last code of it.
pub(crate) async fn disable(State(app): State<App>, Attempt(from): Attempt, request: Request) -> Response {
    let done = with_code(&app, from, request, |account, change, step| {
        change.accept_second_factor(account.row.id, step);
        change.set_second_factor(account.row.id, None);
        json!({ "enrolled": false })
    });
    done.await.unwrap_or_else(Outcome::into_response)
}

async fn with_code(
    app: &App,
    from: std::net::IpAddr,
    request: Request,
    then: impl FnOnce(&UserAccount, &mut Change, i64) -> Value,
) -> Result<Response, Outcome> {
    if request.method() != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let caller = auth::caller(app, &parts.headers, from).await?;
    let token = Members::read(&parts.headers, body, &["token"]).await?.needed("token")?;
    let look = app.attempts.look();
    let (_, account) = account(app, &caller).await?;
    let account = attempts::count(app, account, look).await?.map_err(Outcome::throttled)?;
    let Some(step) = accepted_step(app, &account, &token) else {
        return Err(Outcome::invalid_at("token", "The code is not valid"));
    };
    let mut change = Change::new();
    change.require(&caller, &app.config.secrets, app.now());
    let answer = then(&account, &mut change, step);
    app.store.commit(change).await?;
    app.attempts.forgive(&account);
    Ok(told(answer.to_string()))
}
