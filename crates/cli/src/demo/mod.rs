//! `keyrelay demo`: a real server, a real fleet, a real rotation, over HTTP, before your eyes.

mod api;
mod fleet;
mod report;
mod screen;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use keyrelay_server::bootstrap::first_start;
use keyrelay_server::{ServeError, Server};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::installation::Installation;
use crate::say::say;
use crate::serve::{base_url, stop_signal};
use crate::settings::Settings;
use crate::stopwatch::Stopwatch;
use api::{Api, ClientCredentials};
use fleet::Fleet;
use report::Report;
use screen::Screen;

/// How long no worker must have used the old secret before it is retired.
const QUIET: Duration = Duration::from_millis(500);
/// The longest that is waited for the old secret to fall quiet.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(30);

/// The flags of `keyrelay demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many API clients share the secret
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// How long the whole thing takes, about
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(3..=3600))]
    seconds: u16,
    /// Leave the server running afterwards, and say how to use it
    #[arg(long)]
    keep: bool,
}

/// A server in this process, on a free port, with a directory of its own.
struct DemoServer {
    installation: Installation,
    url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
}

impl DemoServer {
    async fn start() -> anyhow::Result<Self> {
        let dir =
            tempfile::Builder::new().prefix("keyrelay-demo-").tempdir().context("cannot make a directory")?;
        let settings = Settings { data_dir: Some(dir.path().to_owned()), ..Settings::default() };
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
        let base_url = base_url(&settings, server.address())?;
        let installation = Installation::open(&settings, base_url.clone()).await?;
        first_start(&installation.app, None, &installation.bootstrap_file()).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let app = installation.app.clone();
        let task = tokio::spawn(server.run(app, async {
            let _ = stopped.await;
        }));
        Ok(Self { installation, url: base_url.as_str().to_owned(), stop, task, _dir: dir })
    }

    fn super_admin(&self) -> anyhow::Result<ClientCredentials> {
        ClientCredentials::from_bootstrap(&self.installation.bootstrap_file())
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Runs the demonstration. The exit code is 1 if anyone was refused who should not have been, or let
/// in who should not have been.
pub async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let interrupted = stop_signal()?;
    let server = DemoServer::start().await?;
    // Whichever way it ends, the server stops and its directory goes.
    let outcome = tokio::select! {
        outcome = show(&args, &server) => outcome,
        () = interrupted => Err(anyhow!("interrupted")),
    };
    server.stop().await;
    outcome
}

async fn show(args: &DemoArgs, server: &DemoServer) -> anyhow::Result<ExitCode> {
    let screen = Screen::start();
    screen.say(&format!("A server is running at {} with a directory of its own.", server.url));
    let api = Api::new(&server.url)?;
    let operator = api.make_operator(&server.super_admin()?).await?;
    let shared = api.make_client(&operator, "Nightly export").await?;
    screen.say(&format!(
        "Client application {} is shared by {} workers. Each fetches tokens and reads the FHIR API, all the time.",
        shared.id, args.workers
    ));
    let story = tell(args, &screen, &api, &operator, shared).await;
    screen.finish();
    let report = story?;
    report.print();
    if args.keep {
        keep(server).await?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Rotate, move over one by one, watch, retire, prove.
async fn tell(
    args: &DemoArgs,
    screen: &Screen,
    api: &Api,
    operator: &ClientCredentials,
    shared: ClientCredentials,
) -> anyhow::Result<Report> {
    let total = Duration::from_secs(u64::from(args.seconds));
    let (before, moving) = (total / 5, total / 2);
    let old = shared.secret.duplicate();
    let fleet = Fleet::start(api, &shared, usize::from(args.workers));
    screen.watch(fleet.totals(), before).await;

    let rotated = Stopwatch::start();
    let new = api.rotate(operator, &shared).await?;
    screen.say("Rotated: the old secret retires, a new one is there, and both grant access.");
    for worker in 0..usize::from(args.workers) {
        screen.watch(fleet.totals(), moving / u32::from(args.workers)).await;
        fleet.move_over(worker, &new);
        screen.moved(fleet.totals(), worker + 1, usize::from(args.workers));
    }

    let quiet = wait_until_unused(screen, api, &fleet).await?;
    screen.say(&format!("Nobody has used the old secret for {} ms: it can go.", quiet.as_millis()));
    api.retire(operator, &shared.id, &old).await?;
    let until_retired = rotated.elapsed();
    screen.say("Retired: the old secret is gone.");
    let accepted_after = api.tries_accepted(&shared.id, &old).await?;
    screen.say(match accepted_after {
        0 => "The old secret was tried at the token endpoint and by Basic, and refused both times.",
        _ => "THE OLD SECRET WAS STILL ACCEPTED.",
    });
    screen.watch(fleet.totals(), total.saturating_sub(rotated.elapsed() + before).max(total / 10)).await;
    Ok(Report { counts: fleet.stop().await, until_retired, accepted_after, workers: args.workers })
}

/// Watches the server's own count of uses of retiring secrets until it stands still.
async fn wait_until_unused(screen: &Screen, api: &Api, fleet: &Fleet) -> anyhow::Result<Duration> {
    let waiting = Stopwatch::start();
    let mut uses = api.retiring_uses().await?;
    let mut since = Stopwatch::start();
    while since.elapsed() < QUIET {
        screen.watch(fleet.totals(), QUIET / 5).await;
        let now = api.retiring_uses().await?;
        if now != uses {
            uses = now;
            since = Stopwatch::start();
        }
        anyhow::ensure!(
            waiting.elapsed() < QUIET_WAIT_MAX,
            "the old secret is still in use after {QUIET_WAIT_MAX:?}"
        );
    }
    screen.say(&format!("The server counted {uses} uses of the old secret since it began to retire."));
    Ok(since.elapsed())
}

async fn keep(server: &DemoServer) -> anyhow::Result<()> {
    let file = server.installation.bootstrap_file();
    say!("\nThe server keeps running at {} until Ctrl-C; then its directory is removed.", server.url);
    say!("The Super Admin client's id and secret are in {}:\n", file.display());
    say!(
        "  curl -u \"$(jq -r '.clientId + \":\" + .clientSecret' {})\" {}fhir/R4/ClientApplication",
        file.display(),
        server.url
    );
    stop_signal()?.await;
    Ok(())
}
