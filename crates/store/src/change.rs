//! A change as a value: the statements that make it, each with what must be true of its effect.
//! Whoever decides builds it from what was read; [`crate::Store::commit`] makes it durable, all or
//! nothing. The version that was read is part of it, so that two who read the same cannot both win.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use keyrelay_core::caller::{Caller, Profile};
use keyrelay_core::change_rates::Payer;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::fhir::search::IndexEntry;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, ResourceId, UserId, VersionId};
use keyrelay_core::limits::{
    FORMER_SECRETS_MAX, HISTORY_BYTES_MAX, HISTORY_KEPT, HISTORY_TRIM_INTERVAL, HISTORY_TRIMMED_AT_ONCE,
    HISTORY_VERSIONS_KEPT, HISTORY_VERSIONS_MAX, HISTORY_VERSIONS_MIN, STATEMENT_BYTES,
};
use keyrelay_core::secret_rules::SecretRules;
use keyrelay_core::slots::{Moved, SecretSlots};
use keyrelay_core::time::Timestamp;

use crate::Conflict;
use crate::audit::Record;
use crate::author::still_may;
use crate::clients::proof;
use crate::database::{Arg, Effect, Statement};
use crate::events::Tells;
use crate::later::Later;
use crate::projects::{self, ProjectRow};
use crate::write_marks::{WRITE_SLOTS, WriteMark};

/// One version of a resource.
#[derive(Clone, Debug)]
pub struct ResourceVersion {
    /// Its type.
    pub resource_type: ResourceType,
    /// Its id.
    pub id: ResourceId,
    /// The project it belongs to.
    pub project: Option<ProjectId>,
    /// Names this version.
    pub version: VersionId,
    /// Counts the versions, from 1.
    pub revision: i64,
    /// When this version was made.
    pub last_updated: Timestamp,
    /// Whether this version says that the resource is gone.
    pub deleted: bool,
    /// The resource as JSON, without secrets; empty where deleted.
    pub content: String,
}

/// What the token path reads of a ClientApplication, besides its secrets.
#[derive(Clone, Debug)]
pub struct ClientRow {
    /// The client.
    pub id: ClientId,
    /// Its project.
    pub project: ProjectId,
    /// `ClientApplication.name`.
    pub name: Option<String>,
    /// Whether `ClientApplication.status` is `active` or absent.
    pub active: bool,
    /// `ClientApplication.accessTokenLifetime`.
    pub access_token_lifetime: Option<Duration>,
    /// `ClientApplication.refreshTokenLifetime`.
    pub refresh_token_lifetime: Option<Duration>,
    /// `ClientApplication.grantType`.
    pub grant_types: Option<Vec<String>>,
    /// `ClientApplication.defaultScope`.
    pub default_scope: Option<String>,
}

/// What the token path reads of a ProjectMembership.
#[derive(Clone, Copy, Debug)]
pub struct MembershipRow {
    /// The membership.
    pub id: MembershipId,
    /// Its project.
    pub project: ProjectId,
    /// The client application that is the member, if it is one.
    pub client: Option<ClientId>,
    /// The person who is the member, if it is one.
    pub user: Option<UserId>,
    /// In whose name the member acts.
    pub profile: Option<Profile>,
    /// `ProjectMembership.active`; absent is true.
    pub active: bool,
    /// `ProjectMembership.admin`.
    pub admin: bool,
    /// `ProjectMembership.accessPolicy`.
    pub policy: Option<ResourceId>,
}

/// The resource that rows of the index are of.
type Indexed = (ResourceId, ResourceType, Option<ProjectId>);

/// Index rows in one statement: few enough texts to keep their plans, and far from the limits on
/// parameters.
const INDEX_CHUNK: usize = 20;

