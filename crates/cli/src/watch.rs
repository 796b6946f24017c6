//! `keyrelay watch`: who uses which secret of a client, live.

use std::process::ExitCode;

use clap::Args;
use keyrelay_core::id::ClientId;

use crate::admin::{ConnectionArgs, Period, Server, client_id};
use crate::exit::EXIT_CODES;
use crate::live::Live;
use crate::rotate::{ASK_INTERVAL, open};
use crate::say;
use crate::serve::stop_signal;
use crate::tell::Tell;

/// Watch who moves from a client's retiring secret to the current one, until interrupted.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct WatchArgs {
    /// The client application's id
    #[arg(value_parser = client_id)]
    client: ClientId,
    /// How long callers must have stayed away that were not seen to move; 24h if not given
    #[arg(long, value_name = "DURATION")]
    unused_for: Option<Period>,
    /// Tell of changes as a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs it.
pub async fn watch(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let interrupted = stop_signal()?;
    let server = open(&args.connection)?;
    tokio::select! {
        failed = look_on(&args, &server) => failed,
        () = interrupted => Ok(ExitCode::SUCCESS),
    }
}

async fn look_on(args: &WatchArgs, server: &Server) -> anyhow::Result<ExitCode> {
    let mut live = Live::start(Tell::json(args.json));
    let mut tick = tokio::time::interval(ASK_INTERVAL);
    loop {
        tick.tick().await;
        match server.status(args.client, args.unused_for.map(|period| period.0)).await {
            Ok(status) => live.show(&status),
            Err(error) if error.may_pass() => live.show_problem(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
        // The reader of the output has gone.
        if say::is_over() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}
