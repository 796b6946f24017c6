//! `/oauth2/authorize` (RFC 6749 §3.1): a browser comes with a client's request, a person logs in and
//! agrees, and the browser goes back with a code. No script runs. Every form leads back to the same
//! URL, so that the request is read and checked anew at every step; the login that is under way is in
//! a cookie that only this browser has. A form that answers for a person carries the mark of that login, so that it
//! cannot count as the answer of another person whose cookie the browser has.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use keyrelay_core::id::SessionId;
use keyrelay_core::limits::{EMAIL_BYTES_MAX, LOGIN_LIFETIME};
use keyrelay_core::password::PlainPassword;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::session::{Session, SessionAccess, Stage};
use keyrelay_core::ticket::TicketKind;
use zeroize::Zeroizing;

use super::flow::{self, LoginRequest, NotLoggedIn};
use super::request::{AuthorizationRequest, Unanswerable, Wanted};
use crate::App;
use crate::body::read_body;
use crate::error::Outcome;
use crate::headers::NO_STORE;
use crate::limiter::Attempt;
use crate::ui::{self, ScopeLine, page};

/// Said to whoever may be guessing.
const WRONG: &str = "The email or the password is not right, or the account must wait after failed attempts.";
const OVER: &str = "This sign-in is over. Please sign in again.";

/// One request, on its way to an answer.
struct Visit<'a> {
    app: &'a App,
    from: IpAddr,
    asked: AuthorizationRequest,
    /// Where forms lead: the URL of this request.
    action: String,
    cookie: Option<SessionId>,
}

pub(crate) async fn authorize(
    State(app): State<App>,
    attempt: Result<Attempt, Outcome>,
    request: Request,
) -> Response {
    let from = match attempt {
        Ok(Attempt(from)) => from,
        Err(outcome) => return outcome.to_page(app.config.base_url.as_str()),
    };
    let (parts, body) = request.into_parts();
    if !matches!(parts.method, Method::GET | Method::HEAD | Method::POST) {
        return Outcome::method_not_allowed("GET, POST").into_response();
    }
    let query = parts.uri.query().unwrap_or_default();
    if parts.method == Method::POST && query.is_empty() {
        return begun_by_form(&app, body).await;
    }
    let asked = match AuthorizationRequest::read(&app, query).await {
        Ok(asked) => asked,
        Err(Unanswerable::Bad(text)) => return message(&app, StatusCode::BAD_REQUEST, text),
        Err(Unanswerable::Failed(outcome)) => {
            return outcome.to_page(app.config.base_url.as_str());
        }
    };
    if let Err(error) = &asked.wanted {
        return redirect(
            &asked.target(&app, &[("error", error.code), ("error_description", &error.description)]),
        );
    }
    let action = format!("{}?{query}", app.config.base_url.join("oauth2/authorize"));
    let cookie = cookie(&app, &parts.headers);
    let visit = Visit { app: &app, from, asked, action, cookie };
    if parts.method != Method::POST {
        return visit.sign_in("", None, StatusCode::OK);
    }
    if !is_own_form(&app, &parts.headers) {
        return message(&app, StatusCode::FORBIDDEN, "This form was not sent from a page of this server.");
    }
    match visit.step(body).await {
        Ok(response) => response,
        Err(NotLoggedIn::NoLogin | NotLoggedIn::Refused) => {
            visit.sign_in("", Some(OVER), StatusCode::BAD_REQUEST)
        }
        Err(error) => Outcome::from(error).to_page(app.config.base_url.as_str()),
    }
}

/// A client may send its request as a form, too (OpenID Connect Core §3.1.2.1): the browser is sent on to
/// where the same request is a query, for forms of ours lead back there. Nothing in it is secret.
async fn begun_by_form(app: &App, body: Body) -> Response {
    match read_body(body).await {
        Ok(body) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(form_urlencoded::parse(&body));
            redirect(&format!("{}?{}", app.config.base_url.join("oauth2/authorize"), query.finish()))
        }
        Err(outcome) => outcome.to_page(app.config.base_url.as_str()),
    }
}

/// The fields of a form.
#[derive(Default)]
struct Fields {
    step: String,
    email: String,
    password: Zeroizing<String>,
    token: String,
    decision: String,
    /// The mark of the page that the form came from.
    login: String,
}

impl Fields {
    async fn read(body: Body) -> Result<Self, Outcome> {
        let body = read_body(body).await?;
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(&body) {
            match name.as_ref() {
                "step" => fields.step = value.into_owned(),
                "email" => fields.email = value.trim().to_lowercase(),
                "password" => fields.password = Zeroizing::new(value.into_owned()),
                "token" => fields.token = value.into_owned(),
                "decision" => fields.decision = value.into_owned(),
                "login" => fields.login = value.into_owned(),
                _ => {}
            }
        }
        Ok(fields)
    }
}

