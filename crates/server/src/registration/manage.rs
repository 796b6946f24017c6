//! `/oauth2/register/{client}` (RFC 7592 §2): a client reads, changes and deletes its own registration
//! with its registration access token. It also moves its own secret on, by the same steps and with the
//! same overlap as `$rotate-secret`.

use std::net::IpAddr;

use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, IF_MATCH};
use http::{HeaderMap, Method, StatusCode};
use keyrelay_core::audit::{Recorded, SecretAction};
use keyrelay_core::caller::{Caller, SecretAuthority};
use keyrelay_core::client::Refused;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::index_entries;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::CONFLICT_RETRIES_MAX;
use keyrelay_core::registration::{AuthMethod, Registration, RegistrationBounds};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::SlotKind;
use keyrelay_core::ticket::{Ticket, TicketKind};
use keyrelay_store::{Change, ClientState};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::answer::{ClientInformation, reply};
use super::metadata::Metadata;
use super::{read, spent, ticket};
use crate::App;
use crate::audit::{self, Seen};
use crate::auth::ClientAddress;
use crate::error::{OAuthError, Outcome};
use crate::fhir::{
    Act, Rendered, SecretMove, ShownSecrets, Step, check_if_match, check_resource, client_row, committed,
    deletion, fresh_secret, next_version, record_move, same_apart_from_meta, stored_resource, warning_header,
};
use crate::headers::NO_STORE;

const METHODS: &str = "GET, PUT, DELETE";
/// What `retire_secret` does: as `$rotate-secret` with nothing else said.
const RETIRE: Step = Step::Retire { only_if_unused: None, revoke_tokens: false };
/// What an update must not have (RFC 7592 §2.2): it is the server's to say.
const NEVER_SENT: [&str; 4] = [
    "registration_access_token",
    "registration_client_uri",
    "client_secret_expires_at",
    "client_id_issued_at",
];

pub(crate) async fn manage(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    client: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let client = client.ok().and_then(|Path(client)| ClientId::parse(&client)).unwrap_or(ClientId::NIL);
    let answer = async {
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE) {
            return Err(OAuthError::method_not_allowed(METHODS));
        }
        let (parts, body) = request.into_parts();
        let visit = Visit::enter(&app, from, client, &parts.headers)?;
        // Before the body is looked at; what changes something is decided on what is read after it.
        let managed = visit.admitted().await?;
        match method {
            Method::PUT => visit.update(Update::read(read(&parts.headers, body).await?, &managed)?).await,
            Method::DELETE => visit.delete().await,
            _ => managed.reply(Act::now(&app, &managed.caller, from)).await,
        }
    };
    answer.await.unwrap_or_else(IntoResponse::into_response)
}

/// One request of a client about itself.
struct Visit<'a> {
    app: &'a App,
    from: IpAddr,
    client: ClientId,
    ticket: Ticket,
    if_match: Option<String>,
}

/// A client that was let in by its registration access token, as it is now.
struct Managed {
    caller: Caller,
    authority: SecretAuthority,
    registration: Registration,
    state: ClientState,
}

impl<'a> Visit<'a> {
    fn enter(app: &'a App, from: IpAddr, client: ClientId, headers: &HeaderMap) -> Result<Self, OAuthError> {
        let ticket = ticket(app, TicketKind::RegistrationAccess, headers, from)?;
        let if_match = headers.get(IF_MATCH).map(|value| value.to_str().unwrap_or_default().to_owned());
        Ok(Self { app, from, client, ticket, if_match })
    }

    /// Reads everything anew. Whatever is missing or does not fit, the answer is the same.
    async fn admitted(&self) -> Result<Managed, OAuthError> {
        let store = &self.app.store;
        let (access, state) = tokio::try_join!(store.access(self.client), store.client(self.client))?;
        // Read last: an admin who narrows it makes a new version of the client too, so that what is decided on
        // this one is within bounds that go with it, or changes nothing.
        let registration = store.registration(self.client).await?;
        let state = state.filter(|state| !state.resource.deleted);
        let no = |why| spent(self.app, self.client, self.from, why);
        let (Some(registration), Some(access), Some(state)) = (registration, access, state) else {
            return Err(no(Refused::UnknownClient));
        };
        let (caller, authority) = registration.admit(self.ticket, &access, self.from).map_err(no)?;
        Ok(Managed { caller, authority, registration, state })
    }

