//! How long from starting the process to its first healthy answer: on an empty folder, and on one in use.

use anyhow::Result;

use super::Setting;
use crate::product::Installation;
use crate::report::{Table, median};

/// Starts of each kind.
const STARTS: usize = 9;

/// First and later starts.
///
/// # Errors
/// When the server cannot be started.
pub fn run(setting: &Setting) -> Result<Table> {
    let mut first = Vec::with_capacity(STARTS);
    let mut later = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let installation = Installation::new(&setting.keyrelay, &setting.scratch)?;
        for times in [&mut first, &mut later] {
            let server = installation.start()?;
            times.push(server.started_in().as_secs_f64() * 1e3);
            server.stop()?;
        }
    }
    Ok(Table {
        title: "Start",
        note: format!(
            "From starting the process to the first 200 of `/healthcheck`; {STARTS} starts of each kind."
        ),
        columns: vec!["data directory", "median", "least", "most"],
        rows: vec![row("empty", &first), row("in use", &later)],
    })
}

fn row(name: &str, times: &[f64]) -> Vec<String> {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    vec![
        name.to_owned(),
        format!("{:.0} ms", median(times)),
        format!("{least:.0} ms"),
        format!("{most:.0} ms"),
    ]
}
