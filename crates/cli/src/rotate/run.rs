//! One run through the steps, from wherever the rotation stands.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keyrelay_core::fhir::schema::parse_lifetime;
use keyrelay_core::id::ClientId;
use keyrelay_core::limits::EVIDENCE_UNUSED_FOR_DEFAULT;
use keyrelay_core::random::SystemEntropy;
use keyrelay_core::secret::PlainSecret;
use serde_json::json;

use super::next::{Next, OnRetiring, next};
use super::record::{Record, RecordFile};
use super::shown_once::{held, is_no_match, is_of_another};
use super::wait::{Wait, Waited};
use crate::admin::{ClientSecrets, ConnectionArgs, Retirement, Rotated, Rotation, SecretStatus, Server};
use crate::deliver::{Target, run_command};
use crate::exit::Ending;
use crate::say::complain;
use crate::tell::Tell;

/// How long tokens live where the client does not say.
const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_hours(1);
/// What is said after a failure that can be gone on from.
const GO_ON: &str = "both secrets work: put right what failed, and run the same command again to go on";

/// What is said when it is not known whether it was rotated.
const ASK_AGAIN: &str =
    "if the answer was lost, the secret was rotated: run the same command again, which asks for it again";

/// What is said when a new secret is not the current one any more.
const MOVED: &str = "the client's secrets were moved in the same moment, and not by this: nothing more was delivered; \
    run the same command again";

/// What is said when nobody has the new secret.
const LOST: &str = "the new secret was in an answer that did not arrive and is not given again, or it was replaced \
    since, and the client's project shows secrets once. As an admin, write a new secret to the client directly, and \
    put it into the first --to; it replaces the one that nobody has, and a retiring one works on";

/// What is said when only others can have the new secret.
const OF_OTHERS: &str = "the client's project shows secrets once, and the current one was not made by a run that left \
    its record here: only who rotated has it. Let them put it where it belongs, and retire the old one by keyrelay \
    retire --retiring-file; or put it into the first --to, and rotate once more with --force, which ends the old one";

/// What is said when waiting cannot go on.
const WAITED: &str = "nothing was retired; the same command goes on where this ended";

/// What is to be done.
#[derive(Debug)]
pub struct Run {
    pub server: Server,
    pub client: ClientId,
    pub files: Vec<Target>,
    pub commands: Vec<String>,
    /// How long one of them may take.
    pub exec_timeout: Duration,
    pub unused_for: Option<Duration>,
    pub retire: bool,
    /// Whether to look once only whether the old secret can go.
    pub once: bool,
    pub timeout: Option<Duration>,
    /// After how long the old secret ends by itself.
    pub retire_after: Option<Duration>,
    /// The admin that asks; `None` if it is the client itself, which may not read what an admin may.
    pub admin: Option<ConnectionArgs>,
    pub on_retiring: OnRetiring,
    /// Whether to rotate again where an earlier run left nothing to be done.
    pub anew: bool,
    pub file: Arc<RecordFile>,
    pub tell: Tell,
}

impl Run {
    /// Takes every step that was not taken yet.
    pub async fn go(mut self) -> anyhow::Result<Ending> {
        let mut before = self.file.read(self.server.url(), self.client)?;
        let status = self.server.status(self.client, None).await?;
        let since = status.secret.as_ref().map(|secret| secret.created.clone()).unwrap_or_default();
        let mut next = next(before.as_ref(), &status, self.on_retiring)?;
        if let Next::Over { to } = &next
            && self.anew
        {
            let text = "The rotation of an earlier run was ended by others: the secret is rotated anew.";
            self.tell.event("ended by others", text, json!({ "current": to }));
            before = None;
            self.forget()?;
            next = Next::Rotate { from: to.clone() };
        }
        match next {
            Next::Rotate { from } => {
                let secrets = self.secrets().await?;
                self.advise(&secrets);
                let (record, secret) = self.rotate(before, from, secrets).await?;
                let record = self.deliver(record, &secret).await.context(GO_ON)?;
                self.end(record).await
            }
            Next::Deliver { from, to } => {
                let record = before.filter(|record| record.from == from);
                let record = record.unwrap_or_else(|| self.record(from));
                let secret = self.secret_of(&record, &to, &since, false).await?;
                let text = "An earlier run has rotated: its secret is delivered, and no other one is made.";
                self.tell.event("resumed", text, json!({ "from": record.from, "to": to }));
                let record = self.deliver_again(record, to, &secret).await.context(GO_ON)?;
                self.end(record).await
            }
            Next::Finish { to } | Next::Over { to } => {
                let record = before.unwrap_or_else(|| self.record(to.clone()));
                let secret = self.secret_of(&record, &to, &since, true).await?;
                let text = "An earlier run has rotated, and the old secret is gone by now.";
                self.tell.event("resumed", text, json!({ "from": record.from, "to": to }));
                self.deliver_again(record, to, &secret).await?;
                self.done()
            }
        }
    }

    fn record(&self, from: String) -> Record {
        let (url, client) = (self.server.url().to_owned(), self.client.to_string());
        Record {
            url,
            client,
            from,
            to: None,
            delivered: false,
            commands: Vec::new(),
            asked_to_retire: false,
            asked: None,
        }
    }

