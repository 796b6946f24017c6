//! An installation that has been in use: clients in every state of a rotation, one whose secret is shown
//! once, a person who is logged in. Whatever is done to its database, all of them must go on as before.

use std::path::{Path, PathBuf};

use keyrelay_store::TestDatabase;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::process::{Process, bootstrap, http, keyrelay, parameters};

const EMAIL: &str = "ann@example.test";
const PASSWORD: &str = "four plain words here";
/// The same wherever the server runs, so that tokens outlive a move.
const BASE_URL: &str = "http://keyrelay.test/";

/// A database and the files beside it.
#[derive(Clone)]
pub struct Home {
    pub dir: PathBuf,
    pub database: TestDatabase,
}

impl Home {
    /// A SQLite file in its data directory.
    pub fn sqlite(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), database: TestDatabase::File(dir.join("keyrelay.sqlite")) }
    }

    /// An empty database of the kind that the run is about, with the master key of another.
    pub async fn beside(dir: &Path, original: &Self) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::copy(original.key_file(), dir.join("master.key")).unwrap();
        Self { dir: dir.to_owned(), database: TestDatabase::new(dir).await }
    }

    pub fn key_file(&self) -> PathBuf {
        self.dir.join("master.key")
    }

    fn set(&self, command: &mut Command) {
        command.env("KEYRELAY_LOG", "warn").env("KEYRELAY_BASE_URL", BASE_URL);
        command.env("KEYRELAY_MASTER_KEY_FILE", self.key_file());
        if let TestDatabase::Schema(url) = &self.database {
            command.env("KEYRELAY_DATABASE_URL", url);
        }
    }

    /// A server on it.
    pub async fn start(&self) -> Process {
        let mut command = keyrelay();
        if !self.key_file().exists() {
            keyrelay().arg("master-key").arg(self.key_file()).output().await.unwrap();
        }
        self.set(&mut command);
        Process::start_with(command, &self.dir).await
    }

    /// A server on it that changes nothing.
    pub async fn start_read_only(&self) -> Process {
        let mut command = keyrelay();
        self.set(&mut command);
        command.env("KEYRELAY_READ_ONLY", "true");
        Process::start_with(command, &self.dir).await
    }

    /// A command on it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = keyrelay();
        self.set(&mut command);
        command.env_remove("KEYRELAY_BASE_URL").args(arguments).arg("--data-dir").arg(&self.dir);
        command
    }

    /// Runs a command on it, and gives its exit code and all that it said.
    pub async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said.into_owned())
    }

    /// Runs a command on it that must succeed.
    pub async fn do_well(&self, arguments: &[&str]) -> String {
        let (code, said) = self.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }
}

/// Secrets of a client that have ended and are tried: few enough to stay below the limit for one address.
const ENDED_TRIED: usize = 3;

/// What is known of one client.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: String,
    pub active: String,
    pub retiring: Option<String>,
    pub ended: Vec<String>,
}

/// See the module.
pub struct Living {
    http: reqwest::Client,
    admin: (String, String),
    project: String,
    pub clients: Vec<Known>,
    access_token: String,
    refresh_token: String,
    /// What the webhook of the last project signs with.
    signing_secret: String,
}

impl Living {
    /// Uses an empty installation.
    pub async fn fill(home: &Home, server: &Process) -> Self {
        let mut living = Self {
            http: http(),
            admin: bootstrap(&home.dir),
            project: String::new(),
            clients: Vec::new(),
            access_token: String::new(),
            refresh_token: String::new(),
            signing_secret: String::new(),
        };
        for visibility in ["recoverable", "once"] {
            let project = json!({
                "resourceType": "Project", "name": format!("Cardiology {visibility} \u{1f511} \"quoted\""),
                "setting": [{ "name": "secretVisibility", "valueString": visibility }],
            });
            living.project = text(&living.send(server, "fhir/R4/Project", &project).await, "id");
            let path = format!("admin/projects/{}/webhooks", living.project);
            // Nothing is sent there: no secret has a deadline.
            let webhook =
                json!({ "url": "https://hooks.example.test/", "types": ["client.secret.expiring"] });
            living.signing_secret = text(&living.send(server, &path, &webhook).await, "secret");
            for rotations in 0..4 {
                let name = json!({ "name": format!("Client {rotations} \u{e4}\u{df}") });
                let path = format!("admin/projects/{}/client", living.project);
                let made = living.send(server, &path, &name).await;
                let (id, active) = (text(&made, "id"), text(&made, "secret"));
                let mut known = Known { id, active, retiring: None, ended: Vec::new() };
                for _ in 0..rotations {
                    living.rotate(server, &mut known).await;
                }
                living.clients.push(known);
            }
            let last = living.clients.last().unwrap().clone();
            living.clients.last_mut().unwrap().ended.extend(last.retiring.clone());
            living.clients.last_mut().unwrap().retiring = None;
            living.move_secret(server, &last.id, "retiringSecret", &last.retiring.unwrap()).await;
        }
        living.log_in(server).await;
        living
    }

