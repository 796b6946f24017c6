//! One value of a dotenv file: read, or replaced with everything else as it was, byte for byte.
//!
//! There is no standard. What is understood is what the common readers agree on: `KEY=value`, with `export`
//! before it or not; a value in `'`, `"` or `` ` `` may hold line breaks; without quotes it ends at the line
//! break or before ` #`. Lines inside a quoted value are not taken for assignments.

use std::ops::Range;

use anyhow::bail;
use zeroize::Zeroizing;

/// An assignment in a file.
#[derive(Debug)]
struct Assignment {
    key: Range<usize>,
    /// The value, without its quotes.
    value: Range<usize>,
    quote: Option<u8>,
}

/// Whether a name can be assigned to.
pub fn is_key(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The value of a key; of several, the last.
pub fn value(file: &[u8], key: &str) -> Option<Vec<u8>> {
    let last = assignments(file).into_iter().rfind(|found| &file[found.key.clone()] == key.as_bytes())?;
    Some(file[last.value].to_vec())
}

/// The file with another value for the key: in every assignment to it, or in a new last line.
pub fn with(file: &[u8], key: &str, secret: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // All that a generated secret is made of, and what no reader gives a meaning.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./+=:@,".contains(&byte);
    let is_plain = secret.bytes().all(is_plain);
    if !is_plain && secret.contains('\'') {
        bail!("the secret has characters that not every reader of a dotenv file understands");
    }
    let quoted = Zeroizing::new(if is_plain { secret.to_owned() } else { format!("'{secret}'") });

    let mut changed = Zeroizing::new(Vec::with_capacity(file.len() + key.len() + secret.len() + 8));
    let mut copied = 0;
    for found in assignments(file).iter().filter(|found| &file[found.key.clone()] == key.as_bytes()) {
        let around = usize::from(found.quote.is_some() && !is_plain);
        changed.extend_from_slice(&file[copied..found.value.start - around]);
        changed.extend_from_slice(quoted.as_bytes());
        copied = found.value.end + around;
        if found.value.is_empty() && file.get(copied) == Some(&b'#') {
            // Directly after a value it would be a part of it.
            changed.push(b' ');
        }
    }
    changed.extend_from_slice(&file[copied..]);
    if copied == 0 {
        let line_break: &[u8] = if file.windows(2).any(|pair| pair == b"\r\n") { b"\r\n" } else { b"\n" };
        if !file.is_empty() && !file.ends_with(b"\n") {
            changed.extend_from_slice(line_break);
        }
        for part in [key.as_bytes(), b"=", quoted.as_bytes(), line_break] {
            changed.extend_from_slice(part);
        }
    }
    // A quote that somebody forgot to close may end where this one begins.
    if value(&changed, key).map(Zeroizing::new).is_none_or(|read| read.as_slice() != secret.as_bytes()) {
        bail!("the secret cannot be written so that it is read back: is a quote not closed before {key}?");
    }
    Ok(changed)
}

fn assignments(file: &[u8]) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut at = if file.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    while at < file.len() {
        let line_end = position(file, at, |byte| byte == b'\n');
        at = match assignment(file, at..line_end) {
            Some(assignment) => {
                let end = assignment.value.end;
                found.push(assignment);
                position(file, end, |byte| byte == b'\n') + 1
            }
            None => line_end + 1,
        };
    }
    found
}

