//! The scene of a row: a server with its own database, tenant A, who attacks, and tenant B, who works.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyrelay_bench::pgbench;
use keyrelay_bench::process::{Memory, Server};
use keyrelay_bench::product::Installation;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::api::{Caller, Credentials, DEADLINE, Proof, Reply, Stays};
use crate::tenant::{PASSWORD, Tenant, Watch};

/// How long A, whose requests are large, waits for an answer. A later answer counts as one without a deadline.
const ATTACKER_WAIT: Duration = Duration::from_secs(30);
/// The addresses of the Super Admin and of both tenants.
const STAGE_HAND: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 1);
const WORKER: Ipv4Addr = Ipv4Addr::new(127, 0, 8, 1);
/// How many times the set-up of a scene retries a request that was refused for a while.
const PATIENCE: usize = 60;

/// Settings that all scenes share.
#[derive(Debug)]
pub struct Setting {
    /// The binary.
    pub keyrelay: PathBuf,
    /// Where data directories are made.
    pub scratch: PathBuf,
    /// The PostgreSQL server for databases; `None` is SQLite.
    pub postgres: Option<pgbench::Server>,
    /// Whether to attack with less.
    pub short: bool,
    /// What requests are sent by.
    pub handle: Handle,
    /// Databases made so far.
    pub databases: AtomicU32,
}

/// The kind of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a server that has just been started, for one row alone.
    Usual,
    /// Every write to the log fails, and the log is verbose.
    LogFull,
    /// No file can grow, from a moment that the row chooses.
    DiskFull,
    /// Low rates of changes in a short run, so that they are reached fast; the default rates in a full run.
    Rates,
    /// Large client applications; all rows of this kind run at the same time.
    Large,
    /// Many client applications of other projects, and one project of tagged ones; shared by the rows of this kind.
    Many,
}

/// See the module.
pub struct Scene<'a> {
    /// The shared settings.
    pub setting: &'a Setting,
    /// The data directory and the binary.
    pub installation: Installation,
    server: Server,
    /// The Super Admin, who sets the scene.
    pub supers: Caller,
    /// Tenant A, from its own address, without credentials.
    pub attacker: Caller,
    /// Tenant B, from its own address, with its deadline.
    pub worker: Caller,
    /// Who attacks.
    pub a: Tenant,
    /// Who works.
    pub b: Tenant,
    /// The project of the large or of the tagged client applications.
    pub seeded: Option<String>,
}

impl Setting {
    /// One of two numbers: the amount for a short run, or for a full one.
    #[must_use]
    pub fn pick<T>(&self, short: T, whole: T) -> T {
        if self.short { short } else { whole }
    }

    /// An empty installation.
    ///
    /// # Errors
    /// When its directory or its database cannot be made.
    pub fn installation(&self) -> Result<Installation> {
        let Some(server) = &self.postgres else { return Installation::new(&self.keyrelay, &self.scratch) };
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("attack_{}_{number}", std::process::id());
        Installation::on_postgres(&self.keyrelay, &self.scratch, server.database(&name)?)
    }
}

impl<'a> Scene<'a> {
    /// Sets the scene.
    ///
    /// # Errors
    /// When the server does not start or refuses what the scene needs.
    pub fn set(setting: &'a Setting, kind: Kind) -> Result<Self> {
        let installation = setting.installation()?;
        installation.start()?.stop()?;
        let seeded = seed(setting, &installation, kind).context("filling the database")?;
        let server = start(setting, &installation, kind)?;
        let base = format!("http://{}/", server.target().address());
        let caller = |from, deadline, stays| Caller::new(&base, from, deadline, stays, &setting.handle);
        let first = installation.first_client()?;
        let first = Credentials { id: first.client_id, secret: first.client_secret };
        let supers = caller(STAGE_HAND, ATTACKER_WAIT, Stays::Connected)?.as_client(&first);
        let (a, b) = (make_tenant(&supers, "A")?, make_tenant(&supers, "B")?);
        Ok(Self {
            attacker: caller(ATTACKER, ATTACKER_WAIT, Stays::No)?,
            worker: caller(WORKER, DEADLINE, Stays::No)?,
            setting,
            installation,
            server,
            supers,
            a,
            b,
            seeded,
        })
    }

    /// The admin of A.
    #[must_use]
    pub fn admin(&self) -> Caller {
        self.attacker.as_client(&self.a.admin)
    }

    /// A, without credentials.
    #[must_use]
    pub fn nobody(&self) -> Caller {
        self.attacker.with(Proof::Nobody)
    }

    /// A caller at another loopback address.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn caller_from(&self, last: u8) -> Result<Caller> {
        let from = Ipv4Addr::new(127, 0, 9, last);
        Caller::new(self.attacker.base(), from, ATTACKER_WAIT, Stays::No, &self.setting.handle)
    }

    /// B begins to work.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::start(&self.worker, &self.b)
    }

    /// The process of the server.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.server.id()
    }

    /// The memory of the server.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<Memory> {
        self.server.memory()
    }

    /// A directory that is removed with the scene's files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(&self.setting.scratch)?)
    }

    /// A command of the binary that asks this server as its Super Admin.
    #[must_use]
    pub fn command(&self, home: &Path) -> Command {
        let mut command = self.installation.command();
        command.current_dir(home).env("HOME", home).env("KEYRELAY_URL", self.attacker.base());
        command.env("KEYRELAY_CREDENTIALS", self.installation.data_dir().join("bootstrap.json"));
        command
    }

    /// Makes a client with a secret in A's project, under a policy of these rules if there are any.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn make_client(&self, name: &str, rules: Option<Value>) -> Result<Credentials> {
        make_client(&self.supers, &self.a.project, name, rules)
    }

    /// The same in another project.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn make_client_in(&self, project: &str, name: &str, rules: Option<Value>) -> Result<Credentials> {
        make_client(&self.supers, project, name, rules)
    }
}

