//! `keyrelay agent`: beside an application, rotates that application's own secret on a schedule. It is let in by
//! that secret itself, so no admin's key lies on the machine; a policy with `rotate-own-secret` allows it.
//!
//! What it does is `keyrelay rotate`, with the same record, so it may be killed at any point too. Whether the time
//! has come is told by the age of the secret, as the server says it: starting again is no reason to rotate.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{ArgGroup, Args};
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::EXEC_TIMEOUT_DEFAULT;
use keyrelay_core::random::{Entropy, SystemEntropy};
use keyrelay_core::secret::PlainSecret;
use keyrelay_core::time::Timestamp;
use reqwest::StatusCode;
use serde_json::json;

use crate::admin::{Admin, Period, SecretStatus, Server, ServerError, base, client_id};
use crate::deliver::{Target, check_all};
use crate::exit::Ending;
use crate::rotate::{OnRetiring, RecordFile, Run, held, warn_if_in_clear};
use crate::serve::stop_signal;
use crate::tell::Tell;

/// How long callers must have stayed away where nothing is said.
const UNUSED_FOR_DEFAULT: Duration = Duration::from_hours(24);
/// The longest between two looks at the server.
const LOOK_INTERVAL_MAX: Duration = Duration::from_mins(10);
/// How long it waits after a failure; twice as long after each further one.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// The longest that it waits then.
const BACK_OFF_MAX: Duration = Duration::from_mins(5);
/// A rotation comes up to this part of the period early, so that a fleet does not rotate in one moment.
const JITTER_PART: u32 = 10;