/// The first place from `at` on where a byte is so, or the end.
fn position(file: &[u8], at: usize, is_so: impl Fn(u8) -> bool) -> usize {
    file[at..].iter().position(|byte| is_so(*byte)).map_or(file.len(), |found| at + found)
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Reads the assignment that begins in a line.
fn assignment(file: &[u8], line: Range<usize>) -> Option<Assignment> {
    let skip_blanks = |at: usize| position(&file[..line.end], at, |byte| !is_blank(byte));
    let mut at = skip_blanks(line.start);
    let name_end = |at| position(&file[..line.end], at, |byte| !byte.is_ascii_alphanumeric() && byte != b'_');
    if &file[at..name_end(at)] == b"export" && file.get(name_end(at)).copied().is_some_and(is_blank) {
        at = skip_blanks(name_end(at));
    }
    let key = at..name_end(at);
    let equals = skip_blanks(key.end);
    if key.is_empty() || equals >= line.end || file[equals] != b'=' {
        return None;
    }
    let start = skip_blanks(equals + 1);
    let quote = file.get(start).copied().filter(|byte| start < line.end && b"'\"`".contains(byte));
    if let Some(quote) = quote
        && let Some(end) = closing(file, start + 1, quote)
    {
        return Some(Assignment { key, value: start + 1..end, quote: Some(quote) });
    }
    let comment = (start..line.end).find(|at| file[*at] == b'#' && (*at == start || is_blank(file[*at - 1])));
    let end = comment.unwrap_or(line.end);
    let length = file[start..end]
        .iter()
        .rposition(|byte| !is_blank(*byte) && *byte != b'\r')
        .map_or(0, |last| last + 1);
    Some(Assignment { key, value: start..start + length, quote: None })
}

/// Where a quoted value ends. In double quotes a backslash takes the next character's meaning away.
fn closing(file: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    while at < file.len() {
        match file[at] {
            byte if byte == quote => return Some(at),
            b'\\' if quote == b'"' => at += 2,
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(file: &str, secret: &str) -> String {
        String::from_utf8(with(file.as_bytes(), "KEY", secret).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn one_value_changes_and_nothing_else() {
        for (before, after) in [
            ("KEY=old\n", "KEY=new\n"),
            ("KEY=old", "KEY=new"),
            ("A=1\r\nKEY=old\r\nB=2\r\n", "A=1\r\nKEY=new\r\nB=2\r\n"),
            ("KEYS=1\nMY_KEY=2\nKEY=old\nKEY2=3\n", "KEYS=1\nMY_KEY=2\nKEY=new\nKEY2=3\n"),
            ("# KEY=no\n#KEY=no\n  KEY = old # why\n", "# KEY=no\n#KEY=no\n  KEY = new # why\n"),
            ("export KEY=\"old\" # why\n", "export KEY=\"new\" # why\n"),
            ("KEY='old'\n", "KEY='new'\n"),
            ("KEY=`old`", "KEY=`new`"),
            ("KEY=\"o\\\"l\nd\"\nA=1\n", "KEY=\"new\"\nA=1\n"),
            ("A=\"1\nKEY=in A\n\"\nKEY=old\n", "A=\"1\nKEY=in A\n\"\nKEY=new\n"),
            ("A=it's\nKEY=old\n", "A=it's\nKEY=new\n"),
            ("A='not closed\nKEY=old\n", "A='not closed\nKEY=new\n"),
            ("KEY=old#part\n", "KEY=new\n"),
            ("KEY=\nA=1\n", "KEY=new\nA=1\n"),
            ("KEY= # none\n", "KEY= new # none\n"),
            ("KEY=#none\n", "KEY=new #none\n"),
            ("KEY=old\nKEY=older\n", "KEY=new\nKEY=new\n"),
            ("\u{feff}KEY=old\n", "\u{feff}KEY=new\n"),
            ("KEY\nexport KEY\nKEY: x\n", "KEY\nexport KEY\nKEY: x\nKEY=new\n"),
            ("export=1\n", "export=1\nKEY=new\n"),
            ("A=1", "A=1\nKEY=new\n"),
            ("A=1\r\nB=2", "A=1\r\nB=2\r\nKEY=new\r\n"),
            ("", "KEY=new\n"),
        ] {
            assert_eq!(set(before, "new"), after, "{before:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay() {
        let changed = with(b"A=\xff\xfe\nKEY=old\n\xff", "KEY", "new").unwrap();
        assert_eq!(changed.as_slice(), b"A=\xff\xfe\nKEY=new\n\xff");
    }

    #[test]
    fn what_needs_quotes_gets_them() {
        assert_eq!(set("KEY=old # x\n", "a b$c\"#"), "KEY='a b$c\"#' # x\n");
        assert_eq!(set("KEY=\"old\"\n", "a $b"), "KEY='a $b'\n");
        assert_eq!(set("", "a b"), "KEY='a b'\n");
        assert!(with(b"KEY=old\n", "KEY", "it's").is_err());
        assert!(with(b"A='not closed\nKEY=old\n", "KEY", "a b").is_err());
        assert_eq!(set("A='not closed\nKEY=old\n", "new"), "A='not closed\nKEY=new\n");
    }

    proptest! {
        #[test]
        fn what_is_set_is_read_and_setting_it_again_changes_nothing(
            file in "([ \\tA-Z=#'\"`x\\\\]|KEY=|export |\\n|\\r\\n){0,40}",
            secret in "[ -&(-~]{1,20}",
        ) {
            let Ok(once) = with(file.as_bytes(), "KEY", &secret) else { return Ok(()) };
            prop_assert_eq!(value(&once, "KEY"), Some(secret.as_bytes().to_vec()));
            prop_assert_eq!(with(&once, "KEY", &secret).unwrap(), once);
        }

        #[test]
        fn other_keys_keep_their_values(file in "([ A-C=#'\"x]|KEY=|\\n){0,40}") {
            let changed = with(file.as_bytes(), "KEY", "krs_0123").unwrap();
            for key in ["A", "B", "C", "AB"] {
                prop_assert_eq!(value(&changed, key), value(file.as_bytes(), key));
            }
        }
    }
}
