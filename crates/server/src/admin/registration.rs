//! `/admin/projects/{id}/registration`: initial access tokens, by which clients register themselves
//! (RFC 7591 §3). An admin makes one, hands it on, sees which still work, and revokes them. What is
//! registered by one is under the policy and within the bounds that the admin set.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::{ProjectId, RegistrationGrantId};
use keyrelay_core::limits::{
    REGISTRATION_GRANT_LIFETIME_DEFAULT, REGISTRATION_GRANT_LIFETIME_MAX, REGISTRATION_GRANT_USES_MAX,
    REGISTRATION_GRANTS_PER_PROJECT_MAX,
};
use keyrelay_core::policy::Interaction;
use keyrelay_core::registration::RegistrationBounds;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use keyrelay_store::{Change, Conflict, RegistrationGrant, StoreError};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::answer::{check_members, policy_reference, reached, respond};
use crate::App;
use crate::auth::{self, ClientAddress};
use crate::error::Outcome;
use crate::fhir::{Content, Rendered, is_there};
use crate::oauth::GRANT_TYPES;

/// The members of the body; all may be left out.
const MEMBERS: [&str; 5] = ["lifetime", "uses", "accessPolicy", "grantType", "scope"];

/// Makes initial access tokens and lists those that still work.
pub(crate) async fn registration(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    project: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let project = project.map(|Path(project)| project).unwrap_or_default();
    let answer = async {
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::HEAD | Method::POST) {
            return Err(Outcome::method_not_allowed("GET, POST"));
        }
        let (parts, body) = request.into_parts();
        let caller = admin(&app, &parts.headers, from).await?;
        if method != Method::POST {
            let project = reached(&app, &caller, &project).await?;
            return Ok((StatusCode::OK, Some(list(&app, project).await?)));
        }
        let body = Content::Http { headers: parts.headers, body }.into_object().await?;
        let project = reached(&app, &caller, &project).await?;
        Ok((StatusCode::CREATED, Some(make(&app, &caller, project, body).await?)))
    };
    respond(answer.await)
}

/// Revokes an initial access token. Clients that were registered by it stay.
pub(crate) async fn revoke_registration(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    path: Result<Path<(String, String)>, PathRejection>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let done = async {
        if method != Method::DELETE {
            return Err(Outcome::method_not_allowed("DELETE"));
        }
        let caller = admin(&app, &headers, from).await?;
        let Path((project, grant)) = path.map_err(|_| Outcome::not_found())?;
        let project = reached(&app, &caller, &project).await?;
        let grant = RegistrationGrantId::parse(&grant).ok_or_else(Outcome::not_found)?;
        let mut change = Change::new();
        change.require(&caller, &app.config.secrets, app.now());
        change.delete_registration_grant(grant, project);
        change.let_pass();
        match app.store.commit(change).await {
            Err(StoreError::Conflict(Conflict::Version)) => return Err(Outcome::not_found()),
            done => done?,
        }
        tracing::info!(%grant, %project, by = %caller.profile, "an initial access token was revoked");
        Ok((StatusCode::NO_CONTENT, None))
    };
    respond(done.await)
}

