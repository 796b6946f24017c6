//! The answer to a registration and to whoever manages one (RFC 7591 §3.2.1, RFC 7592 §3): what is
//! registered, and the tokens and secrets that go with it.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use http::{HeaderValue, StatusCode};
use keyrelay_core::id::VersionId;
use keyrelay_core::registration::Registration;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::TicketKind;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use crate::App;
use crate::error::{OAuthError, Outcome};
use crate::fhir::{Rendered, etag};
use crate::headers::{JSON, NO_STORE};
use crate::oauth::GRANT_TYPES;

/// Never: a secret lives until it is rotated and retired.
const SECRET_EXPIRES_AT: i64 = 0;

/// What is registered of a client.
pub(super) struct ClientInformation<'a> {
    pub(super) app: &'a App,
    pub(super) registration: &'a Registration,
    /// The client application.
    pub(super) resource: &'a Map<String, Value>,
    /// Whether it has a secret.
    pub(super) has_secret: bool,
    /// Its secret, where it may be shown.
    pub(super) secret: Option<&'a PlainSecret>,
}

impl ClientInformation<'_> {
    /// As JSON text, before anything is committed.
    pub(super) fn render(&self) -> Result<Rendered, OAuthError> {
        Rendered::serialize(self).map_err(|outcome: Outcome| OAuthError::metadata(&outcome))
    }

    fn metadata(&self) -> Vec<(&'static str, Value)> {
        let element = |name: &str| self.resource.get(name).cloned();
        let list = |name: &str| element(name).unwrap_or_else(|| Value::Array(Vec::new()));
        let mut redirect_uris = list("redirectUris");
        if let (Value::Array(uris), Some(one)) = (&mut redirect_uris, element("redirectUri")) {
            uris.push(one);
        }
        let scope = element("defaultScope").and_then(|words| {
            Some(words.as_array()?.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        });
        let jwks = element("jwks").and_then(|text| serde_json::from_str(text.as_str()?).ok());
        [
            ("client_name", element("name")),
            ("redirect_uris", Some(redirect_uris)),
            ("grant_types", Some(element("grantType").unwrap_or_else(|| GRANT_TYPES.as_slice().into()))),
            ("response_types", Some(list("responseType"))),
            ("token_endpoint_auth_method", Some(self.registration.auth_method.as_str().into())),
            ("scope", scope.map(Value::String)),
            ("jwks", jwks),
            ("jwks_uri", element("jwksUri")),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

impl Serialize for ClientInformation<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Registration { client, generation, registered, .. } = self.registration;
        let token = self.app.keyring.issue_ticket(TicketKind::RegistrationAccess, client.uuid(), *generation);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("client_id", &client.to_string())?;
        map.serialize_entry("client_id_issued_at", &registered.epoch_seconds())?;
        if self.has_secret {
            if let Some(secret) = self.secret {
                map.serialize_entry("client_secret", secret.reveal())?;
            }
            map.serialize_entry("client_secret_expires_at", &SECRET_EXPIRES_AT)?;
        }
        map.serialize_entry("registration_access_token", token.reveal())?;
        let path = format!("oauth2/register/{client}");
        map.serialize_entry("registration_client_uri", &self.app.config.base_url.join(&path))?;
        for (name, value) in self.metadata() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

/// An answer that nobody keeps, with the version of the client that it tells of.
pub(super) fn reply(status: StatusCode, body: Rendered, version: VersionId) -> Response {
    let headers = [(CONTENT_TYPE, JSON), (CACHE_CONTROL, NO_STORE)];
    let mut response = (status, headers, body.into_string()).into_response();
    if let Ok(value) = HeaderValue::try_from(etag(version)) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}
