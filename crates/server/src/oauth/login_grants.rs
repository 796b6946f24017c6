//! What a person's login gives a client: tokens for an authorization code (RFC 6749 §4.1.3, with PKCE,
//! RFC 7636) and for a refresh token (§6). Each is decided on the session as it was read, and becomes
//! durable only if it still is so; a code or a token that comes a second time ends the session.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use keyrelay_core::caller::Caller;
use keyrelay_core::client::{Acts, Proof, ProofKind};
use keyrelay_core::id::{SecretId, SessionId};
use keyrelay_core::limits::CONFLICT_RETRIES_MAX;
use keyrelay_core::scope::{Grantee, Scope};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::session::{NotRedeemed, Refreshed, Session, SessionAccess};
use keyrelay_core::ticket::{Ticket, TicketKind};
use keyrelay_store::{Change, Conflict, StoreError};

use super::client_auth::{ClientParameters, Endpoint};
use super::issue;
use super::token::{Form, granted};
use crate::App;
use crate::auth::Proved;
use crate::error::OAuthError;

/// RFC 7636 §4.1.
const VERIFIER_CHARS: std::ops::RangeInclusive<usize> = 43..=128;

/// The client of a token request; none if the login is without one.
async fn client(
    app: &App,
    headers: &HeaderMap,
    parameters: ClientParameters,
    from: IpAddr,
    grant_type: &str,
) -> Result<Option<Proved>, OAuthError> {
    if parameters.is_nobody(headers) {
        return Ok(None);
    }
    let proved = parameters.authenticate(app, headers, Endpoint::Token, Acts::ForPeople, from).await?;
    if !proved.access.allows_grant(grant_type) {
        return Err(OAuthError::unauthorized_client());
    }
    Ok(Some(proved))
}

/// Reads the session that a code or a refresh token names, if it was issued to this client.
async fn session(
    app: &App,
    ticket: Ticket,
    client: Option<&Proved>,
    what: &str,
) -> Result<SessionAccess, OAuthError> {
    let access = app.store.session(SessionId::from(ticket.of)).await?;
    access
        .filter(|access| access.session.client == client.map(|proved| proved.access.client))
        .ok_or_else(|| invalid(what, NotRedeemed::Invalid))
}

fn invalid(what: &str, why: NotRedeemed) -> OAuthError {
    OAuthError::invalid_grant(format!("{what} {why}"))
}

fn proof(client: Option<&Proved>) -> Proof {
    client.map_or(Proof { id: SecretId::NIL, kind: ProofKind::Nothing }, |proved| proved.proof)
}

pub(super) async fn by_code(
    app: &App,
    headers: &HeaderMap,
    form: Form,
    from: IpAddr,
) -> Result<Response, OAuthError> {
    const WHAT: &str = "code";
    let code = form.code.ok_or_else(|| OAuthError::invalid_request("code is missing"))?;
    let client = client(app, headers, form.client, from, "authorization_code").await?;
    let ticket = app.keyring.read_ticket(TicketKind::Code, &code);
    let ticket = ticket.ok_or_else(|| invalid(WHAT, NotRedeemed::Invalid))?;
    for _ in 0..CONFLICT_RETRIES_MAX {
        let access = session(app, ticket, client.as_ref(), WHAT).await?;
        let asked = &access.session.redirect_uri;
        if asked.is_some() && *asked != form.redirect_uri {
            return Err(OAuthError::invalid_grant("redirect_uri is not that of the authorization request"));
        }
        check_verifier(access.session.code_challenge.as_deref(), form.code_verifier.as_ref())?;
        let proof = proof(client.as_ref());
        let caller = admitted(&access, from, proof, WHAT)?;
        let scope = granted(&caller, &caller.scope, Grantee::Person)?;
        let now = app.now();
        match access.session.clone().redeem(now, access.lifetime()) {
            Ok(granted) => {
                let refresh = granted.refreshable.then(|| refresh_token(app, &granted));
                let answer = issue::to_person(app, &access, caller.profile, proof, &scope, refresh)?;
                if moved(app, &granted).await? {
                    tracing::info!(session = %granted.id, "a code was redeemed");
                    return Ok(answer);
                }
            }
            Err(why) => return Err(refused(app, access.session.id, WHAT, why).await),
        }
    }
    Err(OAuthError::busy())
}

