//! Naming things from requests in error texts: the nearest known name to a mistyped one, and a
//! bounded, escaped rendering of names. Shared by the schema, search and JSON errors, so that none
//! of them echoes unbounded or unprintable input.

/// Names longer than this are cut when shown, and are not compared with known names.
const NAME_SHOWN_CHARS_MAX: usize = 64;

/// Quotes a name taken from a request: control characters escaped, at most 64 characters.
pub(super) fn shown(name: &str) -> String {
    let mut text = String::from("'");
    for (position, character) in name.chars().enumerate() {
        if position == NAME_SHOWN_CHARS_MAX {
            text.push('…');
            break;
        }
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text.push('\'');
    text
}

/// The known name with the fewest single-character edits from `name`, if it is near enough to be
/// a likely typing mistake (a third of the length, at least two).
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().take(NAME_SHOWN_CHARS_MAX + 1).count();
    if length > NAME_SHOWN_CHARS_MAX {
        return None;
    }
    let allowed = (length / 3).max(2).min(length.saturating_sub(1));
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, ignoring ASCII case.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (above, left_char) in left.chars().enumerate() {
        let mut diagonal = above;
        let mut previous = above + 1;
        let mut next = vec![previous];
        for (right_char, over) in right.chars().zip(row.iter().skip(1)) {
            let substitution = diagonal + usize::from(!left_char.eq_ignore_ascii_case(&right_char));
            previous = substitution.min(previous + 1).min(over + 1);
            next.push(previous);
            diagonal = *over;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("Name", "name"), 0);
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = || ["status", "name", "_lastUpdated"].into_iter();
        assert_eq!(nearest("stauts", known()), Some("status"));
        assert_eq!(nearest("_lastupdate", known()), Some("_lastUpdated"));
        assert_eq!(nearest("color", known()), None);
        assert_eq!(nearest("", known()), None);
        assert_eq!(nearest(&"x".repeat(100_000), known()), None);
    }

    #[test]
    fn shown_names_are_bounded_and_printable() {
        assert_eq!(shown("a\nb"), "'a\\nb'");
        assert!(shown(&"é".repeat(1000)).chars().count() <= 67);
    }
}
