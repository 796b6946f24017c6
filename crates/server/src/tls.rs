//! TLS inside the server: rustls, with aws-lc-rs, from a certificate and a key in PEM files. The files
//! are read again when they change. What is in them is used for new connections only; if it cannot be
//! used, what was there before stays, and the log says why.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest::{Context, SHA256};
use keyrelay_core::limits::TLS_FILE_BYTES_MAX;
use keyrelay_core::time::Timestamp;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::time::Time;
use zeroize::Zeroizing;

use crate::ClientCertificates;

/// The one protocol that is spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// A certificate, its key, and what is needed to use them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    files: Arc<Files>,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than anything that belongs into it.
    #[error("{0} is larger than {TLS_FILE_BYTES_MAX} bytes")]
    TooLarge(String),
    /// There is no certificate in the file.
    #[error("{0} holds no certificate: it must be a PEM file, the server's own certificate first")]
    NoCertificate(String),
    /// There is no private key in the file.
    #[error("{0} holds no private key in PEM")]
    NoKey(String),
    /// They are there, but not good.
    #[error("the certificate and the key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What is in the files, and a digest of it to see whether it changes.
struct Read {
    chain: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    digest: [u8; 32],
}

impl Files {
    fn read(&self) -> Result<Read, TlsError> {
        let (chain, key) = (read(&self.certificate)?, read(&self.key)?);
        let mut context = Context::new(&SHA256);
        context.update(&(chain.len() as u64).to_be_bytes());
        context.update(&chain);
        context.update(&key);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Ok(Read { chain, key, digest })
    }

    fn parse(&self, read: &Read) -> Result<CertifiedKey, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read.chain)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate(self.certificate.display().to_string()))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(self.certificate.display().to_string()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read.key)
            .map_err(|_| TlsError::NoKey(self.key.display().to_string()))?;
        Ok(CertifiedKey::from_der(chain, key, &provider())?)
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.display().to_string(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > TLS_FILE_BYTES_MAX {
        return Err(TlsError::TooLarge(path.display().to_string()));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(failed)
}

fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// What new connections are given.
struct Current(RwLock<Loaded>);

struct Loaded {
    key: Arc<CertifiedKey>,
    /// Of what was read last, whether it could be used or not.
    digest: [u8; 32],
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current([redacted])")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

/// Asks for a certificate, and takes any whose key the client holds, or none: whose it is, is decided
/// when a client says who it is.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl Default for AnyClient {
    fn default() -> Self {
        Self(provider().signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl Tls {
    /// Reads a certificate chain and its key.
    pub fn load(certificate: PathBuf, key: PathBuf, clients: ClientCertificates) -> Result<Self, TlsError> {
        let files = Files { certificate, key };
        let read = files.read()?;
        let key = Arc::new(files.parse(&read)?);
        let current = Arc::new(Current(RwLock::new(Loaded { key, digest: read.digest })));
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12])?;
        let builder = match clients {
            ClientCertificates::Tls => builder.with_client_cert_verifier(Arc::new(AnyClient::default())),
            ClientCertificates::Off | ClientCertificates::Header => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { files: Arc::new(files), current, config: Arc::new(config) })
    }

    /// Reads the files again. True if there is something new in them, which is used from now on. An
    /// error is told once for what it is about; what was used before is used on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = self.files.read()?;
        let mut loaded = self.current.0.write().unwrap_or_else(PoisonError::into_inner);
        if loaded.digest == read.digest {
            return Ok(false);
        }
        loaded.digest = read.digest;
        loaded.key = Arc::new(self.files.parse(&read)?);
        Ok(true)
    }

    /// The same, beside the threads that answer requests, and into the log.
    pub async fn reload_and_log(&self) {
        let tls = self.clone();
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => {
                tracing::info!("the TLS certificate has changed; new connections get the new one");
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the TLS certificate was not changed: the one before is used on");
            }
            Err(error) => tracing::error!(%error, "the TLS certificate could not be looked at"),
        }
    }

    /// From when and until when the certificate in the files is good; `None` if that cannot be read.
    #[must_use]
    pub fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let key = Arc::clone(&self.current.0.read().unwrap_or_else(PoisonError::into_inner).key);
        let certificate = Certificate::from_der(key.cert.first()?).ok()?;
        let validity = certificate.tbs_certificate.validity;
        let at = |time: Time| i64::try_from(time.to_unix_duration().as_millis()).ok();
        Some((
            Timestamp::from_epoch_ms(at(validity.not_before)?),
            Timestamp::from_epoch_ms(at(validity.not_after)?),
        ))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}
