//! The product as a user runs it: the released binary, its data directory, and the calls the runs need to make.
//!
//! Everything goes through the front door (command line and HTTP), so a figure here is a figure a user would see.
//! Secrets live only in memory here, and are part of no error text and no report.

use std::borrow::Cow;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::clock;
use crate::http::{self, Target};
use crate::load::Source;
use crate::process::{Server, tail};
use crate::source;

const TOKEN_PATH: &str = "/oauth2/token";
const FORM: &str = "application/x-www-form-urlencoded";
/// How long making the clients of one database may take.
const SEED_WAIT: Duration = Duration::from_mins(30);

/// An installation: the binary and a data directory of its own, removed when the value goes.
#[derive(Debug)]
pub struct Installation {
    binary: PathBuf,
    dir: TempDir,
    /// The database, where it is not the file in the data directory.
    database_url: Option<String>,
}

/// The id and secret of a client application. No `Debug`, so that no report can print one.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// The id, not a secret.
    pub client_id: String,
    /// The secret, in clear.
    pub client_secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bootstrap {
    project_id: String,
    #[serde(flatten)]
    credentials: Credentials,
}

/// What `keyrelay seed` made.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seeded {
    /// The id of the project.
    pub project_id: String,
    /// Some of its client applications.
    pub clients: Vec<Credentials>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
}

#[derive(Deserialize)]
struct Created {
    id: String,
    secret: String,
}

/// The Super Admin of a running installation.
pub struct Admin {
    target: Target,
    project_id: String,
    authorization: String,
}

impl Installation {
    /// A new, empty installation in `scratch`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(binary: &Path, scratch: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("keyrelay-bench-")
            .tempdir_in(scratch)
            .context("making a data directory")?;
        Ok(Self { binary: binary.to_owned(), dir, database_url: None })
    }

    /// A new installation whose database is on PostgreSQL: an empty one, without a password.
    ///
    /// # Errors
    /// When the folder or the master key cannot be made.
    pub fn on_postgres(binary: &Path, scratch: &Path, database_url: String) -> Result<Self> {
        let installation = Self { database_url: Some(database_url), ..Self::new(binary, scratch)? };
        let mut make = installation.command();
        make.arg("master-key").arg(installation.master_key()).stdout(Stdio::null());
        ensure!(make.status()?.success(), "`keyrelay master-key` failed");
        Ok(installation)
    }

    /// Starts the server on a free port.
    ///
    /// # Errors
    /// When it does not become healthy.
    pub fn start(&self) -> Result<Server> {
        self.start_logging("warn")
    }

    /// Starts the server with another level of its log.
    ///
    /// # Errors
    /// When it does not become healthy.
    pub fn start_logging(&self, level: &str) -> Result<Server> {
        let mut command = self.command();
        command.env("KEYRELAY_LOG", level);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(self.data_dir());
        Server::start(command, &self.log())
    }

    /// Starts the server under Callgrind, which counts its instructions, and gives the file in which it says how many
    /// when the server has ended. With a function, only what happens within it.
    ///
    /// # Errors
    /// When it does not become healthy.
    pub fn start_under_callgrind(&self, within: Option<&str>) -> Result<(Server, PathBuf)> {
        let server = self.command();
        let mut command = Command::new("valgrind");
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).current_dir(self.dir.path());
        command.args(within.map(|function| format!("--toggle-collect={function}")));
        command.arg(&self.binary).args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(self.data_dir());
        Ok((Server::start(command, &self.log())?, self.log()))
    }

    /// The client application that the first start made.
    ///
    /// # Errors
    /// When there is no `bootstrap.json`.
    pub fn first_client(&self) -> Result<Credentials> {
        Ok(self.bootstrap()?.credentials)
    }

    fn bootstrap(&self) -> Result<Bootstrap> {
        let text = std::fs::read(self.data_dir().join("bootstrap.json")).context("reading bootstrap.json")?;
        serde_json::from_slice(&text).context("reading bootstrap.json")
    }

    /// Makes `clients` client applications in the database, with the server stopped, and returns up to 64 of them.
    ///
    /// # Errors
    /// When the binary has no `seed` command, fails, or takes longer than half an hour.
    pub fn seed(&self, clients: u64) -> Result<Vec<Credentials>> {
        Ok(self.seed_project(clients, &[])?.clients)
    }

    /// The same, with more flags of `keyrelay seed`, and with the project that the clients are in.
    ///
    /// # Errors
    /// As [`Installation::seed`].
    pub fn seed_project(&self, clients: u64, flags: &[String]) -> Result<Seeded> {
        let samples = self.dir.path().join("samples.json");
        let mut command = self.command();
        command.args(["seed", "--clients", &clients.to_string()]).args(flags).arg("--data-dir");
        command
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(File::create(&samples)?)
            .stderr(File::create(self.log())?);
        let mut child = command.spawn().context("starting `keyrelay seed`")?;
        let start = clock::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if clock::since(start) > SEED_WAIT {
                kill_process(Pid::from_child(&child), Signal::TERM)?;
                child.wait()?;
                bail!("`keyrelay seed` took longer than {} seconds", SEED_WAIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(
            status.success(),
            "`keyrelay seed` ended with {status}; its log ends with:\n{}",
            tail(&self.log())
        );
        let text = std::fs::read_to_string(&samples)?;
        let line = text
            .lines()
            .find(|line| line.starts_with('{'))
            .context("`keyrelay seed` printed no line of JSON")?;
        let seeded: Seeded = serde_json::from_str(line).context("reading what `keyrelay seed` printed")?;
        ensure!(!seeded.clients.is_empty(), "`keyrelay seed` named no client");
        Ok(seeded)
    }

    /// Signs in as the client application that the first start made.
    ///
    /// # Errors
    /// When there is no `bootstrap.json`, or the grant is refused.
    pub fn admin(&self, server: &Server) -> Result<Admin> {
        let bootstrap = self.bootstrap()?;
        let admin =
            Admin { target: server.target(), project_id: bootstrap.project_id, authorization: String::new() };
        admin.signed_in_as(&bootstrap.credentials).context("as the Super Admin")
    }

    /// The SQLite file in the data directory.
    ///
    /// # Errors
    /// When there is none.
    pub fn database(&self) -> Result<PathBuf> {
        for entry in std::fs::read_dir(self.data_dir())? {
            let path = entry?.path();
            if path.is_file() && crate::commits::is_sqlite(&path)? {
                return Ok(path);
            }
        }
        bail!("there is no SQLite database in the data directory")
    }

    /// Bytes of all files in the data directory.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.data_dir())? {
            bytes += entry?.metadata()?.len();
        }
        Ok(bytes)
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The master key file of an installation on PostgreSQL.
    #[must_use]
    pub fn master_key(&self) -> PathBuf {
        self.dir.path().join("master.key")
    }

    /// Where the server logs to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// The binary without any setting of its own in the environment, and with a quiet log.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEYRELAY_") {
                command.env_remove(name);
            }
        }
        command.env("KEYRELAY_LOG", "warn").current_dir(self.dir.path());
        // Without rates, because the run measures the server.
        command.env("KEYRELAY_CLIENT_CHANGE_RATE", "off").env("KEYRELAY_PROJECT_CHANGE_RATE", "off");
        if let Some(url) = &self.database_url {
            command.env("KEYRELAY_DATABASE_URL", url).env("KEYRELAY_MASTER_KEY_FILE", self.master_key());
        }
        command
    }
}

