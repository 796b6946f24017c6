//! The names of things. Each kind of id is a type of its own, so that a version cannot be passed
//! for a client; all are UUIDs, and only their one canonical spelling is read (FHIR ids are
//! case-sensitive).

use std::fmt;

use uuid::Uuid;

use crate::random::{Entropy, random_uuid, time_ordered_uuid};
use crate::time::Timestamp;

macro_rules! ids {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The id that nothing has.
            pub const NIL: Self = Self(Uuid::nil());

            /// A fresh random id.
            #[must_use]
            pub fn random(entropy: &dyn Entropy) -> Self {
                Self(random_uuid(entropy))
            }

            /// Reads the canonical spelling: 36 characters, lower case, hyphens; `None` for all else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                parse_canonical(text).map(Self)
            }

            /// The id as a UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    )*};
}

ids! {
    /// Any resource (`Resource.id`).
    ResourceId,
    /// One version of a resource (`Resource.meta.versionId`).
    VersionId,
    /// A Project.
    ProjectId,
    /// A ClientApplication.
    ClientId,
    /// A ProjectMembership.
    MembershipId,
    /// One secret of a client, without its value: what tokens, usage and audit name.
    SecretId,
    /// A person's account (a User).
    UserId,
    /// One login of a person: what codes, refresh tokens and access tokens come from.
    SessionId,
    /// One access token (the `jti` of RFC 7519 §4.1.7).
    TokenId,
    /// A key that signs tokens (the `kid` of RFC 7517 §4.5).
    SigningKeyId,
    /// What an initial access token of client registration names (RFC 7591 §3).
    RegistrationGrantId,
    /// One server process, from its start to its end.
    NodeId,
    /// The audit records of one writer, in their order.
    ChainId,
    /// Something that is told of (the `webhook-id` of Standard Webhooks).
    EventId,
    /// A webhook of a project.
    WebhookId,
}

impl EventId {
    /// An id that sorts by the time of its making.
    #[must_use]
    pub fn made_at(now: Timestamp, entropy: &dyn Entropy) -> Self {
        Self(time_ordered_uuid(now, entropy))
    }

    /// The id before all that are made from a moment on.
    #[must_use]
    pub fn first_at(at: Timestamp) -> Self {
        let ms = u64::try_from(at.epoch_ms()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid())
    }
}

macro_rules! is_a_resource {
    ($($name:ident),*) => {$(
        impl From<$name> for ResourceId {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }

        impl From<ResourceId> for $name {
            fn from(id: ResourceId) -> Self {
                Self(id.0)
            }
        }
    )*};
}

is_a_resource!(ProjectId, ClientId, MembershipId, UserId);

fn parse_canonical(text: &str) -> Option<Uuid> {
    if text.len() != 36 || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    Uuid::try_parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        let text = "0198c2f0-1111-4222-8333-944455566677";
        assert_eq!(ClientId::parse(text).map(|id| id.to_string()).as_deref(), Some(text));
        for other in [
            "0198C2F0-1111-4222-8333-944455566677",
            "0198c2f01111422283339444555666770000",
            "{0198c2f0-1111-4222-8333-94445556667}",
            "0198c2f0111142228333944455566677",
            "",
            "$rotate-secret",
        ] {
            assert_eq!(ClientId::parse(other), None, "{other}");
        }
    }
}
