//! `keyrelay undo`: makes a client's retiring secret the current one again.

use std::io::{IsTerminal, Write, stderr, stdin};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use keyrelay_core::id::ClientId;
use keyrelay_core::random::{SystemEntropy, random_uuid};
use serde_json::json;

use crate::admin::{ConnectionArgs, client_id};
use crate::exit::EXIT_CODES;
use crate::rotate::open;
use crate::tell::Tell;

/// Make a client's retiring secret the current one again, and the newer one the retiring one.
///
/// Both keep working throughout. A deadline of the retiring one is gone. No file is changed: whoever has the newer
/// secret goes on with it until it is retired.
///
/// Done twice, it changes them back. To repeat it safely, as after an answer that did not arrive, name the secret that
/// is to be current by --current.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct UndoArgs {
    /// The client application's id
    #[arg(value_parser = client_id)]
    client: ClientId,
    /// The id of the secret that is to be the current one, as `keyrelay status` shows it. If it is, nothing is done
    #[arg(long, value_name = "ID")]
    current: Option<String>,
    /// Do not ask whether it is meant
    #[arg(long, short)]
    yes: bool,
    /// Tell what happens as a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs it.
pub async fn undo(args: UndoArgs) -> anyhow::Result<ExitCode> {
    let server = open(&args.connection)?;
    // Read first: what is undone is what the status is about, or nothing.
    let version = server.version(args.client).await?;
    let status = server.status(args.client, None).await?;
    let tell = Tell::json(args.json);
    if let Some(wanted) = args.current.as_deref() {
        if status.active_id() == Some(wanted) {
            let text = format!("{wanted} is current already; nothing was changed.");
            tell.event("done", &text, json!({ "current": wanted, "undone": false }));
            return Ok(ExitCode::SUCCESS);
        }
        if status.retiring_id().is_some_and(|id| id != wanted) {
            bail!("{wanted} is neither the current nor the retiring secret: keyrelay status shows both");
        }
    }
    let (Some(active), Some(retiring)) = (&status.secret, &status.retiring_secret) else {
        bail!("the client has no retiring secret: there is nothing to undo");
    };
    let retiring = &retiring.slot;
    if !args.yes {
        let question = format!(
            "Secret {}, made {}, becomes the current one again, and {}, made {}, retires.",
            retiring.id, retiring.created, active.id, active.created
        );
        if !is_meant(&question)? {
            bail!("nothing was changed");
        }
    }
    let key = random_uuid(&SystemEntropy).to_string();
    match server.undo(args.client, &version, &key).await {
        Err(error) if error.may_pass() => Err(error).with_context(|| {
            format!(
                "it may have been undone, and once more would change them back: run the command again with --current {}, \
                 which does nothing if it was",
                retiring.id
            )
        })?,
        undone => undone?,
    }
    let text =
        format!("Undone: {} is current again, {} retires, and both grant access.", retiring.id, active.id);
    tell.event("undone", &text, json!({ "current": retiring.id, "retiring": active.id }));
    Ok(ExitCode::SUCCESS)
}

/// Asks whoever sits at the terminal.
fn is_meant(question: &str) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        bail!("nobody can be asked whether it is meant: say --yes");
    }
    write!(stderr(), "{question}\nIs that meant? [y/N] ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
