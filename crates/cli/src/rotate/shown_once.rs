//! Where a project shows secrets once, nobody says what the current secret is, and what the old one was. The first
//! target holds the one, a file beside the record the other; but both may have changed, or were never written.
//!
//! The first target may be in a directory of another user, who may write anything to it. So its value is copied only
//! after the server has accepted it as the expected secret.

use anyhow::Context;
use keyrelay_core::secret::PlainSecret;
use reqwest::StatusCode;

use super::record::Record;
use super::run::Run;
use crate::admin::{Rotated, ServerError};
use crate::deliver::Target;

impl Run {
    /// The first target, which holds the secret in a project that shows it once.
    pub(super) fn first(&self) -> anyhow::Result<&Target> {
        self.files.first().context(
            "the client's project shows secrets once, so the new secret can be read from the answer only: name a \
             file with --to, which is written before anything else; it must hold the current secret",
        )
    }

    /// The current secret, in a project that shows it once. The server has not accepted it yet, so it must not be
    /// copied.
    pub(super) fn current(&self, before: Option<&Record>) -> anyhow::Result<PlainSecret> {
        let first = self.first()?;
        // If both differ, the secret in the first target has ended, and only the kept file has the one that is
        // current again.
        if before.is_some()
            && let Some(kept) = self.file.kept()?
        {
            return Ok(kept);
        }
        held(first)?.with_context(|| {
            format!(
                "{first} does not hold the current secret, which nobody else can say: the project shows it once"
            )
        })
    }

    /// What is said of a secret that was taken for the current one. If it is where it was taken from, nothing is left
    /// of the attempt, so that the right one is taken from there when it is put there.
    pub(super) fn not_current(
        &self,
        taken: &PlainSecret,
        error: anyhow::Error,
    ) -> anyhow::Result<anyhow::Error> {
        let (first, kept) = (self.first()?, self.file.kept_path());
        if held(first)?.is_some_and(|held| held.is_same_as(taken)) {
            self.forget()?;
            return Ok(
                error.context(format!("{first} does not hold the current secret; nothing was changed"))
            );
        }
        Ok(error.context(format!(
            "{} was kept as the secret that is current again; nothing was changed. If it is not, put the current one \
             into {first}, and remove that file",
            kept.display()
        )))
    }

    /// The current secret, where the server does not show it. An earlier run may have got the answer with it or not,
    /// and what the first target holds may have been put there by others.
    pub(super) async fn found(
        &self,
        record: &Record,
        to: &str,
        since: &str,
    ) -> anyhow::Result<Option<PlainSecret>> {
        let has_got = record.to.as_deref() == Some(to);
        if has_got && let Some(held) = self.held_by_first_target(record)? {
            return Ok(Some(held));
        }
        let given = self.asked_again(record).await?;
        match given {
            Some(given) if given.at == since => Ok(Some(given.secret)),
            // By now another one is current: whoever wrote that may have put it there.
            Some(ended) => {
                let held = self.held_by_first_target(record)?;
                Ok(held.filter(|held| !held.is_same_as(&ended.secret)))
            }
            None if record.to.is_none() => self.held_by_first_target(record),
            None => Ok(None),
        }
    }

    /// The answer to an earlier run, which may not have got it. None where the server gives that answer no more.
    async fn asked_again(&self, record: &Record) -> anyhow::Result<Option<Rotated>> {
        let Some(asked) = &record.asked else { return Ok(None) };
        let kept = self.file.kept()?;
        let is_kept = kept.is_some();
        // An earlier run that got no answer has not kept the old secret: the first target still has it.
        let Some(old) = kept.map_or_else(|| held(self.first()?), |kept| Ok(Some(kept)))? else {
            return Ok(None);
        };
        match self.server.rotate(self.client, &old, asked).await {
            Ok(rotated) => {
                // This answer proves that it is the old one.
                if !is_kept {
                    self.file.keep(&old)?;
                }
                Ok(Some(rotated))
            }
            Err(ServerError::Refused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the first target holds, if that is not the old secret. Without a record of how a new one was asked for,
    /// or without the old one beside it, nothing says that it is not.
    fn held_by_first_target(&self, record: &Record) -> anyhow::Result<Option<PlainSecret>> {
        let first = self.first()?;
        if record.asked.is_none() {
            return Ok(None);
        }
        Ok(match (held(first)?, self.file.kept()?) {
            (held, Some(old)) => held.filter(|held| !held.is_same_as(&old)),
            // It goes before the record does.
            (held, None) => held.filter(|_| record.delivered),
        })
    }
}

/// Whether the server said that the secret is not the one that was to be rotated: then nothing was.
pub(super) fn is_no_match(error: &anyhow::Error) -> bool {
    is_refused_by(error.downcast_ref::<ServerError>(), StatusCode::BAD_REQUEST)
}

/// Whether the server reported that the key was used for another request.
pub(super) fn is_of_another(error: &ServerError) -> bool {
    is_refused_by(Some(error), StatusCode::UNPROCESSABLE_ENTITY)
}

fn is_refused_by(error: Option<&ServerError>, by: StatusCode) -> bool {
    matches!(error, Some(ServerError::Refused { status, .. }) if *status == by)
}

/// The secret that a file holds now.
pub fn held(target: &Target) -> anyhow::Result<Option<PlainSecret>> {
    let held = target.held()?.map(PlainSecret::presented).transpose();
    held.with_context(|| format!("what {target} holds"))
}
