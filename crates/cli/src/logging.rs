//! The log goes to standard error: pretty for people, JSON for machines. Lines that fail to be written are counted;
//! the library's own report of them would panic. A separate thread writes it, so that nothing waits for its reader.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, anyhow};
use keyrelay_server::log::Log;
use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Starts logging, for as long as the result is kept.
pub fn start(settings: &Settings) -> anyhow::Result<Log> {
    let filter = EnvFilter::try_new(settings.log())
        .map_err(|error| anyhow!("the log filter {:?} cannot be read: {error}", settings.log()))?;
    let format = settings
        .log_format
        .unwrap_or_else(|| if stderr().is_terminal() { LogFormat::Pretty } else { LogFormat::Json });
    let log = Log::start(stderr()).context("failed to start the log")?;
    let writer = log.writer();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.clone())
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Pretty => subscriber.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    started.map_err(|error| anyhow!("failed to start logging: {error}"))?;
    Ok(log)
}
