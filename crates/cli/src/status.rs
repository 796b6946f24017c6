//! `keyrelay status`: the secrets of a client, and who uses them.

use std::process::ExitCode;

use clap::Args;
use keyrelay_core::id::ClientId;
use keyrelay_core::time::{Clock, SystemClock, Timestamp};

use crate::admin::{CallerStatus, ConnectionArgs, Period, SecretStatus, SlotStatus, ago, client_id, when};
use crate::exit::EXIT_CODES;
use crate::rotate::open;
use crate::say::say;

/// Show a client's secrets, who uses them, and whether the retiring one can go.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct StatusArgs {
    /// The client application's id
    #[arg(value_parser = client_id)]
    client: ClientId,
    /// How long callers must have stayed away that were not seen to move; 24h if not given
    #[arg(long, value_name = "DURATION")]
    unused_for: Option<Period>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs it.
pub async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let server = open(&args.connection)?;
    let status = server.status(args.client, args.unused_for.map(|period| period.0)).await?;
    if args.json {
        say!("{}", serde_json::to_string(&status)?);
    } else {
        print(args.client, &status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(client: ClientId, status: &SecretStatus) {
    let now = SystemClock.now();
    say!("client application {client}");
    if let Some(slot) = &status.secret {
        print_slot("secret", slot, now);
    } else {
        say!("\nno secret");
    }
    if let Some(retiring) = &status.retiring_secret {
        print_slot("retiring secret", &retiring.slot, now);
        say!("\nsafe to retire  {}", if retiring.safe_to_retire { "yes" } else { "no" });
        say!("reason          {}", retiring.reason);
    } else {
        say!("\nno retiring secret");
    }
    say!(
        "refused         {} in the last hour, {} in the last day",
        status.refused_last_hour,
        status.refused_last_day
    );
    say!("complete until  {}", status.complete_until);
    for gap in &status.gaps_after {
        say!("gap after       {gap}: a server ended without writing down what it had counted");
    }
}

fn print_slot(name: &str, slot: &SlotStatus, now: Timestamp) {
    say!("\n{name:<15} {}", slot.id);
    say!("  made          {} ({})", slot.created, ago(&slot.created, now));
    for (title, at) in [("rotate before", &slot.due_by), ("ends", &slot.expires)] {
        if let Some(at) = at {
            say!("  {title:<13} {at} ({})", when(at, now));
        }
    }
    if let Some(overdue) = &slot.overdue {
        say!("  {:<13} {overdue}", "too old");
    }
    let last = slot.last_used.as_deref().map_or(String::new(), |last| format!(", last {}", ago(last, now)));
    say!(
        "  uses          {} in the last hour, {} in the last day, {} in all{last}",
        slot.uses_last_hour,
        slot.uses_last_day,
        slot.uses
    );
    if let Some(since) = &slot.counted_since {
        say!("  counted since {since} ({})", ago(since, now));
    }
    print_callers(&slot.callers, now);
}

fn print_callers(callers: &[CallerStatus], now: Timestamp) {
    let rows: Vec<[String; 3]> = callers
        .iter()
        .map(|caller| {
            let who = caller.who.as_ref().map_or_else(|| "others".to_owned(), ToString::to_string);
            [who, caller.uses.to_string(), ago(&caller.last_seen, now)]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (who_width, uses_width) = (width(0), width(1));
    for (n, [who, uses, last]) in rows.iter().enumerate() {
        let title = if n == 0 { "callers" } else { "" };
        say!("  {title:<13} {who:<who_width$}  {uses:>uses_width$} times, last {last}");
    }
}
