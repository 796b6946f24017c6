//! The input of the operations on secrets: a FHIR Parameters resource, or a plain JSON object with the same
//! names. For `$rotate-secret` exactly one secret, named by its slot, and what is to be said beside it;
//! anything else is refused with what is wrong.

use std::time::Duration;

use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::limits::SECRET_WRITTEN_CHARS_MIN;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::secret_rules::{NotAllowed, RetireAfter};
use keyrelay_core::slots::SlotKind;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::error::Outcome;

const EXPECTED: &str = "exactly one of the parameters secret and retiringSecret is expected";

/// What is asked of `$rotate-secret`.
#[derive(Debug)]
pub(crate) struct RotateInput {
    pub(crate) step: Step,
    /// The value presented for the slot of the step.
    pub(crate) presented: PlainSecret,
    /// `force`: whatever the evidence says.
    pub(crate) force: bool,
}

/// The step of a rotation, with what was said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `secret`: rotate.
    Rotate {
        /// `retireAfter`: when the secret that retires ends by itself; `None` for when the project says.
        retire_after: Option<RetireAfter>,
    },
    /// `retiringSecret`: retire.
    Retire {
        /// `onlyIfUnused`: for how long nobody must have used it.
        only_if_unused: Option<Duration>,
        /// `revokeTokens`: the tokens that it got end with it.
        revoke_tokens: bool,
    },
}

/// What is asked of `$revoke-secret`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RevokeInput {
    pub(super) slot: SlotKind,
    pub(super) revoke_tokens: bool,
}

impl RevokeInput {
    pub(super) fn read(body: Map<String, Value>) -> Result<Self, Outcome> {
        let (mut slot, mut revoke_tokens) = (None, None);
        for parameter in parameters(body)? {
            match parameter.name.as_str() {
                "slot" => parameter.once(&mut slot)?,
                "revokeTokens" => parameter.once(&mut revoke_tokens)?,
                _ => {
                    return Err(
                        parameter.refuse("Unknown parameter: slot and revokeTokens are known".to_owned())
                    );
                }
            }
        }
        let slot = slot.ok_or_else(|| {
            Outcome::invalid_at(
                "Parameters.parameter",
                "The parameter slot is missing: secret or retiringSecret",
            )
        })?;
        let slot = match slot.text()?.as_str() {
            "secret" => SlotKind::Active,
            "retiringSecret" => SlotKind::Retiring,
            _ => return Err(slot.refuse("slot is secret or retiringSecret".to_owned())),
        };
        Ok(Self { slot, revoke_tokens: revoke_tokens.map_or(Ok(true), |given| given.flag())? })
    }
}

/// Refuses any parameter: for an operation that has none.
pub(super) fn no_parameters(body: Map<String, Value>) -> Result<(), Outcome> {
    match parameters(body)?.first() {
        Some(parameter) => Err(parameter.refuse("This operation has no parameters".to_owned())),
        None => Ok(()),
    }
}

impl Step {
    /// The slot whose secret must be presented.
    pub(crate) const fn slot(self) -> SlotKind {
        match self {
            Self::Rotate { .. } => SlotKind::Active,
            Self::Retire { .. } => SlotKind::Retiring,
        }
    }
}

impl RotateInput {
    pub(crate) fn read(body: Map<String, Value>) -> Result<Self, Outcome> {
        let mut secret = None;
        let (mut retire_after, mut only_if_unused, mut revoke_tokens, mut force) = (None, None, None, None);
        for parameter in parameters(body)? {
            match parameter.name.as_str() {
                "secret" => parameter.secret(SlotKind::Active, &mut secret)?,
                "retiringSecret" => parameter.secret(SlotKind::Retiring, &mut secret)?,
                "retireAfter" => parameter.once(&mut retire_after)?,
                "onlyIfUnused" => parameter.once(&mut only_if_unused)?,
                "revokeTokens" => parameter.once(&mut revoke_tokens)?,
                "force" => parameter.once(&mut force)?,
                _ => return Err(parameter.refuse(format!("Unknown parameter: {EXPECTED}"))),
            }
        }
        let (slot, presented) = secret.ok_or_else(|| {
            Outcome::invalid_at("Parameters.parameter", format!("No parameter: {EXPECTED}"))
        })?;
        let step = match slot {
            SlotKind::Active => {
                not_beside("secret", [&only_if_unused, &revoke_tokens])?;
                Step::Rotate { retire_after: retire_after.map(|given| deadline(&given)).transpose()? }
            }
            SlotKind::Retiring => {
                not_beside("retiringSecret", [&retire_after])?;
                Step::Retire {
                    only_if_unused: only_if_unused.map(|given| given.duration()).transpose()?,
                    revoke_tokens: revoke_tokens.map_or(Ok(false), |given| given.flag())?,
                }
            }
        };
        let force = force.map_or(Ok(false), |given| given.flag())?;
        Ok(Self { step, presented, force })
    }
}

