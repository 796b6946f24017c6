//! The first start: an empty database gets a Super Admin project and a client application that is
//! its admin. Its secret is told once, in a file that only the owner can read, never in the log.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keyrelay_core::caller::{Caller, Profile, Role};
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::{ClientId, MembershipId, ProjectId, SecretId};
use keyrelay_core::limits::SECRET_WRITTEN_CHARS_MIN;
use keyrelay_core::scope::Scope;
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::secret_rules::SecretSettings;
use keyrelay_core::slots::SecretSlots;
use keyrelay_store::{Change, ClientRow, Conflict, MembershipRow, ProjectRow, StoreError};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::app::App;
use crate::config::SecretPolicy;
use crate::error::StartError;
use crate::fhir::{Act, first_version_as_is, record_creation};

/// The credentials of the first client.
#[derive(Debug)]
pub struct FirstClient {
    /// Its id.
    pub id: ClientId,
    /// Its secret.
    pub secret: PlainSecret,
}

impl FirstClient {
    /// Credentials that an operator chose.
    pub fn chosen(id: &str, secret: Zeroizing<String>, policy: SecretPolicy) -> Result<Self, StartError> {
        let refused = |text: String| StartError::Bootstrap(text);
        let id = ClientId::parse(id).ok_or_else(|| {
            refused(format!("KEYRELAY_BOOTSTRAP_CLIENT_ID {id:?} is not a UUID in lower case"))
        })?;
        let secret = PlainSecret::presented(secret)
            .map_err(|problem| refused(format!("KEYRELAY_BOOTSTRAP_CLIENT_SECRET {problem}")))?;
        if policy == SecretPolicy::Strong && secret.chars() < SECRET_WRITTEN_CHARS_MIN {
            return Err(refused(format!(
                "KEYRELAY_BOOTSTRAP_CLIENT_SECRET needs at least {SECRET_WRITTEN_CHARS_MIN} characters (KEYRELAY_SECRET_POLICY=any allows fewer)"
            )));
        }
        if secret.is_garbled() {
            return Err(refused(
                "KEYRELAY_BOOTSTRAP_CLIENT_SECRET looks like a generated secret, but its checksum is wrong"
                    .to_owned(),
            ));
        }
        Ok(Self { id, secret })
    }
}

