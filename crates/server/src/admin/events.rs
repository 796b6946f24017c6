//! `GET /admin/projects/{id}/events`: what happens to the secrets of a project, as it happens (HTML, "Server-sent
//! events"). An event's id is its number in the order of all events (`store/src/events.rs`), so whoever comes
//! back with the last one it saw misses nothing that is still kept.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use hyper::body::Frame;
use keyrelay_core::caller::Caller;
use keyrelay_core::fhir::ResourceType;
use keyrelay_core::id::ProjectId;
use keyrelay_core::limits::{
    RETRY_AFTER, STREAM_EVENTS_AT_ONCE, STREAM_HEARTBEAT, STREAM_QUEUE_MAX, STREAM_RETRY,
};
use keyrelay_core::policy::Interaction;
use keyrelay_core::time::Timestamp;
use keyrelay_store::NumberedEvent;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::answer::reached;
use crate::App;
use crate::auth::{self, ClientAddress};
use crate::budget::{self, Account};
use crate::error::Outcome;
use crate::headers::NO_STORE;
use crate::streams::{News, look};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps a proxy from collecting what should arrive at once.
const NO_BUFFER: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The type of the report that events were deleted before the reader got them.
const GAP: &str = "events.dropped";

pub(crate) async fn events(
    State(app): State<App>,
    Extension(ClientAddress(from)): Extension<ClientAddress>,
    project: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let project = project.map(|Path(project)| project).unwrap_or_default();
    let opened = async {
        if !matches!(method, Method::GET | Method::HEAD) {
            return Err(Outcome::method_not_allowed("GET"));
        }
        let caller = auth::caller(&app, &headers, from).await?;
        if !may_listen(&caller) {
            return Err(Outcome::forbidden("Only an admin of the project may listen to its events"));
        }
        let project = reached(&app, &caller, &project).await?;
        let follows = follows(query.as_deref())?;
        let last_seen = last_seen(&headers)?;
        let place =
            app.streams.place(project).map_err(|full| Outcome::at_bound(full.to_string(), RETRY_AFTER))?;
        // From here on nothing is missed: what comes meanwhile is news.
        let news = app.streams.listen();
        look(&app).await;
        let until = auth::bearer(&app, &headers).map(|token| token.expires);
        let (seen, gaps_after) = start(&app, project, last_seen, follows).await?;
        let stream = Stream {
            app: app.clone(),
            caller,
            from,
            project,
            until,
            seen,
            gaps_after,
            news,
            follows,
            account: budget::current(),
        };
        Ok((stream, place))
    };
    let (stream, place) = match opened.await {
        Ok(opened) => opened,
        Err(outcome) => return outcome.into_response(),
    };
    let (queue, pieces) = mpsc::channel(STREAM_QUEUE_MAX);
    if method == Method::GET {
        tokio::spawn(async move {
            tokio::select! {
                () = place.ended() => tracing::debug!("the place of a stream was given to another project"),
                () = stream.run(queue) => {}
            }
        });
    }
    let headers = [(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, NO_STORE), NO_BUFFER];
    (headers, Body::new(Pieces(pieces))).into_response()
}

/// An event tells of the secrets of every client, without the exceptions that a policy makes.
fn may_listen(caller: &Caller) -> bool {
    caller.is_admin() && caller.may_all(Interaction::Read, ResourceType::ClientApplication)
}

/// Whether the stream stays open for what comes.
fn follows(query: Option<&str>) -> Result<bool, Outcome> {
    match query.unwrap_or_default() {
        "" | "follow=true" => Ok(true),
        "follow=false" => Ok(false),
        _ => Err(Outcome::invalid("The one parameter is follow, which is true or false")),
    }
}

fn last_seen(headers: &HeaderMap) -> Result<Option<i64>, Outcome> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|seq| *seq >= 0);
    let refused = || Outcome::invalid("Last-Event-ID must be the id of an event of this stream");
    seq.map(Some).ok_or_else(refused)
}

/// The number after which the stream begins, and the number after which deleted events are a gap. A new reader gets
/// the events from now on, or all kept ones if it does not follow. A number in the future is from another copy of the
/// database, so that reader gets all kept events too. A reader that gets all kept events has no gap.
async fn start(
    app: &App,
    project: ProjectId,
    last_seen: Option<i64>,
    follows: bool,
) -> Result<(i64, i64), Outcome> {
    let last = app.store.last_event().await?;
    Ok(match last_seen {
        Some(seen) if seen <= last => (seen, seen),
        None if follows => (last, last),
        _ => (0, app.store.events_dropped_up_to(project).await?),
    })
}