/// Statements that become durable together or not at all.
#[derive(Default)]
pub struct Change {
    /// What its author must be, which is looked at before anything is changed.
    author: Option<Statement>,
    statements: Vec<Statement>,
    /// Checks after all statements, whatever their order.
    guards: Vec<Statement>,
    /// More conditions that must hold before anything is changed.
    conditions: Vec<Statement>,
    /// The types of which it writes searchable values, each with its project.
    written: BTreeSet<(ResourceType, String)>,
    /// The audit records among what it makes.
    pub(crate) records: Vec<Record>,
    /// A version that this change makes and no other: where it is found, the change was made.
    made: Option<(ResourceId, VersionId)>,
    /// What it tells once it is durable.
    pub(crate) tells: Tells,
    /// The payer whose rates it counts against.
    pub(crate) payer: Option<Payer>,
    /// The bytes that it writes and that count against a rate.
    pub(crate) weight: u64,
    /// The bytes that it writes and that count against a rate but are never refused by it.
    pub(crate) owed: u64,
    /// Whether it records a used assertion, which counts separately from other changes.
    pub(crate) is_assertion: bool,
    is_free: bool,
    /// Work that follows once it is durable, a few rows at a time.
    pub(crate) later: Vec<Later>,
    /// How many resources it makes in each project, without audit records.
    pub(crate) resources: BTreeMap<ProjectId, i64>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Change({} statements)", self.statements.len())
    }
}

macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$(Arg::from($value)),*] };
}
pub(crate) use args;

impl Change {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The statements, and the records that they make.
    pub(crate) fn into_parts(mut self) -> (Vec<Statement>, Vec<Record>) {
        self.count_writes();
        let before = self.author.into_iter().chain(self.conditions);
        (before.chain(self.statements).chain(self.guards).collect(), self.records)
    }

    /// Adds all that another change of the same author does. The author is looked at once, and as it is before
    /// either: what the one does to its rights does not keep the other from being made.
    pub fn append(&mut self, other: Self) {
        self.author = self.author.take().or(other.author);
        self.payer = self.payer.or(other.payer);
        self.weight += other.weight;
        self.owed += other.owed;
        self.conditions.extend(other.conditions);
        for (project, made) in other.resources {
            *self.resources.entry(project).or_default() += made;
        }
        self.statements.extend(other.statements);
        self.guards.extend(other.guards);
        self.written.extend(other.written);
        self.records.extend(other.records);
        self.tells.append(other.tells);
        self.later.extend(other.later);
    }

    #[cfg(test)]
    pub(crate) fn statements_mut(&mut self) -> &mut [Statement] {
        &mut self.statements
    }

