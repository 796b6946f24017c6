//! A client that proves itself by a certificate (RFC 8705 §2): one that its trust store holds, or that
//! an authority in its trust store issued. Whoever ended TLS has seen that the client holds the key; what
//! is decided here is whose certificate it is. Whatever is wrong, the client is told the same.

use keyrelay_core::client::{Acts, Proof, ProofKind, Refused};
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::{TRUST_STORE_BYTES_MAX, TRUSTED_CERTIFICATES_MAX};
use keyrelay_core::time::Timestamp;
use serde_json::{Map, Value};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, Der, TrustAnchor, UnixTime};
use uuid::Uuid;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CLIENT_AUTH};
use x509_cert::der::{AnyRef, Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage};

use super::assertion::BASE_POINT;
use super::public_key::PublicKey;
use crate::App;
use crate::auth::{NotProved, Peer, Proved, count_use, refuse};
use crate::client_certificate::ClientCertificate;
use crate::fhir::stored_resource;

/// The name space of the ids that certificates are counted by (RFC 9562 §5.5). Never change it: counts
/// name them.
const CERTIFICATES_NAMESPACE: Uuid = Uuid::from_u128(0x7c5e_2b90_6f1d_4a38_8e44_0b3f_91d2_a6c7);
/// The element with the certificates that a client is known by.
const TRUST_STORE: &str = "certificateTrustStore";
/// What stands before the point in the public key of P-256 (RFC 5480 §2).
const P256_KEY: [u8; 24] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Proves a client by a certificate, and counts its use. `None` if the client is not known by any
/// certificate and acts for people: a browser may present one to whoever asks.
pub(super) async fn prove(
    app: &App,
    certificate: &ClientCertificate,
    id: &str,
    acts: Acts,
    peer: Peer<'_>,
) -> Result<Option<Proved>, NotProved> {
    if let Some(wait) = app.limiter.blocks(peer.address, app.now()) {
        return Err(NotProved::Throttled(wait));
    }
    let id = ClientId::parse(id).unwrap_or(ClientId::NIL);
    let (state, access) = tokio::join!(app.store.client(id), app.store.access(id));
    let (state, access) = (state.map_err(NotProved::Store)?, access.map_err(NotProved::Store)?);
    let resource = state.and_then(|state| stored_resource(&state.resource).ok());
    let store = resource.as_ref().and_then(TrustStore::of);
    if store.is_none() && resource.is_some() && acts == Acts::ForPeople {
        return Ok(None);
    }
    let of = access.as_ref().map(|access| access.project.id);
    let no = |why| Err(refuse(app, id, of, peer, why));
    if !store.unwrap_or_default().accepts(certificate, app.now()) {
        return no(if access.is_none() { Refused::UnknownClient } else { Refused::BadCertificate });
    }
    let Some(access) = access else { return no(Refused::UnknownClient) };
    if let Err(why) = access.check(acts, peer.address) {
        return no(why);
    }
    let thumbprint = certificate.thumbprint();
    let name = format!("{id}/{thumbprint}");
    let proof = Proof {
        id: SecretId::from(Uuid::new_v5(&CERTIFICATES_NAMESPACE, name.as_bytes())),
        kind: ProofKind::Certificate(thumbprint),
    };
    count_use(app, &access, proof, peer);
    Ok(Some(Proved { access, proof }))
}

/// Checks a trust store that somebody writes.
pub(crate) fn check(text: &str) -> Result<(), String> {
    for (n, certificate) in TrustStore::read(text)?.0.iter().enumerate() {
        check_key(certificate).map_err(|problem| format!("The key of certificate {n} {problem}"))?;
    }
    Ok(())
}

/// Refuses a certificate if others than its owner can sign for its key.
fn check_key(certificate: &CertificateDer<'_>) -> Result<(), String> {
    let parsed = Certificate::from_der(certificate).map_err(|error| format!("cannot be read: {error}"))?;
    PublicKey::of_certificate(&parsed).and_then(|key| key.check()).map_err(|weakness| weakness.to_string())
}

