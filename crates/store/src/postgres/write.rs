//! A change as one serializable transaction. Its statements are sent at once and judged together, so
//! that it costs two trips: everything up to the decision, and the commit.
//!
//! Until the commit is sent nothing has happened, and the change can be tried again. Once it is sent,
//! only the database knows: if the connection is lost then, the transaction is asked after by its id.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use keyrelay_core::limits::{DATABASE_WAIT_MAX, RETRY_AFTER};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::link::Link;
use super::session::{Remedy, Session, params, remedy};
use crate::database::{Effect, Statement};
use crate::{Conflict, StoreError};

/// What one attempt came to.
enum Attempt {
    /// It is decided.
    Done(Result<(), StoreError>),
    /// Nothing has happened; the same again may succeed.
    Again,
    /// The commit was sent, and no answer came.
    Unknown(TransactionId),
}

/// What PostgreSQL calls a transaction, in its own words.
struct TransactionId(String);

type Judged<'a> = Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + 'a>>;

/// Makes a change durable, or tells why not.
pub(super) async fn commit(link: &Link, statements: Vec<Statement>) -> Result<(), StoreError> {
    if statements.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + DATABASE_WAIT_MAX;
    while Instant::now() < deadline {
        let session = link.session().await?;
        match attempt(link, &session, &statements).await {
            Attempt::Done(outcome) => return outcome,
            Attempt::Again => {}
            Attempt::Unknown(id) => match timeout(DATABASE_WAIT_MAX, ask_after(link, &id)).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(_) => return Err(StoreError::Unknown),
            },
        }
    }
    Err(StoreError::Busy)
}

async fn attempt(link: &Link, session: &Arc<Session>, statements: &[Statement]) -> Attempt {
    let id = match timeout(DATABASE_WAIT_MAX, decide(session, statements)).await {
        Ok(Ok(id)) => id,
        Ok(Err(refused)) => return give_way(link, session, refused).await,
        Err(_) => {
            link.give_up(session);
            return Attempt::Done(Err(StoreError::Busy));
        }
    };
    match timeout(DATABASE_WAIT_MAX, session.client.batch_execute("COMMIT")).await {
        Ok(Ok(())) => Attempt::Done(Ok(())),
        Ok(Err(error)) if remedy(&error) == Remedy::Repeat => Attempt::Again,
        Ok(Err(error)) if error.code().is_some() && remedy(&error) != Remedy::Reconnect => {
            tracing::error!(%error, "a commit failed");
            Attempt::Done(Err(StoreError::Busy))
        }
        Ok(Err(_)) | Err(_) => {
            link.give_up(session);
            Attempt::Unknown(id)
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
async fn decide(session: &Session, statements: &[Statement]) -> Result<TransactionId, Refused> {
    let mut prepared = Vec::with_capacity(statements.len());
    for statement in statements {
        prepared.push(session.prepared(&statement.sql).await?);
    }
    let whose = session.prepared("SELECT pg_current_xact_id()::text").await?;
    let client = &session.client;
    let mut id = None;
    let mut sent: Vec<Judged<'_>> = Vec::with_capacity(statements.len() + 2);
    sent.push(Box::pin(async {
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await.map(|()| true)
    }));
    let id_slot = &mut id;
    sent.push(Box::pin(async move {
        *id_slot = Some(client.query_one(&whose, &[]).await?.try_get::<_, String>(0)?);
        Ok(true)
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
    let effects = [Effect::Any, Effect::Any].into_iter().chain(statements.iter().map(|sent| sent.effect));
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
    id.map(TransactionId).ok_or(Refused::Conflict(Conflict::Version))
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

/// Asks what became of a transaction, until the database can tell. A server that has not noticed the
/// loss of its client says that the transaction still runs, so it is asked again.
async fn ask_after(link: &Link, id: &TransactionId) -> bool {
    loop {
        if let Ok(session) = link.session().await {
            let sql = "SELECT pg_xact_status($1::text::xid8)";
            match timeout(DATABASE_WAIT_MAX, session.client.query_one(sql, &[&id.0])).await {
                Ok(Ok(row)) => match row.try_get::<_, Option<&str>>(0) {
                    Ok(Some("committed")) => return true,
                    Ok(Some("aborted")) => return false,
                    _ => {}
                },
                _ => link.give_up(&session),
            }
        }
        sleep(RETRY_AFTER / 10).await;
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
