//! The input of `$rotate-secret`: a FHIR Parameters resource, or a plain JSON object with the same
//! names. Exactly one secret, named by its slot; anything else is refused with what is wrong.

use keyrelay_core::limits::SECRET_WRITTEN_CHARS_MIN;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::slots::SlotKind;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::error::Outcome;

const EXPECTED: &str = "exactly one of the parameters secret and retiringSecret is expected";

/// What is asked of `$rotate-secret`.
#[derive(Debug)]
pub(crate) struct RotateInput {
    /// `Active`: rotate; `Retiring`: retire.
    pub(crate) slot: SlotKind,
    /// The value presented for that slot.
    pub(crate) presented: PlainSecret,
}

impl RotateInput {
    pub(crate) fn read(body: Map<String, Value>) -> Result<Self, Outcome> {
        let parameters = match body.get("resourceType") {
            None => from_object(body),
            Some(Value::String(name)) if name == "Parameters" => from_parameters(body),
            Some(_) => {
                return Err(Outcome::invalid_at("resourceType", "The body must be a Parameters resource"));
            }
        }?;
        let mut found: Option<Self> = None;
        for (name, value, expression) in parameters {
            let slot = match name.as_str() {
                "secret" => SlotKind::Active,
                "retiringSecret" => SlotKind::Retiring,
                _ => return Err(Outcome::invalid_at(expression, format!("Unknown parameter: {EXPECTED}"))),
            };
            if found.is_some() {
                return Err(Outcome::invalid_at(expression, format!("Too many parameters: {EXPECTED}")));
            }
            let presented = PlainSecret::presented(value).map_err(|problem| {
                Outcome::invalid_at(expression, format!("The value of {name} {problem}"))
            })?;
            found = Some(Self { slot, presented });
        }
        found.ok_or_else(|| Outcome::invalid_at("Parameters.parameter", format!("No parameter: {EXPECTED}")))
    }
}

/// Name, value, and where it stands.
type Parameter = (String, Zeroizing<String>, String);

fn from_object(body: Map<String, Value>) -> Result<Vec<Parameter>, Outcome> {
    body.into_iter()
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name.clone(), Zeroizing::new(value), shown(&name))),
            _ => Err(Outcome::invalid_at(shown(&name), "The value must be a string")),
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
    if let Some(other) = parameter.keys().find(|key| !matches!(key.as_str(), "id" | "extension")) {
        let text = "The value of a parameter of this operation is a valueString";
        return Err(Outcome::invalid_at(format!("{expression}.{}", shown(other)), text));
    }
    match value {
        Some(Value::String(value)) => Ok((name, Zeroizing::new(value), expression)),
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
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<(SlotKind, String), String> {
        RotateInput::read(body.as_object().unwrap().clone())
            .map(|input| (input.slot, input.presented.reveal().to_owned()))
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
