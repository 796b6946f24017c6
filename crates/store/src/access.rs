//! The narrow read of the token path: everything that decides whether a client gets in, for many
//! clients in one query.

use std::sync::{Arc, LazyLock};

use keyrelay_core::client::{ClientAccess, MembershipAccess, ProjectAccess};
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, VersionId};
use keyrelay_core::policy::AccessPolicy;
use keyrelay_core::scope::Scope;
use keyrelay_core::time::Timestamp;
use keyrelay_core::weighed_cache::{Weighed, WeighedCache};
use serde_json::Value;

use crate::StoreError;
use crate::clients::slots;
use crate::database::{Arg, Row};
use crate::group::{GroupQuery, placeholders};
use crate::projects::age;
use crate::sessions::{lifetime, profile};

/// Reads many clients; those that are not there are not in the answer.
pub(crate) const QUERY: GroupQuery<ClientId, ClientAccess> =
    GroupQuery { text, row: |row| read(row).map(|access| (access.client, access)) };

fn text(ids: &[ClientId]) -> (String, Vec<Arg>) {
    let text = format!(
        "SELECT c.id, c.name, c.active, c.token_lifetime_ms, c.grant_types, c.default_scope, \
         c.active_id, c.active_proof, NULL, c.active_created, NULL, \
         c.retiring_id, c.retiring_proof, NULL, c.retiring_created, NULL, c.retiring_ends, \
         m.id, m.active, m.admin, m.policy_id, m.profile_type, m.profile_id, r.version_id, r.content, \
         p.id, p.name, p.active, p.super_admin, c.revoked_until, c.scope_bound, p.secret_age_max_ms, p.secret_age_refused \
         FROM client c JOIN project p ON p.id = c.project_id \
         LEFT JOIN membership m ON m.client_id = c.id AND m.project_id = c.project_id \
         LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
         WHERE c.id IN ({})",
        placeholders(ids.len())
    );
    (text, ids.iter().copied().map(Arg::from).collect())
}

fn read(row: &Row) -> Result<ClientAccess, StoreError> {
    Ok(ClientAccess {
        client: row.id(0, ClientId::parse, "client.id")?,
        name: row.opt_text(1)?,
        active: row.boolean(2)?,
        access_token_lifetime: lifetime(row.opt_int(3)?),
        grant_types: row.opt_text(4)?.map(|types| types.split(' ').map(str::to_owned).collect()),
        default_scope: row.opt_text(5)?,
        slots: slots(row, 6)?,
        membership: membership(row, 17)?,
        project: ProjectAccess {
            id: row.id(25, ProjectId::parse, "project.id")?,
            name: row.opt_text(26)?,
            active: row.boolean(27)?,
            super_admin: row.boolean(28)?,
        },
        revoked_until: row.opt_int(29)?.map(Timestamp::from_epoch_ms),
        scope_bound: scope_bound(row.opt_text(30)?)?,
        secret_age: age(row, 31)?,
    })
}

/// Reads the scope that binds a registered client.
pub(crate) fn scope_bound(text: Option<String>) -> Result<Option<Scope>, StoreError> {
    let scope = text.map(|text| Scope::parse(&text)).transpose();
    scope.map_err(|_| StoreError::Corrupt { what: "the scope of a registration" })
}

/// Reads a membership from eight columns: `id, active, admin, policy_id, profile_type, profile_id` and
/// the version and the content of its policy.
pub(crate) fn membership(row: &Row, at: usize) -> Result<Option<MembershipAccess>, StoreError> {
    let Some(id) = row.opt_id(at, MembershipId::parse, "membership.id")? else { return Ok(None) };
    // One that acts in nobody's name lets nobody in.
    let Some(profile) = profile(row, at + 4)? else { return Ok(None) };
    let policy = match row.opt_text(at + 3)? {
        Some(_) => Some(policy(row, at + 6)?),
        None => None,
    };
    Ok(Some(MembershipAccess {
        id,
        active: row.opt_boolean(at + 1)?.unwrap_or(false),
        admin: row.opt_boolean(at + 2)?.unwrap_or(false),
        policy,
        profile,
    }))
}

/// A policy beside the text that was parsed.
struct Parsed {
    text: Box<str>,
    policy: Arc<AccessPolicy>,
}

