//! Clients that register themselves (RFC 7591) and manage themselves afterwards (RFC 7592): how one
//! may prove itself, what bounds it, and who may come in by a registration access token. An admin
//! sets the bounds with the initial access token; a client never widens them.

use std::net::IpAddr;

use crate::caller::{Caller, SecretAuthority};
use crate::client::{ClientAccess, Refused};
use crate::id::{ClientId, SecretId};
use crate::scope::Scope;
use crate::ticket::Ticket;
use crate::time::Timestamp;

/// How a client proves itself at the token endpoint (RFC 7591 §2, `token_endpoint_auth_method`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Its secret, by Basic.
    SecretBasic,
    /// Its secret, in the form.
    SecretPost,
    /// An assertion signed by a key that it publishes (RFC 7523).
    PrivateKey,
    /// Nothing: a public client (RFC 6749 §2.1).
    Nothing,
}

impl AuthMethod {
    const ALL: [Self; 4] = [Self::SecretBasic, Self::SecretPost, Self::PrivateKey, Self::Nothing];

    /// The word for it in metadata and in a database column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretBasic => "client_secret_basic",
            Self::SecretPost => "client_secret_post",
            Self::PrivateKey => "private_key_jwt",
            Self::Nothing => "none",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }

    /// Whether it takes a secret.
    #[must_use]
    pub const fn needs_secret(self) -> bool {
        matches!(self, Self::SecretBasic | Self::SecretPost)
    }
}

/// What a client that registers itself may make of itself at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrationBounds {
    /// Its grant types; `None` allows all.
    pub grant_types: Option<Vec<String>>,
    /// Its scope; `None` leaves that to its membership.
    pub scope: Option<Scope>,
}

impl RegistrationBounds {
    /// Whether a client within the bounds may have a grant type.
    #[must_use]
    pub fn allow_grant(&self, grant_type: &str) -> bool {
        self.grant_types.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == grant_type))
    }

    /// Whether a client within the bounds may have a scope.
    #[must_use]
    pub fn allow_scope(&self, scope: &Scope) -> bool {
        self.scope.as_ref().is_none_or(|allowed| scope.is_within(allowed))
    }
}

/// What a registration adds to a client.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which client.
    pub client: ClientId,
    /// The registration access token that is current; older ones have passed.
    pub generation: u32,
    /// How it said that it would prove itself.
    pub auth_method: AuthMethod,
    /// What it may make of itself.
    pub bounds: RegistrationBounds,
    /// When it registered.
    pub registered: Timestamp,
}

impl Registration {
    /// Lets a client in that manages itself, if its token is the current one and if client, membership
    /// and project would let it in by a secret too. It comes with the authority over its own secrets.
    pub fn admit(
        &self,
        ticket: Ticket,
        access: &ClientAccess,
        from: IpAddr,
    ) -> Result<(Caller, SecretAuthority), Refused> {
        let is_current = ticket.of == self.client.uuid() && ticket.generation == self.generation;
        if !is_current || access.client != self.client {
            return Err(Refused::WrongSecret);
        }
        let caller = access.admit(Some(from), SecretId::NIL, Scope::default())?;
        let authority = SecretAuthority::of_itself(self.client, caller.project);
        Ok((caller, authority))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_read_back() {
        for method in AuthMethod::ALL {
            assert_eq!(AuthMethod::parse(method.as_str()), Some(method));
        }
        assert_eq!(AuthMethod::parse("client_secret_jwt"), None);
    }

    #[test]
    fn bounds_allow_what_they_name_and_without_a_name_all() {
        let free = RegistrationBounds::default();
        assert!(free.allow_grant("anything") && free.allow_scope(&Scope::parse("system/*.*").unwrap()));
        let bound = RegistrationBounds {
            grant_types: Some(vec!["client_credentials".to_owned()]),
            scope: Some(Scope::parse("system/Practitioner.rs openid").unwrap()),
        };
        assert!(bound.allow_grant("client_credentials") && !bound.allow_grant("authorization_code"));
        assert!(bound.allow_scope(&Scope::parse("system/Practitioner.rs").unwrap()));
        assert!(!bound.allow_scope(&Scope::parse("openid").unwrap()), "it would bind less");
        assert!(!bound.allow_scope(&Scope::parse("openid system/*.rs").unwrap()));
    }
}
