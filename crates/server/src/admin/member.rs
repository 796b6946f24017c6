//! The membership that an invitation requests: those members of ProjectMembership that an admin may choose. Each is
//! applied, and every other one is refused.

use keyrelay_core::id::{ProjectId, ResourceId};
use serde_json::{Map, Value, json};

use super::answer::{check_members_within, policy_reference};
use crate::error::Outcome;

/// The members of `membership` in the body.
const MEMBERS: [&str; 10] = [
    "resourceType",
    "project",
    "admin",
    "active",
    "accessPolicy",
    "access",
    "userName",
    "externalId",
    "identifier",
    "userConfiguration",
];
/// Those of them that are stored as they were sent.
const STORED: [&str; 4] = ["userName", "externalId", "identifier", "userConfiguration"];

/// The requested values of a membership. `None` where the request has none.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// `false` for a new membership if absent.
    pub(super) admin: Option<bool>,
    /// `true` for a new membership if absent.
    pub(super) active: Option<bool>,
    pub(super) policy: Option<ResourceId>,
    stored: Map<String, Value>,
}

impl Wishes {
    /// Reads `membership` of a body, and the members that older clients send beside it.
    pub(super) fn read(project: ProjectId, body: &Map<String, Value>) -> Result<Self, Outcome> {
        let nothing = Map::new();
        let membership = match body.get("membership") {
            None => &nothing,
            Some(Value::Object(membership)) => membership,
            Some(_) => return Err(Outcome::invalid_at("membership", "membership must be an object")),
        };
        check_members_within("membership.", membership, &MEMBERS)?;
        let is = |name: &str, what: &str| membership.get(name).is_none_or(|value| value == what);
        if !is("resourceType", "ProjectMembership") {
            return Err(Outcome::invalid_at("membership.resourceType", "This must be ProjectMembership"));
        }
        let own = format!("Project/{project}");
        if membership.get("project").is_some_and(|named| named.get("reference") != Some(&json!(own))) {
            return Err(Outcome::invalid_at("membership.project", "This must be the project in the URL"));
        }
        let admin =
            same(flag("membership.admin", membership.get("admin"))?, flag("admin", body.get("admin"))?);
        let beside =
            body.get("accessPolicy").map(|value| policy_reference("accessPolicy", value)).transpose()?;
        let policy = same(policy(membership)?, beside);
        let stored =
            STORED.iter().filter_map(|name| Some(((*name).to_owned(), membership.get(*name)?.clone())));
        Ok(Self {
            admin: admin.map_err(|()| twice("admin"))?,
            active: flag("membership.active", membership.get("active"))?,
            policy: policy.map_err(|()| twice("accessPolicy"))?,
            stored: stored.collect(),
        })
    }

    /// Writes everything except `admin` into a new membership.
    pub(super) fn put_into(&self, membership: &mut Map<String, Value>) {
        if let Some(active) = self.active {
            membership.insert("active".to_owned(), json!(active));
        }
        if let Some(policy) = self.policy {
            membership
                .insert("accessPolicy".to_owned(), json!({ "reference": format!("AccessPolicy/{policy}") }));
        }
        membership.extend(self.stored.clone());
    }

    /// The first requested member that differs from a membership.
    pub(super) fn differs_from(&self, membership: &Map<String, Value>) -> Option<&str> {
        let flag = |name: &str, default| membership.get(name).and_then(Value::as_bool).unwrap_or(default);
        let policy = membership.get("accessPolicy").and_then(|policy| policy.get("reference"));
        let wants = self.policy.map(|policy| json!(format!("AccessPolicy/{policy}")));
        if self.admin.is_some_and(|admin| admin != flag("admin", false)) {
            Some("admin")
        } else if self.active.is_some_and(|active| active != flag("active", true)) {
            Some("active")
        } else if wants.is_some() && wants.as_ref() != policy {
            Some("accessPolicy")
        } else {
            let differs = |(name, wants): &(&String, &Value)| membership.get(name.as_str()) != Some(*wants);
            self.stored.iter().find(differs).map(|(name, _)| name.as_str())
        }
    }
}

fn flag(at: &str, value: Option<&Value>) -> Result<Option<bool>, Outcome> {
    match value {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(Outcome::invalid_at(at, format!("{at} must be true or false"))),
    }
}

/// A value that may be in two places, if both agree.
fn same<T: PartialEq>(within: Option<T>, beside: Option<T>) -> Result<Option<T>, ()> {
    if within.is_some() && beside.is_some() && within != beside { Err(()) } else { Ok(within.or(beside)) }
}

fn twice(name: &str) -> Outcome {
    let text = format!("{name} and membership.{name} differ: leave {name} out");
    Outcome::invalid_at(format!("membership.{name}"), text)
}

/// The one policy of a membership, from `accessPolicy` or `access`; both must agree.
fn policy(membership: &Map<String, Value>) -> Result<Option<ResourceId>, Outcome> {
    const AT: &str = "membership.access";
    let by_access = match membership.get("access") {
        None => None,
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::Object(access)] if access.contains_key("parameter") => {
                let text = "Policies with parameters are not enforced here: make an AccessPolicy of its own";
                return Err(Outcome::not_supported(text).at(format!("{AT}.parameter")));
            }
            [Value::Object(access)] => {
                check_members_within("membership.access.", access, &["policy"])?;
                let policy = access.get("policy").unwrap_or(&Value::Null);
                Some(policy_reference("membership.access.policy", policy)?)
            }
            _ => {
                let text =
                    "A membership has one policy here: give a list of one {\"policy\": …}, or accessPolicy";
                return Err(Outcome::not_supported(text).at(AT));
            }
        },
        Some(_) => return Err(Outcome::invalid_at(AT, "membership.access must be a list")),
    };
    let direct = membership.get("accessPolicy");
    let direct = direct.map(|value| policy_reference("membership.accessPolicy", value)).transpose()?;
    same(direct, by_access).map_err(|()| {
        Outcome::invalid_at(AT, "membership.access and membership.accessPolicy differ: leave one out")
    })
}
