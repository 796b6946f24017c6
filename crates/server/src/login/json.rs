//! `/auth/login` and what follows it, as Medplum's clients call them. Whoever logs in here does so in
//! the application that asks for the password; a browser that comes from elsewhere uses `authorize`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::id::{MembershipId, ProjectId, SessionId};
use keyrelay_core::limits::{AUTHORIZE_PARAMETER_BYTES_MAX, EMAIL_BYTES_MAX};
use keyrelay_core::password::PlainPassword;
use keyrelay_core::session::{Session, Stage};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::flow::{self, LoginRequest, NotLoggedIn};
use super::request::{NOTHING, client_of, for_people, is_challenge};
use crate::App;
use crate::error::Outcome;
use crate::fhir::Content;
use crate::headers::{JSON, NO_STORE};
use crate::limiter::Attempt;

/// The answer to a step. A code in it grants something, so it is written at the last moment.
struct LoginAnswer<'a> {
    app: &'a App,
    session: &'a Session,
    memberships: Vec<Value>,
}

impl Serialize for LoginAnswer<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("login", &self.session.id.to_string())?;
        match self.session.stage {
            Stage::SecondFactor => map.serialize_entry("mfaRequired", &true)?,
            Stage::Membership => map.serialize_entry("memberships", &self.memberships)?,
            Stage::Code => map.serialize_entry("code", flow::code(self.app, self.session).reveal())?,
            Stage::Consent | Stage::Granted | Stage::Ended => {}
        }
        map.end()
    }
}

