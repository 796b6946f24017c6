//! Clients that prove themselves by keys (`private_key_jwt`): every rule an assertion must keep, and
//! that each is accepted once.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA384, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, As, Credentials, TestApp};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A key that a client signs with.
pub enum Key {
    Es384(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs384(RsaKeyPair),
}

impl Key {
    pub fn es384() -> Self {
        Self::Es384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Es384(_) => "ES384",
            Self::EdDsa(_) => "EdDSA",
            Self::Rs384(_) => "RS384",
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es384(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(48);
                json!({ "kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y), "kid": kid, "use": "sig" })
            }
            Self::EdDsa(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()), "kid": kid })
            }
            Self::Rs384(pair) => {
                // RSAPublicKey (RFC 8017, A.1.1): heads of 9 bytes, the modulus, and the exponent 65537.
                let modulus = &pair.public_key().as_ref()[9..9 + 256];
                json!({ "kty": "RSA", "n": encode(modulus), "e": "AQAB", "kid": kid, "alg": "RS384" })
            }
        }
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(header), encode(claims));
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es384(pair) => pair.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Self::EdDsa(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
            Self::Rs384(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA384, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub fn claims(test: &TestApp, client: &str, jti: &str) -> Value {
    json!({
        "iss": client,
        "sub": client,
        "aud": format!("http://{}/oauth2/token", test.address),
        "exp": test.clock.now().epoch_seconds() + 300,
        "jti": jti,
    })
}

pub async fn publish(test: &TestApp, client: &Credentials, keys: &[Value]) {
    let set = json!({ "keys": keys }).to_string();
    let patch = json!([{ "op": "add", "path": "/jwks", "value": set }]);
    test.patch(&test.admin, &client.path(), &patch).await.expect(200);
}

pub async fn present(test: &TestApp, assertion: &str) -> Answer {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion),
    ];
    test.token(As::Anonymous, &form).await
}

#[track_caller]
pub fn refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.text);
    assert_eq!(answer.text_at("/error"), "invalid_client", "{what}");
}

pub fn header(key: &Key) -> Value {
    json!({ "alg": key.algorithm(), "kid": "k1", "typ": "JWT" })
}

