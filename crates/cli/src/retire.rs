//! `keyrelay retire`: ends a retiring secret, if the evidence allows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::EVIDENCE_UNUSED_FOR_DEFAULT;
use keyrelay_core::secret::PlainSecret;
use serde_json::json;

use crate::admin::{ConnectionArgs, Period, Retirement, client_id, read_secret};
use crate::exit::{EXIT_CODES, Ending};
use crate::rotate::open;
use crate::tell::Tell;

/// End a client's retiring secret, once nobody uses it any more.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct RetireArgs {
    /// The client application's id
    #[arg(value_parser = client_id)]
    client: ClientId,
    /// How long callers must have stayed away that were not seen to move; 24h if not given
    #[arg(long, value_name = "DURATION")]
    unused_for: Option<Period>,
    /// Retire it whoever uses it: they are locked out at once
    #[arg(long)]
    force: bool,
    /// The file with the retiring secret, where the client's project shows secrets once
    #[arg(long, value_name = "FILE")]
    retiring_file: Option<PathBuf>,
    /// Tell what happens as a JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs it.
pub async fn retire(args: RetireArgs) -> anyhow::Result<ExitCode> {
    let server = open(&args.connection)?;
    let tell = Tell::json(args.json);
    let status = server.status(args.client, args.unused_for.map(|period| period.0)).await?;
    // The server looks once more, in the moment in which the secret ends.
    let unused_for = args.unused_for.map_or(EVIDENCE_UNUSED_FOR_DEFAULT, |period| period.0);
    let only_if_unused = (!args.force).then(|| status.unused_until_now(unused_for));
    let Some(retiring) = status.retiring_secret else {
        tell.event("done", "There is no retiring secret.", json!({ "retired": false }));
        return Ok(ExitCode::SUCCESS);
    };
    let reason = retiring.reason;
    if !retiring.safe_to_retire && !args.force {
        return Ok(still_in_use(tell, &reason));
    }
    let secret = match &args.retiring_file {
        Some(file) => PlainSecret::presented(read_secret(file)?).context("the retiring secret")?,
        None => server.secrets(args.client).await?.retiring.context(
            "the client's project shows secrets once: name the file with the retiring secret by --retiring-file",
        )?,
    };
    args.connection.check_not_own(args.client, &secret)?;
    if let Retirement::StillInUse(reason) = server.retire(args.client, &secret, only_if_unused).await? {
        return Ok(still_in_use(tell, &reason));
    }
    let text = format!("Retired: {} is not accepted any more. {reason}", retiring.slot.id);
    tell.event("retired", &text, json!({ "secret": retiring.slot.id, "reason": reason }));
    Ok(ExitCode::SUCCESS)
}

fn still_in_use(tell: Tell, reason: &str) -> ExitCode {
    tell.event("still in use", &format!("Not retired. {reason}"), json!({ "reason": reason }));
    Ending::StillInUse.into()
}
