//! Where a rotation stands, from what an earlier run wrote down and what the server says now.

use anyhow::bail;

use super::record::Record;
use crate::admin::SecretStatus;

/// What is to be done if the client has a retiring secret that is not of an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRetiring {
    /// Say so, and do nothing.
    Refuse,
    /// It is of a rotation that was begun elsewhere: go on with that.
    Resume,
    /// It goes, whoever uses it.
    Overwrite,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing was rotated yet: the secret with this id is to go.
    Rotate {
        /// Its id.
        from: String,
    },
    /// It was rotated: the current secret is to be delivered, and the retiring one to be retired.
    Deliver {
        /// The id of the retiring secret.
        from: String,
        /// The id of the current one.
        to: String,
    },
    /// The old secret is gone already: the current one is to be delivered if it was not yet.
    Finish {
        /// The id of the current secret.
        to: String,
    },
    /// There was nothing left to be done by the earlier run when others ended the old secret, or rotated once more.
    Over {
        /// The id of the current secret.
        to: String,
    },
}

/// Says what comes next.
pub fn next(record: Option<&Record>, status: &SecretStatus, on_retiring: OnRetiring) -> anyhow::Result<Next> {
    let Some(active) = status.active_id() else {
        bail!("the client has no secret: write one first, as an admin of its project");
    };
    let retiring = status.retiring_id();
    let (from, to) = (|| active.to_owned(), || active.to_owned());
    let Some(record) = record else {
        return match (retiring, on_retiring) {
            (None, OnRetiring::Refuse | OnRetiring::Overwrite) | (Some(_), OnRetiring::Overwrite) => {
                Ok(Next::Rotate { from: from() })
            }
            (None, OnRetiring::Resume) => {
                bail!("there is nothing to resume: the client has no retiring secret")
            }
            (Some(retiring), OnRetiring::Resume) => Ok(Next::Deliver { from: retiring.to_owned(), to: to() }),
            (Some(_), OnRetiring::Refuse) => refuse(status),
        };
    };
    match retiring {
        None if active == record.from => Ok(Next::Rotate { from: from() }),
        Some(_) if active == record.from => next(None, status, on_retiring),
        Some(retiring) if retiring == record.from => {
            Ok(Next::Deliver { from: retiring.to_owned(), to: to() })
        }
        Some(_) => match on_retiring {
            OnRetiring::Refuse => bail!(
                "the client was rotated again since this rotation began, and not by it. With --resume, the current \
                 secret is delivered and the retiring one goes, if the client's project shows secrets; with --force, it \
                 is rotated once more"
            ),
            on_retiring => next(None, status, on_retiring),
        },
        None => {
            let is_undelivered = !record.delivered && record.to.as_deref().is_none_or(|made| made == active);
            let goes_on = record.asked_to_retire || is_undelivered || on_retiring == OnRetiring::Resume;
            Ok(if goes_on { Next::Finish { to: to() } } else { Next::Over { to: to() } })
        }
    }
}

