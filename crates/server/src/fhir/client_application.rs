//! What is particular to ClientApplication: its two secret fields are never part of the stored
//! resource. They are taken out of what a client sends, compared with the slots, and a write that
//! would bring an old secret back or blank a current one changes nothing.

use std::collections::HashSet;
use std::time::Duration;

use keyrelay_core::audit::{Recorded, SecretAction, SecretsOf};
use keyrelay_core::caller::{AdminOf, Caller, SecretAuthority, Withheld};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::{ClientId, ProjectId, SecretId};
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::limits::{SCOPE_BYTES_MAX, SECRET_WRITTEN_CHARS_MIN, TOKEN_LIFETIME_MAX};
use keyrelay_core::origin::Origin;
use keyrelay_core::redirect_uri::RedirectUri;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::slots::{Moved, SecretSlots, Slot, SlotKind};
use keyrelay_store::{Change, ClientRow, ClientState};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::access::not_to_write;
use super::render::{ShownSecrets, stored_resource};
use super::versions::Act;
use crate::App;
use crate::audit;
use crate::config::SecretPolicy;
use crate::error::Outcome;
use crate::events::tell_move;
use crate::oauth::{check_jwks, check_trust_store};
use crate::outbound::OutboundUri;

/// Stand for the unchanged secrets in the document that a patch is applied to. A control character
/// keeps them from ever being a secret, and from being stored if a patch copies them elsewhere.
pub(super) const KEPT: [(&str, &str); 2] =
    [("secret", "\u{0}kept secret"), ("retiringSecret", "\u{0}kept retiringSecret")];

/// The elements that let a client in as its secret does: whoever writes one can become the client.
const PROOFS: [&str; 3] = ["jwks", "jwksUri", "certificateTrustStore"];

/// The secret fields of a body.
#[derive(Debug, Default)]
pub(super) struct WrittenSecrets {
    pub(super) secret: Option<PlainSecret>,
    pub(super) retiring: Option<PlainSecret>,
}

impl WrittenSecrets {
    /// The same again, for another attempt at the same write.
    pub(super) fn copied(&self) -> Self {
        Self {
            secret: self.secret.as_ref().map(PlainSecret::duplicate),
            retiring: self.retiring.as_ref().map(PlainSecret::duplicate),
        }
    }

    const fn is_empty(&self) -> bool {
        self.secret.is_none() && self.retiring.is_none()
    }
}

/// Takes the secret fields out of a body.
pub(super) fn take_secrets(resource: &mut Map<String, Value>) -> Result<WrittenSecrets, Outcome> {
    for name in ["_secret", "_retiringSecret"] {
        if resource.contains_key(name) {
            return Err(Outcome::invalid_at(
                format!("ClientApplication.{name}"),
                "A secret has no extensions here",
            ));
        }
    }
    let mut take = |name: &str| match resource.shift_remove(name) {
        None => Ok(None),
        Some(Value::String(value)) if KEPT.contains(&(name, value.as_str())) => Ok(None),
        Some(Value::String(value)) => {
            PlainSecret::presented(Zeroizing::new(value)).map(Some).map_err(|problem| {
                Outcome::invalid_at(format!("ClientApplication.{name}"), format!("The value {problem}"))
            })
        }
        Some(_) => {
            Err(Outcome::invalid_at(format!("ClientApplication.{name}"), "The value must be a string"))
        }
    };
    Ok(WrittenSecrets { secret: take("secret")?, retiring: take("retiringSecret")? })
}

