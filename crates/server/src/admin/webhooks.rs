//! `/admin/projects/{id}/webhooks`: where a project's events are sent. What a webhook is signed with is made
//! here, shown in the answer that makes it and never again, and rotated as secrets of clients are: for a while
//! deliveries bear both signatures.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::audit::WebhookAction;
use keyrelay_core::caller::Caller;
use keyrelay_core::event::EventKind;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::{ProjectId, WebhookId};
use keyrelay_core::limits::{WEBHOOK_OVERLAP_DEFAULT, WEBHOOK_OVERLAP_MAX, WEBHOOKS_PER_PROJECT_MAX};
use keyrelay_core::policy::Interaction;
use keyrelay_core::time::Timestamp;
use keyrelay_core::webhook::SigningSecret;
use keyrelay_store::{Conflict, StoreError, Webhook, WebhookHealth};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::answer::{check_members, reached, respond};
use crate::App;
use crate::audit::record_webhook;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::fhir::{Act, Content, Rendered};
use crate::outbound::OutboundUri;

/// The members of the body; `types` may be left out.
const MEMBERS: [&str; 2] = ["url", "types"];

/// Registers webhooks and lists them.
pub(crate) async fn webhooks(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    project: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let project = project.map(|Path(project)| project).unwrap_or_default();
    let answered = async {
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::HEAD | Method::POST) {
            return Err(Outcome::method_not_allowed("GET, POST"));
        }
        let (parts, body) = request.into_parts();
        let caller = admin(&app, &parts.headers, from).await?;
        if method != Method::POST {
            let project = reached(&app, &caller, &project).await?;
            let found = app.store.webhooks(project, None).await?;
            let shown: Vec<_> = found.iter().map(|(webhook, health)| shown(&app, webhook, health)).collect();
            let body = Rendered::serialize(&std::collections::BTreeMap::from([("webhooks", shown)]))?;
            return Ok((StatusCode::OK, Some(body)));
        }
        let body = Content::Http { headers: parts.headers, body }.into_object().await?;
        let project = reached(&app, &caller, &project).await?;
        Ok((StatusCode::CREATED, Some(register(Act::now(&app, &caller, from), project, &body).await?)))
    };
    respond(answered.await)
}

/// Shows one webhook, with how its deliveries go, or ends it.
pub(crate) async fn webhook(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    path: Result<Path<(String, String)>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let answered = async {
        if !matches!(method, Method::GET | Method::HEAD | Method::DELETE) {
            return Err(Outcome::method_not_allowed("GET, DELETE"));
        }
        let caller = admin(&app, &headers, from).await?;
        let (webhook, health) = named(&app, &caller, path).await?;
        if method != Method::DELETE {
            return Ok((StatusCode::OK, Some(Rendered::serialize(&shown(&app, &webhook, &health))?)));
        }
        let act = Act::now(&app, &caller, from);
        let mut change = act.change();
        change.delete_webhook(webhook.id, webhook.project);
        record_webhook(act, WebhookAction::Delete, &webhook, &mut change);
        match app.store.commit(change).await {
            Err(StoreError::Conflict(Conflict::Version)) => return Err(Outcome::not_found()),
            done => done?,
        }
        Ok((StatusCode::NO_CONTENT, None))
    };
    respond(answered.await)
}

/// Makes another signing secret; the one before signs too, for a while.
pub(crate) async fn rotate_signing_secret(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let answered = async {
        let (caller, body) = posted(&app, from, request).await?;
        let Renewal { overlap, force } = Renewal::read(&body)?;
        let (webhook, health) = named(&app, &caller, path).await?;
        if let Some((_, ends)) = webhook.retiring.as_ref().filter(|(_, ends)| app.now() < *ends)
            && !force
        {
            return Err(Outcome::conflict(format!(
                "The secret before this one signs until {}, and would end now; force does it all the same",
                ends.to_instant()
            )));
        }
        let (secret, ends) = (SigningSecret::generate(app.entropy.as_ref()), app.now().plus(overlap));
        let fresh = app.keyring.seal_signing_secret(webhook.id, &secret, app.entropy.as_ref());
        let after = Webhook { retiring: Some((webhook.signing.clone(), ends)), ..webhook.clone() };
        let body = Rendered::serialize(&Shown { secret: Some(&secret), ..shown(&app, &after, &health) })?;
        let act = Act::now(&app, &caller, from);
        let mut change = act.change();
        change.rotate_signing_secret(&webhook, &fresh, ends);
        record_webhook(act, WebhookAction::RotateSecret, &webhook, &mut change);
        app.store.commit(change).await?;
        Ok((StatusCode::OK, Some(body)))
    };
    respond(answered.await)
}

