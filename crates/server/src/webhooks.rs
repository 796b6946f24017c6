//! Delivers events to webhooks: at least once, whatever ends meanwhile, for the deliveries and what became of
//! them are in the database. A webhook has its turn, by which this server has it to itself; several have theirs
//! at once, so that a slow receiver holds up nobody but itself.
//!
//! Nothing that decides who gets in waits for any of this.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use keyrelay_core::id::WebhookId;
use keyrelay_core::limits::{
    WEBHOOK_ANSWER_BYTES_MAX, WEBHOOK_DELIVERIES_AT_ONCE_MAX, WEBHOOK_DELIVERIES_PER_TURN, WEBHOOK_INTERVAL,
    WEBHOOK_LEASE, WEBHOOK_TIMEOUT, WEBHOOK_TURN, WEBHOOK_TURNS_AT_ONCE_MAX, WEBHOOK_WAKES_APART,
};
use keyrelay_core::reach::Reach;
use keyrelay_core::time::Timestamp;
use keyrelay_core::webhook::{SigningSecret, rest_after, retry_at};
use keyrelay_store::{Change, Conflict, Delivery, DueWebhook, StoreError, Webhook};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::App;
use crate::outbound::{Bounds, Outbound, OutboundError, OutboundUri};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What deliveries go out by.
pub(crate) struct Deliverer {
    outbound: Outbound,
    /// The webhooks that have their turn at this server.
    at_work: Mutex<HashSet<WebhookId>>,
}

impl Deliverer {
    pub(crate) fn new(reach: Reach) -> Self {
        let bounds = Bounds {
            timeout: WEBHOOK_TIMEOUT,
            at_once_max: WEBHOOK_DELIVERIES_AT_ONCE_MAX,
            body_bytes_max: WEBHOOK_ANSWER_BYTES_MAX,
        };
        Self { outbound: Outbound::new(reach, bounds), at_work: Mutex::default() }
    }

    fn at_work(&self) -> MutexGuard<'_, HashSet<WebhookId>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a delivery failed: what an admin is shown. Nothing of what the receiver said is in it.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    NoAnswer(#[from] OutboundError),
    #[error("the answer has the status {}; redirects are not followed", .0.as_u16())]
    Status(StatusCode),
    #[error("the URL is none that this server speaks to any more")]
    Url,
    #[error("its signing secret does not open under any master key")]
    Unsigned,
}

impl Problem {
    const fn is_gone(&self) -> bool {
        matches!(self, Self::Status(StatusCode::GONE))
    }
}

