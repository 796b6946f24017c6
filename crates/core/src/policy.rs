//! Who may do what. A [`Caller`] is a client that has proved itself; its role comes from its
//! membership, narrowed by an AccessPolicy if it has one and by the scope of its token. Changing a
//! secret takes an [`AdminOf`], which only [`Caller::admin_of`] can make.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::fhir::ResourceType;
use crate::id::{ClientId, MembershipId, ProjectId, SecretId};
use crate::limits::POLICY_RULES_MAX;
use crate::scope::Scope;

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

/// What a membership makes of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An admin of a project with `superAdmin`: all projects.
    SuperAdmin,
    /// An admin of its own project.
    ProjectAdmin,
    /// Anyone else in a project.
    Member,
}

/// A client application that has proved who it is, with all that decides what it may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client itself.
    pub client: ClientId,
    /// Its name, for people.
    pub name: Option<String>,
    /// Its membership in the project.
    pub membership: MembershipId,
    /// The project it acts in.
    pub project: ProjectId,
    /// What the membership makes of it.
    pub role: Role,
    /// Narrows the role; for members it can also widen it to writing client applications.
    pub policy: Option<Arc<AccessPolicy>>,
    /// Narrows all of the above for one token.
    pub scope: Scope,
    /// The secret that let it in.
    pub secret: SecretId,
    /// Whether it came with a token that the secret once got, and not with the secret itself.
    pub by_token: bool,
}

impl Caller {
    /// Whether the caller may do this to resources of that type, in a project within its reach.
    #[must_use]
    pub fn may(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        let role_allows = match self.role {
            Role::SuperAdmin => true,
            Role::ProjectAdmin => {
                interaction.is_reading()
                    || match resource_type {
                        ResourceType::Project => interaction == Interaction::Update,
                        _ => true,
                    }
            }
            Role::Member => self.member_may(interaction, resource_type),
        };
        role_allows
            && self.policy.as_ref().is_none_or(|policy| policy.allows(interaction, resource_type))
            && self.scope.allows(interaction, resource_type)
    }

    /// What a non-admin may do: read what is no one's secret, and write client applications if a
    /// policy says so. Memberships and policies are never theirs to write: they decide who is admin.
    fn member_may(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        match resource_type {
            ResourceType::ClientApplication => interaction.is_reading() || self.policy.is_some(),
            ResourceType::AuditEvent | ResourceType::ProjectMembership => {
                interaction.is_reading() && self.policy.is_some()
            }
            _ => interaction.is_reading(),
        }
    }

    /// Whether the caller is an admin of anything.
    #[must_use]
    pub const fn is_admin(&self) -> bool {
        matches!(self.role, Role::SuperAdmin | Role::ProjectAdmin)
    }

    /// The projects that the caller sees: `None` for all.
    #[must_use]
    pub fn reach(&self) -> Option<ProjectId> {
        (self.role != Role::SuperAdmin).then_some(self.project)
    }

    /// Whether resources of that project are within the caller's reach.
    #[must_use]
    pub fn reaches(&self, project: ProjectId) -> bool {
        self.reach().is_none_or(|own| own == project)
    }

    /// The authority over the secrets of a project's clients, if the caller has it.
    #[must_use]
    pub fn admin_of(&self, project: ProjectId) -> Option<AdminOf<ProjectId>> {
        (self.is_admin() && self.reaches(project)).then_some(AdminOf { of: project, by: self.client })
    }
}

/// Proof that somebody is an admin of `T`. Only [`Caller::admin_of`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct AdminOf<T> {
    of: T,
    by: ClientId,
}

impl<T: Copy> AdminOf<T> {
    /// What the authority is over.
    #[must_use]
    pub const fn of(&self) -> T {
        self.of
    }

    /// Who has it.
    #[must_use]
    pub const fn by(&self) -> ClientId {
        self.by
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
    use Interaction::{Create, Read, Search, Update};
    use ResourceType::{AccessPolicy as Policy, ClientApplication, Project, ProjectMembership};

    fn policy(resource: &Value) -> Result<AccessPolicy, BadPolicy> {
        AccessPolicy::from_resource(resource.as_object().unwrap())
    }

    fn caller(role: Role, policy: Option<AccessPolicy>) -> Caller {
        Caller {
            client: ClientId::NIL,
            name: None,
            membership: MembershipId::NIL,
            project: ProjectId::NIL,
            role,
            policy: policy.map(Arc::new),
            scope: Scope::default(),
            secret: SecretId::NIL,
            by_token: true,
        }
    }

    #[test]
    fn a_project_admin_changes_its_project_but_makes_none() {
        let admin = caller(Role::ProjectAdmin, None);
        assert!(admin.may(Update, Project) && !admin.may(Create, Project));
        assert!(admin.may(Create, ProjectMembership));
        assert!(caller(Role::SuperAdmin, None).may(Create, Project));
    }

    #[test]
    fn a_member_reads_and_writes_only_clients_and_only_by_policy() {
        let member = caller(Role::Member, None);
        assert!(member.may(Read, ClientApplication) && !member.may(Update, ClientApplication));
        let all = policy(&json!({"resource": [{"resourceType": "*"}]})).unwrap();
        let member = caller(Role::Member, Some(all));
        assert!(member.may(Update, ClientApplication));
        for never in [ProjectMembership, Policy, Project] {
            assert!(!member.may(Update, never), "{never:?}");
        }
    }

    #[test]
    fn a_policy_narrows_an_admin_too() {
        let read_only =
            policy(&json!({"resource": [{"resourceType": "ClientApplication", "readonly": true}]})).unwrap();
        let admin = caller(Role::ProjectAdmin, Some(read_only));
        assert!(admin.may(Search, ClientApplication));
        assert!(!admin.may(Update, ClientApplication) && !admin.may(Read, Project));
        let reads = json!({"resource": [{"resourceType": "*", "interaction": ["read"]}]});
        let reader = caller(Role::SuperAdmin, Some(policy(&reads).unwrap()));
        assert!(reader.may(Read, Project) && !reader.may(Search, Project));
        assert!(!caller(Role::SuperAdmin, Some(AccessPolicy::deny_all())).may(Read, Project));
    }

    #[test]
    fn only_an_admin_within_reach_gets_the_authority() {
        let other = ProjectId::from(uuid::Uuid::from_u128(1));
        assert!(caller(Role::ProjectAdmin, None).admin_of(ProjectId::NIL).is_some());
        assert!(caller(Role::ProjectAdmin, None).admin_of(other).is_none());
        assert!(caller(Role::SuperAdmin, None).admin_of(other).is_some());
        assert!(caller(Role::Member, None).admin_of(ProjectId::NIL).is_none());
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
