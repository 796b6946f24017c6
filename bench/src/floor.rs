//! The least HTTP program that does the work of a grant, kept in memory: what it reaches is the most any token
//! endpoint can reach on the same machine.
//!
//! The same HTTP stack, digest and signature as the product; no database, no log, no limits, one client. With
//! [`OneQuery`] it reads the client of each request from the product's own database first, as a program does that has
//! no group reads.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use aws_lc_rs::{hmac, rand};
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::one_query::OneQuery;

/// The only client the floor knows without a database.
pub const CLIENT_ID: &str = "5f0c4f0e-6a0b-4d1c-9c86-0d1f5e1f7a11";
/// Its secret, as long as one the product makes. It opens nothing: it exists to be digested.
pub const CLIENT_SECRET: &str = "krs_0000000000000000000000000000000000000000000000000";

const ISSUER: &str = "http://127.0.0.1:8103/";
const LIFETIME_SECONDS: u64 = 3600;
const PROFILE: &str = "ClientApplication/5f0c4f0e-6a0b-4d1c-9c86-0d1f5e1f7a11";
const PROJECT: &str = "Project/0b9c8d1e-2f3a-4b5c-8d6e-7f8091a2b3c4";
const SCOPE: &str = "openid";
const SLOT: &str = "d3c2b1a0-9f8e-4d7c-b6a5-948372615048";

#[derive(Deserialize)]
struct Form<'a> {
    #[serde(borrow)]
    grant_type: Cow<'a, str>,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    #[serde(borrow)]
    client_secret: Cow<'a, str>,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    login_id: &'a str,
    username: &'a str,
    scope: &'a str,
    profile: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    sid: &'a str,
}

#[derive(Serialize)]
struct Reference<'a> {
    reference: &'a str,
    display: &'a str,
}

#[derive(Serialize)]
struct Granted<'a> {
    token_type: &'a str,
    expires_in: u64,
    scope: &'a str,
    access_token: &'a str,
    project: Reference<'a>,
    profile: Reference<'a>,
}

struct Floor {
    pepper: hmac::Key,
    digest: hmac::Tag,
    signing_key: EcdsaKeyPair,
    random: SystemRandom,
    header: String,
    database: Option<OneQuery>,
}

/// The routes: `POST /oauth2/token` and `GET /healthcheck`.
///
/// # Errors
/// When no key can be made.
pub fn router(database: Option<OneQuery>) -> Result<Router> {
    let random = SystemRandom::new();
    let pepper = hmac::Key::generate(hmac::HMAC_SHA256, &random).ok().context("making the pepper")?;
    let signing_key =
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("making the signing key")?;
    let floor = Arc::new(Floor {
        digest: hmac::sign(&pepper, CLIENT_SECRET.as_bytes()),
        pepper,
        signing_key,
        random,
        database,
        header: BASE64
            .encode(r#"{"alg":"ES256","kid":"8c1f0d6e-3b5a-4a7e-9d2c-1e0f9a8b7c6d","typ":"at+jwt"}"#),
    });
    Ok(Router::new()
        .route("/healthcheck", get(async || "ok"))
        .route("/oauth2/token", post(async move |body: Bytes| floor.answer(&body).await)))
}

impl Floor {
    async fn answer(&self, body: &[u8]) -> Response {
        let Ok(form) = serde_urlencoded::from_bytes::<Form<'_>>(body) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        if form.grant_type != "client_credentials" {
            return StatusCode::BAD_REQUEST.into_response();
        }
        let is_known = match &self.database {
            // The product's digests are made with a pepper of its own, so every client has the one secret here.
            Some(database) => database.read(&form.client_id).await.is_ok(),
            None => form.client_id == CLIENT_ID,
        };
        // Both are looked at before either decides; `verify` compares in constant time.
        let matches = hmac::verify(&self.pepper, form.client_secret.as_bytes(), self.digest.as_ref()).is_ok();
        if !(is_known && matches) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        match self.grant(&form.client_id) {
            Ok(json) => {
                ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json)
                    .into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }

    fn grant(&self, client_id: &str) -> Result<Vec<u8>> {
        let [login_id, jti] = random_ids()?;
        let now = clock::unix_seconds();
        let claims = serde_json::to_vec(&Claims {
            iss: ISSUER,
            sub: client_id,
            aud: ISSUER,
            client_id,
            login_id: &login_id,
            username: client_id,
            scope: SCOPE,
            profile: PROFILE,
            iat: now,
            nbf: now,
            exp: now + LIFETIME_SECONDS,
            jti: &jti,
            sid: SLOT,
        })?;
        let mut token = String::with_capacity(1024);
        token.push_str(&self.header);
        token.push('.');
        BASE64.encode_string(claims, &mut token);
        let signature = self.signing_key.sign(&self.random, token.as_bytes()).ok().context("signing")?;
        token.push('.');
        BASE64.encode_string(signature, &mut token);
        Ok(serde_json::to_vec(&Granted {
            token_type: "Bearer",
            expires_in: LIFETIME_SECONDS,
            scope: SCOPE,
            access_token: &token,
            project: Reference { reference: PROJECT, display: "Super Admin" },
            profile: Reference { reference: PROFILE, display: "bench" },
        })?)
    }
}

/// Two random ids in the form of UUIDs, from one call to the generator.
#[allow(
    clippy::disallowed_methods,
    reason = "the floor is measured, not tested for repeatable runs; this is its only randomness"
)]
fn random_ids() -> Result<[String; 2]> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok().context("no randomness")?;
    let (first, second) = bytes.split_at(16);
    Ok([uuid(first), uuid(second)])
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{self, Target};

    #[test]
    fn an_id_has_the_form_of_a_uuid() {
        assert_eq!(uuid(&[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    }

    /// The floor on a free port; its thread ends with the test process.
    fn serve() -> Result<Target> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let target = Target::new(listener.local_addr()?)?;
        let router = router(None)?;
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await?;
                Ok(())
            })
        });
        Ok(target)
    }

    fn ask(target: Target, secret: &str) -> Result<http::Answer> {
        let body = format!("grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={secret}");
        http::request(target, "POST", "/oauth2/token", &[], body.as_bytes())
    }

    #[test]
    fn a_grant_has_the_fields_and_claims_of_the_products() -> Result<()> {
        let answer: serde_json::Map<String, serde_json::Value> = ask(serve()?, CLIENT_SECRET)?.json(200)?;
        let mut fields: Vec<&str> = answer.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["access_token", "expires_in", "profile", "project", "scope", "token_type"]);
        let token = answer["access_token"].as_str().context("a token")?;
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(BASE64.decode(parts[2])?.len(), 64, "an ES256 signature");
        let claims: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&BASE64.decode(parts[1])?)?;
        let mut names: Vec<&str> = claims.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names.join(" "),
            "aud client_id exp iat iss jti login_id nbf profile scope sid sub username"
        );
        Ok(())
    }

    #[test]
    fn another_secret_is_refused() -> Result<()> {
        assert_eq!(ask(serve()?, "krs_1")?.status, 401);
        Ok(())
    }

    #[test]
    fn the_secret_is_as_long_as_a_real_one() {
        assert_eq!(CLIENT_SECRET.len(), "krs_".len() + 43 + 6);
    }
}
