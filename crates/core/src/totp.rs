//! The second factor: time-based one-time passwords (RFC 6238), as authenticator apps compute them:
//! HMAC-SHA-1, 30 seconds, six digits. A code is accepted for its own step and one beside it, and
//! a step only once.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::random::Entropy;
use crate::time::Timestamp;

/// How long a code is the current one (RFC 6238 §5.2).
const STEP: Duration = Duration::from_secs(30);
/// Steps before and after the current one whose codes are accepted: clocks differ.
const STEPS_BESIDE: i64 = 1;
const DIGITS: u32 = 6;
/// RFC 4226 §4 recommends 160 bits.
const KEY_BYTES: usize = 20;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What codes are computed from; wiped when dropped.
pub struct TotpKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for TotpKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TotpKey {
    /// A new key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        entropy.fill(&mut bytes);
        Self(bytes)
    }

    /// Takes a key as it was unsealed.
    #[must_use]
    pub const fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The key, to be sealed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The address that an authenticator app reads, as a link or from a picture of it.
    #[must_use]
    pub fn uri(&self, issuer: &str, account: &str) -> Zeroizing<String> {
        let (issuer, account) = (escape(issuer), escape(account));
        let secret = base32(&self.0);
        Zeroizing::new(format!("otpauth://totp/{issuer}:{account}?secret={}&issuer={issuer}", *secret))
    }

    /// The step whose code this is, if it may be accepted now and is later than the last one that was.
    #[must_use]
    pub fn accepts(&self, code: &str, now: Timestamp, last_step: Option<i64>) -> Option<i64> {
        let step_seconds = i64::try_from(STEP.as_secs()).unwrap_or(i64::MAX);
        let current = now.epoch_seconds().div_euclid(step_seconds);
        let steps = current - STEPS_BESIDE..=current + STEPS_BESIDE;
        // Every step is compared, so that the time does not tell which one it was.
        let matching = steps.filter(|step| bool::from(self.code(*step).as_bytes().ct_eq(code.as_bytes())));
        matching.fold(None, |_, step| Some(step)).filter(|step| last_step.is_none_or(|last| *step > last))
    }

    /// The code of a step (RFC 4226 §5.3).
    fn code(&self, step: i64) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let bytes = tag.as_ref();
        let offset = usize::from(bytes.last().copied().unwrap_or(0) & 0x0f);
        let word = bytes.get(offset..offset + 4).and_then(|four| <[u8; 4]>::try_from(four).ok());
        let number = u32::from_be_bytes(word.unwrap_or_default()) & 0x7fff_ffff;
        format!("{:06}", number % 10_u32.pow(DIGITS))
    }
}

fn base32(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 8 / 5 + 1));
    let (mut buffer, mut bits) = (0_u32, 0);
    for byte in bytes {
        buffer = buffer << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(buffer >> bits & 31) as usize]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(BASE32[(buffer << (5 - bits) & 31) as usize]));
    }
    text
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@') {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TotpKey {
        TotpKey::from_bytes(Zeroizing::new(b"12345678901234567890".to_vec()))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_epoch_ms(seconds * 1000)
    }

    /// RFC 6238, appendix B; the last six of its eight digits.
    #[test]
    fn the_vectors_of_the_standard() {
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(key().accepts(code, at(seconds), None), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_counts_for_a_step_beside_and_only_once() {
        let code = key().code(100);
        for (step, accepted) in [(98, false), (99, true), (100, true), (101, true), (102, false)] {
            assert_eq!(key().accepts(&code, at(step * 30), None).is_some(), accepted, "{step}");
        }
        assert_eq!(key().accepts(&code, at(3000), Some(99)), Some(100));
        assert_eq!(key().accepts(&code, at(3000), Some(100)), None);
        assert_eq!(key().accepts("", at(3000), None), None);
    }

    #[test]
    fn the_address_of_a_key_can_be_read_by_an_app() {
        let uri = key().uri("Clinic A&B", "ann@example.test");
        assert_eq!(
            *uri,
            "otpauth://totp/Clinic%20A%26B:ann@example.test?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Clinic%20A%26B"
        );
        assert_eq!(*base32(b"f"), "MY");
        assert_eq!(*base32(b"foobar"), "MZXW6YTBOI");
    }
}