    async fn update(&self, update: Update) -> Result<Response, OAuthError> {
        for _ in 0..CONFLICT_RETRIES_MAX {
            let managed = self.admitted().await?;
            let act = Act::now(self.app, &managed.caller, self.from);
            self.check_version(&managed)?;
            if managed.registration.bounds != update.bounds {
                return Err(OAuthError::busy());
            }
            let mut moved = managed.secret_move(act, &update)?;
            let mut warning = None;
            if let (Wish::Rotate, Some(moved)) = (&update.wish, &mut moved) {
                warning = moved
                    .check_overwrite(act, &managed.state)
                    .await
                    .map_err(|no| OAuthError::metadata(&no))?;
            }
            let Decided { change, body, version } = managed.decide(act, &update, moved)?;
            let Some(change) = change else { return Ok(reply(StatusCode::OK, body, version)) };
            if committed(self.app, change).await.map_err(|outcome| OAuthError::metadata(&outcome))? {
                if let Some(slot) = update.wish.slot() {
                    SecretMove::tell(self.app, self.client, &managed.caller, slot);
                }
                let mut reply = reply(StatusCode::OK, body, version);
                reply.headers_mut().extend(warning.and_then(warning_header));
                return Ok(reply);
            }
        }
        Err(OAuthError::busy())
    }

    /// The client, its membership and all that lets it in are gone with the answer (RFC 7592 §2.3).
    async fn delete(&self) -> Result<Response, OAuthError> {
        for _ in 0..CONFLICT_RETRIES_MAX {
            let managed = self.admitted().await?;
            self.check_version(&managed)?;
            let act = Act::now(self.app, &managed.caller, self.from);
            let mut change = act.change();
            change.update_registration(&managed.registration, managed.registration.generation);
            let client = &managed.state.resource;
            change.delete_client(self.client, act.now);
            change.update(deletion(act, client), client.version, Some(&[]));
            audit::record_deletion(act, &managed.state, &mut change);
            let membership = managed.caller.membership;
            let found = self.app.store.resource(ResourceType::ProjectMembership, membership.into()).await?;
            if let Some(current) = found.filter(|version| !version.deleted) {
                change.delete_membership(membership);
                change.update(deletion(act, &current), current.version, Some(&[]));
            }
            change.let_pass();
            if committed(self.app, change).await.map_err(|outcome| OAuthError::metadata(&outcome))? {
                tracing::info!(client = %self.client, "a client deleted itself");
                return Ok((StatusCode::NO_CONTENT, [(CACHE_CONTROL, NO_STORE)]).into_response());
            }
        }
        Err(OAuthError::busy())
    }

    fn check_version(&self, managed: &Managed) -> Result<(), OAuthError> {
        check_if_match(self.if_match.as_deref(), managed.state.resource.version)
            .map_err(|outcome| OAuthError::metadata(&outcome))
    }
}

/// What an update does beside the metadata. These are members of our own.
enum Wish {
    Nothing,
    /// `rotate_secret`: as `$rotate-secret` with `secret`.
    Rotate,
    /// `retire_secret`: as `$rotate-secret` with `retiringSecret`.
    Retire(PlainSecret),
}

impl Wish {
    const fn slot(&self) -> Option<SlotKind> {
        match self {
            Self::Nothing => None,
            Self::Rotate => Some(SlotKind::Active),
            Self::Retire(_) => Some(SlotKind::Retiring),
        }
    }
}

