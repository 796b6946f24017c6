//! Who works meanwhile: a few at a time rotate, retire, authenticate and read, at any server, and write
//! down what they were answered.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::clock::Stopwatch;
use crate::dice::Dice;
use crate::history::{Answer, Call, Moments, Operation, Secret};

/// How long a request may take. Far above what the product promises: whoever gets no answer until then
/// was left to wait.
const ANSWER_MAX: Duration = Duration::from_secs(45);
/// Ended secrets that are still tried.
const ENDED_MAX: usize = 5;
/// What a server says where it has changed nothing.
const NOTHING_CHANGED: &str = "nothing was changed";
const MISMATCH: &str = "Provided secret does not match client";
/// What it says where nothing is in the slot.
const NO_SUCH_SECRET: &str = "The client has no such secret";

/// A client application.
#[derive(Debug)]
pub struct Subject {
    /// Its id.
    pub id: String,
    known: Mutex<Known>,
    history: Mutex<Vec<Operation>>,
}

/// What the answers so far say of a client application's secrets.
#[derive(Debug)]
struct Known {
    numbers: HashMap<String, Secret>,
    values: Vec<String>,
    active: Secret,
    retiring: Option<Secret>,
    ended: Vec<Secret>,
    /// Something is not as expected, or not known: read before the next move.
    in_doubt: bool,
}

/// A request that did what it was for.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    /// Where.
    pub node: usize,
    /// Whether it changed something.
    pub is_write: bool,
    /// When it was sent, since the start of the run.
    pub invoked: Duration,
    /// When it was answered.
    pub returned: Duration,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Answers, by what was asked and what came of it.
    pub answers: BTreeMap<(&'static str, &'static str), u64>,
    /// Answers that nobody should get.
    pub unexpected: Vec<String>,
    /// The longest that anybody waited for an answer.
    pub longest: Duration,
    /// When what succeeded.
    pub successes: Vec<Success>,
}

/// Everybody, and whom they ask.
#[derive(Debug)]
pub struct Fleet {
    /// The client applications.
    pub subjects: Vec<Subject>,
    nodes: Vec<String>,
    admin: (String, String),
    moments: Moments,
    clock: Stopwatch,
    tally: Mutex<Tally>,
    stopped: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a request.
enum Reply {
    Answered {
        status: u16,
        body: String,
        retry_after: bool,
    },
    /// It was not sent.
    NotSent,
    /// It was sent, and the connection was lost.
    Lost,
    /// It was sent, and no answer came.
    Abandoned,
}

/// What a reply says about the secrets, and the word for it in the report.
struct Judged {
    /// None where it says nothing.
    answer: Option<Answer>,
    word: &'static str,
    unexpected: Option<String>,
}

impl Judged {
    const fn answer(answer: Answer, word: &'static str) -> Self {
        Self { answer: Some(answer), word, unexpected: None }
    }

    const fn nothing(word: &'static str) -> Self {
        Self { answer: None, word, unexpected: None }
    }
}

impl Known {
    fn number(&mut self, value: &str) -> Secret {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = Secret::try_from(self.values.len()).unwrap_or(Secret::MAX);
        self.values.push(value.to_owned());
        self.numbers.insert(value.to_owned(), number);
        number
    }

    fn value(&self, secret: Secret) -> String {
        usize::try_from(secret).ok().and_then(|n| self.values.get(n)).cloned().unwrap_or_default()
    }