/// Whoever may make clients of every kind may let others make them.
async fn admin(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Outcome> {
    let caller = auth::caller(app, headers, from).await?;
    let made = [ResourceType::ClientApplication, ResourceType::ProjectMembership];
    if !caller.is_admin() || !made.iter().all(|kind| caller.may_all(Interaction::Create, *kind)) {
        return Err(Outcome::forbidden("Only an admin of the project may let clients register in it"));
    }
    Ok(caller)
}

async fn make(
    app: &App,
    caller: &Caller,
    project: ProjectId,
    body: Map<String, Value>,
) -> Result<Rendered, Outcome> {
    check_members(&body, &MEMBERS)?;
    let policy = body.get("accessPolicy").map(|value| policy_reference("accessPolicy", value)).transpose()?;
    if let Some(policy) = policy
        && !is_there(app, ResourceType::AccessPolicy, policy, project).await?
    {
        return Err(Outcome::invalid_at("accessPolicy", "There is no such AccessPolicy in the project"));
    }
    if app.store.registration_grants(project, app.now()).await?.len() >= REGISTRATION_GRANTS_PER_PROJECT_MAX {
        let text = format!(
            "The project has {REGISTRATION_GRANTS_PER_PROJECT_MAX} initial access tokens that work: delete some, or \
             make one with more uses"
        );
        return Err(Outcome::over_quota(text));
    }
    let grant = RegistrationGrant {
        id: RegistrationGrantId::random(app.entropy.as_ref()),
        project,
        policy,
        bounds: RegistrationBounds { grant_types: grant_types(&body)?, scope: scope(&body)? },
        expires: app.now().plus(lifetime(&body)?),
        uses_left: uses(&body)?,
    };
    let token = app.keyring.issue_ticket(TicketKind::InitialAccess, grant.id.uuid(), 0);
    let answer = Rendered::serialize(&Issued { app, grant: &grant, token: Some(&token) })?;
    let mut change = Change::new();
    change.require(caller, &app.config.secrets, app.now());
    change.create_registration_grant(&grant);
    app.store.commit(change).await?;
    tracing::info!(grant = %grant.id, %project, uses = grant.uses_left, by = %caller.profile, "an initial access token was issued");
    Ok(answer)
}

fn lifetime(body: &Map<String, Value>) -> Result<Duration, Outcome> {
    let Some(value) = body.get("lifetime") else { return Ok(REGISTRATION_GRANT_LIFETIME_DEFAULT) };
    let lifetime = value.as_str().and_then(parse_lifetime);
    lifetime.filter(|lifetime| *lifetime <= REGISTRATION_GRANT_LIFETIME_MAX).ok_or_else(|| {
        let days = REGISTRATION_GRANT_LIFETIME_MAX.as_secs() / 86_400;
        Outcome::invalid_at(
            "lifetime",
            format!("lifetime must be a number and a unit, like 30m or 7d, and at most {days} days"),
        )
    })
}

fn uses(body: &Map<String, Value>) -> Result<i64, Outcome> {
    let Some(value) = body.get("uses") else { return Ok(1) };
    let uses = value.as_i64().filter(|uses| (1..=REGISTRATION_GRANT_USES_MAX).contains(uses));
    uses.ok_or_else(|| {
        Outcome::invalid_at(
            "uses",
            format!("uses must be a whole number from 1 to {REGISTRATION_GRANT_USES_MAX}"),
        )
    })
}

fn grant_types(body: &Map<String, Value>) -> Result<Option<Vec<String>>, Outcome> {
    let Some(value) = body.get("grantType") else { return Ok(None) };
    let named = value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    let all_known = named.as_ref().is_some_and(|named| {
        !named.is_empty()
            && Some(named.len()) == value.as_array().map(Vec::len)
            && named.iter().all(|name| GRANT_TYPES.contains(name))
    });
    match named {
        Some(named) if all_known => Ok(Some(named.into_iter().map(str::to_owned).collect())),
        _ => {
            let known = GRANT_TYPES.join(", ");
            Err(Outcome::invalid_at("grantType", format!("grantType must be a list of some of: {known}")))
        }
    }
}

fn scope(body: &Map<String, Value>) -> Result<Option<Scope>, Outcome> {
    let Some(value) = body.get("scope") else { return Ok(None) };
    let scope = value.as_str().map(Scope::parse).transpose();
    let scope = scope.map_err(|bad| Outcome::invalid_at("scope", bad.to_string()))?;
    scope.filter(|scope| !scope.is_empty()).map(Some).ok_or_else(|| {
        Outcome::invalid_at("scope", "scope must be a string of scopes, separated by spaces, or left out")
    })
}

async fn list(app: &App, project: ProjectId) -> Result<Rendered, Outcome> {
    let grants = app.store.registration_grants(project, app.now()).await?;
    let issued: Vec<Issued<'_>> = grants.iter().map(|grant| Issued { app, grant, token: None }).collect();
    Rendered::serialize(&std::collections::BTreeMap::from([("registrations", issued)]))
}

/// What an initial access token allows, and in the answer that makes it the token itself.
struct Issued<'a> {
    app: &'a App,
    grant: &'a RegistrationGrant,
    token: Option<&'a PlainSecret>,
}

impl Serialize for Issued<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { app, grant, token } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &grant.id.to_string())?;
        if let Some(token) = token {
            map.serialize_entry("initial_access_token", token.reveal())?;
        }
        map.serialize_entry("expires_at", &grant.expires.epoch_seconds())?;
        map.serialize_entry("expires_in", &grant.expires.since(app.now()).as_secs())?;
        map.serialize_entry("uses", &grant.uses_left)?;
        map.serialize_entry("registration_endpoint", &app.config.base_url.join("oauth2/register"))?;
        if let Some(policy) = grant.policy {
            map.serialize_entry("accessPolicy", &json!({ "reference": format!("AccessPolicy/{policy}") }))?;
        }
        if let Some(grant_types) = &grant.bounds.grant_types {
            map.serialize_entry("grantType", grant_types)?;
        }
        if let Some(scope) = &grant.bounds.scope {
            map.serialize_entry("scope", scope.as_str())?;
        }
        map.end()
    }
}
