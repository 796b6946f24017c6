//! What is particular to Project: who may turn which switch, and the settings that bind its clients.

use keyrelay_core::caller::{Caller, Role};
use keyrelay_core::id::ProjectId;
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_store::ProjectRow;
use serde_json::{Map, Value};

use crate::error::Outcome;

/// The setting that decides whether secrets can be read again.
const SECRET_VISIBILITY: &str = "secretVisibility";
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

fn check_settings(resource: &Map<String, Value>) -> Result<(), Outcome> {
    let Some(setting) = setting(resource, SECRET_VISIBILITY) else { return Ok(()) };
    match setting.get("valueString").and_then(Value::as_str) {
        Some("recoverable" | "once") => Ok(()),
        _ => Err(Outcome::invalid_at(
            "Project.setting",
            "secretVisibility must have the valueString recoverable or once",
        )),
    }
}

/// Whether the secrets of the project's clients can be read again.
pub(super) fn secret_visibility(resource: &Map<String, Value>) -> SecretVisibility {
    let value = setting(resource, SECRET_VISIBILITY).and_then(|setting| setting.get("valueString")?.as_str());
    match value {
        Some("once") => SecretVisibility::Once,
        _ => SecretVisibility::Recoverable,
    }
}
