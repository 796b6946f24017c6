//! The certificate that a client presented in TLS, as `Client-Cert` and `Client-Cert-Chain` carry it
//! from whoever ended TLS to whoever answers (RFC 9440). That may be this server itself, or a trusted
//! proxy. From anybody else the two fields are thrown away before the request is looked at, so whoever
//! reads them here can believe them.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use keyrelay_core::client::Thumbprint;
use keyrelay_core::limits::CLIENT_CHAIN_MAX;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::Config;
use crate::config::ClientCertificates;

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// A client's certificate, and those that it sent along with it.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// The certificate of a request. `None` if there is none, or one that cannot be read.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut leaves = headers.get_all(CLIENT_CERT).iter();
        let leaf = leaves.next().and_then(|value| decode(value.to_str().ok()?))?;
        if leaves.next().is_some() {
            return None;
        }
        let chain = headers.get_all(CLIENT_CERT_CHAIN).iter().filter_map(|value| value.to_str().ok());
        let intermediates = chain.flat_map(|list| list.split(',')).take(CLIENT_CHAIN_MAX);
        Some(Self { leaf, intermediates: intermediates.filter_map(decode).collect() })
    }

    pub(crate) const fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// What access tokens are bound to (RFC 8705 §3.1).
    pub(crate) fn thumbprint(&self) -> Thumbprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.leaf).as_ref());
        Thumbprint::from_bytes(bytes)
    }
}

/// A byte sequence as structured fields write it (RFC 9651 §3.3.5).
fn decode(text: &str) -> Option<CertificateDer<'static>> {
    let encoded = text.trim().strip_prefix(':')?.strip_suffix(':')?;
    STANDARD.decode(encoded).ok().map(CertificateDer::from)
}

fn encode(certificate: &CertificateDer<'_>) -> String {
    format!(":{}:", STANDARD.encode(certificate))
}

/// What a client presented on a connection that ends here.
#[derive(Clone, Debug)]
pub(crate) struct Presented {
    leaf: HeaderValue,
    chain: HeaderValue,
}

impl Presented {
    pub(crate) fn new(certificates: &[CertificateDer<'_>]) -> Option<Self> {
        let (leaf, chain) = certificates.split_first()?;
        let chain: Vec<String> = chain.iter().take(CLIENT_CHAIN_MAX).map(encode).collect();
        Some(Self {
            leaf: HeaderValue::try_from(encode(leaf)).ok()?,
            chain: HeaderValue::try_from(chain.join(", ")).ok()?,
        })
    }
}

/// Leaves in a request only a certificate that can be believed.
pub(crate) fn settle(config: &Config, peer: IpAddr, presented: Option<&Presented>, headers: &mut HeaderMap) {
    let is_believed = config.client_certificates == ClientCertificates::Header
        && config.trusted_proxies.contains(peer.to_canonical());
    if is_believed {
        return;
    }
    headers.remove(CLIENT_CERT);
    headers.remove(CLIENT_CERT_CHAIN);
    if let Some(presented) = presented {
        headers.insert(CLIENT_CERT, presented.leaf.clone());
        headers.insert(CLIENT_CERT_CHAIN, presented.chain.clone());
    }
}
