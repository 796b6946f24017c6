//! Where random bytes come from. [`SystemEntropy`] is the only place in the product that asks for
//! real ones; [`SeededEntropy`] gives the same bytes for the same seed (P8).

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hmac;
use uuid::Uuid;

use crate::time::Timestamp;

/// Gives random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}

/// A random UUID (RFC 9562 §5.4, version 4).
#[must_use]
pub fn random_uuid(entropy: &dyn Entropy) -> Uuid {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// A UUID that sorts by the time of its making (RFC 9562 §5.7, version 7), for things that are only
/// ever added: an index over them grows at one end.
#[must_use]
pub fn time_ordered_uuid(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut bytes = [0; 10];
    entropy.fill(&mut bytes);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(now.epoch_ms()).unwrap_or(0), &bytes).into_uuid()
}

/// The operating system's random bytes, by way of aws-lc's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for real randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("a system without random bytes cannot keep secrets");
    }
}

/// The same bytes for the same seed: HMAC-SHA-256 over a counter. For tests and simulations.
#[derive(Debug)]
pub struct SeededEntropy {
    key: hmac::Key,
    counter: AtomicU64,
}

impl SeededEntropy {
    /// The stream of bytes that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &seed.to_be_bytes()), counter: AtomicU64::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            let n = self.counter.fetch_add(1, Ordering::SeqCst);
            let block = hmac::sign(&self.key, &n.to_be_bytes());
            for (byte, random) in chunk.iter_mut().zip(block.as_ref()) {
                *byte = *random;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let (a, b) = (SeededEntropy::new(7), SeededEntropy::new(7));
        let first = random_uuid(&a);
        assert_eq!(first, random_uuid(&b));
        assert_ne!(first, random_uuid(&a));
        assert_eq!(first.get_version_num(), 4);
    }
}
