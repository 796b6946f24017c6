//! `keyrelay doctor`: looks at everything that an installation stands on, and says what to do. It changes
//! nothing, and works beside a running server.

mod database;
mod files;
mod report;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use self::report::Report;
use self::server::Absence;
use crate::settings::Settings;

/// The flags of `keyrelay doctor`: those of the server, and how to answer.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    settings: Settings,
    /// The configuration file [default: ./keyrelay.toml, if it is there]
    #[arg(long, env = "KEYRELAY_CONFIG")]
    config: Option<PathBuf>,
    /// Only ask the server on this machine whether it is ready; for the health check of a container
    #[arg(long)]
    ready: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

/// Checks everything. The exit code is 1 if a check has failed.
pub async fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    match args.settings.or_file(args.config.as_deref()) {
        Ok(settings) if args.ready => server::check(&settings, Absence::Fails, &mut report).await,
        Ok(settings) => examine(&settings, &mut report).await,
        Err(error) => report.fail("configuration", format!("{error:#}"), "correct it, and run doctor again"),
    }
    Ok(report.print(args.json))
}

async fn examine(settings: &Settings, report: &mut Report) {
    configuration(settings, report);
    files::data_dir(settings, report);
    let keyring = files::master_key(settings, report);
    files::tls(settings, report);
    files::open_files(report);
    database::check(settings, keyring.as_ref(), report).await;
    server::check(settings, Absence::Warns, report).await;
}

/// Whether the server would start with these settings, and what clients would think of its URL.
fn configuration(settings: &Settings, report: &mut Report) {
    let base_url = settings
        .listen()
        .and_then(|address| crate::serve::base_url(settings, address))
        .and_then(|url| settings.config(url.clone()).map(|_| url));
    match base_url {
        Ok(url) => {
            report.ok("configuration", "every setting can be used");
            if settings.base_url.is_none() {
                let advice =
                    "set --base-url to the URL under which clients reach the server: it is in every token";
                report.warn(
                    "base URL",
                    format!("not set; tokens name {} as their issuer", url.as_str()),
                    advice,
                );
            } else if url.is_https() || is_near(url.host()) {
                report.ok("base URL", url.as_str());
            } else {
                let advice = "speak TLS, or put a proxy in front that does, and set --base-url to https://";
                report.warn(
                    "base URL",
                    format!("{} is not https: secrets travel in clear", url.as_str()),
                    advice,
                );
            }
        }
        Err(error) => {
            report.fail("configuration", format!("{error:#}"), "correct it: the server would not start");
        }
    }
}

fn is_near(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"]
        .iter()
        .any(|near| host == *near || host.starts_with(&format!("{near}:")))
}
