//! `/auth/login` and what follows it, as Medplum's clients call them. Whoever logs in here does so in
//! the application that asks for the password; a browser that comes from elsewhere uses `authorize`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{MembershipId, ProjectId, SessionId};
use keyrelay_core::limits::EMAIL_BYTES_MAX;
use keyrelay_core::password::PlainPassword;
use keyrelay_core::session::{Session, Stage};
use serde::Serialize;
use serde_json::{Value, json};

use super::flow::{self, LoginRequest, NotLoggedIn};
use super::request::{LoginClient, NOTHING, client_of, for_people, is_challenge};
use crate::App;
use crate::error::Outcome;
use crate::headers::{JSON, NO_STORE};
use crate::limiter::Attempt;
use crate::members::Members;

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
        Stage::Membership => choices(app, session, from).await?,
        _ => Vec::new(),
    };
    let body = serde_json::to_string(&LoginAnswer { app, session, memberships });
    let body = body.map_err(|_| Outcome::internal())?;
    Ok(([(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)], body).into_response())
}

async fn choices(app: &App, session: &Session, from: IpAddr) -> Result<Vec<Value>, Outcome> {
    // A login through a client has no choice: it is for one project, where a person is a member once.
    let choices = flow::choices_of(app, session, None, from).await?;
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
async fn members(
    method: &Method,
    headers: &HeaderMap,
    request: Request,
    known: &[&str],
) -> Result<Members, Outcome> {
    if method != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    Members::read(headers, request.into_body(), known).await
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
        let body = LoginBody::of(members(&method, &headers, request, &LoginBody::MEMBERS).await?)?;
        let session = flow::begin(&app, body.resolve(&app).await?, from).await?;
        answer(&app, &session, from).await
    };
    done.await.unwrap_or_else(Outcome::into_response)
}

/// The body of `/auth/login`.
struct LoginBody {
    email: String,
    password: PlainPassword,
    client: Option<String>,
    project: Option<ProjectId>,
    scope: Option<String>,
    nonce: Option<String>,
    redirect_uri: Option<String>,
    code_challenge: Option<String>,
    remember: bool,
}

impl LoginBody {
    const MEMBERS: [&str; 11] = [
        "email",
        "password",
        "clientId",
        "projectId",
        "resourceType",
        "scope",
        "nonce",
        "redirectUri",
        "codeChallenge",
        "codeChallengeMethod",
        "remember",
    ];

    fn of(mut members: Members) -> Result<Self, Outcome> {
        let email = members.needed("email")?.trim().to_lowercase();
        if email.len() > EMAIL_BYTES_MAX {
            return Err(Outcome::invalid_at("email", format!("email has at most {EMAIL_BYTES_MAX} bytes")));
        }
        let project = match members.text("projectId")?.as_deref() {
            None | Some("new") => None,
            Some(id) => Some(
                ProjectId::parse(id)
                    .ok_or_else(|| Outcome::invalid_at("projectId", "projectId is not an id"))?,
            ),
        };
        if members.text("resourceType")?.is_some_and(|kind| kind != ResourceType::Practitioner.as_str()) {
            return Err(Outcome::not_supported("People log in as Practitioner").at("resourceType"));
        }
        Ok(Self {
            email,
            password: members.password("password")?,
            client: members.text("clientId")?,
            project,
            scope: members.text("scope")?,
            nonce: members.text("nonce")?,
            redirect_uri: members.text("redirectUri")?,
            code_challenge: challenge(&mut members)?,
            remember: members.flag("remember")?,
        })
    }

    /// Checks the request against what the client registered.
    async fn resolve(self, app: &App) -> Result<LoginRequest, Outcome> {
        let client = match &self.client {
            Some(id) => client_of(app, id).await?,
            None => None,
        };
        let redirect_uri = self.redirect_uri.as_deref();
        let is_registered =
            |client: &LoginClient| redirect_uri.is_none_or(|uri| client.registered(uri).is_some());
        // No login is possible, and the caller does not learn why: the answer is that of a wrong password.
        let is_for_nobody = self.client.is_some() && !client.as_ref().is_some_and(is_registered);
        let scope = for_people(self.scope.as_deref(), client.as_ref());
        let scope = scope.map_err(|error| Outcome::invalid_at("scope", error.to_string()))?;
        let problem = if scope.is_none() {
            Some(Outcome::invalid_at("scope", NOTHING))
        } else if client.as_ref().is_some_and(|client| client.needs_pkce) && self.code_challenge.is_none() {
            Some(Outcome::invalid_at("codeChallenge", "codeChallenge is needed, by the method S256"))
        } else {
            None
        };
        let scope = scope.unwrap_or_default();
        let wants = self.remember || scope.has("offline_access") || scope.has("online_access");
        Ok(LoginRequest {
            email: self.email,
            password: self.password,
            project: client.as_ref().map(|client| client.project).or(self.project),
            refreshable: wants && client.as_ref().is_none_or(|client| client.allows_refresh),
            client: client.map(|client| client.id),
            is_for_nobody,
            problem,
            scope,
            nonce: self.nonce,
            redirect_uri: self.redirect_uri,
            code_challenge: self.code_challenge,
            consent: false,
        })
    }
}

fn challenge(members: &mut Members) -> Result<Option<String>, Outcome> {
    let method = members.text("codeChallengeMethod")?;
    let Some(challenge) = members.text("codeChallenge")? else { return Ok(None) };
    if method.as_deref() != Some("S256") || !is_challenge(&challenge) {
        return Err(Outcome::invalid_at(
            "codeChallenge",
            "codeChallenge must be made by the method S256, and codeChallengeMethod must say so",
        ));
    }
    Ok(Some(challenge))
}

fn session_id(members: &mut Members) -> Result<SessionId, Outcome> {
    SessionId::parse(&members.needed("login")?).ok_or_else(|| NotLoggedIn::NoLogin.into())
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
        let mut body = members(&method, &headers, request, &["login", "profile"]).await?;
        let chosen = MembershipId::parse(&body.needed("profile")?)
            .ok_or_else(|| Outcome::invalid_at("profile", "profile must be the id of a membership"))?;
        let session = session_id(&mut body)?;
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
        let mut body = members(&method, &headers, request, &["login", "token"]).await?;
        let (session, token) = (session_id(&mut body)?, body.needed("token")?);
        verify(&app, session, &token, from).await
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
