//! A command that takes the new secret, on standard input: others can read arguments and variables.

use std::io::ErrorKind;
use std::process::Stdio;

use anyhow::{Context, bail};
use keyrelay_core::secret::PlainSecret;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a command by the shell. What it prints goes to standard error: standard output is for events.
pub async fn run(command: &str, secret: &PlainSecret) -> anyhow::Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(std::io::stderr())
        .spawn()
        .context("cannot run /bin/sh")?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(secret.reveal().as_bytes()).await {
            // It did not want to read; its exit code says whether that was right.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(error).context("cannot hand the secret over");
            }
            _ => {}
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("the command {command:?} failed: {status}");
    }
    Ok(())
}
