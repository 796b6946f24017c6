//! People's passwords. Unlike a client secret, a password is chosen by a person and may be guessed, so
//! it is kept as an Argon2id hash, which is slow on purpose. What may be chosen follows NIST SP
//! 800-63B §5.1.1: a length, no rules of composition, and none of those that everybody tries.

use std::fmt;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::limits::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN};
use crate::random::Entropy;

/// Memory of one hash in KiB, passes and lanes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
/// What everybody tries first, among those that are long enough.
const COMMON: [&str; 16] = [
    "password",
    "password1",
    "password123",
    "passw0rd",
    "12345678",
    "123456789",
    "1234567890",
    "11111111",
    "00000000",
    "87654321",
    "qwertyui",
    "qwertyuiop",
    "qwerty123",
    "iloveyou",
    "abcd1234",
    "letmein1",
];

/// A password that somebody typed; wiped when dropped.
pub struct PlainPassword(Zeroizing<String>);

impl fmt::Debug for PlainPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a password cannot be chosen. Says nothing of the password itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// Fewer than [`PASSWORD_CHARS_MIN`] characters.
    #[error("needs at least {PASSWORD_CHARS_MIN} characters")]
    TooShort,
    /// More than [`PASSWORD_BYTES_MAX`] bytes.
    #[error("is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// One that everybody tries, or the person's own address.
    #[error("is one of those that are tried first: choose another")]
    Common,
}

impl PlainPassword {
    /// Takes what somebody typed. `None` if it is longer than any password can be.
    #[must_use]
    pub fn presented(text: Zeroizing<String>) -> Option<Self> {
        (text.len() <= PASSWORD_BYTES_MAX).then_some(Self(text))
    }

    /// Whether it may be chosen by the person with that address.
    pub fn check(&self, email: &str) -> Result<(), BadPassword> {
        if self.0.chars().count() < PASSWORD_CHARS_MIN {
            return Err(BadPassword::TooShort);
        }
        let lower = Zeroizing::new(self.0.to_lowercase());
        let local = email.split('@').next().unwrap_or_default();
        let is_own = *lower == email || (!local.is_empty() && *lower == local);
        if is_own || COMMON.contains(&lower.as_str()) {
            return Err(BadPassword::Common);
        }
        Ok(())
    }

    /// The hash to keep, as a PHC string. Slow on purpose.
    #[must_use]
    pub fn hash(&self, entropy: &dyn Entropy) -> Option<String> {
        let mut bytes = [0; SALT_BYTES];
        entropy.fill(&mut bytes);
        let salt = SaltString::encode_b64(&bytes).ok()?;
        Some(hasher()?.hash_password(self.0.as_bytes(), &salt).ok()?.to_string())
    }

    /// Whether it is the one that was hashed. Without a hash it costs the same, and is not. Slow on
    /// purpose.
    #[must_use]
    pub fn verify(&self, hash: Option<&str>) -> bool {
        let verifies = |hash: &str| {
            let hash = PasswordHash::new(hash).ok()?;
            hasher()?.verify_password(self.0.as_bytes(), &hash).ok()
        };
        let is_it = verifies(hash.unwrap_or(DUMMY)).is_some();
        is_it && hash.is_some()
    }
}

/// A hash of nothing that anybody can type, under the same parameters.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn hasher() -> Option<Argon2<'static>> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededEntropy;

    fn password(text: &str) -> PlainPassword {
        PlainPassword::presented(Zeroizing::new(text.to_owned())).unwrap()
    }

    #[test]
    fn a_password_is_known_again_and_no_other_is() {
        let hash = password("correct horse").hash(&SeededEntropy::new(1)).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(password("correct horse").verify(Some(&hash)));
        assert!(!password("correct horsf").verify(Some(&hash)));
        assert!(!password("correct horse").verify(None));
        assert!(!password("correct horse").verify(Some("not a hash")));
        let again = password("correct horse").hash(&SeededEntropy::new(2)).unwrap();
        assert_ne!(hash, again);
    }

    #[test]
    fn the_dummy_is_a_hash_that_is_computed() {
        let hash = PasswordHash::new(DUMMY).unwrap();
        assert_eq!(hash.params.get_decimal("m"), Some(MEMORY_KIB));
        assert_eq!(hash.hash.map(|hash| hash.len()), Some(32));
    }

    #[test]
    fn short_common_and_own_ones_cannot_be_chosen() {
        let check = |text: &str| password(text).check("ann.doe@example.test");
        assert_eq!(check("1234567"), Err(BadPassword::TooShort));
        assert_eq!(check("éééééééé"), Ok(()));
        for common in ["Password123", "qwertyuiop", "ann.doe@example.test"] {
            assert_eq!(check(common), Err(BadPassword::Common), "{common}");
        }
        assert!(PlainPassword::presented(Zeroizing::new("x".repeat(PASSWORD_BYTES_MAX + 1))).is_none());
        assert_eq!(format!("{:?}", password("correct horse")), "[redacted]");
    }
}