async fn answer(app: &App, session: &Session, from: IpAddr) -> Result<Response, Outcome> {
    let memberships = match session.stage {
        Stage::Membership => memberships(app, session, from).await?,
        _ => Vec::new(),
    };
    let body = serde_json::to_string(&LoginAnswer { app, session, memberships });
    let body = body.map_err(|_| Outcome::internal())?;
    Ok(([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response())
}

async fn memberships(app: &App, session: &Session, from: IpAddr) -> Result<Vec<Value>, Outcome> {
    // A login through a client has no choice: it is for one project, where a person is a member once.
    let choices = flow::choices(app, session.user, None, from).await?;
    Ok(choices
        .into_iter()
        .map(|choice| {
            json!({
                "resourceType": "ProjectMembership",
                "id": choice.id.to_string(),
                "project": { "reference": format!("Project/{}", choice.project), "display": choice.project_name },
                "profile": { "reference": choice.profile.to_string() },
            })
        })
        .collect())
}

/// Reads the body of a step.
async fn body(method: &Method, headers: HeaderMap, request: Request) -> Result<Map<String, Value>, Outcome> {
    if method != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    Content::Http { headers, body: request.into_body() }.into_object().await
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Outcome> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text.len() <= AUTHORIZE_PARAMETER_BYTES_MAX => Ok(Some(text)),
        Some(_) => Err(Outcome::invalid_at(
            name,
            format!("{name} must be a string of at most {AUTHORIZE_PARAMETER_BYTES_MAX} bytes"),
        )),
    }
}

fn required<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Outcome> {
    text(body, name)?.ok_or_else(|| Outcome::invalid_at(name, format!("{name} is missing")))
}

/// `POST /auth/login`.
pub(crate) async fn login(
    State(app): State<App>,
    Attempt(from): Attempt,
    method: Method,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let done = async {
        let body = body(&method, headers, request).await?;
        let request = read(&app, &body).await?;
        let session = flow::begin(&app, request, from).await?;
        answer(&app, &session, from).await
    };
    done.await.unwrap_or_else(Outcome::into_response)
}

async fn read(app: &App, body: &Map<String, Value>) -> Result<LoginRequest, Outcome> {
    let email = required(body, "email")?.trim().to_lowercase();
    if email.len() > EMAIL_BYTES_MAX {
        return Err(Outcome::invalid_at("email", format!("email has at most {EMAIL_BYTES_MAX} bytes")));
    }
    let password = Zeroizing::new(required(body, "password")?.to_owned());
    let password = PlainPassword::presented(password)
        .ok_or_else(|| Outcome::invalid_at("password", "password is too long"))?;
    let client = match text(body, "clientId")? {
        Some(id) => Some(client_of(app, id).await?.ok_or_else(|| {
            Outcome::invalid_at(
                "clientId",
                "There is no such client application, or people do not log in through it",
            )
        })?),
        None => None,
    };
    let named = text(body, "projectId")?.filter(|id| *id != "new");
    let named = named
        .map(|id| {
            ProjectId::parse(id).ok_or_else(|| Outcome::invalid_at("projectId", "projectId is not an id"))
        })
        .transpose()?;
    let scope = for_people(text(body, "scope")?, client.as_ref());
    let scope = scope.map_err(|error| Outcome::invalid_at("scope", error.to_string()))?;
    let scope = scope.ok_or_else(|| Outcome::invalid_at("scope", NOTHING))?;
    let code_challenge = challenge(body)?;
    if client.as_ref().is_some_and(|client| client.needs_pkce) && code_challenge.is_none() {
        return Err(Outcome::invalid_at("codeChallenge", "codeChallenge is needed, by the method S256"));
    }
    let redirect_uri = text(body, "redirectUri")?.map(str::to_owned);
    if let (Some(client), Some(uri)) = (&client, &redirect_uri)
        && client.registered(uri).is_none()
    {
        return Err(Outcome::invalid_at(
            "redirectUri",
            "redirectUri is not registered for the client application",
        ));
    }
    let remember = body.get("remember").and_then(Value::as_bool).unwrap_or(false);
    let wants = remember || scope.has("offline_access") || scope.has("online_access");
    Ok(LoginRequest {
        email,
        password,
        project: client.as_ref().map(|client| client.project).or(named),
        refreshable: wants && client.as_ref().is_none_or(|client| client.allows_refresh),
        client: client.map(|client| client.id),
        scope,
        nonce: text(body, "nonce")?.map(str::to_owned),
        redirect_uri,
        code_challenge,
        consent: false,
    })
}

fn challenge(body: &Map<String, Value>) -> Result<Option<String>, Outcome> {
    let Some(challenge) = text(body, "codeChallenge")? else { return Ok(None) };
    if text(body, "codeChallengeMethod")? != Some("S256") || !is_challenge(challenge) {
        return Err(Outcome::invalid_at(
            "codeChallenge",
            "codeChallenge must be made by the method S256, and codeChallengeMethod must say so",
        ));
    }
    Ok(Some(challenge.to_owned()))
}

fn session_id(body: &Map<String, Value>) -> Result<SessionId, Outcome> {
    SessionId::parse(required(body, "login")?).ok_or_else(|| NotLoggedIn::NoLogin.into())
}

/// `POST /auth/profile`: chooses the membership.
pub(crate) async fn profile(
    State(app): State<App>,
    Attempt(from): Attempt,
    method: Method,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let done = async {
        let body = body(&method, headers, request).await?;
        let chosen = MembershipId::parse(required(&body, "profile")?)
            .ok_or_else(|| Outcome::invalid_at("profile", "profile must be the id of a membership"))?;
        let session = session_id(&body)?;
        let session = flow::membership(&app, session, chosen, from).await?;
        answer(&app, &session, from).await
    };
    done.await.unwrap_or_else(Outcome::into_response)
}

/// `POST /auth/mfa/verify`: the code of an authenticator app.
pub(crate) async fn verify_second_factor(
    State(app): State<App>,
    Attempt(from): Attempt,
    method: Method,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let done = async {
        let body = body(&method, headers, request).await?;
        let token = required(&body, "token")?;
        verify(&app, session_id(&body)?, token, from).await
    };
    done.await.unwrap_or_else(Outcome::into_response)
}

async fn verify(app: &App, session: SessionId, token: &str, from: IpAddr) -> Result<Response, Outcome> {
    match flow::second_factor(app, session, token, false, from).await {
        Ok(session) => answer(app, &session, from).await,
        Err(NotLoggedIn::Refused) => Err(Outcome::invalid_at("token", "The code is not valid")),
        Err(error) => Err(error.into()),
    }
}
