//! `keyrelay-bench`: measures the released `keyrelay` binary and prints what it found.
//!
//! Started by `cargo xtask bench`, which builds all three binaries beside each other first.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use keyrelay_bench::pgbench;
use keyrelay_bench::report::{Report, Table};
use keyrelay_bench::runs::{self, Setting};

/// Measure the keyrelay binary beside the floor, on this machine.
#[derive(Parser)]
struct Arguments {
    /// The runs to make; all but `floor`, `timing` and `fairness` when none is named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Run>,
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// Numbers of connections for the grants.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<usize>,
    /// Numbers of client applications in the database for the run over sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000, 1_000_000])]
    clients: Vec<u64>,
    /// Callers, each with a name of its own, for the run over counting.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=5_000_000))]
    callers: u64,
    /// Refused grants of each reason for the run over times.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(20..=100_000))]
    samples: u32,
    /// Refused logins of each reason for the run over times.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    login_samples: u32,
    /// Also write the report to this file, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where the databases are made, on a disk and not in memory; beside this program when not given.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// The binary to measure; the one beside this program when not given.
    #[arg(long)]
    keyrelay: Option<PathBuf>,
    /// Measure on PostgreSQL: the URL of a throw-away server of this machine, without a password. `cargo xtask bench
    /// --database postgres` starts one.
    #[arg(long, requires = "pgbench")]
    postgres: Option<String>,
    /// The program `pgbench` that the rotations on PostgreSQL are compared with.
    #[arg(long)]
    pgbench: Option<PathBuf>,
    /// The floor; the one beside this program when not given.
    #[arg(long)]
    floor: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Run {
    /// Grants a second, beside the floor.
    Grants,
    /// Rotations a second, beside raw commits of the same file.
    Rotations,
    /// Time to the first healthy answer.
    Startup,
    /// Memory and grants with few and many client applications.
    Sizes,
    /// What counting the uses of secrets costs: instructions of a grant, and memory with many callers.
    Counting,
    /// Whether the time of a refusal tells its reason.
    Timing,
    /// What one tenant's load costs another.
    Fairness,
    /// The floor alone.
    Floor,
}

const ALL: [Run; 5] = [Run::Grants, Run::Rotations, Run::Startup, Run::Sizes, Run::Counting];
/// The same of PostgreSQL.
const ALL_ON_POSTGRES: [Run; 2] = [Run::Grants, Run::Rotations];

impl Run {
    fn make(self, setting: &Setting) -> Result<Vec<Table>> {
        if setting.postgres.is_some() {
            let table = match self {
                Self::Grants => runs::postgres::grants(setting),
                Self::Rotations => runs::postgres::rotations(setting),
                Self::Fairness => runs::fairness::run(setting),
                _ => bail!("on PostgreSQL, grants, rotations and fairness are measured"),
            };
            return Ok(vec![table?]);
        }
        let table = match self {
            Self::Grants => runs::grants::run(setting),
            Self::Rotations => runs::rotations::run(setting),
            Self::Startup => runs::startup::run(setting),
            Self::Sizes => runs::sizes::run(setting),
            Self::Counting => return runs::counting::run(setting),
            Self::Timing => return runs::timing::run(setting),
            Self::Fairness => runs::fairness::run(setting),
            Self::Floor => runs::grants::run_floor(setting),
        };
        Ok(vec![table?])
    }

    fn needs_product(self) -> bool {
        self != Self::Floor
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all = if arguments.postgres.is_some() { &ALL_ON_POSTGRES[..] } else { &ALL[..] };
    let chosen = if arguments.only.is_empty() { all.to_vec() } else { arguments.only.clone() };
    let setting = setting(&arguments, &chosen)?;
    let mut report = Report::new();
    println!("{}\n", report.machine);
    for run in chosen {
        for table in run.make(&setting)? {
            println!("{table}");
            report.tables.push(table);
        }
    }
    if let Some(file) = &arguments.markdown {
        std::fs::write(file, report.markdown()).context("writing the Markdown file")?;
    }
    Ok(())
}

fn setting(arguments: &Arguments, chosen: &[Run]) -> Result<Setting> {
    let keyrelay = match &arguments.keyrelay {
        Some(path) => path.clone(),
        None => runs::sibling("keyrelay")?,
    };
    ensure!(
        keyrelay.is_file() || !chosen.iter().any(|run| run.needs_product()),
        "there is no keyrelay binary to measure; build it with --release, or name it with --keyrelay"
    );
    let floor = match &arguments.floor {
        Some(path) => path.clone(),
        None => runs::sibling("keyrelay-floor")?,
    };
    let scratch = match &arguments.scratch {
        Some(path) => path.clone(),
        None => runs::sibling("bench-scratch")?,
    };
    std::fs::create_dir_all(&scratch).context("making the folder for the databases")?;
    let postgres = arguments.postgres.clone().zip(arguments.pgbench.clone());
    let absolute = |path: PathBuf| std::path::absolute(path).context("finding a path");
    Ok(Setting {
        keyrelay: absolute(keyrelay)?,
        floor: absolute(floor)?,
        scratch: absolute(scratch)?,
        rounds: usize::from(arguments.rounds),
        duration: Duration::from_secs(u64::from(arguments.seconds)),
        connections: arguments.connections.clone(),
        clients: arguments.clients.clone(),
        callers: arguments.callers,
        samples: usize::try_from(arguments.samples)?,
        login_samples: usize::try_from(arguments.login_samples)?,
        postgres: postgres.map(|(url, pgbench)| pgbench::Server { url, pgbench }),
    })
}
