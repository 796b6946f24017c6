//! What a grant gives: the claims of a JWT access token (RFC 9068 §2.2), with the names that
//! Medplum's clients read beside the standard ones.

use serde::{Deserialize, Serialize};

use crate::client::ProofKind;

/// The claims of an access token.
#[derive(Clone, Debug, Serialize)]
pub struct AccessClaims<'a> {
    /// Issuer: the base URL, ending with `/`.
    pub iss: &'a str,
    /// Subject: for `client_credentials` the client itself, else the user.
    pub sub: &'a str,
    /// Audience: the base URL of the API.
    pub aud: &'a str,
    /// The client the token was issued to.
    pub client_id: &'a str,
    /// Names this login; Medplum's clients take a token without it for a foreign one.
    pub login_id: &'a str,
    /// The subject again, as Medplum's clients expect it.
    pub username: &'a str,
    /// Granted scopes, separated by spaces.
    pub scope: &'a str,
    /// Reference to the caller's profile.
    pub profile: &'a str,
    /// Issued at, in seconds since the epoch (RFC 7519 `NumericDate`, as all times here).
    pub iat: i64,
    /// Not valid before.
    pub nbf: i64,
    /// Expires at.
    pub exp: i64,
    /// Names the token.
    pub jti: &'a str,
    /// The secret that the token was got with ([`crate::id::SecretId`]).
    pub sid: &'a str,
    /// When the person logged in (RFC 9068 §2.2.1); not there for a client in its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// What the bearer must hold; not there for whoever holds the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
}

/// What the bearer of a token must hold beside it (RFC 7800 §3.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confirmation {
    /// The key of the certificate with this thumbprint (RFC 8705 §3.1).
    #[serde(rename = "x5t#S256")]
    pub thumbprint: String,
}

impl Confirmation {
    /// What a token is bound to that was got by a proof.
    #[must_use]
    pub fn of(proof: ProofKind) -> Option<Self> {
        match proof {
            ProofKind::Certificate(thumbprint) => Some(Self { thumbprint: thumbprint.to_string() }),
            _ => None,
        }
    }
}

/// The claims of an ID token (OpenID Connect Core 1.0 §2): who logged in, told to the client.
#[derive(Clone, Debug, Serialize)]
pub struct IdClaims<'a> {
    /// Issuer.
    pub iss: &'a str,
    /// The user.
    pub sub: &'a str,
    /// The client.
    pub aud: &'a str,
    /// Issued at.
    pub iat: i64,
    /// Expires at.
    pub exp: i64,
    /// When the person proved who it is.
    pub auth_time: i64,
    /// The client's `nonce`, unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<&'a str>,
    /// The login, for RP-initiated logout.
    pub sid: &'a str,
    /// The person's FHIR resource (SMART App Launch 2.2, "Scopes for requesting identity data").
    #[serde(rename = "fhirUser", skip_serializing_if = "Option::is_none")]
    pub fhir_user: Option<&'a str>,
    /// The person's name, where the scope `profile` was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// The person's address, where the scope `email` was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
}