impl Credentials {
    /// The body of a client credentials grant. Both values are made of characters that need no escape.
    fn form(&self) -> String {
        format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            self.client_id, self.client_secret
        )
    }

    /// A client credentials grant, as bytes for the wire.
    #[must_use]
    pub fn grant(&self, target: Target) -> Vec<u8> {
        let headers = [("content-type", FORM)];
        http::prepared(target, "POST", TOKEN_PATH, &headers, self.form().as_bytes())
    }
}

impl Credentials {
    /// A client credentials grant of a caller that says who it is.
    #[must_use]
    pub fn grant_as(&self, target: Target, instance: &str) -> Vec<u8> {
        let headers = [("content-type", FORM), ("user-agent", "export/2.1"), ("x-client-instance", instance)];
        http::prepared(target, "POST", TOKEN_PATH, &headers, self.form().as_bytes())
    }

    /// The same client with another secret.
    #[must_use]
    pub fn with(&self, secret: &str) -> Self {
        Self { client_id: self.client_id.clone(), client_secret: secret.to_owned() }
    }

    /// The same secret for an id that no client has.
    #[must_use]
    pub fn as_nobody(&self) -> Self {
        // Random ids differ in more than one digit.
        let (first, rest) = self.client_id.split_at(1);
        let other = if first == "0" { "1" } else { "0" };
        Self { client_id: format!("{other}{rest}"), client_secret: self.client_secret.clone() }
    }