/// Refuses what says nothing about the step that is asked for.
fn not_beside<const N: usize>(secret: &str, given: [&Option<Parameter>; N]) -> Result<(), Outcome> {
    match given.into_iter().flatten().next() {
        Some(parameter) => {
            Err(parameter.refuse(format!("{} is not for a call with {secret}", parameter.name)))
        }
        None => Ok(()),
    }
}

fn deadline(given: &Parameter) -> Result<RetireAfter, Outcome> {
    let after = given.text()?.parse();
    after.map_err(|allowed: NotAllowed| given.refuse(format!("retireAfter is {allowed}")))
}

const NO_STRING: &str = "The value must be a string";

/// One parameter, as it was sent.
struct Parameter {
    name: String,
    value: Given,
    /// Where it stands.
    at: String,
}

enum Given {
    /// `valueString`. It may be a secret.
    Text(Zeroizing<String>),
    /// `valueBoolean`.
    Flag(bool),
}

impl Parameter {
    fn refuse(&self, text: String) -> Outcome {
        Outcome::invalid_at(self.at.clone(), text)
    }

    fn secret(self, slot: SlotKind, found: &mut Option<(SlotKind, PlainSecret)>) -> Result<(), Outcome> {
        if found.is_some() {
            return Err(self.refuse(format!("Too many parameters: {EXPECTED}")));
        }
        let Self { name, value, at } = self;
        let Given::Text(value) = value else { return Err(Outcome::invalid_at(at, NO_STRING)) };
        let secret = PlainSecret::presented(value)
            .map_err(|problem| Outcome::invalid_at(at, format!("The value of {name} {problem}")))?;
        *found = Some((slot, secret));
        Ok(())
    }

    /// Keeps what may be given once.
    fn once(self, found: &mut Option<Self>) -> Result<(), Outcome> {
        if found.is_some() {
            return Err(self.refuse(format!("{} is given more than once", self.name)));
        }
        *found = Some(self);
        Ok(())
    }

    fn text(&self) -> Result<&Zeroizing<String>, Outcome> {
        match &self.value {
            Given::Text(text) => Ok(text),
            Given::Flag(_) => Err(self.refuse(NO_STRING.to_owned())),
        }
    }

    fn flag(&self) -> Result<bool, Outcome> {
        match &self.value {
            Given::Flag(flag) => Ok(*flag),
            Given::Text(_) => Err(self.refuse(format!("{} is true or false, as a valueBoolean", self.name))),
        }
    }

    fn duration(&self) -> Result<Duration, Outcome> {
        parse_lifetime(self.text()?).ok_or_else(|| {
            self.refuse(format!("{} is a whole number with a unit, such as 10m or 24h", self.name))
        })
    }
}

fn parameters(body: Map<String, Value>) -> Result<Vec<Parameter>, Outcome> {
    match body.get("resourceType") {
        None => from_object(body),
        Some(Value::String(name)) if name == "Parameters" => from_parameters(body),
        Some(_) => Err(Outcome::invalid_at("resourceType", "The body must be a Parameters resource")),
    }
}

fn from_object(body: Map<String, Value>) -> Result<Vec<Parameter>, Outcome> {
    body.into_iter()
        .map(|(name, value)| match value {
            Value::String(value) => {
                let at = shown(&name);
                Ok(Parameter { name, value: Given::Text(Zeroizing::new(value)), at })
            }
            Value::Bool(flag) => {
                let at = shown(&name);
                Ok(Parameter { name, value: Given::Flag(flag), at })
            }
            _ => Err(Outcome::invalid_at(shown(&name), NO_STRING)),
        })
        .collect()
}