/// The body of an update.
struct Update {
    metadata: Metadata,
    /// What it was held to.
    bounds: RegistrationBounds,
    /// The secret that the client takes for the current one.
    secret: Option<PlainSecret>,
    wish: Wish,
    /// `rotate_registration_access_token`: the one that was used ends.
    new_token: bool,
}

impl Update {
    fn read(mut body: Map<String, Value>, managed: &Managed) -> Result<Self, OAuthError> {
        let wrong = |text: String| OAuthError::invalid_client_metadata(text);
        let secret = take_secret(&mut body, "client_secret")?;
        let retired = take_secret(&mut body, "retire_secret")?;
        if let Some(name) = NEVER_SENT.iter().find(|name| body.contains_key(**name)) {
            return Err(wrong(format!("{name} is the server's to say: leave it out")));
        }
        let id = managed.registration.client.to_string();
        if body.get("client_id").and_then(Value::as_str) != Some(id.as_str()) {
            return Err(wrong("client_id must be the id of this client".to_owned()));
        }
        let mut flag = |name: &str| match body.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(wrong(format!("{name} must be true or false"))),
        };
        let (rotate, new_token) = (flag("rotate_secret")?, flag("rotate_registration_access_token")?);
        let wish = match (rotate, retired) {
            (true, None) => Wish::Rotate,
            (false, Some(value)) => Wish::Retire(value),
            (false, None) => Wish::Nothing,
            (true, Some(_)) => {
                return Err(wrong("Give rotate_secret or retire_secret, not both".to_owned()));
            }
        };
        let metadata = Metadata::read(&body, &managed.registration.bounds)?;
        let bounds = managed.registration.bounds.clone();
        Ok(Self { metadata, bounds, secret, wish, new_token })
    }
}

/// Takes a secret out of a body.
fn take_secret(body: &mut Map<String, Value>, name: &str) -> Result<Option<PlainSecret>, OAuthError> {
    match body.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(value)) => PlainSecret::presented(Zeroizing::new(value))
            .map(Some)
            .map_err(|problem| OAuthError::invalid_client_metadata(format!("{name} {problem}"))),
        Some(_) => Err(OAuthError::invalid_client_metadata(format!("{name} must be a string"))),
    }
}

/// What an update changes, if anything, and what is answered then.
struct Decided {
    change: Option<Change>,
    body: Rendered,
    version: keyrelay_core::id::VersionId,
}

/// What is registered, with the secret that was made a moment ago or may be shown again.
fn render(
    act: Act<'_>,
    registration: &Registration,
    state: &ClientState,
    fresh: Option<&PlainSecret>,
) -> Result<(Rendered, Seen), OAuthError> {
    let (app, mut seen) = (act.app, Seen::default());
    let failed = |outcome: Outcome| OAuthError::metadata(&outcome);
    let mut shown = ShownSecrets::default();
    // What cannot be recorded is not shown; what was just made is recorded already.
    if fresh.is_none() && !app.store.refuses_changes() {
        shown.secret = ShownSecrets::of(app, state, app.now()).map_err(failed)?.secret;
        seen.take_up(state, &shown, act.now);
    }
    let body = ClientInformation {
        app,
        registration,
        resource: &stored_resource(&state.resource).map_err(failed)?,
        has_secret: state.slots.kept(SlotKind::Active).is_some(),
        secret: fresh.or(shown.secret.as_ref()),
    }
    .render()?;
    Ok((body, seen))
}

impl Managed {
    fn id(&self) -> ClientId {
        self.registration.client
    }

    /// What is registered now.
    async fn reply(&self, act: Act<'_>) -> Result<Response, OAuthError> {
        let (body, seen) = render(act, &self.registration, &self.state, None)?;
        seen.commit(act, Recorded::Read).await.map_err(|outcome| OAuthError::metadata(&outcome))?;
        Ok(reply(StatusCode::OK, body, self.state.resource.version))
    }