/// Delivers what is due, now and whenever something comes, until the server drains. What is under way then is
/// finished.
pub(crate) async fn run(app: App, mut draining: watch::Receiver<bool>) {
    if !app.store.is_shared() && !app.store.refuses_changes() {
        let mut change = Change::new();
        change.take_over_webhooks(app.now());
        if let Err(error) = app.store.commit(change).await {
            tracing::warn!(%error, "webhooks that were under way wait until their lease is over");
        }
    }
    let mut told = app.store.events_told();
    let mut tick = tokio::time::interval(WEBHOOK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turns = JoinSet::new();
    let (mut woken, mut looked) = (false, Instant::now());
    loop {
        let mut look_around = false;
        tokio::select! {
            biased;
            _ = draining.wait_for(|draining| *draining) => break,
            Some(_) = turns.join_next() => {}
            _ = tick.tick() => look_around = true,
            // Many changes in a row wake this once in a while only.
            () = sleep_until(looked + WEBHOOK_WAKES_APART), if woken => {}
            changed = told.changed(), if !woken => {
                if changed.is_err() {
                    break;
                }
                woken = true;
                continue;
            }
        }
        (woken, looked) = (false, Instant::now());
        if app.store.refuses_changes() {
            continue;
        }
        if look_around && let Err(error) = count(&app).await {
            tracing::warn!(%error, "it could not be counted what was told and is to be delivered");
        }
        begin_turns(&app, &mut turns).await;
    }
    while turns.join_next().await.is_some() {}
}

/// Counts what cannot be counted when it happens.
async fn count(app: &App) -> Result<(), StoreError> {
    app.store.count_perhaps_told().await?;
    app.metrics.deliveries_pending.set(app.store.deliveries_pending().await?);
    Ok(())
}

/// Begins a turn of each webhook to which something is due, as far as there is room.
async fn begin_turns(app: &App, turns: &mut JoinSet<()>) {
    let limit = i64::try_from(WEBHOOK_TURNS_AT_ONCE_MAX).unwrap_or(i64::MAX);
    let due = match app.store.due_webhooks(app.now(), limit).await {
        Ok(due) => due,
        Err(error) => return tracing::warn!(%error, "it could not be looked for webhooks that are due"),
    };
    for webhook in due {
        if turns.len() >= WEBHOOK_TURNS_AT_ONCE_MAX {
            return;
        }
        if let Some(begun) = Turn::begin(app, webhook.id) {
            let app = app.clone();
            turns.spawn(async move {
                if let Err(error) = turn(&app, webhook).await {
                    tracing::warn!(webhook = %webhook.id, %error, "deliveries stopped; they are tried again");
                }
                drop(begun);
            });
        }
    }
}

/// That a webhook has its turn at this server, until this is dropped.
struct Turn {
    app: App,
    webhook: WebhookId,
}

impl Turn {
    /// None if it has its turn already.
    fn begin(app: &App, webhook: WebhookId) -> Option<Self> {
        app.webhooks.at_work().insert(webhook).then(|| Self { app: app.clone(), webhook })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.app.webhooks.at_work().remove(&self.webhook);
    }
}

/// Delivers to one webhook for a while.
async fn turn(app: &App, due: DueWebhook) -> Result<(), StoreError> {
    let until = app.now().plus(WEBHOOK_LEASE);
    let mut change = Change::new();
    change.lease_webhook(&due, until);
    match app.store.commit(change).await {
        // Another server has it.
        Err(StoreError::Conflict(Conflict::Version)) => return Ok(()),
        leased => leased?,
    }
    let outcome = deliver(app, due).await;
    let mut change = Change::new();
    change.release_webhook(due.id, until, app.now());
    app.store.commit(change).await?;
    outcome
}

async fn deliver(app: &App, due: DueWebhook) -> Result<(), StoreError> {
    let ends = Instant::now() + WEBHOOK_TURN;
    let limit = i64::try_from(WEBHOOK_DELIVERIES_PER_TURN).unwrap_or(i64::MAX);
    while Instant::now() < ends {
        // Read anew each time: its secret may have been rotated, or it may be gone.
        let Some(webhook) = app.store.webhook(due.id).await?.filter(|webhook| webhook.disabled.is_none())
        else {
            return Ok(());
        };
        let deliveries = app.store.due_deliveries(due.id, app.now(), limit).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        let sender = Arc::new(Sender::new(app, &webhook));
        let mut attempts = JoinSet::new();
        for delivery in deliveries {
            let (app, sender) = (app.clone(), Arc::clone(&sender));
            attempts.spawn(async move {
                let outcome = sender.send(&app, &delivery).await;
                (delivery, outcome)
            });
        }
        let done = attempts.join_all().await;
        if !write_down(app, due, &done).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes down what became of some attempts. Says whether to go on.
async fn write_down(
    app: &App,
    due: DueWebhook,
    done: &[(Delivery, Result<(), Problem>)],
) -> Result<bool, StoreError> {
    let (now, mut change, mut last_problem) = (app.now(), Change::new(), None);
    for (delivery, outcome) in done {
        let Err(problem) = outcome else {
            app.metrics.count_delivery("delivered");
            change.delivered(due.id, delivery.event, now);
            continue;
        };
        let attempts = delivery.attempts.saturating_add(1);
        let again = retry_at(delivery.happened, attempts, now, app.entropy.as_ref());
        app.metrics.count_delivery(if again.is_some() { "failed" } else { "dead" });
        if again.is_none() {
            tracing::warn!(webhook = %due.id, event = %delivery.event, "a delivery was given up");
        }
        change.not_delivered(due.id, delivery.event, again);
        if last_problem.as_ref().is_none_or(|last: &&Problem| !last.is_gone()) {
            last_problem = Some(problem);
        }
    }
    if let Some(problem) = last_problem {
        let text = problem.to_string();
        tracing::info!(webhook = %due.id, problem = text, "a delivery failed");
        let rest = rest_after(due.failures.saturating_add(1));
        change.webhook_failed(due.id, &text, now, now.plus(rest));
        if problem.is_gone() {
            tracing::warn!(webhook = %due.id, "the receiver of a webhook says that it is gone: nothing is sent to it any more");
            change.disable_webhook(due.id, now);
        }
    }
    app.store.commit(change).await?;
    Ok(last_problem.is_none())
}

/// Where the deliveries of a turn go, and what they are signed with.
struct Sender {
    uri: Option<OutboundUri>,
    secrets: Vec<SigningSecret>,
}

impl Sender {
    fn new(app: &App, webhook: &Webhook) -> Self {
        let retiring =
            webhook.retiring.iter().filter(|(_, ends)| app.now() < *ends).map(|(sealed, _)| sealed);
        let opened = std::iter::once(&webhook.signing).chain(retiring).filter_map(|sealed| {
            let opened = app.keyring.open_signing_secret(webhook.id, sealed);
            opened
                .inspect_err(
                    |error| tracing::error!(webhook = %webhook.id, %error, "a delivery cannot be signed"),
                )
                .ok()
        });
        // What was good when it was registered need not be so under this server's settings.
        let uri = OutboundUri::parse(&webhook.url, app.config.base_url.reach()).ok();
        Self { uri, secrets: opened.collect() }
    }

    async fn send(&self, app: &App, delivery: &Delivery) -> Result<(), Problem> {
        let uri = self.uri.as_ref().ok_or(Problem::Url)?;
        if self.secrets.is_empty() {
            return Err(Problem::Unsigned);
        }
        let answer = app.webhooks.outbound.send(uri, self.request(delivery, app.now())).await?;
        if answer.status.is_success() { Ok(()) } else { Err(Problem::Status(answer.status)) }
    }

    /// One attempt (Standard Webhooks, "Webhook headers").
    fn request(&self, delivery: &Delivery, now: Timestamp) -> Request<Bytes> {
        let id = delivery.event.to_string();
        let body = Bytes::from(delivery.payload.clone());
        let signatures: Vec<String> =
            self.secrets.iter().map(|secret| secret.sign(&id, now, &body)).collect();
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let mut request = Request::post("/").body(body).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(WEBHOOK_ID, value(&id));
        headers.insert(WEBHOOK_TIMESTAMP, HeaderValue::from(now.epoch_seconds()));
        headers.insert(WEBHOOK_SIGNATURE, value(&signatures.join(" ")));
        request
    }
}
