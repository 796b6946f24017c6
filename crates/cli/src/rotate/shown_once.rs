//! Where a project shows secrets once, nobody says what the current secret is, and what the old one was. The first
//! target holds the one, a file beside it the other; but both may have changed, or were never written.

use anyhow::Context;
use keyrelay_core::secret::PlainSecret;
use reqwest::StatusCode;

use super::record::Record;
use super::run::Run;
use crate::admin::{Rotated, ServerError};
use crate::deliver::Target;

impl Run {
    /// Where the secret is kept first in a project that shows it once, and where the old one is kept until it
    /// is retired: nobody else can say it then.
    pub(super) fn kept(&self) -> anyhow::Result<(&Target, Target)> {
        let first = self.files.first().context(
            "the client's project shows secrets once, so the new secret can be read from the answer only: name a \
             file with --to, which is written before anything else; it must hold the current secret",
        )?;
        Ok((first, kept_beside(first)))
    }

    /// The current secret, where the project shows it once, kept until it is retired; and whether an earlier run kept
    /// the same one, and so may have asked with it.
    pub(super) fn current(&self, before: Option<&Record>) -> anyhow::Result<(PlainSecret, bool)> {
        let (first, aside) = self.kept()?;
        let was_kept = if before.is_some() { held(&aside)? } else { None };
        let current = held(first)?.with_context(|| {
            format!(
                "{first} does not hold the current secret, which nobody else can say: the project shows it once"
            )
        })?;
        match was_kept {
            // What the first target got has ended, and the one that is current again is nowhere else.
            Some(kept) if !kept.is_same_as(&current) => Ok((kept, true)),
            kept => {
                aside.deliver(&current)?;
                Ok((current, kept.is_some()))
            }
        }
    }

    /// What is said of a secret that was taken for the current one. If it is where it was taken from, nothing is left
    /// of the attempt, so that the right one is taken from there when it is put there.
    pub(super) fn not_current(
        &self,
        taken: &PlainSecret,
        error: anyhow::Error,
    ) -> anyhow::Result<anyhow::Error> {
        let (first, aside) = self.kept()?;
        if held(first)?.is_some_and(|held| held.is_same_as(taken)) {
            self.forget()?;
            return Ok(
                error.context(format!("{first} does not hold the current secret; nothing was changed"))
            );
        }
        Ok(error.context(format!(
            "{aside} was kept as the secret that is current again; nothing was changed. If it is not, put the current \
             one into {first}, and remove that file"
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
        let (_, aside) = self.kept()?;
        let Some(old) = held(&aside)? else { return Ok(None) };
        match self.server.rotate(self.client, &old, asked).await {
            Ok(rotated) => Ok(Some(rotated)),
            Err(ServerError::Refused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the first target holds, if that is not the old secret. Without a record of how a new one was asked for,
    /// or without the old one beside it, nothing says that it is not.
    fn held_by_first_target(&self, record: &Record) -> anyhow::Result<Option<PlainSecret>> {
        let (first, aside) = self.kept()?;
        if record.asked.is_none() {
            return Ok(None);
        }
        Ok(match (held(first)?, held(&aside)?) {
            (held, Some(old)) => held.filter(|held| !held.is_same_as(&old)),
            // It goes before the record does.
            (held, None) => held.filter(|_| record.delivered),
        })
    }
}

/// Whether the server said that the secret is not the one that was to be rotated: then nothing was.
pub(super) fn is_no_match(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ServerError>();
    matches!(error, Some(ServerError::Refused { status: StatusCode::BAD_REQUEST, .. }))
}

/// Where the old secret is kept, beside the first target.
pub fn kept_beside(first: &Target) -> Target {
    Target::File(first.beside("retiring"))
}

/// The secret that a file holds now.
pub fn held(target: &Target) -> anyhow::Result<Option<PlainSecret>> {
    let held = target.held()?.map(PlainSecret::presented).transpose();
    held.with_context(|| format!("what {target} holds"))
}