    /// Values in, values out: what an update changes, and what it answers.
    fn decide(
        &self,
        act: Act<'_>,
        update: &Update,
        moved: Option<SecretMove>,
    ) -> Result<Decided, OAuthError> {
        let failed = |outcome: Outcome| OAuthError::metadata(&outcome);
        let current = &self.state.resource;
        let before = stored_resource(current).map_err(failed)?;
        let mut after = before.clone();
        update.metadata.apply(&mut after);
        update.metadata.check(Some(&before))?;
        check_resource(ResourceType::ClientApplication, &after, Some(&before)).map_err(failed)?;
        let row = client_row(act.app, act.caller, self.id(), self.caller.project, &after, Some(&before))
            .map_err(failed)?;

        let mut registration = self.registration.clone();
        registration.auth_method = update.metadata.auth_method;
        registration.generation = registration.generation.saturating_add(u32::from(update.new_token));
        let same = registration.auth_method == self.registration.auth_method && !update.new_token;
        if same && moved.is_none() && same_apart_from_meta(&before, &after) {
            let (body, seen) = render(act, &registration, &self.state, None)?;
            let mut change = act.change();
            seen.record(act, Recorded::Read, &mut change);
            let change = (!seen.is_empty()).then_some(change);
            return Ok(Decided { change, body, version: current.version });
        }
        let only_moves = same && same_apart_from_meta(&before, &after);
        let (next, resource) = next_version(act, current, after).map_err(failed)?;
        let version = next.version;
        let mut change = act.change();
        let index = index_entries(ResourceType::ClientApplication, &resource);
        change.update(next.clone(), current.version, Some(&index));
        change.update_client(&row);
        change.update_registration(&registration, self.registration.generation);
        let mut state = ClientState { resource: next, ..self.state.clone() };
        let (mut fresh, is_moved) = (None, moved.is_some());
        if let Some(SecretMove { action, fresh: made, moved }) = moved {
            record_move(act, &self.authority, action, &moved, &self.state, &mut change);
            state.slots = moved.stored();
            fresh = made;
        }
        let (body, seen) = render(act, &registration, &state, fresh.as_ref())?;
        if !is_moved {
            seen.record(act, Recorded::Read, &mut change);
        }
        // A client can always retire its old secret.
        if only_moves && matches!(update.wish, Wish::Retire(_)) {
            change.let_pass();
        }
        Ok(Decided { change: Some(change), body, version })
    }

    /// What becomes of the secrets.
    fn secret_move(&self, act: Act<'_>, update: &Update) -> Result<Option<SecretMove>, OAuthError> {
        let wrong = |text: &str| OAuthError::invalid_client_metadata(text);
        let state = &self.state;
        let slots = state.slots.at(act.now);
        if let Some(secret) = &update.secret
            && !slots.holds(SlotKind::Active, &act.app.keyring.present(self.id(), secret))
        {
            return Err(wrong("client_secret is not the current secret of this client"));
        }
        let has_secret = slots.active().is_some();
        if has_secret && update.metadata.auth_method == AuthMethod::Nothing {
            return Err(wrong("A client that has a secret cannot become public: register another one"));
        }
        match (&update.wish, &update.secret) {
            (Wish::Rotate, None) => Err(wrong("rotate_secret needs the current client_secret")),
            (Wish::Rotate, Some(secret)) => {
                SecretMove::decide(act, Step::Rotate { retire_after: None }, secret, state)
                    .map(Some)
                    .map_err(|_| wrong("client_secret is not the current secret of this client"))
            }
            (Wish::Retire(secret), _) => SecretMove::decide(act, RETIRE, secret, state)
                .map(Some)
                .map_err(|_| wrong("retire_secret is not the retiring secret of this client")),
            (Wish::Nothing, _) if !has_secret && update.metadata.auth_method.needs_secret() => {
                let (secret, slot) = fresh_secret(act, self.id(), act.app.rules(&state.settings).visibility);
                let moved = slots.replace(slot);
                Ok(Some(SecretMove { action: SecretAction::Replace, fresh: Some(secret), moved }))
            }
            (Wish::Nothing, _) => Ok(None),
        }
    }
}