fn start(setting: &Setting, installation: &Installation, kind: Kind) -> Result<Server> {
    match kind {
        Kind::Rates if setting.short => {
            let mut command = installation.command();
            command.env("KEYRELAY_CLIENT_CHANGE_RATE", "2KiB").env("KEYRELAY_PROJECT_CHANGE_RATE", "16KiB");
            Server::start(serve(command, installation), &installation.log())
        }
        Kind::LogFull => {
            let mut command = installation.command();
            command.env("KEYRELAY_LOG", "info");
            Server::start(serve(command, installation), Path::new("/dev/full"))
        }
        Kind::DiskFull => {
            let product = installation.command();
            let mut command = Command::new("/bin/sh");
            for (name, value) in product.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            // A write beyond the limit of file sizes is then an error, and does not end the process.
            command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(product.get_program());
            command.env("KEYRELAY_LOG", "info");
            Server::start(serve(command, installation), &installation.log())
        }
        Kind::Usual | Kind::Rates | Kind::Large | Kind::Many => installation.start(),
    }
}

fn serve(mut command: Command, installation: &Installation) -> Command {
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(installation.data_dir());
    command
}

/// Fills the database, and returns the project that the rows of this kind use.
fn seed(setting: &Setting, installation: &Installation, kind: Kind) -> Result<Option<String>> {
    let flag = |name: &str, value: usize| vec![name.to_owned(), value.to_string()];
    match kind {
        Kind::Large => {
            let seeded =
                installation.seed_project(setting.pick(100, 300), &flag("--description-bytes", 60_000))?;
            Ok(Some(seeded.project_id))
        }
        Kind::Many => {
            installation.seed(setting.pick(2_000, 100_000))?;
            let seeded = installation.seed_project(setting.pick(25, 1_000), &flag("--tags", 480))?;
            Ok(Some(seeded.project_id))
        }
        Kind::Usual | Kind::Rates | Kind::LogFull | Kind::DiskFull => Ok(None),
    }
}

fn make_tenant(supers: &Caller, name: &str) -> Result<Tenant> {
    let body = json!({ "resourceType": "Project", "name": format!("Tenant {name}") });
    let project = supers.post("fhir/R4/Project", body).expect(201)?.text_at("/id")?;
    let admin = make_client(supers, &project, &format!("Operator {name}"), None)?;
    let membership = membership_of(supers, &format!("ClientApplication/{}", admin.id))?;
    supers.add(&format!("fhir/R4/ProjectMembership/{membership}"), "/admin", &json!(true)).expect(200)?;
    let member = make_client(supers, &project, &format!("Worker {name}"), None)?;
    let email = format!("person-{}@example.test", name.to_lowercase());
    invite(supers, &project, &email)?;
    Ok(Tenant { project, admin, member, email })
}

/// Creates a person of a project, and returns the membership.
///
/// # Errors
/// When the server refuses.
pub fn invite(supers: &Caller, project: &str, email: &str) -> Result<Value> {
    let body = json!({
        "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": email, "password": PASSWORD,
    });
    Ok(supers.post(&format!("admin/projects/{project}/invite"), body).expect(200)?.json())
}

/// The id of the membership with this profile.
///
/// # Errors
/// When there is none.
pub fn membership_of(supers: &Caller, profile: &str) -> Result<String> {
    let found = supers.get(&format!("fhir/R4/ProjectMembership?profile={profile}")).expect(200)?;
    found.text_at("/entry/0/resource/id")
}

fn make_client(supers: &Caller, project: &str, name: &str, rules: Option<Value>) -> Result<Credentials> {
    let mut body = json!({ "name": name });
    if let Some(rules) = rules {
        let meta = json!({ "project": format!("Project/{project}") });
        let policy = json!({ "resourceType": "AccessPolicy", "name": name, "meta": meta, "resource": rules });
        let made = patiently(|| supers.post("fhir/R4/AccessPolicy", policy.clone())).expect(201)?;
        body["accessPolicy"] = json!({ "reference": format!("AccessPolicy/{}", made.text_at("/id")?) });
    }
    let path = format!("admin/projects/{project}/client");
    let made = patiently(|| supers.post(&path, body.clone())).expect(201)?;
    Ok(Credentials { id: made.text_at("/id")?, secret: made.text_at("/secret")? })
}

/// Retries as long as the server answers with `Retry-After`, and after that time: setting a scene may take more
/// requests than a tenant may send at once.
pub fn patiently(ask: impl Fn() -> Reply) -> Reply {
    let mut reply = ask();
    for _ in 0..PATIENCE {
        if !matches!(reply.status, 429 | 503) {
            break;
        }
        let header = reply.headers.get("retry-after").and_then(|value| value.to_str().ok());
        let seconds = header.and_then(|text| text.parse().ok()).unwrap_or(1);
        std::thread::sleep(Duration::from_secs(u64::min(seconds, 5)));
        reply = ask();
    }
    reply
}

/// Only this machine's own database is attacked.
///
/// # Errors
/// When the URL names another.
pub fn check_postgres(url: &str) -> Result<()> {
    ensure!(url.contains("@127.0.0.1:"), "only a PostgreSQL server of this machine is attacked");
    Ok(())
}
