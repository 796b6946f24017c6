//! P2 with a real process: whatever is answered 200 survives `kill -9`.
//!
//! A hundred clients are rotated ten times each, all at once, some rotations undone and some old secrets revoked
//! in between, while the server is killed and started again twenty times. A move whose answer is lost may have
//! happened or not; every other one must be exactly as answered. Every other rotation has a deadline and a key:
//! the deadline stays, and a lost answer is given again. The audit records are proved after every kill.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyrelay_core::time::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::place::Place;
use crate::process::{bootstrap, grant, http, parameters};
use crate::way::Way;

const CLIENTS: usize = 100;
const ROTATIONS: usize = 10;
const KILLS: usize = 20;
/// What a rotation with a deadline gives to the old secret: more than the test takes.
const RETIRE_AFTER: Duration = Duration::from_hours(24);
/// Refusals in a row that stay below the limit for one address.
const REFUSALS_PER_START: usize = 90;

/// What a client's answers say of its secrets.
#[derive(Debug)]
struct Known {
    id: String,
    active: String,
    retiring: Option<String>,
    ended: Vec<String>,
    /// When the retiring secret ends by itself, if it does: as long after the rotation as was asked for.
    ends: Option<RangeInclusive<Timestamp>>,
}

/// The server's address, which changes with every start, and the admin.
struct Stage {
    http: reqwest::Client,
    base: watch::Receiver<String>,
    admin: (String, String),
}