/// One stream.
struct Stream {
    app: App,
    caller: Caller,
    from: IpAddr,
    project: ProjectId,
    /// When the token expires by which it was opened.
    until: Option<Timestamp>,
    /// The number of the last event that was looked at.
    seen: i64,
    /// Deleted events after this number have not been reported as a gap yet.
    gaps_after: i64,
    news: watch::Receiver<News>,
    follows: bool,
    /// Pays for the pieces that wait to be sent.
    account: Option<Account>,
}

impl Stream {
    /// Sends what there is and what comes, until nobody listens, the caller may not any more, or the server stops.
    async fn run(mut self, queue: mpsc::Sender<Bytes>) {
        // The id by itself is no event, and is where to go on from if the connection breaks before the first.
        let hello = format!("retry: {}\nid: {}\n\n", STREAM_RETRY.as_millis(), self.seen);
        if !self.send(&queue, hello).await {
            return;
        }
        loop {
            let News::UpTo(last) = *self.news.borrow_and_update() else { return };
            while self.seen < last {
                let Some(text) = self.next().await else { return };
                if text.is_empty() {
                    break;
                }
                if !self.send(&queue, text).await {
                    return;
                }
            }
            self.seen = self.seen.max(last);
            if !self.follows {
                return;
            }
            let patience = self.patience();
            let changed = tokio::select! {
                () = queue.closed() => return,
                changed = timeout(patience, self.news.changed()) => changed,
            };
            let goes_on = match changed {
                Ok(changed) => changed.is_ok(),
                // A comment, by which either end notices that the other is gone.
                Err(_) => {
                    self.is_still_allowed().await && queue.send(Bytes::from_static(b":\n\n")).await.is_ok()
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends a piece. False if the stream has ended: the reader has gone, or too many bytes wait to be sent. A reader
    /// that reconnects misses nothing.
    async fn send(&self, queue: &mpsc::Sender<Bytes>, text: String) -> bool {
        let piece = match &self.account {
            Some(account) => account.piece(text),
            None => Ok(text.into()),
        };
        match piece {
            Ok(piece) => queue.send(piece).await.is_ok(),
            Err(_) => false,
        }
    }

    /// How long nothing may happen until the caller is looked at again.
    fn patience(&self) -> Duration {
        self.until.map_or(STREAM_HEARTBEAT, |until| STREAM_HEARTBEAT.min(until.since(self.app.now())))
    }

    /// The next events of the project, if the caller may still hear them; nothing where there are none. None where
    /// the stream is over.
    async fn next(&mut self) -> Option<String> {
        if !self.is_still_allowed().await {
            return None;
        }
        let found = self.app.store.events_after(self.seen, self.project, STREAM_EVENTS_AT_ONCE).await;
        // Whoever listens comes back, and goes on where it was.
        let found = found.inspect_err(|error| tracing::warn!(%error, "a stream of events broke off")).ok()?;
        // Read after the events, so that the gap covers everything deleted before they were read.
        let gap = self.gap().await?;
        if let Some(last) = found.last() {
            self.seen = last.seq;
        }
        Some(gap.into_iter().chain(found.iter().map(written)).collect())
    }

    /// Reports a gap if events after those that were sent have been deleted. The report has no id, so a reader that
    /// reconnects before its next event gets it again. `None` if the stream has ended.
    async fn gap(&mut self) -> Option<Option<String>> {
        let dropped = self.app.store.events_dropped_up_to(self.project).await;
        let dropped =
            dropped.inspect_err(|error| tracing::warn!(%error, "a stream of events broke off")).ok()?;
        let after = self.gaps_after.max(self.seen);
        if dropped <= after {
            return Some(None);
        }
        self.gaps_after = dropped;
        let payload = json!({
            "type": GAP,
            "timestamp": self.app.now().to_instant(),
            "data": { "project": format!("Project/{}", self.project), "after": after, "upTo": dropped },
        });
        Some(Some(format!("event: {GAP}\ndata: {payload}\n\n")))
    }

    async fn is_still_allowed(&self) -> bool {
        if self.until.is_some_and(|until| until <= self.app.now()) {
            return false;
        }
        let caller = auth::again(&self.app, &self.caller, self.from).await;
        caller.is_ok_and(|caller| may_listen(&caller) && caller.reaches(self.project))
    }
}

/// An event as it goes over the wire. Its payload is one line, as JSON without white space is.
fn written(NumberedEvent { seq, kind, payload }: &NumberedEvent) -> String {
    format!("id: {seq}\nevent: {}\ndata: {payload}\n\n", kind.as_str())
}

/// A body that comes in pieces.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
