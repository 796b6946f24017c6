//! A server with one client application whose secret is to be rotated, and the files that it goes to.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{Process, bootstrap, http, keyrelay, parameters};

/// How a command ended, and all that it said.
pub struct Said {
    pub code: Option<i32>,
    pub text: String,
}

/// See the module.
pub struct Stage {
    pub dir: TempDir,
    pub server: Process,
    admin: (String, String),
    project: String,
    pub client: String,
}

impl Stage {
    /// Sets it, with the secret in `secret` and in `.env`.
    pub async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let server = Process::start_logging(&data_dir, &dir.path().join("log")).await;
        let admin = bootstrap(&data_dir);
        let mut stage = Self { dir, server, admin, project: String::new(), client: String::new() };
        let project = json!({ "resourceType": "Project", "name": "Rotations" });
        let made = stage.ask("POST", "fhir/R4/Project", Some(project)).await;
        made["id"].as_str().unwrap().clone_into(&mut stage.project);
        stage.make_client().await;
        stage
    }

    /// Makes another client, whose secret takes the place of the first one's.
    pub async fn make_client(&mut self) {
        let path = format!("admin/projects/{}/client", self.project);
        let client = self.ask("POST", &path, Some(json!({ "name": "Nightly export" }))).await;
        client["id"].as_str().unwrap().clone_into(&mut self.client);
        let secret = client["secret"].as_str().unwrap();
        std::fs::write(self.path("secret"), secret).unwrap();
        std::fs::write(self.path(".env"), format!("# Of the export\nSECRET=\"{secret}\"\nSECRET_2=x\n"))
            .unwrap();
    }

    /// Sets something of the project.
    pub async fn set_project(&self, name: &str, value: &str) {
        let path = format!("fhir/R4/Project/{}", self.project);
        let mut project = self.ask("GET", &path, None).await;
        project["setting"] = json!([{ "name": name, "valueString": value }]);
        self.ask("PUT", &path, Some(project)).await;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Asks the server as its Super Admin.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.server.base);
        let mut request =
            http().request(method.parse().unwrap(), url).basic_auth(&self.admin.0, Some(&self.admin.1));
        if let Some(body) = body {
            let media = if body.is_array() { "application/json-patch+json" } else { "application/fhir+json" };
            request = request.header("content-type", media).body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The current and the retiring secret, as the server says.
    pub async fn secrets(&self) -> (String, Option<String>) {
        let client = self.ask("GET", &format!("fhir/R4/ClientApplication/{}", self.client), None).await;
        let secret = client["secret"].as_str().unwrap_or_default().to_owned();
        (secret, client["retiringSecret"].as_str().map(str::to_owned))
    }

    /// Lets the client rotate its own secret, and nothing else.
    pub async fn let_rotate_itself(&self) {
        let rule = json!({ "resourceType": "ClientApplication", "interaction": ["rotate-own-secret"] });
        let meta = json!({ "project": self.project });
        let policy =
            json!({ "resourceType": "AccessPolicy", "name": "Its own", "meta": meta, "resource": [rule] });
        let policy = self.ask("POST", "fhir/R4/AccessPolicy", Some(policy)).await;
        let found = format!("fhir/R4/ProjectMembership?profile=ClientApplication/{}", self.client);
        let found = self.ask("GET", &found, None).await;
        let membership = found["entry"][0]["resource"]["id"].as_str().unwrap();
        let reference = json!({ "reference": format!("AccessPolicy/{}", policy["id"].as_str().unwrap()) });
        let patch = json!([{ "op": "add", "path": "/accessPolicy", "value": reference }]);
        self.ask("PATCH", &format!("fhir/R4/ProjectMembership/{membership}"), Some(patch)).await;
    }

    /// Rotates or retires without the command.
    pub async fn operate(&self, name: &str, value: &str) -> Value {
        let path = format!("fhir/R4/ClientApplication/{}/$rotate-secret", self.client);
        self.ask("POST", &path, Some(parameters(name, value))).await
    }

    /// How often the server has rotated.
    pub async fn rotations(&self) -> u64 {
        let metrics = http().get(format!("{}metrics", self.server.base)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("keyrelay_rotations_total "));
        line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
    }

    /// A command on the client, with a home of its own for its state.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = keyrelay();
        command.current_dir(self.dir.path()).env("HOME", self.path("home"));
        command.env("KEYRELAY_CREDENTIALS", self.path("data/bootstrap.json"));
        command.env("KEYRELAY_URL", &self.server.base);
        command.args([name, &self.client]).args(arguments);
        command
    }

    /// Runs one to its end.
    pub async fn run(&self, name: &str, arguments: &[&str]) -> Said {
        end(self.command(name, arguments)).await
    }

    /// Where the state of a rotation is kept.
    pub fn state_file(&self) -> PathBuf {
        self.path(&format!("home/.local/state/keyrelay/rotate-{}.json", self.client))
    }

    /// The file with the old secret, in a project that shows secrets once.
    pub fn kept_file(&self) -> PathBuf {
        self.state_file().with_extension("json.retiring")
    }
}

/// Runs a command to its end.
pub async fn end(mut command: Command) -> Said {
    let output = command.output().await.unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Said { code: output.status.code(), text }
}

/// All names in a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
