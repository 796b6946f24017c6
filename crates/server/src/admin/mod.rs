//! The routes beside FHIR that Medplum's clients call.

mod answer;
mod create_client;
mod events;
mod invite;
mod me;
mod member;
mod registration;
mod webhooks;

pub(crate) use create_client::create_client;
pub(crate) use events::events;
pub(crate) use invite::invite;
pub(crate) use me::me;
pub(crate) use registration::{registration, revoke_registration};
pub(crate) use webhooks::{resend, rotate_signing_secret, webhook, webhooks};
