//! How a client says who it is at the endpoints of the authorization server (RFC 6749 §2.3): by
//! Basic, in the form, or, if it has nothing to prove itself by, by its id alone. Every endpoint
//! comes through [`ClientParameters::authenticate`], so that all accept the same and refuse the same.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use keyrelay_core::client::{Acts, Proof, ProofKind, Refused};
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::TOKEN_BYTES_MAX;
use keyrelay_core::secret::PlainSecret;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::assertion::{self, ASSERTION_TYPE};
use super::certificate;
use crate::App;
use crate::auth::{Credentials, NotProved, Peer, Proved, in_even_time, prove, refuse_unproved};
use crate::client_certificate::ClientCertificate;
use crate::config::Config;
use crate::error::OAuthError;
use crate::fhir::stored_resource;

/// The elements of a ClientApplication by which a client can prove itself without a secret.
const OTHER_PROOFS: [&str; 3] = ["jwks", "jwksUri", "certificateTrustStore"];

/// Where a client says who it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Endpoint {
    Token,
    Introspection,
    Revocation,
}

impl Endpoint {
    const fn path(self) -> &'static str {
        match self {
            Self::Token => "oauth2/token",
            Self::Introspection => "oauth2/introspect",
            Self::Revocation => "oauth2/revoke",
        }
    }

    /// What an assertion that is presented here may name as its audience (RFC 7523 §3): the issuer, the token
    /// endpoint, or the URL that is called, which has another name for clients with certificates.
    pub(super) fn audiences(self, config: &Config) -> Vec<String> {
        let base = &config.base_url;
        let alias = config.mtls_base_url.as_ref().map(|alias| alias.join(self.path()));
        let ours = [base.as_str().to_owned(), base.join(Self::Token.path()), base.join(self.path())];
        ours.into_iter().chain(alias).collect()
    }
}

/// The form parameters that say who the client is.
#[derive(Default)]
pub(super) struct ClientParameters {
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<Zeroizing<String>>,
    pub(super) assertion_type: Option<String>,
    pub(super) assertion: Option<PlainSecret>,
}

