//! Tokens that nobody was given. Each is wrong in one thing only: where the claims are wrong, the
//! signature is the server's own.

use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::limits::{SIGNING_KEY_LIFETIME_DEFAULT, SIGNING_KEY_PUBLISH_AHEAD};
use keyrelay_core::signing::{Schedule, SigningAlgorithm};
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{As, TestApp};
use crate::jwt;

/// A genuine token of an admin, taken apart, and the key that signed it.
struct Forge {
    test: TestApp,
    pair: Arc<EcdsaKeyPair>,
    header: Value,
    claims: Value,
}

impl Forge {
    async fn open() -> Self {
        let test = TestApp::start().await;
        let answer = test.grant(&test.admin.id, &test.admin.secret).await.expect(200);
        let token = answer.text_at("/access_token");
        let (kid, pair) = test.signing_keys().await.remove(0);
        let forge =
            Self { test, pair: Arc::new(pair), header: jwt::header(&token), claims: jwt::claims(&token) };
        assert_eq!(forge.header["kid"], kid);
        // Otherwise every test here would pass for the wrong reason.
        forge.test.get(&forge.signed(&forge.header, &forge.claims), "Project").await.expect(200);
        forge
    }

    fn signed(&self, header: &Value, claims: &Value) -> As {
        let sign = |message: &[u8]| self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        As::Bearer(jwt::forge(header, claims, sign))
    }

    async fn refuses(&self, token: As) {
        self.test.get(&token, "Project").await.refused(401, "login");
        self.test.request(&token, Method::GET, "auth/me").send().await.refused(401, "login");
        self.test.request(&token, Method::GET, "oauth2/userinfo").send().await.refused(401, "login");
    }

    async fn refuses_claim(&self, name: &str, value: Value) {
        let mut claims = self.claims.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().shift_remove(name);
        } else {
            claims[name] = value;
        }
        self.refuses(self.signed(&self.header, &claims)).await;
    }

    fn with_header(&self, name: &str, value: Value) -> Value {
        let mut header = self.header.clone();
        header[name] = value;
        header
    }

    async fn refuses_header(&self, name: &str, value: Value) {
        self.refuses(self.signed(&self.with_header(name, value), &self.claims)).await;
    }

    fn now(&self) -> i64 {
        self.test.clock.now().epoch_seconds()
    }
}

#[tokio::test]
async fn an_unsigned_token() {
    let forge = Forge::open().await;
    for name in ["none", "None", "NONE", ""] {
        let token = jwt::forge(&forge.with_header("alg", json!(name)), &forge.claims, |_| Vec::new());
        forge.refuses(As::Bearer(token.clone())).await;
        forge.refuses(As::Bearer(token.trim_end_matches('.').to_owned())).await;
    }
}

#[tokio::test]
async fn a_token_by_another_key_under_our_kid() {
    let forge = Forge::open().await;
    forge.refuses(As::Bearer(jwt::forge(&forge.header, &forge.claims, jwt::sign_by_another_key))).await;
}

#[tokio::test]
async fn a_token_under_a_kid_that_is_not_there() {
    let forge = Forge::open().await;
    for kid in ["0198c2f0-1111-4222-8333-944455566677", "", "../../etc/passwd", "' OR 1=1 --"] {
        forge.refuses_header("kid", json!(kid)).await;
    }
    let mut header = forge.header.clone();
    header.as_object_mut().unwrap().shift_remove("kid");
    forge.refuses(forge.signed(&header, &forge.claims)).await;
}

#[tokio::test]
async fn a_token_that_brings_its_own_key() {
    let forge = Forge::open().await;
    let jwks = forge.test.request(As::Anonymous, Method::GET, ".well-known/jwks.json").send().await.json();
    for (name, value) in [
        ("jwk", jwks["keys"][0].clone()),
        ("jku", json!("https://elsewhere.example.test/jwks.json")),
        ("x5u", json!("https://elsewhere.example.test/key.pem")),
    ] {
        let header = forge.with_header(name, value);
        forge.refuses(As::Bearer(jwt::forge(&header, &forge.claims, jwt::sign_by_another_key))).await;
    }
}

/// Keys of every algorithm are published; the public part of each is tried as a secret.
#[tokio::test]
async fn a_token_signed_by_hmac_with_a_public_key() {
    let mut forge = Forge::open().await;
    for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Rs256] {
        let schedule = Schedule::new(algorithm, SIGNING_KEY_LIFETIME_DEFAULT).unwrap();
        let test = forge.test.restart_configured(|config| config.signing = schedule).await;
        test.clock.advance(SIGNING_KEY_PUBLISH_AHEAD);
        forge = Forge { test, ..forge };
    }
    let jwks = forge.test.request(As::Anonymous, Method::GET, ".well-known/jwks.json").send().await.json();
    let keys = jwks["keys"].as_array().unwrap();
    let mut kinds: Vec<&str> = keys.iter().map(|key| key["kty"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["EC", "OKP", "RSA"]);
    for jwk in keys {
        let raw = |name: &str| jwk[name].as_str().map(|text| URL_SAFE_NO_PAD.decode(text).unwrap());
        let mut secrets: Vec<Vec<u8>> = ["x", "y", "n"].into_iter().filter_map(raw).collect();
        secrets.extend([jwk.to_string().into_bytes(), json!({ "keys": [jwk] }).to_string().into_bytes()]);
        for secret in secrets {
            for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
                let sign =
                    |text: &[u8]| hmac::sign(&hmac::Key::new(algorithm, &secret), text).as_ref().to_vec();
                let header = json!({ "alg": name, "typ": "at+jwt", "kid": jwk["kid"] });
                forge.refuses(As::Bearer(jwt::forge(&header, &forge.claims, sign))).await;
            }
        }
    }
}