    /// How it is asked for: as before, if no answer came to that. What an earlier run asked for may be under way, and
    /// only by its key is the answer to it an answer to this.
    fn asked(&self, before: Option<&Record>) -> Option<Rotation> {
        let asked = before.filter(|record| record.to.is_none()).and_then(|record| record.asked.clone());
        asked.filter(|asked| asked.force == self.forces())
    }

    fn forces(&self) -> bool {
        self.on_retiring == OnRetiring::Overwrite
    }

    fn asks_anew(&self) -> Rotation {
        Rotation::new(self.forces(), self.retire_after, &SystemEntropy)
    }

    /// Says it if the old secret may look unused while somebody still has it.
    fn advise(&self, secrets: &ClientSecrets) {
        let lifetime = secrets.access_token_lifetime.as_deref().and_then(parse_lifetime);
        let lifetime = lifetime.unwrap_or(TOKEN_LIFETIME_DEFAULT);
        if self.retire && self.unused_for.is_some_and(|period| period <= lifetime) {
            complain!(
                "this client's tokens live {} min, so a caller may stay away that long and come again with \
                 the old secret; --wait-unused is shorter",
                lifetime.as_secs() / 60
            );
        }
    }

    async fn rotate(
        &mut self,
        before: Option<Record>,
        from: String,
        secrets: ClientSecrets,
    ) -> anyhow::Result<(Record, PlainSecret)> {
        let before = before.filter(|record| record.from == from && record.asked.is_some());
        let mut record = self.record(from);
        let shows_once = secrets.secret.is_none();
        let current = match secrets.secret {
            Some(current) => current,
            None => self.current(before.as_ref())?,
        };
        let again = self.asked(before.as_ref());
        let fresh = match self.ask(&mut record, &current, again).await {
            Err(error) if shows_once && is_no_match(&error) => return Err(self.not_current(&current, error)?),
            fresh => fresh?,
        };
        if shows_once {
            // First of all, because no other place holds these two secrets. The server has just accepted the old one.
            self.file.keep(&current).context(GO_ON)?;
            self.first()?.deliver(&fresh.secret).await.context(GO_ON)?;
        }
        self.server.follow(self.client, &fresh.secret);
        let status = self.server.status(self.client, None).await.context(GO_ON)?;
        let active = status.secret.filter(|active| active.created == fresh.at).context(MOVED)?;
        let record = record.of(active.id);
        self.file.write(&record)?;
        let to = record.to.as_deref().unwrap_or_default();
        let text = format!("Rotated: {} is current, {} retires, and both grant access.", to, record.from);
        self.tell.event("rotated", &text, json!({ "from": record.from, "to": record.to }));
        Ok((record, fresh.secret))
    }

    /// Asks for a new secret, `again` for one that an earlier run may have asked for. That one may have been made
    /// and have ended since, by whoever undid or revoked: the answer is given again all the same, and nobody may
    /// get a secret that is refused.
    async fn ask(
        &self,
        record: &mut Record,
        current: &PlainSecret,
        again: Option<Rotation>,
    ) -> anyhow::Result<Rotated> {
        if let Some(asked) = again {
            record.asked = Some(asked.clone());
            self.file.write(record)?;
            match self.server.rotate(self.client, current, &asked).await {
                Ok(given) => {
                    let status = self.server.status(self.client, None).await.context(ASK_AGAIN)?;
                    if status.secret.is_some_and(|active| active.created == given.at) {
                        return Ok(given);
                    }
                }
                // The value that was read as the current secret has changed meanwhile.
                Err(error) if is_of_another(&error) => {}
                Err(error) => return Err(error).context(ASK_AGAIN),
            }
        }
        let asked = self.asks_anew();
        record.asked = Some(asked.clone());
        self.file.write(record)?;
        self.server.rotate(self.client, current, &asked).await.context(ASK_AGAIN)
    }

    /// Delivers the secret with the id `to`, which an earlier run made.
    async fn deliver_again(
        &mut self,
        record: Record,
        to: String,
        secret: &PlainSecret,
    ) -> anyhow::Result<Record> {
        self.server.follow(self.client, secret);
        let record = record.of(to);
        self.file.write(&record)?;
        self.deliver(record, secret).await
    }

    /// The current secret, whose id is `to`, and which was made at `since`. It may be the only one that grants access.
    async fn secret_of(
        &self,
        record: &Record,
        to: &str,
        since: &str,
        is_only: bool,
    ) -> anyhow::Result<PlainSecret> {
        if let Some(secret) = self.secrets().await?.secret {
            return Ok(secret);
        }
        let found = if self.admin.is_none() && is_only {
            // By nothing else would it have been let in.
            held(self.first()?)?
        } else {
            self.found(record, to, since).await?
        };
        found.context(if record.asked.is_some() { LOST } else { OF_OTHERS })
    }

