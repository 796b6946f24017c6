//! One login of a person: from the password to the consent, the authorization code (RFC 6749 §4.1),
//! the refresh tokens (§6) and the end. Moves are values in, values out; the store writes one only
//! if the session is still as it was read, so that a code is redeemed once and a generation of
//! refresh tokens passes once.

use std::net::IpAddr;
use std::time::Duration;

use crate::caller::{Caller, Login};
use crate::client::{MembershipAccess, ProjectAccess, Refused, admit_member};
use crate::id::{ClientId, MembershipId, ProjectId, SecretId, SessionId, UserId};
use crate::limits::{
    CODE_LIFETIME, LOGIN_LIFETIME, REFRESH_GRACE, REFRESH_TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_DEFAULT,
    TOKEN_LIFETIME_MAX, TOKEN_LIFETIME_MIN,
};
use crate::scope::Scope;
use crate::time::Timestamp;

/// How far a login has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The password was right; a second factor is asked for.
    SecondFactor,
    /// The person has several memberships and must choose one.
    Membership,
    /// The person must agree to what the client asks for.
    Consent,
    /// All is said; a code may be redeemed until the session's deadline.
    Code,
    /// The code was redeemed: tokens are alive.
    Granted,
    /// Nothing that came from it works any more.
    Ended,
}

impl Stage {
    const ALL: [Self; 6] =
        [Self::SecondFactor, Self::Membership, Self::Consent, Self::Code, Self::Granted, Self::Ended];

    /// The word for it in a database column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecondFactor => "second-factor",
            Self::Membership => "membership",
            Self::Consent => "consent",
            Self::Code => "code",
            Self::Granted => "granted",
            Self::Ended => "ended",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == text)
    }
}

/// One login.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its id: the `login_id` of tokens.
    pub id: SessionId,
    /// Counts its moves; a move is written only if this is still what was read.
    pub revision: i64,
    /// Who logs in.
    pub user: UserId,
    /// The other accounts of the address that have the same password; none once a membership is chosen.
    pub others: Vec<UserId>,
    /// Through which client; none for a login without one.
    pub client: Option<ClientId>,
    /// As which member, once that is known.
    pub membership: Option<MembershipId>,
    /// How far it has got.
    pub stage: Stage,
    /// What was asked for, and from [`Stage::Code`] on, what was granted.
    pub scope: Scope,
    /// The client's `nonce`, for the ID token (OpenID Connect Core §3.1.2.1).
    pub nonce: Option<String>,
    /// The `redirect_uri` of the authorization request, which the token request must repeat.
    pub redirect_uri: Option<String>,
    /// The S256 `code_challenge` (RFC 7636 §4.2).
    pub code_challenge: Option<String>,
    /// Whether refresh tokens are given.
    pub refreshable: bool,
    /// When the person proved who it is.
    pub authenticated: Timestamp,
    /// The deadline of the stage: of the log-in, of the code, or of everything that came from it.
    pub expires: Timestamp,
    /// The refresh token that is current; older ones have passed.
    pub generation: u32,
    /// When it became so.
    pub rotated: Timestamp,
}

/// Why a code or a refresh token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRedeemed {
    /// It is past its time, or its session ended, or never got so far.
    #[error("is expired, revoked, or was never issued")]
    Invalid,
    /// It was used before, by this client or by a thief: the session must end now.
    #[error("was used before, so everything that came from its login was revoked")]
    Reused,
}

/// What a refresh token leads to.
#[derive(Clone, Debug)]
pub enum Refreshed {
    /// The session's next generation; it must be written before its tokens are handed out.
    Next(Box<Session>),
    /// The reply that gave the current generation was lost a moment ago: it is given again.
    Again,
}