#[tokio::test]
async fn each_kind_of_key_lets_a_client_in_beside_its_secret() {
    let test = TestApp::start().await;
    let member = test.member.clone();
    for (n, key) in [
        Key::es384(),
        Key::EdDsa(Ed25519KeyPair::generate().unwrap()),
        Key::Rs384(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        publish(&test, &member, &[key.jwk("k1")]).await;
        let assertion = key.sign(&header(&key), &claims(&test, &member.id, &format!("j{n}")));
        let answer = present(&test, &assertion).await.expect(200);
        let bearer = As::Bearer(answer.text_at("/access_token"));
        test.get(&bearer, "Project").await.expect(200);
        assert!(test.lets_in(&member.id, &member.secret).await);
    }
    let metrics = test.request(As::Anonymous, Method::GET, "metrics").send().await.expect(200);
    assert!(metrics.text.contains("secret_uses_total{slot=\"key\"} 3"), "{}", metrics.text);
}

/// Of a client on its way from a secret to keys, and from one key to the next, it can be seen when the
/// last use of each was.
#[tokio::test]
async fn each_key_is_counted_for_itself_like_a_secret() {
    let test = TestApp::start().await;
    let (member, old, new) = (test.member.clone(), Key::es384(), Key::es384());
    publish(&test, &member, &[old.jwk("k1"), new.jwk("k2")]).await;
    let grant = async |key: &Key, kid: &str, jti: &str| {
        let header = json!({ "alg": key.algorithm(), "kid": kid, "typ": "JWT" });
        let answer = present(&test, &key.sign(&header, &claims(&test, &member.id, jti))).await;
        As::Bearer(answer.expect(200).text_at("/access_token"))
    };
    let by_old = grant(&old, "k1", "1").await;
    let by_new = grant(&new, "k2", "2").await;
    for jti in ["3", "4"] {
        grant(&new, "k2", jti).await;
    }
    let by_secret = test.bearer(&member).await;
    for (token, uses) in [(&by_old, 1), (&by_new, 3), (&by_secret, 1)] {
        assert_eq!(test.uses(&member, token).await, uses);
    }
    // The use of a token is none of its proof, and a refused assertion is none either.
    test.get(&by_old, "Project").await.expect(200);
    refused(&present(&test, &old.sign(&header(&old), &claims(&test, &member.id, "1"))).await, "again");
    assert_eq!(test.uses(&member, &by_old).await, 1);
    // The same key is the same after it was published anew.
    publish(&test, &member, &[old.jwk("k1")]).await;
    grant(&old, "k1", "5").await;
    assert_eq!(test.uses(&member, &by_old).await, 2);
}

#[tokio::test]
async fn an_assertion_is_accepted_once_also_after_a_restart() {
    let mut test = TestApp::start().await;
    let (key, member) = (Key::es384(), test.member.clone());
    publish(&test, &member, &[key.jwk("k1")]).await;
    let assertion = key.sign(&header(&key), &claims(&test, &member.id, "once"));
    present(&test, &assertion).await.expect(200);
    refused(&present(&test, &assertion).await, "again");
    let base_url = format!("http://{}/", test.address);
    test = test.restart_as(&base_url).await;
    refused(&present(&test, &assertion).await, "after a restart");
}

#[tokio::test]
async fn what_an_assertion_says_must_hold() {
    let test = TestApp::start().await;
    let (key, member) = (Key::es384(), test.member.clone());
    publish(&test, &member, &[key.jwk("k1")]).await;
    let now = test.clock.now().epoch_seconds();
    let good = |jti: &str| claims(&test, &member.id, jti);
    for (n, (name, value)) in [
        ("iss", json!(test.admin.id)),
        ("sub", json!(test.admin.id)),
        ("aud", json!("https://elsewhere.example.test/oauth2/token")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("exp", json!(now)),
        ("exp", json!(now + 331)),
        ("exp", json!(i64::MAX)),
        ("exp", json!("soon")),
        ("nbf", json!(now + 31)),
        ("iat", json!(now + 31)),
        ("jti", json!("")),
        ("jti", json!("x".repeat(257))),
        ("jti", Value::Null),
    ]
    .into_iter()
    .enumerate()
    {
        let mut claims = good(&format!("j{n}"));
        claims[name] = value.clone();
        refused(&present(&test, &key.sign(&header(&key), &claims)).await, &format!("{name} {value}"));
    }
}

#[tokio::test]
async fn each_audience_of_an_assertion_must_be_this_server() {
    let test = TestApp::start().await;
    let (key, member) = (Key::es384(), test.member.clone());
    publish(&test, &member, &[key.jwk("k1")]).await;
    let base = format!("http://{}/", test.address);
    let url = |path: &str| format!("{base}{path}");
    let token = test.grant(&member.id, &member.secret).await.expect(200).text_at("/access_token");
    let asked = std::cell::Cell::new(0);
    let ask = async |endpoint: &str, aud: &Value| {
        asked.set(asked.get() + 1);
        let mut claims = claims(&test, &member.id, &format!("n{}", asked.get()));
        claims["aud"] = aud.clone();
        let assertion = key.sign(&header(&key), &claims);
        let form = [
            ("grant_type", "client_credentials"),
            ("token", token.as_str()),
            ("client_assertion_type", TYPE),
            ("client_assertion", &assertion),
        ];
        test.request(As::Anonymous, Method::POST, endpoint).form(&form).send().await.status.as_u16()
    };
    for endpoint in ["oauth2/token", "oauth2/introspect", "oauth2/revoke"] {
        for aud in [
            json!(base),
            json!([base]),
            json!(url("oauth2/token")),
            json!([url("oauth2/token"), base]),
            json!(url(endpoint)),
            json!([base, url("oauth2/token"), url(endpoint)]),
        ] {
            assert_eq!(ask(endpoint, &aud).await, 200, "{endpoint}: {aud}");
        }
        let upper = url(endpoint).replace("oauth2", "OAuth2");
        for aud in [
            json!([url("oauth2/token"), "https://elsewhere.example.test/"]),
            json!(["https://elsewhere.example.test/", base]),
            json!([base, 7]),
            json!([base, null]),
            json!([[base]]),
            json!({ "0": base }),
            json!([]),
            json!(base.trim_end_matches('/')),
            json!(format!("{base}/")),
            json!(url(&format!("{endpoint}/"))),
            json!(format!("{}?x", url(endpoint))),
            json!(upper),
            json!(url("oauth2/register")),
            json!(url("")[..10]),
        ] {
            assert_eq!(ask(endpoint, &aud).await, 401, "{endpoint}: {aud}");
        }
    }
    // Another endpoint than the one that is called is not meant, but for the token endpoint.
    assert_eq!(ask("oauth2/token", &json!(url("oauth2/introspect"))).await, 401);
    assert_eq!(ask("oauth2/introspect", &json!(url("oauth2/revoke"))).await, 401);
}

#[tokio::test]
async fn only_a_published_key_of_the_client_signs_for_it() {
    let test = TestApp::start().await;
    let (key, other, member) = (Key::es384(), Key::es384(), test.member.clone());
    publish(&test, &member, &[key.jwk("k1")]).await;
    let claims = |jti: &str| claims(&test, &member.id, jti);
    refused(&present(&test, &other.sign(&header(&key), &claims("1"))).await, "another key");
    for (n, bad) in [
        json!({ "alg": "ES384", "kid": "k2" }),
        json!({ "alg": "ES256", "kid": "k1" }),
        json!({ "alg": "HS256", "kid": "k1" }),
        json!({ "alg": "none", "kid": "k1" }),
        // RFC 7515 §4.1.11: what the sender insists on must be known.
        json!({ "alg": "ES384", "kid": "k1", "crit": ["exp"], "exp": 1 }),
    ]
    .iter()
    .enumerate()
    {
        refused(&present(&test, &key.sign(bad, &claims(&format!("h{n}")))).await, &bad.to_string());
    }
    let nobody = json!({ "alg": "ES384", "kid": "k1" });
    let mut unknown = claims("u");
    for name in ["iss", "sub"] {
        unknown[name] = json!("0198c2f0-1111-4222-8333-944455566677");
    }
    refused(&present(&test, &key.sign(&nobody, &unknown)).await, "unknown client");
    refused(&present(&test, "nonsense").await, "nonsense");
    // Removed, a key is refused at once.
    let early = key.sign(&header(&key), &claims("early"));
    publish(&test, &member, &[other.jwk("k1")]).await;
    refused(&present(&test, &early).await, "removed key");
    present(&test, &other.sign(&header(&other), &claims("new"))).await.expect(200);
    // A client that is off is off for its keys too.
    let off = json!([{ "op": "add", "path": "/status", "value": "off" }]);
    test.patch(&test.admin, &member.path(), &off).await.expect(200);
    refused(&present(&test, &other.sign(&header(&other), &claims("off"))).await, "off");
}

#[tokio::test]
async fn an_assertion_comes_alone_and_in_the_body() {
    let test = TestApp::start().await;
    let (key, member) = (Key::es384(), test.member.clone());
    publish(&test, &member, &[key.jwk("k1")]).await;
    let assertion = key.sign(&header(&key), &claims(&test, &member.id, "1"));
    let base = [("grant_type", "client_credentials"), ("client_assertion", assertion.as_str())];
    let with = |more: &[(&'static str, String)]| {
        base.iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .chain(more.iter().cloned())
            .collect::<Vec<_>>()
    };
    for more in [
        vec![],
        vec![("client_assertion_type", "jwt".to_owned())],
        vec![("client_assertion_type", TYPE.to_owned()), ("client_secret", member.secret.clone())],
    ] {
        let form = with(&more);
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = test.token(As::Anonymous, &form).await;
        assert_eq!((answer.status.as_u16(), answer.text_at("/error").as_str()), (400, "invalid_request"));
    }
    let form = [("client_assertion_type", TYPE), base[0], base[1]];
    let answer = test.token(&member, &form).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    test.clock.advance(Duration::from_mins(6));
    refused(&present(&test, &assertion).await, "too late");
}

#[tokio::test]
async fn a_key_set_that_could_not_be_used_is_not_stored() {
    let test = TestApp::start().await;
    let key = Key::es384();
    let mut private = key.jwk("k1");
    private["d"] = json!("AAAA");
    let mut encryption = key.jwk("k1");
    encryption["use"] = json!("enc");
    let mut operations = key.jwk("k1");
    operations["key_ops"] = json!(["encrypt", "sign"]);
    for set in [
        "nonsense".to_owned(),
        "{}".to_owned(),
        json!({ "keys": [] }).to_string(),
        json!({ "keys": vec![key.jwk("k1"); 17] }).to_string(),
        json!({ "keys": [private] }).to_string(),
        json!({ "keys": [encryption] }).to_string(),
        json!({ "keys": [operations] }).to_string(),
        json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] }).to_string(),
        json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }).to_string(),
    ] {
        let patch = json!([{ "op": "add", "path": "/jwks", "value": set }]);
        test.patch(&test.admin, &test.member.path(), &patch).await.refused(400, "invalid");
    }
    for uri in ["javascript:alert(1)", "https://app.example.test/#x", "/relative", "https://a b/"] {
        let patch = json!([{ "op": "add", "path": "/redirectUris", "value": [uri] }]);
        test.patch(&test.admin, &test.member.path(), &patch).await.expect(400);
    }
}