    /// Delivers to every target. Files that have the secret stay as they are; commands are not run again once
    /// all of them have succeeded, but one that an earlier run did not have is run.
    async fn deliver(&self, mut record: Record, secret: &PlainSecret) -> anyhow::Result<Record> {
        for target in &self.files {
            target.deliver(secret).await?;
            let text = format!("Delivered: {target}");
            self.tell.event("delivered", &text, json!({ "target": target.to_string() }));
        }
        let has_run = |command: &String| record.delivered && record.commands.contains(command);
        let missing: Vec<_> = self.commands.iter().filter(|command| !has_run(command)).collect();
        if record.delivered && missing.is_empty() {
            return Ok(record);
        }
        for command in missing {
            run_command(command, secret, self.exec_timeout).await?;
            self.tell.event("delivered", &format!("Delivered: {command}"), json!({ "command": command }));
        }
        record.delivered = true;
        record.commands.clone_from(&self.commands);
        self.file.write(&record)?;
        Ok(record)
    }

    /// Waits and retires, as far as that is wanted.
    async fn end(&self, mut record: Record) -> anyhow::Result<Ending> {
        if record.asked.as_ref().is_some_and(|asked| asked.retire_after_ms.is_some()) {
            let text = "The old secret ends by itself.";
            self.tell.event("done", text, json!({ "retired": false }));
            return self.forget();
        }
        if !self.retire && self.unused_for.is_none() {
            let text = "The old secret still works. To retire it once nobody uses it: keyrelay retire";
            self.tell.event("done", text, json!({ "retired": false }));
            self.file.forget()?;
            return Ok(Ending::Done);
        }
        let from = record.from.clone();
        let mut wait = Wait::new(self.client, &from, self.unused_for, self.once, self.timeout);
        loop {
            match wait.wait(&self.server, self.tell).await.context(WAITED)? {
                Waited::Gone => return self.done(),
                Waited::Not(ending, status) => {
                    let reason = status.retiring_secret.map(|retiring| retiring.reason).unwrap_or_default();
                    return Ok(self.not_retired(ending, &reason));
                }
                Waited::Safe(status) if self.retire => match self.retire(&mut record, &status).await? {
                    Retirement::Done => return self.done(),
                    Retirement::StillInUse(reason) if self.once => {
                        return Ok(self.not_retired(Ending::StillInUse, &reason));
                    }
                    // Somebody came in the last moment: that is waited for like everybody else.
                    Retirement::StillInUse(_) => {}
                },
                Waited::Safe(_) => {
                    let text = "Nobody uses the old secret any more, as far as can be told. It still works.";
                    self.tell.event("done", text, json!({ "retired": false }));
                    self.file.forget()?;
                    return Ok(Ending::Done);
                }
            }
        }
    }

    fn not_retired(&self, ending: Ending, reason: &str) -> Ending {
        let text = format!("Not retired. {reason}\nRun the same command again to go on.");
        let event = if ending == Ending::TimedOut { "timed out" } else { "still in use" };
        self.tell.event(event, &text, json!({ "reason": reason }));
        ending
    }

    /// Retires, if the server finds in that moment what was found just now.
    async fn retire(&self, record: &mut Record, status: &SecretStatus) -> anyhow::Result<Retirement> {
        let secrets = self.secrets().await?;
        let retiring = if let Some(retiring) = secrets.retiring {
            retiring
        } else {
            let kept = self.file.kept()?;
            kept.with_context(|| format!("{} with the old secret is gone", self.file.kept_path().display()))?
        };
        self.admin.as_ref().map_or(Ok(()), |admin| admin.check_not_own(self.client, &retiring))?;
        let unused_for = status.unused_until_now(self.unused_for.unwrap_or(EVIDENCE_UNUSED_FOR_DEFAULT));
        // By this a run that goes on knows that it was this rotation that ended it.
        record.asked_to_retire = true;
        self.file.write(record)?;
        let retired = self.server.retire(self.client, &retiring, Some(unused_for)).await.context(
            "if the answer was lost, the secret was retired: run the same command again, which finds that out",
        )?;
        if matches!(retired, Retirement::Done) {
            let text = format!("Retired: {} is not accepted any more.", record.from);
            self.tell.event("retired", &text, json!({ "secret": record.from }));
        } else {
            record.asked_to_retire = false;
            self.file.write(record)?;
        }
        Ok(retired)
    }

    /// The old secret is gone: nothing of the rotation is left on the disk.
    fn done(&self) -> anyhow::Result<Ending> {
        let ended = self.forget()?;
        self.tell.event("done", "Done.", json!({ "retired": true }));
        Ok(ended)
    }

    pub(super) fn forget(&self) -> anyhow::Result<Ending> {
        self.file.forget()?;
        Ok(Ending::Done)
    }

    /// What the server shows of the secrets: to the client itself nothing, as in a project that shows them once.
    async fn secrets(&self) -> anyhow::Result<ClientSecrets> {
        if self.admin.is_none() {
            Ok(ClientSecrets::default())
        } else {
            Ok(self.server.secrets(self.client).await?)
        }
    }
}

impl Record {
    /// The record, with the secret that is current now.
    fn of(self, to: String) -> Self {
        let delivered = self.delivered && self.to.as_ref() == Some(&to);
        Self { to: Some(to), delivered, ..self }
    }
}
