//! `POST /oauth2/register` (RFC 7591 §3.1): with an initial access token, a client application and its
//! membership. The use of the token is in the change that makes them, so that a token for one client
//! never makes two.

use std::net::IpAddr;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::caller::{Caller, Profile, Role};
use keyrelay_core::client::Refused;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, RegistrationGrantId, SecretId};
use keyrelay_core::registration::Registration;
use keyrelay_core::scope::Scope;
use keyrelay_core::ticket::TicketKind;
use keyrelay_store::{Change, RegistrationGrant};
use serde_json::{Map, json};

use super::answer::{ClientInformation, reply};
use super::metadata::Metadata;
use super::{read, spent, ticket};
use crate::App;
use crate::auth::ClientAddress;
use crate::error::{OAuthError, Outcome};
use crate::fhir::{Act, NewClient, is_there, stored_resource};

pub(crate) async fn register(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    request: Request,
) -> Response {
    match answer(&app, from, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(app: &App, from: IpAddr, request: Request) -> Result<Response, OAuthError> {
    if request.method() != Method::POST {
        return Err(OAuthError::method_not_allowed("POST"));
    }
    let (parts, body) = request.into_parts();
    let grant = grant(app, &parts.headers, from).await?;
    let metadata = Metadata::read(&read(&parts.headers, body).await?, &grant.bounds)?;
    metadata.check(None)?;
    make(app, from, grant, metadata).await
}

/// What the initial access token of a request allows. One that works no more is like one that never was.
async fn grant(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<RegistrationGrant, OAuthError> {
    let ticket = ticket(app, TicketKind::InitialAccess, headers, from)?;
    let found = app.store.registration_grant(RegistrationGrantId::from(ticket.of)).await?;
    let works = |grant: &RegistrationGrant| grant.uses_left > 0 && app.now() < grant.expires;
    let grant = found.filter(works).ok_or_else(|| spent(app, ClientId::NIL, from, Refused::Revoked))?;
    let policy_is_there = match grant.policy {
        Some(policy) => is_there(app, ResourceType::AccessPolicy, policy, grant.project).await,
        None => Ok(true),
    };
    // Without the policy that an admin chose, what is made would not be what the admin meant.
    if policy_is_there.map_err(|outcome| OAuthError::metadata(&outcome))? {
        Ok(grant)
    } else {
        Err(spent(app, ClientId::NIL, from, Refused::Revoked))
    }
}

/// A client that is about to be: it makes itself.
fn itself(client: ClientId, project: ProjectId) -> Caller {
    Caller {
        client: Some(client),
        login: None,
        profile: Profile::client(client),
        name: None,
        membership: MembershipId::NIL,
        project,
        role: Role::Member,
        policy: None,
        scope: Scope::default(),
        proof: SecretId::NIL,
        by_token: true,
        token: None,
    }
}

async fn make(
    app: &App,
    from: IpAddr,
    grant: RegistrationGrant,
    metadata: Metadata,
) -> Result<Response, OAuthError> {
    let id = ClientId::random(app.entropy.as_ref());
    let caller = itself(id, grant.project);
    let act = Act::now(app, &caller, from);
    let mut resource = Map::new();
    resource.insert("resourceType".to_owned(), json!(ResourceType::ClientApplication.as_str()));
    metadata.apply(&mut resource);

    let mut change = Change::new();
    change.use_registration_grant(grant.id, act.now);
    change.charge(&caller, act.now);
    let new = NewClient {
        id,
        project: grant.project,
        resource,
        policy: grant.policy,
        with_secret: metadata.auth_method.needs_secret(),
    };
    let failed = |outcome: Outcome| OAuthError::metadata(&outcome);
    let (version, secret) = new.add(act, &mut change).await.map_err(failed)?;
    let registration = Registration {
        client: id,
        generation: 0,
        auth_method: metadata.auth_method,
        bounds: grant.bounds,
        registered: act.now,
    };
    change.create_registration(&registration);
    let body = ClientInformation {
        app,
        registration: &registration,
        resource: &stored_resource(&version).map_err(failed)?,
        has_secret: secret.is_some(),
        secret: secret.as_ref(),
    }
    .render()?;
    app.store.commit(change).await?;
    tracing::info!(client = %id, project = %grant.project, grant = %grant.id, "a client registered itself");
    Ok(reply(StatusCode::CREATED, body, version.version))
}
