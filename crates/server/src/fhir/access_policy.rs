//! What is particular to AccessPolicy: a rule that this server would not enforce is not stored, lest
//! somebody rely on it.

use keyrelay_core::limits::{POLICY_BYTES_MAX, SEARCH_SCANS_MAX};
use keyrelay_core::policy::AccessPolicy;
use serde_json::{Map, Value};

use crate::error::Outcome;

pub(super) fn check(
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<(), Outcome> {
    let bytes: usize = serde_json::to_vec(resource).map_or(usize::MAX, |json| json.len());
    if bytes > POLICY_BYTES_MAX {
        return Err(Outcome::invalid(format!(
            "An AccessPolicy has at most {POLICY_BYTES_MAX} bytes: it is read with every request"
        )));
    }
    let policy = AccessPolicy::from_resource(resource)
        .map_err(|error| Outcome::not_supported(error.to_string()).at(error.expression))?;
    // Not when a policy is read: a policy that was stored before this bound existed stays in force.
    let stored = before.and_then(|before| AccessPolicy::from_resource(before).ok());
    let stored = stored.map_or(0, |stored| stored.scans());
    if policy.scans() > SEARCH_SCANS_MAX.max(stored) {
        let text = format!(
            "The criteria have more than {SEARCH_SCANS_MAX} values that are matched by :contains or \
             by a system alone, and each is part of every search: use fewer, or whole values"
        );
        return Err(Outcome::search_too_costly(text).at("AccessPolicy.resource.criteria"));
    }
    Ok(())
}
