//! Public keys that clients authenticate with: their own (RFC 7517) and those of certificates (RFC 5280). A caller
//! that can sign for a key authenticates as its owner, so a key that anybody can sign for is refused when it is
//! written, and is never used if it is stored already.

use std::sync::LazyLock;

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED;
use curve25519_dalek::edwards::CompressedEdwardsY;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
use keyrelay_core::limits::{
    RSA_EXPONENT_BITS_MAX, RSA_EXPONENT_BITS_MIN, RSA_MODULUS_BITS_MAX, RSA_MODULUS_BITS_MIN,
};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, UintRef};
use x509_cert::der::oid::db::rfc5912::{
    ID_EC_PUBLIC_KEY, ID_RSASSA_PSS, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1,
};
use x509_cert::der::oid::db::rfc8410::ID_ED_25519;
use x509_cert::der::{Decode, Reader, SliceReader};

/// Product of the odd primes up to 53: the largest such product in 64 bits.
const SMALL_PRIMES_PRODUCT: u64 = 16_294_579_238_595_022_365;
const SMALL_PRIMES: [u64; 15] = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53];

/// Why a key is refused; the text follows the name of the key in a sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Weakness {
    #[error("is none of RSA, P-256, P-384 and Ed25519")]
    Kind,
    #[error("cannot be read: {0}")]
    Encoding(&'static str),
    #[error(
        "is an RSA key of {0} bits: at least {RSA_MODULUS_BITS_MIN} and at most {RSA_MODULUS_BITS_MAX} are accepted"
    )]
    ModulusBits(usize),
    #[error("has an RSA modulus with small factors, so anybody can compute its private part")]
    SmallFactors,
    #[error(
        "has an RSA exponent that is even or below 65537, or that has more than {RSA_EXPONENT_BITS_MAX} bits"
    )]
    Exponent,
    #[error("is not a point of its curve")]
    OffCurve,
    #[error("is a point of small order: one constant signature is good for every message")]
    SmallOrder,
    #[error("is the base point of its curve, so its private part is known to everybody")]
    BasePoint,
    #[error("is refused by the cryptography library")]
    Rejected,
}

/// A curve of NIST (FIPS 186-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }

    /// The base point: the public part where the private part is 1. `None` if the library cannot compute it.
    fn base_point(self) -> Option<&'static [u8]> {
        static POINTS: LazyLock<[Option<Vec<u8>>; 3]> = LazyLock::new(|| {
            [(&ECDH_P256, Curve::P256), (&ECDH_P384, Curve::P384), (&ECDH_P521, Curve::P521)].map(
                |(algorithm, curve)| {
                    let mut one = vec![0; curve.coordinate_bytes()];
                    *one.last_mut()? = 1;
                    let private = agreement::PrivateKey::from_private_key(algorithm, &one).ok()?;
                    private.compute_public_key().ok().map(|public| public.as_ref().to_vec())
                },
            )
        });
        let [p256, p384, p521] = &*POINTS;
        let point = match self {
            Self::P256 => p256,
            Self::P384 => p384,
            Self::P521 => p521,
        };
        point.as_deref()
    }
}

