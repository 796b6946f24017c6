//! How many client credentials grants a second, and how long each takes, next to the floor in turn.
//!
//! Short rounds in alternation, the order changing, so that what else happens on the machine meets both. The share is
//! the median of the shares of the rounds.

use anyhow::{Context, Result};

use super::{Setting, errors, floor_client, load_grants};
use crate::load::Outcome;
use crate::process::Server;
use crate::product::{Credentials, Installation};
use crate::report::{Table, median, ms, per_second, share};

/// Client applications that the load walks through.
const CLIENTS: usize = 64;

/// The rounds of two servers with the same number of connections.
#[derive(Debug, Default)]
pub struct Pair {
    /// All rounds of the product.
    pub product: Outcome,
    /// All rounds of the floor.
    pub floor: Outcome,
    shares: Vec<f64>,
}

impl Pair {
    /// Measures both servers in turn, `setting.rounds` times.
    ///
    /// # Errors
    /// When a load cannot be run.
    pub fn measure(
        setting: &Setting,
        (product, clients): (&Server, &[Credentials]),
        floor: &Server,
        connections: usize,
    ) -> Result<Self> {
        let known = [floor_client()];
        let mut pair = Self::default();
        for round in 0..setting.rounds {
            let of_product = || load_grants(product, clients, connections, setting.duration);
            let of_floor = || load_grants(floor, &known, connections, setting.duration);
            let (product, floor) = if round % 2 == 0 {
                let floor = of_floor()?;
                (of_product()?, floor)
            } else {
                (of_product()?, of_floor()?)
            };
            if floor.good() > 0 {
                pair.shares.push(product.per_second() / floor.per_second());
            }
            pair.product.add(&product);
            pair.floor.add(&floor);
        }
        Ok(pair)
    }

    /// The median of the rounds' shares of the floor.
    #[must_use]
    pub fn share(&self) -> f64 {
        median(&self.shares)
    }
}

/// The product and the floor, at each number of connections.
///
/// # Errors
/// When one of them cannot be started or loaded.
pub fn run(setting: &Setting) -> Result<Table> {
    let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
    let product = installation.start()?;
    let admin = installation.admin(&product)?;
    let clients = (0..CLIENTS)
        .map(|number| admin.create_client(&format!("bench {number}")))
        .collect::<Result<Vec<_>>>()
        .context("creating the client applications")?;
    let (floor, _floor_dir) = setting.start_floor()?;

    let mut table = table(setting, "Grants");
    table.note.push_str(" Product and floor in turn; the share is the median of the rounds' shares.");
    for &connections in &setting.connections {
        let pair = Pair::measure(setting, (&product, &clients), &floor, connections)?;
        table.rows.push(row(connections, "keyrelay", &pair.product, share(pair.share())));
        table.rows.push(row(connections, "floor", &pair.floor, "100 %".to_owned()));
    }
    product.stop()?;
    floor.stop()?;
    Ok(table)
}

/// The floor alone: what this machine and the load generator allow.
///
/// # Errors
/// When the floor cannot be started or loaded.
pub fn run_floor(setting: &Setting) -> Result<Table> {
    let (floor, _floor_dir) = setting.start_floor()?;
    let mut table = table(setting, "Floor");
    for &connections in &setting.connections {
        let mut all = Outcome::default();
        for _ in 0..setting.rounds {
            all.add(&load_grants(&floor, &[floor_client()], connections, setting.duration)?);
        }
        table.rows.push(row(connections, "floor", &all, "100 %".to_owned()));
    }
    let memory = floor.memory()?;
    table.note = format!(
        "{} Memory of the floor after the load: {}.",
        table.note,
        crate::report::megabytes(memory.resident)
    );
    floor.stop()?;
    Ok(table)
}

fn table(setting: &Setting, title: &'static str) -> Table {
    Table {
        title,
        note: format!("Client credentials grants, {} × {} s.", setting.rounds, setting.duration.as_secs()),
        columns: vec!["connections", "server", "grants/s", "of floor", "p50", "p99", "max", "errors"],
        rows: Vec::new(),
    }
}

fn row(connections: usize, server: &str, outcome: &Outcome, share: String) -> Vec<String> {
    vec![
        connections.to_string(),
        server.to_owned(),
        per_second(outcome.per_second()),
        share,
        ms(outcome.latencies.quantile(0.5)),
        ms(outcome.latencies.quantile(0.99)),
        ms(outcome.latencies.max()),
        errors(outcome),
    ]
}
