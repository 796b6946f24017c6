//! What an operator may set, already read and checked. Where the values come from (flags,
//! variables, a file) is the CLI's matter.

use std::fmt;

use keyrelay_core::change_rates::{ChangeRates, ResourcesMax};
use keyrelay_core::limits::{BYTES_IN_FLIGHT_DEFAULT, CONNECTIONS_MAX, RESOURCE_BYTES_DEFAULT};
use keyrelay_core::origin::Origin;
use keyrelay_core::reach::Reach;
use keyrelay_core::secret_rules::SecretRules;
use keyrelay_core::signing::Schedule;

use crate::proxies::TrustedProxies;

/// The address under which clients reach this server: the issuer of its tokens. Ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

/// Why a text is no base URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a base URL: it must be http:// or https:// with a host, and no query or fragment")]
pub struct NotABaseUrl(String);

impl BaseUrl {
    /// Reads a base URL and adds the final `/` if it is missing.
    pub fn parse(text: &str) -> Result<Self, NotABaseUrl> {
        let refused = || NotABaseUrl(text.to_owned());
        let uri: http::Uri = text.parse().map_err(|_| refused())?;
        let known_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if !known_scheme || !has_host || text.contains(['?', '#', '@', '"', '\\']) {
            return Err(refused());
        }
        Ok(Self(format!("{}/", text.trim_end_matches('/'))))
    }

    /// The URL, ending with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How far the server reaches for what clients publish: in development also on this machine.
    pub(crate) fn reach(&self) -> Reach {
        let uri: Option<http::Uri> = self.0.parse().ok();
        Reach::of_server_at(uri.as_ref().and_then(http::Uri::host).unwrap_or_default())
    }

    /// Whether browsers reach the server over TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether browsers are to be told to come over TLS only. On this machine's own name they share the
    /// host with whatever else is developed there.
    #[must_use]
    pub(crate) fn is_https_only(&self) -> bool {
        self.is_https() && self.host().split(':').next() != Some("localhost")
    }

    /// The host, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        let rest = self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }

    /// The origin of pages of this server, in the spelling of browsers.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        let (scheme, rest) = self.0.split_once("://")?;
        let authority = rest.split('/').next()?.to_ascii_lowercase();
        let default = if scheme == "https" { ":443" } else { ":80" };
        Origin::parse(&format!("{scheme}://{}", authority.strip_suffix(default).unwrap_or(&authority))).ok()
    }

    /// The URL of a path below this one.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// The base of the FHIR API, without a final `/`.
    #[must_use]
    pub fn fhir(&self) -> String {
        self.join("fhir/R4")
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which values an admin may write into `ClientApplication.secret` directly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretPolicy {
    /// At least [`keyrelay_core::limits::SECRET_WRITTEN_CHARS_MIN`] characters.
    #[default]
    Strong,
    /// Any that is not empty.
    Any,
}

/// Who says which certificate a client has presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nobody: certificates are not looked at.
    #[default]
    Off,
    /// This server, which asks for one in the TLS handshake and takes none for an answer.
    Tls,
    /// Trusted proxies, by `Client-Cert` (RFC 9440).
    Header,
}

/// The settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The issuer.
    pub base_url: BaseUrl,
    /// What may be written directly.
    pub secret_policy: SecretPolicy,
    /// What holds for the secrets of a project that does not say otherwise.
    pub secrets: SecretRules,
    /// Most connections that are open at once; a small reserve beyond them answers 503.
    pub connections_max: usize,
    /// The proxies that are believed about where a request came from.
    pub trusted_proxies: TrustedProxies,
    /// Origins whose pages may use every client; those of one client are in its resource.
    pub allowed_origins: Vec<Origin>,
    /// Where clients' certificates come from.
    pub client_certificates: ClientCertificates,
    /// Where clients that have certificates are to come, if not to the base URL (RFC 8705 §5).
    pub mtls_base_url: Option<BaseUrl>,
    /// Largest resource that may be written, in bytes.
    pub resource_bytes_max: usize,
    /// What tokens are signed by, and for how long by one key.
    pub signing: Schedule,
    /// Rates at which tenants may write to the disk.
    pub change_rates: ChangeRates,
    /// Bytes in flight: see [`keyrelay_core::limits::BYTES_IN_FLIGHT_DEFAULT`].
    pub bytes_in_flight: usize,
    /// The most resources that a project may have.
    pub project_resources_max: ResourcesMax,
}

impl Config {
    /// The settings of a server of which only the base URL is known.
    #[must_use]
    pub fn new(base_url: BaseUrl) -> Self {
        Self {
            base_url,
            secret_policy: SecretPolicy::default(),
            secrets: SecretRules::default(),
            connections_max: CONNECTIONS_MAX,
            trusted_proxies: TrustedProxies::default(),
            allowed_origins: Vec::new(),
            client_certificates: ClientCertificates::default(),
            mtls_base_url: None,
            resource_bytes_max: RESOURCE_BYTES_DEFAULT,
            signing: Schedule::default(),
            change_rates: ChangeRates::default(),
            bytes_in_flight: BYTES_IN_FLIGHT_DEFAULT,
            project_resources_max: ResourcesMax::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_ends_with_a_slash() {
        for (text, url) in [
            ("http://127.0.0.1:8103", "http://127.0.0.1:8103/"),
            ("https://fhir.example.test/keys/", "https://fhir.example.test/keys/"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().as_str(), url);
        }
        let origin = |text| BaseUrl::parse(text).unwrap().origin().map(|origin| origin.to_string());
        assert_eq!(origin("https://FHIR.example.test:443/keys/").unwrap(), "https://fhir.example.test");
        assert_eq!(origin("http://[::1]:8103").unwrap(), "http://[::1]:8103");
        for text in ["", "fhir.example.test", "ftp://x/", "https://", "https://x/?a=b", "https://u@x/"] {
            assert!(BaseUrl::parse(text).is_err(), "{text}");
        }
    }
}
