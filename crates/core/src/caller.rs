//! Who is asking, and what it may do. A [`Caller`] has proved itself; its role comes from its
//! membership, narrowed by an AccessPolicy if it has one and by the scope of its token. Changing a
//! secret takes an [`AdminOf`], which only [`Caller::admin_of`] can make.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::fhir::ResourceType;
use crate::fhir::search::{Field, Filter, parameters};
use crate::id::{ClientId, MembershipId, ProjectId, ResourceId, SecretId, SessionId, TokenId, UserId};
use crate::policy::{AccessPolicy, Allowed, FieldPath, Interaction, Subject};
use crate::scope::Scope;

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

/// In whose name something is done: what `ProjectMembership.profile` refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Profile {
    /// ClientApplication or Practitioner.
    pub resource_type: ResourceType,
    /// Which one.
    pub id: ResourceId,
}

impl Profile {
    /// A client application that acts in its own name.
    #[must_use]
    pub fn client(id: ClientId) -> Self {
        Self { resource_type: ResourceType::ClientApplication, id: id.into() }
    }

    /// Reads a relative reference, such as `Practitioner/[id]`.
    #[must_use]
    pub fn parse(reference: &str) -> Option<Self> {
        let (name, id) = reference.split_once('/')?;
        Some(Self { resource_type: name.parse().ok()?, id: ResourceId::parse(id)? })
    }
}

/// As a relative reference.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource_type, self.id)
    }
}

/// The caller of a request, as records name it: profile, member, account, login and client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// In whose name.
    pub profile: Profile,
    /// The membership of the project.
    pub membership: MembershipId,
    /// The person and its login; none where a client acts in its own name.
    pub login: Option<Login>,
    /// The client; none if a person logged in without one.
    pub client: Option<ClientId>,
}

impl Author {
    /// As a FHIR Reference to the profile, with the other fields as extensions.
    #[must_use]
    pub fn reference(&self) -> Value {
        let mut beside =
            vec![reference_extension("membership", &format!("ProjectMembership/{}", self.membership))];
        if let Some(login) = self.login {
            beside.push(reference_extension("user", &format!("User/{}", login.user)));
            beside.push(json!({ "url": "urn:keyrelay:session", "valueString": login.session.to_string() }));
        }
        if let Some(client) = self.client {
            beside.push(reference_extension("client", &Profile::client(client).to_string()));
        }
        json!({ "reference": self.profile.to_string(), "extension": beside })
    }
}

fn reference_extension(name: &str, reference: &str) -> Value {
    json!({ "url": format!("urn:keyrelay:{name}"), "valueReference": { "reference": reference } })
}

/// A client application or a person who has proved who it is, with all that decides what it may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client that asks; none where a person logged in without one.
    pub client: Option<ClientId>,
    /// The login of the person in whose name the client asks; none where it asks in its own.
    pub login: Option<Login>,
    /// In whose name.
    pub profile: Profile,
    /// The name of that, for people.
    pub name: Option<String>,
    /// The membership in the project.
    pub membership: MembershipId,
    /// The project it acts in.
    pub project: ProjectId,
    /// What the membership makes of it.
    pub role: Role,
    /// Narrows the role; for members it can also widen it to writing client applications.
    pub policy: Option<Arc<AccessPolicy>>,
    /// Narrows all of the above for one token.
    pub scope: Scope,
    /// The proof that let it in.
    pub proof: SecretId,
    /// Whether it came with a token that the proof once got, and not with the proof itself.
    pub by_token: bool,
    /// The access token, where it was one: it may be revoked while its request is on the way.
    pub token: Option<TokenId>,
}

/// A person who is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who.
    pub user: UserId,
    /// Which of the person's logins.
    pub session: SessionId,
}

/// Whether a caller may do something with one resource.
#[derive(Clone, Debug)]
pub enum Verdict<'a> {
    /// It may, but for these elements.
    Allowed(Withheld<'a>),
    /// It sees the resource and may not do this with it.
    Forbidden,
    /// For this caller the resource is not there.
    NotThere,
}

/// The elements of a resource that are not for a caller to see or to change.
#[derive(Clone, Debug, Default)]
pub struct Withheld<'a> {
    hidden: Vec<&'a FieldPath>,
    fixed: &'a [FieldPath],
}

