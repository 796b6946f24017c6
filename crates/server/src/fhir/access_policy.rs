//! What is particular to AccessPolicy: a rule that this server would not enforce is not stored, lest
//! somebody rely on it.

use keyrelay_core::policy::AccessPolicy;
use serde_json::{Map, Value};

use crate::error::Outcome;

pub(super) fn check(resource: &Map<String, Value>) -> Result<(), Outcome> {
    AccessPolicy::from_resource(resource)
        .map(drop)
        .map_err(|error| Outcome::not_supported(error.to_string()).at(error.expression))
}
