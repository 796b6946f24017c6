//! The routes beside FHIR that Medplum's clients call.

mod create_client;
mod me;

pub(crate) use create_client::create_client;
pub(crate) use me::me;
