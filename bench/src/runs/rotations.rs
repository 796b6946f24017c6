//! How many rotations a second, next to the raw commit rate of the same database file.
//!
//! Every rotation that is answered has been committed to disk, so one connection cannot do better than one commit after
//! another; several may share a commit. The raw rate is taken just before and just after, with the server stopped.

use std::time::Duration;

use anyhow::Result;

use super::{Setting, errors};
use crate::commits;
use crate::load::{self, Latencies, Outcome, Plan};
use crate::product::Installation;
use crate::report::{Table, median, ms, per_second, share};

const CONNECTIONS: [usize; 2] = [1, 16];

#[derive(Default)]
struct Rounds {
    rotations: Outcome,
    shares: Vec<f64>,
}

/// Sequential and concurrent rotations, and raw commits.
///
/// # Errors
/// When the server cannot be started or loaded, or its database file not be measured.
pub fn run(setting: &Setting) -> Result<Table> {
    let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
    installation.start()?.stop()?;
    let database = installation.database()?;

    let mut raw_rates = Vec::new();
    let mut raw_latencies = Latencies::new();
    let mut raw = || -> Result<f64> {
        let commits = commits::run_in_file(&database, setting.duration)?;
        raw_latencies.add(&commits.latencies);
        raw_rates.push(commits.per_second());
        Ok(commits.per_second())
    };
    let mut all: [Rounds; CONNECTIONS.len()] = Default::default();
    let mut before = raw()?;
    for _ in 0..setting.rounds {
        for (connections, rounds) in CONNECTIONS.iter().zip(&mut all) {
            let outcome = rotate(&installation, *connections, setting.duration)?;
            let after = raw()?;
            rounds.shares.push(outcome.per_second() / f64::midpoint(before, after));
            rounds.rotations.add(&outcome);
            before = after;
        }
    }

    let mut rows =
        vec![row("raw commits, one after another", median(&raw_rates), &raw_latencies, "100 %", "0")];
    for (connections, rounds) in CONNECTIONS.iter().zip(&all) {
        let name = match connections {
            1 => "rotations of one client, one after another".to_owned(),
            _ => format!("rotations of {connections} clients at once"),
        };
        let latencies = &rounds.rotations.latencies;
        let share = share(median(&rounds.shares));
        rows.push(row(&name, rounds.rotations.per_second(), latencies, &share, &errors(&rounds.rotations)));
    }
    Ok(Table {
        title: "Rotations",
        note: format!(
            "`$rotate-secret`, each answer's secret used by the next request; {} × {} s. Share: of the raw \
             commits of the same file just before and after, median of the rounds.",
            setting.rounds,
            setting.duration.as_secs()
        ),
        columns: vec!["what", "per second", "of raw commits", "p50", "p99", "max", "errors"],
        rows,
    })
}

fn rotate(installation: &Installation, connections: usize, duration: Duration) -> Result<Outcome> {
    let server = installation.start()?;
    let admin = installation.admin(&server)?;
    let sources = (0..connections)
        .map(|number| Ok(admin.rotations(admin.create_client(&format!("bench {number}"))?)))
        .collect::<Result<Vec<_>>>()?;
    let outcome = load::run(Plan::timed(server.target(), duration), sources)?;
    server.stop()?;
    Ok(outcome)
}

fn row(name: &str, rate: f64, latencies: &Latencies, share: &str, errors: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        per_second(rate),
        share.to_owned(),
        ms(latencies.quantile(0.5)),
        ms(latencies.quantile(0.99)),
        ms(latencies.max()),
        errors.to_owned(),
    ]
}
