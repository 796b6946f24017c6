//! The authorization server: the token endpoint, the keys that sign its tokens, and the metadata
//! by which client libraries find both.

mod jose;
mod metadata;
mod token;

pub(crate) use jose::{Bearer, TokenKeys, VerifiedToken};
pub(crate) use metadata::{
    authorization_server, jwks, openid_configuration, protected_resource, smart_configuration,
};
pub(crate) use token::token;
