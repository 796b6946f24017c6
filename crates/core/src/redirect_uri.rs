//! Where an authorization code may be sent (RFC 6749 §3.1.2). Only listed forms are allowed, because a browser that
//! follows a redirect opens whatever program is registered for its scheme.

use std::fmt;

use url::{Host, Url};

use crate::limits::REDIRECT_URI_BYTES_MAX;

/// Hosts that are the machine on which the browser runs, where a redirect needs no TLS (RFC 8252 §7.3).
const LOOPBACK: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];

/// A redirect URI of an allowed form, as it was registered: requests must repeat it byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct RedirectUri {
    text: String,
    url: Url,
}

/// Why a text is not a valid redirect URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedirectUri {
    /// More than [`REDIRECT_URI_BYTES_MAX`] bytes.
    #[error("A redirect URI has at most {REDIRECT_URI_BYTES_MAX} bytes")]
    TooLong,
    /// Not an absolute URI that every program parses in the same way.
    #[error("A redirect URI is absolute, in ASCII, with its host written in full: https://host/path")]
    Form,
    /// Has a fragment (RFC 6749 §3.1.2).
    #[error("A redirect URI has no fragment")]
    Fragment,
    /// Has a `*`.
    #[error("A redirect URI has no wildcard: register each one in full")]
    Wildcard,
    /// Has a user or a password.
    #[error("A redirect URI has no user and no password in it")]
    Credentials,
    /// `http` to another machine.
    #[error("A redirect URI is https; http leads to 127.0.0.1, [::1] or localhost only")]
    Plain,
    /// A scheme that another program may own.
    #[error(
        "A redirect URI is https, or http to this machine, or of a private-use scheme of the application's own, which has a dot in it, like com.example.app:/back (RFC 8252 §7.1)"
    )]
    Scheme,
}

