//! A client application as the token path needs it: its secrets and settings, its membership and
//! its project, all as of one moment. [`ClientAccess::admit`] is the one place that decides whether
//! a client may come in at all; every route that lets someone in asks it. (A person who logged in
//! comes by [`crate::session`], which asks the same of membership and project.)

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::caller::{Caller, Profile, Role};
use crate::id::{ClientId, MembershipId, ProjectId, SecretId};
use crate::limits::{TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_MIN};
use crate::policy::AccessPolicy;
use crate::scope::Scope;
use crate::secret_rules::{AgeSettings, SecretRules};
use crate::slots::{Granting, NotGranted, Presented, SlotKind, StoredSlots, Verified};
use crate::time::Timestamp;

/// All that decides whether a client gets in, read in one query.
#[derive(Clone, Debug)]
pub struct ClientAccess {
    /// The client.
    pub client: ClientId,
    /// Its name, for people.
    pub name: Option<String>,
    /// Whether `ClientApplication.status` is `active`, or absent.
    pub active: bool,
    /// The secrets that let it in, each in its time.
    pub slots: StoredSlots,
    /// What its project says about their age.
    pub secret_age: AgeSettings,
    /// `ClientApplication.accessTokenLifetime`.
    pub access_token_lifetime: Option<Duration>,
    /// `ClientApplication.grantType`; `None` where the client names none, which allows all.
    pub grant_types: Option<Vec<String>>,
    /// `ClientApplication.defaultScope`.
    pub default_scope: Option<String>,
    /// What its registration binds it to for good (RFC 7591); `None` where an admin made it.
    pub scope_bound: Option<Scope>,
    /// Until when tokens of this client may be alive that have been revoked.
    pub revoked_until: Option<Timestamp>,
    /// Its membership in its project, if it has one.
    pub membership: Option<MembershipAccess>,
    /// Its project.
    pub project: ProjectAccess,
}

/// What a client proved itself by: a secret, a key, or a certificate. Each has an id, by which its
/// use is counted and tokens name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Which one; [`SecretId::NIL`] for [`ProofKind::Nothing`].
    pub id: SecretId,
    /// What it is.
    pub kind: ProofKind,
}

/// See [`Proof`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProofKind {
    /// `ClientApplication.secret`.
    ActiveSecret,
    /// `ClientApplication.retiringSecret`.
    RetiringSecret,
    /// A key of the client's key set, by an assertion (RFC 7523).
    Key,
    /// A certificate (RFC 8705).
    Certificate(Thumbprint),
    /// Nothing: a public client only says who it is.
    Nothing,
}

impl ProofKind {
    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ActiveSecret => "active",
            Self::RetiringSecret => "retiring",
            Self::Key => "key",
            Self::Certificate(_) => "certificate",
            Self::Nothing => "none",
        }
    }
}

/// SHA-256 of a certificate: what names it, and what access tokens are bound to (RFC 8705 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// From a digest.
    #[must_use]
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// In base64url.
impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl From<Verified> for Proof {
    fn from(verified: Verified) -> Self {
        let kind = match verified.kind {
            SlotKind::Active => ProofKind::ActiveSecret,
            SlotKind::Retiring => ProofKind::RetiringSecret,
        };
        Self { id: verified.id, kind }
    }
}

/// The part of a ProjectMembership that decides.
#[derive(Clone, Debug)]
pub struct MembershipAccess {
    /// The membership.
    pub id: MembershipId,
    /// `ProjectMembership.active`; absent is true.
    pub active: bool,
    /// `ProjectMembership.admin`.
    pub admin: bool,
    /// The policy that the membership is under.
    pub policy: Option<Arc<AccessPolicy>>,
    /// `ProjectMembership.profile`: in whose name the member acts.
    pub profile: Profile,
}

/// The part of a Project that decides.
#[derive(Clone, Debug)]
pub struct ProjectAccess {
    /// The project.
    pub id: ProjectId,
    /// `Project.name`.
    pub name: Option<String>,
    /// `Project.active`; absent is true. The clients of a deleted project are unknown.
    pub active: bool,
    /// `Project.superAdmin`.
    pub super_admin: bool,
}

/// A client is not let in. Why is for the log, never for the client (P5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such client.
    #[error("unknown client")]
    UnknownClient,
    /// The presented value is none of its secrets.
    #[error("wrong secret")]
    WrongSecret,
    /// The presented value is that secret of it, which is past its maximum age.
    #[error("secret {0} is past its maximum age")]
    TooOld(SecretId),
    /// The presented value cannot be anybody's secret, so nobody was looked up.
    #[error("garbled secret")]
    Garbled,
    /// `status` is not `active`.
    #[error("client is not active")]
    ClientOff,
    /// It has no membership, or an inactive one.
    #[error("no active membership")]
    NoMembership,
    /// Its project is inactive.
    #[error("project is not active")]
    ProjectOff,
    /// The person's account is switched off, or gone.
    #[error("user is not active")]
    UserOff,
    /// The login has ended, or never got to its end.
    #[error("no such login")]
    NoSession,
    /// A client assertion is signed by a key of the client, but is not for this server, not of this time, or not
    /// about this client.
    #[error("assertion does not hold")]
    BadAssertion,
    /// A certificate is not one that the client is known by, not of this time, or not for clients.
    #[error("certificate is not trusted")]
    BadCertificate,
    /// A token is bound to another certificate than the one that came with it.
    #[error("token is bound to another certificate")]
    NotTheHolder,
    /// A client assertion was used before.
    #[error("assertion was used before")]
    Replayed,
    /// The token has been revoked.
    #[error("token is revoked")]
    Revoked,
    /// Its access policy blocks the address.
    #[error("address is blocked")]
    AddressBlocked,
}

