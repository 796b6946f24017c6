//! The product on PostgreSQL: grants beside the least program that sends one query for each request, and beside the
//! floor, which keeps everything in memory; rotations beside pgbench's commits of one row.
//!
//! All in turn, on one server that writes to the disk. The shares are medians of the rounds.

use anyhow::{Context, Result};

use super::{Setting, errors, floor_client, load_grants};
use crate::floor::CLIENT_SECRET;
use crate::load::{self, Outcome, Plan};
use crate::pgbench;
use crate::product::{Credentials, Installation};
use crate::report::{Table, median, ms, per_second, share};

/// Client applications that the load walks through.
const CLIENTS: usize = 64;
const ROTATING: [usize; 2] = [1, 16];

/// What was measured of one program.
#[derive(Default)]
struct Measured {
    all: Outcome,
    rates: Vec<f64>,
}

impl Measured {
    fn add(&mut self, outcome: &Outcome) {
        self.rates.push(outcome.per_second());
        self.all.add(outcome);
    }

    /// The median of what this was of another, round by round.
    fn share_of(&self, other: &[f64]) -> f64 {
        let shares = self.rates.iter().zip(other).filter(|(_, other)| **other > 0.0);
        median(&shares.map(|(rate, other)| rate / other).collect::<Vec<_>>())
    }
}

fn server(setting: &Setting) -> Result<&pgbench::Server> {
    setting
        .postgres
        .as_ref()
        .context("this run needs a PostgreSQL server: `cargo xtask bench --database postgres`")
}

/// The product, one query for each request, and the floor, at each number of connections.
///
/// # Errors
/// When one of them cannot be started or loaded.
pub fn grants(setting: &Setting) -> Result<Table> {
    let url = server(setting)?.database("grants")?;
    let installation = Installation::on_postgres(&setting.keyrelay, &setting.scratch, url.clone())?;
    let product = installation.start()?;
    let admin = installation.admin(&product)?;
    let clients = (0..CLIENTS)
        .map(|number| admin.create_client(&format!("bench {number}")))
        .collect::<Result<Vec<_>>>()
        .context("creating the client applications")?;
    let (one_query, _one_query_dir) = setting.start_floor_on(Some(&url))?;
    let (floor, _floor_dir) = setting.start_floor()?;
    let with_one_secret: Vec<Credentials> = clients.iter().map(|client| client.with(CLIENT_SECRET)).collect();
    let floor_clients = [floor_client()];
    let programs = [
        ("keyrelay", &product, &clients[..]),
        ("one query each", &one_query, &with_one_secret[..]),
        ("floor", &floor, &floor_clients[..]),
    ];

    let mut rows = Vec::new();
    for &connections in &setting.connections {
        let mut measured: [Measured; 3] = Default::default();
        for round in 0..setting.rounds {
            for turn in 0..programs.len() {
                // Another begins each round.
                let n = (round + turn) % programs.len();
                let (_, server, clients) = programs[n];
                measured[n].add(&load_grants(server, clients, connections, setting.duration)?);
            }
        }
        let [_, one_query, floor] = &measured;
        for ((name, ..), program) in programs.iter().zip(&measured) {
            let latencies = &program.all.latencies;
            rows.push(vec![
                connections.to_string(),
                (*name).to_owned(),
                per_second(program.all.per_second()),
                format!("{:.1} ×", program.share_of(&one_query.rates)),
                share(program.share_of(&floor.rates)),
                ms(latencies.quantile(0.5)),
                ms(latencies.quantile(0.99)),
                errors(&program.all),
            ]);
        }
    }
    for server in [product, one_query, floor] {
        server.stop()?;
    }
    Ok(Table {
        title: "Grants on PostgreSQL",
        note: format!(
            "Client credentials grants, {} × {} s, the three in turn; the server of the database runs on the same \
             cores. Shares: medians of the rounds.",
            setting.rounds,
            setting.duration.as_secs()
        ),
        columns: vec![
            "connections",
            "server",
            "grants/s",
            "of one query each",
            "of floor",
            "p50",
            "p99",
            "errors",
        ],
        rows,
    })
}

/// Rotations over one and several connections, and pgbench with as many.
///
/// # Errors
/// When the server cannot be started or loaded, or pgbench fails.
pub fn rotations(setting: &Setting) -> Result<Table> {
    let postgres = server(setting)?;
    postgres.prepare()?;
    let url = postgres.database("rotations")?;
    let installation = Installation::on_postgres(&setting.keyrelay, &setting.scratch, url)?;
    installation.start()?.stop()?;
    let mut rows = Vec::new();
    for connections in ROTATING {
        let (mut rotations, mut raw) = (Measured::default(), Vec::new());
        let commits = || postgres.commits(&setting.scratch, connections, setting.duration);
        let mut before = commits()?;
        for _ in 0..setting.rounds {
            rotations.add(&rotate(&installation, connections, setting)?);
            let after = commits()?;
            raw.push(f64::midpoint(before, after));
            before = after;
        }
        let latencies = &rotations.all.latencies;
        rows.push(vec![
            connections.to_string(),
            per_second(rotations.all.per_second()),
            per_second(median(&raw)),
            share(rotations.share_of(&raw)),
            ms(latencies.quantile(0.5)),
            ms(latencies.quantile(0.99)),
            errors(&rotations.all),
        ]);
    }
    Ok(Table {
        title: "Rotations on PostgreSQL",
        note: format!(
            "`$rotate-secret`, each connection with a client of its own and each answer's secret used by the next \
             request; {} × {} s. Share: of the transactions of one row that pgbench commits over as many connections \
             just before and after, median of the rounds.",
            setting.rounds,
            setting.duration.as_secs()
        ),
        columns: vec!["connections", "rotations/s", "pgbench/s", "of pgbench", "p50", "p99", "errors"],
        rows,
    })
}

fn rotate(installation: &Installation, connections: usize, setting: &Setting) -> Result<Outcome> {
    let server = installation.start()?;
    let admin = installation.admin(&server)?;
    let sources = (0..connections)
        .map(|number| Ok(admin.rotations(admin.create_client(&format!("bench {number}"))?)))
        .collect::<Result<Vec<_>>>()?;
    let outcome = load::run(Plan::timed(server.target(), setting.duration), sources)?;
    server.stop()?;
    Ok(outcome)
}