    /// How many statements it takes, apart from the look at its author.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.statements.len() + self.guards.len()
    }

    /// Whether it changes nothing and depends on nothing but its author.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// A query that finds something if, and only if, this change was made. Without a version there is
    /// none.
    pub(crate) fn witness(&self) -> Option<Statement> {
        let (id, version) = self.made?;
        Some(Statement {
            sql: Cow::Borrowed(
                "SELECT 1 FROM resource WHERE id = $1 AND version_id = $2 \
                 UNION ALL SELECT 1 FROM resource_history WHERE id = $1 AND version_id = $2",
            ),
            args: args![id, version],
            effect: Effect::FindsOne(Conflict::Version),
        })
    }

    pub(crate) fn push(&mut self, sql: &'static str, args: Vec<Arg>, changes_one: Option<Conflict>) {
        let effect = changes_one.map_or(Effect::Any, Effect::ChangesOne);
        self.weigh(&args);
        self.statements.push(Statement { sql: Cow::Borrowed(sql), args, effect });
    }

    /// Adds a statement whose text was put together, and whose effect does not matter.
    pub(crate) fn push_text(&mut self, sql: String, args: Vec<Arg>) {
        self.weigh(&args);
        self.statements.push(Statement { sql: Cow::Owned(sql), args, effect: Effect::Any });
    }

    /// Makes the change depend on its author: who has been shut out, or has another role or another version of
    /// its policy by now, changes nothing, however long ago the request began. `now` is when the change was
    /// decided: a secret that had ended or was too old by then makes nobody an author. `rules` hold where its project
    /// says nothing.
    pub fn require(&mut self, caller: &Caller, rules: &SecretRules, now: Timestamp) {
        self.author = Some(still_may(caller, rules, now));
        self.charge(caller, now);
    }

    /// Counts the change against the rates of a caller and its project.
    pub fn charge(&mut self, caller: &Caller, now: Timestamp) {
        self.payer = Payer::of(caller, now);
    }

    /// Counts the change against no rate: for changes that end a secret or take something away, which no bound may
    /// delay. Each of them undoes a change that was counted, so they are bounded too.
    pub fn let_pass(&mut self) {
        (self.is_free, self.weight) = (true, 0);
    }

    /// Counts the statements so far against the rates, but no rate refuses them: for changes that shut a caller out.
    /// The opposite change waits until there is room, so a loop of both cannot exceed the rates.
    pub fn owe(&mut self) {
        self.owed += std::mem::take(&mut self.weight);
    }

    fn weigh(&mut self, args: &[Arg]) {
        if !self.is_free {
            self.weight += STATEMENT_BYTES + args.iter().map(Arg::bytes).sum::<u64>();
        }
    }

    /// Makes the change fail if another change has written searchable values since the mark was read.
    pub fn require_unwritten(&mut self, mark: &WriteMark) {
        self.conditions.push(mark.is_still());
    }

    /// Counts its writes, in the same order for all changes.
    fn count_writes(&mut self) {
        let version = self.made.map(|(_, version)| version.to_string()).unwrap_or_default();
        let slot = version.chars().next().and_then(|digit| digit.to_digit(WRITE_SLOTS)).map_or(0, i64::from);
        for (resource_type, project) in std::mem::take(&mut self.written) {
            self.push(
                "INSERT INTO resource_writes (resource_type, project_id, slot, writes) VALUES ($1, $2, $3, 1) \
                 ON CONFLICT (resource_type, project_id, slot) DO UPDATE SET writes = resource_writes.writes + 1",
                args![resource_type.as_str(), project, slot],
                None,
            );
        }
    }

    fn note_write(&mut self, version: &ResourceVersion) {
        // Types without conditional creates need no count.
        if version.resource_type.is_writable() {
            let project = version.project.map_or_else(String::new, |project| project.to_string());
            self.written.insert((version.resource_type, project));
        }
    }

    /// Makes the change depend on the database being empty: of several nodes that start at once, one
    /// makes the first project.
    pub fn require_no_project(&mut self) {
        self.statements.push(Statement {
            sql: Cow::Borrowed("SELECT id FROM project LIMIT 1"),
            args: Vec::new(),
            effect: Effect::FindsNone(Conflict::Exists),
        });
    }

    /// Makes a resource.
    pub fn create(&mut self, version: ResourceVersion, index: &[IndexEntry]) {
        let (id, resource_type, project) = (version.id, version.resource_type, version.project);
        if let Some(project) = project
            && resource_type != ResourceType::AuditEvent
        {
            *self.resources.entry(project).or_default() += 1;
        }
        self.made.get_or_insert((id, version.version));
        self.note_write(&version);
        self.push(
            "INSERT INTO resource (id, resource_type, project_id, version_id, revision, last_updated, deleted, content) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            args![
                version.id,
                version.resource_type.as_str(),
                version.project,
                version.version,
                version.revision,
                version.last_updated,
                version.deleted,
                version.content,
            ],
            Some(Conflict::Id),
        );
        self.insert_index((id, resource_type, project), index);
    }

    /// Makes a new version of a resource, if `previous` is still the current one. `index` is `None`
    /// where nothing that can be searched for has changed.
    pub fn update(&mut self, version: ResourceVersion, previous: VersionId, index: Option<&[IndexEntry]>) {
        let (id, resource_type, project) = (version.id, version.resource_type, version.project);
        let trim = history_trim(&version);
        self.made.get_or_insert((id, version.version));
        if index.is_some() {
            self.note_write(&version);
        }
        self.push(
            "INSERT INTO resource_history \
             (id, revision, version_id, resource_type, project_id, last_updated, deleted, content) \
             SELECT id, revision, version_id, resource_type, project_id, last_updated, deleted, content \
             FROM resource WHERE id = $1 AND version_id = $2",
            args![version.id, previous],
            Some(Conflict::Version),
        );
        self.push(
            "UPDATE resource SET project_id = $1, version_id = $2, revision = $3, last_updated = $4, deleted = $5, \
             content = $6 WHERE id = $7 AND version_id = $8",
            args![
                version.project,
                version.version,
                version.revision,
                version.last_updated,
                version.deleted,
                version.content,
                version.id,
                previous,
            ],
            Some(Conflict::Version),
        );
        if let Some(trim) = trim {
            self.push(
                "DELETE FROM resource_history WHERE id = $1 AND revision IN ( \
                 SELECT h.revision FROM resource_history h WHERE h.id = $1 AND h.revision < $2 \
                 AND (h.revision < $3 OR h.last_updated < $4) ORDER BY h.revision LIMIT $5)",
                trim,
                None,
            );
        }
        if let Some(index) = index {
            self.push("DELETE FROM search_index WHERE resource_id = $1", args![id], None);
            self.insert_index((id, resource_type, project), index);
        }
    }

    fn insert_index(&mut self, of: Indexed, index: &[IndexEntry]) {
        // These two are columns of the resource itself.
        let index: Vec<&IndexEntry> =
            index.iter().filter(|entry| !matches!(entry.code, "_project" | "_compartment")).collect();
        for chunk in index.chunks(INDEX_CHUNK) {
            self.insert_index_rows(of, chunk);
        }
    }

    fn insert_index_rows(&mut self, (id, resource_type, project): Indexed, index: &[&IndexEntry]) {
        let mut sql = String::from(
            "INSERT INTO search_index (resource_id, resource_type, project_id, code, system, value, low, high) VALUES ",
        );
        let mut args = args![id, resource_type.as_str(), project];
        for (n, entry) in index.iter().enumerate() {
            let first = args.len() + 1;
            let separator = if n == 0 { "" } else { ", " };
            let _ = write!(
                sql,
                "{separator}($1, $2, $3, ${first}, ${}, ${}, ${}, ${})",
                first + 1,
                first + 2,
                first + 3,
                first + 4
            );
            args.extend(args![
                entry.code,
                entry.system.clone().unwrap_or_default(),
                entry.value.clone(),
                entry.at_ms,
                entry.until_ms,
            ]);
        }

        self.push_text(sql, args);
    }

    /// Makes the narrow row of a new client, with its first secret.
    pub fn create_client(&mut self, row: &ClientRow, slots: &SecretSlots) {
        self.push(
            "INSERT INTO client (id, project_id, name, active, token_lifetime_ms, grant_types, default_scope, \
             refresh_lifetime_ms, former_count) VALUES ($8, $1, $2, $3, $4, $5, $6, $7, 0)",
            client_args(row),
            Some(Conflict::Id),
        );
        self.set_slots(row.id, slots, 0);
    }

    /// Changes the narrow row of a client; its secrets stay. Where it names no grant types, those count that bound
    /// its registration, if it registered itself.
    pub fn update_client(&mut self, row: &ClientRow) {
        self.push(
            "UPDATE client SET project_id = $1, name = $2, active = $3, token_lifetime_ms = $4, grant_types = \
             COALESCE($5, (SELECT g.grant_types FROM client_registration g WHERE g.client_id = client.id)), \
             default_scope = $6, refresh_lifetime_ms = $7 WHERE id = $8",
            client_args(row),
            Some(Conflict::Version),
        );
    }

    /// Ends a client: none of its secrets grants access again. Their digests are kept with those of its former
    /// secrets, so that a worker that still presents one is recognized.
    ///
    /// Belongs into one change with [`Change::update`] of the client, whose version guards it.
    pub fn delete_client(&mut self, id: ClientId, now: Timestamp) {
        self.forget_uses_of(id);
        // A conflict means that somebody else has moved the secrets meanwhile: then the version fails the change.
        self.push(
            "INSERT INTO former_secret (client_id, nth, secret_id, proof, ended) \
             SELECT id, former_count, retiring_id, retiring_proof, \
             CASE WHEN retiring_ends < $2 THEN retiring_ends ELSE $2 END \
             FROM client WHERE id = $1 AND retiring_id IS NOT NULL \
             UNION ALL SELECT id, former_count + CASE WHEN retiring_id IS NULL THEN 0 ELSE 1 END, \
             active_id, active_proof, $2 FROM client WHERE id = $1 AND active_id IS NOT NULL \
             ON CONFLICT DO NOTHING",
            args![id, now],
            None,
        );
        self.push(
            "DELETE FROM former_secret WHERE client_id = $1 \
             AND nth <= (SELECT MAX(nth) FROM former_secret WHERE client_id = $1) - $2",
            args![id, FORMER_SECRETS_MAX],
            None,
        );
        self.push("DELETE FROM client WHERE id = $1", args![id], Some(Conflict::Version));
        self.push("DELETE FROM client_registration WHERE client_id = $1", args![id], None);
        self.push("DELETE FROM kept_answer WHERE client_id = $1", args![id], None);
    }

    /// Puts secrets into a client's slots, and remembers the digests of those that ended.
    ///
    /// Belongs into one change with [`Change::update`] of the client, whose version guards it (P1).
    pub fn move_secrets(&mut self, client: ClientId, moved: &Moved, former_count: i64, now: Timestamp) {
        let count = i64::try_from(moved.ended.len()).unwrap_or(i64::MAX);
        self.set_slots(client, &moved.slots, former_count.saturating_add(count));
        for (nth, ended) in (former_count..).zip(&moved.ended) {
            let at = ended.expired.unwrap_or(now);
            self.push(
                "INSERT INTO former_secret (client_id, nth, secret_id, proof, ended) VALUES ($1, $2, $3, $4, $5)",
                args![client, nth, ended.slot.id, proof(&ended.slot), at],
                Some(Conflict::Version),
            );
        }
        let oldest = former_count.saturating_add(count) - 1 - FORMER_SECRETS_MAX;
        if count > 0 && oldest >= 0 {
            self.push(
                "DELETE FROM former_secret WHERE client_id = $1 AND nth <= $2",
                args![client, oldest],
                None,
            );
        }
    }

    /// A sealed value is written only if the project keeps them at the moment of the write: it may have
    /// been set to `once` since the change was decided. (The branch that is never taken tells PostgreSQL
    /// the type of the argument.)
    fn set_slots(&mut self, client: ClientId, slots: &SecretSlots, former_count: i64) {
        let mut args = Vec::with_capacity(13);
        for slot in [slots.active(), slots.retiring()] {
            args.extend(args![
                slot.map(|slot| slot.id),
                slot.map(proof),
                slot.and_then(|slot| slot.sealed.as_ref()).map(|sealed| sealed.as_bytes().to_vec()),
                slot.map(|slot| slot.created.epoch_ms()),
                slot.and_then(|slot| slot.by).map(|by| by.to_string()),
            ]);
        }
        args.extend(args![slots.retiring_ends(), former_count, client]);
        self.push(
            "UPDATE client SET active_id = $1, active_proof = $2, active_created = $4, active_by = $5, \
             retiring_id = $6, retiring_proof = $7, retiring_created = $9, retiring_by = $10, retiring_ends = $11, \
             former_count = $12, \
             active_sealed = CASE WHEN (SELECT p.secret_once FROM project p WHERE p.id = client.project_id) THEN NULL \
             WHEN FALSE THEN active_sealed ELSE $3 END, \
             retiring_sealed = CASE WHEN (SELECT p.secret_once FROM project p WHERE p.id = client.project_id) THEN NULL \
             WHEN FALSE THEN retiring_sealed ELSE $8 END \
             WHERE id = $13",
            args,
            Some(Conflict::Version),
        );
    }

    /// Deletes the sealed values of a project's secrets once the change is durable: from then on secrets can only be
    /// verified.
    pub fn forget_sealed_secrets(&mut self, project: ProjectId) {
        self.later.push(Later::SealedOf(project));
    }

    /// Makes the narrow row of a membership, or gives it another member. A client has one membership at most, and a
    /// profile belongs to one user of a project, because records name the profile.
    pub fn put_membership(&mut self, row: &MembershipRow) {
        self.change_membership(row);
        if let (Some(user), Some(profile)) = (row.user, row.profile) {
            self.guards.push(Statement {
                sql: Cow::Borrowed(
                    "SELECT id FROM membership WHERE project_id = $1 AND profile_type = $2 AND profile_id = $3 \
                     AND user_id <> $4 LIMIT 1",
                ),
                args: args![row.project, profile.resource_type.as_str(), profile.id, user],
                effect: Effect::FindsNone(Conflict::Profile),
            });
        }
    }

    /// Changes the narrow row of a membership that keeps its member. Two users that shared a profile before that was
    /// refused keep it.
    pub fn change_membership(&mut self, row: &MembershipRow) {
        self.push(
            "INSERT INTO membership (id, project_id, client_id, active, admin, policy_id, user_id, profile_type, profile_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, client_id = excluded.client_id, \
             active = excluded.active, admin = excluded.admin, policy_id = excluded.policy_id, user_id = excluded.user_id, \
             profile_type = excluded.profile_type, profile_id = excluded.profile_id",
            args![
                row.id,
                row.project,
                row.client,
                row.active,
                row.admin,
                row.policy,
                row.user,
                row.profile.map(|profile| profile.resource_type.as_str()),
                row.profile.map(|profile| profile.id),
            ],
            Some(Conflict::Membership),
        );
    }

    /// Ends a membership.
    pub fn delete_membership(&mut self, id: MembershipId) {
        self.push("DELETE FROM membership WHERE id = $1", args![id], None);
    }

    /// Makes or changes the narrow row of a project.
    pub fn put_project(&mut self, row: &ProjectRow) {
        self.push(
            "INSERT INTO project (id, name, active, super_admin, secret_once, secret_recoverable, secret_overwrite, \
             secret_age_max_ms, secret_age_refused, secret_retire_after_ms, secret_warn_before) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, active = excluded.active, \
             super_admin = excluded.super_admin, secret_once = excluded.secret_once, \
             secret_recoverable = excluded.secret_recoverable, secret_overwrite = excluded.secret_overwrite, \
             secret_age_max_ms = excluded.secret_age_max_ms, secret_age_refused = excluded.secret_age_refused, \
             secret_retire_after_ms = excluded.secret_retire_after_ms, \
             secret_warn_before = excluded.secret_warn_before",
            projects::args(row),
            None,
        );
    }

    /// Ends a project: none of its clients is let in again.
    pub fn delete_project(&mut self, id: ProjectId) {
        self.push("DELETE FROM project WHERE id = $1", args![id], None);
        self.delete_webhooks_of(id);
    }
}