impl Weighed for Parsed {
    fn heap_bytes(&self) -> usize {
        self.text.len() + size_of::<AccessPolicy>() + self.policy.heap_bytes()
    }
}

/// Parsed policies of all threads, by version. Every request reads the current version and its text from the
/// database. A version never changes within a database, but a process may open several databases, and copies of one
/// may differ. So a parsed policy is used only for the exact text that it was parsed from.
static PARSED: LazyLock<WeighedCache<VersionId, Parsed>> = LazyLock::new(WeighedCache::default);

/// The policy of a membership. One that is named but cannot be read allows nothing.
fn policy(row: &Row, at: usize) -> Result<Arc<AccessPolicy>, StoreError> {
    let version = row.opt_id(at, VersionId::parse, "resource.version_id")?;
    match (version, row.opt_str(at + 1)?) {
        (Some(version), Some(text)) => Ok(parsed(version, text)),
        (Some(version), None) => Ok(Arc::new(AccessPolicy::deny_all().of_version(version))),
        (None, _) => Ok(Arc::new(AccessPolicy::deny_all())),
    }
}

fn parsed(version: VersionId, text: &str) -> Arc<AccessPolicy> {
    if let Some(found) = PARSED.get(&version).filter(|found| &*found.text == text) {
        return Arc::clone(&found.policy);
    }
    let resource = serde_json::from_str::<Value>(text).ok();
    let policy = resource.and_then(|resource| AccessPolicy::from_resource(resource.as_object()?).ok());
    let policy = Arc::new(policy.unwrap_or_else(AccessPolicy::deny_all).of_version(version));
    PARSED.insert(version, Arc::new(Parsed { text: text.into(), policy: Arc::clone(&policy) }));
    policy
}

#[cfg(test)]
mod tests {
    use std::thread;

    use keyrelay_core::fhir::ResourceType;
    use keyrelay_core::limits::CACHE_BYTES_MAX;
    use keyrelay_core::policy::Interaction;
    use keyrelay_core::random::SeededEntropy;
    use serde_json::json;

    use super::*;

    fn policy_of(address: &str, rules: usize) -> String {
        let rule = json!({
            "resourceType": "ClientApplication",
            "criteria": "ClientApplication?name=x,y",
            "interaction": vec!["read"; 90],
        });
        let addresses = [json!({ "value": address, "action": "block" })];
        json!({ "resourceType": "AccessPolicy", "ipAccessRule": addresses, "resource": vec![rule; rules] })
            .to_string()
    }

    #[test]
    fn all_threads_together_remember_policies_up_to_a_weight() {
        let text = policy_of("10.0.0.1", 80);
        assert!(text.len() > 50 * 1024 && text.len() < 64 * 1024, "{}", text.len());
        let versions = |seed| {
            let entropy = SeededEntropy::new(seed);
            (0..250).map(|_| VersionId::random(&entropy)).collect::<Vec<_>>()
        };
        thread::scope(|scope| {
            for seed in [1, 2] {
                let text = &text;
                scope.spawn(move || {
                    for version in versions(seed) {
                        drop(parsed(version, text));
                    }
                });
            }
        });
        let bytes = PARSED.bytes();
        assert!(bytes <= CACHE_BYTES_MAX as u64, "{bytes}");
        assert!(bytes > CACHE_BYTES_MAX as u64 / 4, "{bytes}: it remembers some");
        let version = VersionId::random(&SeededEntropy::new(3));
        let first = parsed(version, &text);
        let again = thread::spawn(move || parsed(version, &text)).join().unwrap();
        assert!(Arc::ptr_eq(&first, &again), "threads share what was parsed");
    }

    #[test]
    fn a_policy_is_used_for_its_own_text_only() {
        let version = VersionId::random(&SeededEntropy::new(4));
        let (here, there) = (policy_of("10.0.0.1", 1), policy_of("10.0.0.2", 1));
        for _ in 0..2 {
            for (text, blocked, allowed) in
                [(&here, "10.0.0.1", "10.0.0.2"), (&there, "10.0.0.2", "10.0.0.1")]
            {
                let policy = parsed(version, text);
                assert!(!policy.allows_address(blocked.parse().unwrap()));
                assert!(policy.allows_address(allowed.parse().unwrap()));
            }
        }
        assert!(!parsed(version, "{}").allows(Interaction::Read, ResourceType::Project));
    }
}
