//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a request that comes again under its key is
//! answered as before, and nothing is done twice. What an answer is kept under tells neither the key nor who gave
//! it, and what the request was is compared by a digest.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::id::MembershipId;
use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// A key that a caller gave. Two spellings name the same one: bare, and as a string of structured fields
/// (RFC 8941 §3.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// A header that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an Idempotency-Key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters, in quotes or without"
)]
pub struct NotAKey;

impl IdempotencyKey {
    /// Reads the value of the header.
    pub fn parse(header: &str) -> Result<Self, NotAKey> {
        let key = match header.strip_prefix('"') {
            Some(rest) => unquoted(rest).ok_or(NotAKey)?,
            None => header.to_owned(),
        };
        let is_key = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic());
        if is_key { Ok(Self(key)) } else { Err(NotAKey) }
    }
}

/// What is between the first quote, which is gone already, and the last character, which must be the other.
fn unquoted(rest: &str) -> Option<String> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(key),
            '\\' => key.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => key.push(c),
        }
    }
}

/// What an answer is kept under: a digest of who asked and of the key. The same key of somebody else is another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeptAnswerId([u8; 32]);

impl KeptAnswerId {
    /// Of a caller, by the membership that it acts under, and its key.
    #[must_use]
    pub fn of(caller: MembershipId, key: &IdempotencyKey) -> Self {
        Self(sha256([caller.uuid().as_bytes(), key.0.as_bytes()]))
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeptAnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeptAnswerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a request was. Its body has a secret in it, so this is kept only sealed: in clear, guesses at a secret
/// that somebody chose could be tried against it.
#[derive(Clone)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// Of what is asked for, of whom, and with what.
    #[must_use]
    pub fn of(operation: &str, of: &str, body: &[u8]) -> Self {
        Self(sha256([operation.as_bytes(), of.as_bytes(), body]))
    }

    /// Takes a digest as it was kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest, to be sealed.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether it is the same request.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for RequestDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Of parts that cannot run into each other, each with its length before it.
fn sha256<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_ascii_in_quotes_or_without() {
        let read = |header: &str| IdempotencyKey::parse(header).map(|key| key.0);
        let longest = "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX);
        for (header, key) in [
            ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            ("\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            ("a\"b\\", "a\"b\\"),
            (r#""a\"b\\""#, "a\"b\\"),
            ("!~", "!~"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(read(header).as_deref(), Ok(key), "{header}");
        }
        let longer = format!("{longest}k");
        for header in [
            "",
            " ",
            "a b",
            "\"\"",
            "\"a",
            "\"a\"b",
            "\"a\";b=1",
            "\"a b\"",
            r#""\a""#,
            "é",
            "a\u{7f}",
            &longer,
        ] {
            assert_eq!(read(header), Err(NotAKey), "{header}");
        }
    }

    #[test]
    fn one_key_of_two_callers_is_two() {
        let (key, other) = (IdempotencyKey::parse("k").unwrap(), IdempotencyKey::parse("l").unwrap());
        let somebody = MembershipId::from(uuid::Uuid::from_u128(1));
        let id = KeptAnswerId::of(MembershipId::NIL, &key);
        assert!(id == KeptAnswerId::of(MembershipId::NIL, &IdempotencyKey::parse("\"k\"").unwrap()));
        assert!(id != KeptAnswerId::of(somebody, &key) && id != KeptAnswerId::of(MembershipId::NIL, &other));
        assert_eq!(KeptAnswerId::parse(&id.to_string()), Some(id));
        assert_eq!(KeptAnswerId::parse("k"), None);
    }

    #[test]
    fn a_request_is_the_same_if_all_of_it_is() {
        let digest = RequestDigest::of("rotate-secret", "a", b"{}");
        assert!(digest.is(&RequestDigest::of("rotate-secret", "a", b"{}")));
        for other in
            [("undo-rotation", "a", "{}"), ("rotate-secret", "b", "{}"), ("rotate-secret", "a", "{ }")]
        {
            assert!(!digest.is(&RequestDigest::of(other.0, other.1, other.2.as_bytes())), "{other:?}");
        }
        assert!(!RequestDigest::of("a", "bc", b"").is(&RequestDigest::of("ab", "c", b"")));
    }
}