/// Has what was not delivered sent now, and what comes, where the receiver was gone.
pub(crate) async fn resend(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request,
) -> Response {
    let answered = async {
        let (caller, body) = posted(&app, from, request).await?;
        check_members(&body, &[])?;
        let (webhook, _) = named(&app, &caller, path).await?;
        let act = Act::now(&app, &caller, from);
        let mut change = act.change();
        change.resend(webhook.id, webhook.project);
        record_webhook(act, WebhookAction::Resend, &webhook, &mut change);
        app.store.commit(change).await?;
        app.store.resend_deliveries(webhook.id, act.now).await?;
        let (webhook, health) = find(&app, webhook.project, webhook.id).await?;
        Ok((StatusCode::OK, Some(Rendered::serialize(&shown(&app, &webhook, &health))?)))
    };
    respond(answered.await)
}

/// The admin who posts something, and what.
async fn posted(app: &App, from: IpAddr, request: Request) -> Result<(Caller, Map<String, Value>), Outcome> {
    if request.method() != Method::POST {
        return Err(Outcome::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let caller = admin(app, &parts.headers, from).await?;
    let body = Content::Http { headers: parts.headers, body }.into_object().await?;
    Ok((caller, body))
}

/// A webhook tells of the secrets of all clients, and goes on when whoever made it has gone: so it takes somebody
/// who may rotate all of them.
async fn admin(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Outcome> {
    let caller = auth::caller(app, headers, from).await?;
    if !caller.is_admin() || !caller.may_all(Interaction::Update, ResourceType::ClientApplication) {
        return Err(Outcome::forbidden("Only an admin of the project may have its events sent somewhere"));
    }
    Ok(caller)
}

async fn named(
    app: &App,
    caller: &Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<(Webhook, WebhookHealth), Outcome> {
    let Path((project, id)) = path.map_err(|_| Outcome::not_found())?;
    let project = reached(app, caller, &project).await?;
    find(app, project, WebhookId::parse(&id).ok_or_else(Outcome::not_found)?).await
}

async fn find(app: &App, project: ProjectId, id: WebhookId) -> Result<(Webhook, WebhookHealth), Outcome> {
    app.store.webhooks(project, Some(id)).await?.pop().ok_or_else(Outcome::not_found)
}

async fn register(act: Act<'_>, project: ProjectId, body: &Map<String, Value>) -> Result<Rendered, Outcome> {
    let app = act.app;
    check_members(body, &MEMBERS)?;
    let url = body.get("url").and_then(Value::as_str).unwrap_or_default();
    OutboundUri::parse(url, app.config.base_url.reach())
        .map_err(|error| Outcome::invalid_at("url", error.to_string()))?;
    let (id, secret) =
        (WebhookId::random(app.entropy.as_ref()), SigningSecret::generate(app.entropy.as_ref()));
    let webhook = Webhook {
        id,
        project,
        url: url.to_owned(),
        kinds: kinds(body)?,
        created: act.now,
        created_by: act.caller.profile,
        signing: app.keyring.seal_signing_secret(id, &secret, app.entropy.as_ref()),
        retiring: None,
        disabled: None,
    };
    let health = WebhookHealth::default();
    let answer = Rendered::serialize(&Shown { secret: Some(&secret), ..shown(app, &webhook, &health) })?;
    let mut change = act.change();
    change.create_webhook(&webhook);
    record_webhook(act, WebhookAction::Create, &webhook, &mut change);
    match app.store.commit(change).await {
        Err(StoreError::Conflict(Conflict::Exists)) => {
            return Err(Outcome::conflict(format!(
                "The project has {WEBHOOKS_PER_PROJECT_MAX} webhooks already, the most that there may be: delete one first"
            )));
        }
        done => done?,
    }
    Ok(answer)
}

fn kinds(body: &Map<String, Value>) -> Result<Option<Vec<EventKind>>, Outcome> {
    let Some(value) = body.get("types") else { return Ok(None) };
    let named = value.as_array().map(|list| list.iter().map(|name| EventKind::parse(name.as_str()?)));
    let known = named.and_then(Iterator::collect::<Option<Vec<_>>>).filter(|kinds| !kinds.is_empty());
    known.map(Some).ok_or_else(|| {
        let known = EventKind::ALL.map(EventKind::as_str).join(", ");
        Outcome::invalid_at("types", format!("types must be a list of some of: {known}"))
    })
}

/// What is asked of another signing secret.
struct Renewal {
    /// How long the one before signs too.
    overlap: Duration,
    /// Whether one that still signs beside it ends for it.
    force: bool,
}

impl Renewal {
    fn read(body: &Map<String, Value>) -> Result<Self, Outcome> {
        check_members(body, &["overlap", "force"])?;
        let overlap = match body.get("overlap") {
            None => Some(WEBHOOK_OVERLAP_DEFAULT),
            Some(value) => value.as_str().and_then(parse_lifetime),
        };
        let overlap = overlap.filter(|overlap| *overlap <= WEBHOOK_OVERLAP_MAX).ok_or_else(|| {
            let days = WEBHOOK_OVERLAP_MAX.as_secs() / 86_400;
            let text =
                format!("overlap must be a number and a unit, like 30m or 7d, and at most {days} days");
            Outcome::invalid_at("overlap", text)
        })?;
        let force = match body.get("force") {
            None => false,
            Some(Value::Bool(force)) => *force,
            Some(_) => return Err(Outcome::invalid_at("force", "force must be true or false")),
        };
        Ok(Self { overlap, force })
    }
}

/// A webhook, with how its deliveries go, and in the answer that makes one its signing secret.
struct Shown<'a> {
    webhook: &'a Webhook,
    health: &'a WebhookHealth,
    now: Timestamp,
    secret: Option<&'a SigningSecret>,
}

fn shown<'a>(app: &App, webhook: &'a Webhook, health: &'a WebhookHealth) -> Shown<'a> {
    Shown { webhook, health, now: app.now(), secret: None }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { webhook, health, now, secret } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &webhook.id.to_string())?;
        map.serialize_entry("url", &webhook.url)?;
        if let Some(kinds) = &webhook.kinds {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            map.serialize_entry("types", &names)?;
        }
        if let Some(secret) = secret {
            map.serialize_entry("secret", secret.reveal().as_str())?;
        }
        if let Some((_, ends)) = webhook.retiring.as_ref().filter(|(_, ends)| now < ends) {
            map.serialize_entry("retiringSecretEnds", &ends.to_instant())?;
        }
        map.serialize_entry("created", &webhook.created.to_instant())?;
        map.serialize_entry("createdBy", &webhook.created_by.to_string())?;
        let status = if webhook.disabled.is_some() { "disabled" } else { "active" };
        map.serialize_entry("status", status)?;
        map.serialize_entry("pending", &health.pending)?;
        map.serialize_entry("dead", &health.dead.saturating_add(health.dropped))?;
        if health.dropped > 0 {
            map.serialize_entry("dropped", &health.dropped)?;
        }
        if let Some(at) = health.last_dropped {
            map.serialize_entry("lastDropped", &at.to_instant())?;
        }
        map.serialize_entry("failuresInARow", &health.failures)?;
        if let Some(at) = health.last_success {
            map.serialize_entry("lastSuccess", &at.to_instant())?;
        }
        if let Some((at, problem)) = &health.last_failure {
            map.serialize_entry("lastFailure", &json!({ "at": at.to_instant(), "problem": problem }))?;
        }
        map.end()
    }
}
