//! Logins of people: the read that decides whether what came from one still works, in groups as on
//! the token path, and the writes that move one on.

use std::sync::Arc;
use std::time::Duration;

use keyrelay_core::caller::Profile;
use keyrelay_core::client::ProjectAccess;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{
    ClientId, MembershipId, ProjectId, ResourceId, SecretId, SessionId, TokenId, UserId,
};
use keyrelay_core::limits::{SESSIONS_PER_PERSON_MAX, SWEEP_ROWS};
use keyrelay_core::policy::AccessPolicy;
use keyrelay_core::scope::Scope;
use keyrelay_core::session::{Session, SessionAccess, SessionClient, Stage, UserAccess};
use keyrelay_core::time::Timestamp;

use crate::access::membership;
use crate::change::args;
use crate::database::{Arg, Row};
use crate::group::{GroupQuery, placeholders};
use crate::{Change, Conflict, Store, StoreError};

/// Reads many logins.
pub(crate) const QUERY: GroupQuery<SessionId, SessionAccess> =
    GroupQuery { text, row: |row| read(row).map(|access| (access.session.id, access)) };

/// The columns of a login in the order of [`session`], of a table called `s`.
const COLUMNS: &str = "s.id, s.revision, s.user_id, s.client_id, s.membership_id, s.stage, s.scope, s.nonce, \
                       s.redirect_uri, s.code_challenge, s.refreshable, s.authenticated, s.expires, s.generation, s.rotated, \
                       s.other_users";
const COLUMNS_COUNT: usize = 16;

fn text(ids: &[SessionId]) -> (String, Vec<Arg>) {
    let text = format!(
        "SELECT {COLUMNS}, m.id, m.active, m.admin, m.policy_id, m.profile_type, m.profile_id, r.version_id, r.content, \
         p.id, p.name, p.active, p.super_admin, u.active, u.name, u.email, \
         c.id, c.active, c.project_id, c.token_lifetime_ms, c.refresh_lifetime_ms, \
         c.revoked_until \
         FROM session s JOIN user_account u ON u.id = s.user_id \
         LEFT JOIN client c ON c.id = s.client_id \
         LEFT JOIN membership m ON m.id = s.membership_id AND m.user_id = s.user_id \
         LEFT JOIN project p ON p.id = m.project_id \
         LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
         WHERE s.id IN ({})",
        placeholders(ids.len())
    );
    (text, ids.iter().copied().map(Arg::from).collect())
}

fn read(row: &Row) -> Result<SessionAccess, StoreError> {
    let at = COLUMNS_COUNT;
    let session = session(row)?;
    Ok(SessionAccess {
        membership: membership(row, at)?,
        project: project(row, at + 8)?,
        user: UserAccess {
            id: session.user,
            active: row.boolean(at + 12)?,
            name: row.opt_text(at + 13)?,
            email: row.text(at + 14)?,
        },
        client: client(row, at + 15)?,
        session,
    })
}

fn project(row: &Row, at: usize) -> Result<Option<ProjectAccess>, StoreError> {
    let Some(id) = row.opt_id(at, ProjectId::parse, "project.id")? else { return Ok(None) };
    Ok(Some(ProjectAccess {
        id,
        name: row.opt_text(at + 1)?,
        active: row.boolean(at + 2)?,
        super_admin: row.boolean(at + 3)?,
    }))
}

fn client(row: &Row, at: usize) -> Result<Option<SessionClient>, StoreError> {
    let Some(id) = row.opt_id(at, ClientId::parse, "client.id")? else { return Ok(None) };
    Ok(Some(SessionClient {
        id,
        active: row.boolean(at + 1)?,
        project: row.id(at + 2, ProjectId::parse, "client.project_id")?,
        access_token_lifetime: lifetime(row.opt_int(at + 3)?),
        refresh_token_lifetime: lifetime(row.opt_int(at + 4)?),
        revoked_until: row.opt_int(at + 5)?.map(Timestamp::from_epoch_ms),
    }))
}

/// A duration from a column of milliseconds.
pub(crate) fn lifetime(ms: Option<i64>) -> Option<Duration> {
    ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
}

