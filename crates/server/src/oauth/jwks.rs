//! The public keys that a client publishes to prove itself by (RFC 7517): in `ClientApplication.jwks`,
//! or at the URL in `jwksUri`. A set that is written here is checked as a whole, so that a key that
//! could never verify anything is refused where somebody can still put it right. Of a set that is
//! fetched, what can be used is used: it may be meant for other readers too.

use jsonwebtoken::jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey};
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::{CLIENT_KEYS_MAX, JWKS_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::public_key::PublicKey;

/// The name space of the ids that keys are counted by (RFC 9562 §5.5). Never change it: counts name them.
const KEYS_NAMESPACE: Uuid = Uuid::from_u128(0x5a0c_41de_7f7e_4b52_9f2c_8d8e_0b64_3c11);
/// Private members of a JWK (RFC 7518 §6), also of key types that are not accepted here.
const PRIVATE_MEMBERS: [&str; 9] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];

/// A key that verifies assertions.
pub(super) struct ClientKey {
    /// What its use is counted by.
    pub(super) id: SecretId,
    kid: Option<String>,
    algorithms: &'static [Algorithm],
    /// The one algorithm that the key says it is for.
    declared: Option<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl ClientKey {
    /// Whether an assertion with this header could be signed by the key.
    pub(super) fn fits(&self, kid: Option<&str>, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
            && self.declared.is_none_or(|declared| declared == algorithm)
            && kid.is_none_or(|kid| self.kid.as_deref() == Some(kid))
    }
}

/// Reads a key set. The error says what is wrong with it.
pub(super) fn read(client: ClientId, text: &str) -> Result<Vec<ClientKey>, String> {
    if text.len() > JWKS_BYTES_MAX {
        return Err(format!("A key set has at most {JWKS_BYTES_MAX} bytes"));
    }
    let set: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("This is not a JSON object: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("A key set has a member `keys`, a list")?;
    if keys.is_empty() || keys.len() > CLIENT_KEYS_MAX {
        return Err(format!("A key set has between 1 and {CLIENT_KEYS_MAX} keys"));
    }
    if let Some(n) = keys.iter().position(has_private_members) {
        return Err(format!("Key {n} has private members: publish the public part only, and make a new key"));
    }
    let set: JwkSet = serde_json::from_str(text).map_err(|error| format!("This is no key set: {error}"))?;
    set.keys.iter().enumerate().map(|(n, key)| one(client, n, key)).collect()
}

/// The first few usable keys of a set (RFC 7517 §5). Weak keys are left out: they may have been fetched, or written
/// before they were refused.
pub(super) fn usable(client: ClientId, text: &str) -> Vec<ClientKey> {
    let set: Value = serde_json::from_str(text).unwrap_or_default();
    let keys = set.get("keys").and_then(Value::as_array).into_iter().flatten().enumerate();
    // A private key that lies in the open is anybody's.
    let public = keys.filter(|(_, key)| !has_private_members(key));
    public
        .filter_map(|(n, key)| one(client, n, &Jwk::deserialize(key).ok()?).ok())
        .take(CLIENT_KEYS_MAX)
        .collect()
}

/// Whether a text is a key set at all, whatever its keys are good for.
pub(super) fn is_set(text: &str) -> bool {
    serde_json::from_str::<Map<String, Value>>(text)
        .is_ok_and(|set| set.get("keys").is_some_and(Value::is_array))
}

fn has_private_members(key: &Value) -> bool {
    PRIVATE_MEMBERS.iter().any(|name| key.get(name).is_some())
}

fn one(client: ClientId, n: usize, key: &Jwk) -> Result<ClientKey, String> {
    let weak = |weakness| format!("Key {n} {weakness}");
    let public = PublicKey::of_jwk(&key.algorithm).map_err(weak)?;
    let algorithms = public.algorithms();
    let declared = key.common.key_algorithm.map(|declared| {
        let known = Algorithm::try_from(declared).ok().filter(|known| algorithms.contains(known));
        known.ok_or_else(|| {
            let names: Vec<String> = algorithms.iter().map(|known| format!("{known:?}")).collect();
            format!("Key {n} has an `alg` that does not fit it: give {}, or leave it out", names.join(" or "))
        })
    });
    let declared = declared.transpose()?;
    if key.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return Err(format!("Key {n} is not for signatures (its `use` is not sig)"));
    }
    let operations = key.common.key_operations.as_ref();
    if operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err(format!("Key {n} is not for verifying signatures (its `key_ops` do not say verify)"));
    }
    public.check().map_err(weak)?;
    let decoding = DecodingKey::from_jwk(key).map_err(|error| format!("Key {n} cannot be used: {error}"))?;
    let thumbprint =
        key.thumbprint(ThumbprintHash::SHA256).map_err(|error| format!("Key {n} cannot be used: {error}"))?;
    let name = format!("{client}/{thumbprint}");
    Ok(ClientKey {
        id: SecretId::from(Uuid::new_v5(&KEYS_NAMESPACE, name.as_bytes())),
        kid: key.common.key_id.clone(),
        algorithms,
        declared,
        decoding,
    })
}

/// Checks a key set that somebody writes.
pub(crate) fn check(client: ClientId, text: &str) -> Result<(), String> {
    read(client, text).map(drop)
}