    /// The same client with a secret whose checksum is wrong.
    #[must_use]
    pub fn garbled(&self) -> Self {
        let last = if self.client_secret.ends_with('0') { "1" } else { "0" };
        let kept = &self.client_secret[..self.client_secret.len().saturating_sub(1)];
        self.with(&format!("{kept}{last}"))
    }
}

impl Admin {
    /// Sends a request with a JSON body, or without a body.
    ///
    /// # Errors
    /// When the answer has another status.
    pub fn ask(&self, method: &str, path: &str, body: &Value, status: u16) -> Result<Value> {
        let media = if method == "PATCH" { "application/json-patch+json" } else { "application/json" };
        let headers = [("content-type", media), ("authorization", self.authorization.as_str())];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::request(self.target, method, path, &headers, body.as_bytes())?;
        answer.json(status).with_context(|| format!("{method} {path}"))
    }

    /// A request of this admin, as bytes for the wire.
    #[must_use]
    pub fn prepared(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut all =
            vec![("content-type", "application/json"), ("authorization", self.authorization.as_str())];
        all.extend(headers);
        http::prepared(self.target, method, path, &all, body)
    }

    /// A new project, and its admin.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn tenant(&self, name: &str) -> Result<Self> {
        let text = |value: &Value, pointer: &str| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .with_context(|| format!("{pointer} of an answer"))
        };
        let project = serde_json::json!({ "resourceType": "Project", "name": name });
        let project_id = text(&self.ask("POST", "/fhir/R4/Project", &project, 201)?, "/id")?;
        let within = Self { target: self.target, project_id, authorization: self.authorization.clone() };
        let client = within.create_client(&format!("Operator of {name}"))?;
        let found = format!("/fhir/R4/ProjectMembership?profile=ClientApplication/{}", client.client_id);
        let membership = text(&self.ask("GET", &found, &Value::Null, 200)?, "/entry/0/resource/id")?;
        self.patch(&format!("ProjectMembership/{membership}"), "/admin", &true.into())?;
        within.signed_in_as(&client)
    }

    /// A member of a project, under a policy with these rules.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn member(&self, project_id: &str, rules: &Value) -> Result<Self> {
        let within = Self {
            target: self.target,
            project_id: project_id.to_owned(),
            authorization: self.authorization.clone(),
        };
        let meta = serde_json::json!({ "project": format!("Project/{project_id}") });
        let policy = serde_json::json!({ "resourceType": "AccessPolicy", "meta": meta, "resource": rules });
        let policy = self.ask("POST", "/fhir/R4/AccessPolicy", &policy, 201)?;
        let reference = format!("AccessPolicy/{}", policy["id"].as_str().context("the id of a policy")?);
        let body = serde_json::json!({ "name": "Member", "accessPolicy": { "reference": reference } });
        let created = self.ask("POST", &format!("/admin/projects/{project_id}/client"), &body, 201)?;
        let created: Created = serde_json::from_value(created).context("a new client application")?;
        within.signed_in_as(&Credentials { client_id: created.id, client_secret: created.secret })
    }

    /// The same project, with a token of this client application.
    fn signed_in_as(&self, client: &Credentials) -> Result<Self> {
        let headers = [("content-type", FORM)];
        let answer = http::request(self.target, "POST", TOKEN_PATH, &headers, client.form().as_bytes())?;
        let granted: Granted = answer.json(200).context("signing in")?;
        let authorization = format!("Bearer {}", granted.access_token);
        Ok(Self { target: self.target, project_id: self.project_id.clone(), authorization })
    }

    /// The id of the project.
    #[must_use]
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Switches a client application off.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn switch_off(&self, client_id: &str) -> Result<()> {
        self.patch(&format!("ClientApplication/{client_id}"), "/status", &"off".into())
    }

    /// Deactivates the membership of a client application or a person, named by the reference to its profile.
    ///
    /// # Errors
    /// When there is none, or the server refuses.
    pub fn deactivate_membership(&self, profile: &str) -> Result<()> {
        let path = format!("/fhir/R4/ProjectMembership?profile={profile}");
        let headers = [("authorization", self.authorization.as_str())];
        let found: Value = http::request(self.target, "GET", &path, &headers, &[])?.json(200)?;
        let id = found["entry"][0]["resource"]["id"].as_str().context("the membership of a client")?;
        self.patch(&format!("ProjectMembership/{id}"), "/active", &false.into())
    }

    /// Ends the secret of a client application: rotates, and retires at once.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn replace_secret(&self, client: &Credentials) -> Result<()> {
        let path = format!("/fhir/R4/ClientApplication/{}/$rotate-secret", client.client_id);
        for slot in ["secret", "retiringSecret"] {
            let headers = [("content-type", "application/json"), ("authorization", &self.authorization)];
            let body = serde_json::to_vec(&serde_json::json!({ slot: client.client_secret }))?;
            let answer = http::request(self.target, "POST", &path, &headers, &body)?;
            answer.json::<Value>(200).context("rotating a secret")?;
        }
        Ok(())
    }

    /// Invites a person, from an address of its own: invitations are counted. Gives the reference to its profile.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn invite(&self, from: Ipv4Addr, email: &str, password: &str) -> Result<String> {
        let path = format!("/admin/projects/{}/invite", self.project_id);
        let headers = [("content-type", "application/json"), ("authorization", &self.authorization)];
        let body = serde_json::to_vec(&serde_json::json!({
            "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe", "email": email,
            "password": password, "sendEmail": false,
        }))?;
        let stream = source::connect(from, self.target.address())?;
        let answer = http::exchange(stream, self.target, "POST", &path, &headers, &body)?;
        let membership: Value = answer.json(200).context("inviting a person")?;
        Ok(membership["profile"]["reference"].as_str().context("the profile of a person")?.to_owned())
    }

    fn patch(&self, path: &str, element: &str, value: &Value) -> Result<()> {
        let headers =
            [("content-type", "application/json-patch+json"), ("authorization", &self.authorization)];
        let body = serde_json::json!([{ "op": "add", "path": element, "value": value }]).to_string();
        let path = format!("/fhir/R4/{path}");
        let answer = http::request(self.target, "PATCH", &path, &headers, body.as_bytes())?;
        answer.json::<Value>(200).context("changing a resource").map(drop)
    }

    /// Creates a client application with a secret and a membership.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create_client(&self, name: &str) -> Result<Credentials> {
        let path = format!("/admin/projects/{}/client", self.project_id);
        let headers = [("content-type", "application/json"), ("authorization", &self.authorization)];
        let body = serde_json::to_vec(&serde_json::json!({ "name": name }))?;
        let answer = http::request(self.target, "POST", &path, &headers, &body)?;
        let created: Created = answer.json(201).context("creating a client application")?;
        Ok(Credentials { client_id: created.id, client_secret: created.secret })
    }

    /// Rotates the secret of `client` again and again, each time with the secret that the last answer named.
    #[must_use]
    pub fn rotations(&self, client: Credentials) -> Rotations {
        let mut rotations = Rotations {
            target: self.target,
            path: format!("/fhir/R4/ClientApplication/{}/$rotate-secret", client.client_id),
            authorization: self.authorization.clone(),
            secret: client.client_secret,
            request: Vec::new(),
        };
        rotations.prepare();
        rotations
    }
}

