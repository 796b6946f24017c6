//! Client metadata (RFC 7591 §2), read from a body and checked, and the elements of a ClientApplication
//! that it becomes. What is not known is ignored, as the standard asks; what is known and cannot be
//! had is refused, and not silently replaced.

use keyrelay_core::limits::{NAME_CHARS_MAX, REDIRECT_URIS_MAX};
use keyrelay_core::names;
use keyrelay_core::redirect_uri::RedirectUri;
use keyrelay_core::registration::{AuthMethod, RegistrationBounds};
use keyrelay_core::scope::Scope;
use serde_json::{Map, Value, json};

use crate::error::OAuthError;
use crate::fhir::stored_redirects;
use crate::oauth::GRANT_TYPES;

/// The elements that a registration is about. All others of a ClientApplication are an admin's.
const ELEMENTS: [&str; 8] =
    ["name", "redirectUris", "redirectUri", "grantType", "responseType", "defaultScope", "jwks", "jwksUri"];
const CODE_GRANT: &str = "authorization_code";

fn wrong(text: impl Into<String>) -> OAuthError {
    OAuthError::invalid_client_metadata(text)
}

/// What a client says of itself.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) auth_method: AuthMethod,
    elements: Vec<(&'static str, Value)>,
}

impl Metadata {
    /// Reads metadata, within bounds.
    pub(super) fn read(body: &Map<String, Value>, bounds: &RegistrationBounds) -> Result<Self, OAuthError> {
        if member(body, "software_statement").is_some() {
            return Err(OAuthError::unapproved_software_statement());
        }
        let mut elements = Vec::new();
        if let Some(name) = text(body, "client_name")? {
            if name.chars().count() > NAME_CHARS_MAX {
                return Err(wrong(format!("client_name has at most {NAME_CHARS_MAX} characters")));
            }
            elements.push(("name", json!(name)));
        }
        let grant_types = grant_types(body, bounds)?;
        let by_code = grant_types.iter().any(|name| name == CODE_GRANT);
        let response_types = response_types(body, by_code)?;
        let redirect_uris = redirect_uris(body, by_code)?;
        for (element, values) in
            [("redirectUris", redirect_uris), ("grantType", grant_types), ("responseType", response_types)]
        {
            if !values.is_empty() {
                elements.push((element, json!(values)));
            }
        }
        if let Some(scope) = scope(body, bounds)? {
            let words: Vec<&str> = scope.as_str().split(' ').collect();
            elements.push(("defaultScope", json!(words)));
        }
        let keys = keys(body)?;
        let auth_method = auth_method(body, keys.is_some(), by_code)?;
        elements.extend(keys);
        Ok(Self { auth_method, elements })
    }

    /// Checks names and redirect URIs. A value in `before` that was stored before a rule existed does not block other
    /// changes, because the client sends all metadata with each change (RFC 7592 §2.2).
    pub(super) fn check(&self, before: Option<&Map<String, Value>>) -> Result<(), OAuthError> {
        let stored = before.and_then(|before| before.get("name"));
        if let Some(name) = self.element("name").filter(|name| stored != Some(*name)) {
            names::check(name.as_str().unwrap_or_default())
                .map_err(|problem| wrong(format!("client_name: {problem}")))?;
        }
        let stored = stored_redirects(before);
        let uris = self.element("redirectUris").and_then(Value::as_array).into_iter().flatten();
        let mut new = uris.filter_map(Value::as_str).filter(|uri| !stored.contains(uri));
        match new.find_map(|uri| RedirectUri::parse(uri).err()) {
            Some(error) => Err(OAuthError::invalid_redirect_uri(error.to_string())),
            None => Ok(()),
        }
    }

    fn element(&self, name: &str) -> Option<&Value> {
        self.elements.iter().find(|(element, _)| *element == name).map(|(_, value)| value)
    }

    /// Puts the metadata in the place of what was registered before.
    pub(super) fn apply(&self, resource: &mut Map<String, Value>) {
        resource.retain(|name, _| !ELEMENTS.contains(&name.as_str()));
        for (name, value) in &self.elements {
            resource.insert((*name).to_owned(), value.clone());
        }
    }
}

/// A member of the body; `null` is none.
fn member<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, OAuthError> {
    match member(body, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(wrong(format!("{name} must be a string"))),
    }
}

