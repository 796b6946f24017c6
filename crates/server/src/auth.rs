//! Who is asking: by client id and secret, or by an access token. Every place that takes a secret
//! comes through [`prove`], so that all of them accept the same secrets, refuse the same clients and
//! take the same time. A token is checked against the present state of its client, membership and
//! project on every request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, HeaderName};
use keyrelay_core::caller::Caller;
use keyrelay_core::client::{Acts, ClientAccess, Proof, Refused, authenticate};
use keyrelay_core::id::{ClientId, ProjectId, SecretId, TokenId};
use keyrelay_core::limits::REFUSED_AFTER;
use keyrelay_core::limits::TOKEN_BYTES_MAX;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use keyrelay_core::usage::{self, PresenterRef, UsageKey};
use keyrelay_store::StoreError;
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, sleep_until};
use zeroize::Zeroizing;

use crate::App;
use crate::budget;
use crate::client_certificate::ClientCertificate;
use crate::error::Outcome;
use crate::former::{ProofOf, RefusedProof};
use crate::limiter::Counted;
use crate::oauth::{Bearer, VerifiedToken};

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// By which one of many workers says which it is, so that its uses of a secret are told apart.
const X_CLIENT_INSTANCE: HeaderName = HeaderName::from_static("x-client-instance");

/// The other end of a request: its address, and what it says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'r> {
    pub(crate) address: IpAddr,
    pub(crate) headers: &'r HeaderMap,
}

impl<'r> Peer<'r> {
    /// What uses of a secret are told apart by.
    fn presenter(self) -> PresenterRef<'r> {
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        PresenterRef::new(self.address, text(USER_AGENT), text(X_CLIENT_INSTANCE))
    }
}

/// A client id and the values its secret may have been meant to be.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) client: Option<ClientId>,
    /// The value as sent, and, where it differs, form-urldecoded (RFC 6749 §2.3.1).
    pub(crate) secrets: Vec<PlainSecret>,
}

/// Why a proof was not accepted.
#[derive(Debug)]
pub(crate) enum NotProved {
    /// Wrong, unknown, off, blocked: nobody learns which.
    Refused,
    /// Too many failures; how long to wait.
    Throttled(Duration),
    /// The store did not answer.
    Store(StoreError),
}

/// A client that has proved itself.
pub(crate) struct Proved {
    pub(crate) access: ClientAccess,
    pub(crate) proof: Proof,
}

impl Credentials {
    /// From two form parameters.
    pub(crate) fn from_form(client_id: &str, secret: Zeroizing<String>) -> Self {
        Self {
            client: ClientId::parse(client_id),
            secrets: PlainSecret::presented(secret).into_iter().collect(),
        }
    }

    /// From an `Authorization: Basic` header (RFC 7617). The secret is all that follows the first
    /// `:`, so it may contain more of them. `None` if the header is not of that form.
    pub(crate) fn from_basic(header: &str) -> Option<Self> {
        let encoded = scheme(header, "basic")?;
        let decoded = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let mut secrets: Vec<PlainSecret> =
            PlainSecret::presented(Zeroizing::new(secret.to_owned())).into_iter().collect();
        if secret.contains(['%', '+']) {
            secrets.extend(PlainSecret::presented(form_decode(secret)));
        }
        Some(Self { client: ClientId::parse(id).or_else(|| ClientId::parse(&form_decode(id))), secrets })
    }

    /// Whether two sets of credentials say the same.
    pub(crate) fn same_as(&self, other: &Self, app: &App) -> bool {
        let client = self.client.unwrap_or(ClientId::NIL);
        self.client == other.client
            && self.secrets.iter().any(|mine| {
                let mine = app.keyring.present(client, mine);
                other.secrets.iter().any(|theirs| mine.same_as(&app.keyring.present(client, theirs)))
            })
    }
}

