//! What is particular to User: the address that a person logs in with. Passwords and second factors
//! are not part of the resource; they lie in the account that belongs to it.

use keyrelay_core::caller::Role;
use keyrelay_core::id::{ProjectId, UserId};
use keyrelay_core::limits::EMAIL_BYTES_MAX;
use keyrelay_core::names::is_hidden;
use keyrelay_store::UserRow;
use serde_json::{Map, Value};

use super::versions::Act;
use crate::error::Outcome;

/// The narrow row of a user.
pub(crate) fn row(
    act: Act<'_>,
    id: UserId,
    own_project: ProjectId,
    resource: &Map<String, Value>,
) -> Result<UserRow, Outcome> {
    let text = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_default();
    let active = resource.get("active").and_then(Value::as_bool).unwrap_or(true);
    if !active && act.caller.login.is_some_and(|login| login.user == id) {
        return Err(Outcome::conflict("This is your own account: this change would lock you out"));
    }
    let named = resource.get("project").and_then(|project| project.get("reference")).and_then(Value::as_str);
    if named.is_some_and(|named| named != format!("Project/{own_project}")) {
        return Err(Outcome::invalid_at("User.project", "The project must be the one the user belongs to"));
    }
    // A user that Super Admins keep in their own project, and that names none, is for every project.
    let is_for_all =
        named.is_none() && act.caller.role == Role::SuperAdmin && own_project == act.caller.project;
    Ok(UserRow {
        id,
        project: (!is_for_all).then_some(own_project),
        email: address(text("email"), "User.email")?,
        name: Some(format!("{} {}", text("firstName"), text("lastName")).trim().to_owned()),
        active,
    })
}

/// Reads a new address that a person can log in with, in lower case.
pub(crate) fn email(text: &str, expression: &'static str) -> Result<String, Outcome> {
    if text.trim().contains(is_hidden) {
        return Err(no_address(expression));
    }
    address(text, expression)
}

fn no_address(expression: &'static str) -> Outcome {
    let problem = format!("An email address has the form name@host, and at most {EMAIL_BYTES_MAX} bytes");
    Outcome::invalid_at(expression, problem)
}

/// Reads the address of a User. The check of new names covers hidden characters in it.
fn address(text: &str, expression: &'static str) -> Result<String, Outcome> {
    let text = text.trim().to_lowercase();
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '"' | ',');
    let has_both_parts =
        text.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if text.len() > EMAIL_BYTES_MAX || text.contains(odd) || !has_both_parts {
        return Err(no_address(expression));
    }
    Ok(text)
}