    fn learn(&mut self, call: Call, answer: Option<Answer>) {
        match (call, answer) {
            (Call::Rotate(presented), Some(Answer::Rotated(fresh))) => {
                self.ended.extend(self.retiring.take());
                (self.active, self.retiring) = (fresh, Some(presented));
            }
            (Call::Retire(presented), Some(Answer::Retired(left))) => {
                self.ended.push(presented);
                (self.active, self.retiring) = (left, None);
            }
            (Call::Undo, Some(Answer::Undone(active, retiring))) => {
                (self.active, self.retiring) = (active, Some(retiring));
            }
            (Call::Revoke, Some(Answer::Retired(left))) => {
                self.ended.extend(self.retiring.take());
                self.active = left;
            }
            (_, Some(Answer::Shown(active, retiring))) => {
                (self.active, self.retiring, self.in_doubt) = (active, retiring, false);
            }
            (Call::Rotate(_) | Call::Retire(_) | Call::Undo | Call::Revoke, _) => self.in_doubt = true,
            _ => {}
        }
        let surplus = self.ended.len().saturating_sub(ENDED_MAX);
        self.ended.drain(..surplus);
    }
}

impl Subject {
    /// What was asked and answered, in the order of the answers.
    #[must_use]
    pub fn history(&self) -> Vec<Operation> {
        lock(&self.history).clone()
    }

    fn choose(&self, dice: &mut Dice) -> Call {
        let known = lock(&self.known);
        if known.in_doubt && dice.percent(60) {
            return Call::Read;
        }
        let retiring = known.retiring.unwrap_or(known.active);
        match dice.below(100) {
            0..30 => Call::Authenticate(known.active),
            30..45 => Call::Authenticate(retiring),
            45..50 if !known.ended.is_empty() => {
                Call::Authenticate(known.ended[dice.below(known.ended.len())])
            }
            50..71 => Call::Rotate(known.active),
            71..74 => Call::Rotate(retiring),
            74..90 => Call::Retire(retiring),
            90..92 => Call::Undo,
            92..94 => Call::Revoke,
            _ => Call::Read,
        }
    }

    /// What a reply means. Only a body that is as it should be counts.
    fn judge(&self, call: Call, reply: &Reply) -> Judged {
        let is_write = !matches!(call, Call::Authenticate(_) | Call::Read);
        let unknown =
            |word| if is_write { Judged::answer(Answer::Unknown, word) } else { Judged::nothing(word) };
        let (status, body, retry_after) = match reply {
            Reply::Answered { status, body, retry_after } => (*status, body, *retry_after),
            Reply::NotSent => return Judged::nothing("no connection"),
            Reply::Lost => return unknown("connection lost"),
            Reply::Abandoned => {
                let unexpected = Some(format!("{call:?} got no answer in {} s", ANSWER_MAX.as_secs()));
                return Judged { unexpected, ..unknown("no answer") };
            }
        };
        let (refusal, text) = match call {
            Call::Rotate(_) | Call::Retire(_) => (400, MISMATCH),
            Call::Undo | Call::Revoke => (409, NO_SUCH_SECRET),
            Call::Authenticate(_) | Call::Read => (401, ""),
        };
        match status {
            200 => self.success(call, body).map_or_else(
                || {
                    let unexpected = Some(format!("{call:?}: 200 with another body than it should have"));
                    Judged { unexpected, ..unknown("unexpected") }
                },
                |answer| Judged::answer(answer, "done"),
            ),
            503 if retry_after && is_write && body.contains(NOTHING_CHANGED) => Judged::nothing("503"),
            503 if retry_after && is_write => unknown("503, may be done"),
            503 if retry_after => Judged::nothing("503"),
            429 => Judged::nothing("429"),
            _ if status == refusal && call != Call::Read && body.contains(text) => {
                Judged::answer(Answer::Refused, "refused")
            }
            _ => {
                // A body that was not expected may hold anything, a secret too, so only errors are shown.
                let shown: String =
                    if status < 400 { String::new() } else { body.chars().take(300).collect() };
                let unexpected = Some(format!("{call:?}: {status} {shown}"));
                Judged { unexpected, ..unknown("unexpected") }
            }
        }
    }

