//! `keyrelay serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use keyrelay_core::limits::{CONNECTIONS_MAX, MASTER_KEY_RELOAD_INTERVAL};
use keyrelay_core::survive::{survive, survive_waiting};
use keyrelay_server::bootstrap::{FirstClient, first_start};
use keyrelay_server::log::log_panics;
use keyrelay_server::{App, BaseUrl, Server, Tls};
use keyrelay_store::operations::Place;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::installation::{Installation, make_durable, master_key_file, place};
use crate::logging;
use crate::settings::Settings;

/// Files that are open beside connections: the database, its readers, the log.
const FILES_BESIDE_CONNECTIONS: usize = 100;

/// The flags of `keyrelay serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    settings: Settings,
    /// The configuration file [default: ./keyrelay.toml, if it is there]
    #[arg(long, env = "KEYRELAY_CONFIG")]
    config: Option<PathBuf>,
}

/// Runs the server until `SIGTERM` or `SIGINT`.
pub async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let settings = args.settings.or_file(args.config.as_deref())?;
    let _log = logging::start(&settings)?;
    log_panics();
    let chosen = chosen_first_client(&settings)?;
    raise_file_limit();
    let tls = settings.tls()?;
    let mut server = Server::bind(settings.listen()?).await?;
    if let Some(tls) = tls {
        reload_on_hangup(tls.clone())?;
        server = server.with_tls(tls);
    }
    let installation = Installation::open(&settings, base_url(&settings, server.address())?).await?;
    if settings.read_only.unwrap_or(false) {
        installation.app.refuse_changes();
        tracing::warn!("--read-only: clients are let in, and every change is refused");
    }
    let file = installation.bootstrap_file();
    if first_start(&installation.app, chosen, &file).await? {
        tracing::info!(file = %file.display(), "first start: the credentials of the Super Admin client are in this file");
    }
    watch_master_keys(&settings, installation.app.clone())?;
    let stop = stop_signal()?;
    // One plain line on standard output, for whoever started the process and waits for it.
    let mut out = std::io::stdout();
    let told = writeln!(out, "keyrelay listening on {}://{}/", settings.scheme(), server.address());
    if let Err(error) = told.and_then(|()| out.flush()) {
        tracing::warn!(%error, "failed to report the address on standard output; the server runs");
    }
    server.run(installation.app.clone(), stop).await?;
    tracing::info!("stopped");
    Ok(())
}

/// The base URL that is set, or the one that the address gives.
pub fn base_url(settings: &Settings, address: SocketAddr) -> anyhow::Result<BaseUrl> {
    if let Some(url) = &settings.base_url {
        return BaseUrl::parse(url).context("--base-url");
    }
    if address.ip().is_unspecified() {
        tracing::warn!(
            "listening on all addresses without --base-url: tokens will name {address} as their issuer"
        );
    }
    Ok(BaseUrl::parse(&format!("{}://{address}/", settings.scheme()))?)
}

/// The credentials in the two bootstrap variables. They are variables only: flags show in lists of
/// processes.
fn chosen_first_client(settings: &Settings) -> anyhow::Result<Option<FirstClient>> {
    let id = std::env::var("KEYRELAY_BOOTSTRAP_CLIENT_ID").ok();
    let secret = std::env::var("KEYRELAY_BOOTSTRAP_CLIENT_SECRET").ok().map(Zeroizing::new);
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Some(FirstClient::chosen(&id, secret, settings.secret_policy())?)),
        (None, None) => Ok(None),
        _ => bail!("set both KEYRELAY_BOOTSTRAP_CLIENT_ID and KEYRELAY_BOOTSTRAP_CLIENT_SECRET, or neither"),
    }
}

/// Takes as many file handles as the system allows: every connection needs one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { raised.current } else { limit.current };
    let wanted = u64::try_from(CONNECTIONS_MAX + FILES_BESIDE_CONNECTIONS).unwrap_or(u64::MAX);
    if current.is_some_and(|current| current < wanted) {
        tracing::warn!(
            limit = current,
            wanted,
            "the limit on open files is low: with many connections, new ones must wait"
        );
    }
}

/// Reads the files of the certificate again at every `SIGHUP`.
fn reload_on_hangup(tls: Tls) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = survive_waiting(tls.reload_and_log()).await;
        }
    });
    Ok(())
}

/// Looks at the master key file every few seconds, and at once on `SIGHUP`. Where one process owns the
/// database, it also moves to the first key what is sealed under others; where several share one, not all
/// of them may know that key yet, so `keyrelay keys rotate` does it when an operator says so.
fn watch_master_keys(settings: &Settings, app: App) -> anyhow::Result<()> {
    let file = master_key_file(settings);
    let is_alone = matches!(place(settings)?, Place::File(_));
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(MASTER_KEY_RELOAD_INTERVAL);
        // Of a refusal, so that it is told once and not every time.
        let mut refused = String::new();
        if is_alone {
            reseal(&app).await;
        }
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                _ = hangup.recv() => refused.clear(),
            }
            match survive(|| reload(&file, &app)).unwrap_or_else(|_| Err(anyhow!("a fault in the program"))) {
                Ok(changed) => {
                    refused.clear();
                    if changed {
                        tracing::info!(file = %file.display(), "the master key file was read again");
                    }
                    if changed && is_alone {
                        reseal(&app).await;
                    }
                }
                Err(error) => {
                    let said = format!("{error:#}");
                    if said != refused {
                        tracing::error!(file = %file.display(), error = said, "the master keys stay as they were");
                    }
                    refused = said;
                }
            }
        }
    });
    Ok(())
}

/// A panic in it must not end the watch.
async fn reseal(app: &App) {
    let _ = survive_waiting(app.reseal()).await;
}

fn reload(file: &Path, app: &App) -> anyhow::Result<bool> {
    let read = || std::fs::read_to_string(file).map(Zeroizing::new);
    if app.has_master_keys(&read()?)? {
        return Ok(false);
    }
    // Before anything is sealed under a new key. The server uses the keys that it reads after this.
    make_durable(file)?;
    Ok(app.replace_master_keys(&read()?)?)
}

/// Ready when the process is asked to stop.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
