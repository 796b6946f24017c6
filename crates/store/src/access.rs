//! The narrow read of the token path: everything that decides whether a client gets in, for many
//! clients in one query.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use keyrelay_core::client::{ClientAccess, MembershipAccess, ProjectAccess};
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, VersionId};
use keyrelay_core::policy::AccessPolicy;
use keyrelay_core::scope::Scope;
use keyrelay_core::time::Timestamp;
use serde_json::Value;

use crate::StoreError;
use crate::clients::slots;
use crate::database::{Arg, Row};
use crate::group::{GroupQuery, placeholders};
use crate::projects::age;
use crate::sessions::{lifetime, profile};

/// Parsed policies that are remembered.
const POLICIES_MAX: usize = 1000;

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

thread_local! {
    /// Policies as they were parsed, by version. A version never changes, and which one is current is
    /// read anew for every request.
    static PARSED: RefCell<HashMap<VersionId, Arc<AccessPolicy>>> = RefCell::default();
}

/// The policy of a membership. One that is named but cannot be read allows nothing.
fn policy(row: &Row, at: usize) -> Result<Arc<AccessPolicy>, StoreError> {
    let Some(version) = row.opt_id(at, VersionId::parse, "resource.version_id")? else {
        return Ok(Arc::new(AccessPolicy::deny_all()));
    };
    if let Some(parsed) = PARSED.with_borrow(|parsed| parsed.get(&version).cloned()) {
        return Ok(parsed);
    }
    let resource = row.opt_text(at + 1)?.and_then(|json| serde_json::from_str::<Value>(&json).ok());
    let policy = resource.and_then(|resource| AccessPolicy::from_resource(resource.as_object()?).ok());
    let policy = Arc::new(policy.unwrap_or_else(AccessPolicy::deny_all).of_version(version));
    PARSED.with_borrow_mut(|parsed| {
        if parsed.len() >= POLICIES_MAX {
            parsed.clear();
        }
        parsed.insert(version, Arc::clone(&policy));
    });
    Ok(policy)
}
