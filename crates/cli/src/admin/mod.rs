//! What the commands share that ask a server over HTTP, as an admin of the client's project.

mod connection;
mod server;
mod status;

pub use connection::{ConnectionArgs, base, read_secret};
pub use server::{Admin, ClientSecrets, Retirement, Rotated, Rotation, Server, ServerError};
#[cfg(test)]
pub use status::RetiringStatus;
pub use status::{CallerStatus, Movement, SecretStatus, SlotStatus, ago, when};

use std::str::FromStr;
use std::time::Duration;

use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::ClientId;

/// A client application, by its id or as `ClientApplication/[id]`.
pub fn client_id(text: &str) -> Result<ClientId, String> {
    let id = text.strip_prefix("ClientApplication/").unwrap_or(text);
    ClientId::parse(id).ok_or_else(|| "a client application's id is a UUID in lower case".to_owned())
}

/// A time as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_lifetime(text)
            .map(Self)
            .ok_or("a whole number with a unit, from 1s to 3650d, such as 10m or 24h")
    }
}