fn refuse<T>(status: &SecretStatus) -> anyhow::Result<T> {
    let reason = status.retiring_secret.as_ref().map_or("", |retiring| retiring.reason.as_str());
    bail!(
        "the client has a retiring secret already, and rotating would end it at once. {reason}\n\
         Retire it first (keyrelay retire), or go on with the rotation that it is of (--resume), if the client's \
         project shows secrets, or end it now (--force)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{RetiringStatus, SlotStatus};

    fn slot(id: &str) -> SlotStatus {
        let (created, callers) = (String::new(), Vec::new());
        SlotStatus {
            id: id.to_owned(),
            created,
            uses: 0,
            uses_last_hour: 0,
            uses_last_day: 0,
            counted_since: None,
            last_used: None,
            expires: None,
            due_by: None,
            overdue: None,
            callers,
        }
    }

    fn status(active: &str, retiring: Option<&str>) -> SecretStatus {
        let retiring = retiring.map(|id| RetiringStatus {
            slot: slot(id),
            safe_to_retire: false,
            reason: "1 of 2 callers have moved.".to_owned(),
        });
        SecretStatus {
            secret: (!active.is_empty()).then(|| slot(active)),
            retiring_secret: retiring,
            refused_last_hour: 0,
            refused_last_day: 0,
            complete_until: String::new(),
            gaps_after: Vec::new(),
        }
    }

    fn record(from: &str) -> Record {
        Record {
            url: String::new(),
            client: String::new(),
            from: from.to_owned(),
            to: None,
            delivered: false,
            commands: Vec::new(),
            asked_to_retire: false,
            asked: None,
        }
    }

    /// What comes next after a run that was to move on from the secret `from`.
    fn after(from: Option<&str>, now: &SecretStatus, on_retiring: OnRetiring) -> String {
        in_words(next(from.map(record).as_ref(), now, on_retiring))
    }

    fn in_words(next: anyhow::Result<Next>) -> String {
        match next {
            Ok(Next::Rotate { from }) => format!("rotate {from}"),
            Ok(Next::Deliver { from, to }) => format!("deliver {to}, then retire {from}"),
            Ok(Next::Finish { to }) => format!("finish {to}"),
            Ok(Next::Over { to }) => format!("over with {to}"),
            Err(error) => format!("refused: {error}").split([':', '.']).take(2).collect::<Vec<_>>().join(":"),
        }
    }

    #[test]
    fn once_the_old_secret_is_gone_it_depends_on_what_was_left_to_do() {
        use OnRetiring::{Overwrite, Refuse, Resume};
        for (to, delivered, asked_to_retire, on_retiring, expected) in [
            // Killed before the answer came, or before everybody had the secret.
            (None, false, false, Refuse, "finish b"),
            (Some("b"), false, false, Refuse, "finish b"),
            // The answer to retiring was lost.
            (Some("b"), true, true, Refuse, "finish b"),
            // Others retired while it waited, or moved on to another secret.
            (Some("b"), true, false, Refuse, "over with b"),
            (Some("b"), true, false, Overwrite, "over with b"),
            (Some("b"), true, false, Resume, "finish b"),
            (Some("x"), true, false, Refuse, "over with b"),
            (Some("x"), false, false, Refuse, "over with b"),
            (Some("x"), false, false, Resume, "finish b"),
        ] {
            let to_id = to.map(str::to_owned);
            let record = Record { to: to_id, delivered, asked_to_retire, ..record("a") };
            let said = in_words(next(Some(&record), &status("b", None), on_retiring));
            assert_eq!(said, expected, "{record:?} {on_retiring:?}");
        }
    }

    #[test]
    fn every_place_leads_on() {
        use OnRetiring::{Overwrite, Refuse, Resume};
        let exists = "refused: the client has a retiring secret already, and rotating would end it at once";
        let again = "refused: the client was rotated again since this rotation began, and not by it";
        for (record, active, retiring, on_retiring, expected) in [
            (None, "a", None, Refuse, "rotate a"),
            (None, "a", None, Overwrite, "rotate a"),
            (None, "a", None, Resume, "refused: there is nothing to resume"),
            (None, "", None, Refuse, "refused: the client has no secret"),
            (None, "b", Some("a"), Refuse, exists),
            (None, "b", Some("a"), Resume, "deliver b, then retire a"),
            (None, "b", Some("a"), Overwrite, "rotate b"),
            // An earlier run ended before it rotated, after it, after it retired.
            (Some("a"), "a", None, Refuse, "rotate a"),
            (Some("a"), "b", Some("a"), Refuse, "deliver b, then retire a"),
            (Some("a"), "b", Some("a"), Overwrite, "deliver b, then retire a"),
            (Some("a"), "b", None, Refuse, "finish b"),
            // It was to overwrite a retiring one, and ended before it did.
            (Some("a"), "a", Some("z"), Overwrite, "rotate a"),
            (Some("a"), "a", Some("z"), Refuse, exists),
            // Somebody else rotated meanwhile.
            (Some("a"), "c", Some("b"), Refuse, again),
            (Some("a"), "c", Some("b"), Resume, "deliver c, then retire b"),
            (Some("a"), "c", Some("b"), Overwrite, "rotate c"),
        ] {
            let said = after(record, &status(active, retiring), on_retiring);
            assert_eq!(said, expected, "{record:?} {active} {retiring:?} {on_retiring:?}");
        }
    }
}
