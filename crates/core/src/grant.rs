//! What a grant gives: the claims of a JWT access token (RFC 9068 §2.2), with the names that
//! Medplum's clients read beside the standard ones.

use serde::Serialize;

/// The claims of an access token.
#[derive(Clone, Debug, Serialize)]
pub struct AccessClaims<'a> {
    /// Issuer: the base URL, ending with `/`.
    pub iss: &'a str,
    /// Subject: for `client_credentials` the client itself.
    pub sub: &'a str,
    /// Audience: the base URL of the API.
    pub aud: &'a str,
    /// The client the token was issued to.
    pub client_id: &'a str,
    /// Names this login; Medplum's clients take a token without it for a foreign one.
    pub login_id: &'a str,
    /// The client id again, as Medplum's clients expect it.
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
}
