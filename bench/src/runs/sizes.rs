//! What the number of client applications costs: memory, idle and under load, and speed of grants.
//!
//! The clients are made in bulk by the product's own `seed` command. The load walks through clients spread over all of
//! them, so that it does not stay on one page of the database.

use std::time::Duration;

use anyhow::{Context, Result};

use super::grants::Pair;
use super::{Setting, errors};
use crate::clock;
use crate::product::Installation;
use crate::report::{Table, megabytes, ms, per_second, share};

const CONNECTIONS: usize = 64;
/// How long a started server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Memory and grants at each number of clients.
///
/// # Errors
/// When the clients cannot be made, or a server not be started or loaded.
pub fn run(setting: &Setting) -> Result<Table> {
    let rows = setting
        .clients
        .iter()
        .map(|&clients| row(setting, clients).with_context(|| format!("with {clients} clients")))
        .collect::<Result<Vec<_>>>()?;
    Ok(Table {
        title: "Memory and size",
        note: format!(
            "Resident memory one second after the start, right after the load and at its highest; grants at \
             {CONNECTIONS} connections, {} × {} s, in turn with the floor.",
            setting.rounds,
            setting.duration.as_secs()
        ),
        columns: vec![
            "clients", "on disk", "made in", "start", "idle", "loaded", "peak", "grants/s", "of floor",
            "p50", "p99", "errors",
        ],
        rows,
    })
}

fn row(setting: &Setting, clients: u64) -> Result<Vec<String>> {
    let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
    installation.start()?.stop()?;
    let start = clock::now();
    let samples = installation.seed(clients)?;
    let seeded_in = clock::since(start);

    let product = installation.start()?;
    std::thread::sleep(SETTLE);
    let idle = product.memory()?;
    let (floor, _floor_dir) = setting.start_floor()?;
    let pair = Pair::measure(setting, (&product, &samples), &floor, CONNECTIONS)?;
    let loaded = product.memory()?;
    let cells = vec![
        clients.to_string(),
        megabytes(installation.bytes()?),
        format!("{:.1} s", seeded_in.as_secs_f64()),
        ms(product.started_in()),
        megabytes(idle.resident),
        megabytes(loaded.resident),
        megabytes(loaded.peak),
        per_second(pair.product.per_second()),
        share(pair.share()),
        ms(pair.product.latencies.quantile(0.5)),
        ms(pair.product.latencies.quantile(0.99)),
        errors(&pair.product),
    ];
    product.stop()?;
    floor.stop()?;
    Ok(cells)
}
