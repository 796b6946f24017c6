//! What an AccessPolicy says: which interactions with which resources, which of their elements, and
//! from which addresses. It narrows what a role gives; see [`crate::caller`].

mod criteria;
mod fields;

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::fhir::ResourceType;
use crate::fhir::search::Filter;
use crate::id::VersionId;
use crate::limits::{CRITERIA_VALUES_MAX, POLICY_FIELDS_MAX, POLICY_RULES_MAX};
use crate::weighed_cache::Weighed;

pub use criteria::{BadCriteria, Criteria, Subject};
pub use fields::FieldPath;

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

/// What lets a client application rotate its own secret, and ask who uses it. It is no interaction with resources:
/// a rule has it only by its name, and it implies none of them.
const ROTATE_OWN_SECRET: &str = "rotate-own-secret";

/// An AccessPolicy, as far as it can be enforced. Reading one that says more gives an error, so that
/// a rule that nobody enforces is never stored.
///
/// What its rules allow is the union of what each allows. Which elements of a resource are hidden or
/// cannot be changed, the first rule says that names the type, allows the interaction and whose
/// criteria the resource meets; so a rule about few resources stands before one about all.
#[derive(Clone, Debug, Default)]
pub struct AccessPolicy {
    rules: Vec<PolicyRule>,
    addresses: Vec<AddressRule>,
    version: Option<VersionId>,
}

#[derive(Clone, Debug)]
struct PolicyRule {
    /// `None` is `*`.
    resource_type: Option<ResourceType>,
    read_only: bool,
    /// `None` is all.
    interactions: Option<Vec<String>>,
    /// `None` is every resource of the type.
    criteria: Option<Criteria>,
    hidden: Vec<FieldPath>,
    fixed: Vec<FieldPath>,
}

/// What a rule says of the elements of a resource that it allows.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Neither shown nor changed.
    pub hidden: &'a [FieldPath],
    /// Shown and not changed.
    pub fixed: &'a [FieldPath],
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
    pub problem: String,
}

impl Weighed for PolicyRule {
    fn heap_bytes(&self) -> usize {
        self.interactions.heap_bytes()
            + self.criteria.heap_bytes()
            + self.hidden.heap_bytes()
            + self.fixed.heap_bytes()
    }
}

impl Weighed for AccessPolicy {
    fn heap_bytes(&self) -> usize {
        self.rules.heap_bytes() + self.addresses.capacity() * size_of::<AddressRule>()
    }
}