impl Visit<'_> {
    async fn step(&self, body: Body) -> Result<Response, NotLoggedIn> {
        let fields = match Fields::read(body).await {
            Ok(fields) => fields,
            Err(outcome) => return Ok(message(self.app, outcome.status, "The form could not be read.")),
        };
        match fields.step.as_str() {
            "sign-in" => self.password(fields).await,
            "second-factor" => {
                let session = self.waiting(Stage::SecondFactor, &fields.login).await?.session;
                let token = fields.token.trim();
                match flow::second_factor(self.app, session.id, token, true, self.from).await {
                    Err(NotLoggedIn::Refused) => {
                        Ok(self.second_factor(&session, Some("That code is not right.")))
                    }
                    moved => self.next(moved?).await,
                }
            }
            "consent" => {
                let waiting = self.waiting(Stage::Consent, &fields.login).await?;
                let allowed = match fields.decision.as_str() {
                    "allow" => true,
                    "deny" => false,
                    _ => return Err(NotLoggedIn::NoLogin),
                };
                self.next(flow::consent(self.app, waiting.session, allowed).await?).await
            }
            _ => Err(NotLoggedIn::NoLogin),
        }
    }

    fn wanted(&self) -> Result<&Wanted, NotLoggedIn> {
        self.asked.wanted.as_ref().map_err(|_| NotLoggedIn::NoLogin)
    }

    async fn password(&self, fields: Fields) -> Result<Response, NotLoggedIn> {
        let wanted = self.wanted()?;
        let password = PlainPassword::presented(fields.password);
        let Some(password) = password.filter(|_| fields.email.len() <= EMAIL_BYTES_MAX) else {
            return Ok(self.sign_in("", Some(WRONG), StatusCode::BAD_REQUEST));
        };
        let request = LoginRequest {
            email: fields.email.clone(),
            password,
            client: Some(self.asked.client.id),
            is_for_nobody: false,
            problem: None,
            project: Some(self.asked.client.project),
            scope: wanted.scope.clone(),
            nonce: wanted.nonce.clone(),
            redirect_uri: Some(self.asked.redirect_uri.as_str().to_owned()),
            code_challenge: wanted.code_challenge.clone(),
            refreshable: wanted.refreshable,
            consent: true,
        };
        match flow::begin(self.app, request, self.from).await {
            Err(NotLoggedIn::Refused) => {
                Ok(self.sign_in(&fields.email, Some(WRONG), StatusCode::BAD_REQUEST))
            }
            begun => {
                let session = begun?;
                let mut response = self.next(session.clone()).await?;
                response.headers_mut().append(SET_COOKIE, set_cookie(self.app, session.id));
                Ok(response)
            }
        }
    }

    /// The login of the cookie, if it waits at that stage and belongs to this request and to this form. A login for
    /// one client is not consent to another, and one person cannot answer a page that another person saw.
    async fn waiting(&self, stage: Stage, mark: &str) -> Result<SessionAccess, NotLoggedIn> {
        let wanted = self.wanted()?;
        let id = self.cookie.ok_or(NotLoggedIn::NoLogin)?;
        let access = flow::waiting(self.app, id, stage).await?;
        let session = &access.session;
        let is_this = session.client == Some(self.asked.client.id)
            && session.redirect_uri.as_deref() == Some(self.asked.redirect_uri.as_str())
            && session.code_challenge == wanted.code_challenge
            && session.scope == wanted.scope
            && session.nonce == wanted.nonce
            && self.app.keyring.is_form_mark(session.id, session.user, stage, mark);
        if is_this { Ok(access) } else { Err(NotLoggedIn::NoLogin) }
    }

    /// The page, or the way back, that belongs to where a login has got to.
    async fn next(&self, session: Session) -> Result<Response, NotLoggedIn> {
        match session.stage {
            Stage::SecondFactor => Ok(self.second_factor(&session, None)),
            Stage::Consent => self.consent(session.id).await,
            Stage::Code => {
                let code = flow::code(self.app, &session);
                Ok(self.back(&[("code", code.reveal())]))
            }
            Stage::Ended => {
                let denied = [("error", "access_denied"), ("error_description", "The person said no")];
                Ok(self.back(&denied))
            }
            // A client is of one project, and a person has one membership there: there is nothing to choose.
            Stage::Membership | Stage::Granted => Err(NotLoggedIn::NoLogin),
        }
    }

    fn back(&self, parameters: &[(&str, &str)]) -> Response {
        let mut response = redirect(&self.asked.target(self.app, parameters));
        response.headers_mut().append(SET_COOKIE, clear_cookie(self.app));
        response
    }

    fn sign_in(&self, email: &str, problem: Option<&str>, status: StatusCode) -> Response {
        let hint = self.asked.wanted.as_ref().map_or("", |wanted| wanted.login_hint.as_str());
        let template = ui::SignIn {
            base: self.app.config.base_url.as_str(),
            action: &self.action,
            client: &self.asked.client.name,
            email: if email.is_empty() { hint } else { email },
            problem,
        };
        page(status, &template, Some(&self.asked.redirect_uri.source()))
    }

    /// The mark for a form that answers for the person of a login.
    fn mark(&self, session: &Session) -> String {
        self.app.keyring.form_mark(session.id, session.user, session.stage)
    }

    fn second_factor(&self, session: &Session, problem: Option<&str>) -> Response {
        let template = ui::SecondFactor {
            base: self.app.config.base_url.as_str(),
            action: &self.action,
            login: &self.mark(session),
            problem,
        };
        let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        page(status, &template, Some(&self.asked.redirect_uri.source()))
    }

    async fn consent(&self, session: SessionId) -> Result<Response, NotLoggedIn> {
        let access = flow::waiting(self.app, session, Stage::Consent).await?;
        let scopes = ScopeLine::all(&access.session.scope);
        let project = access.project.as_ref().and_then(|project| project.name.as_deref());
        let template = ui::Consent {
            base: self.app.config.base_url.as_str(),
            action: &self.action,
            login: &self.mark(&access.session),
            client: &self.asked.client.name,
            person: access.user.name.as_deref().unwrap_or(&access.user.email),
            project: project.unwrap_or("a project without a name"),
            target: self.asked.redirect_uri.as_str().split('?').next().unwrap_or_default(),
            scopes: &scopes,
        };
        Ok(page(StatusCode::OK, &template, Some(&self.asked.redirect_uri.source())))
    }
}