fn from_parameters(mut body: Map<String, Value>) -> Result<Vec<Parameter>, Outcome> {
    for name in body.keys() {
        if !matches!(
            name.as_str(),
            "resourceType" | "parameter" | "id" | "meta" | "implicitRules" | "language"
        ) {
            return Err(Outcome::invalid_at(
                format!("Parameters.{}", shown(name)),
                "Unknown element of Parameters",
            ));
        }
    }
    let list = match body.remove("parameter") {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(Outcome::invalid_at("Parameters.parameter", "parameter must be an array")),
        None => Vec::new(),
    };
    list.into_iter().enumerate().map(|(n, value)| from_parameter(n, value)).collect()
}

fn from_parameter(n: usize, value: Value) -> Result<Parameter, Outcome> {
    let expression = format!("Parameters.parameter[{n}]");
    let Value::Object(mut parameter) = value else {
        return Err(Outcome::invalid_at(expression, "A parameter must be an object"));
    };
    let Some(Value::String(name)) = parameter.remove("name") else {
        return Err(Outcome::invalid_at(format!("{expression}.name"), "A parameter needs a name"));
    };
    let value = parameter.remove("valueString");
    let flag = parameter.remove("valueBoolean");
    if let Some(other) = parameter.keys().find(|key| !matches!(key.as_str(), "id" | "extension")) {
        let text = "The value of a parameter of this operation is a valueString or a valueBoolean";
        return Err(Outcome::invalid_at(format!("{expression}.{}", shown(other)), text));
    }
    match value {
        Some(_) if flag.is_some() => Err(Outcome::invalid_at(expression, "A parameter has one value")),
        Some(Value::String(value)) => {
            Ok(Parameter { name, value: Given::Text(Zeroizing::new(value)), at: expression })
        }
        None if let Some(flag) = flag => match flag {
            Value::Bool(flag) => Ok(Parameter { name, value: Given::Flag(flag), at: expression }),
            _ => Err(Outcome::invalid_at(
                format!("{expression}.valueBoolean"),
                "valueBoolean is true or false",
            )),
        },
        Some(_) => {
            Err(Outcome::invalid_at(format!("{expression}.valueString"), "valueString must be a string"))
        }
        None => Err(Outcome::invalid_at(expression, "A parameter of this operation needs a valueString")),
    }
}

/// An element name from a request, as far as it can be repeated in an answer: nothing as long as a secret.
fn shown(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '-'));
    if plain && name.len() < SECRET_WRITTEN_CHARS_MIN { name.to_owned() } else { "?".to_owned() }
}

#[cfg(test)]
mod tests {
    use keyrelay_core::limits::{RETIRE_AFTER_MAX, RETIRE_AFTER_MIN};
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<(SlotKind, String), String> {
        RotateInput::read(body.as_object().unwrap().clone())
            .map(|input| (input.step.slot(), input.presented.reveal().to_owned()))
            .map_err(|outcome| {
                outcome.to_resource()["issue"][0]["details"]["text"].as_str().unwrap().to_owned()
            })
    }

    #[test]
    fn both_spellings_name_a_slot_and_a_value() {
        let parameters =
            json!({"resourceType": "Parameters", "parameter": [{"name": "secret", "valueString": "a"}]});
        assert_eq!(read(&parameters), Ok((SlotKind::Active, "a".to_owned())));
        assert_eq!(read(&json!({"retiringSecret": "b"})), Ok((SlotKind::Retiring, "b".to_owned())));
    }

