//! The binary `keyrelay`: one file per command.

// `println!` and `eprintln!` panic if their output is closed; `say` does not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod admin;
mod agent;
mod audit;
mod backup;
mod deliver;
mod demo;
mod doctor;
mod exit;
mod export;
mod files;
mod import;
mod installation;
mod keys;
mod live;
mod logging;
mod manual;
mod master_key;
mod migrate;
mod progress;
mod restore;
mod retire;
mod rotate;
mod say;
mod seed;
mod serve;
mod settings;
mod status;
mod stopwatch;
mod tell;
mod undo;
mod watch;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

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
    /// Change a client's secret with nobody locked out: rotate, deliver, watch, retire.
    Rotate(Box<rotate::RotateArgs>),
    /// Show a client's secrets, who uses them, and whether the retiring one can go.
    Status(Box<status::StatusArgs>),
    /// Watch who moves from a client's retiring secret to the current one, until interrupted.
    Watch(Box<watch::WatchArgs>),
    /// End a client's retiring secret, once nobody uses it any more.
    Retire(Box<retire::RetireArgs>),
    /// Rotate an application's own secret on a schedule, beside it.
    Agent(Box<agent::AgentArgs>),
    /// Make a client's retiring secret the current one again.
    Undo(Box<undo::UndoArgs>),
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
    /// Check that the audit records are what the servers wrote.
    Audit(audit::AuditArgs),
    /// Check configuration, files, clock and database, and say what to do.
    Doctor(Box<doctor::DoctorArgs>),
    /// Print a script that completes the commands in a shell.
    Completions(manual::CompletionsArgs),
    /// Print the manual page of keyrelay, or of one of its commands.
    Man(manual::ManArgs),
    /// Fill a database with client applications, for measuring.
    #[command(hide = true)]
    Seed(seed::SeedArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => start(cli),
        Err(shown) => Ok(show(&shown)),
    };
    let code = outcome.unwrap_or_else(|error| {
        say::complain!("{error:#}");
        ExitCode::FAILURE
    });
    match say::failure() {
        None => code,
        Some(failure) => {
            say::complain!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(run(cli.command))
}

/// Prints help, or an error in the arguments.
fn show(shown: &clap::Error) -> ExitCode {
    match shown.print() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(2)),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Serve(args) => serve::serve(*args).await,
        Command::Demo(args) => return demo::demo(args).await,
        Command::Rotate(args) => return rotate::rotate(*args).await,
        Command::Status(args) => return status::status(*args).await,
        Command::Watch(args) => return watch::watch(*args).await,
        Command::Retire(args) => return retire::retire(*args).await,
        Command::Agent(args) => return agent::agent(*args).await,
        Command::Undo(args) => return undo::undo(*args).await,
        Command::MasterKey(args) => master_key::make(&args),
        Command::Migrate(args) => return migrate::migrate(args).await,
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => restore::restore(args).await,
        Command::Export(args) => export::export(args).await,
        Command::Import(args) => import::import(args).await,
        Command::Keys(args) => keys::keys(args).await,
        Command::Audit(args) => return audit::audit(args).await,
        Command::Doctor(args) => return doctor::doctor(*args).await,
        Command::Completions(args) => {
            manual::completions(&args, Cli::command());
            Ok(())
        }
        Command::Man(args) => manual::man(&args, Cli::command()),
        Command::Seed(args) => seed::seed(args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