fn bad(expression: impl Into<String>, problem: impl Into<String>) -> BadPolicy {
    BadPolicy { expression: expression.into(), problem: problem.into() }
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
            return Err(bad(
                "AccessPolicy",
                "basedOn and compartment are not supported: write the rules into `resource`",
            ));
        }
        let list = |name: &str| resource.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for name in ["resource", "ipAccessRule"] {
            if list(name).len() > POLICY_RULES_MAX {
                return Err(bad(
                    format!("AccessPolicy.{name}"),
                    format!(
                        "has more than {POLICY_RULES_MAX} rules, and they are checked with every request"
                    ),
                ));
            }
        }
        let rules = list("resource").iter().enumerate().map(|(n, rule)| PolicyRule::read(n, rule));
        let addresses = list("ipAccessRule").iter().enumerate().map(|(n, rule)| AddressRule::read(n, rule));
        let policy = Self {
            rules: rules.collect::<Result<_, _>>()?,
            addresses: addresses.collect::<Result<_, _>>()?,
            version: None,
        };
        let values: usize =
            policy.rules.iter().filter_map(|rule| rule.criteria.as_ref()).map(Criteria::cost).sum();
        if values > CRITERIA_VALUES_MAX {
            let problem = format!(
                "have more than {CRITERIA_VALUES_MAX} values in all, and each is part of every search"
            );
            return Err(bad("AccessPolicy.resource.criteria", problem));
        }
        Ok(policy)
    }

    /// The number of values in its criteria for which a search reads every row of a parameter.
    #[must_use]
    pub fn scans(&self) -> usize {
        self.rules.iter().filter_map(|rule| rule.criteria.as_ref()).map(Criteria::scans).sum()
    }

    /// The same, as that version of the resource said it.
    #[must_use]
    pub fn of_version(self, version: VersionId) -> Self {
        Self { version: Some(version), ..self }
    }

    /// The version of the resource that said it; none for one that is not there.
    #[must_use]
    pub const fn version(&self) -> Option<VersionId> {
        self.version
    }

    /// Whether any rule allows the interaction with some resource of that type.
    #[must_use]
    pub fn allows(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        self.rules.iter().any(|rule| rule.covers(interaction, resource_type))
    }

    /// Whether a rule about all types allows the interaction with resources that other FHIR servers keep.
    #[must_use]
    pub fn allows_elsewhere(&self, interaction: Interaction) -> bool {
        self.rules.iter().any(|rule| rule.resource_type.is_none() && rule.covers_interaction(interaction))
    }

    /// Whether some rule lets a client application rotate its own secret.
    #[must_use]
    pub fn names_own_secret(&self) -> bool {
        self.rules.iter().any(PolicyRule::names_own_secret)
    }

    /// Whether a rule lets the client application `subject` rotate its own secret.
    #[must_use]
    pub fn lets_rotate_own_secret(&self, subject: &Subject<'_>) -> bool {
        let meets =
            |rule: &PolicyRule| rule.criteria.as_ref().is_none_or(|criteria| criteria.matches(subject));
        self.rules.iter().any(|rule| rule.names_own_secret() && meets(rule))
    }

    /// What the first rule says that allows the interaction with that resource; `None` if none does.
    #[must_use]
    pub fn rule(&self, interaction: Interaction, subject: &Subject<'_>) -> Option<Allowed<'_>> {
        let covers = |rule: &&PolicyRule| {
            rule.covers(interaction, subject.resource_type)
                && rule.criteria.as_ref().is_none_or(|criteria| criteria.matches(subject))
        };
        let rule = self.rules.iter().find(covers)?;
        Some(Allowed { hidden: &rule.hidden, fixed: &rule.fixed })
    }

    /// The criteria of which a resource must meet one; `None` if there is a rule without.
    #[must_use]
    pub fn criteria(&self, interaction: Interaction, resource_type: ResourceType) -> Option<Vec<&[Filter]>> {
        let rules = self.rules.iter().filter(|rule| rule.covers(interaction, resource_type));
        rules.map(|rule| rule.criteria.as_ref().map(Criteria::filters)).collect()
    }

    /// Whether some rule hides what lies at one of these paths in some resource of the type.
    #[must_use]
    pub fn hides(&self, resource_type: ResourceType, paths: &[&str]) -> bool {
        let about = self.rules.iter().filter(|rule| rule.is_about(resource_type));
        about.flat_map(|rule| &rule.hidden).any(|hidden| paths.iter().any(|path| hidden.overlaps(path)))
    }

    /// Whether some rule keeps elements of the type from being seen or changed.
    #[must_use]
    pub fn names_fields(&self, resource_type: ResourceType) -> bool {
        let mut about = self.rules.iter().filter(|rule| rule.is_about(resource_type));
        about.any(|rule| !rule.hidden.is_empty() || !rule.fixed.is_empty())
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
        let at = |element: &str| format!("AccessPolicy.resource[{n}].{element}");
        for element in ["compartment", "writeConstraint"] {
            if rule.get(element).is_some() {
                return Err(bad(at(element), "is not enforced by this server, so it cannot be stored"));
            }
        }
        let resource_type: Option<ResourceType> = match rule.get("resourceType").and_then(Value::as_str) {
            Some("*") => None,
            Some(name) => {
                let unknown = || bad(at("resourceType"), "is not a resource type of this server");
                Some(name.parse().map_err(|_| unknown())?)
            }
            None => return Err(bad(at("resourceType"), "is missing")),
        };
        let interactions: Option<Vec<String>> = rule
            .get("interaction")
            .and_then(Value::as_array)
            .map(|codes| codes.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        let has_word = interactions.iter().flatten().any(|code| code == ROTATE_OWN_SECRET);
        if has_word && resource_type != Some(ResourceType::ClientApplication) {
            return Err(bad(at("interaction"), "rotate-own-secret needs a rule about ClientApplication"));
        }
        let criteria = match (rule.get("criteria").and_then(Value::as_str), resource_type) {
            (None, _) => None,
            (Some(_), None) => {
                return Err(bad(at("criteria"), "needs a rule about one resource type, not about *"));
            }
            (Some(_), Some(named)) if named.is_conformance() => {
                return Err(bad(
                    at("criteria"),
                    "cannot select among definitions: everybody reads the same ones",
                ));
            }
            (Some(text), Some(named)) => Some(
                Criteria::parse(named, text).map_err(|problem| bad(at("criteria"), problem.to_string()))?,
            ),
        };
        let read_only = rule.get("readonly").and_then(Value::as_bool).unwrap_or(false);
        let hidden = fields(rule, resource_type, "hiddenFields", at)?;
        let fixed = fields(rule, resource_type, "readonlyFields", at)?;
        Ok(Self { resource_type, read_only, interactions, criteria, hidden, fixed })
    }

    fn names_own_secret(&self) -> bool {
        let mut codes = self.interactions.iter().flatten();
        !self.read_only
            && self.resource_type == Some(ResourceType::ClientApplication)
            && codes.any(|code| code == ROTATE_OWN_SECRET)
    }

    fn is_about(&self, resource_type: ResourceType) -> bool {
        self.resource_type.is_none_or(|named| named == resource_type)
    }

    fn covers(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        self.is_about(resource_type) && self.covers_interaction(interaction)
    }

    fn covers_interaction(&self, interaction: Interaction) -> bool {
        let named = |codes: &Vec<String>| codes.iter().any(|code| code == interaction.as_str());
        (interaction.is_reading() || !self.read_only) && self.interactions.as_ref().is_none_or(named)
    }
}

fn fields(
    rule: &Value,
    resource_type: Option<ResourceType>,
    element: &str,
    at: impl Fn(&str) -> String,
) -> Result<Vec<FieldPath>, BadPolicy> {
    let listed = rule.get(element).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if listed.len() > POLICY_FIELDS_MAX {
        return Err(bad(at(element), format!("names more than {POLICY_FIELDS_MAX} elements")));
    }
    let path = |(n, text): (usize, &Value)| {
        FieldPath::parse(resource_type, text.as_str().unwrap_or_default())
            .map_err(|problem| bad(at(&format!("{element}[{n}]")), problem))
    };
    listed.iter().enumerate().map(path).collect()
}

impl AddressRule {
    fn read(n: usize, rule: &Value) -> Result<Self, BadPolicy> {
        let value = rule.get("value").and_then(Value::as_str).unwrap_or_default();
        let network = match value {
            "*" => None,
            text => Some(
                text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                    bad(
                        format!("AccessPolicy.ipAccessRule[{n}].value"),
                        "is neither an address, nor a network like 10.0.0.0/8, nor *",
                    )
                })?,
            ),
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
        let rule = |element: &str, value: Value| json!({"resource": [{"resourceType": "ClientApplication", element: value}]});
        for (resource, expression) in [
            (rule("criteria", json!("ClientApplication?colour=red")), "AccessPolicy.resource[0].criteria"),
            (rule("criteria", json!("Project?name=x")), "AccessPolicy.resource[0].criteria"),
            (rule("hiddenFields", json!(["name", "nmae"])), "AccessPolicy.resource[0].hiddenFields[1]"),
            (rule("readonlyFields", json!(["id"])), "AccessPolicy.resource[0].readonlyFields[0]"),
            (rule("writeConstraint", json!([])), "AccessPolicy.resource[0].writeConstraint"),
            (
                json!({"resource": [{"resourceType": "*", "criteria": "Project?name=x"}]}),
                "AccessPolicy.resource[0].criteria",
            ),
            (
                json!({"resource": [{"resourceType": "StructureDefinition", "criteria": "StructureDefinition?name=x"}]}),
                "AccessPolicy.resource[0].criteria",
            ),
            (
                json!({"ipAccessRule": [{"value": "10.0.0.0/99", "action": "block"}]}),
                "AccessPolicy.ipAccessRule[0].value",
            ),
            (json!({"basedOn": [{"reference": "AccessPolicy/x"}]}), "AccessPolicy"),
            (json!({"resource": [{"resourceType": "Nonsense"}]}), "AccessPolicy.resource[0].resourceType"),
        ] {
            assert_eq!(policy(&resource).unwrap_err().expression, expression, "{resource}");
        }
    }

    #[test]
    fn what_every_search_would_have_to_carry_is_bounded() {
        let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let criteria = format!("ClientApplication?name={}", names.join(","));
        let rules = |count| json!({"resource": vec![json!({"resourceType": "ClientApplication", "criteria": criteria}); count]});
        assert!(policy(&rules(4)).is_ok());
        assert_eq!(policy(&rules(5)).unwrap_err().expression, "AccessPolicy.resource.criteria");
    }

    #[test]
    fn the_union_is_allowed_and_the_first_rule_that_matches_says_which_elements() {
        let rules = json!({"resource": [
            {"resourceType": "ClientApplication", "criteria": "ClientApplication?name=own", "readonlyFields": ["status"]},
            {"resourceType": "ClientApplication", "readonly": true, "hiddenFields": ["description"]},
        ]});
        let policy = policy(&rules).unwrap();
        let names =
            |fields: &[FieldPath]| fields.iter().map(|field| field.as_str().to_owned()).collect::<Vec<_>>();
        let rule = |interaction, name: &str| {
            let content = json!({"resourceType": "ClientApplication", "name": name});
            let subject = Subject::new(
                ResourceType::ClientApplication,
                crate::id::ResourceId::NIL,
                None,
                crate::time::Timestamp::from_epoch_ms(0),
                content.as_object(),
            );
            policy.rule(interaction, &subject).map(|rule| (names(rule.hidden), names(rule.fixed)))
        };
        let status = || (vec![], vec!["status".to_owned()]);
        assert_eq!(rule(Interaction::Read, "Own one"), Some(status()));
        assert_eq!(rule(Interaction::Update, "Own one"), Some(status()));
        assert_eq!(rule(Interaction::Read, "Another"), Some((vec!["description".to_owned()], vec![])));
        assert_eq!(rule(Interaction::Update, "Another"), None);
        let kind = ResourceType::ClientApplication;
        assert!(policy.criteria(Interaction::Search, kind).is_none());
        assert_eq!(policy.criteria(Interaction::Update, kind).unwrap().len(), 1);
        assert_eq!(policy.criteria(Interaction::Update, ResourceType::Project), Some(Vec::new()));
        assert!(policy.hides(kind, &["description"]) && !policy.hides(kind, &["status"]));
        assert!(policy.names_fields(kind) && !policy.names_fields(ResourceType::Project));
    }
}
