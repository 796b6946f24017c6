//! `keyrelay-attack`, which `cargo xtask attack` builds and starts: see the library.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result, bail};
use clap::Parser;
use keyrelay_attack::clock::Stopwatch;
use keyrelay_attack::report::HEADER;
use keyrelay_attack::rows::{self, Row};
use keyrelay_attack::run::{Bounds, run};
use keyrelay_attack::scene::{Setting, check_postgres};
use keyrelay_bench::pgbench;
use tokio::runtime::Runtime;

/// Attack the keyrelay binary as one tenant, and check what another one gets meanwhile.
#[derive(Parser)]
struct Arguments {
    /// The rows to run; all of them when none is named
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,
    /// Attack with less, in about a minute; leaves out rows that take long
    #[arg(long)]
    short: bool,
    /// The most resident memory, in MiB, that the server may have after the rows about memory
    #[arg(long, default_value_t = 200)]
    memory_mib: u64,
    /// The keyrelay binary
    #[arg(long)]
    keyrelay: PathBuf,
    /// Where data directories are made
    #[arg(long)]
    scratch: PathBuf,
    /// Attack on PostgreSQL: the URL of a throw-away server of this machine, without a password
    #[arg(long)]
    postgres: Option<String>,
    /// Print the rows with their claims, and exit
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.list {
        for row in rows::all() {
            println!("{:<22} {}", row.name, row.claim);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &arguments.only {
        if !rows::all().any(|row| row.name == name) {
            bail!("unknown row `{name}`; `--list` prints all");
        }
    }
    let runtime = Runtime::new()?;
    std::fs::create_dir_all(&arguments.scratch).context("making the folder for the databases")?;
    let postgres = arguments.postgres.map(|url| check_postgres(&url).map(|()| url)).transpose()?;
    let setting = Setting {
        keyrelay: arguments.keyrelay.canonicalize().context("finding the keyrelay binary")?,
        scratch: arguments.scratch.canonicalize()?,
        postgres: postgres.map(|url| pgbench::Server { url, pgbench: PathBuf::new() }),
        short: arguments.short,
        handle: runtime.handle().clone(),
        databases: AtomicU32::new(0),
    };
    let place = if setting.postgres.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("{}attack on {place}\n{HEADER}", if setting.short { "short " } else { "" });
    let bounds = Bounds { memory_max: arguments.memory_mib * 1024 * 1024 };
    let chosen = |row: &Row| arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name);
    let watch = Stopwatch::start();
    let holds = run(&setting, bounds, chosen, &mut |line| println!("{line}"))?;
    println!("in {:.0} s", watch.elapsed().as_secs_f64());
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
