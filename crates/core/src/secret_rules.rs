//! The rules for a client's secrets: how long they live, who may see them again, when to warn. A project sets
//! them by `Project.setting`; where it says nothing, what the server is configured with holds.
//!
//! [`SecretSettings`] is what one of both says, [`SecretRules`] is what holds.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::evidence::in_words;
use crate::fhir::schema::parse_lifetime;
use crate::keyring::SecretVisibility;
use crate::limits::{
    MAXIMUM_AGE_MAX, MAXIMUM_AGE_MIN, RETIRE_AFTER_MAX, RETIRE_AFTER_MIN, WARN_BEFORE_TIMES_MAX,
};
use crate::slots::Lifespan;
use crate::time::Timestamp;

/// A text is not what a setting may be; says what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(pub(crate) &'static str);

/// A `Project.setting` has a value that it must not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must have a valueString that is {allowed}")]
pub struct BadSetting {
    /// The setting.
    pub name: &'static str,
    allowed: NotAllowed,
}

/// What a rotation does that would end a retiring secret while it is still in use: `secretOverwrite`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretOverwrite {
    /// It is done, as with the peer.
    #[default]
    Allow,
    /// It is done, and the answer says so.
    Warn,
    /// It is not done, unless it is forced.
    Refuse,
}

/// How old a secret may become: `secretMaximumAge`. `None` for as old as it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaximumAge(pub Option<Duration>);

/// What becomes of a secret past its maximum age: `secretPastMaximumAge`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PastMaximumAge {
    /// It is reported, and grants access all the same.
    #[default]
    Report,
    /// It grants no access from that moment on. An admin can still rotate it.
    Refuse,
}

/// After how long a secret that was rotated ends by itself, where the rotation does not say: `secretRetireAfter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetireAfter(pub Option<Duration>);

/// How long before a deadline to warn of it, the longest first: `secretWarnBefore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarnBefore(Vec<Duration>);

/// What is said about the age of secrets: the part that decides who gets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgeSettings {
    /// `secretMaximumAge`.
    pub maximum: Option<MaximumAge>,
    /// `secretPastMaximumAge`.
    pub past: Option<PastMaximumAge>,
}

/// What a project says about its secrets; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretSettings {
    /// `secretVisibility`.
    pub visibility: Option<SecretVisibility>,
    /// `secretOverwrite`.
    pub overwrite: Option<SecretOverwrite>,
    /// `secretMaximumAge` and `secretPastMaximumAge`.
    pub age: AgeSettings,
    /// `secretRetireAfter`.
    pub retire_after: Option<RetireAfter>,
    /// `secretWarnBefore`.
    pub warn_before: Option<WarnBefore>,
}

/// What holds for the secrets of a project; by itself, for a project that says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretRules {
    /// Whether they can be read again.
    pub visibility: SecretVisibility,
    /// What a rotation does that would end one in use.
    pub overwrite: SecretOverwrite,
    /// How old they may become.
    pub maximum_age: MaximumAge,
    /// What becomes of an older one.
    pub past_maximum_age: PastMaximumAge,
    /// When a rotated one ends by itself.
    pub retire_after: RetireAfter,
    /// When to warn of a deadline.
    pub warn_before: WarnBefore,
}

impl SecretRules {
    /// How long a secret grants access at most.
    #[must_use]
    pub const fn lifespan(&self) -> Lifespan {
        match self.past_maximum_age {
            PastMaximumAge::Refuse => Lifespan(self.maximum_age.0),
            PastMaximumAge::Report => Lifespan::ENDLESS,
        }
    }

    /// From when on a secret is past its maximum age, whatever that means for it.
    #[must_use]
    pub fn due_by(&self, created: Timestamp) -> Option<Timestamp> {
        self.maximum_age.0.map(|age| created.plus(age))
    }

    /// Says of a secret past its maximum age what that means for it. `None` of any other.
    #[must_use]
    pub fn overdue(&self, created: Timestamp, now: Timestamp) -> Option<String> {
        let due_by = self.due_by(created).filter(|due_by| *due_by <= now)?;
        let past = in_words(now.since(due_by));
        Some(match self.past_maximum_age {
            PastMaximumAge::Report => {
                format!("Past its maximum age by {past}. It still grants access: rotate it.")
            }
            PastMaximumAge::Refuse => {
                format!("Past its maximum age by {past}. It grants no access any more: rotate it.")
            }
        })
    }
}