/// The narrow row of a client. `before` is the stored client, if it exists.
pub(crate) fn row(
    app: &App,
    caller: &Caller,
    id: ClientId,
    project: ProjectId,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<ClientRow, Outcome> {
    let text = |name: &str| resource.get(name).and_then(Value::as_str).map(str::to_owned);
    let list = |name: &str| {
        let values = resource.get(name)?.as_array()?;
        Some(values.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    let active = text("status").is_none_or(|status| status == "active");
    if caller.client == Some(id) && !active {
        return Err(Outcome::conflict(
            "This is the client you are logged in with: this change would lock you out",
        ));
    }
    let is_new = |name: &str| before.and_then(|before| before.get(name)) != resource.get(name);
    let default_scope = list("defaultScope").map(|scopes| scopes.join(" "));
    if is_new("defaultScope")
        && let Some(Err(error)) = default_scope.as_deref().map(Scope::parse)
    {
        return Err(Outcome::invalid_at("ClientApplication.defaultScope", error.to_string()));
    }
    let grant_types = list("grantType");
    let are_too_long = |types: &Vec<String>| types.concat().len() > SCOPE_BYTES_MAX;
    if is_new("grantType") && grant_types.as_ref().is_some_and(are_too_long) {
        let text = format!("The grant types are longer than {SCOPE_BYTES_MAX} bytes together");
        return Err(Outcome::invalid_at("ClientApplication.grantType", text));
    }
    check_keys(app, id, resource, before)?;
    check_redirects(resource, before)?;
    check_origins(resource, before)?;
    Ok(ClientRow {
        id,
        project,
        name: text("name"),
        active,
        access_token_lifetime: text("accessTokenLifetime").map(|text| token_lifetime(&text)).transpose()?,
        grant_types,
        default_scope,
        refresh_token_lifetime: text("refreshTokenLifetime").and_then(|text| parse_lifetime(&text)),
    })
}

/// Refuses, when it is written, a key set that is unusable or that others than the client can sign for. A key set
/// that was stored before a rule existed does not block other changes.
fn check_keys(
    app: &App,
    id: ClientId,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    let text = |name: &str| resource.get(name).and_then(Value::as_str);
    let changed = |name: &str| {
        text(name).filter(|text| before.and_then(|before| before.get(name)?.as_str()) != Some(*text))
    };
    if let Some(keys) = changed("jwks").filter(|keys| !is_same_json(before, "jwks", keys)) {
        check_jwks(id, keys).map_err(|text| Outcome::invalid_at("ClientApplication.jwks", text))?;
    }
    if let Some(certificates) = changed("certificateTrustStore") {
        check_trust_store(certificates)
            .map_err(|text| Outcome::invalid_at("ClientApplication.certificateTrustStore", text))?;
    }
    let Some(uri) = text("jwksUri") else { return Ok(()) };
    if changed("jwksUri").is_none() && changed("jwks").is_none() {
        return Ok(());
    }
    let refused = |text: String| Outcome::invalid_at("ClientApplication.jwksUri", text);
    if text("jwks").is_some() {
        return Err(refused("Give jwks or jwksUri, not both (RFC 7591 §2)".to_owned()));
    }
    OutboundUri::parse(uri, app.config.base_url.reach()).map_err(|error| refused(error.to_string())).map(drop)
}

/// Whether the JSON text of an element equals the stored one, apart from spelling: a client that registered itself
/// sends its keys as JSON.
fn is_same_json(before: Option<&Map<String, Value>>, name: &str, text: &str) -> bool {
    let stored = before.and_then(|before| before.get(name)?.as_str());
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    stored.and_then(read).is_some_and(|stored| Some(stored) == read(text))
}

/// The redirect URIs of a client, each with its element.
fn redirects(resource: &Map<String, Value>) -> impl Iterator<Item = (String, &Value)> {
    let many = resource.get("redirectUris").and_then(Value::as_array).into_iter().flatten();
    let many = many.enumerate().map(|(n, uri)| (format!("redirectUris[{n}]"), uri));
    many.chain(resource.get("redirectUri").map(|uri| ("redirectUri".to_owned(), uri)))
}

/// The stored redirect URIs. They block no other change, even if the rules refuse them; no code is sent to a refused
/// one.
pub(crate) fn stored_redirects(before: Option<&Map<String, Value>>) -> HashSet<&str> {
    before.into_iter().flat_map(redirects).filter_map(|(_, uri)| uri.as_str()).collect()
}

/// Where codes are sent.
fn check_redirects(
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    let stored = stored_redirects(before);
    let new = |(_, uri): &(String, &Value)| uri.as_str().is_none_or(|uri| !stored.contains(uri));
    for (element, uri) in redirects(resource).filter(new) {
        if let Err(error) = RedirectUri::parse(uri.as_str().unwrap_or_default()) {
            return Err(Outcome::invalid_at(format!("ClientApplication.{element}"), error.to_string()));
        }
    }
    Ok(())
}

/// Origins are compared as texts, so each must be in the spelling of browsers.
fn check_origins(resource: &Map<String, Value>, before: Option<&Map<String, Value>>) -> Result<(), Outcome> {
    let stored = before.and_then(|before| before.get("allowedOrigin")?.as_array());
    let stored: HashSet<&str> = stored.into_iter().flatten().filter_map(Value::as_str).collect();
    let origins = resource.get("allowedOrigin").and_then(Value::as_array).into_iter().flatten();
    for (n, origin) in
        origins.enumerate().filter(|(_, origin)| origin.as_str().is_none_or(|text| !stored.contains(text)))
    {
        if let Err(error) = Origin::parse(origin.as_str().unwrap_or_default()) {
            let at = format!("ClientApplication.allowedOrigin[{n}]");
            return Err(Outcome::invalid_at(at, error.to_string()));
        }
    }
    Ok(())
}

fn token_lifetime(text: &str) -> Result<Duration, Outcome> {
    let expression = "ClientApplication.accessTokenLifetime";
    let lifetime = parse_lifetime(text).ok_or_else(|| {
        Outcome::invalid_at(expression, "This is no duration: write a number and a unit, like 30m or 1h")
    })?;
    if lifetime > TOKEN_LIFETIME_MAX {
        let hours = TOKEN_LIFETIME_MAX.as_secs() / 3600;
        return Err(Outcome::invalid_at(expression, format!("An access token lives at most {hours} hours")));
    }
    Ok(lifetime)
}

/// The authority to write secrets, which the caller must have if the body has any.
fn admin(caller: &Caller, project: ProjectId) -> Result<AdminOf<ProjectId>, Outcome> {
    caller.admin_of(project).ok_or_else(|| {
        Outcome::forbidden("Only an admin of the project may write a client's secret")
            .at("ClientApplication.secret")
    })
}

/// Checks that what a client proves itself by is only changed by who may write its secret too. What a client
/// publishes of itself (RFC 7592) does not come through here.
pub(super) fn check_proofs(
    caller: &Caller,
    project: ProjectId,
    before: Option<&Map<String, Value>>,
    after: &Map<String, Value>,
    withheld: &Withheld<'_>,
) -> Result<(), Outcome> {
    let differs = |name: &&&str| before.and_then(|before| before.get(**name)) != after.get(**name);
    let Some(name) = PROOFS.iter().find(differs) else { return Ok(()) };
    if caller.admin_of(project).is_none() {
        let text = "Only an admin of the project may write what a client proves itself by";
        return Err(Outcome::forbidden(text).at(format!("ClientApplication.{name}")));
    }
    if withheld.keeps("secret") {
        return Err(not_to_write(ResourceType::ClientApplication, name));
    }
    Ok(())
}

/// Checks a value that an admin chose.
fn check_chosen(app: &App, client: ClientId, secret: &PlainSecret) -> Result<(), Outcome> {
    let refused = |text: String| Err(Outcome::invalid_at("ClientApplication.secret", text));
    if secret.is(&client.to_string()) {
        return refused("The client's id is no secret".to_owned());
    }
    if secret.is_garbled() {
        return refused(
            "This value looks like a generated secret but is damaged: its checksum is wrong".to_owned(),
        );
    }
    if app.config.secret_policy == SecretPolicy::Strong && secret.chars() < SECRET_WRITTEN_CHARS_MIN {
        return refused(format!(
            "A secret that is written directly needs at least {SECRET_WRITTEN_CHARS_MIN} characters; better, call $rotate-secret, which makes a strong one"
        ));
    }
    Ok(())
}

/// A client with its secrets, under the setting that its project has, or is about to have.
pub(super) async fn state(act: Act<'_>, id: ClientId) -> Result<ClientState, Outcome> {
    let mut state = act.app.store.client(id).await?.ok_or_else(Outcome::not_found)?;
    if let Some(settings) = state.resource.project.and_then(|project| act.pending.settings(project)) {
        state.settings = settings;
    }
    Ok(state)
}

pub(super) async fn visibility(act: Act<'_>, project: ProjectId) -> Result<SecretVisibility, Outcome> {
    if let Some(settings) = act.pending.settings(project) {
        return Ok(act.app.rules(&settings).visibility);
    }
    let found = act.app.store.resource(ResourceType::Project, project.into()).await?;
    let Some(version) = found.filter(|version| !version.deleted) else {
        return Err(Outcome::invalid_at("ClientApplication.meta.project", "There is no such Project"));
    };
    let settings = SecretSettings::read(&stored_resource(&version)?).map_err(|error| {
        tracing::error!(%project, %error, "the settings of a project cannot be read");
        Outcome::internal()
    })?;
    Ok(act.app.rules(&settings).visibility)
}

fn slot_for(act: Act<'_>, client: ClientId, secret: &PlainSecret, visibility: SecretVisibility) -> Slot {
    let id = SecretId::random(act.app.entropy.as_ref());
    let slot = act.app.keyring.fill_slot(client, id, secret, visibility, act.now, act.app.entropy.as_ref());
    Slot { by: Some(act.caller.profile), ..slot }
}

/// A new secret and the slot that keeps it.
pub(crate) fn fresh_secret(
    act: Act<'_>,
    client: ClientId,
    visibility: SecretVisibility,
) -> (PlainSecret, Slot) {
    let secret = PlainSecret::generate(act.app.entropy.as_ref());
    let slot = slot_for(act, client, &secret, visibility);
    (secret, slot)
}

/// Adds the narrow row of a new client to a change, with the secret that its creator chose, if any.
pub(super) async fn create(
    act: Act<'_>,
    row: &ClientRow,
    written: &WrittenSecrets,
    change: &mut Change,
) -> Result<ShownSecrets, Outcome> {
    if written.retiring.is_some() {
        return Err(retiring_is_not_written());
    }
    let Some(secret) = &written.secret else {
        change.create_client(row, &SecretSlots::empty());
        return Ok(ShownSecrets::default());
    };
    admin(act.caller, row.project)?;
    check_chosen(act.app, row.id, secret)?;
    let slot = slot_for(act, row.id, secret, visibility(act, row.project).await?);
    record_creation(act, row.id, row.project, &slot, change);
    change.create_client(row, &SecretSlots::with_active(slot));
    Ok(ShownSecrets { secret: Some(secret.duplicate()), retiring: None })
}

fn retiring_is_not_written() -> Outcome {
    Outcome::invalid_at(
        "ClientApplication.retiringSecret",
        "retiringSecret cannot be written: call $rotate-secret with `secret`",
    )
}

/// What a write does to a client's secrets: usually nothing. A value that retires or ended is a
/// conflict, for it comes from a body that was read before a rotation.
pub(super) async fn replace(
    act: Act<'_>,
    state: &ClientState,
    written: &WrittenSecrets,
) -> Result<Option<Moved>, Outcome> {
    if written.is_empty() {
        return Ok(None);
    }
    let client = ClientId::from(state.resource.id);
    admin(act.caller, state.resource.project.ok_or_else(Outcome::not_found)?)?;
    let slots = state.slots.at(act.now);
    for (value, own, other) in [
        (&written.secret, SlotKind::Active, SlotKind::Retiring),
        (&written.retiring, SlotKind::Retiring, SlotKind::Active),
    ] {
        let Some(value) = value else { continue };
        let presented = act.app.keyring.present(client, value);
        if !slots.holds(own, &presented)
            && (slots.holds(other, &presented)
                || act.app.store.former_secret(client, &presented, act.now).await?.is_some())
        {
            return Err(Outcome::conflict(
                "The body has a secret from before a rotation, and nothing was changed: read the client again, or leave the secret fields out",
            )
            .at(if own == SlotKind::Active { "ClientApplication.secret" } else { "ClientApplication.retiringSecret" }));
        }
        if own == SlotKind::Retiring && !slots.holds(own, &presented) {
            return Err(retiring_is_not_written());
        }
    }
    let Some(secret) = &written.secret else { return Ok(None) };
    if slots.holds(SlotKind::Active, &act.app.keyring.present(client, secret)) {
        return Ok(None);
    }
    check_chosen(act.app, client, secret)?;
    let slot = slot_for(act, client, secret, act.app.rules(&state.settings).visibility);
    Ok(Some(slots.replace(slot)))
}

/// Bounds a client that manages itself (RFC 7592) to what an admin writes of its grant types and its scope: it
/// may not undo that.
pub(super) fn bound_by_admin(
    act: Act<'_>,
    row: &ClientRow,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    change: &mut Change,
) {
    let differs = |name: &str| before.get(name) != after.get(name);
    let grant_types = row.grant_types.as_deref().filter(|_| differs("grantType"));
    let scope = row.default_scope.as_deref().filter(|_| differs("defaultScope"));
    if act.caller.admin_of(row.project).is_some() && (grant_types.is_some() || scope.is_some()) {
        change.bound_registration(row.id, grant_types, scope);
    }
}

/// Adds the record of a new client's secret to the change that makes it.
pub(crate) fn record_creation(
    act: Act<'_>,
    client: ClientId,
    project: ProjectId,
    slot: &Slot,
    change: &mut Change,
) {
    let of = SecretsOf { client, active: Some(slot.id), retiring: None, ended: &[] };
    audit::record(act, Recorded::Created, project, &[of], change);
}

/// Adds a direct replacement to a change, with its AuditEvent.
pub(super) fn move_secrets(act: Act<'_>, moved: &Moved, state: &ClientState, change: &mut Change) {
    if let Some(admin) = state.resource.project.and_then(|project| act.caller.admin_of(project)) {
        record_move(act, &admin.into(), SecretAction::Replace, moved, state, change);
    }
}

/// Adds a move of secrets, and the AuditEvent that tells of it, to a change.
pub(crate) fn record_move(
    act: Act<'_>,
    authority: &SecretAuthority,
    action: SecretAction,
    moved: &Moved,
    state: &ClientState,
    change: &mut Change,
) {
    let client = ClientId::from(state.resource.id);
    change.move_secrets(client, moved, state.former_count, act.now);
    let ended: Vec<SecretId> = moved.ended.iter().map(|ended| ended.slot.id).collect();
    let of = SecretsOf {
        client,
        active: moved.slots.active().map(|slot| slot.id),
        retiring: moved.slots.retiring().map(|slot| slot.id),
        ended: &ended,
    };
    audit::record(act, Recorded::Moved(action), authority.project(), &[of], change);
    tell_move(act, authority, client, action, moved, change);
}