/// The certificates that a client is known by.
#[derive(Debug, Default)]
struct TrustStore(Vec<CertificateDer<'static>>);

impl TrustStore {
    fn of(client: &Map<String, Value>) -> Option<Self> {
        Self::read(client.get(TRUST_STORE)?.as_str()?).ok()
    }

    /// Reads PEM. The error says what is wrong with it.
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > TRUST_STORE_BYTES_MAX {
            return Err(format!("A trust store has at most {TRUST_STORE_BYTES_MAX} bytes"));
        }
        if text.contains("PRIVATE KEY-----") {
            return Err("There is a private key in it: send certificates only, and make a new key".to_owned());
        }
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        let all = all.map_err(|error| format!("This is no list of certificates in PEM: {error}"))?;
        if all.is_empty() || all.len() > TRUSTED_CERTIFICATES_MAX {
            return Err(format!("A trust store has between 1 and {TRUSTED_CERTIFICATES_MAX} certificates"));
        }
        for (n, certificate) in all.iter().enumerate() {
            let parsed = Certificate::from_der(certificate)
                .map_err(|error| format!("Certificate {n} cannot be read: {error}"))?;
            // The TLS library takes no other, so it could never be used.
            if parsed.tbs_certificate.version != Version::V3 {
                return Err(format!("Certificate {n} is not of X.509 version 3: issue it with extensions"));
            }
        }
        Ok(Self(all))
    }

    /// Whether a certificate is one of them, or was issued by an authority among them, and is good now
    /// and for a client.
    fn accepts(&self, presented: &ClientCertificate, now: Timestamp) -> bool {
        let Ok(leaf) = Certificate::from_der(presented.leaf()) else { return false };
        // A certificate proves nothing if anybody can sign for its key.
        if check_key(presented.leaf()).is_err() {
            return false;
        }
        if self.0.contains(presented.leaf()) {
            return is_current(&leaf, now) && is_for_clients(&leaf);
        }
        let is_authority = |der: &&CertificateDer<'static>| {
            Certificate::from_der(der).is_ok_and(|parsed| is_current(&parsed, now) && can_issue(&parsed))
                && check_key(der).is_ok()
        };
        let authorities = self.0.iter().filter(is_authority);
        let anchors: Vec<_> = authorities.filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
        let Some(issuer) = contents(&leaf.tbs_certificate.issuer) else { return false };
        let is_issued = is_issued_by(&anchors, presented, now);
        if !is_issued && !anchors.iter().any(|anchor| anchor.subject.as_ref() == issuer.as_slice()) {
            // A signature is verified in any case (P5). What comes of it is nothing: everybody can sign
            // by this key.
            let key = [&P256_KEY[..], &BASE_POINT].concat();
            let stand_in = TrustAnchor {
                subject: Der::from(issuer),
                subject_public_key_info: Der::from(key),
                name_constraints: None,
            };
            let _ = is_issued_by(&[stand_in], presented, now);
        }
        is_issued
    }
}

fn is_issued_by(anchors: &[TrustAnchor<'_>], presented: &ClientCertificate, now: Timestamp) -> bool {
    let Ok(leaf) = EndEntityCert::try_from(presented.leaf()) else { return false };
    let algorithms = default_provider().signature_verification_algorithms.all;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds(now)));
    let (between, usage) = (presented.intermediates(), KeyUsage::client_auth());
    leaf.verify_for_usage(algorithms, anchors, between, time, usage, None, None).is_ok()
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.epoch_seconds()).unwrap_or(0)
}

fn is_current(certificate: &Certificate, now: Timestamp) -> bool {
    let validity = certificate.tbs_certificate.validity;
    let at = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
    (at(validity.not_before)..=at(validity.not_after)).contains(&seconds(now))
}

/// Whether a certificate is for TLS clients, or says nothing of what it is for (RFC 5280 §4.2.1.12).
fn is_for_clients(certificate: &Certificate) -> bool {
    match certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
        Ok(None) => true,
        Ok(Some((_, usage))) => {
            usage.0.iter().any(|id| *id == ID_KP_CLIENT_AUTH || *id == ANY_EXTENDED_KEY_USAGE)
        }
        Err(_) => false,
    }
}

fn can_issue(certificate: &Certificate) -> bool {
    let found = certificate.tbs_certificate.get::<BasicConstraints>();
    found.is_ok_and(|found| found.is_some_and(|(_, constraints)| constraints.ca))
}

/// What is within the outermost DER value of something.
fn contents(value: &impl Encode) -> Option<Vec<u8>> {
    let der = value.to_der().ok()?;
    AnyRef::from_der(&der).ok().map(|any| any.value().to_vec())
}
