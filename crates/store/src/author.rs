//! What must still be true of whoever makes a change, at the moment it is written.

use std::borrow::Cow;

use keyrelay_core::caller::{Caller, Login, Role};
use keyrelay_core::secret_rules::{PastMaximumAge, SecretRules};
use keyrelay_core::session::Stage;
use keyrelay_core::time::Timestamp;

use crate::Conflict;
use crate::change::args;
use crate::database::{Arg, Effect, Statement};
use crate::projects::column_ms;

/// The query that finds an author who has not been shut out, and has the role and the version of its policy that it had.
pub(crate) fn still_may(caller: &Caller, rules: &SecretRules, now: Timestamp) -> Statement {
    match caller.login {
        Some(login) => person(caller, login),
        None => client(caller, rules, now),
    }
}

fn client(caller: &Caller, rules: &SecretRules, now: Timestamp) -> Statement {
    Statement {
        sql: Cow::Borrowed(
            "SELECT 1 FROM client c JOIN membership m ON m.client_id = c.id JOIN project p ON p.id = c.project_id \
             LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
             WHERE c.id = $1 AND m.id = $2 AND c.active AND m.active AND p.active AND m.admin = $3 \
             AND (m.admin AND p.super_admin) = $4 AND ($5 OR c.active_id = $6 \
             OR (c.retiring_id = $6 AND (c.retiring_ends IS NULL OR c.retiring_ends > $9))) \
             AND NOT (NOT $5 AND COALESCE(p.secret_age_refused, $10) AND COALESCE(p.secret_age_max_ms, $11) > 0 \
             AND COALESCE(p.secret_age_max_ms, $11) <= $9 - \
             CASE WHEN c.active_id = $6 THEN c.active_created ELSE c.retiring_created END) \
             AND NOT EXISTS (SELECT 1 FROM revoked_token t WHERE t.id IN ($6, $7)) \
             AND COALESCE(r.version_id, CASE WHEN m.policy_id IS NULL THEN '' ELSE 'gone' END) = $8",
        ),
        args: args![
            caller.client,
            caller.membership,
            caller.role != Role::Member,
            caller.role == Role::SuperAdmin,
            caller.by_token,
            caller.proof,
            caller.token,
            policy_text(caller),
            now,
            rules.past_maximum_age == PastMaximumAge::Refuse,
            column_ms(rules.maximum_age.0),
        ],
        effect: Effect::FindsOne(Conflict::Caller),
    }
}

fn person(caller: &Caller, login: Login) -> Statement {
    Statement {
        sql: Cow::Borrowed(
            "SELECT 1 FROM session s JOIN user_account u ON u.id = s.user_id \
             JOIN membership m ON m.id = s.membership_id AND m.user_id = s.user_id \
             JOIN project p ON p.id = m.project_id LEFT JOIN client c ON c.id = s.client_id \
             LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
             WHERE s.id = $1 AND m.id = $2 AND s.stage = $3 AND u.active AND m.active AND p.active AND m.admin = $4 \
             AND (m.admin AND p.super_admin) = $5 AND (s.client_id IS NULL OR c.active) \
             AND NOT EXISTS (SELECT 1 FROM revoked_token t WHERE t.id = $7) \
             AND COALESCE(r.version_id, CASE WHEN m.policy_id IS NULL THEN '' ELSE 'gone' END) = $6",
        ),
        args: args![
            login.session,
            caller.membership,
            Stage::Granted.as_str(),
            caller.role != Role::Member,
            caller.role == Role::SuperAdmin,
            policy_text(caller),
            caller.proof,
        ],
        effect: Effect::FindsOne(Conflict::Caller),
    }
}

/// The version of the policy that a caller was let in under, as [`Change::require`] compares it: '' without a
/// policy, 'gone' where there is none behind the reference.
fn policy_text(caller: &Caller) -> String {
    match &caller.policy {
        None => String::new(),
        Some(policy) => policy.version().map_or_else(|| "gone".to_owned(), |version| version.to_string()),
    }
}