pub(super) async fn by_refresh_token(
    app: &App,
    headers: &HeaderMap,
    form: Form,
    asked: Option<Scope>,
    from: IpAddr,
) -> Result<Response, OAuthError> {
    const WHAT: &str = "refresh_token";
    let token = form.refresh_token.ok_or_else(|| OAuthError::invalid_request("refresh_token is missing"))?;
    let client = client(app, headers, form.client, from, "refresh_token").await?;
    let ticket = app.keyring.read_ticket(TicketKind::Refresh, &token);
    let ticket = ticket.ok_or_else(|| invalid(WHAT, NotRedeemed::Invalid))?;
    for _ in 0..CONFLICT_RETRIES_MAX {
        let access = session(app, ticket, client.as_ref(), WHAT).await?;
        let proof = proof(client.as_ref());
        let caller = admitted(&access, from, proof, WHAT)?;
        let scope = again(&caller, asked.as_ref())?;
        let now = app.now();
        match access.session.clone().refresh(ticket.generation, now, access.lifetime()) {
            Ok(Refreshed::Next(next)) => {
                let refresh = Some(refresh_token(app, &next));
                let answer = issue::to_person(app, &access, caller.profile, proof, &scope, refresh)?;
                if moved(app, &next).await? {
                    return Ok(answer);
                }
            }
            Ok(Refreshed::Again) => {
                let refresh = Some(refresh_token(app, &access.session));
                return issue::to_person(app, &access, caller.profile, proof, &scope, refresh);
            }
            Err(why) => return Err(refused(app, access.session.id, WHAT, why).await),
        }
    }
    Err(OAuthError::busy())
}

/// The scope of a refreshed token: what the person agreed to, as far as it still may be had, or the part of
/// it that is asked for (RFC 6749 §6).
fn again(caller: &Caller, asked: Option<&Scope>) -> Result<Scope, OAuthError> {
    let all = granted(caller, &caller.scope, Grantee::Person)?;
    match asked {
        None => Ok(all),
        Some(asked) if asked.is_within(&caller.scope) || asked.is_within(&all) => {
            granted(caller, asked, Grantee::Person)
        }
        Some(_) => Err(OAuthError::invalid_scope(
            "scope names more than was granted, or leaves out the resource scopes that bind the token",
        )),
    }
}

/// Whether the person and the client may still have tokens, of the scope that the person agreed to.
fn admitted(access: &SessionAccess, from: IpAddr, proof: Proof, what: &str) -> Result<Caller, OAuthError> {
    access.admit_member(Some(from), proof.id, access.session.scope.clone()).map_err(|why| {
        tracing::info!(session = %access.session.id, %from, %why, "a login was not let in");
        invalid(what, NotRedeemed::Invalid)
    })
}

fn refresh_token(app: &App, session: &Session) -> PlainSecret {
    app.keyring.issue_ticket(TicketKind::Refresh, session.id.uuid(), session.generation)
}

/// Makes the move of a session durable. False if somebody else was faster.
async fn moved(app: &App, session: &Session) -> Result<bool, OAuthError> {
    let mut change = Change::new();
    change.move_session(session);
    match app.store.commit(change).await {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict(Conflict::Version)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a code or a token; one that was used before ends everything that came from its login
/// (RFC 6749 §4.1.2, RFC 9700 §4.14.2).
async fn refused(app: &App, session: SessionId, what: &str, why: NotRedeemed) -> OAuthError {
    if why == NotRedeemed::Reused {
        tracing::warn!(%session, what, "something that is used once was used again: the login was ended");
        let mut change = Change::new();
        change.end_session(session);
        if let Err(error) = app.store.commit(change).await {
            return error.into();
        }
    }
    invalid(what, why)
}

/// PKCE (RFC 7636 §4.6), S256 only. A verifier without a challenge is refused too: otherwise a stripped
/// challenge would go unnoticed (RFC 9700 §4.8.2).
fn check_verifier(challenge: Option<&str>, verifier: Option<&PlainSecret>) -> Result<(), OAuthError> {
    match (challenge, verifier) {
        (None, None) => Ok(()),
        (None, Some(_)) => {
            Err(OAuthError::invalid_grant("code_verifier is given, but the code has no code_challenge"))
        }
        (Some(_), None) => Err(OAuthError::invalid_grant("code_verifier is missing")),
        (Some(challenge), Some(verifier)) => {
            let text = verifier.reveal();
            let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            let fits = VERIFIER_CHARS.contains(&text.len()) && text.bytes().all(unreserved);
            let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()));
            if fits && hash == challenge {
                Ok(())
            } else {
                Err(OAuthError::invalid_grant("code_verifier does not fit the code_challenge"))
            }
        }
    }
}
