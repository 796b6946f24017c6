//! What is particular to Project: who may turn which switch, and the settings that bind its clients.

use keyrelay_core::caller::{Caller, Role};
use keyrelay_core::id::ProjectId;
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_store::ProjectRow;
use serde_json::{Map, Value};

use crate::error::Outcome;

/// The setting that decides whether secrets can be read again.
const SECRET_VISIBILITY: &str = "secretVisibility";
/// The setting that decides what a rotation does that would end a retiring secret in use.
const SECRET_OVERWRITE: &str = "secretOverwrite";
/// What only a Super Admin may change: it decides what the project itself may do.
const SUPER_ADMIN_ONLY: [&str; 5] = ["superAdmin", "active", "features", "systemSetting", "link"];

/// The narrow row of a project.
pub(super) fn row(
    caller: &Caller,
    id: ProjectId,
    resource: &Map<String, Value>,
    before: Option<&Map<String, Value>>,
) -> Result<ProjectRow, Outcome> {
    if caller.role != Role::SuperAdmin {
        let changed = |name: &&&str| resource.get(**name) != before.and_then(|before| before.get(**name));
        if let Some(name) = SUPER_ADMIN_ONLY.iter().find(changed) {
            return Err(
                Outcome::forbidden("Only a Super Admin may change this").at(format!("Project.{name}"))
            );
        }
    }
    let flag = |name: &str| resource.get(name).and_then(Value::as_bool);
    let (active, super_admin) = (flag("active").unwrap_or(true), flag("superAdmin").unwrap_or(false));
    if caller.project == id && !(active && (super_admin || caller.role != Role::SuperAdmin)) {
        return Err(Outcome::conflict(
            "You are logged in through this Project: this change would lock you out",
        ));
    }
    check_settings(resource)?;
    Ok(ProjectRow {
        id,
        name: resource.get("name").and_then(Value::as_str).map(str::to_owned),
        active,
        super_admin,
        secret_visibility: secret_visibility(resource),
    })
}

fn setting<'a>(resource: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    resource
        .get("setting")?
        .as_array()?
        .iter()
        .find(|setting| setting.get("name").and_then(Value::as_str) == Some(name))
}

fn text<'a>(resource: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    setting(resource, name)?.get("valueString")?.as_str()
}

fn check_settings(resource: &Map<String, Value>) -> Result<(), Outcome> {
    for (name, known) in [
        (SECRET_VISIBILITY, ["recoverable", "once"].as_slice()),
        (SECRET_OVERWRITE, &["allow", "warn", "refuse"]),
    ] {
        let is_known = text(resource, name).is_some_and(|value| known.contains(&value));
        if setting(resource, name).is_some() && !is_known {
            let known = known.join(" or ");
            let text = format!("{name} must have the valueString {known}");
            return Err(Outcome::invalid_at("Project.setting", text));
        }
    }
    Ok(())
}

/// What a rotation does that would end a retiring secret while it is still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretOverwrite {
    /// It is done, as with the peer.
    Allow,
    /// It is done, and the answer says so.
    Warn,
    /// It is not done, unless it is forced.
    Refuse,
}

/// See [`SecretOverwrite`].
pub(super) fn secret_overwrite(resource: &Map<String, Value>) -> SecretOverwrite {
    match text(resource, SECRET_OVERWRITE) {
        Some("warn") => SecretOverwrite::Warn,
        Some("refuse") => SecretOverwrite::Refuse,
        _ => SecretOverwrite::Allow,
    }
}

/// Whether the secrets of the project's clients can be read again.
pub(super) fn secret_visibility(resource: &Map<String, Value>) -> SecretVisibility {
    match text(resource, SECRET_VISIBILITY) {
        Some("once") => SecretVisibility::Once,
        _ => SecretVisibility::Recoverable,
    }
}
