//! Waiting until the evidence allows to retire.

use std::time::Duration;

use keyrelay_core::id::ClientId;

use crate::admin::{SecretStatus, Server};
use crate::exit::Ending;
use crate::live::Live;
use crate::tell::Tell;

/// How often the server is asked.
pub const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug)]
pub enum Waited {
    /// The retiring secret can go.
    Safe,
    /// It is gone already.
    Gone,
    /// It is in use, as far as can be told.
    Not(Ending, Box<SecretStatus>),
}

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    /// The client.
    pub client: ClientId,
    /// The id of the secret that is to go.
    pub from: &'a str,
    /// How long callers must have stayed away that were not seen to move; otherwise the server's default.
    pub unused_for: Option<Duration>,
    /// Whether to ask once only.
    pub once: bool,
    /// The longest that is waited.
    pub timeout: Option<Duration>,
}

impl Wait<'_> {
    /// Waits. While the server is away, everybody goes on with what they have, and so does this.
    pub async fn wait(&self, server: &Server, tell: Tell) -> anyhow::Result<Waited> {
        let mut last = None;
        let waiting = self.until_settled(server, tell, &mut last);
        let settled = match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, waiting).await,
            None => Ok(waiting.await),
        };
        match (settled, last) {
            (Ok(settled), _) => settled,
            (Err(_), Some(status)) => Ok(Waited::Not(Ending::TimedOut, status)),
            (Err(_), None) => {
                anyhow::bail!("the server did not say who uses the secrets until the time was up")
            }
        }
    }

    async fn until_settled(
        &self,
        server: &Server,
        tell: Tell,
        last: &mut Option<Box<SecretStatus>>,
    ) -> anyhow::Result<Waited> {
        let mut live = Live::start(tell);
        let mut tick = tokio::time::interval(ASK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let status = match server.status(self.client, self.unused_for).await {
                Ok(status) => status,
                Err(error) if error.may_pass() && !self.once => {
                    live.show_problem(&error.to_string());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            live.show(&status);
            let Some(retiring) = status.retiring_secret.as_ref() else { return Ok(Waited::Gone) };
            anyhow::ensure!(
                retiring.slot.id == self.from,
                "the client was rotated again meanwhile, and not by this: nothing was retired"
            );
            if retiring.safe_to_retire {
                return Ok(Waited::Safe);
            }
            let status = Box::new(status);
            if self.once {
                return Ok(Waited::Not(Ending::StillInUse, status));
            }
            *last = Some(status);
        }
    }
}
