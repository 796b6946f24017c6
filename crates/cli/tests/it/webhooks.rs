//! Webhooks with real processes: what was answered is told, whatever is killed in between.

use std::collections::BTreeSet;

use keyrelay_store::TestDatabase;
use serde_json::{Value, json};

use crate::process::{Process, bootstrap, http, keyrelay, parameters};
use crate::receiver::Receiver;

const ROUNDS: usize = 4;
const CLIENTS_PER_ROUND: usize = 5;

struct Stage {
    dir: tempfile::TempDir,
    database: TestDatabase,
    server: Process,
    admin: (String, String),
}

impl Stage {
    async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = TestDatabase::new(dir.path()).await;
        if database.is_postgres() {
            let made =
                keyrelay().arg("master-key").arg(dir.path().join("master.key")).status().await.unwrap();
            assert!(made.success());
        }
        let server = start(&dir, &database).await;
        let admin = bootstrap(dir.path());
        Self { dir, database, server, admin }
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.server.base);
        let request = http().post(url).json(body).basic_auth(&self.admin.0, Some(&self.admin.1));
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.unwrap()
    }

    async fn kill_and_start(self) -> Self {
        self.server.kill().await;
        let server = start(&self.dir, &self.database).await;
        Self { server, ..self }
    }
}

async fn start(dir: &tempfile::TempDir, database: &TestDatabase) -> Process {
    let mut command = keyrelay();
    command.env("KEYRELAY_LOG", "warn");
    if database.is_postgres() {
        command.env("KEYRELAY_DATABASE_URL", database.url());
        command.env("KEYRELAY_MASTER_KEY_FILE", dir.path().join("master.key"));
    }
    Process::start_with(command, dir.path()).await
}

fn told(body: &str) -> (String, String) {
    let body: Value = serde_json::from_str(body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(body["type"], "client.secret.rotated");
    (text(&body["id"]), text(&body["data"]["client"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_told_after_kill_9() {
    let (mut stage, mut receiver) = (Stage::set().await, Receiver::open().await);
    let project = json!({ "resourceType": "Project", "name": "Crash" });
    let project = stage.post("fhir/R4/Project", &project).await["id"].as_str().unwrap().to_owned();
    let path = format!("admin/projects/{project}");
    stage.post(&format!("{path}/webhooks"), &json!({ "url": receiver.url })).await;

    // Killed while the receiver has the event and has not answered: it comes again, under the same id.
    receiver.answers("");
    let first = rotate_one(&stage, &path).await;
    let before = told(&receiver.next().await.1);
    assert_eq!(before.1, first);
    stage = stage.kill_and_start().await;
    receiver.answers("204 No Content");
    assert_eq!(told(&receiver.next().await.1), before);

    // Killed at once after the answers.
    let mut expected = BTreeSet::new();
    for _ in 0..ROUNDS {
        for _ in 0..CLIENTS_PER_ROUND {
            expected.insert(rotate_one(&stage, &path).await);
        }
        stage = stage.kill_and_start().await;
    }
    while !expected.is_empty() {
        expected.remove(&told(&receiver.next().await.1).1);
    }
    assert!(stage.server.terminate().await.success());
}

/// Makes a client, rotates it, and gives its reference once that was answered.
async fn rotate_one(stage: &Stage, path: &str) -> String {
    let client = stage.post(&format!("{path}/client"), &json!({ "name": "Nightly export" })).await;
    let reference = format!("ClientApplication/{}", client["id"].as_str().unwrap());
    let body = parameters("secret", client["secret"].as_str().unwrap());
    stage.post(&format!("fhir/R4/{reference}/$rotate-secret"), &body).await;
    reference
}
