//! Signing and verifying access tokens (JWT, RFC 7519; ES256, RFC 7518 §3.4). The key pair is parsed
//! once; a verified signature is remembered, bounded, because verifying costs more than all else a
//! request does. What the token's client may do now is never remembered.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyrelay_core::grant::AccessClaims;
use keyrelay_core::id::{ClientId, SecretId, SessionId, SigningKeyId, TokenId};
use keyrelay_core::keyring::Keyring;
use keyrelay_core::limits::{TOKEN_BYTES_MAX, VERIFIED_TOKENS_MAX};
use keyrelay_core::random::Entropy;
use keyrelay_core::scope::Scope;
use keyrelay_core::time::{Clock, Timestamp};
use keyrelay_store::{Change, Store, StoredSigningKey};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::BaseUrl;
use crate::error::StartError;

/// `alg` of all tokens.
const ALGORITHM: &str = "ES256";
/// `typ` of an access token (RFC 9068 §2.1).
const ACCESS_TOKEN: &str = "at+jwt";
/// Bytes of an uncompressed P-256 point: a tag and two coordinates of 32 bytes.
const POINT_BYTES: usize = 65;

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

/// The signing keys. The newest signs, all verify.
pub(crate) struct TokenKeys {
    id: SigningKeyId,
    pair: EcdsaKeyPair,
    /// The JOSE header of every access token, see [`header`].
    header: String,
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
    jwks: Value,
    verified: Cache<[u8; 32], Arc<VerifiedToken>>,
}

impl TokenKeys {
    /// Loads the keys from the store; makes the first one if there is none.
    pub(crate) async fn load(
        store: &Store,
        keyring: &Keyring,
        base_url: &BaseUrl,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<Self, StartError> {
        let mut stored = store.signing_keys().await?;
        if stored.is_empty() {
            make_key(store, keyring, clock.now(), entropy).await?;
            stored = store.signing_keys().await?;
        }
        let pairs = stored.iter().map(|key| unwrap(keyring, key)).collect::<Result<Vec<_>, _>>()?;
        let jwks = json!({ "keys": pairs.iter().map(|(id, pair)| jwk(*id, pair)).collect::<Vec<_>>() });
        let verifying = pairs
            .iter()
            .map(|(id, pair)| (id.to_string(), DecodingKey::from_ec_der(pair.public_key().as_ref())))
            .collect();
        let (id, pair) = pairs.into_iter().next().ok_or(StartError::SigningKey {
            id: "(none)".to_owned(),
            problem: "the database keeps none although one was just made",
        })?;
        Ok(Self {
            id,
            pair,
            header: header(ACCESS_TOKEN, id),
            verifying,
            validation: validation(base_url),
            jwks,
            verified: Cache::new(VERIFIED_TOKENS_MAX),
        })
    }

    /// The public keys (RFC 7517).
    pub(crate) const fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// Signs an access token. `None` only if the signer fails.
    pub(crate) fn sign(&self, claims: &AccessClaims<'_>) -> Option<String> {
        self.sign_as(ACCESS_TOKEN, claims)
    }

    /// Signs claims (RFC 7515 §3.1, compact serialization) under a header that says what they are, so
    /// that none passes for another (RFC 8725 §3.11): `JWT` for an ID token. `None` only if the signer
    /// fails. Nothing that is signed may live longer than [`keyrelay_core::limits::TOKEN_LIFETIME_MAX`].
    pub(crate) fn sign_as(&self, typ: &str, claims: &impl Serialize) -> Option<String> {
        let payload = serde_json::to_vec(claims).ok()?;
        let mut token = String::with_capacity(self.header.len() + payload.len() * 4 / 3 + 96);
        if typ == ACCESS_TOKEN {
            token.push_str(&self.header);
        } else {
            token.push_str(&header(typ, self.id));
        }
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        // The generator is aws-lc's own; the parameter is there for the sake of an older interface.
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }

    /// Verifies a token's signature, issuer, audience and times.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Arc<VerifiedToken>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let verified = if let Some(verified) = self.verified.get(&key) {
            verified
        } else {
            let verified = Arc::new(self.verify_signature(token)?);
            self.verified.insert(key, Arc::clone(&verified));
            verified
        };
        (verified.not_before <= now.epoch_seconds() && now < verified.expires).then_some(verified)
    }

    fn verify_signature(&self, token: &str) -> Option<VerifiedToken> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(ACCESS_TOKEN) {
            return None;
        }
        let kid = header.kid?;
        let (_, key) = self.verifying.iter().find(|(id, _)| *id == kid)?;
        let claims = jsonwebtoken::decode::<TokenClaims>(token, key, &self.validation).ok()?.claims;
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
            not_before: claims.nbf,
            expires: Timestamp::from_epoch_ms(claims.exp.saturating_mul(1000)),
        })
    }
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeys({})", self.verifying.len())
    }
}

/// A JOSE header (RFC 7515 §4) in base64url, with the dot that follows it.
fn header(typ: &str, id: SigningKeyId) -> String {
    let header = json!({ "alg": ALGORITHM, "typ": typ, "kid": id.to_string() }).to_string();
    format!("{}.", URL_SAFE_NO_PAD.encode(header))
}

/// The claims of a token that has been verified.
pub(super) fn claims_of(token: &str) -> Option<Map<String, Value>> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Times are checked against our own clock, after the signature.
fn validation(base_url: &BaseUrl) -> Validation {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[base_url.as_str()]);
    validation.set_audience(&[base_url.as_str()]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}

async fn make_key(
    store: &Store,
    keyring: &Keyring,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<(), StartError> {
    let id = SigningKeyId::random(entropy);
    let failed = |problem| StartError::SigningKey { id: id.to_string(), problem };
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| failed("it could not be generated"))?;
    let sealed = keyring.wrap_signing_key(id, pkcs8.as_ref(), entropy);
    let mut change = Change::new();
    change.create_signing_key(id, ALGORITHM, &sealed, now);
    store.commit(change).await?;
    Ok(())
}

fn unwrap(keyring: &Keyring, key: &StoredSigningKey) -> Result<(SigningKeyId, EcdsaKeyPair), StartError> {
    let failed = |problem| StartError::SigningKey { id: key.id.to_string(), problem };
    if key.algorithm != ALGORITHM {
        return Err(failed("its algorithm is not known to this version"));
    }
    let pkcs8 = keyring.unwrap_signing_key(key.id, &key.sealed)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8)
        .map_err(|_| failed("it is not a P-256 key"))?;
    if pair.public_key().as_ref().len() != POINT_BYTES {
        return Err(failed("its public part is not an uncompressed point"));
    }
    Ok((key.id, pair))
}

fn jwk(id: SigningKeyId, pair: &EcdsaKeyPair) -> Value {
    let (x, y) = pair.public_key().as_ref().split_at(1).1.split_at(32);
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(x),
        "y": URL_SAFE_NO_PAD.encode(y),
        "kid": id.to_string(),
        "use": "sig",
        "alg": ALGORITHM,
    })
}
