//! Where a page in a browser comes from (RFC 6454, HTML "origin"), in the one spelling that browsers
//! send: lower case, no default port, no path. So two origins are the same if their texts are.

use std::fmt;
use std::net::Ipv6Addr;

use crate::limits::ORIGIN_BYTES_MAX;

/// Such as `https://app.example.org` or `http://localhost:3000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin as browsers write it: a scheme, a host in lower case and a port that is not the default one, \
     such as https://app.example.org or http://localhost:3000, and nothing else"
)]
pub struct NotAnOrigin(String);

impl Origin {
    /// Reads an origin. `null`, `*`, and what another spelling would stand for are none.
    pub fn parse(text: &str) -> Result<Self, NotAnOrigin> {
        if is_origin(text) { Ok(Self(text.to_owned())) } else { Err(NotAnOrigin(text.to_owned())) }
    }

    /// The text that browsers send.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address are within brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    text.len() <= ORIGIN_BYTES_MAX
        && is_scheme(scheme)
        && is_host(host)
        && port.is_none_or(|port| is_port(port) && !is_default(scheme, port))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'))
}

fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == v6),
        None => {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
        }
    }
}

fn is_port(text: &str) -> bool {
    !text.starts_with(['0', '+']) && text.parse::<u16>().is_ok()
}

fn is_default(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", "80") | ("https", "443"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_send_is_an_origin() {
        for text in [
            "https://app.example.org",
            "http://localhost:3000",
            "http://127.0.0.1:8103",
            "http://[::1]:8103",
            "https://[2001:db8::1]",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(Origin::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn no_other_spelling_is() {
        let long = format!("https://{}", "a".repeat(ORIGIN_BYTES_MAX));
        for text in [
            "",
            "*",
            "null",
            "app.example.org",
            "https://",
            "https://*.example.org",
            "https://app.example.org/",
            "https://app.example.org/path",
            "https://App.example.org",
            "HTTPS://app.example.org",
            "https://user@app.example.org",
            "https://app.example.org:443",
            "http://app.example.org:80",
            "https://app.example.org:",
            "https://app.example.org:0443",
            "https://app.example.org:+1",
            "https://app.example.org:65536",
            "https://b\u{fc}cher.example",
            "https://a b",
            "https://[::1",
            "https://[0:0::1]",
            "https://a,https://b",
            &long,
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
    }
}
