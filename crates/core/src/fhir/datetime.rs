//! FHIR's `date`, `dateTime` and `instant` (R4 §2.24.0.1) as half-open ranges of epoch
//! milliseconds. A partial date such as `2024-05` is a range, not a point, which is what search
//! compares; the schema only needs to know whether the text is well formed. Both use this reader,
//! so a value that was accepted can always be indexed.

use time::{Date, Month};

/// How exactly a value was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precision {
    Year,
    Month,
    Day,
    Minute,
    Second,
    Millisecond,
}

/// What a text denotes: `low_ms ≤ t < high_ms`, in milliseconds since 1970-01-01T00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub low_ms: i64,
    pub high_ms: i64,
    pub precision: Precision,
    /// Whether a time zone was given; without one, UTC is assumed.
    pub zoned: bool,
}

const MS_PER_MINUTE: i64 = 60_000;
const MS_PER_DAY: i64 = 86_400_000;

/// Longer texts are refused unread: 35 characters hold nanoseconds and an offset.
const TEXT_BYTES_MAX: usize = 40;

/// A reader over the ASCII text; every method advances only when it succeeds.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn eat(&mut self, expected: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == expected => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        let mut number = 0;
        for byte in head {
            if !byte.is_ascii_digit() {
                return None;
            }
            number = number * 10 + i64::from(byte - b'0');
        }
        self.rest = rest;
        Some(number)
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Reads a date or date-time of any precision, with or without zone; `None` if it is not one.
pub(super) fn parse(text: &str) -> Option<Span> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let mut cursor = Cursor { rest: text.as_bytes() };
    let year = i32::try_from(cursor.digits(4)?).ok().filter(|y| *y > 0)?;
    if cursor.at_end() {
        let next = day_start(year + 1, 1, 1)?;
        return Some(whole(day_start(year, 1, 1)?, next, Precision::Year));
    }
    let month = dashed_pair(&mut cursor)?;
    if cursor.at_end() {
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        let low = day_start(year, month, 1)?;
        return Some(whole(low, day_start(next_year, next_month, 1)?, Precision::Month));
    }
    let day_ms = day_start(year, month, dashed_pair(&mut cursor)?)?;
    if cursor.at_end() {
        return Some(whole(day_ms, day_ms + MS_PER_DAY, Precision::Day));
    }
    if !cursor.eat(b'T') {
        return None;
    }
    let (time_ms, precision) = time_of_day(&mut cursor)?;
    let (offset_ms, zoned) = match zone(&mut cursor)? {
        Zone::Unwritten => (0, false),
        Zone::EastOfUtcMs(offset_ms) => (offset_ms, true),
    };
    if !cursor.at_end() {
        return None;
    }
    let low_ms = day_ms + time_ms - offset_ms;
    let width = match precision {
        Precision::Minute => MS_PER_MINUTE,
        Precision::Second => 1000,
        _ => 1,
    };
    Some(Span { low_ms, high_ms: low_ms + width, precision, zoned })
}

fn whole(low_ms: i64, high_ms: i64, precision: Precision) -> Span {
    Span { low_ms, high_ms, precision, zoned: false }
}

fn dashed_pair(cursor: &mut Cursor<'_>) -> Option<u8> {
    if !cursor.eat(b'-') {
        return None;
    }
    u8::try_from(cursor.digits(2)?).ok()
}

/// Year 10000 is allowed as the exclusive end of 9999.
fn day_start(year: i32, month: u8, day: u8) -> Option<i64> {
    let (year, extra_days) = if year == 10_000 { (9999, 365) } else { (year, 0) };
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    let epoch = Date::from_ordinal_date(1970, 1).ok()?;
    let days = i64::from(date.to_julian_day()) - i64::from(epoch.to_julian_day()) + extra_days;
    Some(days * MS_PER_DAY)
}

/// `hh:mm[:ss[.fff…]]`; digits beyond milliseconds are dropped. `:60` is a leap second.
fn time_of_day(cursor: &mut Cursor<'_>) -> Option<(i64, Precision)> {
    let hour = cursor.digits(2).filter(|hour| *hour < 24)?;
    if !cursor.eat(b':') {
        return None;
    }
    let minute = cursor.digits(2).filter(|minute| *minute < 60)?;
    let mut ms = (hour * 60 + minute) * MS_PER_MINUTE;
    if !cursor.eat(b':') {
        return Some((ms, Precision::Minute));
    }
    ms += cursor.digits(2).filter(|second| *second <= 60)? * 1000;
    if !cursor.eat(b'.') {
        return Some((ms, Precision::Second));
    }
    let mut scale = 100;
    ms += cursor.digits(1)? * scale;
    while let Some(digit) = cursor.digits(1) {
        scale /= 10;
        ms += digit * scale;
    }
    Some((ms, Precision::Millisecond))
}