#[tokio::test]
async fn a_token_under_the_kid_of_another_of_our_keys() {
    let forge = Forge::open().await;
    forge.test.clock.advance(SIGNING_KEY_LIFETIME_DEFAULT);
    forge.test.app.renew_signing_keys().await;
    forge.test.clock.advance(SIGNING_KEY_PUBLISH_AHEAD);
    let keys = forge.test.signing_keys().await;
    assert_eq!(keys.len(), 2);
    let mut claims = forge.claims.clone();
    claims["exp"] = json!(forge.now() + 60);
    for (kid, _) in &keys {
        for (signer, pair) in &keys {
            let header = forge.with_header("kid", json!(kid));
            let sign = |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
            let token = As::Bearer(jwt::forge(&header, &claims, sign));
            // The key that no longer signs verifies what it signed.
            if kid == signer {
                forge.test.get(&token, "Project").await.expect(200);
            } else {
                forge.refuses(token).await;
            }
        }
    }
}

#[tokio::test]
async fn a_token_signed_by_hmac_with_the_encoded_public_key() {
    let forge = Forge::open().await;
    let jwks = forge.test.request(As::Anonymous, Method::GET, ".well-known/jwks.json").send().await.json();
    let jwk = &jwks["keys"][0];
    let point = jwt::point(jwk);
    // SubjectPublicKeyInfo of a P-256 key (RFC 5480 §2): a fixed head, and the point.
    let head = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let der = [head.as_slice(), &point].concat();
    for key in [point, der, jwk.to_string().into_bytes()] {
        let sign =
            |message: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message).as_ref().to_vec();
        forge
            .refuses(As::Bearer(jwt::forge(&forge.with_header("alg", json!("HS256")), &forge.claims, sign)))
            .await;
    }
}

#[tokio::test]
async fn a_token_that_names_another_algorithm() {
    let forge = Forge::open().await;
    for name in ["ES384", "RS256", "PS256", "EdDSA", "HS256", "es256"] {
        forge.refuses_header("alg", json!(name)).await;
    }
}

#[tokio::test]
async fn a_token_of_another_issuer() {
    let forge = Forge::open().await;
    for issuer in [json!("https://elsewhere.example.test/"), json!(""), Value::Null] {
        forge.refuses_claim("iss", issuer).await;
    }
}

#[tokio::test]
async fn a_token_for_another_audience() {
    let forge = Forge::open().await;
    for audience in [json!("https://elsewhere.example.test/"), json!([]), json!(""), Value::Null] {
        forge.refuses_claim("aud", audience).await;
    }
}

#[tokio::test]
async fn an_expired_token() {
    let forge = Forge::open().await;
    for expires in
        [json!(forge.now()), json!(forge.now() - 1), json!(0), json!(-1), json!("later"), Value::Null]
    {
        forge.refuses_claim("exp", expires).await;
    }
}

#[tokio::test]
async fn a_token_that_is_not_valid_yet() {
    let forge = Forge::open().await;
    for from in [json!(forge.now() + 1), json!(i64::MAX), Value::Null] {
        forge.refuses_claim("nbf", from).await;
    }
}

#[tokio::test]
async fn a_token_of_another_kind() {
    let forge = Forge::open().await;
    // An ID token is signed by the same key.
    for kind in ["JWT", "at+JWT2", "logout+jwt", ""] {
        forge.refuses_header("typ", json!(kind)).await;
    }
}

#[tokio::test]
async fn a_token_of_a_client_or_login_that_is_not_there() {
    let forge = Forge::open().await;
    let nobody = json!("0198c2f0-1111-4222-8333-944455566677");
    let mut claims = forge.claims.clone();
    for name in ["sub", "client_id"] {
        claims[name] = nobody.clone();
    }
    forge.refuses(forge.signed(&forge.header, &claims)).await;
    // Another subject than the client: a login, and there is none of that id.
    forge.refuses_claim("sub", nobody).await;
    forge.refuses_claim("client_id", json!("nobody")).await;
    for name in ["sub", "client_id", "login_id", "jti", "sid", "scope"] {
        forge.refuses_claim(name, Value::Null).await;
    }
}

#[tokio::test]
async fn a_signature_that_is_cut_empty_zero_or_in_another_form() {
    let forge = Forge::open().await;
    let sign = |message: &[u8]| forge.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    let as_der = |raw: &[u8]| {
        let integer = |bytes: &[u8]| {
            let pad: &[u8] = if bytes[0] & 0x80 == 0 { &[] } else { &[0] };
            let length = u8::try_from(bytes.len() + pad.len()).unwrap();
            [&[2, length], pad, bytes].concat()
        };
        let body = [integer(&raw[..32]), integer(&raw[32..])].concat();
        [&[0x30, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
    };
    let refuses = |signature: Vec<u8>| {
        forge.refuses(As::Bearer(jwt::forge(&forge.header, &forge.claims, |_| signature.clone())))
    };
    // What is signed is the same every time; only the signature's form is not.
    let genuine = jwt::forge(&forge.header, &forge.claims, |_| Vec::new());
    let genuine = sign(genuine.trim_end_matches('.').as_bytes());
    let longer = [genuine.as_slice(), &[0]].concat();
    for form in [genuine[..63].to_vec(), Vec::new(), vec![0; 64], as_der(&genuine), longer] {
        refuses(form).await;
    }
    let huge = format!("{}.{}.{}", "a".repeat(4000), "b".repeat(4000), "c".repeat(4000));
    forge.refuses(As::Bearer(huge)).await;
}
