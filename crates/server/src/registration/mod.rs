//! Clients that register themselves (RFC 7591) and manage themselves afterwards (RFC 7592). What they
//! make is an ordinary ClientApplication with its membership: an admin sees and changes the same
//! resource through FHIR, and the version guards it against both at once.

mod answer;
mod manage;
mod metadata;
mod register;

use std::net::IpAddr;

use axum::body::Body;
use http::HeaderMap;
use keyrelay_core::client::Refused;
use keyrelay_core::id::ClientId;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::ticket::{Ticket, TicketKind};
use serde_json::{Map, Value};

use crate::App;
use crate::auth::{NotProved, bearer_text, shut_out, turn_away};
use crate::body::read_body;
use crate::budget;
use crate::error::{OAuthError, Outcome};
use crate::fhir::check_json;

pub(crate) use manage::manage;
pub(crate) use register::register;

/// The ticket of a request, if it is genuine. What an address may guess is bounded as it is for secrets.
fn ticket(app: &App, kind: TicketKind, headers: &HeaderMap, from: IpAddr) -> Result<Ticket, OAuthError> {
    if let Some(wait) = app.limiter.blocks(from, app.now()) {
        return Err(OAuthError::throttled(wait));
    }
    let presented = bearer_text(headers).map(|text| PlainSecret::token(&text.to_owned().into()));
    let ticket = presented.and_then(|presented| app.keyring.read_ticket(kind, &presented));
    ticket.ok_or_else(|| not_let_in(&shut_out(app, ClientId::NIL, from, Refused::WrongSecret)))
}

/// Refuses a genuine ticket that has expired, was used up, or is for another endpoint. This server made it, so it is not a guess.
fn spent(app: &App, client: ClientId, from: IpAddr, why: Refused) -> OAuthError {
    not_let_in(&turn_away(app, client, from, why))
}

/// One answer for every way of not being let in (P5); the log has the rest.
fn not_let_in(why: &NotProved) -> OAuthError {
    match *why {
        NotProved::Throttled(wait) => OAuthError::throttled(wait),
        _ => OAuthError::invalid_token(),
    }
}

/// Reads the body of a registration.
async fn read(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, OAuthError> {
    let read = async {
        check_json(headers)?;
        match budget::parse(&read_body(body).await?)? {
            Value::Object(map) => Ok(map),
            _ => Err(Outcome::invalid("The body must be a JSON object")),
        }
    };
    read.await.map_err(|outcome| OAuthError::metadata(&outcome))
}