impl<'a> Withheld<'a> {
    /// What the caller must not see.
    pub fn hidden(&self) -> impl Iterator<Item = &'a FieldPath> {
        self.hidden.iter().copied()
    }

    /// What the caller must not change: what it does not see, and what it may only see.
    pub fn kept(&self) -> impl Iterator<Item = &'a FieldPath> {
        self.hidden.iter().copied().chain(self.fixed)
    }

    /// Whether the caller must not see an element.
    #[must_use]
    pub fn hides(&self, path: &str) -> bool {
        self.hidden().any(|hidden| hidden.overlaps(path))
    }

    /// Whether the caller must not change an element.
    #[must_use]
    pub fn keeps(&self, path: &str) -> bool {
        self.kept().any(|kept| kept.overlaps(path))
    }
}

impl Caller {
    /// The caller, as records name it.
    #[must_use]
    pub const fn author(&self) -> Author {
        let Self { profile, membership, login, client, .. } = *self;
        Author { profile, membership, login, client }
    }

    /// Whether the caller may do this to some resources of that type, in a project within its reach. Which
    /// ones, [`Caller::judge`] says.
    #[must_use]
    pub fn may(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        self.role_may(interaction, resource_type)
            && self.policy.as_ref().is_none_or(|policy| policy.allows(interaction, resource_type))
            && self.scope.allows(interaction, resource_type)
    }

    /// Whether a token of the caller may say that it may do this: to resources of a type of this server, or,
    /// without one, of types that other FHIR servers keep. Of those only a policy says something here.
    #[must_use]
    pub fn may_be_granted(&self, interaction: Interaction, resource_type: Option<ResourceType>) -> bool {
        match resource_type {
            Some(resource_type) => self.may(interaction, resource_type),
            None => self.policy.as_ref().is_none_or(|policy| policy.allows_elsewhere(interaction)),
        }
    }

    /// Whether the caller may do this with that resource, which is within its reach. For `Create` that is
    /// the resource as it would be.
    ///
    /// Whoever may read resources of the type is told which of them it may not write; of those that it may
    /// not read it learns nothing.
    #[must_use]
    pub fn judge(&self, interaction: Interaction, subject: &Subject<'_>) -> Verdict<'_> {
        let own = self.rule(interaction, subject);
        let read = self.rule(Interaction::Read, subject);
        let Some(own) = own else {
            let is_seen = read.is_some() || interaction == Interaction::Create;
            return if is_seen && !interaction.is_reading() { Verdict::Forbidden } else { Verdict::NotThere };
        };
        let is_write = matches!(interaction, Interaction::Update | Interaction::Delete);
        if is_write && read.is_none() && self.may(Interaction::Read, subject.resource_type) {
            return Verdict::NotThere;
        }
        let mut hidden: Vec<&FieldPath> = own.hidden.iter().collect();
        hidden.extend(read.map_or(&[][..], |read| read.hidden));
        Verdict::Allowed(Withheld { hidden, fixed: own.fixed })
    }

    /// What role, policy and scope say of the interaction with that resource.
    fn rule(&self, interaction: Interaction, subject: &Subject<'_>) -> Option<Allowed<'_>> {
        let may = self.role_may(interaction, subject.resource_type)
            && self.scope.allows_resource(interaction, subject, |filter| {
                !self.hides_filter(subject.resource_type, filter)
            });
        match &self.policy {
            _ if !may => None,
            None => Some(Allowed { hidden: &[], fixed: &[] }),
            Some(policy) => policy.rule(interaction, subject),
        }
    }

    /// Whether the caller may do this to every resource of that type within its reach, with all its elements.
    #[must_use]
    pub fn may_all(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        let limited = self.policy.as_ref().and_then(|policy| policy.criteria(interaction, resource_type));
        self.may(interaction, resource_type)
            && limited.is_none()
            && self.scope.criteria(interaction, resource_type, |_| true).is_none()
            && !self.is_withheld_from(resource_type)
    }

    /// What every resource that a search finds must meet: one of the filters of each list.
    #[must_use]
    pub fn search_limits(&self, resource_type: ResourceType) -> Vec<Vec<&[Filter]>> {
        let by_policy =
            self.policy.as_ref().and_then(|policy| policy.criteria(Interaction::Search, resource_type));
        let may_ask = |filter: &Filter| !self.hides_filter(resource_type, filter);
        let by_scope = self.scope.criteria(Interaction::Search, resource_type, may_ask);
        by_policy.into_iter().chain(by_scope).collect()
    }

    /// Whether a search parameter looks at an element that is hidden from the caller in some resource of the
    /// type: what it finds would tell.
    #[must_use]
    pub fn hides_field(&self, resource_type: ResourceType, field: Field) -> bool {
        let Field::Indexed { code, .. } = field else { return false };
        self.policy.as_ref().is_some_and(|policy| {
            parameters(resource_type)
                .filter(|param| param.code == code)
                .any(|param| policy.hides(resource_type, param.paths))
        })
    }

    /// The query of a scope is the bearer's own, so it must not ask what a search must not.
    fn hides_filter(&self, resource_type: ResourceType, filter: &Filter) -> bool {
        self.hides_field(resource_type, filter.field)
    }

    /// Whether elements of some resource of the type are withheld from the caller.
    #[must_use]
    pub fn is_withheld_from(&self, resource_type: ResourceType) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy.names_fields(resource_type))
    }

