//! The narrow row of a project: what it says about its clients' secrets is read with them, in one query.
//! NULL is where it says nothing, 0 where it says `none`.

use std::time::Duration;

use keyrelay_core::id::ProjectId;
use keyrelay_core::keyring::SecretVisibility;
use keyrelay_core::secret_rules::{
    AgeSettings, MaximumAge, PastMaximumAge, RetireAfter, SecretOverwrite, SecretSettings, WarnBefore,
};

use crate::StoreError;
use crate::database::{Arg, Row};
use crate::sessions::lifetime;

/// What is read with every token of a Project, and with every secret.
#[derive(Clone, Debug)]
pub struct ProjectRow {
    /// The project.
    pub id: ProjectId,
    /// `Project.name`.
    pub name: Option<String>,
    /// `Project.active`; absent is true.
    pub active: bool,
    /// `Project.superAdmin`.
    pub super_admin: bool,
    /// What it says about its clients' secrets.
    pub secrets: SecretSettings,
}

/// The columns that [`settings`] reads, of a project called `p`.
pub(crate) const SETTINGS: &str = "p.secret_once, p.secret_recoverable, p.secret_overwrite, p.secret_age_max_ms, \
     p.secret_age_refused, p.secret_retire_after_ms, p.secret_warn_before";

/// The arguments for the row, in the order of the columns: those of [`SETTINGS`] come last.
pub(crate) fn args(row: &ProjectRow) -> Vec<Arg> {
    let SecretSettings { visibility, overwrite, age, retire_after, warn_before } = &row.secrets;
    vec![
        row.id.into(),
        row.name.clone().into(),
        row.active.into(),
        row.super_admin.into(),
        (*visibility == Some(SecretVisibility::Once)).into(),
        (*visibility == Some(SecretVisibility::Recoverable)).into(),
        overwrite.map(|overwrite| overwrite.as_str().to_owned()).into(),
        age.maximum.map(|MaximumAge(age)| column_ms(age)).into(),
        age.past.map(|past| past == PastMaximumAge::Refuse).into(),
        retire_after.map(|RetireAfter(after)| column_ms(after)).into(),
        warn_before.as_ref().map(times).into(),
    ]
}

/// A duration as a column holds it.
pub(crate) fn column_ms(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn times(before: &WarnBefore) -> String {
    let times: Vec<String> = before.times().iter().map(|time| column_ms(Some(*time)).to_string()).collect();
    times.join(" ")
}

/// Reads what a project says; of one that is gone, that its secrets are not shown.
pub(crate) fn settings(row: &Row, at: usize) -> Result<SecretSettings, StoreError> {
    let corrupt = |what| StoreError::Corrupt { what };
    let visibility = match (row.opt_boolean(at)?, row.opt_boolean(at + 1)?) {
        (Some(false), Some(true)) => Some(SecretVisibility::Recoverable),
        (Some(false), _) => None,
        (Some(true) | None, _) => Some(SecretVisibility::Once),
    };
    let overwrite = row.opt_text(at + 2)?.map(|text| text.parse::<SecretOverwrite>()).transpose();
    let retire_after = row.opt_int(at + 5)?.map(|ms| RetireAfter(duration(ms)));
    let warn_before = row.opt_text(at + 6)?.map(|text| {
        let times = text.split_ascii_whitespace().map(|ms| ms.parse().map(Duration::from_millis));
        times.collect::<Result<_, _>>().map(WarnBefore::of)
    });
    Ok(SecretSettings {
        visibility,
        overwrite: overwrite.map_err(|_| corrupt("project.secret_overwrite"))?,
        age: age(row, at + 3)?,
        retire_after,
        warn_before: warn_before.transpose().map_err(|_| corrupt("project.secret_warn_before"))?,
    })
}

/// Reads `secret_age_max_ms` and `secret_age_refused`.
pub(crate) fn age(row: &Row, at: usize) -> Result<AgeSettings, StoreError> {
    let past = |refused| if refused { PastMaximumAge::Refuse } else { PastMaximumAge::Report };
    Ok(AgeSettings {
        maximum: row.opt_int(at)?.map(|ms| MaximumAge(duration(ms))),
        past: row.opt_boolean(at + 1)?.map(past),
    })
}

fn duration(ms: i64) -> Option<Duration> {
    lifetime(Some(ms)).filter(|time| !time.is_zero())
}
