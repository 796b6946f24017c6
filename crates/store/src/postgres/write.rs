//! A change as one serializable transaction. Its statements are sent at once and judged together, so
//! that it costs two trips: everything up to the decision, and the commit.
//!
//! Until the commit is sent nothing has happened, and the change can be tried again. If no answer to the
//! commit comes, the change is in doubt: it may have been made, may be made later, or never. The id of
//! the transaction does not help, because a server that crashed gives it out again. Two things do: a
//! version that only this change can have made, and that the same change cannot be made twice, so that
//! making it again succeeds only if it was not made before.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use keyrelay_core::limits::DATABASE_WAIT_MAX;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::link::Link;
use super::session::{Failed, Plan, Remedy, Session, params, remedy};
use crate::audit::Chain;
use crate::change::Change;
use crate::database::{Effect, Statement};
use crate::{Conflict, StoreError};

/// Changes nothing, and is written down all the same.
pub(super) const COMMIT_OF_ONES_OWN: &str =
    "BEGIN READ WRITE; UPDATE schema_version SET needs = needs WHERE version = 1; COMMIT";

/// What one attempt came to.
enum Attempt {
    /// It is decided.
    Done(Result<(), StoreError>),
    /// Nothing has happened; the same again may succeed.
    Again,
    /// The commit was sent, and no answer came.
    InDoubt,
}

type Judged<'a> = Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + 'a>>;

/// Makes a change durable, or tells why not: by `deadline` if it was not begun by then, and at most
/// [`DATABASE_WAIT_MAX`] later if it is in doubt.
pub(super) async fn commit(
    link: &Link,
    change: Change,
    chain: &mut Chain,
    deadline: Instant,
) -> Result<(), StoreError> {
    let witness = change.witness();
    let (mut statements, records) = change.into_parts();
    if statements.is_empty() {
        return Ok(());
    }
    let (links, longer) = chain.with(&records)?;
    statements.extend(links);
    while Instant::now() < deadline {
        let session = link.session(deadline).await?;
        match attempt(link, &session, &statements, deadline).await {
            Attempt::Done(outcome) => {
                if outcome.is_ok() {
                    *chain = longer;
                }
                return outcome;
            }
            Attempt::Again => {}
            Attempt::InDoubt => {
                // Whatever becomes of these links, none comes after them.
                chain.leave();
                let resolved = resolve(link, &statements, witness.as_ref());
                return timeout(DATABASE_WAIT_MAX, resolved).await.unwrap_or(Err(StoreError::Unknown));
            }
        }
    }
    Err(StoreError::Busy)
}

/// Ends chains in order, as far as that can be done at once.
pub(super) async fn end(link: &Link, chains: Vec<Chain>) {
    let ends: Vec<Statement> = chains.into_iter().filter_map(Chain::end).collect();
    let deadline = Instant::now() + DATABASE_WAIT_MAX;
    if ends.is_empty() {
        return;
    }
    let Ok(session) = link.session(deadline).await else { return };
    if !matches!(attempt(link, &session, &ends, deadline).await, Attempt::Done(Ok(()))) {
        tracing::warn!("the chains of audit records could not be ended");
    }
}

/// Finds out what became of a change in doubt, by making it again. What is answered is true of all
/// attempts together.
async fn resolve(
    link: &Link,
    statements: &[Statement],
    witness: Option<&Statement>,
) -> Result<(), StoreError> {
    let once = statements.iter().any(|statement| matches!(statement.effect, Effect::ChangesOne(_)));
    if !once {
        return Err(StoreError::Unknown);
    }
    let until = Instant::now() + DATABASE_WAIT_MAX;
    loop {
        let session = link.session(until).await.map_err(|_| StoreError::Unknown)?;
        if let Some(witness) = witness
            && let Some(was_made) = was_made(link, &session, witness).await
        {
            if was_made {
                return Ok(());
            }
        } else if witness.is_some() {
            continue;
        }
        match attempt(link, &session, statements, until).await {
            Attempt::Done(Ok(())) => return Ok(()),
            // Either an earlier attempt was made, which the witness will tell; or another change was,
            // and then no earlier attempt can be any more.
            Attempt::Done(Err(StoreError::Conflict(Conflict::Version))) if let Some(witness) = witness => {
                match was_made(link, &session, witness).await {
                    Some(true) => return Ok(()),
                    Some(false) => return Err(Conflict::Version.into()),
                    None => {}
                }
            }
            // An earlier attempt may have been made, or may wait where no later one can see it.
            Attempt::Done(Err(StoreError::Busy)) | Attempt::Again | Attempt::InDoubt => {}
            Attempt::Done(Err(_)) => return Err(StoreError::Unknown),
        }
    }
}

/// Whether a change was made, as far as can be seen now; none if nobody answers.
async fn was_made(link: &Link, session: &Arc<Session>, witness: &Statement) -> Option<bool> {
    let asked = async {
        if session.fetch(&witness.sql, &witness.args, Plan::Kept).await?.is_empty() {
            return Ok(false);
        }
        // After a crash a primary shows what its standby does not have yet. A commit of one's own returns
        // only when the standby has everything before it.
        session.client.batch_execute(COMMIT_OF_ONES_OWN).await?;
        Ok::<_, Failed>(true)
    };
    let outcome = timeout(DATABASE_WAIT_MAX, asked).await;
    if !matches!(outcome, Ok(Ok(_))) {
        link.give_up(session);
    }
    outcome.ok()?.ok()
}

