//! `keyrelay-chaos`, which `cargo xtask chaos` builds and starts: see the library.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use keyrelay_chaos::clients::Fleet;
use keyrelay_chaos::clock::Stopwatch;
use keyrelay_chaos::dice::Dice;
use keyrelay_chaos::faults::Stage;
use keyrelay_chaos::nodes::{Installation, Node, bootstrap, free_address};
use keyrelay_chaos::postgres::Cluster;
use keyrelay_chaos::proxy::Proxy;
use keyrelay_chaos::report::Report;
use tokio::runtime::Runtime;

/// Those who work at once.
const WORKERS: usize = 16;
/// Client applications that they work on: few, so that they are in each other's way.
const SUBJECTS: usize = 6;
/// Who draws the faults; workers have the numbers before.
const FAULTS: u64 = 1 << 32;
/// The time that everybody works before the first fault.
const CALM: Duration = Duration::from_secs(1);

/// Break several servers and their database, and check what clients were answered.
#[derive(Parser)]
struct Arguments {
    /// How long things go wrong
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// The same in seconds, added to the minutes
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// What goes wrong and what clients do, in its order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=5))]
    nodes: u8,
    /// The keyrelay binary
    #[arg(long)]
    keyrelay: PathBuf,
    /// The folder with the programs of PostgreSQL
    #[arg(long)]
    postgres: PathBuf,
    /// Where logs and data directories are left; emptied first
    #[arg(long)]
    folder: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = Runtime::new()?;
    let folder = empty(&arguments.folder)?;
    println!("seed {}, {} nodes, logs in {}", arguments.seed, arguments.nodes, folder.display());
    let report = run(&arguments, &folder, &runtime)?;
    println!("{report}");
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn empty(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context("emptying the folder")?;
    }
    std::fs::create_dir_all(folder).context("making the folder")?;
    folder.canonicalize().context("finding the folder")
}

fn run(arguments: &Arguments, folder: &Path, runtime: &Runtime) -> Result<Report> {
    let cluster = Cluster::start(&arguments.postgres, runtime.handle().clone())?;
    let installation = Installation {
        binary: arguments.keyrelay.canonicalize().context("finding the keyrelay binary")?,
        folder: folder.to_owned(),
        base_url: format!("http://{}/", free_address()?),
    };
    installation.make_master_key()?;
    let mut nodes = Vec::new();
    for number in 0..usize::from(arguments.nodes) {
        let mut proxies = Vec::new();
        for address in cluster.addresses() {
            proxies.push(runtime.block_on(Proxy::start(address))?);
        }
        let mut node = Node::new(installation.clone(), number, free_address()?, proxies);
        node.start()?;
        nodes.push(node);
    }
    let urls = nodes.iter().map(Node::url).collect();
    let admin = bootstrap(&nodes[0].data_dir())?;
    let fleet = Fleet::new(urls, admin, SUBJECTS, Stopwatch::start());
    let fleet = Arc::new(runtime.block_on(fleet).context("making client applications")?);
    let workers: Vec<_> = (1..=WORKERS)
        .map(|who| {
            let fleet = Arc::clone(&fleet);
            let dice = Dice::new(arguments.seed, u64::try_from(who).unwrap_or(0));
            runtime.spawn(async move { fleet.work(who, dice).await })
        })
        .collect();
    let mut stage = Stage { cluster, nodes, fleet: Arc::clone(&fleet) };
    std::thread::sleep(CALM);
    let time = Duration::from_secs(arguments.minutes * 60 + arguments.seconds);
    let faults = stage.run(time, &mut Dice::new(arguments.seed, FAULTS))?;
    fleet.stop();
    for worker in workers {
        runtime.block_on(worker)??;
    }
    let lost = runtime.block_on(fleet.take_stock())?;
    let ended = stage.nodes.iter_mut().filter_map(|node| (!node.runs()).then(|| node.url())).collect();
    Ok(Report::new(&fleet, faults, lost, ended))
}
