//! `keyrelay-floor`: the least program that does the work of a grant, and the raw commit rate of SQLite.
//!
//! What the product is compared with, as a process of its own so that it is measured exactly as the product is.
#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "SQLite is a name, not code")]

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use axum::serve::ListenerExt;
use clap::{Args, Parser, Subcommand};
use keyrelay_bench::http::Target;
use keyrelay_bench::one_query::OneQuery;
use keyrelay_bench::{commits, floor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The floor that Keyrelay's speed is compared with.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; only on the loopback interface.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Read the client of each request from this PostgreSQL database, by a query of its own. A throw-away database
    /// of this machine, without a password.
    #[arg(long)]
    database: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure single-row commits per second of SQLite (WAL, synchronous=FULL).
    Commits(CommitsArguments),
}

#[derive(Args)]
struct CommitsArguments {
    /// Measure in a new file in this folder.
    #[arg(long, required_unless_present = "file", conflicts_with = "file")]
    dir: Option<PathBuf>,
    /// Measure inside this existing database, in a table that is dropped afterwards.
    #[arg(long)]
    file: Option<PathBuf>,
    /// For how long, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Commits(commits)) => measure_commits(&commits),
        None => serve(arguments.listen, arguments.database),
    }
}

fn measure_commits(arguments: &CommitsArguments) -> Result<()> {
    let duration = Duration::from_secs(arguments.seconds);
    let commits = match (&arguments.file, &arguments.dir) {
        (Some(file), _) => commits::run_in_file(file, duration)?,
        (None, Some(dir)) => commits::run_in_dir(dir, duration)?,
        (None, None) => bail!("either --dir or --file is needed"),
    };
    println!(
        "{:.0} commits/s, p50 {:?}, p99 {:?}, max {:?}",
        commits.per_second(),
        commits.latencies.quantile(0.5),
        commits.latencies.quantile(0.99),
        commits.latencies.max(),
    );
    Ok(())
}

#[tokio::main]
async fn serve(listen: SocketAddr, database: Option<String>) -> Result<()> {
    Target::new(listen)?;
    let database = match database {
        Some(url) => Some(OneQuery::connect(&url).await?),
        None => None,
    };
    let router = floor::router(database)?;
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("floor listening on http://{}/", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // A connection that is gone already fails here, and again, visibly, when it is read.
        let _ = stream.set_nodelay(true);
    });
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        _ = terminated.recv() => {}
        _ = stdin_closed() => {}
    }
    Ok(())
}

/// Resolves when standard input ends: whoever started this program is gone.
fn stdin_closed() -> oneshot::Receiver<()> {
    let (closed, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
        let _ = closed.send(());
    });
    receiver
}