    /// What the role alone allows.
    fn role_may(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        match self.role {
            Role::SuperAdmin => true,
            Role::ProjectAdmin => {
                interaction.is_reading()
                    || match resource_type {
                        ResourceType::Project => interaction == Interaction::Update,
                        _ => true,
                    }
            }
            Role::Member => self.member_may(interaction, resource_type),
        }
    }

    /// What a non-admin may do: read what is no one's secret, and write client applications if a
    /// policy says so. Memberships and policies are never theirs to write: they decide who is admin.
    fn member_may(&self, interaction: Interaction, resource_type: ResourceType) -> bool {
        match resource_type {
            ResourceType::ClientApplication => interaction.is_reading() || self.policy.is_some(),
            // Addresses of people; one's own is in `/auth/me`.
            ResourceType::User => false,
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

    /// Whether the caller may rotate the secret of that client because it is that client: in its own name, by a
    /// rule of its policy that says so, and with a token that is not limited to less than changing it. Whether the
    /// rule is about this client, [`Caller::over_own_secret`] says.
    #[must_use]
    pub fn may_rotate_own_secret(&self, client: ClientId) -> bool {
        self.login.is_none()
            && self.client == Some(client)
            && self.profile == Profile::client(client)
            && self.policy.as_ref().is_some_and(|policy| policy.names_own_secret())
            && self.scope.allows(Interaction::Update, ResourceType::ClientApplication)
    }

    /// The authority over its own secret of the client application `subject`, if the caller is that and has it.
    #[must_use]
    pub fn over_own_secret(&self, client: ClientId, subject: &Subject<'_>) -> Option<SecretAuthority> {
        let has_rule = self.policy.as_ref().is_some_and(|policy| policy.lets_rotate_own_secret(subject));
        let has_scope = self.scope.allows_resource(Interaction::Update, subject, |_| false);
        (self.may_rotate_own_secret(client) && has_rule && has_scope)
            .then(|| SecretAuthority::of_itself(client, self.project))
    }

    /// The authority over the secrets of a project's clients, if the caller has it.
    #[must_use]
    pub fn admin_of(&self, project: ProjectId) -> Option<AdminOf<ProjectId>> {
        (self.is_admin() && self.reaches(project)).then_some(AdminOf { of: project, by: self.profile })
    }
}

/// Proof that somebody is an admin of `T`. Only [`Caller::admin_of`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct AdminOf<T> {
    of: T,
    by: Profile,
}

impl<T: Copy> AdminOf<T> {
    /// What the authority is over.
    #[must_use]
    pub const fn of(&self) -> T {
        self.of
    }

