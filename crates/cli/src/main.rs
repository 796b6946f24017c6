//! The binary `keyrelay`: one file per command.

mod demo;
mod installation;
mod logging;
mod master_key;
mod seed;
mod serve;
mod settings;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps the client applications of a FHIR API, lets them in, and rotates their secrets with no one
/// locked out.
#[derive(Debug, Parser)]
#[command(name = "keyrelay", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server. Works with nothing configured.
    Serve(Box<serve::ServeArgs>),
    /// Watch a fleet of API clients keep working while their secret is rotated and retired.
    Demo(demo::DemoArgs),
    /// Make a master key file, for several nodes on one PostgreSQL database.
    MasterKey(master_key::MasterKeyArgs),
    /// Fill a database with client applications, for measuring.
    #[command(hide = true)]
    Seed(seed::SeedArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match (runtime, cli.command) {
        (Err(error), _) => Err(anyhow::Error::new(error).context("the runtime could not be started")),
        (Ok(runtime), Command::Serve(args)) => {
            runtime.block_on(serve::serve(*args)).map(|()| ExitCode::SUCCESS)
        }
        (Ok(runtime), Command::Demo(args)) => runtime.block_on(demo::demo(args)),
        (Ok(_), Command::MasterKey(args)) => master_key::make(&args).map(|()| ExitCode::SUCCESS),
        (Ok(runtime), Command::Seed(args)) => runtime.block_on(seed::seed(args)).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("keyrelay: {error:#}");
        ExitCode::FAILURE
    })
}