impl ClientParameters {
    /// Takes a parameter that is one of these. Gives back any other.
    pub(super) fn take<'a>(
        &mut self,
        name: &str,
        value: std::borrow::Cow<'a, str>,
    ) -> Option<std::borrow::Cow<'a, str>> {
        match name {
            "client_id" => self.client_id = Some(value.into_owned()),
            "client_secret" => self.client_secret = Some(Zeroizing::new(value.into_owned())),
            "client_assertion_type" => self.assertion_type = Some(value.into_owned()),
            "client_assertion" => self.assertion = assertion_parameter(value),
            _ => return Some(value),
        }
        None
    }

    /// The client that the form names, proved or not.
    pub(super) fn named(&self) -> Option<ClientId> {
        self.client_id.as_deref().and_then(ClientId::parse)
    }

    /// Whether nothing says who the client is: a login without a client.
    pub(super) fn is_nobody(&self, headers: &HeaderMap) -> bool {
        let nothing = self.client_id.is_none() && self.client_secret.is_none();
        nothing && self.assertion_type.is_none() && !headers.contains_key(AUTHORIZATION)
    }

    /// Proves the client. One that has no secret, no key and no certificate is taken at its word, but
    /// only where it acts for people: there the code, bound to a verifier, is the proof.
    pub(super) async fn authenticate(
        self,
        app: &App,
        headers: &HeaderMap,
        endpoint: Endpoint,
        acts: Acts,
        from: IpAddr,
    ) -> Result<Proved, OAuthError> {
        let peer = Peer { address: from, headers };
        if self.assertion_type.is_some() || self.assertion.is_some() {
            return Box::pin(self.by_assertion(app, endpoint, acts, peer)).await;
        }
        let says_only_who = self.client_secret.is_none() && !headers.contains_key(AUTHORIZATION);
        if says_only_who
            && let Some(id) = &self.client_id
            && let Some(certificate) = ClientCertificate::of(headers)
        {
            match Box::pin(in_even_time(certificate::prove(app, &certificate, id, acts, peer))).await {
                Ok(Some(proved)) => return Ok(proved),
                Ok(None) => {}
                Err(error) => return Err(refused(error, false)),
            }
        }
        if acts == Acts::ForPeople
            && says_only_who
            && let Some(id) = &self.client_id
        {
            return Box::pin(in_even_time(public(app, id, peer)))
                .await
                .map_err(|error| refused(error, false));
        }
        let (credentials, used_basic) = self.credentials(app, headers)?;
        prove(app, credentials, acts, peer).await.map_err(|error| refused(error, used_basic))
    }

    async fn by_assertion(
        self,
        app: &App,
        endpoint: Endpoint,
        acts: Acts,
        peer: Peer<'_>,
    ) -> Result<Proved, OAuthError> {
        if self.client_secret.is_some() || peer.headers.contains_key(AUTHORIZATION) {
            return Err(OAuthError::invalid_request("Send a client_assertion or a secret, not both"));
        }
        let (Some(ASSERTION_TYPE), Some(assertion)) = (self.assertion_type.as_deref(), &self.assertion)
        else {
            let text = format!("client_assertion needs the client_assertion_type {ASSERTION_TYPE}");
            return Err(OAuthError::invalid_request(text));
        };
        let proved = assertion::prove(app, assertion, self.client_id.as_deref(), endpoint, acts, peer);
        let proved = in_even_time(proved).await;
        proved.map_err(|error| refused(error, false))
    }

    /// The client's credentials, from the body or by Basic. A client must not use both (RFC 6749
    /// §2.3); saying the same thing twice is let pass, because Medplum's command line does.
    fn credentials(self, app: &App, headers: &HeaderMap) -> Result<(Credentials, bool), OAuthError> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let header = given.next();
        if given.next().is_some() {
            return Err(OAuthError::invalid_request("More than one Authorization header"));
        }
        let basic = header.map(|value| {
            value.to_str().ok().and_then(Credentials::from_basic).ok_or_else(|| {
                OAuthError::invalid_request("The Authorization header is not Basic with an id and a secret")
            })
        });
        let basic = basic.transpose()?;
        match (basic, self.client_id, self.client_secret) {
            (Some(basic), id, Some(secret)) => {
                let body = Credentials::from_form(id.as_deref().unwrap_or_default(), secret);
                if basic.same_as(&body, app) {
                    Ok((basic, true))
                } else {
                    let text = "Send the credentials in the body or by Basic, not both";
                    Err(OAuthError::invalid_request(text))
                }
            }
            (Some(basic), Some(id), None) if basic.client != ClientId::parse(&id) => {
                let text = "client_id is not the client of the Authorization header";
                Err(OAuthError::invalid_request(text))
            }
            (Some(basic), _, None) => Ok((basic, true)),
            (None, Some(id), Some(secret)) => Ok((Credentials::from_form(&id, secret), false)),
            (None, None, _) => Err(OAuthError::invalid_request("client_id is missing")),
            (None, Some(_), None) => Err(OAuthError::invalid_request("client_secret is missing")),
        }
    }
}

/// An assertion is longer than a secret may be, so it is bounded as a token is.
fn assertion_parameter(value: std::borrow::Cow<'_, str>) -> Option<PlainSecret> {
    (value.len() <= TOKEN_BYTES_MAX).then(|| PlainSecret::token(&Zeroizing::new(value.into_owned())))
}

fn refused(error: NotProved, used_basic: bool) -> OAuthError {
    match error {
        NotProved::Refused => OAuthError::invalid_client(used_basic),
        NotProved::Throttled(wait) => OAuthError::throttled(wait),
        NotProved::Store(error) => error.into(),
    }
}

/// A public client (RFC 6749 §2.1): one that has nothing to prove itself by.
async fn public(app: &App, id: &str, peer: Peer<'_>) -> Result<Proved, NotProved> {
    if let Some(wait) = app.limiter.blocks(peer.address, app.now()) {
        return Err(NotProved::Throttled(wait));
    }
    let id = ClientId::parse(id).unwrap_or(ClientId::NIL);
    let (state, access) = tokio::join!(app.store.client(id), app.store.access(id));
    let (state, access) = (state.map_err(NotProved::Store)?, access.map_err(NotProved::Store)?);
    let of = access.as_ref().map(|access| access.project.id);
    let no = |why| refuse_unproved(app, id, of, peer, why);
    let (state, access) = state.zip(access).ok_or_else(|| no(Refused::UnknownClient))?;
    let resource = stored_resource(&state.resource).map_err(|_| no(Refused::UnknownClient))?;
    if state.has_or_had_secret() || can_prove_itself(&resource) {
        return Err(no(Refused::WrongSecret));
    }
    access.check(Acts::ForPeople, peer.address).map_err(no)?;
    Ok(Proved { access, proof: Proof { id: SecretId::NIL, kind: ProofKind::Nothing } })
}

/// Whether a client has something other than a secret to prove itself by.
pub(crate) fn can_prove_itself(client: &Map<String, Value>) -> bool {
    OTHER_PROOFS.iter().any(|name| client.contains_key(*name))
}
