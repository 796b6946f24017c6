//! A command that takes the new secret, on standard input: others can read arguments and variables.

use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use keyrelay_core::limits::EXEC_GRACE;
use keyrelay_core::secret::PlainSecret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The processes of a command. If this is dropped early, as by a signal, those that still run are asked to end.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended already.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Ends all of them: asks first, then kills those that still run.
    async fn end(self, child: &mut Child) {
        self.signal(Signal::TERM);
        let _ = timeout(EXEC_GRACE, child.wait()).await;
        self.signal(Signal::KILL);
        let _ = child.wait().await;
        self.release();
    }

    /// Leaves processes in the background running.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}

/// Runs a command by the shell, with a time limit. Its output goes to standard error, because standard output is for
/// events.
pub async fn run(command: &str, secret: &PlainSecret, at_most: Duration) -> anyhow::Result<()> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(std::io::stderr())
        .process_group(0)
        .spawn()
        .context("cannot run /bin/sh")?;
    let group = Group::of(&child);
    let Ok(ended) = timeout(at_most, hand_over(&mut child, secret)).await else {
        group.end(&mut child).await;
        bail!(
            "the command {command:?} has not ended within {} s and was killed, with all that it had started: \
             --exec-timeout gives it another time",
            at_most.as_secs()
        );
    };
    let status = ended?;
    group.release();
    if !status.success() {
        bail!("the command {command:?} failed: {status}");
    }
    Ok(())
}

async fn hand_over(child: &mut Child, secret: &PlainSecret) -> anyhow::Result<std::process::ExitStatus> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(secret.reveal().as_bytes()).await {
            // It did not want to read; its exit code says whether that was right.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(error).context("cannot hand the secret over");
            }
            _ => {}
        }
    }
    Ok(child.wait().await?)
}
