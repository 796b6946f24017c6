//! Use is counted to the last grant: by secret and by caller, over all servers, if they stop in order. Of one
//! that is killed nothing is missing from before its last mark, and whoever is asked afterwards says so: the
//! others, until it has been silent for half a minute, that all is counted up to that mark and no further;
//! the next one on its file, that there is a gap after it.
//!
//! Three servers on PostgreSQL, one on a file, which only one may have. `KEYRELAY_TEST_GRANTS` says how many
//! grants (a million, with `KEYRELAY_TEST_BINARY` built for release).

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::future::join_all;
use keyrelay_core::id::{ClientId, SecretId};
use keyrelay_core::limits::USAGE_FLUSH_INTERVAL;
use keyrelay_core::time::{Clock, SystemClock, Timestamp};
use keyrelay_store::{Store, UsageOfSecret};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::place::Place;
use crate::process::{Process, bootstrap, http, parameters};

/// Callers, each with a name of its own; all of them use both secrets.
const CALLERS: usize = 500;
/// Connections to each server, which share the callers out among them.
const LANES: usize = 4;

fn grants() -> usize {
    std::env::var("KEYRELAY_TEST_GRANTS").ok().map_or(6000, |grants| grants.parse().unwrap())
}

/// A client with two secrets that grant access: the retiring one, then the current one.
struct Subject {
    client: String,
    admin: (String, String),
    secrets: [String; 2],
}

impl Subject {
    async fn make(base: &str, dir: &Path) -> Self {
        let admin = bootstrap(dir);
        let ask = async |method: &str, path: &str, body: Value| {
            let request = http().request(method.parse().unwrap(), format!("{base}{path}")).json(&body);
            let answer = request.basic_auth(&admin.0, Some(&admin.1)).send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            answer.json::<Value>().await.unwrap()
        };
        let project = ask("POST", "fhir/R4/Project", json!({ "resourceType": "Project", "name": "P" })).await;
        let path = format!("admin/projects/{}/client", project["id"].as_str().unwrap());
        let made = ask("POST", &path, json!({ "name": "Nightly export" })).await;
        let (client, old) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
        let path = format!("fhir/R4/ClientApplication/{client}/$rotate-secret");
        let new = ask("POST", &path, parameters("secret", old)).await;
        let secrets = [old, new["secret"].as_str().unwrap()].map(str::to_owned);
        Self { client: client.to_owned(), secrets, admin }
    }

    /// A grant as a caller sends it.
    fn request(&self, caller: usize, secret: usize) -> Vec<u8> {
        let (client, secret) = (&self.client, &self.secrets[secret]);
        let form = format!("grant_type=client_credentials&client_id={client}&client_secret={secret}");
        let head = format!(
            "POST /oauth2/token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             user-agent: export/{caller}\r\nx-client-instance: worker-{caller}\r\ncontent-length: {}\r\n\r\n",
            form.len()
        );
        (head + &form).into_bytes()
    }

