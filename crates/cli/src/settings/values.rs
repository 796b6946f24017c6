//! Values of settings that are texts with a meaning, the same as a flag, in a variable and in the file.

use std::str::FromStr;
use std::time::Duration;

use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::secret_rules::NotAllowed;
use serde::Deserialize;

/// A time, as a number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Lifetime(pub Duration);

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lifetime = parse_lifetime(text);
        lifetime
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no time: write a number and a unit, like 90d or 12h"))
    }
}

impl TryFrom<String> for Lifetime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A rule for secrets, as a project would write it into its settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String", bound = "T: FromStr<Err = NotAllowed>")]
pub struct Rule<T>(pub T);

impl<T: FromStr<Err = NotAllowed>> FromStr for Rule<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|allowed| format!("{text:?} is not allowed: write {allowed}"))
    }
}

impl<T: FromStr<Err = NotAllowed>> TryFrom<String> for Rule<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
