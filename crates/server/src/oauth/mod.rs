//! The authorization server: the token endpoint, the keys that sign its tokens, and the metadata
//! by which client libraries find both.

mod assertion;
mod certificate;
mod client_auth;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod introspect;
mod issue;
mod jose;
mod jwks;
mod key_renewal;
mod login_grants;
mod metadata;
mod public_key;
mod remote_keys;
mod revoke;
mod signing_key;
mod token;
mod userinfo;

pub(crate) use certificate::check as check_trust_store;
pub(crate) use client_auth::can_prove_itself;
pub(crate) use introspect::introspect;
pub(crate) use jose::{Bearer, TokenKeys, VerifiedToken};
pub(crate) use jwks::check as check_jwks;
pub(crate) use key_renewal::Renewal;
pub(crate) use metadata::{
    authorization_server, jwks, openid_configuration, protected_resource, smart_configuration,
};
pub(crate) use remote_keys::RemoteKeys;
pub(crate) use revoke::{logout, revoke, revoke_login};
pub(crate) use token::{GRANT_TYPES, token};
pub(crate) use userinfo::userinfo;
