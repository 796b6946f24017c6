//! `keyrelay rotate`: a client's secret is changed, from the first step to the last, with nobody locked out.
//!
//! Whoever kills it, and whenever, runs the same command again. Where it stands is what the server says, and
//! a small [`Record`] on the disk that has ids of secrets in it and no value: written before the first change,
//! forgotten after the last. Every step can be taken twice.

mod next;
mod record;
mod run;
mod shown_once;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args};
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::EXEC_TIMEOUT_DEFAULT;
use serde_json::json;

use crate::admin::{ConnectionArgs, Period, Server, client_id};
use crate::deliver::{Target, check_all};
use crate::exit::EXIT_CODES;
use crate::say::complain;
use crate::serve::stop_signal;
use crate::tell::Tell;

pub use next::OnRetiring;
pub use record::RecordFile;
pub use run::Run;
pub use shown_once::held;
pub use wait::ASK_INTERVAL;

/// Change a client's secret with nobody locked out: rotate, deliver, watch who is still on the old one, retire.
///
/// Killed at any point, it is gone on with by the same command: no second secret is made, every target gets
/// the one that was, and the old one works until it is retired.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[command(after_help = EXIT_CODES, group(ArgGroup::new("targets").args(["to", "exec"]).required(true).multiple(true)))]
pub struct RotateArgs {
    /// The client application's id
    #[arg(value_parser = client_id)]
    client: ClientId,
    /// Where the new secret goes: `file:PATH`, or `dotenv:PATH#KEY` for one key of a file. May be repeated.
    ///
    /// A file is replaced as a whole, so that readers find the old secret or the new one. Mode and owner stay;
    /// a new file has mode 0600.
    #[arg(long, value_name = "TARGET")]
    to: Vec<Target>,
    /// A command that takes the new secret on standard input, after the files. May be repeated.
    ///
    /// It is run by /bin/sh and must end with exit code 0. It may be run again after a failure, so it must
    /// bear that.
    #[arg(long, value_name = "COMMAND")]
    exec: Vec<String>,
    /// How long a command may take; after that, it and all processes that it started are killed [default: 15m]
    #[arg(long, value_name = "DURATION")]
    exec_timeout: Option<Period>,
    /// Wait until nobody uses the old secret: callers that were not seen to move must have stayed away this long
    ///
    /// Take more than the longest time between two token requests of one caller: whoever has a token that
    /// lives an hour may come once an hour.
    #[arg(long, value_name = "DURATION", visible_alias = "unused-for")]
    wait_unused: Option<Period>,
    /// Retire the old secret once the evidence allows. Without --wait-unused, it is looked at once.
    #[arg(long)]
    retire: bool,
    /// The longest to wait; without it, as long as it takes
    #[arg(long, value_name = "DURATION", requires = "wait_unused")]
    timeout: Option<Period>,
    /// If the client has a retiring secret already: go on with the rotation that it is of
    ///
    /// The current secret is then read from the server. Where the client's project shows secrets once, only a rotation
    /// that was begun here can be gone on with, and that needs no flag. Where others have ended what an earlier run
    /// began, nothing more is done; without the flag, the secret is rotated anew.
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// If the client has a retiring secret already: rotate all the same, which ends that one at once
    #[arg(long)]
    force: bool,
    /// The file that says where the rotation stands, without any secret [default: in the state directory of
    /// systemd or of the user]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Tell what happens as a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs it.
pub async fn rotate(args: RotateArgs) -> anyhow::Result<ExitCode> {
    let interrupted = stop_signal()?;
    let tell = Tell::json(args.json);
    // Wherever it is: what was begun is written down.
    let ended = tokio::select! {
        ended = async { prepare(args).await?.go().await } => ended,
        () = interrupted => Err(anyhow!("interrupted: run the same command again to go on")),
    };
    if let (Err(error), Tell::Json) = (&ended, tell) {
        tell.event("failed", "", json!({ "error": format!("{error:#}") }));
    }
    Ok(ended?.into())
}

async fn prepare(args: RotateArgs) -> anyhow::Result<Run> {
    let server = open(&args.connection)?;
    // First: another run may be about to write what is tried here.
    let file = RecordFile::open(args.state.as_deref(), args.client)
        .context("the state of the rotation cannot be kept")?;
    check_all(&args.to).await?;
    let on_retiring = match (args.resume, args.force) {
        (true, _) => OnRetiring::Resume,
        (_, true) => OnRetiring::Overwrite,
        _ => OnRetiring::Refuse,
    };
    Ok(Run {
        server,
        client: args.client,
        files: args.to,
        commands: args.exec,
        exec_timeout: args.exec_timeout.map_or(EXEC_TIMEOUT_DEFAULT, |period| period.0),
        unused_for: args.wait_unused.map(|period| period.0),
        retire: args.retire,
        once: args.wait_unused.is_none(),
        retire_after: None,
        admin: Some(args.connection),
        timeout: args.timeout.map(|period| period.0),
        on_retiring,
        anew: true,
        file: Arc::new(file),
        tell: Tell::json(args.json),
    })
}

/// Opens the connection, and says what is wrong with it that can be lived with.
pub fn open(connection: &ConnectionArgs) -> anyhow::Result<Server> {
    let server = connection.open()?;
    warn_if_in_clear(&server);
    Ok(server)
}

/// Warns if the secrets are readable on the network.
pub fn warn_if_in_clear(server: &Server) {
    if server.is_in_clear() {
        complain!("{} is not https: the secrets are readable on the network", server.url());
    }
}
