//! The only place that writes a secret into an answer. A resource is kept without its secrets; here
//! they are added for one answer, to someone who may see them, and nowhere else (P4).

use keyrelay_core::fhir::json;
use keyrelay_core::keyring::{KeyringError, SecretVisibility};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use keyrelay_store::{ClientState, ResourceVersion};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::App;
use crate::budget;
use crate::error::Outcome;

/// JSON text of an answer. It may hold secrets, so its `Debug` shows nothing.
pub(crate) struct Rendered(String);

impl std::fmt::Debug for Rendered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[rendered]")
    }
}

impl Rendered {
    /// An answer that has no secrets.
    pub(crate) fn value(value: &Value) -> Self {
        Self(value.to_string())
    }

    /// An answer, and its copy in a Bundle or on its way out.
    pub(crate) fn serialize(value: &impl Serialize) -> Result<Self, Outcome> {
        let answer = Self::assemble(value)?;
        budget::take(2 * answer.len())?;
        Ok(answer)
    }

    /// An answer put together from others, for whose copies bytes were taken when they were written: nothing is
    /// refused after changes were made.
    pub(crate) fn assemble(value: &impl Serialize) -> Result<Self, Outcome> {
        serde_json::to_string(value).map(Self).map_err(|error| {
            tracing::error!(%error, "an answer could not be written");
            Outcome::internal()
        })
    }

    pub(super) const fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }

    /// As a part of a larger answer.
    pub(crate) fn into_part(self) -> Result<Box<RawValue>, Outcome> {
        RawValue::from_string(self.0).map_err(|_| Outcome::internal())
    }
}

/// The secrets that one answer shows.
#[derive(Debug, Default)]
pub(crate) struct ShownSecrets {
    pub(crate) secret: Option<PlainSecret>,
    pub(crate) retiring: Option<PlainSecret>,
}

impl ShownSecrets {
    /// What an admin sees who reads a client application.
    pub(crate) fn of(app: &App, state: &ClientState, now: Timestamp) -> Result<Self, Outcome> {
        if app.rules(&state.settings).visibility == SecretVisibility::Once {
            return Ok(Self::default());
        }
        let client = state.resource.id.into();
        let open = |slot: Option<_>| match slot {
            Some(slot) => app.keyring.open_secret(client, slot),
            None => Ok(None),
        };
        let slots = state.slots.at(now);
        let opened = open(slots.active()).and_then(|secret| Ok((secret, open(slots.retiring())?)));
        let (secret, retiring) = opened.map_err(|error: KeyringError| {
            tracing::error!(%client, %error, "the secrets of a client cannot be opened");
            Outcome::internal()
        })?;
        Ok(Self { secret, retiring })
    }
}

struct WithSecrets<'a> {
    resource: &'a Map<String, Value>,
    shown: &'a ShownSecrets,
}

impl Serialize for WithSecrets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.resource {
            map.serialize_entry(name, value)?;
        }
        if let Some(secret) = &self.shown.secret {
            map.serialize_entry("secret", secret.reveal())?;
        }
        if let Some(retiring) = &self.shown.retiring {
            map.serialize_entry("retiringSecret", retiring.reveal())?;
        }
        map.end()
    }
}

/// Reads the JSON of a stored version.
pub(crate) fn stored_resource(version: &ResourceVersion) -> Result<Map<String, Value>, Outcome> {
    if let Ok(Value::Object(map)) = serde_json::from_str(&version.content) {
        // The old version, the new one, and the caller's view, each as a value and as text.
        budget::take_for_now(3 * (version.content.len() + json::weight_of_members(&map)))?;
        return Ok(map);
    }
    tracing::error!(id = %version.id, version = %version.version, "a stored resource cannot be read");
    Err(Outcome::internal())
}

/// Writes a resource as the caller may see it. Without `extended`, the parts of `meta` that are not
/// in FHIR are left out.
pub(crate) fn render(
    mut resource: Map<String, Value>,
    shown: &ShownSecrets,
    extended: bool,
) -> Result<Rendered, Outcome> {
    if !extended && let Some(Value::Object(meta)) = resource.get_mut("meta") {
        for name in ["project", "author", "compartment", "account", "accounts", "onBehalfOf"] {
            meta.shift_remove(name);
        }
    }
    Rendered::serialize(&WithSecrets { resource: &resource, shown })
}