/// A chain of rotations of one client application.
pub struct Rotations {
    target: Target,
    path: String,
    authorization: String,
    secret: String,
    request: Vec<u8>,
}

impl Rotations {
    fn prepare(&mut self) {
        let headers = [("content-type", "application/json"), ("authorization", self.authorization.as_str())];
        let body = format!("{{\"secret\":\"{}\"}}", self.secret);
        self.request = http::prepared(self.target, "POST", &self.path, &headers, body.as_bytes());
    }
}

impl Source for Rotations {
    fn request(&mut self) -> &[u8] {
        &self.request
    }

    fn answered(&mut self, status: u16, body: &[u8]) {
        #[derive(Deserialize)]
        struct Rotated<'a> {
            #[serde(borrow)]
            secret: Cow<'a, str>,
        }
        if status != 200 {
            return;
        }
        // An answer without a secret leaves the old one, whose next use is refused and counted.
        if let Ok(rotated) = serde_json::from_slice::<Rotated<'_>>(body) {
            self.secret.clear();
            self.secret.push_str(&rotated.secret);
            self.prepare();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_sends_the_secret_of_the_last_answer() -> Result<()> {
        let admin = Admin {
            target: Target::parse("http://127.0.0.1:1/")?,
            project_id: String::new(),
            authorization: "Bearer t".to_owned(),
        };
        let mut rotations =
            admin.rotations(Credentials { client_id: "c".to_owned(), client_secret: "first".to_owned() });
        assert!(rotations.request().ends_with(br#"{"secret":"first"}"#));
        rotations.answered(200, br#"{"retiringSecret":"first","secret":"second"}"#);
        assert!(rotations.request().ends_with(br#"{"secret":"second"}"#));
        rotations.answered(400, br#"{"secret":"third"}"#);
        assert!(rotations.request().ends_with(br#"{"secret":"second"}"#));
        Ok(())
    }
}