    #[test]
    fn a_rotation_may_say_when_the_old_secret_ends() {
        for (text, after) in [
            ("1m", Some(RETIRE_AFTER_MIN)),
            ("24h", Some(Duration::from_hours(24))),
            ("400d", Some(RETIRE_AFTER_MAX)),
            ("none", None),
        ] {
            let body = json!({"retireAfter": text, "secret": "a"});
            let input = RotateInput::read(body.as_object().unwrap().clone()).unwrap();
            assert_eq!(input.step, Step::Rotate { retire_after: Some(RetireAfter(after)) });
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong() {
        let parameters = |list: Value| json!({"resourceType": "Parameters", "parameter": list});
        for (body, text) in [
            (json!({}), "No parameter"),
            (parameters(json!([])), "No parameter"),
            (json!({"resourceType": "Parameters"}), "No parameter"),
            (json!({"secret": "a", "retiringSecret": "b"}), "Too many parameters"),
            (json!({"secret": ""}), "is empty"),
            (json!({"secret": 1}), "must be a string"),
            (json!({"secret": null}), "must be a string"),
            (json!({"secert": "a"}), "Unknown parameter"),
            (json!({"resourceType": "Patient"}), "must be a Parameters"),
            (parameters(json!({})), "must be an array"),
            (parameters(json!([1])), "must be an object"),
            (parameters(json!([{"valueString": "a"}])), "needs a name"),
            (parameters(json!([{"name": "secret"}])), "needs a valueString"),
            (parameters(json!([{"name": "secret", "valueCode": "a"}])), "is a valueString"),
            (
                parameters(json!([{"name": "secret", "valueString": "a", "valueCode": "b"}])),
                "is a valueString",
            ),
            (parameters(json!([{"name": "secret", "valueString": 7}])), "must be a string"),
            (parameters(json!([{"name": "x", "valueString": "a"}])), "Unknown parameter"),
            (
                parameters(
                    json!([{"name": "secret", "valueString": "a"}, {"name": "secret", "valueString": "a"}]),
                ),
                "Too many",
            ),
            (json!({"resourceType": "Parameters", "secret": "a"}), "Unknown element"),
            (json!({"secret": "a\u{0}b"}), "control character"),
            (json!({"retireAfter": "24h"}), "No parameter"),
            (json!({"retiringSecret": "a", "retireAfter": "24h"}), "not for a call with retiringSecret"),
            (json!({"secret": "a", "retireAfter": "soon"}), "from 1m to 400d, such as 24h"),
            (json!({"secret": "a", "retireAfter": ""}), "from 1m to 400d, such as 24h"),
            (json!({"secret": "a", "retireAfter": 24}), "must be a string"),
            (json!({"secret": true}), "must be a string"),
            (json!({"secret": "a", "retireAfter": true}), "must be a string"),
            (json!({"secret": "a", "onlyIfUnused": "1h"}), "not for a call with secret"),
            (json!({"secret": "a", "revokeTokens": true}), "not for a call with secret"),
            (json!({"secret": "a", "force": "true"}), "true or false"),
            (json!({"retiringSecret": "a", "revokeTokens": "true"}), "true or false"),
            (json!({"retiringSecret": "a", "onlyIfUnused": "never"}), "such as 10m"),
            (
                parameters(json!([{"name": "secret", "valueString": "a", "valueBoolean": true}])),
                "has one value",
            ),
            (parameters(json!([{"name": "secret", "valueBoolean": true}])), "must be a string"),
            (parameters(json!([{"name": "force", "valueBoolean": 1}])), "is true or false"),
            (json!({"secret": "a", "retireAfter": "59s"}), "from 1m to 400d"),
            (json!({"secret": "a", "retireAfter": "401d"}), "from 1m to 400d"),
            (
                parameters(json!([
                    {"name": "secret", "valueString": "a"},
                    {"name": "retireAfter", "valueString": "1h"},
                    {"name": "retireAfter", "valueString": "1h"},
                ])),
                "more than once",
            ),
        ] {
            let error = read(&body).expect_err(&body.to_string());
            assert!(error.contains(text), "{body}: {error}");
        }
    }

    #[test]
    fn a_secret_in_the_place_of_a_name_is_not_repeated() {
        let body = json!({ "resourceType": "Parameters", "krs_0123456789abcdefghijABCDEFGHIJ": "" });
        let refused = RotateInput::read(body.as_object().unwrap().clone()).unwrap_err().to_resource();
        assert_eq!(refused["issue"][0]["expression"][0], "Parameters.?");
    }
}