impl Stage {
    /// Sends a request; `None` if its answer was lost. Then the next server is waited for.
    async fn send(
        &self,
        base: &mut watch::Receiver<String>,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Option<(u16, Value)> {
        let url = format!("{}fhir/R4/{path}", *base.borrow_and_update());
        let request = match body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let sent = request.basic_auth(&self.admin.0, Some(&self.admin.1)).send().await;
        let answer = match sent {
            Ok(response) => {
                let status = response.status().as_u16();
                response.json().await.ok().map(|body| (status, body))
            }
            Err(_) => None,
        };
        if answer.is_none() {
            base.changed().await.unwrap();
        }
        answer
    }

    /// Rotates once, whatever it takes, and keeps account.
    async fn rotate(&self, known: &mut Known) {
        let mut base = self.base.clone();
        let path = format!("ClientApplication/{}/$rotate-secret", known.id);
        let mut lost = false;
        loop {
            match self.send(&mut base, &path, Some(&parameters("secret", &known.active)), None).await {
                Some((200, body)) => return known.rotated(&body, None),
                // Only a rotation of ours whose answer was lost can have made the value stale.
                Some((400, body)) if lost => {
                    assert_eq!(body["issue"][0]["details"]["text"], "Provided secret does not match client");
                    return known.rotated(&self.read(&mut base, known).await, None);
                }
                Some((status, body)) => panic!("{status} {body}"),
                None => lost = true,
            }
        }
    }

    /// The same with a deadline for the old secret, and under a key: no answer is lost for good.
    async fn rotate_with_a_deadline(&self, known: &mut Known, key: &str) {
        let mut base = self.base.clone();
        let path = format!("ClientApplication/{}/$rotate-secret", known.id);
        let mut body = parameters("secret", &known.active);
        let after = json!({ "name": "retireAfter", "valueString": format!("{}s", RETIRE_AFTER.as_secs()) });
        body["parameter"].as_array_mut().unwrap().push(after);
        let asked = SystemClock.now();
        loop {
            match self.send(&mut base, &path, Some(&body), Some(key)).await {
                Some((200, body)) => {
                    let ends = asked.plus(RETIRE_AFTER)..=SystemClock.now().plus(RETIRE_AFTER);
                    return known.rotated(&body, Some(ends));
                }
                Some((status, body)) => panic!("{status} {body}"),
                None => {}
            }
        }
    }

    /// The client as an admin reads it.
    async fn read(&self, base: &mut watch::Receiver<String>, known: &Known) -> Value {
        loop {
            let answer = self.send(base, &format!("ClientApplication/{}", known.id), None, None).await;
            if let Some((status, read)) = answer {
                assert_eq!(status, 200, "{read}");
                return read;
            }
        }
    }

    /// Takes a rotation back, and keeps account.
    async fn undo(&self, known: &mut Known) {
        let mut base = self.base.clone();
        let path = format!("ClientApplication/{}/$undo-rotation", known.id);
        loop {
            let told = match self.send(&mut base, &path, Some(&json!({})), None).await {
                Some((200, body)) => body,
                Some((status, body)) => panic!("{status} {body}"),
                // It may have been done: to do it once more would undo that.
                None => self.read(&mut base, known).await,
            };
            if told["secret"] == json!(known.retiring) {
                assert_eq!(told["retiringSecret"], json!(known.active), "nobody is shut out");
                known.retiring.iter_mut().for_each(|retiring| std::mem::swap(retiring, &mut known.active));
                return;
            }
        }
    }

    /// Ends the retiring secret as in an emergency, and keeps account.
    async fn revoke(&self, known: &mut Known) {
        let mut base = self.base.clone();
        let path = format!("ClientApplication/{}/$revoke-secret", known.id);
        let mut lost = false;
        loop {
            match self.send(&mut base, &path, Some(&json!({ "slot": "retiringSecret" })), None).await {
                Some((200, body)) => assert_eq!(body["secret"], json!(known.active), "the other one stays"),
                Some((409, _)) if lost => {}
                Some((status, body)) => panic!("{status} {body}"),
                None => {
                    lost = true;
                    continue;
                }
            }
            return known.ended.extend(known.retiring.take());
        }
    }
}

impl Known {
    fn rotated(&mut self, body: &Value, ends: Option<RangeInclusive<Timestamp>>) {
        self.ends = ends;
        assert_eq!(body["retiringSecret"], json!(self.active), "the old secret retires");
        let fresh = body["secret"].as_str().unwrap().to_owned();
        self.ended.extend(self.retiring.replace(std::mem::replace(&mut self.active, fresh)));
    }
}

async fn make_clients(http: &reqwest::Client, base: &str, admin: &(String, String)) -> Vec<Known> {
    let send = |request: reqwest::RequestBuilder| async move {
        let response = request.basic_auth(&admin.0, Some(&admin.1)).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        response.json::<Value>().await.unwrap()
    };
    let project = json!({ "resourceType": "Project", "name": "Crash" });
    let project = send(http.post(format!("{base}fhir/R4/Project")).json(&project)).await;
    let url = format!("{base}admin/projects/{}/client", project["id"].as_str().unwrap());
    let made = (0..CLIENTS).map(|n| send(http.post(&url).json(&json!({ "name": format!("Client {n}") }))));
    let text = |client: &Value, name: &str| client[name].as_str().unwrap().to_owned();
    join_all(made)
        .await
        .iter()
        .map(|client| Known {
            id: text(client, "id"),
            active: text(client, "secret"),
            retiring: None,
            ended: Vec::new(),
            ends: None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path()).await;
    let mut server = place.start().await;
    let (http, admin) = (http(), bootstrap(dir.path()));
    let clients = make_clients(&http, &server.base, &admin).await;

    let (tell_base, base) = watch::channel(server.base.clone());
    let stage = Arc::new(Stage { http: http.clone(), base, admin });
    let (tell_done, mut done) = mpsc::unbounded_channel();
    let workers: Vec<_> = clients
        .into_iter()
        .map(|mut known| {
            let (stage, tell_done) = (Arc::clone(&stage), tell_done.clone());
            tokio::spawn(async move {
                for n in 1..=ROTATIONS {
                    if n % 2 == 0 {
                        let key = format!("{}/{n}", known.id);
                        stage.rotate_with_a_deadline(&mut known, &key).await;
                    } else {
                        stage.rotate(&mut known).await;
                    }
                    if n % 3 == 0 {
                        stage.undo(&mut known).await;
                    }
                    if n % 4 == 0 {
                        stage.revoke(&mut known).await;
                    }
                    tell_done.send(()).unwrap();
                }
                known
            })
        })
        .collect();
    drop(tell_done);

    let (mut rotations, mut kills) = (0, 0);
    while done.recv().await.is_some() {
        rotations += 1;
        if rotations % (CLIENTS * ROTATIONS / (KILLS + 1)) == 0 && kills < KILLS {
            server.kill().await;
            place.do_well(&["audit", "verify"]).await;
            server = place.start().await;
            tell_base.send(server.base.clone()).unwrap();
            kills += 1;
        }
    }
    assert_eq!((rotations, kills), (CLIENTS * ROTATIONS, KILLS));
    let known: Vec<Known> = join_all(workers).await.into_iter().map(Result::unwrap).collect();
    assert!(server.terminate().await.success());
    verify(&place, &http, &stage.admin, &known).await;
    place.do_well(&["audit", "verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_with_its_server_is_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path()).await;
    let mut server = place.start().await;
    let (http, admin) = (http(), bootstrap(dir.path()));
    for known in make_clients(&http, &server.base, &admin).await.into_iter().take(KILLS) {
        let ask = |base: &str| {
            let url = format!("{base}fhir/R4/ClientApplication/{}/$rotate-secret", known.id);
            let request = http.post(url).header("idempotency-key", format!("\"{}\"", known.id));
            request.basic_auth(&admin.0, Some(&admin.1)).json(&parameters("secret", &known.active)).send()
        };
        // The answer comes as far as here, so it was committed; and then nobody is there any more.
        let way = Way::to(&server.base).await;
        way.cut_after(1);
        let lost = tokio::spawn(ask(&way.base));
        way.is_cut().await;
        server.kill().await;
        lost.abort();
        server = place.start().await;
        let mut given = Vec::new();
        for _ in 0..2 {
            let answer = ask(&server.base).await.unwrap();
            assert_eq!(answer.status(), 200);
            let secret = answer.json::<Value>().await.unwrap()["secret"].as_str().unwrap().to_owned();
            assert_eq!(grant(&http, &server.base, &known.id, &secret).await, 200);
            given.push(secret);
        }
        assert_eq!(given[0], given[1]);
        let without =
            http.post(format!("{}fhir/R4/ClientApplication/{}/$rotate-secret", server.base, known.id));
        let without = without.basic_auth(&admin.0, Some(&admin.1)).json(&parameters("secret", &known.active));
        assert_eq!(
            without.send().await.unwrap().status(),
            400,
            "it was rotated before the server was killed"
        );
    }
    assert!(server.terminate().await.success());
}

/// Every secret is in the state that the answers said, as every place that takes one sees it.
async fn verify(place: &Place, http: &reqwest::Client, admin: &(String, String), known: &[Known]) {
    let all: BTreeSet<&String> =
        known.iter().flat_map(|k| k.ended.iter().chain(&k.retiring).chain([&k.active])).collect();
    assert_eq!(all.len(), CLIENTS * (ROTATIONS + 1), "no secret was given out twice, and none is missing");

    let server = place.start().await;
    for client in known {
        for secret in client.retiring.iter().chain([&client.active]) {
            assert_eq!(grant(http, &server.base, &client.id, secret).await, 200, "{}", client.id);
        }
        let deadline = retiring_ends(http, &server.base, admin, &client.id).await;
        let ends = client.ends.as_ref().expect("the last rotation had a deadline");
        assert!(deadline.is_some_and(|deadline| ends.contains(&deadline)), "{deadline:?} {ends:?}");
    }
    assert!(server.terminate().await.success());

    let ended: Vec<(&str, &str)> =
        known.iter().flat_map(|k| k.ended.iter().map(|secret| (k.id.as_str(), secret.as_str()))).collect();
    for some in ended.chunks(REFUSALS_PER_START) {
        let server = place.start().await;
        for (id, secret) in some {
            assert_eq!(grant(http, &server.base, id, secret).await, 401, "{id}");
        }
        server.kill().await;
    }
}

/// When the retiring secret of a client ends by itself, as an admin is told.
async fn retiring_ends(
    http: &reqwest::Client,
    base: &str,
    admin: &(String, String),
    id: &str,
) -> Option<Timestamp> {
    let url = format!("{base}fhir/R4/ClientApplication/{id}/$secret-status");
    let told = http.get(url).basic_auth(&admin.0, Some(&admin.1)).send().await.unwrap();
    let told: Value = told.json().await.unwrap();
    let named =
        |parts: &Value, name: &str| parts.as_array()?.iter().find(|part| part["name"] == name).cloned();
    let retiring = named(&told["parameter"], "retiringSecret")?;
    Timestamp::parse(named(&retiring["part"], "expires")?["valueInstant"].as_str()?)
}