fn texts(body: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, OAuthError> {
    let Some(value) = member(body, name) else { return Ok(None) };
    let values = value.as_array().map(|list| list.iter().map(|item| item.as_str().map(str::to_owned)));
    match values.and_then(Iterator::collect::<Option<Vec<String>>>) {
        Some(mut texts) => {
            let mut seen = std::collections::HashSet::new();
            texts.retain(|text| seen.insert(text.clone()));
            Ok(Some(texts))
        }
        None => Err(wrong(format!("{name} must be a list of strings"))),
    }
}

fn grant_types(body: &Map<String, Value>, bounds: &RegistrationBounds) -> Result<Vec<String>, OAuthError> {
    let named = texts(body, "grant_types")?.unwrap_or_else(|| vec![CODE_GRANT.to_owned()]);
    let possible: Vec<&str> = GRANT_TYPES.into_iter().filter(|name| bounds.allow_grant(name)).collect();
    if named.is_empty() || named.iter().any(|name| !possible.contains(&name.as_str())) {
        let possible = possible.join(", ");
        return Err(wrong(format!("grant_types must be some of: {possible} (left out, it is {CODE_GRANT})")));
    }
    Ok(named)
}

/// They go with the grant types (RFC 7591 §2.1).
fn response_types(body: &Map<String, Value>, by_code: bool) -> Result<Vec<String>, OAuthError> {
    let expected = if by_code { vec!["code".to_owned()] } else { Vec::new() };
    match texts(body, "response_types")? {
        Some(named) if named != expected => Err(wrong(format!(
            "response_types must be [\"code\"] with the grant type {CODE_GRANT}, and empty or left out without it"
        ))),
        _ => Ok(expected),
    }
}

fn redirect_uris(body: &Map<String, Value>, by_code: bool) -> Result<Vec<String>, OAuthError> {
    let uris = texts(body, "redirect_uris")?.unwrap_or_default();
    if by_code && uris.is_empty() {
        let text = format!("The grant type {CODE_GRANT} needs redirect_uris");
        return Err(OAuthError::invalid_redirect_uri(text));
    }
    if uris.len() > REDIRECT_URIS_MAX {
        let text = format!("A client has at most {REDIRECT_URIS_MAX} redirect_uris");
        return Err(OAuthError::invalid_redirect_uri(text));
    }
    Ok(uris)
}

fn scope(body: &Map<String, Value>, bounds: &RegistrationBounds) -> Result<Option<Scope>, OAuthError> {
    let named = text(body, "scope")?.map(Scope::parse).transpose();
    match named.map_err(|bad| wrong(bad.to_string()))?.filter(|scope| !scope.is_empty()) {
        Some(scope) if !bounds.allow_scope(&scope) => {
            Err(wrong("scope names something that this client may not have"))
        }
        Some(scope) => Ok(Some(scope)),
        None => Ok(bounds.scope.clone()),
    }
}

/// `jwks` or `jwks_uri`, as the element that it becomes. Whether keys can be used is checked with the
/// resource.
fn keys(body: &Map<String, Value>) -> Result<Option<(&'static str, Value)>, OAuthError> {
    match (member(body, "jwks"), text(body, "jwks_uri")?) {
        (Some(_), Some(_)) => Err(wrong("Give jwks or jwks_uri, not both")),
        (Some(jwks @ Value::Object(_)), None) => Ok(Some(("jwks", json!(jwks.to_string())))),
        (Some(_), None) => Err(wrong("jwks must be a JWK Set, a JSON object")),
        (None, Some(uri)) => Ok(Some(("jwksUri", json!(uri)))),
        (None, None) => Ok(None),
    }
}

fn auth_method(body: &Map<String, Value>, has_keys: bool, by_code: bool) -> Result<AuthMethod, OAuthError> {
    let named = text(body, "token_endpoint_auth_method")?.unwrap_or(AuthMethod::SecretBasic.as_str());
    let method = AuthMethod::parse(named).ok_or_else(|| {
        wrong("token_endpoint_auth_method must be client_secret_basic, client_secret_post, private_key_jwt or none")
    })?;
    match method {
        AuthMethod::PrivateKey if !has_keys => Err(wrong("private_key_jwt needs jwks or jwks_uri")),
        AuthMethod::Nothing if has_keys => {
            Err(wrong("A client that has keys proves itself by them: use private_key_jwt, or leave them out"))
        }
        AuthMethod::Nothing if !by_code => {
            let text = format!("A client that proves itself by nothing can only use {CODE_GRANT}");
            Err(wrong(text))
        }
        method => Ok(method),
    }
}
