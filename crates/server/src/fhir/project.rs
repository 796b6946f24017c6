//! What is particular to Project: who may turn which switch, and the settings for its clients' secrets.

use keyrelay_core::caller::{Caller, Role};
use keyrelay_core::id::ProjectId;
use keyrelay_core::secret_rules::{PastMaximumAge, SecretSettings};
use keyrelay_store::ProjectRow;
use serde_json::{Map, Value};

use crate::error::Outcome;

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
    Ok(ProjectRow {
        id,
        name: resource.get("name").and_then(Value::as_str).map(str::to_owned),
        active,
        super_admin,
        secrets: secrets(resource, super_admin)?,
    })
}

/// What the project says about its clients' secrets.
fn secrets(resource: &Map<String, Value>, super_admin: bool) -> Result<SecretSettings, Outcome> {
    let refused = |text: String| Outcome::invalid_at("Project.setting", text);
    let settings = SecretSettings::read(resource).map_err(|error| refused(error.to_string()))?;
    if super_admin && settings.age.past == Some(PastMaximumAge::Refuse) {
        // Once their secrets were all too old, nobody would be left who could rotate one.
        let text = "secretPastMaximumAge cannot be refuse in a project of Super Admins: set it for the server, \
                    where it can be taken back without them";
        return Err(refused(text.to_owned()));
    }
    Ok(settings)
}