fn message(app: &App, status: StatusCode, text: &str) -> Response {
    let template = ui::Message { base: app.config.base_url.as_str(), title: "This did not work", text };
    page(status, &template, None)
}

/// 303, so that the browser follows by GET and no form is sent on (RFC 9700 §4.12).
fn redirect(target: &str) -> Response {
    match HeaderValue::from_str(target) {
        Ok(target) => {
            let headers = [(LOCATION, target), (CACHE_CONTROL, NO_STORE)];
            (StatusCode::SEE_OTHER, headers).into_response()
        }
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// Whether a form was sent from a page of ours. Browsers say so with every form; what is no browser
/// has no cookie that somebody else could make it send.
pub(super) fn is_own_form(app: &App, headers: &HeaderMap) -> bool {
    let site = headers.get(HeaderName::from_static("sec-fetch-site")).map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin") {
        return false;
    }
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let base = app.config.base_url.as_str();
    let own = base.strip_prefix(origin).is_some_and(|rest| rest.starts_with('/'));
    // Behind a proxy that was not told of, the host that the browser asked for.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    own || host.is_some_and(|host| origin.split_once("://").is_some_and(|(_, asked)| asked == host))
}

fn cookie_name(app: &App) -> &'static str {
    if app.config.base_url.is_https() { "__Host-keyrelay-login" } else { "keyrelay-login" }
}

fn cookie(app: &App, headers: &HeaderMap) -> Option<SessionId> {
    let name = cookie_name(app);
    let mut pairs = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    let value = pairs.find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))?;
    let presented = PlainSecret::presented(value.to_owned()).ok()?;
    app.keyring.read_ticket(TicketKind::Login, &presented).map(|ticket| SessionId::from(ticket.of))
}

fn set_cookie(app: &App, session: SessionId) -> HeaderValue {
    let ticket = app.keyring.issue_ticket(TicketKind::Login, session.uuid(), 0);
    cookie_header(app, ticket.reveal(), LOGIN_LIFETIME.as_secs())
}

fn clear_cookie(app: &App) -> HeaderValue {
    cookie_header(app, "", 0)
}

fn cookie_header(app: &App, value: &str, seconds: u64) -> HeaderValue {
    let secure = if app.config.base_url.is_https() { "; Secure" } else { "" };
    let text = Zeroizing::new(format!(
        "{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
        cookie_name(app)
    ));
    let mut header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    header.set_sensitive(true);
    header
}
