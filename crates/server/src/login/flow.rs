//! The steps of a login, whoever takes them. Each is decided on the session as it was read and written
//! only if it still is so. Wrong password, unknown person, switched-off account, no membership: one
//! answer at one cost (P5).

use std::net::IpAddr;
use std::time::Duration;

use keyrelay_core::id::{ClientId, MembershipId, ProjectId, SessionId, UserId};
use keyrelay_core::password::PlainPassword;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::session::{Session, SessionAccess, Stage};
use keyrelay_core::ticket::TicketKind;
use keyrelay_core::totp::TotpKey;
use keyrelay_store::{Change, Conflict, MembershipChoice, StoreError, UserAccount};

use super::attempts::{self, Look};
use crate::App;
use crate::error::Outcome;

/// What somebody logs in with, and for what.
pub(super) struct LoginRequest {
    /// In lower case.
    pub(super) email: String,
    pub(super) password: PlainPassword,
    pub(super) client: Option<ClientId>,
    /// Whether no login is possible, because the client does not exist, is not active, or did not register the
    /// redirect URI. The answer is that of a wrong password.
    pub(super) is_for_nobody: bool,
    /// Other problems of the request. Only a person who has proved to belong to the client learns about its settings.
    pub(super) problem: Option<Outcome>,
    /// The project of the client, or the one that was named.
    pub(super) project: Option<ProjectId>,
    pub(super) scope: Scope,
    pub(super) nonce: Option<String>,
    pub(super) redirect_uri: Option<String>,
    pub(super) code_challenge: Option<String>,
    pub(super) refreshable: bool,
    /// Whether the person must agree to what the client asks for.
    pub(super) consent: bool,
}

/// Why a step was not taken.
#[derive(Debug)]
pub(super) enum NotLoggedIn {
    /// Wrong, unknown, off, locked: nobody learns which.
    Refused,
    /// The person is authenticated, but the request cannot be granted.
    Bad(Outcome),
    /// There is no such login, it is over, or it is at another step.
    NoLogin,
    /// Too many failures; how long to wait.
    Throttled(Duration),
    Store(StoreError),
}

impl From<StoreError> for NotLoggedIn {
    fn from(error: StoreError) -> Self {
        match error {
            // Somebody else took the step.
            StoreError::Conflict(Conflict::Version) => Self::NoLogin,
            error => Self::Store(error),
        }
    }
}

impl From<NotLoggedIn> for Outcome {
    fn from(error: NotLoggedIn) -> Self {
        match error {
            // Every caller gets the hints, so that they do not reveal which addresses and clients exist.
            NotLoggedIn::Refused => Self::invalid(
                "Email or password is invalid, or people do not log in through this clientId with this redirectUri. \
                 With accounts in several projects, name one by projectId",
            ),
            NotLoggedIn::NoLogin => {
                Self::invalid("There is no such login, it is over, or it is at another step: log in again")
            }
            NotLoggedIn::Bad(outcome) => outcome,
            NotLoggedIn::Throttled(wait) => Self::throttled(wait),
            NotLoggedIn::Store(error) => error.into(),
        }
    }
}

/// The code that a session at [`Stage::Code`] gives.
pub(super) fn code(app: &App, session: &Session) -> PlainSecret {
    app.keyring.issue_ticket(TicketKind::Code, session.id.uuid(), 0)
}

