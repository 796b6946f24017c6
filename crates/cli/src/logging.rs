//! The log goes to standard error: pretty for people, JSON for machines. What cannot be written there is counted;
//! the library's own report of that would panic.

use std::io::{IsTerminal, stderr};

use anyhow::anyhow;
use keyrelay_server::log::LogWriter;
use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Starts logging.
pub fn start(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(settings.log())
        .map_err(|error| anyhow!("the log filter {:?} cannot be read: {error}", settings.log()))?;
    let format = settings
        .log_format
        .unwrap_or_else(|| if stderr().is_terminal() { LogFormat::Pretty } else { LogFormat::Json });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogWriter::stderr)
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Pretty => subscriber.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| anyhow!("logging could not be started: {error}"))
}
