//! What must hold of the forms and assertions that clients send; see [`crate::fuzzing`].
#![allow(clippy::missing_panics_doc, reason = "a property that does not hold is told by a panic")]

use std::collections::HashSet;
use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::{
    ASSERTION_LIFETIME_MAX, ASSERTION_SKEW, CLIENT_KEYS_MAX, FORM_PARAMETERS_MAX, JTI_BYTES_MAX,
    JWKS_BYTES_MAX, SCOPE_BYTES_MAX, TOKEN_BYTES_MAX,
};
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use serde_json::{Value, json};

use super::assertion::{good_until, verified};
use super::client_auth::Endpoint;
use super::jose::claims_of;
use super::jwks::{self, ClientKey};
use super::token::Form;
use crate::config::{BaseUrl, Config};
use crate::fuzzing::is_clear_refusal;

/// A form at the token endpoint.
pub fn token_form(data: &[u8]) {
    let pairs: Vec<(String, String)> = form_urlencoded::parse(data).into_owned().collect();
    let names: HashSet<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    let is_readable = pairs.len() <= FORM_PARAMETERS_MAX && names.len() == pairs.len();
    let form = match Form::parse(data) {
        Ok(form) => form,
        Err(error) => {
            assert!(!is_readable, "a good form is refused");
            is_clear_refusal(error);
            return;
        }
    };
    assert!(is_readable, "a form is taken that has a parameter twice, or too many");
    for (name, read) in parameters(&form) {
        let sent = pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        // A parameter without a value is none; what grants something is bounded.
        let expected =
            sent.filter(|value| !value.is_empty() && (value.len() <= TOKEN_BYTES_MAX || !is_bounded(name)));
        assert_eq!(read, expected, "{name}");
    }
    let printed = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs.iter().rev()).finish();
    let Ok(again) = Form::parse(printed.as_bytes()) else { panic!("what is printed is refused") };
    assert_eq!(parameters(&form), parameters(&again), "the order of parameters matters");
    read_scope(form.scope.as_deref().unwrap_or_default());
}

fn is_bounded(name: &str) -> bool {
    matches!(name, "client_assertion" | "code" | "code_verifier" | "refresh_token")
}

/// All that is read from a form, by name.
fn parameters(form: &Form) -> [(&'static str, Option<&str>); 10] {
    let client = &form.client;
    [
        ("client_id", client.client_id.as_deref()),
        ("client_secret", client.client_secret.as_ref().map(|value| value.as_str())),
        ("client_assertion_type", client.assertion_type.as_deref()),
        ("client_assertion", client.assertion.as_ref().map(PlainSecret::reveal)),
        ("grant_type", form.grant_type.as_deref()),
        ("scope", form.scope.as_deref()),
        ("code", form.code.as_ref().map(PlainSecret::reveal)),
        ("redirect_uri", form.redirect_uri.as_deref()),
        ("code_verifier", form.code_verifier.as_ref().map(PlainSecret::reveal)),
        ("refresh_token", form.refresh_token.as_ref().map(PlainSecret::reveal)),
    ]
}

fn read_scope(text: &str) {
    let Ok(scope) = Scope::parse(text) else { return };
    assert!(scope.as_str().len() <= SCOPE_BYTES_MAX);
    assert_eq!(Scope::parse(scope.as_str()).as_ref(), Ok(&scope), "what is printed says something else");
    assert!(scope.is_within(&scope) && text.split_ascii_whitespace().all(|word| scope.has(word)));
}

/// The client whose assertions are looked at, and the moment.
const CLIENT: ClientId = ClientId::NIL;
const NOW: Timestamp = Timestamp::from_epoch_ms(1_767_225_600_000);

struct Stage {
    ours: Vec<String>,
    pair: EcdsaKeyPair,
    keys: Vec<ClientKey>,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let (x, y) = pair.public_key().as_ref().split_at(1).1.split_at(32);
        let key = json!({
            "kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        let keys = jwks::read(CLIENT, &json!({ "keys": [key] }).to_string()).expect("a key set");
        let config = Config::new(BaseUrl::parse("https://relay.test/").expect("a URL"));
        Stage { ours: Endpoint::Introspection.audiences(&config), pair, keys }
    })
}

/// A client assertion, as it is sent; as a header and claims on two lines, which are signed here by a key
/// of the client; and a key set.
pub fn client_assertion(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    read_key_set(text);
    let stage = stage();
    let _ = claims_of(text);
    assert!(verified(text, &stage.keys).is_none(), "an assertion is taken that nobody signed");
    let Some((header, claims)) = text.split_once('\n') else { return };
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = stage.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
    let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    let Some((key, read)) = verified(&assertion, &stage.keys) else { return };
    assert_eq!(key.id, stage.keys[0].id);
    let header: Value = serde_json::from_str(header).expect("a header");
    assert_eq!(header["alg"], "ES256", "another algorithm than the key's is taken");
    assert!(matches!(header["kid"].as_str(), None | Some("k1")), "another key is named");
    assert!(header["crit"].is_null(), "an extension that is not known must not be passed over");
    let looked_up = claims_of(&assertion).expect("claims");
    if let Some(until) = good_until(&stage.ours, NOW, CLIENT, &read) {
        check_claims(&Value::Object(looked_up), until);
    }
}

/// RFC 7523 §3, once more.
fn check_claims(claims: &Value, until: Timestamp) {
    let id = CLIENT.to_string();
    assert_eq!((claims["iss"].as_str(), claims["sub"].as_str()), (Some(id.as_str()), Some(id.as_str())));
    let ours =
        ["https://relay.test/", "https://relay.test/oauth2/token", "https://relay.test/oauth2/introspect"];
    let one = std::slice::from_ref(&claims["aud"]);
    let audiences = claims["aud"].as_array().map_or(one, Vec::as_slice);
    assert!(!audiences.is_empty());
    assert!(audiences.iter().all(|name| name.as_str().is_some_and(|name| ours.contains(&name))));
    let name = claims["jti"].as_str().expect("a name");
    assert!((1..=JTI_BYTES_MAX).contains(&name.len()));
    let expires = claims["exp"].as_i64().expect("an end");
    assert_eq!(until, Timestamp::from_epoch_ms(expires * 1000));
    assert!(NOW < until && until <= NOW.plus(ASSERTION_LIFETIME_MAX + ASSERTION_SKEW));
    for from in ["nbf", "iat"].into_iter().filter_map(|name| claims[name].as_i64()) {
        assert!(from <= NOW.plus(ASSERTION_SKEW).epoch_seconds());
    }
}

fn read_key_set(text: &str) {
    let Ok(keys) = jwks::read(CLIENT, text) else { return };
    assert!((1..=CLIENT_KEYS_MAX).contains(&keys.len()) && text.len() <= JWKS_BYTES_MAX);
    let again = jwks::read(CLIENT, text).expect("a key set");
    assert!(keys.iter().zip(&again).all(|(one, other)| one.id == other.id), "a key changes its id");
}