impl AgeSettings {
    /// How long a secret grants access at most, where `default` holds for what is not said.
    #[must_use]
    pub fn lifespan(self, default: &SecretRules) -> Lifespan {
        match self.past.unwrap_or(default.past_maximum_age) {
            PastMaximumAge::Refuse => Lifespan(self.maximum.unwrap_or(default.maximum_age).0),
            PastMaximumAge::Report => Lifespan::ENDLESS,
        }
    }
}

impl SecretSettings {
    /// Reads `Project.setting`. Of several of one name, the first counts.
    pub fn read(project: &Map<String, Value>) -> Result<Self, BadSetting> {
        Ok(Self {
            visibility: setting(project, "secretVisibility")?,
            overwrite: setting(project, "secretOverwrite")?,
            age: AgeSettings {
                maximum: setting(project, "secretMaximumAge")?,
                past: setting(project, "secretPastMaximumAge")?,
            },
            retire_after: setting(project, "secretRetireAfter")?,
            warn_before: setting(project, "secretWarnBefore")?,
        })
    }

    /// What holds, where `default` does for what is not said.
    #[must_use]
    pub fn or(&self, default: &SecretRules) -> SecretRules {
        SecretRules {
            visibility: self.visibility.unwrap_or(default.visibility),
            overwrite: self.overwrite.unwrap_or(default.overwrite),
            maximum_age: self.age.maximum.unwrap_or(default.maximum_age),
            past_maximum_age: self.age.past.unwrap_or(default.past_maximum_age),
            retire_after: self.retire_after.unwrap_or(default.retire_after),
            warn_before: self.warn_before.clone().unwrap_or_else(|| default.warn_before.clone()),
        }
    }
}

fn setting<T: FromStr<Err = NotAllowed>>(
    project: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<T>, BadSetting> {
    let mut settings = project.get("setting").and_then(Value::as_array).into_iter().flatten();
    let Some(setting) = settings.find(|setting| setting["name"] == name) else { return Ok(None) };
    let text = setting.get("valueString").and_then(Value::as_str).unwrap_or_default();
    text.parse().map(Some).map_err(|allowed| BadSetting { name, allowed })
}

impl FromStr for SecretVisibility {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        match text {
            "recoverable" => Ok(Self::Recoverable),
            "once" => Ok(Self::Once),
            _ => Err(NotAllowed("recoverable or once")),
        }
    }
}

impl SecretOverwrite {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
        }
    }
}

impl FromStr for SecretOverwrite {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        let all = [Self::Allow, Self::Warn, Self::Refuse];
        let found = all.into_iter().find(|value| value.as_str() == text);
        found.ok_or(NotAllowed("allow or warn or refuse"))
    }
}

impl FromStr for PastMaximumAge {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        match text {
            "report" => Ok(Self::Report),
            "refuse" => Ok(Self::Refuse),
            _ => Err(NotAllowed("report or refuse")),
        }
    }
}

impl FromStr for MaximumAge {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        let allowed = NotAllowed("none, or a time from 1h to 3650d, such as 90d");
        none_or(text, MAXIMUM_AGE_MIN, MAXIMUM_AGE_MAX, allowed).map(Self)
    }
}

impl FromStr for RetireAfter {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        let allowed = NotAllowed("none, or a time from 1m to 400d, such as 24h");
        none_or(text, RETIRE_AFTER_MIN, RETIRE_AFTER_MAX, allowed).map(Self)
    }
}

impl FromStr for WarnBefore {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        let refused = NotAllowed("none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d");
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let times = text.split(',').map(|time| within(time.trim(), RETIRE_AFTER_MIN, RETIRE_AFTER_MAX));
        let times: Vec<_> = times.collect::<Option<_>>().ok_or(refused)?;
        if times.len() > WARN_BEFORE_TIMES_MAX { Err(refused) } else { Ok(Self::of(times)) }
    }
}

/// `none`, or a time between two others.
fn none_or(
    text: &str,
    shortest: Duration,
    longest: Duration,
    allowed: NotAllowed,
) -> Result<Option<Duration>, NotAllowed> {
    if text == "none" { Ok(None) } else { within(text, shortest, longest).map(Some).ok_or(allowed) }
}

fn within(text: &str, shortest: Duration, longest: Duration) -> Option<Duration> {
    parse_lifetime(text).filter(|time| (shortest..=longest).contains(time))
}

