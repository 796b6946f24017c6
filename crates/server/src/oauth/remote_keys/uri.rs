//! The URL of a client's key set: what is written into `ClientApplication.jwksUri`, checked when it is
//! written and again before it is fetched.

use std::fmt;

use http::Uri;
use http::uri::Scheme;
use keyrelay_core::limits::JWKS_URI_BYTES_MAX;
use keyrelay_core::reach::{self, Reach};

/// A URL that may be fetched. Which address its name has is checked when it is.
#[derive(Clone, Debug)]
pub(crate) struct JwksUri(Uri);

/// Why a text is no URL of a key set that may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadJwksUri {
    #[error("The URL of a key set has at most {JWKS_URI_BYTES_MAX} bytes")]
    TooLong,
    #[error("The URL of a key set is absolute, in ASCII, and has no fragment")]
    Form,
    #[error("The URL of a key set has no user and no password in it")]
    Credentials,
    #[error("A key set is fetched over https only (in development also over http from this machine)")]
    Scheme,
    #[error("A key set is fetched from public addresses only")]
    Address,
}

impl JwksUri {
    /// Reads a URL.
    pub(crate) fn parse(text: &str, reach: Reach) -> Result<Self, BadJwksUri> {
        if text.len() > JWKS_URI_BYTES_MAX {
            return Err(BadJwksUri::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'\\' | b'"')) {
            return Err(BadJwksUri::Form);
        }
        let uri: Uri = text.parse().map_err(|_| BadJwksUri::Form)?;
        let authority = uri.authority().ok_or(BadJwksUri::Form)?;
        if authority.as_str().contains('@') {
            return Err(BadJwksUri::Credentials);
        }
        let host = authority.host();
        // A port that is no number is kept by the parser as part of the text.
        let rest = authority.as_str().strip_prefix(host).unwrap_or_default();
        if host.is_empty() || !(rest.is_empty() || authority.port_u16().is_some_and(|port| port != 0)) {
            return Err(BadJwksUri::Form);
        }
        let is_plain = uri.scheme() == Some(&Scheme::HTTP);
        if !(uri.scheme() == Some(&Scheme::HTTPS) || is_plain && reach.allows_plain(host)) {
            return Err(BadJwksUri::Scheme);
        }
        if reach::literal(host).is_some_and(|address| !reach.allows(address)) {
            return Err(BadJwksUri::Address);
        }
        Ok(Self(uri))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// The name or the address, an IPv6 one without its brackets.
    pub(super) fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Host and port, as in the header `Host`.
    pub(super) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl fmt::Display for JwksUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, reach: Reach) -> Result<(String, u16), BadJwksUri> {
        JwksUri::parse(text, reach).map(|uri| (uri.host().to_owned(), uri.port()))
    }

    #[test]
    fn a_key_set_is_at_an_https_url() {
        for (text, host, port) in [
            ("https://app.example.org/keys", "app.example.org", 443),
            ("https://app.example.org", "app.example.org", 443),
            ("HTTPS://app.example.org:8443/keys?tenant=1", "app.example.org", 8443),
            ("https://1.1.1.1/keys", "1.1.1.1", 443),
            ("https://[2606:4700:4700::1111]:444/keys", "2606:4700:4700::1111", 444),
        ] {
            for reach in [Reach::Internet, Reach::InternetAndLoopback] {
                assert_eq!(read(text, reach), Ok((host.to_owned(), port)), "{text}");
            }
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let long = format!("https://app.example.org/{}", "a".repeat(JWKS_URI_BYTES_MAX));
        for (text, why) in [
            ("", BadJwksUri::Form),
            ("/keys", BadJwksUri::Form),
            ("https:///keys", BadJwksUri::Form),
            ("https://app.example.org/keys#x", BadJwksUri::Form),
            ("https://app.example.org/ke ys", BadJwksUri::Form),
            ("https://app.example.org\\@10.0.0.1/", BadJwksUri::Form),
            ("https://app.example.org:0/", BadJwksUri::Form),
            ("https://app.example.org:99999/", BadJwksUri::Form),
            ("https://app.example.org:x/", BadJwksUri::Form),
            ("https://caf\u{e9}.example.org/", BadJwksUri::Form),
            ("https://ann:secret@app.example.org/keys", BadJwksUri::Credentials),
            ("https://app.example.org@10.0.0.1/keys", BadJwksUri::Credentials),
            ("http://app.example.org/keys", BadJwksUri::Scheme),
            ("ftp://app.example.org/keys", BadJwksUri::Scheme),
            ("file:///etc/passwd", BadJwksUri::Form),
            ("http://127.0.0.1/keys", BadJwksUri::Scheme),
            ("http://localhost/keys", BadJwksUri::Scheme),
            ("https://127.0.0.1/keys", BadJwksUri::Address),
            ("https://10.0.0.1/keys", BadJwksUri::Address),
            ("https://169.254.169.254/latest", BadJwksUri::Address),
            ("https://[::1]/keys", BadJwksUri::Address),
            ("https://[::ffff:10.0.0.1]/keys", BadJwksUri::Address),
            (&long, BadJwksUri::TooLong),
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
            assert_eq!(read(text, Reach::InternetAndLoopback), Err(BadJwksUri::Scheme), "{text}");
        }
    }
}
