//! What one tenant's load costs another: grants and rotations of tenant B, alone and during the most expensive
//! requests
//! of tenant A. One attack after another, each with its own installation. Aim: no 5xx for B, and a p99 of at most five
//! times the p99 alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Setting;
use crate::http::{self, Target};
use crate::load::{self, Cycle, Outcome, Plan, Source};
use crate::process::Server;
use crate::product::{Admin, Credentials, Installation, Rotations};
use crate::report::{Table, ms};

/// Connections of B that ask for tokens, and those that rotate.
const GRANTING: usize = 4;
const ROTATING: usize = 1;
/// Connections of A.
const ATTACKING: usize = 8;
/// Client applications of other projects, and of the projects that A reads.
const OTHERS: u64 = 10_000;
const LARGE: u64 = 300;
const TAGGED: u64 = 300;
/// How long A works before B is measured, and how long after.
const AROUND: Duration = Duration::from_millis(500);

/// What A does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    LoginJunk,
    Searches,
    ConditionalCreates,
    Rules,
    LargePages,
    Rotations,
    Events,
}

const ALL: [Attack; 7] = [
    Attack::LoginJunk,
    Attack::Searches,
    Attack::ConditionalCreates,
    Attack::Rules,
    Attack::LargePages,
    Attack::Rotations,
    Attack::Events,
];

/// What A sends on one connection.
enum Sent {
    Again(Cycle),
    Rotations(Box<Rotations>),
}

impl Source for Sent {
    fn request(&mut self) -> &[u8] {
        match self {
            Self::Again(cycle) => cycle.request(),
            Self::Rotations(rotations) => rotations.request(),
        }
    }

    fn answered(&mut self, status: u16, body: &[u8]) {
        match self {
            Self::Again(cycle) => cycle.answered(status, body),
            Self::Rotations(rotations) => rotations.answered(status, body),
        }
    }
}

/// What B measured.
#[derive(Default)]
struct Measured {
    grants: Outcome,
    rotations: Outcome,
}

impl Attack {
    const fn name(self) -> &'static str {
        match self {
            Self::LoginJunk => "logins with a megabyte of junk",
            Self::Searches => "searches by 64 filters",
            Self::ConditionalCreates => "conditional creates by 30 filters",
            Self::Rules => "searches under 100 rules",
            Self::LargePages => "pages of large resources",
            Self::Rotations => "rotations",
            Self::Events => "rotations, with 20 streams of events",
        }
    }

    /// The project that the attack uses, filled while the server is stopped.
    fn seed(self, installation: &Installation) -> Result<Option<String>> {
        let flags = |name: &str, value: u32| [name.to_owned(), value.to_string()];
        let seeded = match self {
            Self::LargePages => installation.seed_project(LARGE, &flags("--description-bytes", 60_000))?,
            Self::Rules => installation.seed_project(TAGGED, &flags("--tags", 480))?,
            Self::Searches | Self::ConditionalCreates => installation.seed_project(OTHERS, &[])?,
            Self::LoginJunk | Self::Rotations | Self::Events => return Ok(None),
        };
        Ok(Some(seeded.project_id))
    }

    fn sources(self, supers: &Admin, a: &Admin, target: Target, seeded: Option<&str>) -> Result<Vec<Sent>> {
        let again = |request: Vec<u8>| {
            Cycle::spread(vec![request], ATTACKING).into_iter().map(Sent::Again).collect::<Vec<_>>()
        };
        let clients = "/fhir/R4/ClientApplication";
        let filters = |count: usize| vec!["name:contains=e"; count].join("&");
        Ok(match self {
            Self::LoginJunk => {
                let junk = format!(
                    "{{\"email\":\"a@example.test\",\"password\":\"x\",\"junk\":[0{}]}}",
                    ",0".repeat(500_000)
                );
                let headers = [("content-type", "application/json")];
                again(http::prepared(target, "POST", "/auth/login", &headers, junk.as_bytes()))
            }
            Self::Searches => again(a.prepared("GET", &format!("{clients}?{}", filters(64)), &[], b"")),
            Self::ConditionalCreates => {
                let condition = format!("{}&name:contains=no-client-is-called-so", filters(30));
                let body = json!({ "resourceType": "ClientApplication", "name": "Conditional" }).to_string();
                again(a.prepared("POST", clients, &[("if-none-exist", &condition)], body.as_bytes()))
            }
            Self::Rules => {
                let rule = |n: u32| json!({ "resourceType": "ClientApplication", "criteria": format!("ClientApplication?_tag=urn:seed|none{n}") });
                let rules: Value = (0..100).map(rule).collect::<Vec<_>>().into();
                let member = supers.member(seeded.context("a project")?, &rules)?;
                again(member.prepared("GET", &format!("{clients}?_count=1000"), &[], b""))
            }
            Self::LargePages => {
                let rules = json!([{ "resourceType": "ClientApplication" }]);
                let member = supers.member(seeded.context("a project")?, &rules)?;
                again(member.prepared("GET", &format!("{clients}?_count=1000&_elements=name"), &[], b""))
            }
            Self::Rotations | Self::Events => (0..ATTACKING)
                .map(|n| {
                    Ok(Sent::Rotations(Box::new(a.rotations(a.create_client(&format!("rotated {n}"))?))))
                })
                .collect::<Result<_>>()?,
        })
    }

    /// How many listen to A's events.
    const fn streams(self) -> usize {
        if matches!(self, Self::Events) { 20 } else { 0 }
    }
}

