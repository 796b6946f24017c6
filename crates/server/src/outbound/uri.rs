//! A URL that somebody named for this server to speak to: checked when it is written down, and again before
//! it is used.

use std::fmt;

use http::Uri;
use http::uri::Scheme;
use keyrelay_core::limits::OUTBOUND_URI_BYTES_MAX;
use keyrelay_core::reach::{self, Reach};

/// A URL that may be spoken to. Which address its name has is checked when it is.
#[derive(Clone, Debug)]
pub(crate) struct OutboundUri(Uri);

/// Why a text is no URL that may be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadOutboundUri {
    #[error("The URL has at most {OUTBOUND_URI_BYTES_MAX} bytes")]
    TooLong,
    #[error("The URL is absolute, in ASCII, and has no fragment")]
    Form,
    #[error("The URL has no user and no password in it")]
    Credentials,
    #[error("The URL must be https (in development also http on this machine)")]
    Scheme,
    #[error("The URL must lead to a public address")]
    Address,
    #[error("The host of the URL is a number, but not an IP address: write four decimal numbers, or a name")]
    Number,
}

impl OutboundUri {
    /// Reads a URL.
    pub(crate) fn parse(text: &str, reach: Reach) -> Result<Self, BadOutboundUri> {
        if text.len() > OUTBOUND_URI_BYTES_MAX {
            return Err(BadOutboundUri::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'"')) {
            return Err(BadOutboundUri::Form);
        }
        let uri: Uri = text.parse().map_err(|_| BadOutboundUri::Form)?;
        let authority = uri.authority().ok_or(BadOutboundUri::Form)?;
        if authority.as_str().contains('@') {
            return Err(BadOutboundUri::Credentials);
        }
        let host = authority.host();
        // A port that is no number is kept by the parser as part of the text.
        let rest = authority.as_str().strip_prefix(host).unwrap_or_default();
        if host.is_empty() || !(rest.is_empty() || authority.port_u16().is_some_and(|port| port != 0)) {
            return Err(BadOutboundUri::Form);
        }
        let is_plain = uri.scheme() == Some(&Scheme::HTTP);
        if !(uri.scheme() == Some(&Scheme::HTTPS) || is_plain && reach.allows_plain(host)) {
            return Err(BadOutboundUri::Scheme);
        }
        if reach::literal(host).is_some_and(|address| !reach.allows(address)) {
            return Err(BadOutboundUri::Address);
        }
        if reach::literal(host).is_none() {
            check_name(host, reach)?;
        }
        Ok(Self(uri))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// The name or the address, an IPv6 one without its brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Host and port, as in the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    pub(crate) fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }
}

/// Refuses names that never lead to a public address: those that some programs read as an IPv4 address, as `0x7f.1`
/// (WHATWG URL, "ends in a number"), and those of this machine (RFC 6761 §6.3).
fn check_name(host: &str, reach: Reach) -> Result<(), BadOutboundUri> {
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadOutboundUri::Number);
    }
    if last.eq_ignore_ascii_case("localhost") && reach == Reach::Internet {
        return Err(BadOutboundUri::Address);
    }
    Ok(())
}

impl fmt::Display for OutboundUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, reach: Reach) -> Result<(String, u16), BadOutboundUri> {
        OutboundUri::parse(text, reach).map(|uri| (uri.host().to_owned(), uri.port()))
    }

    #[test]
    fn an_https_url_will_do() {
        for (text, host, port) in [
            ("https://app.example.org/keys", "app.example.org", 443),
            ("https://app.example.org", "app.example.org", 443),
            ("HTTPS://app.example.org:8443/keys?tenant=1", "app.example.org", 8443),
            ("https://1.1.1.1/keys", "1.1.1.1", 443),
            ("https://1.0x7f.example.org/keys", "1.0x7f.example.org", 443),
            ("https://localhost.example.org/keys", "localhost.example.org", 443),
            ("https://[2606:4700:4700::1111]:444/keys", "2606:4700:4700::1111", 444),
        ] {
            for reach in [Reach::Internet, Reach::InternetAndLoopback] {
                assert_eq!(read(text, reach), Ok((host.to_owned(), port)), "{text}");
            }
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let long = format!("https://app.example.org/{}", "a".repeat(OUTBOUND_URI_BYTES_MAX));
        for (text, why) in [
            ("", BadOutboundUri::Form),
            ("/keys", BadOutboundUri::Form),
            ("https:///keys", BadOutboundUri::Form),
            ("https://app.example.org/keys#x", BadOutboundUri::Form),
            ("https://app.example.org/ke ys", BadOutboundUri::Form),
            ("https://app.example.org\\@10.0.0.1/", BadOutboundUri::Form),
            ("https://app.example.org:0/", BadOutboundUri::Form),
            ("https://app.example.org:99999/", BadOutboundUri::Form),
            ("https://app.example.org:x/", BadOutboundUri::Form),
            ("https://caf\u{e9}.example.org/", BadOutboundUri::Form),
            ("https://ann:secret@app.example.org/keys", BadOutboundUri::Credentials),
            ("https://app.example.org@10.0.0.1/keys", BadOutboundUri::Credentials),
            ("http://app.example.org/keys", BadOutboundUri::Scheme),
            ("ftp://app.example.org/keys", BadOutboundUri::Scheme),
            ("file:///etc/passwd", BadOutboundUri::Form),
            ("http://127.0.0.1/keys", BadOutboundUri::Scheme),
            ("http://localhost/keys", BadOutboundUri::Scheme),
            ("https://127.0.0.1/keys", BadOutboundUri::Address),
            ("https://10.0.0.1/keys", BadOutboundUri::Address),
            ("https://169.254.169.254/latest", BadOutboundUri::Address),
            ("https://[::1]/keys", BadOutboundUri::Address),
            ("https://[::ffff:10.0.0.1]/keys", BadOutboundUri::Address),
            ("https://localhost/", BadOutboundUri::Address),
            ("https://LocalHost.:8443/", BadOutboundUri::Address),
            ("https://app.localhost/", BadOutboundUri::Address),
            ("https://0x7f.1/", BadOutboundUri::Number),
            ("https://127.1/", BadOutboundUri::Number),
            ("https://2130706433/", BadOutboundUri::Number),
            ("https://0X7F000001/", BadOutboundUri::Number),
            ("https://127.0.0.1./", BadOutboundUri::Number),
            ("https://0177.0.0.01/", BadOutboundUri::Number),
            ("https://app.example.0x/", BadOutboundUri::Number),
            ("https://./", BadOutboundUri::Number),
            (&long, BadOutboundUri::TooLong),
        ] {
            assert_eq!(read(text, Reach::Internet), Err(why), "{text}");
        }
    }

    #[test]
    fn in_development_this_machine_will_do() {
        for text in [
            "http://127.0.0.1:8000/keys",
            "http://localhost/keys",
            "http://[::1]:80/",
            "https://localhost/keys",
        ] {
            assert!(read(text, Reach::InternetAndLoopback).is_ok(), "{text}");
        }
        for text in ["http://10.0.0.1/keys", "http://app.example.org/keys", "http://127.0.0.1.example.org/"] {
            assert_eq!(read(text, Reach::InternetAndLoopback), Err(BadOutboundUri::Scheme), "{text}");
        }
    }
}