    /// Who has it.
    #[must_use]
    pub const fn by(&self) -> Profile {
        self.by
    }
}

/// Proof that somebody may move a client's secrets on: an admin of its project, or the client itself
/// by its registration access token ([`crate::registration`]).
#[derive(Clone, Copy, Debug)]
pub struct SecretAuthority {
    project: ProjectId,
    by: Profile,
}

impl SecretAuthority {
    /// The authority of a client over its own secrets.
    pub(crate) fn of_itself(client: ClientId, project: ProjectId) -> Self {
        Self { project, by: Profile::client(client) }
    }

    /// The project of the client.
    #[must_use]
    pub const fn project(&self) -> ProjectId {
        self.project
    }

    /// Who has it.
    #[must_use]
    pub const fn by(&self) -> Profile {
        self.by
    }
}

impl From<AdminOf<ProjectId>> for SecretAuthority {
    fn from(admin: AdminOf<ProjectId>) -> Self {
        Self { project: admin.of, by: admin.by }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::BadPolicy;
    use Interaction::{Create, Read, Search, Update};
    use ResourceType::{AccessPolicy as Policy, ClientApplication, Project, ProjectMembership};

    fn policy(resource: &Value) -> Result<AccessPolicy, BadPolicy> {
        AccessPolicy::from_resource(resource.as_object().unwrap())
    }

    fn caller(role: Role, policy: Option<AccessPolicy>) -> Caller {
        Caller {
            client: Some(ClientId::NIL),
            login: None,
            profile: Profile::client(ClientId::NIL),
            name: None,
            membership: MembershipId::NIL,
            project: ProjectId::NIL,
            role,
            policy: policy.map(Arc::new),
            scope: Scope::default(),
            proof: SecretId::NIL,
            by_token: true,
            token: None,
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
    fn who_reads_some_learns_nothing_of_the_others() {
        let rules = json!({"resource": [
            {"resourceType": "ClientApplication", "criteria": "ClientApplication?name=own"},
            {"resourceType": "ClientApplication", "criteria": "ClientApplication?name=seen", "readonly": true},
            {"resourceType": "ClientApplication", "criteria": "ClientApplication?name=odd", "interaction": ["update"]},
        ]});
        let admin = caller(Role::ProjectAdmin, Some(policy(&rules).unwrap()));
        let blind = caller(
            Role::ProjectAdmin,
            Some(
                policy(
                    &json!({"resource": [{"resourceType": "ClientApplication", "interaction": ["update"]}]}),
                )
                .unwrap(),
            ),
        );
        let judge = |caller: &Caller, interaction, name: Option<&str>| {
            let content = name.map(|name| json!({"resourceType": "ClientApplication", "name": name}));
            let content = content.as_ref().and_then(Value::as_object);
            let subject = Subject::new(
                ClientApplication,
                ResourceId::NIL,
                None,
                crate::time::Timestamp::from_epoch_ms(0),
                content,
            );
            match caller.judge(interaction, &subject) {
                Verdict::Allowed(_) => "allowed",
                Verdict::Forbidden => "forbidden",
                Verdict::NotThere => "not there",
            }
        };
        for (name, read, update) in [
            (Some("own"), "allowed", "allowed"),
            (Some("seen"), "allowed", "forbidden"),
            (Some("odd"), "not there", "not there"),
            (Some("else"), "not there", "not there"),
            (None, "not there", "not there"),
        ] {
            assert_eq!(judge(&admin, Read, name), read, "{name:?}");
            assert_eq!(judge(&admin, Update, name), update, "{name:?}");
        }
        assert_eq!(judge(&admin, Interaction::Create, Some("seen")), "forbidden");
        assert_eq!(judge(&blind, Update, Some("x")), "allowed");
        assert_eq!(judge(&blind, Interaction::Delete, Some("x")), "not there");
        assert_eq!(admin.search_limits(ClientApplication)[0].len(), 2);
    }

    #[test]
    fn only_an_admin_within_reach_gets_the_authority() {
        let other = ProjectId::from(uuid::Uuid::from_u128(1));
        assert!(caller(Role::ProjectAdmin, None).admin_of(ProjectId::NIL).is_some());
        assert!(caller(Role::ProjectAdmin, None).admin_of(other).is_none());
        assert!(caller(Role::SuperAdmin, None).admin_of(other).is_some());
        assert!(caller(Role::Member, None).admin_of(ProjectId::NIL).is_none());
    }
}