fn form_decode(text: &str) -> Zeroizing<String> {
    let spaced = Zeroizing::new(text.replace('+', " "));
    Zeroizing::new(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

fn scheme<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (scheme, rest) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case(name).then(|| rest.trim())
}

/// Takes a proof, and keeps a refusal back until its time has come, whatever the reason (P5): a row that is there
/// takes longer to read than one that is not, from a cold disk much longer.
pub(crate) async fn in_even_time<T>(
    proof: impl Future<Output = Result<T, NotProved>>,
) -> Result<T, NotProved> {
    let answered_at = Instant::now() + REFUSED_AFTER;
    let outcome = proof.await;
    if matches!(outcome, Err(NotProved::Refused | NotProved::Throttled(_))) {
        sleep_until(answered_at).await;
    }
    outcome
}

/// Proves a client by its secret, counts the use or the failure, and watches for former secrets.
pub(crate) async fn prove(
    app: &App,
    credentials: Credentials,
    acts: Acts,
    peer: Peer<'_>,
) -> Result<Proved, NotProved> {
    in_even_time(by_secret(app, credentials, acts, peer)).await
}

async fn by_secret(
    app: &App,
    credentials: Credentials,
    acts: Acts,
    peer: Peer<'_>,
) -> Result<Proved, NotProved> {
    let now = app.now();
    if let Some(wait) = app.limiter.blocks(peer.address, now) {
        return Err(NotProved::Throttled(wait));
    }
    // An id that is no id is looked up all the same, under an id that nothing has (P5).
    let client = credentials.client.unwrap_or(ClientId::NIL);
    if credentials.secrets.iter().all(PlainSecret::is_garbled) {
        // Refused without a read, but not unseen: half a secret is what a deployment that went wrong presents.
        let by = peer.presenter().to_owned();
        app.former.refused(RefusedProof::garbled(client, by));
        return Err(shut_out(app, client, peer.address, Refused::Garbled));
    }
    let access = app.store.access(client).await.map_err(NotProved::Store)?;
    let mut refused = Refused::WrongSecret;
    let mut too_old = None;
    let mut presented = Vec::with_capacity(credentials.secrets.len());
    for secret in &credentials.secrets {
        let value = app.keyring.present(client, secret);
        match authenticate(access.as_ref(), &value, acts, peer.address, &app.config.secrets, app.now()) {
            Ok(proof) => {
                if let Some(access) = &access {
                    count_use(app, access, proof, peer);
                }
                return access.map(|access| Proved { access, proof }).ok_or(NotProved::Refused);
            }
            Err(Refused::TooOld(secret)) => too_old = Some(secret),
            Err(why) => refused = why,
        }
        presented.push(value);
    }
    // Whatever the reason: what is done beside a request shows in its time too.
    let by = peer.presenter().to_owned();
    let of = access.as_ref().map_or(ProofOf::NoClient, |access| ProofOf::Project(access.project.id));
    let former = presented.iter().find_map(|value| app.former.known(client, value));
    let why = too_old.map_or(refused, Refused::TooOld);
    let is_guess = former.is_none() && !why.is_past_the_proof();
    let (counted, error) = if is_guess {
        let (counted, error) = count_failure(app, client, peer.address, why);
        (Some(counted), error)
    } else {
        log_refusal(app, client, peer.address, why, former.is_some());
        (None, NotProved::Refused)
    };
    app.former.refused(RefusedProof { client, presented, by, too_old, former, counted, of });
    Err(error)
}

/// Counts the use of a proof: of a secret, a key or a certificate. A function of its own in the binary too, so that
/// the benchmark can tell what counting costs.
#[inline(never)]
pub(crate) fn count_use(app: &App, access: &ClientAccess, proof: Proof, peer: Peer<'_>) {
    let key = UsageKey { client: access.client, secret: proof.id };
    app.usage.count(access.project.id, key, usage::Outcome::Accepted, peer.presenter());
    app.metrics.count_use(proof.kind);
}

/// Refuses a proof other than a secret. The client never learns why. A proof that is one of the client is not a guess,
/// and is not counted as a failure.
pub(crate) fn refuse(
    app: &App,
    client: ClientId,
    of: Option<ProjectId>,
    peer: Peer<'_>,
    why: Refused,
) -> NotProved {
    if why.is_past_the_proof() {
        count_refusal(app, client, of, peer, why);
        return turn_away(app, client, peer.address, why);
    }
    refuse_unproved(app, client, of, peer, why)
}

/// Refuses a client that presented nothing. Each reason counts as a failure: otherwise the bound on failures would show
/// which client ids exist.
pub(crate) fn refuse_unproved(
    app: &App,
    client: ClientId,
    of: Option<ProjectId>,
    peer: Peer<'_>,
    why: Refused,
) -> NotProved {
    count_refusal(app, client, of, peer, why);
    shut_out(app, client, peer.address, why)
}

fn count_refusal(app: &App, client: ClientId, of: Option<ProjectId>, peer: Peer<'_>, why: Refused) {
    if why != Refused::UnknownClient {
        let key = UsageKey { client, secret: SecretId::NIL };
        app.usage.count(of.unwrap_or(ProjectId::NIL), key, usage::Outcome::Refused, peer.presenter());
    }
}

/// Logs that somebody was not let in whose proof is genuine. Counts nothing: a genuine proof is not a guess.
pub(crate) fn turn_away(app: &App, client: ClientId, from: IpAddr, why: Refused) -> NotProved {
    log_refusal(app, client, from, why, false);
    NotProved::Refused
}

/// Logs that somebody was not let in, and counts it against the address and the client.
pub(crate) fn shut_out(app: &App, client: ClientId, from: IpAddr, why: Refused) -> NotProved {
    count_failure(app, client, from, why).1
}

/// Like [`shut_out`], with what the failure was counted against.
fn count_failure(app: &App, client: ClientId, from: IpAddr, why: Refused) -> (Counted, NotProved) {
    log_refusal(app, client, from, why, false);
    let (counted, wait) = app.limiter.count(from, client, app.now());
    (counted, wait.map_or(NotProved::Refused, NotProved::Throttled))
}

/// A known former secret has its own log line, once an hour, because nothing bounds how often it is presented.
fn log_refusal(app: &App, client: ClientId, from: IpAddr, why: Refused, is_former: bool) {
    app.metrics.refused.inc();
    if is_former {
        tracing::debug!(%client, %from, "a client was not let in by a former secret");
    } else {
        tracing::info!(%client, %from, %why, "a client was not let in");
    }
}

/// The caller of a FHIR or admin route, by Bearer token or Basic. Its project pays for the request from here on.
pub(crate) async fn caller(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Outcome> {
    let caller = by_authorization(app, headers, from).await?;
    budget::pay_from(caller.project)?;
    Ok(caller)
}

async fn by_authorization(app: &App, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Outcome> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let header = given.next().and_then(|value| value.to_str().ok()).ok_or_else(Outcome::login)?;
    if given.next().is_some() {
        return Err(Outcome::login());
    }
    if let Some(token) = scheme(header, "bearer") {
        return by_token(app, token, headers, from).await;
    }
    let credentials = Credentials::from_basic(header).ok_or_else(Outcome::login)?;
    match prove(app, credentials, Acts::ForItself, Peer { address: from, headers }).await {
        // By Basic a client asks in its own name, as by the grant that it may have been denied.
        Ok(Proved { access, .. }) if !access.allows_grant("client_credentials") => Err(Outcome::login()),
        Ok(Proved { access, proof }) => {
            let admitted = access.admit(Some(from), proof.id, Scope::default());
            admitted.map(|caller| Caller { by_token: false, ..caller }).map_err(|_| Outcome::login())
        }
        Err(NotProved::Refused) => Err(Outcome::login()),
        Err(NotProved::Throttled(wait)) => Err(Outcome::throttled(wait)),
        Err(NotProved::Store(error)) => Err(error.into()),
    }
}

async fn by_token(app: &App, token: &str, headers: &HeaderMap, from: IpAddr) -> Result<Caller, Outcome> {
    let token = app.tokens.verify(token, app.now()).ok_or_else(Outcome::login)?;
    let is_holder = token.bound_to.is_none_or(|bound| {
        ClientCertificate::of(headers).is_some_and(|presented| presented.thumbprint() == bound)
    });
    let admitted =
        if is_holder { admit_token(app, &token, Some(from)).await? } else { Err(Refused::NotTheHolder) };
    match admitted {
        Ok(caller) => Ok(caller),
        Err(why) => {
            tracing::info!(token = %token.id, %from, %why, "a token was not accepted");
            Err(Outcome::login())
        }
    }
}

/// The Bearer token of a request, whatever it is (RFC 6750 §2.1). None if there is more than one header.
pub(crate) fn bearer_text(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let header = given.next()?.to_str().ok()?;
    scheme(header, "bearer").filter(|text| text.len() <= TOKEN_BYTES_MAX && given.next().is_none())
}

/// The token of a request, if it has one that is genuine and of this time.
pub(crate) fn bearer(app: &App, headers: &HeaderMap) -> Option<Arc<VerifiedToken>> {
    let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
    app.tokens.verify(scheme(header, "bearer")?, app.now())
}

/// Lets the bearer of a token in whose signature and times are right, as it is now.
pub(crate) async fn admit_token(
    app: &App,
    token: &VerifiedToken,
    from: Option<IpAddr>,
) -> Result<Result<Caller, Refused>, StoreError> {
    let client = match token.bearer {
        Bearer::Client(client) => client,
        Bearer::Login(session) => {
            let access = app.store.session(session).await?;
            let scope = token.scope.clone();
            let until = access.as_ref().and_then(|access| access.client.as_ref()?.revoked_until);
            if is_revoked(app, until, token.id, token.proof).await? {
                return Ok(Err(Refused::Revoked));
            }
            return Ok(access
                .ok_or(Refused::NoSession)
                .and_then(|access| access.admit(from, token.proof, scope, app.now()))
                .map(|caller| Caller { token: Some(token.id), ..caller }));
        }
    };
    let Some(access) = app.store.access(client).await? else { return Ok(Err(Refused::UnknownClient)) };
    if is_revoked(app, access.revoked_until, token.id, token.proof).await? {
        return Ok(Err(Refused::Revoked));
    }
    let admitted = access.admit(from, token.proof, token.scope.clone());
    Ok(admitted.map(|caller| Caller { token: Some(token.id), ..caller }))
}

/// Whether a token of a client was revoked, by itself or with the secret that it was got by; looked up only while
/// the client's row says that some were.
async fn is_revoked(
    app: &App,
    revoked_until: Option<Timestamp>,
    token: TokenId,
    proof: SecretId,
) -> Result<bool, StoreError> {
    let some_are = revoked_until.is_some_and(|until| app.now() <= until);
    Ok(some_are && app.store.is_revoked(token, proof).await?)
}

/// The caller as it is by now, after something that took its time.
pub(crate) async fn again(app: &App, caller: &Caller, from: IpAddr) -> Result<Caller, Outcome> {
    let admitted = match (caller.login, caller.client) {
        (Some(login), _) => {
            let access = app.store.session(login.session).await?.ok_or_else(Outcome::login)?;
            let until = access.client.as_ref().and_then(|client| client.revoked_until);
            if let Some(token) = caller.token
                && is_revoked(app, until, token, caller.proof).await?
            {
                return Err(Outcome::login());
            }
            access.admit(Some(from), caller.proof, caller.scope.clone(), app.now())
        }
        (None, Some(client)) => {
            let access = app.store.access(client).await?.ok_or_else(Outcome::login)?;
            match caller.token {
                Some(token) if is_revoked(app, access.revoked_until, token, caller.proof).await? => {
                    Err(Refused::Revoked)
                }
                _ => access.admit_again(caller, from, &app.config.secrets, app.now()),
            }
        }
        (None, None) => Err(Refused::UnknownClient),
    };
    admitted.map_err(|_| Outcome::login())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0198c2f0-1111-4222-8333-944455566677";

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_kept_back_until_its_time_and_nothing_else_is() {
        for worked in [Duration::ZERO, REFUSED_AFTER / 2] {
            let start = Instant::now();
            let refused = async {
                sleep_until(start + worked).await;
                Err(NotProved::Refused)
            };
            assert!(matches!(in_even_time::<()>(refused).await, Err(NotProved::Refused)));
            assert_eq!(start.elapsed(), REFUSED_AFTER);
        }
        let start = Instant::now();
        let failed = in_even_time::<()>(async { Err(NotProved::Store(StoreError::Busy)) }).await;
        assert!(matches!(failed, Err(NotProved::Store(_))));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    fn basic(text: &str) -> Option<Credentials> {
        Credentials::from_basic(&format!("Basic {}", STANDARD.encode(text)))
    }

    fn secrets(credentials: &Credentials) -> Vec<&str> {
        credentials.secrets.iter().map(PlainSecret::reveal).collect()
    }

    #[test]
    fn basic_takes_colons_and_both_spellings() {
        let plain = basic(&format!("{ID}:a:b")).unwrap();
        assert_eq!((plain.client, secrets(&plain)), (ClientId::parse(ID), vec!["a:b"]));
        let encoded = basic(&format!("{}:a%3Ab+c", ID.replace('-', "%2D"))).unwrap();
        assert_eq!((encoded.client, secrets(&encoded)), (ClientId::parse(ID), vec!["a%3Ab+c", "a:b c"]));
    }

    #[test]
    fn what_is_not_basic_is_none() {
        for header in ["", "Basic", "Basic !!!", "Bearer x", "Basic eA=="] {
            assert!(Credentials::from_basic(header).is_none(), "{header}");
        }
        let empty = basic(&format!("{ID}:")).unwrap();
        assert!(secrets(&empty).is_empty());
    }
}