fn session(row: &Row) -> Result<Session, StoreError> {
    let corrupt = |what| StoreError::Corrupt { what };
    Ok(Session {
        id: row.id(0, SessionId::parse, "session.id")?,
        revision: row.int(1)?,
        user: row.id(2, UserId::parse, "session.user_id")?,
        others: others(row.opt_text(15)?.as_deref())?,
        client: row.opt_id(3, ClientId::parse, "session.client_id")?,
        membership: row.opt_id(4, MembershipId::parse, "session.membership_id")?,
        stage: Stage::parse(&row.text(5)?).ok_or(corrupt("session.stage"))?,
        scope: Scope::parse(&row.text(6)?).map_err(|_| corrupt("session.scope"))?,
        nonce: row.opt_text(7)?,
        redirect_uri: row.opt_text(8)?,
        code_challenge: row.opt_text(9)?,
        refreshable: row.boolean(10)?,
        authenticated: Timestamp::from_epoch_ms(row.int(11)?),
        expires: Timestamp::from_epoch_ms(row.int(12)?),
        generation: u32::try_from(row.int(13)?).map_err(|_| corrupt("session.generation"))?,
        rotated: Timestamp::from_epoch_ms(row.int(14)?),
    })
}

fn others(text: Option<&str>) -> Result<Vec<UserId>, StoreError> {
    let ids = text.unwrap_or_default().split_ascii_whitespace();
    ids.map(|id| UserId::parse(id).ok_or(StoreError::Corrupt { what: "session.other_users" })).collect()
}

/// A membership that a person may log in as.
#[derive(Clone, Debug)]
pub struct MembershipChoice {
    /// The membership.
    pub id: MembershipId,
    /// Whose it is.
    pub user: UserId,
    /// Its project.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: Option<String>,
    /// In whose name it lets the person act.
    pub profile: Profile,
    /// The policy that it is under.
    pub policy: Option<Arc<AccessPolicy>>,
}

impl Store {
    /// Everything that decides whether what came from a login still works, as of a moment after this
    /// call began.
    pub async fn session(&self, session: SessionId) -> Result<Option<SessionAccess>, StoreError> {
        self.0.sessions.read(session).await
    }

    /// The memberships that a person may log in as now, those of one project if it is named.
    pub async fn memberships_of(
        &self,
        user: UserId,
        project: Option<ProjectId>,
    ) -> Result<Vec<MembershipChoice>, StoreError> {
        let sql = "SELECT m.id, m.active, m.admin, m.policy_id, m.profile_type, m.profile_id, r.version_id, r.content, \
                   p.id, p.name FROM membership m JOIN project p ON p.id = m.project_id \
                   LEFT JOIN resource r ON r.id = m.policy_id AND r.resource_type = 'AccessPolicy' AND NOT r.deleted \
                   WHERE m.user_id = $1 AND m.active AND p.active AND ($2 = '' OR p.id = $2) \
                   ORDER BY p.name, m.id LIMIT 100";
        let project = project.map_or(String::new(), |id| id.to_string());
        let rows = self.0.database.fetch_access(sql, vec![Arg::from(user), Arg::from(project)]).await?;
        rows.iter()
            .map(|row| {
                let membership =
                    membership(row, 0)?.ok_or(StoreError::Corrupt { what: "membership.profile_id" })?;
                Ok(MembershipChoice {
                    id: membership.id,
                    user,
                    project: row.id(8, ProjectId::parse, "project.id")?,
                    project_name: row.opt_text(9)?,
                    profile: membership.profile,
                    policy: membership.policy,
                })
            })
            .collect()
    }

    /// The membership of a person in a project, active or not.
    pub async fn membership_of(
        &self,
        user: UserId,
        project: ProjectId,
    ) -> Result<Option<MembershipId>, StoreError> {
        let sql = "SELECT id FROM membership WHERE user_id = $1 AND project_id = $2";
        let rows = self.0.database.fetch_access(sql, args![user, project]).await?;
        rows.first().map(|row| row.id(0, MembershipId::parse, "membership.id")).transpose()
    }

    /// Whether an access token was revoked, by itself or with the secret that it was got by. Asked only while [`revoked_until`] of its client says so.
    ///
    /// [`revoked_until`]: keyrelay_core::client::ClientAccess::revoked_until
    pub async fn is_revoked(&self, token: TokenId, proof: SecretId) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM revoked_token WHERE id IN ($1, $2)";
        Ok(!self.0.database.fetch_access(sql, args![token, proof]).await?.is_empty())
    }
}

/// The profile of a membership, from two columns.
pub(crate) fn profile(row: &Row, at: usize) -> Result<Option<Profile>, StoreError> {
    let what = "membership.profile_type or profile_id";
    let resource_type = row.opt_id(at, |name| name.parse::<ResourceType>().ok(), what)?;
    let id = row.opt_id(at + 1, ResourceId::parse, what)?;
    Ok(resource_type.zip(id).map(|(resource_type, id)| Profile { resource_type, id }))
}