async fn attempt(
    link: &Link,
    session: &Arc<Session>,
    statements: &[Statement],
    deadline: Instant,
) -> Attempt {
    match timeout_at(deadline, decide(session, statements)).await {
        Ok(Ok(())) => {}
        Ok(Err(refused)) => return give_way(link, session, refused).await,
        Err(_) => {
            link.give_up(session);
            return Attempt::Done(Err(StoreError::Busy));
        }
    }
    match timeout(DATABASE_WAIT_MAX, session.client.batch_execute("COMMIT")).await {
        Ok(Ok(())) => return Attempt::Done(Ok(())),
        Ok(Err(error)) if let Some(refused) = commit_refused(&error) => return refused,
        Ok(Err(_)) | Err(_) => {}
    }
    session.doubt_commit();
    link.give_up(session);
    Attempt::InDoubt
}

/// What a commit came to that the server refused; none if it did not say that nothing was made.
fn commit_refused(error: &Error) -> Option<Attempt> {
    let state = error.code()?;
    if *state == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN {
        return None;
    }
    match remedy(error) {
        Remedy::Reconnect => None,
        Remedy::Repeat => Some(Attempt::Again),
        Remedy::Wait | Remedy::None => {
            tracing::error!(%error, "a commit failed");
            Some(Attempt::Done(Err(StoreError::Busy)))
        }
    }
}

/// Why a transaction goes no further.
enum Refused {
    Conflict(Conflict),
    Postgres(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

/// Sends everything but the commit, and judges the statements in their order.
async fn decide(session: &Session, statements: &[Statement]) -> Result<(), Refused> {
    let mut prepared = Vec::with_capacity(statements.len());
    for statement in statements {
        prepared.push(session.prepared(&statement.sql).await?);
    }
    let client = &session.client;
    let mut sent: Vec<Judged<'_>> = Vec::with_capacity(statements.len() + 1);
    sent.push(Box::pin(async {
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE").await.map(|()| true)
    }));
    for (statement, prepared) in statements.iter().zip(&prepared) {
        sent.push(Box::pin(async move {
            let params = params(&statement.args);
            Ok(match statement.effect {
                Effect::FindsOne(_) => !client.query(prepared, &params).await?.is_empty(),
                Effect::FindsNone(_) => client.query(prepared, &params).await?.is_empty(),
                Effect::ChangesOne(_) => client.execute(prepared, &params).await? == 1,
                Effect::Any => client.execute(prepared, &params).await.map(|_| true)?,
            })
        }));
    }
    let outcomes = in_order(sent).await;
    let effects = [Effect::Any].into_iter().chain(statements.iter().map(|sent| sent.effect));
    for (outcome, effect) in outcomes.into_iter().zip(effects) {
        match (outcome, effect) {
            (Ok(true), _) | (Ok(false), Effect::Any) => {}
            (Ok(false), Effect::ChangesOne(why) | Effect::FindsOne(why) | Effect::FindsNone(why)) => {
                return Err(Refused::Conflict(why));
            }
            (Err(error), effect) if is_constraint(&error) => {
                return Err(Refused::Conflict(match effect {
                    Effect::ChangesOne(why) => why,
                    _ => Conflict::Id,
                }));
            }
            (Err(error), _) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_constraint(error: &Error) -> bool {
    error
        .code()
        .is_some_and(|state| *state == SqlState::UNIQUE_VIOLATION || *state == SqlState::EXCLUSION_VIOLATION)
}

/// Ends a transaction that is not to be committed.
async fn give_way(link: &Link, session: &Arc<Session>, refused: Refused) -> Attempt {
    let remedy = match &refused {
        Refused::Conflict(_) => Remedy::None,
        Refused::Postgres(error) => remedy(error),
    };
    let rolled_back = remedy != Remedy::Reconnect
        && timeout(DATABASE_WAIT_MAX, session.client.batch_execute("ROLLBACK"))
            .await
            .is_ok_and(|done| done.is_ok());
    if !rolled_back {
        link.give_up(session);
    }
    match (refused, remedy) {
        (Refused::Conflict(conflict), _) => Attempt::Done(Err(conflict.into())),
        (Refused::Postgres(_), Remedy::Repeat | Remedy::Reconnect) => Attempt::Again,
        (Refused::Postgres(error), Remedy::Wait) => {
            tracing::error!(%error, "a statement failed");
            Attempt::Done(Err(StoreError::Busy))
        }
        (Refused::Postgres(error), Remedy::None) => {
            let error = StoreError::from(error);
            tracing::error!(%error, "a statement failed");
            Attempt::Done(Err(error))
        }
    }
}

/// Starts futures in their order, which is the order in which the driver sends, and waits for all.
async fn in_order(mut sent: Vec<Judged<'_>>) -> Vec<Result<bool, Error>> {
    let mut outcomes: Vec<Option<Result<bool, Error>>> = sent.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, outcome) in sent.iter_mut().zip(&mut outcomes) {
            if outcome.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(done) => *outcome = Some(done),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}
