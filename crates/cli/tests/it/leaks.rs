//! P4 with a real process: after a run that used every route, no secret is anywhere it must not be.
//! Looked for, byte by byte: the database, its WAL, the log at `trace`, the metrics, every version of
//! every resource, every AuditEvent, what webhooks and streams of events tell, why a delivery failed, and what is
//! told of uses.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::process::{Process, bootstrap, http, parameters};
use crate::receiver::Receiver;

/// Speaks to the server as its Super Admin, and remembers every secret and token it saw.
struct Run {
    http: reqwest::Client,
    base: String,
    admin: (String, String),
    secrets: Vec<String>,
    receiver: Receiver,
    /// Where webhooks are listed.
    listed: String,
    /// What else must hold no secret: a name, and what was read there.
    texts: Vec<(String, String)>,
}

impl Run {
    async fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let admin = self.admin.clone();
        self.send_as(&admin, method, path, body).await
    }

    /// Moves secrets under a key, and asks for the answer again.
    async fn send_twice(&mut self, path: &str, body: &Value) -> Value {
        let mut answers = Vec::new();
        for _ in 0..2 {
            let request = self.http.post(format!("{}{path}", self.base)).json(body);
            let request =
                request.basic_auth(&self.admin.0, Some(&self.admin.1)).header("idempotency-key", path);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            answers.push(answer.json::<Value>().await.unwrap());
        }
        assert_eq!(answers[0], answers[1]);
        self.remember(&answers[0]);
        answers.swap_remove(0)
    }

    async fn send_as(
        &mut self,
        who: &(String, String),
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Value {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method.parse().unwrap(), url).basic_auth(&who.0, Some(&who.1));
        if let Some(body) = body {
            let media =
                if method == "PATCH" { "application/json-patch+json" } else { "application/fhir+json" };
            request = request.header("content-type", media).body(body.to_string());
        }
        let text = request.send().await.unwrap().text().await.unwrap();
        let answer = serde_json::from_str(&text).unwrap_or(Value::Null);
        self.remember(&answer);
        answer
    }

    /// Finds the secrets in an answer, wherever they are.
    fn remember(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    match value {
                        Value::String(text)
                            if ["secret", "retiringSecret", "access_token"].contains(&name.as_str()) =>
                        {
                            self.use_secret(text);
                        }
                        value => self.remember(value),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.remember(item)),
            _ => {}
        }
    }

    /// Remembers a secret in every spelling in which it goes over the wire.
    fn use_secret(&mut self, secret: &str) -> String {
        if !self.secrets.iter().any(|known| known == secret) {
            self.secrets.push(secret.to_owned());
        }
        secret.to_owned()
    }

    async fn token(&mut self, id: &str, secret: &str) -> Value {
        self.use_secret(secret);
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let url = format!("{}oauth2/token", self.base);
        let answer: Value = self.http.post(url).form(&form).send().await.unwrap().json().await.unwrap();
        self.remember(&answer);
        answer
    }

    /// The life of one client, with every way of going wrong on the way.
    async fn use_every_route(&mut self) -> String {
        let project = self
            .send("POST", "fhir/R4/Project", Some(&json!({ "resourceType": "Project", "name": "Leaks" })))
            .await;
        let project = project["id"].as_str().unwrap().to_owned();
        self.register_webhooks(&project).await;
        let client = self
            .send("POST", &format!("admin/projects/{project}/client"), Some(&json!({ "name": "Leaky" })))
            .await;
        let id = client["id"].as_str().unwrap().to_owned();
        let mut secret = client["secret"].as_str().unwrap().to_owned();
        let path = format!("fhir/R4/ClientApplication/{id}");
        let rotate = format!("{path}/$rotate-secret");

        let token = self.token(&id, &secret).await;
        let bearer = token["access_token"].as_str().unwrap().to_owned();
        self.http.get(format!("{}auth/me", self.base)).bearer_auth(&bearer).send().await.unwrap();
        self.send_as(&(id.clone(), secret.clone()), "GET", &path, None).await;
        for wrong in [
            "wrong-secret-that-nobody-ever-had-1234",
            "krs_0000000000000000000000000000000000000000000000000",
        ] {
            let wrong = self.use_secret(wrong);
            self.token(&id, &wrong).await;
            self.send_as(&(id.clone(), wrong.clone()), "GET", &path, None).await;
            self.send("POST", &rotate, Some(&parameters("secret", &wrong))).await;
            self.send("POST", &rotate, Some(&parameters("unknown", &wrong))).await;
            self.send("POST", &rotate, Some(&json!({ "resourceType": "Patient", "secret": wrong }))).await;
            self.http.post(format!("{}oauth2/token?client_secret={wrong}", self.base)).send().await.unwrap();
        }
        for _ in 0..3 {
            let rotated = self.send("POST", &rotate, Some(&parameters("secret", &secret))).await;
            rotated["secret"].as_str().unwrap().clone_into(&mut secret);
        }
        let again = self.send_twice(&rotate, &parameters("secret", &secret)).await;
        again["secret"].as_str().unwrap().clone_into(&mut secret);
        self.send_twice(&format!("{path}/$undo-rotation"), &json!({})).await;
        let undone = self.send_twice(&format!("{path}/$undo-rotation?"), &json!({})).await;
        assert_eq!(undone["secret"], json!(secret));
        self.revoke_retiring(&path).await;
        self.send("POST", &rotate, Some(&parameters("secret", &secret))).await;
        self.present_by_mistake(&id, &secret).await;
        self.tell_status(&path).await;
        let read = self.send("GET", &path, None).await;
        let retiring = read["retiringSecret"].as_str().unwrap().to_owned();
        self.send("POST", &rotate, Some(&parameters("retiringSecret", &retiring))).await;
        self.token(&id, &retiring).await;
        self.tell_status(&path).await;

        let mut stale = read.clone();
        stale["description"] = json!("Read before");
        self.send("PUT", &path, Some(&stale)).await;
        let mut chosen = self.send("GET", &path, None).await;
        chosen["secret"] = json!(self.use_secret("a-secret-that-an-admin-chose-himself-0001"));
        self.send("PUT", &path, Some(&chosen)).await;
        let patched = self.use_secret("a-secret-that-came-in-by-a-json-patch-0002");
        self.send("PATCH", &path, Some(&json!([{ "op": "replace", "path": "/secret", "value": patched }])))
            .await;
        self.send(
            "PATCH",
            &path,
            Some(&json!([{ "op": "copy", "from": "/secret", "path": "/description" }])),
        )
        .await;
        self.send("PATCH", &path, Some(&json!([{ "op": "test", "path": "/secret", "value": patched }])))
            .await;
        let short = self.use_secret("too-short-4711");
        chosen["secret"] = json!(short);
        self.send("PUT", &path, Some(&chosen)).await;
        chosen["secret"] = json!({ "nested": short });
        self.send("PUT", &path, Some(&chosen)).await;
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [{
            "request": { "method": "POST", "url": format!("ClientApplication/{id}/$rotate-secret") },
            "resource": parameters("secret", &patched)
        }] });
        self.send("POST", "fhir/R4", Some(&batch)).await;
        let made = self.use_secret("a-secret-that-was-there-from-the-start-03");
        let body = json!({ "resourceType": "ClientApplication", "name": "Chosen", "secret": made });
        let other = self.send("POST", "fhir/R4/ClientApplication", Some(&body)).await;
        assert_eq!(other["secret"], json!(made));
        for path in
            ["fhir/R4/ClientApplication?name=Leaky", "fhir/R4/metadata", "healthcheck", "readyz", "livez"]
        {
            self.send("GET", path, None).await;
        }
        let other = other["id"].as_str().unwrap();
        self.send("DELETE", &format!("fhir/R4/ClientApplication/{other}"), None).await;
        id
    }

    /// Ends the retiring secret as in an emergency. An admin is shown the one that stays, and not the other.
    async fn revoke_retiring(&mut self, path: &str) {
        let client = self.send("GET", path, None).await;
        let gone = client["retiringSecret"].as_str().unwrap();
        for status in [200, 409] {
            let request = self.http.post(format!("{}{path}/$revoke-secret", self.base));
            let request = request.json(&json!({ "slot": "retiringSecret" }));
            let answer = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
            assert_eq!(answer.status(), status);
            let text = answer.text().await.unwrap();
            assert!(!text.contains(gone), "{text}");
            if status == 409 {
                self.texts.push(("$revoke-secret".to_owned(), text));
            }
        }
    }

    /// A client whose secret has got into what it says of itself.
    async fn present_by_mistake(&mut self, id: &str, secret: &str) {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let request = self.http.post(format!("{}oauth2/token", self.base)).form(&form);
        let request =
            request.header("user-agent", format!("job {secret}")).header("x-client-instance", secret);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["access_token"].is_string(), "{answer}");
        self.remember(&answer);
    }

    /// Keeps what is told of who uses which secret.
    async fn tell_status(&mut self, path: &str) {
        let path = format!("{path}/$secret-status?minutes=1500");
        let request = self.http.get(format!("{}{path}", self.base));
        let answer = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        self.texts.push(("$secret-status".to_owned(), answer.text().await.unwrap()));
    }

    /// One that receives, and one that nobody answers.
    async fn register_webhooks(&mut self, project: &str) {
        let path = format!("admin/projects/{project}/webhooks");
        for url in [self.receiver.url.clone(), "http://127.0.0.1:9/".to_owned()] {
            let made = self.send("POST", &path, Some(&json!({ "url": url }))).await;
            let one = format!("{path}/{}", made["id"].as_str().unwrap());
            self.send("POST", &format!("{one}/rotate-secret"), Some(&json!({}))).await;
        }
        self.listed = path;
    }

    /// What was told, by every way there is, up to what the life of the client ended with.
    async fn everything_told(&mut self) {
        loop {
            let (head, body) = self.receiver.next().await;
            let is_last = body.contains("former_seen");
            self.texts.push(("a webhook".to_owned(), head + &body));
            if is_last {
                break;
            }
        }
        for path in [self.listed.clone(), self.listed.replace("webhooks", "events?follow=false")] {
            let request = self.http.get(format!("{}{path}", self.base));
            let text = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap().text();
            self.texts.push((path, text.await.unwrap()));
        }
    }

    /// Everything that must hold no secret, as text.
    async fn everything_readable(&mut self, id: &str) -> Vec<(String, String)> {
        let history = format!("fhir/R4/ClientApplication/{id}/_history");
        let mut paths =
            vec![history.clone(), "fhir/R4/AuditEvent?_count=1000".to_owned(), "metrics".to_owned()];
        let versions = self.send("GET", &history, None).await;
        let entries = versions["entry"].as_array().unwrap();
        assert!(entries.len() >= 6, "{versions}");
        for entry in entries {
            paths.push(format!("{history}/{}", entry["resource"]["meta"]["versionId"].as_str().unwrap()));
        }
        let mut texts = Vec::new();
        for path in paths {
            let request =
                self.http.get(format!("{}{path}", self.base)).basic_auth(&self.admin.0, Some(&self.admin.1));
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            texts.push((path, response.text().await.unwrap()));
        }
        texts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_found_where_it_must_not_be() {
    let (dir, log) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let server = Process::start_logging(dir.path(), log.path()).await;
    let admin = bootstrap(dir.path());
    let mut run = Run {
        http: http(),
        base: server.base.clone(),
        secrets: vec![admin.1.clone()],
        admin,
        receiver: Receiver::open().await,
        listed: String::new(),
        texts: Vec::new(),
    };
    let id = run.use_every_route().await;
    run.everything_told().await;
    let mut texts = run.everything_readable(&id).await;
    texts.append(&mut run.texts);
    // Killed, so that the WAL stays as it is.
    server.kill().await;

    let spellings: Vec<String> =
        run.secrets.iter().flat_map(|secret| [secret.clone(), STANDARD.encode(secret)]).collect();
    let basic = STANDARD.encode(format!("{}:{}", run.admin.0, run.admin.1));
    assert!(run.secrets.len() > 12, "the run used many secrets");
    for needle in spellings.iter().chain([&basic]) {
        for (path, text) in &texts {
            assert!(!text.contains(needle.as_str()), "a secret is in {path}");
        }
        for file in files_that_hold_no_secret(dir.path(), log.path()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!contains(&bytes, needle.as_bytes()), "a secret is in {}", file.display());
        }
    }
    // What webhooks are signed with is kept sealed, and so are its bytes.
    let signing: Vec<_> = run.secrets.iter().filter_map(|secret| secret.strip_prefix("whsec_")).collect();
    assert_eq!(signing.len(), 4);
    for bytes in signing.iter().map(|text| STANDARD.decode(text).unwrap()) {
        for file in files_that_hold_no_secret(dir.path(), log.path()) {
            assert!(!contains(&std::fs::read(&file).unwrap(), &bytes), "{}", file.display());
        }
    }
    for (name, expected) in [
        ("a webhook", "client.secret.rotated"),
        ("admin/", "no connection could be made"),
        ("admin/", "event: "),
        ("$secret-status", "retiringSecret"),
        ("$secret-status", "[withheld]"),
        ("$secret-status", "\"minute\""),
        ("$revoke-secret", "conflict"),
    ] {
        assert!(
            texts.iter().any(|(path, text)| path.starts_with(name) && text.contains(expected)),
            "{expected}"
        );
    }
    let log = std::fs::read_to_string(log.path()).unwrap();
    for expected in ["DEBUG", "a client was not let in", "a secret was moved on", "a secret that has ended"] {
        assert!(log.contains(expected), "the log is that of the run: {expected}");
    }
    assert!(
        texts
            .iter()
            .any(|(path, text)| path.starts_with("fhir/R4/AuditEvent") && text.contains("rotate-secret"))
    );
}

/// The files of a run, but for the two that exist to hold a secret.
fn files_that_hold_no_secret(dir: &Path, log: &Path) -> Vec<std::path::PathBuf> {
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(names.iter().any(|path| path.ends_with("keyrelay.sqlite-wal")), "the WAL is there: {names:?}");
    let meant_to =
        |path: &std::path::PathBuf| path.ends_with("master.key") || path.ends_with("bootstrap.json");
    names.into_iter().filter(|path| !meant_to(path)).chain([log.to_owned()]).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