/// The first step: the password.
pub(super) async fn begin(app: &App, request: LoginRequest, from: IpAddr) -> Result<Session, NotLoggedIn> {
    let now = app.now();
    if let Some(wait) = app.limiter.blocks_people(from, now) {
        return Err(NotLoggedIn::Throttled(wait));
    }
    let LoginRequest { password, .. } = request;
    let (email, is_for_nobody) = (&request.email, request.is_for_nobody);
    let mut fits = prove(app, email, request.project, is_for_nobody, password, from).await?;
    for account in &fits {
        if account.totp_confirmed {
            // Earlier failures may be wrong codes, which a correct password must not reset.
            app.attempts.take_back(account);
        } else {
            app.attempts.forgive(account);
        }
    }
    if let Some(problem) = request.problem {
        return Err(NotLoggedIn::Bad(problem));
    }
    if request.project.is_some() {
        // The account of the project comes before one of the whole server: one membership is to be chosen.
        fits.sort_by_key(|account| account.row.project.is_none());
    }
    let mut choices = Vec::new();
    for account in &fits {
        if request.project.is_none() || choices.is_empty() {
            choices.extend(self::choices(app, account.row.id, request.project, from).await?);
        }
    }
    let mut users: Vec<UserId> = choices.iter().map(|choice| choice.user).collect();
    users.dedup();
    let [user, others @ ..] = users.as_slice() else {
        return Err(refuse(app, from, "no membership for this address"));
    };
    let session = Session {
        others: others.to_vec(),
        nonce: request.nonce,
        redirect_uri: request.redirect_uri,
        code_challenge: request.code_challenge,
        refreshable: request.refreshable,
        ..Session::begin(SessionId::random(app.entropy.as_ref()), *user, request.client, request.scope, now)
    };
    let has_second_factor =
        fits.iter().any(|account| account.row.id == session.user && account.totp_confirmed);
    let session = if !session.others.is_empty() {
        // The account, and so the second factor, is known only after the membership is chosen.
        session.at(Stage::Membership)
    } else if has_second_factor {
        // Where a project was named, it need not be named again.
        Session { membership: only(&choices), ..session }
    } else {
        after_second_factor(app, session, &choices, request.consent)
    };
    let session = Session { revision: 0, ..session };
    let mut change = Change::new();
    change.create_session(&session);
    app.store.commit(change).await?;
    Ok(session)
}

/// The accounts of an address that have this password, at least one. An attempt was counted at each account that was
/// checked.
async fn prove(
    app: &App,
    email: &str,
    project: Option<ProjectId>,
    is_for_nobody: bool,
    password: PlainPassword,
    from: IpAddr,
) -> Result<Vec<UserAccount>, NotLoggedIn> {
    let look = app.attempts.look();
    let mut accounts = app.store.accounts_of(email, project).await?;
    if is_for_nobody {
        accounts.clear();
    }
    let hashes = std::array::from_fn(|n| accounts.get(n).and_then(|account| account.password_hash.clone()));
    // Counted while the password is hashed, so that only the hashes take time, as for an unknown person.
    let counted = count_each(app, accounts, look);
    let done = app.passwords.verify_each_while(from, hashes, password, counted).await;
    let (right, counted) = done.map_err(|_| StoreError::Busy)?;
    let counted = counted?;
    if counted.iter().all(Option::is_none) {
        return Err(refuse(app, from, "unknown person, account is off, or waits after failures"));
    }
    let fits = counted.into_iter().zip(right).filter_map(|(account, right)| account.filter(|_| right));
    let fits: Vec<UserAccount> = fits.collect();
    if fits.is_empty() {
        return Err(refuse(app, from, "wrong password"));
    }
    Ok(fits)
}

/// Counts an attempt at each of some accounts. `None` is an account that still waits; its password is not checked.
async fn count_each(
    app: &App,
    accounts: Vec<UserAccount>,
    look: Look,
) -> Result<Vec<Option<UserAccount>>, StoreError> {
    let mut counted = Vec::with_capacity(accounts.len());
    for account in accounts {
        counted.push(attempts::count(app, account, look).await?.ok());
    }
    Ok(counted)
}

/// Counts against the address, logs, and says the one thing that is said.
fn refuse(app: &App, from: IpAddr, why: &'static str) -> NotLoggedIn {
    app.metrics.refused.inc();
    app.limiter.count_person(from, app.now());
    tracing::info!(%from, why, "a person was not let in");
    NotLoggedIn::Refused
}

/// The project that a login through a client is for.
fn project_of(access: &SessionAccess) -> Option<ProjectId> {
    access.client.as_ref().map(|client| client.project)
}

/// The memberships that a person may log in as from an address. Later on, an application's server may be who
/// asks, so this is where the person's own address counts.
pub(super) async fn choices(
    app: &App,
    user: UserId,
    project: Option<ProjectId>,
    from: IpAddr,
) -> Result<Vec<MembershipChoice>, StoreError> {
    let mut choices = app.store.memberships_of(user, project).await?;
    choices.retain(|choice| choice.policy.as_ref().is_none_or(|policy| policy.allows_address(from)));
    Ok(choices)
}

/// The same for all accounts that a login may still belong to.
pub(super) async fn choices_of(
    app: &App,
    session: &Session,
    project: Option<ProjectId>,
    from: IpAddr,
) -> Result<Vec<MembershipChoice>, StoreError> {
    let mut all = choices(app, session.user, project, from).await?;
    for other in &session.others {
        all.extend(choices(app, *other, project, from).await?);
    }
    Ok(all)
}

