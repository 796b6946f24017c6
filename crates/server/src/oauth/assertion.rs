//! A client that proves itself by a signed assertion (`private_key_jwt`: RFC 7523 §2.2 and §3, SMART
//! Backend Services 2.2). Whatever is wrong with one, the client is told the same; the log has the
//! rest. An assertion is accepted once: that it was used is durable before anything is granted.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use keyrelay_core::client::{Acts, Proof, ProofKind, Refused};
use keyrelay_core::id::{ClientId, ProjectId, SecretId};
use keyrelay_core::limits::{ASSERTION_LIFETIME_MAX, ASSERTION_SKEW, JTI_BYTES_MAX};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use keyrelay_store::ClientState;
use serde::Deserialize;
use serde_json::Value;

use super::client_auth::Endpoint;
use super::jose::claims_of;
use super::jwks::{self, ClientKey};
use crate::App;
use crate::auth::{NotProved, Peer, Proved, count_use, refuse, turn_away};
use crate::fhir::stored_resource;
use crate::outbound::OutboundUri;

/// The `client_assertion_type` of a JWT (RFC 7523 §2.2).
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// What an assertion may be signed by. SMART asks for the first two.
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::RS384, Algorithm::ES384, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
/// Their names, for the metadata.
pub(super) const ALGORITHM_NAMES: [&str; 5] = ["RS384", "ES384", "RS256", "ES256", "EdDSA"];

/// The base point of P-256 (FIPS 186-5), as a key: everybody knows the private part.
pub(super) const BASE_POINT: [u8; 65] = [
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f,
    0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce,
    0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

#[derive(Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: i64,
    nbf: Option<i64>,
    iat: Option<i64>,
    jti: String,
}

/// Proves a client by an assertion, and counts the use of its key.
pub(super) async fn prove(
    app: &App,
    assertion: &PlainSecret,
    client_id: Option<&str>,
    endpoint: Endpoint,
    acts: Acts,
    peer: Peer<'_>,
) -> Result<Proved, NotProved> {
    if let Some(wait) = app.limiter.blocks(peer.address, app.now()) {
        return Err(NotProved::Throttled(wait));
    }
    let text = assertion.reveal();
    let said = claims_of(text).and_then(|claims| ClientId::parse(claims.get("sub")?.as_str()?));
    let client = said.unwrap_or(ClientId::NIL);
    let (state, access) = tokio::join!(app.store.client(client), app.store.access(client));
    let (state, access) = (state.map_err(NotProved::Store)?, access.map_err(NotProved::Store)?);
    let of = access.as_ref().map(|access| access.project.id);
    let no = |why| Err(refuse(app, client, of, peer, why));
    let audiences = endpoint.audiences(&app.config);
    let until = |claims: &Claims| {
        good_until(&audiences, app.now(), client, claims)
            .filter(|_| client_id.is_none_or(|said| said == client.to_string()))
    };
    // Nobody's URL is looked at for what would be refused whatever the keys are.
    let is_worth_asking = || {
        let claims = claims_of(text).and_then(|claims| serde_json::from_value(claims.into()).ok());
        jsonwebtoken::decode_header(text).is_ok_and(|header| is_acceptable(&header))
            && claims.is_some_and(|claims| until(&claims).is_some())
            && access.as_ref().is_some_and(|access| access.check(acts, peer.address).is_ok())
    };
    let signed = match published(app, state.as_ref()) {
        Some(Published::Here(set)) => signed_by(text, &jwks::usable(client, &set)),
        Some(Published::At(uri)) if is_worth_asking() => {
            signed_by_remote(app, client, of.unwrap_or(ProjectId::NIL), text, &uri).await
        }
        // Keys that are known already tell a failure of the client from a guess.
        Some(Published::At(uri)) => {
            let set = app.remote_keys.kept(&uri);
            signed_by(text, &set.map(|set| jwks::usable(client, &set)).unwrap_or_default())
        }
        None => signed_by(text, &[]),
    };
    let Some((key, claims)) = signed else {
        return no(if access.is_none() { Refused::UnknownClient } else { Refused::WrongSecret });
    };
    let Some(expires) = until(&claims) else { return no(Refused::BadAssertion) };
    let Some(access) = access else {
        return Err(turn_away(app, client, peer.address, Refused::UnknownClient));
    };
    if let Err(why) = access.check(acts, peer.address) {
        return no(why);
    }
    let jti = URL_SAFE_NO_PAD.encode(digest(&SHA256, claims.jti.as_bytes()));
    let used = app.store.use_assertion(client, access.project.id, jti, expires, app.now());
    if !used.await.map_err(NotProved::Store)? {
        return no(Refused::Replayed);
    }
    let proof = Proof { id: key, kind: ProofKind::Key };
    count_use(app, &access, proof, peer);
    Ok(Proved { access, proof })
}

