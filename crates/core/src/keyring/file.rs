//! How a master key file begins and changes over its life: a key comes in, is put first, and the others stay where they
//! are, with their comments.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Keyring, MASTER_KEY_BYTES};
use crate::random::Entropy;

impl Keyring {
    /// The text of a new master key file with one fresh key.
    #[must_use]
    pub fn new_file(entropy: &dyn Entropy) -> Zeroizing<String> {
        let line = new_line(entropy);
        Zeroizing::new(format!(
            "# Keyrelay master keys: 32 bytes in base64, one a line. The first seals, all open.\n\
             # Whoever has this file and the database has every recoverable secret: back them up apart.\n{}\n",
            *line
        ))
    }

    /// The text of a master key file with a fresh key before all that it lists.
    #[must_use]
    pub fn with_new_first(text: &str, entropy: &dyn Entropy) -> Zeroizing<String> {
        insert_first(text, &new_line(entropy))
    }

    /// The text of a master key file with a fresh key after all that it lists: it opens, and does not seal.
    #[must_use]
    pub fn with_new_last(text: &str, entropy: &dyn Entropy) -> Zeroizing<String> {
        let fresh = new_line(entropy);
        lines(text.lines().chain([fresh.as_str()]))
    }

    /// The text of a master key file with its last key before all others.
    #[must_use]
    pub fn with_last_first(text: &str) -> Zeroizing<String> {
        let Some(at) = text.lines().enumerate().filter(|(_, line)| is_key(line)).last().map(|(at, _)| at)
        else {
            return Zeroizing::new(text.to_owned());
        };
        let last = text.lines().nth(at).unwrap_or_default();
        let others = text.lines().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| line);
        insert_first(&lines(others), last)
    }
}

/// A fresh key as a line of the file.
fn new_line(entropy: &dyn Entropy) -> Zeroizing<String> {
    let mut key = Zeroizing::new([0; MASTER_KEY_BYTES]);
    entropy.fill(key.as_mut());
    Zeroizing::new(STANDARD.encode(key.as_ref()))
}

fn is_key(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim().starts_with('#')
}

fn insert_first(text: &str, key: &str) -> Zeroizing<String> {
    let at = text.lines().take_while(|line| !is_key(line)).count();
    lines(text.lines().take(at).chain([key]).chain(text.lines().skip(at)))
}

/// Text of lines, in one piece of memory, so that no copy of a key is left behind.
fn lines<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Zeroizing<String> {
    let length = lines.clone().map(|line| line.len() + 1).sum();
    let mut text = Zeroizing::new(String::with_capacity(length));
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SeededEntropy;

    #[test]
    fn keys_come_in_and_are_put_first_and_comments_stay() {
        let one = Keyring::new_file(&SeededEntropy::new(1));
        let ids = |text: &str| Keyring::parse_file(text).unwrap().key_ids();
        let first = ids(&one)[0];
        let two = Keyring::with_new_last(&one, &SeededEntropy::new(2));
        let second = ids(&two)[1];
        assert_eq!(ids(&two), [first, second]);
        assert_eq!(ids(&Keyring::with_last_first(&two)), [second, first]);
        assert_eq!(ids(&Keyring::with_new_first(&one, &SeededEntropy::new(2))), [second, first]);
        let commented = format!("{}# the end\n", *two);
        let promoted = Keyring::with_last_first(&commented);
        assert_eq!(ids(&promoted), [second, first]);
        assert!(promoted.starts_with('#') && promoted.ends_with("# the end\n"), "{}", promoted.len());
        assert_eq!(ids(&Keyring::with_last_first(&one)), [first], "one key is first already");
    }
}
