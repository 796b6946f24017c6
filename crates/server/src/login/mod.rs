//! How people log in: password, second factor, membership, consent, and at the end an authorization
//! code. [`flow`] knows the steps; `json` is how Medplum's clients take them, `authorize` how a
//! browser does.

mod attempts;
mod authorize;
mod flow;
mod json;
mod request;
mod second_factor;
mod set_password;

pub(crate) use attempts::Attempts;
pub(crate) use authorize::authorize;
pub(crate) use json::{login, profile, verify_second_factor};
pub(crate) use second_factor::{disable, enroll, status};
pub(crate) use set_password::{change_password, hash, set_password};
