//! A client secret's value, and the only module that can lay it open. A [`PlainSecret`] has no
//! `Display`, no `Serialize` and no `==`; its `Debug` prints `[redacted]`; its memory is wiped.
//! What is kept instead is a [`SecretDigest`], which proves a value without holding it.

use std::borrow::Cow;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::limits::SECRET_BYTES_MAX;
use crate::random::Entropy;

/// What every generated secret starts with, so that scanners can find a leaked one.
pub const PREFIX: &str = "krs_";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62⁴³ > 2²⁵⁶ > 62⁴².
const VALUE_CHARS: usize = 43;
/// 62⁶ > 2³².
const CHECKSUM_CHARS: usize = 6;

/// The value of a client secret (RFC 6749 §2.3.1).
pub struct PlainSecret(SecretString);

/// Why a text cannot be a client secret. Says nothing of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASecret {
    /// The text was empty.
    #[error("is empty")]
    Empty,
    /// The text was longer than [`SECRET_BYTES_MAX`].
    #[error("is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// The text had a control character, which no header and no form can carry safely.
    #[error("contains a control character")]
    ControlCharacter,
}

impl PlainSecret {
    /// A new secret of 256 random bits: `krs_`, 43 characters of base62, and a checksum of 6.
    ///
    /// RFC 6749 §10.10 asks for a guessing probability of at most 2⁻¹²⁸.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bits = Zeroizing::new([0; 32]);
        entropy.fill(bits.as_mut());
        let mut text = String::with_capacity(PREFIX.len() + VALUE_CHARS + CHECKSUM_CHARS);
        text.push_str(PREFIX);
        push_base62(&mut text, &bits);
        let checksum = checksum(&text);
        text.push_str(&checksum);
        Self(text.into())
    }

    /// A value of another kind that was made here; see [`crate::ticket`].
    pub(crate) fn made(text: &str) -> Self {
        Self(text.into())
    }

    /// Takes a token that somebody sent, of whatever length: its reader has a bound of its own.
    #[must_use]
    pub fn token(text: &Zeroizing<String>) -> Self {
        Self(text.as_str().into())
    }

    /// Takes a value that a client or an admin sent.
    pub fn presented(text: impl Into<Zeroizing<String>>) -> Result<Self, NotASecret> {
        let text = text.into();
        if text.is_empty() {
            return Err(NotASecret::Empty);
        }
        if text.len() > SECRET_BYTES_MAX {
            return Err(NotASecret::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(NotASecret::ControlCharacter);
        }
        Ok(Self(text.as_str().into()))
    }

    /// Lays the value open, to hand it to the client it belongs to. Every caller is a place where a
    /// secret can leak: keep them few.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// A second copy of the value. Named, not `Clone`, so that copies are easy to find.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether the value claims to be one of ours but its checksum is wrong: a mangled or invented
    /// value, which can be refused without asking the database.
    #[must_use]
    pub fn is_garbled(&self) -> bool {
        let text = self.reveal();
        text.starts_with(PREFIX)
            && text
                .len()
                .checked_sub(CHECKSUM_CHARS)
                .and_then(|at| text.split_at_checked(at))
                .is_none_or(|(body, end)| body.len() != PREFIX.len() + VALUE_CHARS || checksum(body) != end)
    }

    /// Whether the value is a text that is no secret, such as an id.
    #[must_use]
    pub fn is(&self, public: &str) -> bool {
        self.reveal().as_bytes().ct_eq(public.as_bytes()).into()
    }

    /// Whether another one has the same value, compared in constant time.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.is(other.reveal())
    }

    /// How many characters the value has.
    #[must_use]
    pub fn chars(&self) -> usize {
        self.reveal().chars().count()
    }
}

impl fmt::Debug for PlainSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A keyed digest of a secret: enough to verify it, useless without the key.
#[derive(Clone)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// Takes a digest as the keyring computed it or a database column holds it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest for a database column.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in constant time.
    #[must_use]
    pub fn matches(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

/// Writes 32 bytes as 43 characters, most significant first.
fn push_base62(text: &mut String, bits: &[u8; 32]) {
    let mut number = Zeroizing::new(*bits);
    let mut digits = Zeroizing::new([0_u8; VALUE_CHARS]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let dividend = remainder << 8 | u32::from(*byte);
            *byte = u8::try_from(dividend / 62).unwrap_or_default();
            remainder = dividend % 62;
        }
        *digit = BASE62[remainder as usize];
    }
    text.extend(digits.iter().map(|digit| char::from(*digit)));
}