/// The earlier versions to delete when this one is made: at every few versions, those beyond the bounds.
fn history_trim(version: &ResourceVersion) -> Option<Vec<Arg>> {
    let (kept, most) = history_bounds(version.content.len());
    (version.revision % HISTORY_TRIM_INTERVAL == 0).then(|| {
        args![
            version.id,
            version.revision - kept,
            version.revision - most,
            version.last_updated.minus(HISTORY_KEPT),
            HISTORY_TRIMMED_AT_ONCE,
        ]
    })
}

/// How many earlier versions of a resource of so many bytes are kept at any age, and how many at most.
fn history_bounds(bytes: usize) -> (i64, i64) {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX).max(1);
    let most = (HISTORY_BYTES_MAX / bytes).clamp(HISTORY_VERSIONS_MIN, HISTORY_VERSIONS_MAX);
    (HISTORY_VERSIONS_KEPT.min(most), most)
}

fn client_args(row: &ClientRow) -> Vec<Arg> {
    let ms = |lifetime: Option<Duration>| {
        lifetime.map(|lifetime| i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX))
    };
    args![
        row.project,
        row.name.clone(),
        row.active,
        ms(row.access_token_lifetime),
        row.grant_types.as_ref().map(|types| types.join(" ")),
        row.default_scope.clone(),
        ms(row.refresh_token_lifetime),
        row.id,
    ]
}

#[cfg(test)]
mod tests {
    use super::history_bounds;

    #[test]
    fn fewer_versions_of_a_large_resource_are_kept() {
        assert_eq!(history_bounds(0), (100, 1000));
        assert_eq!(history_bounds(64 * 1024), (100, 256));
        assert_eq!(history_bounds(1024 * 1024), (16, 16));
        assert_eq!(history_bounds(1024 * 1024 * 1024), (10, 10));
    }
}
