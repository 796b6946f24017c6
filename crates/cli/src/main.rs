//! The binary `keyrelay`: one file per command.

mod backup;
mod demo;
mod doctor;
mod export;
mod import;
mod installation;
mod keys;
mod logging;
mod master_key;
mod migrate;
mod progress;
mod restore;
mod say;
mod seed;
mod serve;
mod settings;
mod stopwatch;

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
    /// Bring the schema of the database up to date, and say from which version to which.
    Migrate(migrate::MigrateArgs),
    /// Copy the SQLite database to a file, while its server runs.
    Backup(backup::BackupArgs),
    /// Put a backup where no database is.
    Restore(restore::RestoreArgs),
    /// Write a whole installation to a file, to move it to another database.
    Export(export::ExportArgs),
    /// Fill an empty database from an export.
    Import(import::ImportArgs),
    /// Say which master keys are needed, and move to a new one.
    Keys(keys::KeysArgs),
    /// Check configuration, files, clock and database, and say what to do.
    Doctor(Box<doctor::DoctorArgs>),
    /// Fill a database with client applications, for measuring.
    #[command(hide = true)]
    Seed(seed::SeedArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Err(error) => Err(anyhow::Error::new(error).context("the runtime could not be started")),
        Ok(runtime) => runtime.block_on(run(cli.command)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("keyrelay: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Serve(args) => serve::serve(*args).await,
        Command::Demo(args) => return demo::demo(args).await,
        Command::MasterKey(args) => master_key::make(&args),
        Command::Migrate(args) => return migrate::migrate(args).await,
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => restore::restore(args).await,
        Command::Export(args) => export::export(args).await,
        Command::Import(args) => import::import(args).await,
        Command::Keys(args) => keys::keys(args).await,
        Command::Doctor(args) => return doctor::doctor(*args).await,
        Command::Seed(args) => seed::seed(args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