impl Change {
    /// Stores a new login. A person has at most [`SESSIONS_PER_PERSON_MAX`] logins that are unfinished or have ended:
    /// ended ones are deleted first, then the oldest.
    pub fn create_session(&mut self, session: &Session) {
        self.push(
            "INSERT INTO session (membership_id, stage, scope, nonce, redirect_uri, code_challenge, refreshable, \
             authenticated, expires, generation, rotated, revision, user_id, other_users, id, client_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            session_args(session),
            Some(Conflict::Id),
        );
        self.push(
            "DELETE FROM session WHERE id IN (SELECT id FROM session \
             WHERE user_id = $1 AND stage <> $2 AND id <> $3 \
             ORDER BY CASE WHEN stage = $4 THEN 1 ELSE 0 END, rotated DESC, id LIMIT $5 OFFSET $6)",
            args![
                session.user,
                Stage::Granted.as_str(),
                session.id,
                Stage::Ended.as_str(),
                SWEEP_ROWS,
                SESSIONS_PER_PERSON_MAX - 1,
            ],
            None,
        );
    }

    /// Moves a login to its next step, if it is still at the revision before. A second, concurrent move changes
    /// nothing. If a person has too many open logins, the least recently used one ends. An unfinished login, which
    /// needs no second factor, ends none.
    pub fn move_session(&mut self, session: &Session) {
        let mut args = session_args(session);
        args.truncate(15);
        args.push(Arg::from(session.revision - 1));
        self.push(
            "UPDATE session SET membership_id = $1, stage = $2, scope = $3, nonce = $4, redirect_uri = $5, \
             code_challenge = $6, refreshable = $7, authenticated = $8, expires = $9, generation = $10, rotated = $11, \
             revision = $12, user_id = $13, other_users = $14 WHERE id = $15 AND revision = $16",
            args,
            Some(Conflict::Version),
        );
        if session.stage == Stage::Granted && session.generation == 0 {
            self.push(
                "DELETE FROM session WHERE id IN (SELECT id FROM session \
                 WHERE user_id = $1 AND stage = $2 AND id <> $3 ORDER BY rotated DESC, id LIMIT $4 OFFSET $5)",
                args![
                    session.user,
                    Stage::Granted.as_str(),
                    session.id,
                    SWEEP_ROWS,
                    SESSIONS_PER_PERSON_MAX - 1
                ],
                None,
            );
        }
    }

    /// Ends a login, whatever has become of it meanwhile.
    pub fn end_session(&mut self, session: SessionId) {
        self.push(
            "UPDATE session SET stage = $1, revision = revision + 1 WHERE id = $2",
            args![Stage::Ended.as_str(), session],
            None,
        );
    }

    /// Ends all logins of a person except one. Their number is bounded when they are made.
    pub fn end_sessions_of(&mut self, user: UserId, but: Option<SessionId>) {
        self.push(
            "UPDATE session SET stage = $1, revision = revision + 1 WHERE user_id = $2 AND id <> $3",
            args![Stage::Ended.as_str(), user, but.map_or(String::new(), |id| id.to_string())],
            None,
        );
        // And those that could still become a login of that person.
        self.push(
            "UPDATE session SET stage = $1, revision = revision + 1, other_users = NULL \
             WHERE other_users IS NOT NULL AND other_users LIKE $2",
            args![Stage::Ended.as_str(), format!("%{user}%")],
            None,
        );
    }

    /// Revokes one access token of a client before its time (RFC 7009).
    pub fn revoke_token(&mut self, token: TokenId, client: ClientId, expires: Timestamp) {
        self.revoke(Arg::from(token), client, expires);
    }

    /// Revokes every access token that a secret of a client has got. `expires` is when the last of them can.
    pub fn revoke_tokens_of(&mut self, secret: SecretId, client: ClientId, expires: Timestamp) {
        self.revoke(Arg::from(secret), client, expires);
    }

    /// Tokens and secrets have random ids, so that they can be in one table.
    fn revoke(&mut self, id: Arg, client: ClientId, expires: Timestamp) {
        self.push(
            "INSERT INTO revoked_token (id, expires) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
            vec![id, Arg::from(expires)],
            None,
        );
        self.push(
            "UPDATE client SET revoked_until = $1 WHERE id = $2 AND (revoked_until IS NULL OR revoked_until < $1)",
            args![expires, client],
            None,
        );
    }
}

fn session_args(session: &Session) -> Vec<Arg> {
    let others: Vec<String> = session.others.iter().map(UserId::to_string).collect();
    args![
        session.membership,
        session.stage.as_str(),
        session.scope.as_str(),
        session.nonce.clone(),
        session.redirect_uri.clone(),
        session.code_challenge.clone(),
        session.refreshable,
        session.authenticated,
        session.expires,
        i64::from(session.generation),
        session.rotated,
        session.revision,
        session.user,
        (!others.is_empty()).then(|| others.join(" ")),
        session.id,
        session.client,
    ]
}