impl RedirectUri {
    /// Reads a redirect URI.
    pub fn parse(text: &str) -> Result<Self, BadRedirectUri> {
        if text.len() > REDIRECT_URI_BYTES_MAX {
            return Err(BadRedirectUri::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>')) {
            return Err(BadRedirectUri::Form);
        }
        if text.contains('#') {
            return Err(BadRedirectUri::Fragment);
        }
        if text.contains('*') {
            return Err(BadRedirectUri::Wildcard);
        }
        let url = Url::parse(text).map_err(|_| BadRedirectUri::Form)?;
        let rest = text.split_once(':').map_or("", |(_, rest)| rest);
        let authority = rest.strip_prefix("//").map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
        if authority.is_some_and(|authority| authority.contains('@')) {
            return Err(BadRedirectUri::Credentials);
        }
        let is_allowed = match url.scheme() {
            "https" => true,
            "http" if url.host_str().is_some_and(|host| LOOPBACK.contains(&host)) => true,
            "http" => return Err(BadRedirectUri::Plain),
            scheme => scheme.contains('.'),
        };
        if !is_allowed {
            return Err(BadRedirectUri::Scheme);
        }
        // The library accepts URIs that others reject: missing slashes, numbers as hosts, escapes in hosts.
        let is_web = matches!(url.scheme(), "http" | "https");
        if is_web && !authority.is_some_and(|authority| is_host_of(authority, &url)) {
            return Err(BadRedirectUri::Form);
        }
        Ok(Self { text: text.to_owned(), url })
    }

    /// As it was registered.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its target as a source of a Content Security Policy: scheme, host and port, or only the scheme for an
    /// application on the person's device.
    #[must_use]
    pub fn source(&self) -> String {
        match (self.url.scheme(), self.url.host(), self.url.port()) {
            (scheme @ ("http" | "https"), Some(host), Some(port)) => format!("{scheme}://{host}:{port}"),
            (scheme @ ("http" | "https"), Some(host), None) => format!("{scheme}://{host}"),
            (scheme, ..) => format!("{scheme}:"),
        }
    }

    /// With parameters added to its query.
    #[must_use]
    pub fn with(&self, parameters: &str) -> String {
        let separator = if self.text.contains('?') { '&' } else { '?' };
        format!("{}{separator}{parameters}", self.text)
    }
}

impl fmt::Debug for RedirectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// Whether an authority is exactly the host that was parsed from it, apart from the case of letters, and a port.
fn is_host_of(authority: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let Some((given, rest)) = authority.split_at_checked(host.len()) else { return false };
    let is_port = |rest: &str| {
        rest.is_empty()
            || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    let is_name = match url.host() {
        // It becomes part of a Content Security Policy, so it must have no character with a meaning there.
        Some(Host::Domain(name)) => name.split('.').all(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        }),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    };
    is_name && given.eq_ignore_ascii_case(host) && is_port(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_allowed_uri_keeps_its_spelling() {
        for (good, source) in [
            ("https://app.example.test/back", "https://app.example.test"),
            ("https://app.example.test", "https://app.example.test"),
            ("https://App.Example.test:8443/Back?a=b&c=d", "https://app.example.test:8443"),
            ("HTTPS://app.example.test:443/", "https://app.example.test"),
            ("https://10.0.0.1/back", "https://10.0.0.1"),
            ("https://[2001:db8::1]:8443/back", "https://[2001:db8::1]:8443"),
            ("https://xn--caf-dma.example.test/", "https://xn--caf-dma.example.test"),
            ("http://127.0.0.1:8080/back", "http://127.0.0.1:8080"),
            ("http://[::1]/back", "http://[::1]"),
            ("http://localhost:3000/", "http://localhost:3000"),
            ("com.example.app:/back", "com.example.app:"),
            ("com.example.app://back", "com.example.app:"),
            ("com.example.App:back?x", "com.example.app:"),
        ] {
            let read = RedirectUri::parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
            assert_eq!((read.as_str(), read.source().as_str()), (good, source));
        }
        let with = |text: &str| RedirectUri::parse(text).unwrap().with("code=1");
        assert_eq!(with("https://a.test"), "https://a.test?code=1");
        assert_eq!(with("com.example.app:/back?x=y"), "com.example.app:/back?x=y&code=1");
    }

    #[test]
    fn all_else_is_refused_with_its_reason() {
        use BadRedirectUri::{Credentials, Form, Fragment, Plain, Scheme, Wildcard};
        for (bad, why) in [
            ("", Form),
            ("back", Form),
            ("/back", Form),
            ("//app.example.test/back", Form),
            ("https:", Form),
            ("https:a.test", Form),
            ("https:/a.test", Form),
            ("https:///a.test", Form),
            ("https://", Form),
            ("https://:443/", Form),
            ("https://a.test:0/", Form),
            ("https://a.test:/", Form),
            ("https://a.test:65536/", Form),
            ("https://0x7f.1/", Form),
            ("https://2130706433/", Form),
            ("https://a%2etest/", Form),
            ("https://..a.test/", Form),
            ("https://a..test/", Form),
            ("https://caf\u{e9}.test/", Form),
            ("https://a;script-src/", Form),
            ("https://a,b.test/", Form),
            ("https://a'b.test/", Form),
            ("https://a.test\\@b.test/", Form),
            ("https://a.test/ back", Form),
            ("https://a.test/\tback", Form),
            ("https://a.test/\"onload=", Form),
            ("https://a.test/#x", Fragment),
            ("com.example.app:/back#", Fragment),
            ("https://*.a.test/back", Wildcard),
            ("https://a.test/*", Wildcard),
            ("https://ann@a.test/", Credentials),
            ("https://@a.test/", Credentials),
            ("https://ann:secret@a.test/", Credentials),
            ("com.example.app://ann@back/", Credentials),
            ("http://a.test/back", Plain),
            ("HTTP://a.test/back", Plain),
            ("http://127.0.0.1.a.test/", Plain),
            ("http://0.0.0.0/", Plain),
            ("http://localhost@a.test/", Credentials),
            ("http:localhost/", Form),
            ("ms-msdt:/id", Scheme),
            ("smb://server/share", Scheme),
            ("chrome://settings", Scheme),
            ("javascript:alert(1)", Scheme),
            ("JavaScript:alert(1)", Scheme),
            ("data:text/html,x", Scheme),
            ("file:///etc/passwd", Scheme),
            ("about:blank", Scheme),
            ("blob:https://a.test/x", Scheme),
            ("vbscript:x", Scheme),
            ("ftp://a.test/", Scheme),
            ("ws://a.test/", Scheme),
            ("urn:ietf:wg:oauth:2.0:oob", Scheme),
            ("myapp:/back", Scheme),
        ] {
            assert_eq!(RedirectUri::parse(bad), Err(why), "{bad}");
        }
        let long = format!("https://a.test/{}", "a".repeat(REDIRECT_URI_BYTES_MAX));
        assert_eq!(RedirectUri::parse(&long), Err(BadRedirectUri::TooLong));
    }

    proptest! {
        /// An accepted URI leads to the host that a strict reader of its text expects.
        #[test]
        fn an_accepted_uri_has_one_reading(text in "(https?:/{0,3}|[a-z.]{1,8}:)[a-z0-9.:@%\\[\\]/?#*\\\\-]{0,24}") {
            if let Ok(read) = RedirectUri::parse(&text) {
                let url = Url::parse(&text).unwrap();
                prop_assert!(url.fragment().is_none() && url.username().is_empty() && url.password().is_none());
                if matches!(url.scheme(), "http" | "https") {
                    let start = format!("{}://{}", url.scheme(), url.host_str().unwrap());
                    prop_assert!(text.to_ascii_lowercase().starts_with(&start), "{text}");
                    prop_assert!(read.source().starts_with(&start));
                } else {
                    prop_assert!(url.scheme().contains('.'));
                }
            }
        }
    }
}
