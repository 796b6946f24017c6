//! Tenant B gets tokens, rotates, ends secrets, logs in, and probes the server, while tenant A attacks. The answers
//! that
//! B gets decide whether a row holds. Its waits are reported for people; only the deadline decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::api::{Body, Caller, Credentials, Proof, Reply, Tally};
use crate::clock::Stopwatch;

/// The password of every person here.
pub const PASSWORD: &str = "four plain words here";
/// The pause after each turn.
const PAUSE: Duration = Duration::from_millis(20);
/// The interval of its rotations: slower than every allowed rate.
const ROTATES_EVERY: Duration = Duration::from_millis(500);
/// The interval of its logins: the rate at which attempts are forgiven.
const LOGS_IN_EVERY: Duration = Duration::from_secs(2);
/// Faults that are described; all are counted.
const FAULTS_SHOWN_MAX: usize = 3;

/// A project with its members.
#[derive(Clone)]
pub struct Tenant {
    /// The id of the project.
    pub project: String,
    /// Its admin.
    pub admin: Credentials,
    /// A client of it that is not an admin.
    pub member: Credentials,
    /// The email address of a person of it, whose password is [`PASSWORD`].
    pub email: String,
}

/// The answers that B got.
#[derive(Clone, Debug, Default)]
pub struct Work {
    answers: BTreeMap<&'static str, Tally>,
    grants: Vec<Duration>,
    good: u64,
    bad: u64,
    faults: Vec<String>,
    unanswered: Vec<String>,
}

/// B at work.
pub struct Watch {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Work>,
}

/// The caller of B's requests.
struct Worker {
    admin: Caller,
    nobody: Caller,
    tenant: Tenant,
    secret: String,
    work: Work,
    logins: u64,
}

impl Watch {
    /// B begins to work. `caller` has B's own address and B's deadline.
    #[must_use]
    pub fn start(caller: &Caller, tenant: &Tenant) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            admin: caller.as_client(&tenant.admin),
            nobody: caller.with(Proof::Nobody),
            secret: tenant.member.secret.clone(),
            tenant: tenant.clone(),
            work: Work::default(),
            logins: 0,
        };
        let until = Arc::clone(&stopped);
        Self { stopped, thread: std::thread::spawn(move || worker.work_until(&until)) }
    }

    /// B stops after its current step.
    ///
    /// # Errors
    /// When its thread has ended early.
    pub fn stop(self) -> Result<Work> {
        self.stopped.store(true, Ordering::SeqCst);
        self.thread.join().ok().context("the thread of tenant B ended early")
    }
}

impl Worker {
    fn work_until(mut self, stopped: &AtomicBool) -> Work {
        // An earlier row of the same scene may have rotated.
        self.ask_again();
        let (mut rotated, mut logged_in) = (None::<Stopwatch>, None::<Stopwatch>);
        let is_due = |last: Option<Stopwatch>, every| last.is_none_or(|last| last.elapsed() >= every);
        // At least once, even if an attack is short.
        loop {
            self.turn();
            if is_due(rotated, ROTATES_EVERY) {
                rotated = Some(Stopwatch::start());
                self.rotate();
            }
            if is_due(logged_in, LOGS_IN_EVERY) {
                logged_in = Some(Stopwatch::start());
                self.log_in();
            }
            if stopped.load(Ordering::SeqCst) {
                return self.work;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// A token, and the probes for liveness and readiness.
    fn turn(&mut self) {
        let member = self.tenant.member.with(&self.secret);
        let reply = self.nobody.grant(&member, &[]);
        self.work.grants.push(reply.took);
        self.work.record("grant", &reply, &[200]);
        for (name, path) in [("livez", "livez"), ("readyz", "readyz")] {
            let reply = self.nobody.get(path);
            self.work.record(name, &reply, &[200]);
        }
    }

    /// A rotation; the old secret is ended at once, as one that leaked; an admin route.
    fn rotate(&mut self) {
        let member = self.tenant.member.id.clone();
        let reply = self.admin.rotate(&member, "secret", &self.secret);
        self.work.record("rotate", &reply, &[200, 429]);
        if let Ok(fresh) = reply.text_at("/secret")
            && reply.status == 200
        {
            self.secret = fresh;
            let path = format!("fhir/R4/ClientApplication/{member}/$revoke-secret");
            let reply = self.admin.post(&path, json!({ "slot": "retiringSecret" }));
            self.work.record("revoke", &reply, &[200]);
        } else {
            self.ask_again();
        }
        let reply = self.admin.get(&format!("admin/projects/{}/webhooks", self.tenant.project));
        self.work.record("admin", &reply, &[200]);
    }

    /// The answer to a rotation may be lost although the rotation was made.
    fn ask_again(&mut self) {
        let reply = self.admin.get(&self.tenant.member.path());
        if let (200, Ok(secret)) = (reply.status, reply.text_at("/secret")) {
            self.secret = secret;
        }
    }

    /// A login of a known person, and one of an unknown person.
    fn log_in(&mut self) {
        self.logins += 1;
        let login = |email: &str| json!({ "email": email, "password": PASSWORD });
        let reply = self.nobody.send("POST", "auth/login", Body::Json(login(&self.tenant.email)));
        self.work.record("login", &reply, &[200, 429]);
        let nobody = format!("nobody-{}@example.test", self.logins);
        let reply = self.nobody.send("POST", "auth/login", Body::Json(login(&nobody)));
        self.work.record("unknown login", &reply, &[400, 429]);
    }
}

impl Work {
    fn record(&mut self, what: &'static str, reply: &Reply, good: &[u16]) {
        self.answers.entry(what).or_default().count(reply);
        if good.contains(&reply.status) {
            self.good += 1;
            return;
        }
        self.bad += 1;
        if reply.status == 0 && self.unanswered.len() < FAULTS_SHOWN_MAX {
            self.unanswered.push(format!("{what}: {reply}"));
        }
        if self.faults.len() < FAULTS_SHOWN_MAX {
            self.faults.push(format!("{what}: {reply}"));
        }
    }

    /// Answers that B should not have got.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Requests of B that got no answer in time.
    #[must_use]
    pub fn unanswered(&self) -> &[String] {
        &self.unanswered
    }

    /// A short description: how many answers were as expected, and what the others were.
    #[must_use]
    pub fn words(&self) -> String {
        if self.bad == 0 {
            return format!("{} good", self.good);
        }
        format!("{} good, {} bad", self.good, self.bad)
    }

    /// The percentile of the times of grants, in percent.
    #[must_use]
    pub fn grant_quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.grants.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let ms = Duration::from_millis;
        let work = Work { grants: (1..=100).rev().map(ms).collect(), ..Work::default() };
        assert_eq!([50, 99, 100].map(|percent| work.grant_quantile(percent)), [ms(50), ms(99), ms(100)]);
        assert_eq!(Work::default().grant_quantile(50), Duration::ZERO);
    }
}