impl Refused {
    /// Whether a proof was refused although it is one of the client, and so is not a guess: the value is its secret,
    /// or its key made the signature.
    #[must_use]
    pub const fn is_past_the_proof(self) -> bool {
        use Refused::{AddressBlocked, BadAssertion, ClientOff, NoMembership, ProjectOff, Replayed, TooOld};
        matches!(
            self,
            TooOld(_) | ClientOff | NoMembership | ProjectOff | AddressBlocked | BadAssertion | Replayed
        )
    }
}

/// What a client that proves itself is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acts {
    /// It asks in its own name, so it must be a member of its project.
    ForItself,
    /// It asks for a person who is logged in; that person must be a member.
    ForPeople,
}

impl From<NotGranted> for Refused {
    fn from(why: NotGranted) -> Self {
        match why {
            NotGranted::NoneOfThem => Self::WrongSecret,
            NotGranted::TooOld(id) => Self::TooOld(id),
        }
    }
}

/// Proves a client by a presented secret. `rules` hold where its project says nothing. An unknown client costs the same digest and the same two
/// comparisons as a known one (P5).
pub fn authenticate(
    access: Option<&ClientAccess>,
    presented: &Presented,
    acts: Acts,
    from: IpAddr,
    rules: &SecretRules,
    now: Timestamp,
) -> Result<Proof, Refused> {
    let Some(access) = access else {
        let _ = Granting::NOTHING.verify(presented);
        return Err(Refused::UnknownClient);
    };
    let verified = access.granting(rules, now).verify(presented)?;
    access.check(acts, from)?;
    Ok(verified.into())
}

/// What is asked of every member, a client or a person: an active membership in an active project,
/// from an address that its policy allows. Without an address, only where somebody else asks about it.
pub(crate) fn admit_member<'a>(
    membership: Option<&'a MembershipAccess>,
    project: &ProjectAccess,
    from: Option<IpAddr>,
) -> Result<(&'a MembershipAccess, Role), Refused> {
    let membership = membership.filter(|m| m.active).ok_or(Refused::NoMembership)?;
    if !project.active {
        return Err(Refused::ProjectOff);
    }
    let blocks = |from| membership.policy.as_ref().is_some_and(|policy| !policy.allows_address(from));
    if from.is_some_and(blocks) {
        return Err(Refused::AddressBlocked);
    }
    let role = match (membership.admin, project.super_admin) {
        (true, true) => Role::SuperAdmin,
        (true, false) => Role::ProjectAdmin,
        (false, _) => Role::Member,
    };
    Ok((membership, role))
}

impl ClientAccess {
    /// Lets a client in that has proved itself, by a proof now or by a token that a proof once got,
    /// if its state, its membership and its project still allow it.
    pub fn admit(&self, from: Option<IpAddr>, proof: SecretId, scope: Scope) -> Result<Caller, Refused> {
        if !self.active {
            return Err(Refused::ClientOff);
        }
        let (membership, role) = admit_member(self.membership.as_ref(), &self.project, from)?;
        Ok(Caller {
            client: Some(self.client),
            login: None,
            profile: membership.profile,
            name: self.name.clone(),
            membership: membership.id,
            project: self.project.id,
            role,
            policy: membership.policy.clone(),
            scope: scope.bound_by(self.scope_bound.as_ref()),
            proof,
            by_token: true,
            token: None,
        })
    }

    /// Whether a client that has proved itself may do what it is about to.
    pub fn check(&self, acts: Acts, from: IpAddr) -> Result<(), Refused> {
        if !self.active {
            return Err(Refused::ClientOff);
        }
        match acts {
            Acts::ForItself => admit_member(self.membership.as_ref(), &self.project, Some(from)).map(drop),
            Acts::ForPeople if !self.project.active => Err(Refused::ProjectOff),
            Acts::ForPeople => Ok(()),
        }
    }

    /// Which of its secrets grant access.
    fn granting(&self, rules: &SecretRules, now: Timestamp) -> Granting<'_> {
        self.slots.granting(now, self.secret_age.lifespan(rules))
    }

    /// Lets a caller in again that was let in a while ago, as it is now.
    pub fn admit_again(
        &self,
        caller: &Caller,
        from: IpAddr,
        rules: &SecretRules,
        now: Timestamp,
    ) -> Result<Caller, Refused> {
        if !caller.by_token && !self.granting(rules, now).has(caller.proof) {
            return Err(Refused::WrongSecret);
        }
        let again = self.admit(Some(from), caller.proof, caller.scope.clone())?;
        Ok(Caller { by_token: caller.by_token, token: caller.token, ..again })
    }

    /// Whether `ClientApplication.grantType` allows a grant type.
    #[must_use]
    pub fn allows_grant(&self, grant_type: &str) -> bool {
        self.grant_types.as_ref().is_none_or(|allowed| allowed.iter().any(|name| name == grant_type))
    }

    /// How long an access token of this client lives.
    #[must_use]
    pub fn token_lifetime(&self) -> Duration {
        self.access_token_lifetime
            .unwrap_or(TOKEN_LIFETIME_DEFAULT)
            .clamp(TOKEN_LIFETIME_MIN, TOKEN_LIFETIME_MAX)
    }
}