/// Where a client publishes its keys.
enum Published {
    /// In its own resource.
    Here(String),
    /// At a URL.
    At(OutboundUri),
}

fn published(app: &App, state: Option<&ClientState>) -> Option<Published> {
    let resource = stored_resource(&state?.resource).ok()?;
    let text = |name: &str| resource.get(name).and_then(Value::as_str);
    if let Some(set) = text("jwks") {
        return Some(Published::Here(set.to_owned()));
    }
    OutboundUri::parse(text("jwksUri")?, app.config.base_url.reach()).ok().map(Published::At)
}

/// Verifies by the keys at a URL. If none of those that are known does, the client may have new ones:
/// the URL is looked at again, as often as that may be.
async fn signed_by_remote(
    app: &App,
    client: ClientId,
    project: ProjectId,
    text: &str,
    uri: &OutboundUri,
) -> Option<(SecretId, Claims)> {
    let set = app.remote_keys.get(uri, project).await?;
    let signed = signed_by(text, &jwks::usable(client, &set));
    if signed.is_some() {
        return signed;
    }
    let set = app.remote_keys.again(uri, project, &set).await?;
    signed_by(text, &jwks::usable(client, &set))
}

/// The key by which an assertion is signed, and what it says.
fn signed_by(text: &str, keys: &[ClientKey]) -> Option<(SecretId, Claims)> {
    verified(text, keys).map(|(key, claims)| (key.id, claims))
}

/// Signed by an algorithm that is taken here, without an extension that a sender may insist on (RFC 7515
/// §4.1.11): none is known here.
fn is_acceptable(header: &Header) -> bool {
    ALGORITHMS.contains(&header.alg) && header.crit.is_none()
}

/// The claims of an assertion whose signature one of the keys verifies. Without a key that fits, a
/// signature is verified all the same (P5).
pub(super) fn verified<'k>(text: &str, keys: &'k [ClientKey]) -> Option<(&'k ClientKey, Claims)> {
    let header = jsonwebtoken::decode_header(text).ok()?;
    if !is_acceptable(&header) {
        return None;
    }
    let mut fitting = keys.iter().filter(|key| key.fits(header.kid.as_deref(), header.alg)).peekable();
    if fitting.peek().is_none() {
        let _ = jsonwebtoken::decode::<Claims>(text, &dummy(), &validation(Algorithm::ES256));
    }
    fitting.find_map(|key| {
        let decoded = jsonwebtoken::decode::<Claims>(text, &key.decoding, &validation(header.alg));
        Some((key, decoded.ok()?.claims))
    })
}

/// The base point of P-256 (FIPS 186-5): a key that verifies nothing anybody can sign by accident.
fn dummy() -> DecodingKey {
    DecodingKey::from_ec_der(&BASE_POINT)
}

/// Signature and shape only: times and names are checked against our own clock and configuration.
fn validation(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

/// Until when an assertion must be remembered, if it is the client's, for this server and of this time
/// (RFC 7523 §3).
pub(super) fn good_until(
    audiences: &[String],
    now: Timestamp,
    client: ClientId,
    claims: &Claims,
) -> Option<Timestamp> {
    let at = |seconds: i64| Timestamp::from_epoch_ms(seconds.saturating_mul(1000));
    let id = client.to_string();
    let is_its_own = claims.iss == id && claims.sub == id;
    let expires = at(claims.exp);
    let is_now = now < expires
        && expires <= now.plus(ASSERTION_LIFETIME_MAX + ASSERTION_SKEW)
        && [claims.nbf, claims.iat].into_iter().flatten().all(|from| at(from) <= now.plus(ASSERTION_SKEW));
    let has_name = !claims.jti.is_empty() && claims.jti.len() <= JTI_BYTES_MAX;
    (is_its_own && is_now && has_name && is_for_us(audiences, &claims.aud)).then_some(expires)
}

/// Whether an assertion is for this server and no other: one that another server may present here, or this one
/// elsewhere, proves nothing. There may be several audiences; each must be one of ours, byte for byte.
fn is_for_us(audiences: &[String], claimed: &Value) -> bool {
    let is_us = |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|ours| ours == text));
    match claimed {
        Value::Array(list) => !list.is_empty() && list.iter().all(is_us),
        one => is_us(one),
    }
}