/// A public key, not checked yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// Both in big-endian bytes.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// An uncompressed point (SEC 1 §2.3.3).
    Point(Curve, Vec<u8>),
    /// RFC 8032 §5.1.2.
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// Reads the key of a JWK.
    pub(super) fn of_jwk(parameters: &AlgorithmParameters) -> Result<Self, Weakness> {
        let bytes = |text: &str| {
            URL_SAFE_NO_PAD.decode(text).map_err(|_| Weakness::Encoding("it is no base64url without padding"))
        };
        match parameters {
            AlgorithmParameters::RSA(rsa) => {
                Ok(Self::Rsa { modulus: bytes(&rsa.n)?, exponent: bytes(&rsa.e)? })
            }
            AlgorithmParameters::EllipticCurve(ec) => {
                let curve = match ec.curve {
                    EllipticCurve::P256 => Curve::P256,
                    EllipticCurve::P384 => Curve::P384,
                    _ => return Err(Weakness::Kind),
                };
                let (x, y) = (bytes(&ec.x)?, bytes(&ec.y)?);
                if [&x, &y].iter().any(|part| part.len() != curve.coordinate_bytes()) {
                    return Err(Weakness::Encoding("a coordinate has another length than the curve's"));
                }
                Ok(Self::Point(curve, [&[0x04], &x[..], &y].concat()))
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Ok(Self::Ed25519(bytes(&okp.x)?))
            }
            _ => Err(Weakness::Kind),
        }
    }

    /// Reads the key of a certificate (RFC 3279 §2.3, RFC 5480, RFC 8410).
    pub(super) fn of_certificate(certificate: &Certificate) -> Result<Self, Weakness> {
        let info = &certificate.tbs_certificate.subject_public_key_info;
        let bytes = info.subject_public_key.as_bytes().ok_or(Weakness::Encoding("it has no whole bytes"))?;
        match info.algorithm.oid {
            RSA_ENCRYPTION | ID_RSASSA_PSS => rsa_of_der(bytes),
            ID_EC_PUBLIC_KEY => {
                // A curve that the certificate itself describes is not a known curve.
                let named = info.algorithm.parameters.as_ref();
                let named = named.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
                let curve = match named {
                    Some(SECP_256_R_1) => Curve::P256,
                    Some(SECP_384_R_1) => Curve::P384,
                    Some(SECP_521_R_1) => Curve::P521,
                    _ => return Err(Weakness::Kind),
                };
                Ok(Self::Point(curve, bytes.to_vec()))
            }
            ID_ED_25519 => Ok(Self::Ed25519(bytes.to_vec())),
            _ => Err(Weakness::Kind),
        }
    }

    /// The signature algorithms that it can verify.
    pub(super) const fn algorithms(&self) -> &'static [Algorithm] {
        match self {
            Self::Rsa { .. } => &[Algorithm::RS384, Algorithm::RS256],
            Self::Point(Curve::P256, _) => &[Algorithm::ES256],
            Self::Point(Curve::P384, _) => &[Algorithm::ES384],
            Self::Point(Curve::P521, _) => &[],
            Self::Ed25519(_) => &[Algorithm::EdDSA],
        }
    }

    /// Refuses a key that is unusable, or that others than its owner can sign for.
    pub(super) fn check(&self) -> Result<(), Weakness> {
        match self {
            Self::Rsa { modulus, exponent } => check_rsa(modulus, exponent),
            Self::Point(curve, point) => check_point(*curve, point),
            Self::Ed25519(bytes) => check_ed25519(bytes),
        }
    }
}

/// `RSAPublicKey` (RFC 8017 §A.1.1).
fn rsa_of_der(bytes: &[u8]) -> Result<PublicKey, Weakness> {
    let read = || {
        let mut reader = SliceReader::new(bytes)?;
        let key = reader.sequence(|reader| {
            let (modulus, exponent) = (UintRef::decode(reader)?, UintRef::decode(reader)?);
            Ok(PublicKey::Rsa {
                modulus: modulus.as_bytes().to_vec(),
                exponent: exponent.as_bytes().to_vec(),
            })
        })?;
        reader.finish(key)
    };
    read().map_err(|_: x509_cert::der::Error| Weakness::Encoding("it is no RSAPublicKey"))
}

fn bits(number: &[u8]) -> usize {
    match number.iter().position(|byte| *byte != 0) {
        Some(first) => (number.len() - first) * 8 - number[first].leading_zeros() as usize,
        None => 0,
    }
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|last| last % 2 == 1)
}

fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), Weakness> {
    // By its value, not by the length of its encoding.
    let size = bits(modulus);
    if !(RSA_MODULUS_BITS_MIN..=RSA_MODULUS_BITS_MAX).contains(&size) {
        return Err(Weakness::ModulusBits(size));
    }
    if !is_odd(exponent) || !(RSA_EXPONENT_BITS_MIN..=RSA_EXPONENT_BITS_MAX).contains(&bits(exponent)) {
        return Err(Weakness::Exponent);
    }
    let rest = modulus
        .iter()
        .fold(0_u128, |rest, byte| (rest * 256 + u128::from(*byte)) % u128::from(SMALL_PRIMES_PRODUCT));
    if !is_odd(modulus) || SMALL_PRIMES.iter().any(|prime| rest.is_multiple_of(u128::from(*prime))) {
        return Err(Weakness::SmallFactors);
    }
    if modulus.first() == Some(&0) || exponent.first() == Some(&0) {
        return Err(Weakness::Encoding("its numbers must have no leading zeros (RFC 7518 §6.3.1)"));
    }
    let der: Result<PublicKeyX509Der<'_>, _> = RsaPublicKeyComponents { n: modulus, e: exponent }.as_der();
    let der = der.map_err(|_| Weakness::Rejected)?;
    parse(&RSA_PKCS1_2048_8192_SHA256, der.as_ref()).ok_or(Weakness::Rejected)
}

fn check_point(curve: Curve, point: &[u8]) -> Result<(), Weakness> {
    if point.len() != 1 + 2 * curve.coordinate_bytes() || point[0] != 0x04 {
        return Err(Weakness::Encoding("it is no uncompressed point"));
    }
    parse(curve.verification(), point).ok_or(Weakness::OffCurve)?;
    // The negated base point has the private part -1.
    let x = 1..=curve.coordinate_bytes();
    if curve.base_point().is_some_and(|base| base.get(x.clone()) == point.get(x)) {
        return Err(Weakness::BasePoint);
    }
    Ok(())
}

/// The library accepts any 32 bytes as an Ed25519 key.
fn check_ed25519(bytes: &[u8]) -> Result<(), Weakness> {
    let encoded: [u8; 32] =
        bytes.try_into().map_err(|_| Weakness::Encoding("a key of Ed25519 has 32 bytes"))?;
    let point = CompressedEdwardsY(encoded).decompress().ok_or(Weakness::OffCurve)?;
    if point.is_small_order() {
        return Err(Weakness::SmallOrder);
    }
    if point.compress().0 != encoded {
        return Err(Weakness::Encoding("its point is not in the one encoding of RFC 8032 §5.1.2"));
    }
    // The highest bit says which of the two points it is.
    let y = |mut encoded: [u8; 32]| {
        encoded[31] &= 0x7f;
        encoded
    };
    if y(encoded) == y(ED25519_BASEPOINT_COMPRESSED.0) {
        return Err(Weakness::BasePoint);
    }
    parse(&ED25519, bytes).ok_or(Weakness::Rejected)
}

