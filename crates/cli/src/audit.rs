//! `keyrelay audit`: whether the audit records are what the servers wrote.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use keyrelay_core::audit::LinkMac;
use keyrelay_core::id::ChainId;
use keyrelay_store::operations::{AuditReport, Head, NotedHead, verify_audit};
use serde_json::json;

use crate::files::{Entry, Turn};
use crate::installation::{keyring, place};
use crate::progress::{Bar, Unit};
use crate::say::say;
use crate::settings::DataArgs;

/// Said at the end of `--help`.
const EXIT_CODES: &str = "Exit codes:
  0  nothing was found
  1  the records could not be checked: standard error says why
  2  wrong usage
  5  something was found: a record was changed, taken out or put in";
/// Something was found.
const FOUND: u8 = 5;

/// The arguments of `keyrelay audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Check that no audit record was changed, taken out or put in, while the servers run.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
struct VerifyArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Compare with the heads of the chains that an earlier run noted in this file, and note the heads of now.
    /// Keep it where nobody reaches it who can write to the database: only so it shows that the last records
    /// of a chain were cut off.
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs one of the commands.
pub async fn audit(args: AuditArgs) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify(args) = args.command;
    let settings = args.data.read()?;
    let noted = args.heads.as_deref().map_or(Ok(Vec::new()), read_heads)?;
    let mut bar = Bar::new("checking", Unit::Things("records"));
    let keyring = keyring(&settings, false)?;
    let mut progress = |done, total| bar.set(done, total);
    let report = verify_audit(&place(&settings)?, &keyring, &noted, &mut progress).await?;
    drop(bar);
    let Some(report) = report else {
        bail!("there are no audit records that could be checked: no server of this version has started yet");
    };
    if args.json {
        say!("{}", as_json(&report));
    } else {
        tell(&report);
    }
    if report.found > 0 {
        return Ok(ExitCode::from(FOUND));
    }
    if let Some(file) = &args.heads {
        write_heads(file, &report.heads).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(report: &AuditReport) {
    let AuditReport { records, older, heads, findings, found } = report;
    for finding in findings {
        say!("{finding}");
    }
    if *found > u64::try_from(findings.len()).unwrap_or(u64::MAX) {
        say!("and more: {found} in all");
    }
    let open = heads.iter().filter(|head| !head.ended).count();
    say!("{records} records in {} chains are as they were written", heads.len());
    if open > 0 {
        say!("{open} chains have no end: their servers run, or were killed, or the end was cut off");
    }
    if *older > 0 {
        say!("{older} records are from before there were chains, and prove nothing");
    }
}

fn as_json(report: &AuditReport) -> serde_json::Value {
    json!({
        "records": report.records,
        "older": report.older,
        "chains": report.heads.len(),
        "chainsWithoutEnd": report.heads.iter().filter(|head| !head.ended).count(),
        "found": report.found,
        "findings": report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn read_heads(file: &Path) -> anyhow::Result<Vec<NotedHead>> {
    let Some(bytes) = Entry::find(file)?.read()? else { return Ok(Vec::new()) };
    let text = std::str::from_utf8(&bytes).with_context(|| format!("cannot read {}", file.display()))?;
    let mut heads = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if !line.starts_with('#') {
            let head = read_head(line);
            heads.push(head.with_context(|| {
                format!("line {} of {} is not the head of a chain", n + 1, file.display())
            })?);
        }
    }
    Ok(heads)
}

fn read_head(line: &str) -> Option<NotedHead> {
    let mut words = line.split(' ');
    let chain = ChainId::parse(words.next()?)?;
    let (nth, mac) = (words.next()?.parse().ok()?, LinkMac::parse(words.next()?)?);
    words.next().is_none().then_some(NotedHead { chain, nth, mac })
}

async fn write_heads(file: &Path, heads: &[Head]) -> anyhow::Result<()> {
    let mut text = String::from("# The heads of the chains of audit records: chain, length, digest.\n");
    for Head { link, .. } in heads {
        let _ = writeln!(text, "{} {} {}", link.chain, link.nth, link.mac);
    }
    Turn::wait(Entry::find(file)?).await?.place(text.as_bytes())
}