/// The CRC-32 of `body` as six characters.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [0_u8; CHECKSUM_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// A text without the secrets of ours that somebody put where they do not belong, such as in the name of a
/// parameter: for what is told of wrong input. A value that an admin chose cannot be told from any other word.
#[must_use]
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut pieces = text.split(PREFIX);
    let Some(first) = pieces.next().filter(|first| first.len() < text.len()) else { return text.into() };
    let shown = pieces.fold(first.to_owned(), |shown, piece| {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let value = if rest.len() < piece.len() { "…" } else { "" };
        shown + PREFIX + value + rest
    });
    shown.into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::random::SeededEntropy;

    #[test]
    fn a_text_is_told_without_the_secrets_in_it() {
        let secret = PlainSecret::generate(&SeededEntropy::new(1));
        let told = |text: &str| without_secrets(text).into_owned();
        let value = secret.reveal();
        assert_eq!(
            told(&format!("the key '{value}' is given twice: {value}")),
            "the key 'krs_…' is given twice: krs_…"
        );
        assert_eq!(told(value), "krs_…");
        for text in ["", "a value begins with krs_", "name: give a string"] {
            assert_eq!(told(text), text);
        }
    }

    #[test]
    fn a_generated_secret_has_prefix_length_and_checksum() {
        let secret = PlainSecret::generate(&SeededEntropy::new(1));
        assert_eq!(secret.chars(), 53);
        assert!(secret.reveal().starts_with("krs_"));
        assert!(!secret.is_garbled());
    }

    #[test]
    fn the_whole_range_of_256_bits_fits() {
        let mut text = String::new();
        push_base62(&mut text, &[0xff; 32]);
        assert_eq!(text, "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1");
        let mut zero = String::new();
        push_base62(&mut zero, &[0; 32]);
        assert_eq!(zero, "0".repeat(43));
    }

    #[test]
    fn no_two_secrets_are_alike() {
        let entropy = SeededEntropy::new(2);
        let all: HashSet<String> =
            (0..1000).map(|_| PlainSecret::generate(&entropy).reveal().to_owned()).collect();
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn one_changed_character_is_garbled_and_a_foreign_secret_is_not() {
        let text = PlainSecret::generate(&SeededEntropy::new(3)).reveal().to_owned();
        for at in 4..text.len() {
            let mut changed = text.clone();
            let other = if changed.as_bytes()[at] == b'x' { "y" } else { "x" };
            changed.replace_range(at..=at, other);
            assert!(PlainSecret::presented(changed).unwrap().is_garbled(), "at {at}");
        }
        assert!(PlainSecret::presented("krs_".to_owned()).unwrap().is_garbled());
        assert!(PlainSecret::presented("krs_é€".to_owned()).unwrap().is_garbled());
        assert!(!PlainSecret::presented("b4f0a7e2-of-another-system".to_owned()).unwrap().is_garbled());
    }

    #[test]
    fn two_are_the_same_by_every_character() {
        let secret = |text: &str| PlainSecret::presented(text.to_owned()).unwrap();
        assert!(secret("abc").is_same_as(&secret("abc")));
        for other in ["abd", "ab", "abcd"] {
            assert!(!secret("abc").is_same_as(&secret(other)), "{other}");
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let entropy = SeededEntropy::new(4);
        assert_eq!(format!("{:?}", PlainSecret::generate(&entropy)), "[redacted]");
        assert_eq!(format!("{:?}", SecretDigest::from_bytes([7; 32])), "[digest]");
    }

    #[test]
    fn empty_long_and_control_characters_are_no_secrets() {
        let error = |text: &str| PlainSecret::presented(text.to_owned()).unwrap_err();
        assert_eq!(error(""), NotASecret::Empty);
        assert_eq!(error(&"x".repeat(SECRET_BYTES_MAX + 1)), NotASecret::TooLong);
        assert_eq!(error("a\u{0}b"), NotASecret::ControlCharacter);
        assert_eq!(error("a\r\nb"), NotASecret::ControlCharacter);
    }

    proptest! {
        #[test]
        fn base62_keeps_the_order_of_numbers(a: [u8; 32], b: [u8; 32]) {
            let (mut x, mut y) = (String::new(), String::new());
            push_base62(&mut x, &a);
            push_base62(&mut y, &b);
            prop_assert_eq!(a.cmp(&b), x.cmp(&y));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            if let Ok(secret) = PlainSecret::presented(text) {
                let _ = secret.is_garbled();
            }
        }
    }
}