impl WarnBefore {
    /// These times, in any order.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.dedup();
        Self(times)
    }

    /// How long before a deadline, the longest first.
    #[must_use]
    pub fn times(&self) -> &[Duration] {
        &self.0
    }
}

impl Default for WarnBefore {
    fn default() -> Self {
        Self([7 * 24, 24, 1].map(Duration::from_hours).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn read(name: &str, value: &Value) -> Result<SecretSettings, String> {
        let project = json!({ "setting": [{ "name": "other", "valueBoolean": true }, value] });
        let mut project = project.as_object().unwrap().clone();
        project["setting"][1]["name"] = name.into();
        SecretSettings::read(&project).map_err(|error| error.to_string())
    }

    fn said(name: &str, text: &str) -> Result<SecretSettings, String> {
        read(name, &json!({ "valueString": text }))
    }

    #[test]
    fn what_a_project_says_holds_and_else_what_the_server_says() {
        let server = SecretRules {
            visibility: SecretVisibility::Once,
            maximum_age: MaximumAge(Some(90 * DAY)),
            retire_after: RetireAfter(Some(DAY)),
            ..SecretRules::default()
        };
        assert_eq!(SecretSettings::default().or(&server), server);
        let holds = |name, text| said(name, text).unwrap().or(&server);
        assert_eq!(holds("secretVisibility", "recoverable").visibility, SecretVisibility::Recoverable);
        assert_eq!(holds("secretOverwrite", "warn").overwrite, SecretOverwrite::Warn);
        assert_eq!(holds("secretMaximumAge", "30d").maximum_age, MaximumAge(Some(30 * DAY)));
        assert_eq!(holds("secretMaximumAge", "none").maximum_age, MaximumAge(None));
        assert_eq!(holds("secretRetireAfter", "none").retire_after, RetireAfter(None));
        assert_eq!(holds("secretWarnBefore", "1d, 30d,1d").warn_before.times(), [30 * DAY, DAY]);
        assert!(holds("secretWarnBefore", "none").warn_before.times().is_empty());
    }

    #[test]
    fn age_ends_access_only_where_it_is_said_to() {
        let reporting = SecretRules { maximum_age: MaximumAge(Some(90 * DAY)), ..SecretRules::default() };
        let refusing = SecretRules { past_maximum_age: PastMaximumAge::Refuse, ..reporting.clone() };
        for (name, text, by_reporting, by_refusing) in [
            ("other", "x", None, Some(90 * DAY)),
            ("secretMaximumAge", "1h", None, Some(DAY / 24)),
            ("secretMaximumAge", "none", None, None),
            ("secretPastMaximumAge", "refuse", Some(90 * DAY), Some(90 * DAY)),
            ("secretPastMaximumAge", "report", None, None),
        ] {
            let settings = said(name, text).unwrap();
            for (server, expected) in [(&reporting, by_reporting), (&refusing, by_refusing)] {
                assert_eq!(settings.age.lifespan(server), Lifespan(expected), "{name} {text}");
                assert_eq!(settings.or(server).lifespan(), Lifespan(expected), "{name} {text}");
            }
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_allowed() {
        for (name, text, allowed) in [
            ("secretVisibility", "never", "recoverable or once"),
            ("secretOverwrite", "perhaps", "allow or warn or refuse"),
            ("secretPastMaximumAge", "Refuse", "report or refuse"),
            ("secretMaximumAge", "59m", "none, or a time from 1h to 3650d, such as 90d"),
            ("secretMaximumAge", "3651d", "none, or a time from 1h to 3650d, such as 90d"),
            ("secretMaximumAge", "", "none, or a time from 1h to 3650d, such as 90d"),
            ("secretRetireAfter", "401d", "none, or a time from 1m to 400d, such as 24h"),
            ("secretWarnBefore", "1d,", "none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d"),
            ("secretWarnBefore", "1d none", "none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d"),
            ("secretWarnBefore", "1d,none", "none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d"),
            (
                "secretWarnBefore",
                "1d,2d,3d,4d,5d,6d,7d,8d,9d",
                "none, or up to 8 times from 1m to 400d, such as 30d, 7d, 1d",
            ),
        ] {
            let expected = format!("{name} must have a valueString that is {allowed}");
            assert_eq!(said(name, text), Err(expected), "{text}");
        }
        let error = read("secretMaximumAge", &json!({ "valueInteger": 90 })).unwrap_err();
        assert!(error.starts_with("secretMaximumAge must have a valueString"), "{error}");
    }
}
