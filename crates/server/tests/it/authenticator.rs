//! An authenticator app, by its own reckoning.

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, Key, sign};
use keyrelay_core::time::Clock;
use reqwest::Method;
use serde_json::json;

use crate::app::{As, TestApp};
use crate::people::json_post;

/// What codes are made from (RFC 6238).
pub struct Authenticator(Key);

impl Authenticator {
    /// Sets one up for a person who is logged in.
    pub async fn enrol(test: &TestApp, bearer: &As) -> Self {
        let this = Self::offered(test, bearer).await;
        json_post(test, bearer, "auth/mfa/enroll", &json!({ "token": this.code(test) })).await.expect(200);
        this
    }

    /// One that was offered to the person, and is not confirmed yet.
    pub async fn offered(test: &TestApp, bearer: &As) -> Self {
        let status = test.request(bearer, Method::GET, "auth/mfa/status").send().await.expect(200);
        let uri = status.text_at("/enrollUri");
        let secret = uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
        Self(Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, &base32(secret)))
    }

    /// The code that it shows now.
    pub fn code(&self, test: &TestApp) -> String {
        self.code_at(test.clock.now().epoch_seconds() / 30)
    }

    /// A code that is not accepted now.
    pub fn wrong_code(&self, test: &TestApp) -> String {
        let now = test.clock.now().epoch_seconds() / 30;
        let near: Vec<String> = (now - 1..=now + 1).map(|step| self.code_at(step)).collect();
        let mut codes = (0..10).map(|n| format!("{n:06}"));
        codes.find(|code| !near.contains(code)).unwrap()
    }

    fn code_at(&self, step: i64) -> String {
        let tag = sign(&self.0, &step.to_be_bytes());
        let bytes = tag.as_ref();
        let offset = usize::from(bytes[19] & 0x0f);
        let word = u32::from_be_bytes(bytes[offset..offset + 4].try_into().unwrap());
        format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
    }
}

fn base32(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut buffer, mut bits) = (0_u32, 0);
    for b in text.bytes() {
        buffer = buffer << 5 | u32::from(if b.is_ascii_uppercase() { b - b'A' } else { b - b'2' + 26 });
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff).unwrap());
        }
        buffer &= (1 << bits) - 1;
    }
    bytes
}
