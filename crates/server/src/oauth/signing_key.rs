//! One key that signs tokens: ES256, `EdDSA` or RS256 (RFC 7518 §3.1, RFC 8037 §3.1). The pair is parsed
//! once, and so is everything else that every token needs of it.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use keyrelay_core::id::SigningKeyId;
use keyrelay_core::signing::{ScheduledKey, SigningAlgorithm};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::BaseUrl;

/// `typ` of an access token (RFC 9068 §2.1).
pub(super) const ACCESS_TOKEN: &str = "at+jwt";
/// The size of RSA keys. A key is in use for months, and what it signed is dead after a day: more bits
/// would cost every token more time, and guard nothing (NIST SP 800-57 part 1, §5.6.3).
const RSA_SIZE: KeySize = KeySize::Rsa2048;
/// The longest signature of any algorithm, in base64url, with its dot.
const SIGNATURE_CHARS_MAX: usize = 343;

/// A key pair is not of its algorithm, or could not be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadKey;

enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

/// A key with all that signing and verifying by it takes.
pub(super) struct SigningKey {
    pub(super) key: ScheduledKey,
    /// `key.id` as text.
    pub(super) kid: String,
    pair: Pair,
    /// The JOSE header of every access token, see [`header`].
    access_header: String,
    pub(super) decoding: DecodingKey,
    /// Takes the key's own algorithm only, whatever a token says.
    pub(super) validation: Validation,
    /// The public part (RFC 7517).
    pub(super) jwk: Value,
}

/// Makes a private key, as PKCS#8. An RSA key takes a good part of a second.
pub(super) fn generate(algorithm: SigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, BadKey> {
    // The generator is aws-lc's own; the parameter is there for the sake of an older interface.
    let random = SystemRandom::new();
    let pkcs8 = match algorithm {
        SigningAlgorithm::Es256 => {
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
            document.map_err(|_| BadKey)?.as_ref().to_vec()
        }
        SigningAlgorithm::EdDsa => {
            Ed25519KeyPair::generate_pkcs8(&random).map_err(|_| BadKey)?.as_ref().to_vec()
        }
        SigningAlgorithm::Rs256 => {
            let pair = RsaKeyPair::generate(RSA_SIZE).map_err(|_| BadKey)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| BadKey)?;
            der.as_ref().to_vec()
        }
    };
    Ok(Zeroizing::new(pkcs8))
}

impl SigningKey {
    /// Takes a private key apart.
    pub(super) fn parse(key: ScheduledKey, pkcs8: &[u8], base_url: &BaseUrl) -> Result<Self, BadKey> {
        let (pair, decoding, algorithm) = match key.algorithm {
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
                let pair = pair.map_err(|_| BadKey)?;
                let decoding = DecodingKey::from_ec_der(pair.public_key().as_ref());
                (Pair::Es256(pair), decoding, Algorithm::ES256)
            }
            SigningAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| BadKey)?;
                let decoding = DecodingKey::from_ed_der(pair.public_key().as_ref());
                (Pair::EdDsa(pair), decoding, Algorithm::EdDSA)
            }
            SigningAlgorithm::Rs256 => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| BadKey)?;
                let decoding = DecodingKey::from_rsa_der(pair.public_key().as_ref());
                (Pair::Rs256(pair), decoding, Algorithm::RS256)
            }
        };
        let mut jwk = Jwk::from_decoding_key(&decoding, Some(algorithm)).map_err(|_| BadKey)?;
        jwk.common.key_id = Some(key.id.to_string());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self {
            key,
            kid: key.id.to_string(),
            pair,
            access_header: header(ACCESS_TOKEN, key.algorithm, key.id),
            decoding,
            validation: validation(algorithm, base_url),
            jwk: serde_json::to_value(&jwk).map_err(|_| BadKey)?,
        })
    }

    /// Signs a payload (RFC 7515 §3.1, compact serialization). `None` only if the signer fails.
    pub(super) fn sign(&self, typ: &str, payload: &[u8]) -> Option<String> {
        let mut token =
            String::with_capacity(self.access_header.len() + payload.len() * 4 / 3 + SIGNATURE_CHARS_MAX);
        if typ == ACCESS_TOKEN {
            token.push_str(&self.access_header);
        } else {
            token.push_str(&header(typ, self.key.algorithm, self.key.id));
        }
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let text = token.as_bytes();
        match &self.pair {
            Pair::Es256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), text).ok()?;
                push_signature(&mut token, signature.as_ref());
            }
            Pair::EdDsa(pair) => {
                let signature = pair.try_sign(text).ok()?;
                push_signature(&mut token, signature.as_ref());
            }
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).ok()?;
                push_signature(&mut token, &signature);
            }
        }
        Some(token)
    }
}

fn push_signature(token: &mut String, signature: &[u8]) {
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, token);
}

/// A JOSE header (RFC 7515 §4) in base64url, with the dot that follows it.
fn header(typ: &str, algorithm: SigningAlgorithm, id: SigningKeyId) -> String {
    let header = json!({ "alg": algorithm.as_str(), "typ": typ, "kid": id.to_string() }).to_string();
    format!("{}.", URL_SAFE_NO_PAD.encode(header))
}

/// Times are checked against our own clock, after the signature.
fn validation(algorithm: Algorithm, base_url: &BaseUrl) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[base_url.as_str()]);
    validation.set_audience(&[base_url.as_str()]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation
}