/// The zone at the end of a time.
#[derive(Clone, Copy)]
enum Zone {
    Unwritten,
    EastOfUtcMs(i64),
}

/// `Z`, `±hh:mm` or nothing; `None` when it is malformed.
fn zone(cursor: &mut Cursor<'_>) -> Option<Zone> {
    if cursor.at_end() {
        return Some(Zone::Unwritten);
    }
    if cursor.eat(b'Z') {
        return Some(Zone::EastOfUtcMs(0));
    }
    let sign = if cursor.eat(b'-') {
        -1
    } else if cursor.eat(b'+') {
        1
    } else {
        return None;
    };
    let hours = cursor.digits(2)?;
    if !cursor.eat(b':') {
        return None;
    }
    let minutes = cursor.digits(2).filter(|minutes| *minutes < 60)?;
    let total = hours * 60 + minutes;
    (total <= 14 * 60).then_some(Zone::EastOfUtcMs(sign * total * MS_PER_MINUTE))
}

/// `date`: a day, month or year without time.
pub(super) fn is_date(text: &str) -> bool {
    parse(text).is_some_and(|span| span.precision <= Precision::Day)
}

/// `dateTime`: a date, or a time with seconds and zone.
pub(super) fn is_date_time(text: &str) -> bool {
    is_date(text) || is_instant(text)
}

/// `instant`: at least seconds, and a zone.
pub(super) fn is_instant(text: &str) -> bool {
    parse(text).is_some_and(|span| span.precision >= Precision::Second && span.zoned)
}

/// `time`: `hh:mm:ss[.fff]` without zone.
pub(super) fn is_time(text: &str) -> bool {
    let mut cursor = Cursor { rest: text.as_bytes() };
    text.len() <= TEXT_BYTES_MAX
        && time_of_day(&mut cursor).is_some_and(|(_, precision)| precision >= Precision::Second)
        && cursor.at_end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Option<(i64, i64)> {
        parse(text).map(|span| (span.low_ms, span.high_ms))
    }

    #[test]
    fn partial_dates_are_ranges() {
        assert_eq!(range("1970"), Some((0, 365 * MS_PER_DAY)));
        assert_eq!(range("1970-12"), Some((334 * MS_PER_DAY, 365 * MS_PER_DAY)));
        assert_eq!(range("1970-01-02"), Some((MS_PER_DAY, 2 * MS_PER_DAY)));
        assert_eq!(range("1970-01-01T00:01"), Some((60_000, 120_000)));
        assert_eq!(range("1970-01-01T00:00:01Z"), Some((1000, 2000)));
        assert_eq!(range("1970-01-01T00:00:01.5Z"), Some((1500, 1501)));
        assert_eq!(range("1970-01-01T02:00:00+02:00"), Some((0, 1000)));
        assert!(parse("9999").is_some());
        assert!(parse("9999-12").is_some());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0000",
            "197",
            "1970-13",
            "1970-02-30",
            "1970-1-1",
            "1970-01-01T",
            "1970-01-01T24:00",
            "1970-01-01T00:00:00+15:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01 00:00:00Z",
            "1970-01-01Z",
            "1970-01-01T00:00:61Z",
            "１９７０",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_type_has_its_precision() {
        assert!(is_date("2024-02-29") && !is_date("2023-02-29") && !is_date("2024-02-29T00:00:00Z"));
        assert!(is_date_time("2024") && is_date_time("2024-02-29T00:00:00.123456789Z"));
        assert!(!is_date_time("2024-02-29T00:00:00") && !is_date_time("2024-02-29T00:00Z"));
        assert!(is_instant("2016-12-31T23:59:60Z") && !is_instant("2024-02-29"));
        assert!(is_time("23:59:59.9") && !is_time("23:59") && !is_time("23:59:59Z"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,45}|[0-9TZ:.+-]{0,40}") {
            if let Some(span) = parse(&text) {
                prop_assert!(span.low_ms < span.high_ms);
            }
        }
    }
}
