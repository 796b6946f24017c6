//! Waiting until the evidence allows to retire.

use std::time::Duration;

use keyrelay_core::id::ClientId;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use crate::admin::{SecretStatus, Server};
use crate::exit::Ending;
use crate::live::Live;
use crate::tell::Tell;

/// How often the server is asked.
pub const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug)]
pub enum Waited {
    /// The retiring secret can go, by what is known.
    Safe(Box<SecretStatus>),
    /// It is gone already.
    Gone,
    /// It is in use, as far as can be told.
    Not(Ending, Box<SecretStatus>),
}

/// What is waited for, and for how long still.
#[derive(Debug)]
pub struct Wait<'a> {
    client: ClientId,
    from: &'a str,
    unused_for: Option<Duration>,
    once: bool,
    until: Option<Instant>,
    tick: Interval,
    last: Option<Box<SecretStatus>>,
}

impl<'a> Wait<'a> {
    /// For the secret with the id `from` to be unused: callers that were not seen to move must have stayed away for
    /// `unused_for`, otherwise for the server's default. Asks only `once`, or until the `timeout` is up.
    pub fn new(
        client: ClientId,
        from: &'a str,
        unused_for: Option<Duration>,
        once: bool,
        timeout: Option<Duration>,
    ) -> Self {
        let mut tick = interval(ASK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let until = timeout.map(|timeout| Instant::now() + timeout);
        Self { client, from, unused_for, once, until, tick, last: None }
    }

    /// Waits. While the server is away, everybody goes on with what they have, and so does this.
    pub async fn wait(&mut self, server: &Server, tell: Tell) -> anyhow::Result<Waited> {
        let settled = match self.until {
            Some(until) => timeout_at(until, self.until_settled(server, tell)).await,
            None => Ok(self.until_settled(server, tell).await),
        };
        match (settled, self.last.clone()) {
            (Ok(settled), _) => settled,
            (Err(_), Some(status)) => Ok(Waited::Not(Ending::TimedOut, status)),
            (Err(_), None) => {
                anyhow::bail!("the server did not say who uses the secrets until the time was up")
            }
        }
    }

    async fn until_settled(&mut self, server: &Server, tell: Tell) -> anyhow::Result<Waited> {
        let mut live = Live::start(tell);
        loop {
            self.tick.tick().await;
            let status = match server.status(self.client, self.unused_for).await {
                Ok(status) => Box::new(status),
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
            let is_safe = retiring.safe_to_retire;
            self.last = Some(status.clone());
            if is_safe {
                return Ok(Waited::Safe(status));
            }
            if self.once {
                return Ok(Waited::Not(Ending::StillInUse, status));
            }
        }
    }
}
