//! The domain of Keyrelay, for a newcomer to read first: a client's secrets, how they move from
//! slot to slot, who may move them, and what a FHIR resource of ours looks like. Pure values in,
//! values out: clock and randomness are parameters, and nothing here reads a file or a socket.

pub mod audit;
pub mod caller;
pub mod change_rates;
pub mod client;
pub mod deadline;
pub mod event;
pub mod evidence;
pub mod fhir;
pub mod grant;
pub mod id;
pub mod idempotency;
pub mod keyring;
pub mod limits;
pub mod lockout;
pub mod names;
pub mod origin;
pub mod password;
pub mod policy;
pub mod random;
pub mod reach;
pub mod redirect_uri;
pub mod registration;
pub mod scope;
pub mod secret;
pub mod secret_rules;
pub mod session;
pub mod shares;
pub mod signing;
pub mod slots;
pub mod survive;
pub mod ticket;
pub mod time;
pub mod totp;
pub mod usage;
pub mod webhook;
pub mod weighed_cache;
