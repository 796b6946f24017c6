//! Names, as people read them on pages and in terminals. A hidden character can make a text look like another one. New
//! names may have none; hidden characters of older names are shown as escapes.

use std::borrow::Cow;
use std::fmt;

/// Why a text is no name for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It has a hidden character, which can change how the text around it looks.
    Hidden(char),
    /// It has only characters that cannot be seen.
    Invisible,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hidden(c) => write!(
                f,
                "A name has no control characters, no line breaks, no characters that set the direction of text and \
                 no fillers that cannot be seen; U+{:04X} is one: leave it out",
                u32::from(c)
            ),
            Self::Invisible => f.write_str("A name has at least one character that can be seen: add one"),
        }
    }
}

impl std::error::Error for BadName {}

/// Whether a character is a control character, a line or paragraph separator, one that sets the direction of text
/// (Unicode Standard Annex #9 §2), among them the deprecated ones, a filler without a width or a shape, or a tag. The
/// two joiners, U+200C and U+200D, are not: some scripts need them.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
        || matches!(
            c,
            '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{200b}'
                | '\u{2060}'..='\u{2065}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e00ff}'
        )
}

/// Whether a character shows by itself: not a space, a joiner or a variation selector.
fn is_visible(c: char) -> bool {
    let is_blank = matches!(
        c,
        '\u{34f}' | '\u{180b}'..='\u{180f}' | '\u{200c}' | '\u{200d}' | '\u{2800}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{e0100}'..='\u{e0fff}'
    );
    !(is_blank || c.is_whitespace() || is_hidden(c))
}

/// Checks a name that is about to be written. Whether a name may be empty or missing is decided elsewhere.
pub fn check(name: &str) -> Result<(), BadName> {
    if let Some(hidden) = name.chars().find(|c| is_hidden(*c)) {
        return Err(BadName::Hidden(hidden));
    }
    if name.is_empty() || name.chars().any(is_visible) { Ok(()) } else { Err(BadName::Invisible) }
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
        for good in [
            "Clinic 1",
            "Klinik für Kinder",
            "מרפאה",
            "\u{6cc}\u{200c}\u{62e}",
            "診療所",
            "O'Brien & Söhne",
            "\u{1f469}\u{200d}\u{2695}\u{fe0f}",
            "\u{845b}\u{e0100}",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
            assert_eq!(shown(good), good);
        }
        for bad in [
            '\0',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{61c}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{206a}',
            '\u{ad}',
            '\u{115f}',
            '\u{1160}',
            '\u{200b}',
            '\u{2060}',
            '\u{3164}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{e0000}',
            '\u{e0041}',
            '\u{e007f}',
        ] {
            let name = format!("Bank{bad}moc");
            assert_eq!(check(&name), Err(BadName::Hidden(bad)));
            assert_eq!(check(&bad.to_string()), Err(BadName::Hidden(bad)));
            assert_eq!(shown(&name), format!("Bank\\u{{{:x}}}moc", u32::from(bad)));
        }
        for unseen in
            [" ", "\u{200d}", "\u{200c}\u{200c}", "\u{a0}\u{3000}", "\u{2800}", "\u{fe0f}", "\u{34f}"]
        {
            assert_eq!(check(unseen), Err(BadName::Invisible), "{unseen:?}");
        }
        let text = BadName::Hidden('\u{202e}').to_string();
        assert!(text.contains("U+202E is one"), "{text}");
    }
}