    /// What a server says that is asked. It writes down first what it has counted.
    async fn status(&self, base: &str) -> Value {
        let url = format!("{base}fhir/R4/ClientApplication/{}/$secret-status", self.client);
        let answer = http().get(url).basic_auth(&self.admin.0, Some(&self.admin.1)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    /// Up to when all is counted, as a server says that is asked.
    async fn complete_until(&self, base: &str) -> Timestamp {
        instant(&self.status(base).await, "completeUntil").unwrap()
    }

    /// What is written down of both secrets, the retiring one first.
    async fn counted(&self, store: &Store) -> [UsageOfSecret; 2] {
        let client = ClientId::parse(&self.client).unwrap();
        let slots = store.client(client).await.unwrap().unwrap().slots.at(SystemClock.now());
        let ids = [slots.retiring().unwrap().id, slots.active().unwrap().id];
        let mut usage =
            store.usage(client, [ids[0], ids[1], SecretId::NIL], SystemClock.now()).await.unwrap();
        ids.map(|id| usage.remove(&id).unwrap_or_default())
    }
}

/// A parameter of an answer that is a time.
fn instant(told: &Value, name: &str) -> Option<Timestamp> {
    let found = told["parameter"].as_array().unwrap().iter().find(|part| part["name"] == name)?;
    Timestamp::parse(found["valueInstant"].as_str().unwrap())
}

/// One of many uses: by whom, and of which secret.
type Use = (usize, usize);

/// What each server is asked for: every caller asks all in turn, first by the old secret, then by the new one.
fn share_out(grants: usize, nodes: usize) -> Vec<Vec<Use>> {
    let mut shares = vec![Vec::new(); nodes];
    let each = grants / CALLERS;
    for n in 0..each {
        for caller in 0..CALLERS {
            shares[(n + caller) % nodes].push((caller, usize::from(n >= each / 2)));
        }
    }
    shares
}

/// Sends what one server is asked for, until it is done or the server is gone. Gives the uses that were answered,
/// each with the time.
async fn load(subject: &Subject, base: &str, uses: &[Use]) -> Vec<(Use, Timestamp)> {
    let address = base.trim_start_matches("http://").trim_end_matches('/');
    let lanes = uses.chunks(uses.len().div_ceil(LANES).max(1)).map(async |uses| {
        let mut answered = Vec::with_capacity(uses.len());
        let Ok(mut stream) = TcpStream::connect(address).await else { return answered };
        stream.set_nodelay(true).unwrap();
        'uses: for &(caller, secret) in uses {
            let request = subject.request(caller, secret);
            loop {
                if stream.write_all(&request).await.is_err() {
                    break 'uses;
                }
                let Some(status) = answer(&mut stream).await else { break 'uses };
                match status.as_str() {
                    "HTTP/1.1 200" => break,
                    // The database did not answer in time: nobody was let in, so nothing is to be counted.
                    "HTTP/1.1 503" => {}
                    status => panic!("{status}"),
                }
            }
            answered.push(((caller, secret), SystemClock.now()));
        }
        answered
    });
    join_all(lanes).await.concat()
}

/// Reads one answer; gives the beginning of its first line. `None` if the connection ended before.
async fn answer(stream: &mut TcpStream) -> Option<String> {
    let mut received = Vec::with_capacity(4096);
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap();
            if body.len() >= length.split("\r\n").next().unwrap().parse::<usize>().unwrap() {
                return head.get(..12).map(str::to_owned);
            }
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
}

/// How often each caller was counted with a secret.
fn by_caller(usage: &UsageOfSecret) -> BTreeMap<String, i64> {
    let named = usage.callers.iter().map(|by| {
        let caller = by.caller.as_ref().expect("so few are told apart");
        assert_eq!(caller.agent.replace("export/", "worker-"), caller.instance);
        (caller.instance.clone(), by.tally.accepted)
    });
    named.collect()
}

/// The same of what was answered.
fn answered_by_caller<'a>(answered: impl Iterator<Item = &'a Use>, secret: usize) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    for (caller, _) in answered.filter(|(_, of)| *of == secret) {
        *all.entry(format!("worker-{caller}")).or_default() += 1;
    }
    all
}

async fn start(place: &Place, other_place: &Path) -> (Vec<Process>, Subject) {
    let mut nodes = vec![place.start().await];
    if place.database.is_postgres() {
        for name in ["second", "third"] {
            nodes.push(place.start_beside(name).await);
        }
    }
    let subject = Subject::make(&nodes[0].base, other_place).await;
    (nodes, subject)
}

#[tokio::test]
async fn after_a_clean_stop_every_use_is_counted_by_secret_and_by_caller() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path()).await;
    let (nodes, subject) = start(&place, dir.path()).await;
    let shares = share_out(grants(), nodes.len());
    let loads = nodes.iter().zip(&shares).map(|(node, uses)| load(&subject, &node.base, uses));
    let answered = join_all(loads).await.concat();
    assert_eq!(answered.len(), grants() / CALLERS * CALLERS, "nobody was refused");
    for node in nodes {
        assert!(node.terminate().await.success());
    }

    let store = place.database.open().await.unwrap();
    for (secret, usage) in subject.counted(&store).await.iter().enumerate() {
        let expected = answered_by_caller(answered.iter().map(|(by, _)| by), secret);
        let total = expected.values().sum::<i64>();
        assert_eq!(usage.total.map(|total| (total.accepted, total.refused)), Some((total, 0)));
        assert_eq!(by_caller(usage), expected);
        assert_eq!(usage.recent.accepted_day, total, "and by minute");
    }
    assert!(store.usage_marks().await.unwrap().is_empty(), "all ended in order");
}

