//! What it costs to count who uses which secret: instructions of a grant, and memory with a million callers.
//!
//! Instructions are counted, by Callgrind, since a part of a hundredth is lost in the noise of times. The same load
//! runs twice: once all is counted, and once only what the function does that counts, with all that it calls. A
//! short load is subtracted from a long one, so that starting and stopping cancel out. Nothing has to be switched
//! off in the product, and what is measured is what users run.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Setting;
use crate::http::Target;
use crate::load::{self, Plan, SECONDS_MAX, Source};
use crate::process::{Memory, Server};
use crate::product::{Credentials, Installation};
use crate::report::{Table, megabytes, per_second};

/// Grants of the short load and of the long one.
const GRANTS: [u64; 2] = [300, 2300];
/// The function that counts, as Callgrind names it.
const COUNTS: &str = "*auth::count_use*";
/// Connections that fill the memory.
const CONNECTIONS: usize = 16;

/// Instructions and memory.
///
/// # Errors
/// When the server cannot be started or loaded.
pub fn run(setting: &Setting) -> Result<Vec<Table>> {
    Ok(vec![instructions(setting)?, memory(setting)?])
}

fn instructions(setting: &Setting) -> Result<Table> {
    let mut table = Table {
        title: "Instructions of a grant",
        note: format!(
            "Counted by Callgrind, over {} client credentials grants of one caller that names itself.",
            GRANTS[1] - GRANTS[0]
        ),
        columns: vec!["of it", "instructions", "share"],
        rows: Vec::new(),
    };
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let cells = ["not measured: valgrind is not installed", "–", "–"];
        table.rows.push(cells.map(str::to_owned).to_vec());
        return Ok(table);
    }
    let all = per_grant(setting, None)?;
    let counting = per_grant(setting, Some(COUNTS))?;
    ensure!(counting > 0.0, "no function of this binary is called {COUNTS}: is it stripped of its symbols?");
    for (name, figure) in [("a grant", all), ("counting who used which secret", counting)] {
        let share = format!("{:.2} %", figure / all * 100.0);
        table.rows.push(vec![name.to_owned(), per_second(figure), share]);
    }
    Ok(table)
}

/// Instructions of one grant; only those within a function, if one is named.
fn per_grant(setting: &Setting, within: Option<&str>) -> Result<f64> {
    let mut collected = [0; 2];
    for (grants, collected) in GRANTS.into_iter().zip(&mut collected) {
        let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
        let (server, log) = installation.start_under_callgrind(within)?;
        let client = installation.first_client()?;
        let source = Turns::of(server.target(), &client, 1, 1).remove(0);
        let done = load::run(plan(&server, grants), vec![source])?;
        ensure!(done.good() == grants && done.bad() == 0, "not every grant was answered under Callgrind");
        server.stop()?;
        let told = std::fs::read_to_string(log)?;
        let line = told.lines().find_map(|line| line.split_once("Collected : "));
        *collected =
            line.and_then(|(_, figure)| figure.trim().parse::<u64>().ok()).context("Callgrind's sum")?;
    }
    let [few, many] = collected;
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    let (more, grants) = (many.saturating_sub(few) as f64, (GRANTS[1] - GRANTS[0]) as f64);
    Ok(more / grants)
}

fn plan(server: &Server, grants: u64) -> Plan {
    Plan { target: server.target(), duration: Duration::from_secs(SECONDS_MAX), requests_max: grants }
}

fn memory(setting: &Setting) -> Result<Table> {
    let mut table = Table {
        title: "Memory of counting",
        note: format!(
            "Resident, after as many grants from one caller and from {} callers that each come once, all by one secret.",
            whole(setting.callers)
        ),
        columns: vec!["callers", "before", "after", "peak"],
        rows: Vec::new(),
    };
    for callers in [1, setting.callers] {
        let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
        let server = installation.start()?;
        let client = installation.first_client()?;
        let before = server.memory()?;
        let sources = Turns::of(server.target(), &client, callers, CONNECTIONS);
        let done = load::run(plan(&server, setting.callers), sources)?;
        ensure!(done.good() >= setting.callers && done.bad() == 0, "not every grant was answered");
        let Memory { resident, peak } = server.memory()?;
        let mut row = vec![whole(callers)];
        row.extend([before.resident, resident, peak].map(megabytes));
        table.rows.push(row);
        server.stop()?;
    }
    Ok(table)
}

/// A whole number, with a space between thousands.
fn whole(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    per_second(count as f64)
}

/// Grants of callers that take turns, each under a name of its own.
struct Turns {
    /// What comes before and after the name.
    around: Rc<(Vec<u8>, Vec<u8>)>,
    next: u64,
    /// Connections that share the callers, and callers.
    step: u64,
    callers: u64,
    request: Vec<u8>,
}

/// Stands where the name goes, and is as long.
const NAME: &str = "worker-00000000";

impl Turns {
    fn of(target: Target, client: &Credentials, callers: u64, connections: usize) -> Vec<Self> {
        let request = client.grant_as(target, NAME);
        let at = request.windows(NAME.len()).position(|bytes| bytes == NAME.as_bytes()).unwrap_or_default();
        let around = Rc::new((request[..at].to_vec(), request[at + NAME.len()..].to_vec()));
        let step = u64::try_from(connections).unwrap_or(1);
        let one = |next| Self { around: Rc::clone(&around), next, step, callers, request: Vec::new() };
        (0..step).map(one).collect()
    }
}

impl Source for Turns {
    fn request(&mut self) -> &[u8] {
        let name = format!("worker-{:08}", self.next % self.callers);
        self.next += self.step;
        self.request.clear();
        self.request.extend_from_slice(&self.around.0);
        self.request.extend_from_slice(name.as_bytes());
        self.request.extend_from_slice(&self.around.1);
        &self.request
    }
}
