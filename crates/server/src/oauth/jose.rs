//! Signing and verifying tokens (JWT, RFC 7519) by the keys there are. Which those are changes in a
//! running server (`key_renewal`); here is the set of the moment, taken without a lock. A verified
//! signature is remembered, bounded, because verifying costs more than all else a request does. What
//! the token's client may do now is never remembered.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::client::Thumbprint;
use keyrelay_core::grant::{AccessClaims, Confirmation};
use keyrelay_core::id::{ClientId, SecretId, SessionId, TokenId};
use keyrelay_core::limits::TOKEN_BYTES_MAX;
use keyrelay_core::scope::Scope;
use keyrelay_core::signing::{Schedule, signer};
use keyrelay_core::time::Timestamp;
use keyrelay_core::weighed_cache::{Weighed, WeighedCache};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::signing_key::{ACCESS_TOKEN, SigningKey};
use crate::config::BaseUrl;

/// The claims of a token that decide something.
#[derive(Deserialize)]
struct TokenClaims {
    sub: String,
    client_id: String,
    login_id: String,
    jti: String,
    sid: String,
    scope: String,
    nbf: i64,
    exp: i64,
    cnf: Option<Confirmation>,
}

/// What a verified token says.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) id: TokenId,
    pub(crate) bearer: Bearer,
    /// The client that it was given to; none where a person logged in without one.
    pub(crate) client: Option<ClientId>,
    /// What the client proved itself by when it got the token.
    pub(crate) proof: SecretId,
    pub(crate) scope: Scope,
    /// The certificate that must come with it (RFC 8705 §3).
    pub(crate) bound_to: Option<Thumbprint>,
    not_before: i64,
    pub(crate) expires: Timestamp,
}

/// In whose name a token was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bearer {
    /// A client in its own.
    Client(ClientId),
    /// A person's who logged in.
    Login(SessionId),
}

/// The keys of a moment, and what has been verified by them: a signature is not remembered for longer
/// than its key.
pub(super) struct KeySet {
    /// In the order of their generations; never empty.
    keys: Vec<Arc<SigningKey>>,
    verified: Arc<Verified>,
}

type Verified = WeighedCache<[u8; 32], VerifiedToken>;

impl Weighed for VerifiedToken {
    fn heap_bytes(&self) -> usize {
        self.scope.heap_bytes()
    }
}

impl KeySet {
    /// A set of other keys. What was verified by a key that is gone is forgotten.
    pub(super) fn followed_by(&self, keys: Vec<Arc<SigningKey>>) -> Self {
        let all_stay = self.keys.iter().all(|key| keys.iter().any(|stays| stays.key.id == key.key.id));
        let verified = if all_stay { Arc::clone(&self.verified) } else { Arc::default() };
        Self { keys, verified }
    }

    /// The first set.
    pub(super) fn new(keys: Vec<Arc<SigningKey>>) -> Self {
        Self { keys, verified: Arc::default() }
    }

    pub(super) fn keys(&self) -> &[Arc<SigningKey>] {
        &self.keys
    }

    fn signing(&self, now: Timestamp) -> Option<&SigningKey> {
        let place = signer(self.keys.iter().map(|key| key.key.signs_from), now);
        self.keys.get(place).map(AsRef::as_ref)
    }

    /// The one that signs, and then the others: some readers of a key set look at the first only.
    fn signing_first(&self, now: Timestamp) -> impl Iterator<Item = &SigningKey> {
        let place = signer(self.keys.iter().map(|key| key.key.signs_from), now);
        let others = self.keys.iter().enumerate().filter(move |(n, _)| *n != place).map(|(_, key)| key);
        self.keys.get(place).into_iter().chain(others).map(AsRef::as_ref)
    }
}

/// The signing keys of a running server.
pub(crate) struct TokenKeys {
    pub(super) set: ArcSwap<KeySet>,
    pub(super) schedule: Schedule,
    pub(super) base_url: BaseUrl,
    /// Held while keys are renewed, so that what was read first is not put in place last.
    pub(super) renewing: Mutex<()>,
}

impl TokenKeys {
    /// The public keys (RFC 7517).
    pub(crate) fn jwks(&self, now: Timestamp) -> Value {
        let set = self.set.load();
        json!({ "keys": set.signing_first(now).map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// The algorithms by which tokens may be signed, that of the moment first.
    pub(crate) fn algorithms(&self, now: Timestamp) -> Vec<&'static str> {
        let set = self.set.load();
        let mut names = Vec::new();
        for name in set.signing_first(now).map(|key| key.key.algorithm.as_str()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Signs an access token. `None` only if the signer fails.
    pub(crate) fn sign(&self, claims: &AccessClaims<'_>, now: Timestamp) -> Option<String> {
        self.sign_as(ACCESS_TOKEN, claims, now)
    }

    /// Signs claims under a header that says what they are, so that none passes for another (RFC 8725
    /// §3.11): `JWT` for an ID token. `None` only if the signer fails. Nothing that is signed may live
    /// longer than [`keyrelay_core::limits::TOKEN_LIFETIME_MAX`]: its key would be gone.
    pub(crate) fn sign_as(&self, typ: &str, claims: &impl Serialize, now: Timestamp) -> Option<String> {
        self.set.load().signing(now)?.sign(typ, &serde_json::to_vec(claims).ok()?)
    }

    /// Verifies a token's signature, issuer, audience and times.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Arc<VerifiedToken>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let set = self.set.load();
        let verified = if let Some(verified) = set.verified.get(&key) {
            verified
        } else {
            let verified = Arc::new(verify_signature(&set.keys, token)?);
            set.verified.insert(key, Arc::clone(&verified));
            verified
        };
        (verified.not_before <= now.epoch_seconds() && now < verified.expires).then_some(verified)
    }
}

fn verify_signature(keys: &[Arc<SigningKey>], token: &str) -> Option<VerifiedToken> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    if header.typ.as_deref() != Some(ACCESS_TOKEN) {
        return None;
    }
    let kid = header.kid?;
    let key = keys.iter().find(|key| key.kid == kid)?;
    let claims = jsonwebtoken::decode::<TokenClaims>(token, &key.decoding, &key.validation).ok()?.claims;
    let client = ClientId::parse(&claims.client_id);
    let bearer = match client {
        Some(client) if claims.sub == claims.client_id => Bearer::Client(client),
        _ => Bearer::Login(SessionId::parse(&claims.login_id)?),
    };
    Some(VerifiedToken {
        id: TokenId::parse(&claims.jti)?,
        bearer,
        client,
        proof: SecretId::parse(&claims.sid)?,
        scope: Scope::parse(&claims.scope).ok()?,
        bound_to: match claims.cnf {
            Some(confirmation) => Some(Thumbprint::parse(&confirmation.thumbprint)?),
            None => None,
        },
        not_before: claims.nbf,
        expires: Timestamp::from_epoch_ms(claims.exp.saturating_mul(1000)),
    })
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeys({})", self.set.load().keys.len())
    }
}

/// The claims of a token that has been verified.
pub(super) fn claims_of(token: &str) -> Option<Map<String, Value>> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}