#[tokio::test]
async fn of_a_server_that_is_killed_no_use_is_missing_from_before_its_last_mark() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(dir.path()).await;
    let (mut nodes, subject) = start(&place, dir.path()).await;
    let shares = share_out(grants(), nodes.len());
    // The last one is killed in the middle of its share.
    let victim = nodes.pop().unwrap();
    let rest = join_all(nodes.iter().zip(&shares).map(|(node, uses)| load(&subject, &node.base, uses)));
    let share = shares.last().unwrap();
    let (first, then) = share.split_at(share.len() / 2);
    let (then, under_way) = then.split_at(then.len() / 2);
    let of_victim = async {
        let mut answered = load(&subject, &victim.base, first).await;
        // Whoever is asked writes down all that it has counted; what comes then may be lost.
        subject.complete_until(&victim.base).await;
        answered.extend(load(&subject, &victim.base, then).await);
        let base = victim.base.clone();
        let (under_way, ()) = tokio::join!(load(&subject, &base, under_way), victim.kill());
        answered.extend(under_way);
        (answered, SystemClock.now())
    };
    let (rest, (of_victim, killed)) = tokio::join!(rest, of_victim);

    let is_shared = place.database.is_postgres();
    if !is_shared {
        nodes.push(place.start().await);
    }
    let told = subject.status(&nodes[0].base).await;
    for node in nodes {
        assert!(node.terminate().await.success());
    }
    let store = place.database.open().await.unwrap();
    let marks = store.usage_marks().await.unwrap();
    let [last_mark] = marks.iter().map(|mark| mark.complete_until).collect::<Vec<_>>()[..] else {
        panic!("the dead one's is left, and no other: {marks:?}");
    };
    // Each server writes down every few seconds, and takes its time where the machine is busy.
    assert!(killed.since(last_mark) < 3 * USAGE_FLUSH_INTERVAL, "{last_mark} {killed}");
    let complete_until = instant(&told, "completeUntil").unwrap();
    if is_shared {
        // The others claim no more than it has written down.
        assert!(complete_until <= last_mark, "{complete_until} {last_mark}");
    } else {
        // Whoever comes after it counts on, and says where something is missing.
        assert!(complete_until > killed, "{complete_until} {killed}");
        assert_eq!(instant(&told, "gapAfter"), Some(last_mark));
        assert!(marks[0].ended.is_some_and(|ended| ended >= killed), "{marks:?}");
        let why =
            format!("Some uses after {last_mark} may not have been counted: a server ended out of order.");
        assert!(told.to_string().contains(&why), "{told}");
    }

    let rest = rest.concat();
    let before = of_victim.iter().filter(|(_, at)| *at < last_mark);
    let certain: Vec<Use> = rest.iter().chain(before).map(|(by, _)| *by).collect();
    for (secret, usage) in subject.counted(&store).await.iter().enumerate() {
        let counted = by_caller(usage);
        let at_least = answered_by_caller(certain.iter(), secret);
        // Sent, and perhaps neither answered nor counted: one on each connection.
        let at_most = answered_by_caller(shares.iter().flatten(), secret);
        for (caller, uses) in &at_least {
            assert!(counted.get(caller) >= Some(uses), "{caller}: {:?} of {uses}", counted.get(caller));
        }
        for (caller, uses) in &counted {
            assert!(at_most.get(caller) >= Some(uses), "{caller} is counted too often");
        }
        assert_eq!(usage.total.map_or(0, |total| total.accepted), counted.values().sum::<i64>());
    }
}
