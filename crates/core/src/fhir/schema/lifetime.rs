//! Token lifetimes as Medplum writes them: a number and a unit, such as `1h`. Read here once so
//! that a lifetime which was accepted on write always has a meaning at the token endpoint.

use std::time::Duration;

/// The shortest lifetime a client may ask for.
pub const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// The longest lifetime a client may ask for: ten years of 365 days.
pub const LIFETIME_MAX: Duration = Duration::from_hours(10 * 365 * 24);

/// Reads `1h`, `30m`, `7d`, `3600s`, `1500ms` or `2w`; whole numbers only.
///
/// `None` if the text has another form or lies outside [`LIFETIME_MIN`]..=[`LIFETIME_MAX`].
#[must_use]
pub fn parse_lifetime(text: &str) -> Option<Duration> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(unit_at)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return None,
    };
    let lifetime = Duration::from_millis(digits.parse::<u64>().ok()?.checked_mul(unit_ms)?);
    (LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime).then_some(lifetime)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units() {
        let seconds = |text| parse_lifetime(text).map(|lifetime| lifetime.as_secs());
        assert_eq!(seconds("1h"), Some(3600));
        assert_eq!(seconds("30m"), Some(1800));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("3600s"), Some(3600));
        assert_eq!(seconds("2w"), Some(1_209_600));
        assert_eq!(parse_lifetime("1500ms"), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn form_and_bounds() {
        for text in [
            "",
            "h",
            "1",
            "1 h",
            "-1h",
            "1.5h",
            "1H",
            "1y",
            "0s",
            "999ms",
            "3651d",
            "99999999999999999999s",
            "18446744073709551615w",
            "１h",
        ] {
            assert_eq!(parse_lifetime(text), None, "{text}");
        }
        assert_eq!(parse_lifetime("3650d"), Some(LIFETIME_MAX));
        assert_eq!(parse_lifetime("1000ms"), Some(LIFETIME_MIN));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[0-9]{0,25}(ms|s|m|h|d|w)") {
            if let Some(lifetime) = parse_lifetime(&text) {
                prop_assert!((LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime));
            }
        }
    }
}