    fn success(&self, call: Call, body: &str) -> Option<Answer> {
        if let Call::Authenticate(_) = call {
            return Some(Answer::Accepted);
        }
        let body: Value = serde_json::from_str(body).ok()?;
        let mut known = lock(&self.known);
        let active = known.number(body["secret"].as_str()?);
        let retiring = body["retiringSecret"].as_str().map(|value| known.number(value));
        match call {
            Call::Rotate(presented) => (retiring == Some(presented)).then_some(Answer::Rotated(active)),
            Call::Retire(_) | Call::Revoke => retiring.is_none().then_some(Answer::Retired(active)),
            Call::Undo => Some(Answer::Undone(active, retiring?)),
            Call::Read | Call::Authenticate(_) => Some(Answer::Shown(active, retiring)),
        }
    }
}

/// A connection pool from an address of its own: failures are counted by address.
fn http(who: usize) -> Result<reqwest::Client> {
    let last = u8::try_from(who % 200).unwrap_or(0) + 10;
    let from = IpAddr::from(Ipv4Addr::new(127, 0, 77, last));
    Ok(reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).local_address(from).build()?)
}

impl Fleet {
    /// Makes client applications on the first server.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn new(
        nodes: Vec<String>,
        (id, secret, project): (String, String, String),
        subjects: usize,
        clock: Stopwatch,
    ) -> Result<Self> {
        let http = http(0)?;
        let mut made = Vec::with_capacity(subjects);
        for n in 0..subjects {
            let url = format!("{}admin/projects/{project}/client", nodes[0]);
            let body = json!({ "name": format!("Subject {n}") }).to_string();
            let request =
                http.post(url).basic_auth(&id, Some(&secret)).header("content-type", "application/json");
            let answer: Value = request.body(body).send().await?.error_for_status()?.json().await?;
            let text = |name: &str| answer[name].as_str().map(str::to_owned).context("a new client");
            let mut known = Known {
                numbers: HashMap::new(),
                values: Vec::new(),
                active: 0,
                retiring: None,
                ended: Vec::new(),
                in_doubt: false,
            };
            known.number(&text("secret")?);
            made.push(Subject { id: text("id")?, known: Mutex::new(known), history: Mutex::default() });
        }
        Ok(Self {
            subjects: made,
            nodes,
            admin: (id, secret),
            moments: Moments::default(),
            clock,
            tally: Mutex::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// What was counted so far.
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Time since the start of the run.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Tells all who work to stop after the request that they are at.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// One who works until it is told to stop.
    ///
    /// # Errors
    /// When it cannot begin.
    pub async fn work(&self, who: usize, mut dice: Dice) -> Result<()> {
        let http = http(who)?;
        while !self.stopped.load(Ordering::SeqCst) {
            let subject = &self.subjects[dice.below(self.subjects.len())];
            let call = subject.choose(&mut dice);
            let node = dice.below(self.nodes.len());
            let answer = self.ask(&http, subject, node, call, dice.percent(50)).await;
            // What one server has answered must be true on every other at once.
            let follows = match (call, answer) {
                (Call::Retire(secret), Some(Answer::Retired(_))) => Some(secret),
                (_, Some(Answer::Rotated(fresh))) => Some(fresh),
                (_, Some(Answer::Undone(again, _))) => Some(again),
                _ => None,
            };
            if let Some(secret) = follows {
                let other = (node + 1 + dice.below(self.nodes.len() - 1)) % self.nodes.len();
                self.ask(&http, subject, other, Call::Authenticate(secret), dice.percent(50)).await;
            }
            sleep(dice.ms(5..60)).await;
        }
        Ok(())
    }

    /// Asks every server for the secrets of every client application, and tries them.
    ///
    /// # Errors
    /// When it cannot begin.
    pub async fn take_stock(&self) -> Result<Vec<String>> {
        let http = http(0)?;
        let mut lost = Vec::new();
        for subject in &self.subjects {
            for node in 0..self.nodes.len() {
                let Some(Answer::Shown(active, retiring)) =
                    self.ask(&http, subject, node, Call::Read, true).await
                else {
                    lost.push(format!("{} cannot be read on node {node}", subject.id));
                    continue;
                };
                for secret in [Some(active), retiring].into_iter().flatten() {
                    for basic in [true, false] {
                        let call = Call::Authenticate(secret);
                        if self.ask(&http, subject, node, call, basic).await != Some(Answer::Accepted) {
                            lost.push(format!("secret {secret} of {} on node {node}", subject.id));
                        }
                    }
                }
                let ended = lock(&subject.known).ended.clone();
                for secret in ended {
                    self.ask(&http, subject, node, Call::Authenticate(secret), true).await;
                }
            }
        }
        Ok(lost)
    }

    async fn ask(
        &self,
        http: &reqwest::Client,
        subject: &Subject,
        node: usize,
        call: Call,
        basic: bool,
    ) -> Option<Answer> {
        let request = self.request(http, subject, node, call, basic);
        let (invoked, sent) = (self.moments.next(), self.clock.elapsed());
        let reply = reply(request).await;
        let (returned, answered) = (self.moments.next(), self.clock.elapsed());
        let judged = subject.judge(call, &reply);
        lock(&subject.known).learn(call, judged.answer);
        if let Some(answer) = judged.answer {
            lock(&subject.history).push(Operation { call, answer, invoked, returned, node });
        }
        let (name, is_write) = match call {
            Call::Rotate(_) => ("rotate", true),
            Call::Retire(_) => ("retire", true),
            Call::Undo => ("undo", true),
            Call::Revoke => ("revoke", true),
            Call::Authenticate(_) => ("authenticate", false),
            Call::Read => ("read", false),
        };
        let mut tally = lock(&self.tally);
        *tally.answers.entry((name, judged.word)).or_default() += 1;
        tally.unexpected.extend(judged.unexpected.map(|text| format!("node {node}, {answered:.1?}: {text}")));
        tally.longest = tally.longest.max(answered.saturating_sub(sent));
        if judged.word == "done" {
            tally.successes.push(Success { node, is_write, invoked: sent, returned: answered });
        }
        judged.answer
    }

    fn request(
        &self,
        http: &reqwest::Client,
        subject: &Subject,
        node: usize,
        call: Call,
        basic: bool,
    ) -> reqwest::RequestBuilder {
        let (base, id) = (&self.nodes[node], &subject.id);
        let (admin, secret) = (&self.admin.0, Some(&self.admin.1));
        let value = |secret| lock(&subject.known).value(secret);
        let client = format!("{base}fhir/R4/ClientApplication/{id}");
        let operation = |name: &str, body: Value| {
            let request = http.post(format!("{client}/${name}")).basic_auth(admin, Some(&self.admin.1));
            request.header("content-type", "application/json").body(body.to_string())
        };
        let moved = |slot: &str, secret| operation("rotate-secret", json!({ slot: value(secret) }));
        match call {
            Call::Rotate(secret) => moved("secret", secret),
            Call::Retire(secret) => moved("retiringSecret", secret),
            Call::Undo => operation("undo-rotation", json!({})),
            Call::Revoke => operation("revoke-secret", json!({ "slot": "retiringSecret" })),
            Call::Read => http.get(client).basic_auth(admin, secret),
            Call::Authenticate(secret) if basic => http.get(client).basic_auth(id, Some(value(secret))),
            Call::Authenticate(secret) => {
                let form = [
                    ("grant_type", "client_credentials".to_owned()),
                    ("client_id", id.clone()),
                    ("client_secret", value(secret)),
                ];
                http.post(format!("{base}oauth2/token")).form(&form)
            }
        }
    }
}

async fn reply(request: reqwest::RequestBuilder) -> Reply {
    let of = |error: &reqwest::Error| match error {
        error if error.is_connect() => Reply::NotSent,
        error if error.is_timeout() => Reply::Abandoned,
        _ => Reply::Lost,
    };
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return of(&error),
    };
    let status = response.status().as_u16();
    let retry_after = response.headers().contains_key(RETRY_AFTER);
    match response.text().await {
        Ok(body) => Reply::Answered { status, body, retry_after },
        Err(error) => of(&error),
    }
}
