//! Webhooks as Standard Webhooks says (<https://www.standardwebhooks.com>, specification 1.0.0): what signs
//! them, and when one that failed is tried again.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::limits::{WEBHOOK_REST_MAX, WEBHOOK_RETRY_FIRST, WEBHOOK_RETRY_MAX, WEBHOOK_TRIED_FOR};
use crate::random::Entropy;
use crate::time::Timestamp;

const BYTES: usize = 32;
/// How the text of a signing secret begins.
pub const SIGNING_SECRET_PREFIX: &str = "whsec_";

/// What the deliveries to one webhook are signed with: 256 random bits.
pub struct SigningSecret(Zeroizing<[u8; BYTES]>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl SigningSecret {
    /// A new one.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; BYTES]);
        entropy.fill(bytes.as_mut());
        Self(bytes)
    }

    /// Takes the bytes as they are kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }

    /// The bytes, to be sealed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// The text that the receiver is told, once.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{SIGNING_SECRET_PREFIX}{}", STANDARD.encode(self.0.as_ref())))
    }

    /// The signature of one attempt, `v1,…`, over the id, the seconds of the attempt, and the body.
    #[must_use]
    pub fn sign(&self, id: &str, attempted: Timestamp, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_ref()));
        context.update(format!("{id}.{}.", attempted.epoch_seconds()).as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// When a delivery that failed for the `attempts`-th time is tried again; `None` if it is given up: then it was
/// tried for [`WEBHOOK_TRIED_FOR`]. The waits grow threefold, and each is a fifth longer or shorter by chance, so
/// that receivers who were away are not met by all at once.
#[must_use]
pub fn retry_at(
    happened: Timestamp,
    attempts: u32,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Option<Timestamp> {
    let wait = grown(3, attempts).min(WEBHOOK_RETRY_MAX);
    let mut byte = [0];
    entropy.fill(&mut byte);
    let due = now.plus(wait * 4 / 5 + wait * u32::from(byte[0]) * 2 / (5 * 255));
    (due <= happened.plus(WEBHOOK_TRIED_FOR)).then_some(due)
}

/// How long a webhook is left alone after that many failures in a row, whatever else waits for it.
#[must_use]
pub fn rest_after(failures: u32) -> Duration {
    grown(2, failures).min(WEBHOOK_REST_MAX)
}

fn grown(factor: u32, times: u32) -> Duration {
    WEBHOOK_RETRY_FIRST.saturating_mul(factor.saturating_pow(times.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededEntropy;

    /// The example of the specification's reference libraries.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let context = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let reference =
            hmac::sign(&context, b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}");
        assert_eq!(STANDARD.encode(reference), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");

        let secret = SigningSecret::generate(&SeededEntropy::new(1));
        let at = Timestamp::from_epoch_ms(1_614_265_330_999);
        let own = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret.bytes()),
            b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}",
        );
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b"{\"test\": 2432232314}");
        assert_eq!(signed, format!("v1,{}", STANDARD.encode(own)));
    }

    #[test]
    fn the_text_of_a_signing_secret_is_its_bytes_and_nothing_else_shows_them() {
        let secret = SigningSecret::generate(&SeededEntropy::new(1));
        let text = secret.reveal();
        let bytes = STANDARD.decode(text.strip_prefix(SIGNING_SECRET_PREFIX).unwrap()).unwrap();
        assert_eq!(bytes, secret.bytes());
        assert_eq!(SigningSecret::from_bytes(&bytes).unwrap().bytes(), secret.bytes());
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert!(SigningSecret::from_bytes(b"short").is_none());
    }

    #[test]
    fn a_delivery_is_tried_for_three_days_and_no_longer() {
        let entropy = SeededEntropy::new(2);
        let start = Timestamp::from_epoch_ms(0);
        let (mut now, mut attempts) = (start, 1);
        let mut waits = Vec::new();
        while let Some(due) = retry_at(start, attempts, now, &entropy) {
            waits.push(due.since(now));
            (now, attempts) = (due, attempts + 1);
        }
        assert!((15..=25).contains(&attempts), "{waits:?}");
        assert!(now.since(start) > WEBHOOK_TRIED_FOR / 4 * 3, "{waits:?}");
        assert!(waits[0] >= WEBHOOK_RETRY_FIRST * 4 / 5 && waits[0] <= WEBHOOK_RETRY_FIRST * 6 / 5);
        assert!(waits.iter().all(|wait| *wait <= WEBHOOK_RETRY_MAX * 6 / 5), "{waits:?}");
        assert_eq!(retry_at(start, u32::MAX, start.plus(WEBHOOK_TRIED_FOR), &entropy), None);
        assert_eq!((rest_after(1), rest_after(u32::MAX)), (WEBHOOK_RETRY_FIRST, WEBHOOK_REST_MAX));
    }
}