/// One row for B alone and one under each attack.
///
/// # Errors
/// When the server cannot be started, filled or loaded.
pub fn run(setting: &Setting) -> Result<Table> {
    let mut rows = Vec::new();
    for attack in ALL {
        let (alone, under, attacked) = measure(setting, attack).with_context(|| attack.name().to_owned())?;
        rows.push(row(&format!("alone, before: {}", attack.name()), &alone, None, ""));
        rows.push(row(attack.name(), &under, Some(&alone), &attacked));
    }
    Ok(Table {
        title: "Fairness",
        note: format!(
            "Tenant B: {GRANTING} connections that get tokens and {ROTATING} that rotates; alone, then while tenant A sends on \
             {ATTACKING} connections; {} × {} s, in turn. 5xx: also connections that ended. ×: of the p99 alone.",
            setting.rounds,
            setting.duration.as_secs()
        ),
        columns: vec![
            "while tenant A sends",
            "grants p50",
            "p99",
            "×",
            "5xx",
            "rotations p50",
            "p99",
            "×",
            "5xx",
            "A was answered",
        ],
        rows,
    })
}

fn measure(setting: &Setting, attack: Attack) -> Result<(Measured, Measured, String)> {
    let installation = match &setting.postgres {
        None => Installation::new(&setting.keyrelay, &setting.scratch)?,
        Some(server) => {
            let name = format!("fairness_{}", attack as u8);
            Installation::on_postgres(&setting.keyrelay, &setting.scratch, server.database(&name)?)?
        }
    };
    installation.start()?.stop()?;
    let seeded = attack.seed(&installation)?;
    let server = installation.start()?;
    let supers = installation.admin(&server)?;
    let (a, b) = (supers.tenant("A")?, supers.tenant("B")?);
    let granting =
        (0..GRANTING).map(|n| b.create_client(&format!("worker {n}"))).collect::<Result<Vec<_>>>()?;
    let (mut alone, mut under, mut attacked) = (Measured::default(), Measured::default(), Outcome::default());
    for _ in 0..setting.rounds {
        alone.add(&work(&server, &b, &granting, setting.duration)?);
        let sources = attack.sources(&supers, &a, server.target(), seeded.as_deref())?;
        let ended = AtomicBool::new(false);
        let (worked, answers) = std::thread::scope(|scope| {
            let streams = (0..attack.streams()).map(|_| scope.spawn(|| listen(&a, server.target(), &ended)));
            let streams: Vec<_> = streams.collect();
            let plan = Plan::timed(server.target(), setting.duration + 2 * AROUND);
            let attacking = scope.spawn(move || load::run(plan, sources));
            std::thread::sleep(AROUND);
            let worked = work(&server, &b, &granting, setting.duration);
            let answers = attacking.join().map_err(|_| anyhow::anyhow!("the attack ended early"));
            ended.store(true, Ordering::SeqCst);
            drop(streams);
            (worked, answers)
        });
        under.add(&worked?);
        // Refusals of A do not matter, unless no attack remains.
        attacked.add(&answers?.unwrap_or_default());
    }
    server.stop()?;
    let parts: Vec<String> =
        attacked.by_status.iter().map(|(status, count)| format!("{count} × {status}")).collect();
    Ok((alone, under, parts.join(", ")))
}

/// Reads a stream of events until it ends.
fn listen(a: &Admin, target: Target, ended: &AtomicBool) -> Option<()> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(target.address()).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
    let path = format!("/admin/projects/{}/events", a.project_id());
    stream.write_all(&a.prepared("GET", &path, &[], b"")).ok()?;
    let mut chunk = [0; 16 * 1024];
    while !ended.load(Ordering::SeqCst) {
        // A time without events is not an end.
        if let Ok(0) = stream.read(&mut chunk) {
            return None;
        }
    }
    Some(())
}

/// B at work: tokens and rotations beside each other.
fn work(server: &Server, b: &Admin, granting: &[Credentials], duration: Duration) -> Result<Measured> {
    let target = server.target();
    let requests = granting.iter().map(|client| client.grant(target)).collect();
    let rotating = (0..ROTATING)
        .map(|n| Ok(b.rotations(b.create_client(&format!("rotated {n}"))?)))
        .collect::<Result<Vec<_>>>()?;
    let plan = Plan::timed(target, duration);
    std::thread::scope(|scope| {
        let grants = scope.spawn(|| load::run(plan, Cycle::spread(requests, GRANTING)));
        let rotations = load::run(plan, rotating)?;
        let grants = grants.join().map_err(|_| anyhow::anyhow!("the grants ended early"))??;
        Ok(Measured { grants, rotations })
    })
}

impl Measured {
    fn add(&mut self, other: &Self) {
        self.grants.add(&other.grants);
        self.rotations.add(&other.rotations);
    }
}

fn faults(outcome: &Outcome) -> u64 {
    outcome.by_status.range(500..).map(|(_, count)| count).sum::<u64>() + outcome.broken
}

fn row(name: &str, measured: &Measured, alone: Option<&Measured>, attacked: &str) -> Vec<String> {
    let mut cells = vec![name.to_owned()];
    let part = |outcome: &Outcome, alone: Option<&Outcome>| {
        let p99 = outcome.latencies.quantile(0.99);
        let times = alone.map_or("–".to_owned(), |alone| {
            format!("{:.1}", p99.as_secs_f64() / alone.latencies.quantile(0.99).as_secs_f64().max(1e-9))
        });
        [ms(outcome.latencies.quantile(0.5)), ms(p99), times, faults(outcome).to_string()]
    };
    cells.extend(part(&measured.grants, alone.map(|alone| &alone.grants)));
    cells.extend(part(&measured.rotations, alone.map(|alone| &alone.rotations)));
    cells.push(attacked.to_owned());
    cells
}