    async fn send(&self, server: &Process, path: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}{path}", server.base));
        let answer = request.basic_auth(&self.admin.0, Some(&self.admin.1)).json(body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn get(&self, server: &Process, path: &str) -> Value {
        let request = self.http.get(format!("{}fhir/R4/{path}", server.base));
        let answer = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn move_secret(&self, server: &Process, id: &str, slot: &str, value: &str) -> Value {
        let path = format!("fhir/R4/ClientApplication/{id}/$rotate-secret");
        self.send(server, &path, &parameters(slot, value)).await
    }

    /// Rotates, and keeps account.
    pub async fn rotate(&self, server: &Process, known: &mut Known) {
        let body = self.move_secret(server, &known.id, "secret", &known.active).await;
        let before = std::mem::replace(&mut known.active, text(&body, "secret"));
        known.ended.extend(known.retiring.replace(before));
    }

    async fn log_in(&mut self, server: &Process) {
        let person = json!({
            "resourceType": "Practitioner", "firstName": "Ann", "lastName": "Doe",
            "email": EMAIL, "password": PASSWORD, "sendEmail": false,
        });
        self.send(server, &format!("admin/projects/{}/invite", self.project), &person).await;
        let login = json!({ "email": EMAIL, "password": PASSWORD, "remember": true });
        let code = text(&self.send(server, "auth/login", &login).await, "code");
        let form = [("grant_type", "authorization_code"), ("code", code.as_str())];
        let (status, token) = self.token(server, &form).await;
        assert_eq!(status, 200, "{token}");
        self.access_token = text(&token, "access_token");
        self.refresh_token = text(&token, "refresh_token");
    }

    async fn token(&self, server: &Process, form: &[(&str, &str)]) -> (u16, Value) {
        let answer = self.http.post(format!("{}oauth2/token", server.base)).form(form).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn grant(&self, server: &Process, id: &str, secret: &str) -> u16 {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        self.token(server, &form).await.0
    }

    /// Whatever worked works, and what was refused is refused.
    pub async fn goes_on(&mut self, server: &Process) {
        self.lets_everybody_in(server).await;
        for known in &self.clients {
            let found = self.get(server, &format!("ClientApplication?_id={}", known.id)).await;
            assert_eq!(found["entry"].as_array().map(Vec::len), Some(1), "{found}");
            let history = self.get(server, &format!("ClientApplication/{}/_history", known.id)).await;
            let moves = known.ended.len() + usize::from(known.retiring.is_some());
            assert!(history["entry"].as_array().unwrap().len() > moves, "{history}");
        }
        let recoverable = &self.clients[1];
        let read = self.get(server, &format!("ClientApplication/{}", recoverable.id)).await;
        assert_eq!(read["secret"], json!(recoverable.active), "it can still be opened");
        assert_eq!(read["retiringSecret"], json!(recoverable.retiring));
        let events = self.get(server, "AuditEvent?_count=1000").await;
        assert!(events["entry"].as_array().unwrap().len() >= 14, "{events}");

        let path = format!("{}admin/projects/{}/webhooks", server.base, self.project);
        let listed = self.http.get(path).basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
        let listed: Value = listed.json().await.unwrap();
        assert_eq!(listed["webhooks"][0]["url"], "https://hooks.example.test/", "{listed}");

        let me = self.http.get(format!("{}auth/me", server.base)).bearer_auth(&self.access_token);
        assert_eq!(me.send().await.unwrap().status(), 200, "a token from before");
        let form = [("grant_type", "refresh_token"), ("refresh_token", self.refresh_token.as_str())];
        let (status, token) = self.token(server, &form).await;
        assert_eq!(status, 200, "{token}");
        self.access_token = text(&token, "access_token");
        self.refresh_token = text(&token, "refresh_token");
        let mut clients = std::mem::take(&mut self.clients);
        for known in &mut clients {
            self.rotate(server, known).await;
        }
        self.clients = clients;
    }

    /// Tries to rotate, and gives the answer.
    pub async fn try_to_rotate(&self, server: &Process, known: &Known) -> (u16, Value, bool) {
        let url = format!("{}fhir/R4/ClientApplication/{}/$rotate-secret", server.base, known.id);
        let request = self.http.post(url).json(&parameters("secret", &known.active));
        let answer = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
        let says_when = answer.headers().contains_key("retry-after");
        (answer.status().as_u16(), answer.json().await.unwrap(), says_when)
    }

    /// Both secrets of every client work, and none that has ended.
    pub async fn lets_everybody_in(&self, server: &Process) {
        for known in &self.clients {
            self.lets_in(server, known).await;
        }
    }

    pub async fn lets_in(&self, server: &Process, known: &Known) {
        for secret in known.retiring.iter().chain([&known.active]) {
            assert_eq!(self.grant(server, &known.id, secret).await, 200, "{}", known.id);
        }
        for secret in known.ended.iter().rev().take(ENDED_TRIED) {
            assert_eq!(self.grant(server, &known.id, secret).await, 401, "{}", known.id);
        }
    }

    /// The client as an admin reads it, and how many versions it has had.
    pub async fn read(&self, server: &Process, id: &str) -> (Value, usize) {
        let history = self.get(server, &format!("ClientApplication/{id}/_history")).await;
        let versions = history["entry"].as_array().unwrap().len();
        (self.get(server, &format!("ClientApplication/{id}")).await, versions)
    }

    /// No secret is in what was said or written.
    pub fn finds_no_secret_in(&self, bytes: &[u8]) {
        let known = self.clients.iter().flat_map(|known| {
            known.ended.iter().chain(&known.retiring).chain([&known.active]).map(String::as_str)
        });
        let all = known.chain([
            PASSWORD,
            &self.admin.1,
            &self.access_token,
            &self.refresh_token,
            &self.signing_secret,
        ]);
        for secret in all {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "a secret is there"
            );
        }
    }
}

pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}
