//! Names, as people read them on pages and in terminals. A hidden character can make a text look like another one. New
//! names may have none; hidden characters of older names are shown as escapes.

use std::borrow::Cow;
use std::fmt;

/// A name has a hidden character, which can change how the text around it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenCharacter(char);

impl fmt::Display for HiddenCharacter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "A name has no control characters, no line breaks and no characters that set the direction of text; \
             U+{:04X} is one: leave it out",
            u32::from(self.0)
        )
    }
}

impl std::error::Error for HiddenCharacter {}

/// Whether a character is a control character, a line or paragraph separator, or one that sets the direction of text
/// (Unicode Standard Annex #9 §2), among them the deprecated ones.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// Checks a name that is about to be written.
pub fn check(name: &str) -> Result<(), HiddenCharacter> {
    name.chars().find(|c| is_hidden(*c)).map_or(Ok(()), |c| Err(HiddenCharacter(c)))
}

/// A text for a terminal: hidden characters are written as escapes.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_scripts_are_taken_and_hidden_characters_are_not() {
        for good in
            ["Clinic 1", "Klinik für Kinder", "מרפאה", "\u{6cc}\u{200c}\u{62e}", "診療所", "O'Brien & Söhne"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
            assert_eq!(shown(good), good);
        }
        for bad in [
            '\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}', '\u{61c}', '\u{200e}',
            '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{206a}',
        ] {
            let name = format!("Bank{bad}moc");
            assert_eq!(check(&name), Err(HiddenCharacter(bad)));
            assert_eq!(shown(&name), format!("Bank\\u{{{:x}}}moc", u32::from(bad)));
        }
        let text = HiddenCharacter('\u{202e}').to_string();
        assert!(text.contains("U+202E is one"), "{text}");
    }
}
