//! What an AccessPolicy says: which interactions with which resources, and from which addresses. It
//! narrows what a role gives; see [`crate::caller`].

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::fhir::ResourceType;
use crate::limits::POLICY_RULES_MAX;

/// What a FHIR request does to a resource (FHIR R4, `type-restful-interaction`). Patch is update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interaction {
    /// Read the current version.
    Read,
    /// Read one version.
    Vread,
    /// List the versions.
    History,
    /// Find resources.
    Search,
    /// Make a resource.
    Create,
    /// Change a resource, whole or in part.
    Update,
    /// Delete a resource.
    Delete,
}

impl Interaction {
    /// The code as AccessPolicy spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Vread => "vread",
            Self::History => "history",
            Self::Search => "search",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// Whether nothing changes by it.
    #[must_use]
    pub const fn is_reading(self) -> bool {
        matches!(self, Self::Read | Self::Vread | Self::History | Self::Search)
    }
}

/// An AccessPolicy, as far as it can be enforced. Reading one that says more gives an error, so that
/// a rule that nobody enforces is never stored.
#[derive(Clone, Debug, Default)]
pub struct AccessPolicy {
    rules: Vec<PolicyRule>,
    addresses: Vec<AddressRule>,
}

#[derive(Clone, Debug)]
struct PolicyRule {
    /// `None` is `*`.
    resource_type: Option<ResourceType>,
    read_only: bool,
    /// `None` is all.
    interactions: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
struct AddressRule {
    /// `None` is `*`.
    network: Option<IpNet>,
    allow: bool,
}

/// An element of an AccessPolicy that is wrong or cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression}: {problem}")]
pub struct BadPolicy {
    /// Where, as a FHIRPath.
    pub expression: String,
    /// What is wrong.
    pub problem: &'static str,
}

impl AccessPolicy {
    /// A policy that allows nothing: what a membership is under whose policy cannot be found.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// Reads an AccessPolicy resource that has passed the schema.
    pub fn from_resource(resource: &Map<String, Value>) -> Result<Self, BadPolicy> {
        if resource.contains_key("basedOn") || resource.contains_key("compartment") {
            return Err(BadPolicy {
                expression: "AccessPolicy".to_owned(),
                problem: "basedOn and compartment are not supported: write the rules into `resource`",
            });
        }
        let list = |name: &str| resource.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for name in ["resource", "ipAccessRule"] {
            if list(name).len() > POLICY_RULES_MAX {
                return Err(BadPolicy {
                    expression: format!("AccessPolicy.{name}"),
                    problem: "has more than 100 rules, and they are checked with every request",
                });
            }
        }
        let rules = list("resource").iter().enumerate().map(|(n, rule)| PolicyRule::read(n, rule));
        let addresses = list("ipAccessRule").iter().enumerate().map(|(n, rule)| AddressRule::read(n, rule));
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, addresses: addresses.collect::<Result<_, _>>()? })
    }

    /// Whether any rule allows the interaction.
    #[must_use]
    pub fn allows(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        self.rules.iter().any(|rule| {
            rule.resource_type.is_none_or(|named| named == resource_type)
                && (interaction.is_reading() || !rule.read_only)
                && rule
                    .interactions
                    .as_ref()
                    .is_none_or(|named| named.iter().any(|i| i == interaction.as_str()))
        })
    }

    /// Whether a request may come from that address: the first rule that names it decides, and an
    /// address that no rule names is allowed.
    #[must_use]
    pub fn allows_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses
            .iter()
            .find(|rule| rule.network.is_none_or(|network| network.contains(&address)))
            .is_none_or(|rule| rule.allow)
    }
}

impl PolicyRule {
    fn read(n: usize, rule: &Value) -> Result<Self, BadPolicy> {
        let bad = |element: &str, problem| BadPolicy {
            expression: format!("AccessPolicy.resource[{n}].{element}"),
            problem,
        };
        for element in ["criteria", "compartment", "writeConstraint", "hiddenFields", "readonlyFields"] {
            if rule.get(element).is_some() {
                return Err(bad(element, "is not enforced by this server, so it cannot be stored"));
            }
        }
        let resource_type = match rule.get("resourceType").and_then(Value::as_str) {
            Some("*") => None,
            Some(name) => {
                Some(name.parse().map_err(|_| bad("resourceType", "is not a resource type of this server"))?)
            }
            None => return Err(bad("resourceType", "is missing")),
        };
        let interactions = rule
            .get("interaction")
            .and_then(Value::as_array)
            .map(|codes| codes.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        let read_only = rule.get("readonly").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self { resource_type, read_only, interactions })
    }
}

impl AddressRule {
    fn read(n: usize, rule: &Value) -> Result<Self, BadPolicy> {
        let value = rule.get("value").and_then(Value::as_str).unwrap_or_default();
        let network = match value {
            "*" => None,
            text => {
                Some(text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(
                    |_| BadPolicy {
                        expression: format!("AccessPolicy.ipAccessRule[{n}].value"),
                        problem: "is neither an address, nor a network like 10.0.0.0/8, nor *",
                    },
                )?)
            }
        };
        Ok(Self { network, allow: rule.get("action").and_then(Value::as_str) == Some("allow") })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    fn policy(resource: &Value) -> Result<AccessPolicy, BadPolicy> {
        AccessPolicy::from_resource(resource.as_object().unwrap())
    }

    #[test]
    fn the_first_address_rule_that_matches_decides() {
        let rules = json!({"ipAccessRule": [
            {"value": "10.1.2.3", "action": "block"},
            {"value": "10.0.0.0/8", "action": "allow"},
            {"value": "2001:db8::/32", "action": "allow"},
            {"value": "*", "action": "block"},
        ]});
        let policy = policy(&rules).unwrap();
        for (address, allowed) in [
            ("10.1.2.3", false),
            ("10.9.9.9", true),
            ("::ffff:10.9.9.9", true),
            ("2001:db8::1", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(policy.allows_address(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(AccessPolicy::default().allows_address("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn what_is_not_enforced_is_refused_by_name() {
        let error = policy(&json!({"resource": [{"resourceType": "Project", "criteria": "Project?name=x"}]}));
        assert_eq!(error.unwrap_err().expression, "AccessPolicy.resource[0].criteria");
        let error = policy(&json!({"ipAccessRule": [{"value": "10.0.0.0/99", "action": "block"}]}));
        assert_eq!(error.unwrap_err().expression, "AccessPolicy.ipAccessRule[0].value");
        assert!(policy(&json!({"basedOn": [{"reference": "AccessPolicy/x"}]})).is_err());
        assert!(policy(&json!({"resource": [{"resourceType": "Nonsense"}]})).is_err());
    }
}