fn parse(algorithm: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Option<()> {
    ParsedPublicKey::new(algorithm, bytes).ok().map(drop)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    fn ed25519(encoded: [u8; 32]) -> Result<(), Weakness> {
        PublicKey::Ed25519(encoded.to_vec()).check()
    }

    #[test]
    fn every_point_of_small_order_is_refused_in_each_encoding() {
        for point in EIGHT_TORSION {
            let mut encoded = point.compress().0;
            assert_eq!(ed25519(encoded), Err(Weakness::SmallOrder));
            encoded[31] ^= 0x80;
            assert!(ed25519(encoded).is_err(), "{encoded:?}");
        }
        // The field has 2^255 - 19 elements, and 19 of them can be written twice.
        for above in 0..19 {
            for sign in [0x7f, 0xff] {
                let mut encoded = [0xff; 32];
                (encoded[0], encoded[31]) = (0xed + above, sign);
                assert!(ed25519(encoded).is_err(), "{encoded:?}");
            }
        }
    }

    #[test]
    fn ed25519_keys_that_are_no_point_or_known_to_everybody_are_refused() {
        let mut seen = 0;
        for y in 2..=20 {
            let mut encoded = [0; 32];
            encoded[0] = y;
            seen += usize::from(ed25519(encoded) == Err(Weakness::OffCurve));
        }
        assert!(seen > 0, "half of all coordinates are of no point");
        assert_eq!(ed25519(ED25519_BASEPOINT_COMPRESSED.0), Err(Weakness::BasePoint));
        assert!(matches!(PublicKey::Ed25519(vec![9; 31]).check(), Err(Weakness::Encoding(_))));
        for _ in 0..20 {
            let pair = Ed25519KeyPair::generate().unwrap();
            assert_eq!(PublicKey::Ed25519(pair.public_key().as_ref().to_vec()).check(), Ok(()));
        }
    }

    #[test]
    fn points_off_the_curve_and_base_points_are_refused() {
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            let base = curve.base_point().unwrap().to_vec();
            assert_eq!(PublicKey::Point(curve, base.clone()).check(), Err(Weakness::BasePoint));
            let mut off = base;
            *off.last_mut().unwrap() ^= 1;
            assert_eq!(PublicKey::Point(curve, off).check(), Err(Weakness::OffCurve));
            let zero = [&[0x04][..], &vec![0; 2 * curve.coordinate_bytes()]].concat();
            assert_eq!(PublicKey::Point(curve, zero).check(), Err(Weakness::OffCurve));
            assert!(PublicKey::Point(curve, vec![0]).check().is_err(), "the point at infinity");
        }
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        assert_eq!(PublicKey::Point(Curve::P384, point.clone()).check(), Ok(()));
        assert!(PublicKey::Point(Curve::P256, point).check().is_err(), "of another curve");
    }

    /// A number of so many bits without a small factor; it need not be the product of two primes.
    fn modulus(bits: usize) -> Vec<u8> {
        let mut number = vec![0; bits.div_ceil(8)];
        number[0] = 1 << ((bits - 1) % 8);
        for last in (1..=u8::MAX).step_by(2) {
            *number.last_mut().unwrap() = last;
            let number = number.clone();
            let known = PublicKey::Rsa { modulus: number.clone(), exponent: vec![1, 0, 1] }.check();
            if known != Err(Weakness::SmallFactors) {
                return number;
            }
        }
        unreachable!("one in five has none")
    }

    #[test]
    fn weak_rsa_keys_are_refused() {
        let check = |modulus: &[u8], exponent: &[u8]| {
            PublicKey::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() }.check()
        };
        let (good, f4) = (modulus(2048), [1, 0, 1]);
        assert_eq!(check(&good, &f4), Ok(()));
        assert_eq!(check(&modulus(8192), &f4), Ok(()));
        for bits in [0, 1024, 2047, 8193, 16_384] {
            let number = if bits == 0 { vec![0; 300] } else { modulus(bits) };
            assert_eq!(check(&number, &f4), Err(Weakness::ModulusBits(bits)));
            let padded = [&[0; 200][..], &number].concat();
            assert_eq!(check(&padded, &f4), Err(Weakness::ModulusBits(bits)), "padded");
        }
        for exponent in
            [&[][..], &[0], &[1], &[3], &[0xff, 0xff], &[1, 0, 0], &[1, 0, 2], &[3, 0, 0, 0, 1], &good]
        {
            assert_eq!(check(&good, exponent), Err(Weakness::Exponent), "{exponent:?}");
        }
        let even = [&good[..255], &[0]].concat();
        for smooth in [&even[..], &[0xff; 256]] {
            assert_eq!(check(smooth, &f4), Err(Weakness::SmallFactors));
        }
        assert!(matches!(check(&[&[0][..], &good].concat(), &f4), Err(Weakness::Encoding(_))));
        assert!(matches!(check(&good, &[0, 1, 0, 1]), Err(Weakness::Encoding(_))));
    }
}