impl Session {
    /// A login whose password was right a moment ago.
    #[must_use]
    pub fn begin(
        id: SessionId,
        user: UserId,
        client: Option<ClientId>,
        scope: Scope,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            revision: 0,
            user,
            others: Vec::new(),
            client,
            membership: None,
            stage: Stage::SecondFactor,
            scope,
            nonce: None,
            redirect_uri: None,
            code_challenge: None,
            refreshable: false,
            authenticated: now,
            expires: now.plus(LOGIN_LIFETIME),
            generation: 0,
            rotated: now,
        }
    }

    /// Whether the stage's deadline has not passed.
    #[must_use]
    pub fn is_at(&self, stage: Stage, now: Timestamp) -> bool {
        self.stage == stage && now < self.expires
    }

    /// The login goes on to another stage before its end.
    #[must_use]
    pub fn at(self, stage: Stage) -> Self {
        Self { stage, revision: self.revision + 1, ..self }
    }

    /// A code may be redeemed from now on, for a short time.
    #[must_use]
    pub fn with_code(self, now: Timestamp) -> Self {
        Self { expires: now.plus(CODE_LIFETIME), ..self.at(Stage::Code) }
    }

    /// Redeems the code. `lifetime` is how long tokens may be refreshed, or, where they may not, how long
    /// the access token lives.
    pub fn redeem(self, now: Timestamp, lifetime: Duration) -> Result<Self, NotRedeemed> {
        match self.stage {
            Stage::Code if now < self.expires => {
                Ok(Self { expires: now.plus(lifetime), rotated: now, ..self.at(Stage::Granted) })
            }
            Stage::Granted => Err(NotRedeemed::Reused),
            _ => Err(NotRedeemed::Invalid),
        }
    }

    /// Takes a refresh token of `generation`. The one before the current is accepted for
    /// [`REFRESH_GRACE`] after it passed, and leads to the current one again; any older one is a
    /// sign of theft (RFC 9700 §4.14.2). `lifetime` is how long the next one can wait to be used.
    pub fn refresh(
        self,
        generation: u32,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Refreshed, NotRedeemed> {
        if self.stage != Stage::Granted || now >= self.expires || !self.refreshable {
            return Err(NotRedeemed::Invalid);
        }
        if generation == self.generation {
            let next = self.generation.checked_add(1).ok_or(NotRedeemed::Invalid)?;
            let revision = self.revision + 1;
            let expires = now.plus(lifetime);
            let session = Self { generation: next, rotated: now, expires, revision, ..self };
            return Ok(Refreshed::Next(Box::new(session)));
        }
        let just_passed = generation.checked_add(1) == Some(self.generation);
        if just_passed && now.since(self.rotated) <= REFRESH_GRACE {
            return Ok(Refreshed::Again);
        }
        Err(if generation < self.generation { NotRedeemed::Reused } else { NotRedeemed::Invalid })
    }

    /// Nothing that came from it works any more.
    #[must_use]
    pub fn ended(self) -> Self {
        self.at(Stage::Ended)
    }
}

/// What decides of a person's account.
#[derive(Clone, Debug)]
pub struct UserAccess {
    /// Who.
    pub id: UserId,
    /// Whether the account may be used.
    pub active: bool,
    /// The name, for people.
    pub name: Option<String>,
    /// The address the person logs in with.
    pub email: String,
}

/// What decides of the client that a person logged in through.
#[derive(Clone, Debug)]
pub struct SessionClient {
    /// Which.
    pub id: ClientId,
    /// Whether it may be used at all.
    pub active: bool,
    /// Its project, which is that of the membership.
    pub project: ProjectId,
    /// `ClientApplication.accessTokenLifetime`.
    pub access_token_lifetime: Option<Duration>,
    /// `ClientApplication.refreshTokenLifetime`.
    pub refresh_token_lifetime: Option<Duration>,
    /// Until when tokens of this client may be alive that have been revoked.
    pub revoked_until: Option<Timestamp>,
}

/// All that decides whether what came from a login still works, read in one query.
#[derive(Clone, Debug)]
pub struct SessionAccess {
    /// The login.
    pub session: Session,
    /// Who logged in.
    pub user: UserAccess,
    /// Through which client; none for a login without one.
    pub client: Option<SessionClient>,
    /// As which member.
    pub membership: Option<MembershipAccess>,
    /// In which project.
    pub project: Option<ProjectAccess>,
}

impl SessionAccess {
    /// Lets a person in that logged in before, if login, account, client, membership and project
    /// still allow it.
    pub fn admit(
        &self,
        from: Option<IpAddr>,
        proof: SecretId,
        scope: Scope,
        now: Timestamp,
    ) -> Result<Caller, Refused> {
        if !self.session.is_at(Stage::Granted, now) {
            return Err(Refused::NoSession);
        }
        self.admit_member(from, proof, scope)
    }

    /// The same before tokens are handed out: whatever stage the login is at.
    pub fn admit_member(
        &self,
        from: Option<IpAddr>,
        proof: SecretId,
        scope: Scope,
    ) -> Result<Caller, Refused> {
        if !self.user.active {
            return Err(Refused::UserOff);
        }
        let project = self.project.as_ref().ok_or(Refused::NoMembership)?;
        match &self.client {
            Some(client) if !client.active || client.project != project.id => return Err(Refused::ClientOff),
            None if self.session.client.is_some() => return Err(Refused::UnknownClient),
            _ => {}
        }
        let (membership, role) = admit_member(self.membership.as_ref(), project, from)?;
        Ok(Caller {
            client: self.session.client,
            login: Some(Login { user: self.user.id, session: self.session.id }),
            profile: membership.profile,
            name: self.user.name.clone(),
            membership: membership.id,
            project: project.id,
            role,
            policy: membership.policy.clone(),
            scope,
            proof,
            by_token: true,
            token: None,
        })
    }