/// What follows when it is certain who it is.
fn after_second_factor(app: &App, session: Session, choices: &[MembershipChoice], consent: bool) -> Session {
    match only(choices) {
        Some(only) => after_membership(app, Session { membership: Some(only), ..session }, consent),
        None => session.at(Stage::Membership),
    }
}

/// The membership that leaves no choice.
fn only(choices: &[MembershipChoice]) -> Option<MembershipId> {
    match choices {
        [only] => Some(only.id),
        _ => None,
    }
}

fn after_membership(app: &App, session: Session, consent: bool) -> Session {
    if consent { session.at(Stage::Consent) } else { session.with_code(app.now()) }
}

/// Reads a login that waits at a stage.
pub(super) async fn waiting(
    app: &App,
    session: SessionId,
    stage: Stage,
) -> Result<SessionAccess, NotLoggedIn> {
    let access = app.store.session(session).await?;
    access
        .filter(|access| access.session.is_at(stage, app.now()) && access.user.active)
        .ok_or(NotLoggedIn::NoLogin)
}

async fn write(app: &App, session: Session) -> Result<Session, NotLoggedIn> {
    let mut change = Change::new();
    change.move_session(&session);
    app.store.commit(change).await?;
    Ok(session)
}

/// The second step: the code of an authenticator app.
pub(super) async fn second_factor(
    app: &App,
    session: SessionId,
    token: &str,
    consent: bool,
    from: IpAddr,
) -> Result<Session, NotLoggedIn> {
    if let Some(wait) = app.limiter.blocks_people(from, app.now()) {
        return Err(NotLoggedIn::Throttled(wait));
    }
    let access = waiting(app, session, Stage::SecondFactor).await?;
    let look = app.attempts.look();
    let account = app.store.user(access.user.id).await?.ok_or(NotLoggedIn::NoLogin)?;
    let Ok(account) = attempts::count(app, account, look).await? else {
        return Err(refuse(app, from, "account waits after failures"));
    };
    let Some(step) = accepted_step(app, &account, token) else {
        return Err(refuse(app, from, "wrong code"));
    };
    let mut choices = choices(app, account.row.id, project_of(&access), from).await?;
    choices.retain(|choice| access.session.membership.is_none_or(|known| known == choice.id));
    if choices.is_empty() {
        return Err(refuse(app, from, "no membership for this address"));
    }
    let before = access.session.revision;
    let next = after_second_factor(app, access.session, &choices, consent);
    let next = Session { revision: before + 1, ..next };
    let mut change = Change::new();
    change.accept_second_factor(account.row.id, step);
    change.move_session(&next);
    app.store.commit(change).await?;
    app.attempts.forgive(&account);
    Ok(next)
}

/// The time step whose code this is, if the account may use it now.
pub(super) fn accepted_step(app: &App, account: &UserAccount, token: &str) -> Option<i64> {
    let sealed = account.totp_sealed.as_ref()?;
    let key = app.keyring.open_second_factor(account.row.id, sealed).map_err(|error| {
        tracing::error!(user = %account.row.id, %error, "a second factor cannot be opened");
    });
    TotpKey::from_bytes(key.ok()?).accepts(token, app.now(), account.totp_step)
}

/// The third step, where there is a choice: the membership. Never in a browser, where the client decides the
/// project.
pub(super) async fn membership(
    app: &App,
    session: SessionId,
    chosen: MembershipId,
    from: IpAddr,
) -> Result<Session, NotLoggedIn> {
    let access = waiting(app, session, Stage::Membership).await?;
    let choices = choices_of(app, &access.session, project_of(&access), from).await?;
    let chosen = choices.into_iter().find(|choice| choice.id == chosen).ok_or(NotLoggedIn::NoLogin)?;
    let account = app.store.user(chosen.user).await?.filter(|account| account.row.active);
    let account = account.ok_or(NotLoggedIn::NoLogin)?;
    let before = access.session.revision;
    // A login with a single account had its second factor before the choice.
    let needs_second_factor = !access.session.others.is_empty() && account.totp_confirmed;
    let next =
        Session { user: chosen.user, others: Vec::new(), membership: Some(chosen.id), ..access.session };
    let next =
        if needs_second_factor { next.at(Stage::SecondFactor) } else { after_membership(app, next, false) };
    write(app, Session { revision: before + 1, ..next }).await
}

/// The last step, in a browser: what the person said to what the client asks for.
pub(super) async fn consent(app: &App, session: Session, allowed: bool) -> Result<Session, NotLoggedIn> {
    write(app, if allowed { session.with_code(app.now()) } else { session.ended() }).await
}