/// Rotate an application's own secret on a schedule, beside it.
///
/// The client's AccessPolicy must have the interaction rotate-own-secret. The first target holds the current
/// secret: --secret-file, or else the first --to. Every target gets the new one, then the commands run.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("held").args(["secret_file", "to"]).required(true).multiple(true)))]
pub struct AgentArgs {
    /// The client application's id
    #[arg(long, env = "KEYRELAY_AGENT_CLIENT_ID", value_name = "ID", value_parser = client_id)]
    client: ClientId,
    /// The server's base URL
    #[arg(long, env = "KEYRELAY_URL", value_name = "URL")]
    url: String,
    /// The file that holds the secret, and gets the new one
    #[arg(long, env = "KEYRELAY_AGENT_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Where the secret goes, too: `file:PATH`, or `dotenv:PATH#KEY`. May be repeated.
    #[arg(long, value_name = "TARGET")]
    to: Vec<Target>,
    /// A command that takes the new secret on standard input, after the files. May be repeated.
    #[arg(long, value_name = "COMMAND")]
    exec: Vec<String>,
    /// How long a command may take; after that, it and all processes that it started are killed [default: 15m]
    #[arg(long, value_name = "DURATION")]
    exec_timeout: Option<Period>,
    /// How old a secret may become; it is rotated up to a tenth of that earlier
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    every: Period,
    /// Retire the old secret once callers that were not seen to move have stayed away this long; 24h if not given
    #[arg(long, value_name = "DURATION", conflicts_with = "retire_after")]
    wait_unused: Option<Period>,
    /// Let the old secret end by itself after this time, whoever uses it
    #[arg(long, value_name = "DURATION")]
    retire_after: Option<Period>,
    /// Do what is to be done now, and end: for a timer
    #[arg(long)]
    once: bool,
    /// The file that says where the rotation stands, without any secret [default: in the state directory of
    /// systemd or of the user]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Tell what happens as a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub async fn agent(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let stop = stop_signal()?;
    let tell = Tell::json(args.json);
    tokio::select! {
        ended = run(args) => ended.map(|()| ExitCode::SUCCESS),
        // Wherever it is: what was begun is written down, and gone on with at the next start.
        () = stop => {
            tell.event("stopped", "Stopped.", json!({}));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let once = args.once;
    let agent = Agent::new(args, &SystemEntropy).await?;
    if once { agent.look().await.map(drop) } else { agent.look_on().await }
}

struct Agent {
    args: AgentArgs,
    /// The first holds the secret.
    files: Vec<Target>,
    /// The age at which a secret is rotated.
    due_at_age: Duration,
    record: Arc<RecordFile>,
    tell: Tell,
}

impl Agent {
    async fn new(args: AgentArgs, entropy: &dyn Entropy) -> anyhow::Result<Self> {
        let file = args.secret_file.iter().map(|path| Target::File(path.clone()));
        let files: Vec<Target> = file.chain(args.to.iter().cloned()).collect();
        // First: another run may be about to write what is tried here.
        let record = RecordFile::open(args.state.as_deref(), args.client)
            .context("the state of the rotation cannot be kept")?;
        check_all(&files).await?;
        let (due_at_age, tell) = (due_at_age(args.every.0, entropy), Tell::json(args.json));
        let agent = Self { args, files, due_at_age, record: Arc::new(record), tell };
        warn_if_in_clear(&agent.server()?);
        Ok(agent)
    }

    /// The server, as the client sees it by the secret that it has now.
    fn server(&self) -> anyhow::Result<Server> {
        let first = self.first()?;
        let secret =
            held(first)?.with_context(|| format!("{first} does not hold the secret of the client"))?;
        self.server_by(secret)
    }

    fn first(&self) -> anyhow::Result<&Target> {
        self.files.first().context("no target holds the secret")
    }

    fn server_by(&self, secret: PlainSecret) -> anyhow::Result<Server> {
        Server::new(&base(&self.args.url)?, Admin { id: self.args.client.to_string(), secret })
    }

    /// The server by the secret before, which is kept while a rotation is under way: where the new one was revoked, or
    /// the rotation undone, that is the current one again, and the only way to another.
    async fn server_by_kept(&self) -> anyhow::Result<Option<Server>> {
        let Some(kept) = self.record.kept()? else { return Ok(None) };
        let server = self.server_by(kept)?;
        let record = self.record.read(server.url(), self.args.client)?;
        let status = server.status(self.args.client, None).await.ok();
        let is_current = record.is_some_and(|record| {
            status.as_ref().and_then(SecretStatus::active_id) == Some(record.from.as_str())
        });
        Ok(is_current.then_some(server))
    }

    /// Looks again and again, also while the server is away.
    async fn look_on(&self) -> anyhow::Result<()> {
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let wait = match self.look().await {
                Ok(wait) => {
                    back_off = BACK_OFF_FIRST;
                    wait
                }
                Err(error) => {
                    let wait = back_off;
                    back_off = (wait * 2).min(BACK_OFF_MAX);
                    let text = format!("{error:#}");
                    let again = format!("Failed: {text}. Trying again in {} s.", wait.as_secs());
                    self.tell.event(
                        "failed",
                        &again,
                        json!({ "error": text, "againInSeconds": wait.as_secs() }),
                    );
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Does what is to be done by now, and says when to look again.
    async fn look(&self) -> anyhow::Result<Duration> {
        let server = self.server()?;
        if self.record.read(server.url(), self.args.client)?.is_none() {
            let status = server.status(self.args.client, None).await?;
            let made = status.secret.as_ref().and_then(|secret| Timestamp::parse(&secret.created));
            let made = made.context("the server does not say when the secret was made")?;
            let now = Timestamp::parse(&status.complete_until).context("the server does not say its time")?;
            let left = self.due_at_age.saturating_sub(now.since(made));
            if !left.is_zero() {
                return Ok(left.min(LOOK_INTERVAL_MAX));
            }
        }
        let ending = match self.run(server).go().await {
            Err(error) if is_unknown(&error) => {
                let Some(server) = self.server_by_kept().await? else { return Err(error) };
                self.run(server).go().await?
            }
            ended => ended?,
        };
        let wait = self.unused_for().unwrap_or(LOOK_INTERVAL_MAX);
        Ok(if ending == Ending::Done { Duration::ZERO } else { wait.min(LOOK_INTERVAL_MAX) })
    }

    /// None where the old secret ends by itself.
    fn unused_for(&self) -> Option<Duration> {
        let named = self.args.wait_unused.map_or(UNUSED_FOR_DEFAULT, |period| period.0);
        self.args.retire_after.is_none().then_some(named)
    }

    fn run(&self, server: Server) -> Run {
        Run {
            server,
            client: self.args.client,
            files: self.files.clone(),
            commands: self.args.exec.clone(),
            exec_timeout: self.args.exec_timeout.map_or(EXEC_TIMEOUT_DEFAULT, |period| period.0),
            unused_for: self.unused_for(),
            retire: self.args.retire_after.is_none(),
            once: true,
            timeout: None,
            retire_after: self.args.retire_after.map(|period| period.0),
            admin: None,
            on_retiring: OnRetiring::Refuse,
            // It has a schedule of its own.
            anew: false,
            file: Arc::clone(&self.record),
            tell: self.tell,
        }
    }
}

/// Whether the server does not know the secret that it was asked by.
fn is_unknown(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ServerError>();
    matches!(error, Some(ServerError::Refused { status: StatusCode::UNAUTHORIZED, .. }))
}

/// The period, less a random part of it.
fn due_at_age(every: Duration, entropy: &dyn Entropy) -> Duration {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    let part = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
    every.saturating_sub((every / JITTER_PART).mul_f64(part))
}

#[cfg(test)]
mod tests {
    use keyrelay_core::random::SeededEntropy;

    use super::*;

    #[test]
    fn a_rotation_comes_at_most_a_tenth_of_the_period_early() {
        let every = Duration::from_hours(30 * 24);
        let ages: Vec<_> = (0..100).map(|seed| due_at_age(every, &SeededEntropy::new(seed))).collect();
        assert!(ages.iter().all(|age| (every.mul_f64(0.9)..=every).contains(age)), "{ages:?}");
        assert!(ages.iter().max() > ages.iter().min());
    }
}