    /// How long an access token of this login lives.
    #[must_use]
    pub fn token_lifetime(&self) -> Duration {
        let own = self.client.as_ref().and_then(|client| client.access_token_lifetime);
        own.unwrap_or(TOKEN_LIFETIME_DEFAULT).clamp(TOKEN_LIFETIME_MIN, TOKEN_LIFETIME_MAX)
    }

    /// How long what the code gives may live: as long as it can be refreshed, or as its access token.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        if !self.session.refreshable {
            return self.token_lifetime();
        }
        let own = self.client.as_ref().and_then(|client| client.refresh_token_lifetime);
        own.unwrap_or(REFRESH_TOKEN_LIFETIME_DEFAULT).max(self.token_lifetime())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_epoch_ms(1_000_000);
    const DAY: Duration = Duration::from_hours(24);

    fn granted() -> Session {
        let session = Session::begin(SessionId::NIL, UserId::NIL, None, Scope::default(), NOW);
        Session { refreshable: true, ..session.with_code(NOW).redeem(NOW, DAY).unwrap() }
    }

    fn next(session: Session, generation: u32, now: Timestamp) -> Session {
        match session.refresh(generation, now, DAY) {
            Ok(Refreshed::Next(next)) => *next,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_code_is_redeemed_once_and_in_time() {
        let session = Session::begin(SessionId::NIL, UserId::NIL, None, Scope::default(), NOW);
        assert_eq!(session.clone().redeem(NOW, DAY).unwrap_err(), NotRedeemed::Invalid);
        let coded = session.with_code(NOW);
        assert_eq!(coded.clone().redeem(NOW.plus(CODE_LIFETIME), DAY).unwrap_err(), NotRedeemed::Invalid);
        let granted = coded.redeem(NOW, DAY).unwrap();
        assert!(granted.is_at(Stage::Granted, NOW) && !granted.is_at(Stage::Granted, NOW.plus(DAY)));
        assert_eq!(granted.clone().redeem(NOW, DAY).unwrap_err(), NotRedeemed::Reused);
        assert_eq!(granted.ended().redeem(NOW, DAY).unwrap_err(), NotRedeemed::Invalid);
    }

    #[test]
    fn a_lost_reply_is_given_again_and_an_old_token_is_theft() {
        let first = granted();
        let second = next(first, 0, NOW);
        assert!(matches!(second.clone().refresh(0, NOW.plus(REFRESH_GRACE), DAY), Ok(Refreshed::Again)));
        let late = NOW.plus(REFRESH_GRACE + Duration::from_millis(1));
        assert_eq!(second.clone().refresh(0, late, DAY).unwrap_err(), NotRedeemed::Reused);
        let third = next(second, 1, NOW);
        assert_eq!(third.clone().refresh(0, NOW, DAY).unwrap_err(), NotRedeemed::Reused);
        assert_eq!(third.refresh(3, NOW, DAY).unwrap_err(), NotRedeemed::Invalid);
    }

    #[test]
    fn a_login_that_is_not_refreshable_or_over_is_not_refreshed() {
        let plain = Session { refreshable: false, ..granted() };
        assert_eq!(plain.refresh(0, NOW, DAY).unwrap_err(), NotRedeemed::Invalid);
        assert_eq!(granted().refresh(0, NOW.plus(DAY), DAY).unwrap_err(), NotRedeemed::Invalid);
        assert_eq!(granted().ended().refresh(0, NOW, DAY).unwrap_err(), NotRedeemed::Invalid);
    }

    #[test]
    fn stages_read_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::parse(stage.as_str()), Some(stage));
        }
        assert_eq!(Stage::parse("x"), None);
    }

    proptest! {
        /// However a client and a thief take turns, no generation is issued twice, and an old one ends it.
        #[test]
        fn generations_only_grow(steps in prop::collection::vec((0_u32..6, 0_u64..20), 1..30)) {
            let (mut session, mut now) = (granted(), NOW);
            for (generation, seconds) in steps {
                now = now.plus(Duration::from_secs(seconds));
                let before = session.generation;
                match session.clone().refresh(generation, now, DAY) {
                    Ok(Refreshed::Next(after)) => {
                        prop_assert_eq!((generation, after.generation), (before, before + 1));
                        session = *after;
                    }
                    Ok(Refreshed::Again) => {
                        prop_assert!(generation + 1 == before && now.since(session.rotated) <= REFRESH_GRACE);
                    }
                    Err(NotRedeemed::Reused) => prop_assert!(generation < before),
                    Err(NotRedeemed::Invalid) => prop_assert!(generation > before),
                }
            }
        }
    }
}
