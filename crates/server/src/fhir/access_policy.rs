//! What is particular to AccessPolicy: a rule that this server would not enforce is not stored, lest
//! somebody rely on it.

use keyrelay_core::limits::POLICY_BYTES_MAX;
use keyrelay_core::policy::AccessPolicy;
use serde_json::{Map, Value};

use crate::error::Outcome;

pub(super) fn check(resource: &Map<String, Value>) -> Result<(), Outcome> {
    let bytes: usize = serde_json::to_vec(resource).map_or(usize::MAX, |json| json.len());
    if bytes > POLICY_BYTES_MAX {
        return Err(Outcome::invalid(format!(
            "An AccessPolicy has at most {POLICY_BYTES_MAX} bytes: it is read with every request"
        )));
    }
    AccessPolicy::from_resource(resource)
        .map(drop)
        .map_err(|error| Outcome::not_supported(error.to_string()).at(error.expression))
}