/// Makes the first project and client if the database is empty. The secret of a generated client is
/// written to `file` before anything else, so that it cannot be lost. True if it was.
pub async fn first_start(app: &App, chosen: Option<FirstClient>, file: &Path) -> Result<bool, StartError> {
    if !app.store.is_empty().await? {
        return Ok(false);
    }
    let project = ProjectId::random(app.entropy.as_ref());
    let generated = chosen.is_none();
    let first = chosen.unwrap_or_else(|| FirstClient {
        id: ClientId::random(app.entropy.as_ref()),
        secret: PlainSecret::generate(app.entropy.as_ref()),
    });
    if generated {
        write_file(app, file, &first, project)?;
    }
    match app.store.commit(first_change(app, project, &first)).await {
        Ok(()) => Ok(generated),
        // Another node was faster; its credentials are the ones.
        Err(StoreError::Conflict(Conflict::Exists)) => {
            if generated {
                remove_file(file)?;
            }
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn write_file(app: &App, file: &Path, first: &FirstClient, project: ProjectId) -> Result<(), StartError> {
    let text = Zeroizing::new(format!(
        "{{\n  \"clientId\": \"{}\",\n  \"clientSecret\": {},\n  \"projectId\": \"{project}\",\n  \"baseUrl\": {}\n}}\n",
        first.id,
        json!(first.secret.reveal()),
        json!(app.config.base_url.as_str()),
    ));
    let failed = |source| StartError::Io { action: format!("cannot write {}", file.display()), source };
    // A file from a first start that did not get to its end is of no use to anybody.
    remove_file(file)?;
    let mut out = fs::File::options().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    out.write_all(text.as_bytes()).and_then(|()| out.sync_all()).map_err(failed)?;
    // Make its name durable, too.
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn remove_file(file: &Path) -> Result<(), StartError> {
    match fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StartError::Io { action: format!("cannot remove {}", file.display()), source })
        }
        _ => Ok(()),
    }
}

/// The admin that makes itself.
fn first_caller(project: ProjectId, client: ClientId, membership: MembershipId) -> Caller {
    Caller {
        client: Some(client),
        login: None,
        profile: Profile::client(client),
        name: Some("Super Admin Client".to_owned()),
        membership,
        project,
        role: Role::SuperAdmin,
        policy: None,
        scope: Scope::default(),
        proof: SecretId::NIL,
        by_token: false,
        token: None,
    }
}

fn first_change(app: &App, project: ProjectId, first: &FirstClient) -> Change {
    let membership = MembershipId::random(app.entropy.as_ref());
    let caller = first_caller(project, first.id, membership);
    let act = Act::now(app, &caller, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut change = Change::new();
    change.require_no_project();

    let body = object(
        json!({ "resourceType": "Project", "name": "Super Admin", "active": true, "superAdmin": true }),
    );
    first_version_as_is(act, ResourceType::Project, project.into(), project, body, &mut change);
    change.put_project(&ProjectRow {
        id: project,
        name: Some("Super Admin".to_owned()),
        active: true,
        super_admin: true,
        secrets: SecretSettings::default(),
    });
    add_client(act, &mut change, project, first, membership, None);
    change
}

/// Adds a client and its membership to a change: the first one, which is an admin, or one that is seeded.
fn add_client(
    act: Act<'_>,
    change: &mut Change,
    project: ProjectId,
    client: &FirstClient,
    membership: MembershipId,
    seeded: Option<SeededClient>,
) {
    let (app, admin) = (act.app, seeded.is_none());
    let name = if admin { "Super Admin Client" } else { "Seeded Client" };
    let mut body = object(json!({ "resourceType": "ClientApplication", "status": "active", "name": name }));
    if let Some(seeded) = seeded {
        seeded.grow(&mut body);
    }
    first_version_as_is(act, ResourceType::ClientApplication, client.id.into(), project, body, change);
    let row = ClientRow {
        id: client.id,
        project,
        name: Some(name.to_owned()),
        active: true,
        access_token_lifetime: None,
        refresh_token_lifetime: None,
        grant_types: None,
        default_scope: None,
    };
    let visibility = app.config.secrets.visibility;
    let id = SecretId::random(app.entropy.as_ref());
    let slot =
        app.keyring.fill_slot(client.id, id, &client.secret, visibility, act.now, app.entropy.as_ref());
    // Clients to measure with are of no interest to anybody.
    if admin {
        record_creation(act, client.id, project, &slot, change);
    }
    change.create_client(&row, &SecretSlots::with_active(slot));

    let reference = json!({ "reference": format!("ClientApplication/{}", client.id), "display": name });
    let body = object(json!({
        "resourceType": "ProjectMembership",
        "project": { "reference": format!("Project/{project}") },
        "user": reference,
        "profile": reference,
        "admin": admin,
    }));
    first_version_as_is(act, ResourceType::ProjectMembership, membership.into(), project, body, change);
    change.put_membership(&MembershipRow {
        id: membership,
        project,
        client: Some(client.id),
        user: None,
        profile: Some(Profile::client(client.id)),
        active: true,
        admin,
        policy: None,
    });
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The size of each client that [`seed`] makes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeededClient {
    /// Bytes of its description.
    pub description_bytes: usize,
    /// Its tags.
    pub tags: usize,
}

impl SeededClient {
    fn grow(self, body: &mut Map<String, Value>) {
        if self.description_bytes > 0 {
            body.insert("description".to_owned(), "d".repeat(self.description_bytes).into());
        }
        if self.tags > 0 {
            let tags = (0..self.tags).map(|n| json!({ "system": "urn:seed", "code": format!("t{n}") }));
            body.insert("meta".to_owned(), json!({ "tag": tags.collect::<Vec<_>>() }));
        }
    }
}

/// Clients that [`seed`] makes in one transaction if each is small: few enough for the time limit of one change.
const SEED_CHUNK: usize = 100;

/// Makes many clients at once, to measure how the server does with them. Gives `samples` of them,
/// spread over all.
pub async fn seed(
    app: &App,
    count: usize,
    each: SeededClient,
    samples: usize,
) -> Result<(ProjectId, Vec<FirstClient>), StartError> {
    let project = ProjectId::random(app.entropy.as_ref());
    let caller = first_caller(project, ClientId::NIL, MembershipId::NIL);
    let act = Act::now(app, &caller, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut change = Change::new();
    let body = object(json!({ "resourceType": "Project", "name": "Seeded", "active": true }));
    first_version_as_is(act, ResourceType::Project, project.into(), project, body, &mut change);
    change.put_project(&ProjectRow {
        id: project,
        name: Some("Seeded".to_owned()),
        active: true,
        super_admin: false,
        secrets: SecretSettings::default(),
    });
    // About as much in each transaction, whatever the size of a client.
    let chunk = SEED_CHUNK.div_ceil(1 + each.description_bytes / 1000 + each.tags / 10);
    let step = count.div_ceil(samples.max(1)).max(1);
    let mut kept = Vec::with_capacity(samples);
    for n in 0..count {
        let client = FirstClient {
            id: ClientId::random(app.entropy.as_ref()),
            secret: PlainSecret::generate(app.entropy.as_ref()),
        };
        let membership = MembershipId::random(app.entropy.as_ref());
        add_client(act, &mut change, project, &client, membership, Some(each));
        if n % step == 0 {
            kept.push(client);
        }
        if n % chunk == chunk - 1 {
            app.store.commit(std::mem::take(&mut change)).await?;
        }
    }
    app.store.commit(change).await?;
    Ok((project, kept))
}
