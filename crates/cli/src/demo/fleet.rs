//! The fleet: workers that fetch tokens and call the API, each with its own copy of the shared
//! secret, until they are told of a new one or to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyrelay_core::secret::PlainSecret;
use reqwest::StatusCode;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::api::{Api, ClientCredentials};
use crate::stopwatch::Stopwatch;

/// What a worker does between two rounds: nothing, so that a laptop stays quiet.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the server is asked for the use of the old secret.
const GAUGES_PER_SECOND: u64 = 2;
/// See [`GAUGES_PER_SECOND`].
const GAUGE_PERIOD: Duration = Duration::from_millis(1000 / GAUGES_PER_SECOND);
/// Durations that are kept for the percentiles.
const DURATIONS_MAX: usize = 2_000_000;

/// Counted while the fleet runs.
#[derive(Debug, Default)]
pub struct Totals {
    /// Requests that were answered.
    pub requests: AtomicU64,
    /// Requests that were refused, or not answered at all.
    pub refused: AtomicU64,
    /// How often the old secret was used in the last second, by the server's own count.
    pub old_uses: AtomicU64,
}

/// Counted when the fleet has stopped.
#[derive(Debug)]
pub struct Counts {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that were refused, or not answered at all.
    pub refused: u64,
    /// How long each took, in order of size.
    pub sorted: Vec<Duration>,
}

/// Workers that run.
#[derive(Debug)]
pub struct Fleet {
    totals: Arc<Totals>,
    durations: Arc<Mutex<Vec<Duration>>>,
    /// The secret of each worker; dropping them stops the fleet.
    secrets: Vec<watch::Sender<Arc<PlainSecret>>>,
    workers: JoinSet<()>,
    gauge: AbortHandle,
}

impl Fleet {
    /// Starts `count` workers that share a client's secret.
    pub fn start(api: &Api, shared: &ClientCredentials, count: usize) -> Self {
        let totals = Arc::<Totals>::default();
        let gauge = tokio::spawn(watch_old_uses(api.clone(), Arc::clone(&totals))).abort_handle();
        let mut fleet = Self {
            totals,
            durations: Arc::default(),
            secrets: Vec::with_capacity(count),
            workers: JoinSet::new(),
            gauge,
        };
        for _ in 0..count {
            let (send, secret) = watch::channel(Arc::new(shared.secret.duplicate()));
            fleet.secrets.push(send);
            let worker = Worker {
                api: api.clone(),
                id: shared.id.clone(),
                totals: Arc::clone(&fleet.totals),
                durations: Arc::clone(&fleet.durations),
            };
            fleet.workers.spawn(worker.work(secret));
        }
        fleet
    }

    /// What was counted so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Tells one worker of a new secret.
    pub fn move_over(&self, worker: usize, secret: &PlainSecret) {
        if let Some(sender) = self.secrets.get(worker) {
            sender.send_replace(Arc::new(secret.duplicate()));
        }
    }

    /// Stops all workers after their present round.
    pub async fn stop(mut self) -> Counts {
        self.secrets.clear();
        self.gauge.abort();
        while self.workers.join_next().await.is_some() {}
        let mut sorted = std::mem::take(&mut *self.durations.lock().unwrap_or_else(PoisonError::into_inner));
        sorted.sort_unstable();
        Counts {
            requests: self.totals.requests.load(Ordering::Relaxed),
            refused: self.totals.refused.load(Ordering::Relaxed),
            sorted,
        }
    }
}

/// Asks the server, again and again, how often retiring secrets were used.
async fn watch_old_uses(api: Api, totals: Arc<Totals>) {
    let mut before = 0;
    let mut tick = tokio::time::interval(GAUGE_PERIOD);
    loop {
        tick.tick().await;
        if let Ok(now) = api.retiring_uses().await {
            totals.old_uses.store((now - before) * GAUGES_PER_SECOND, Ordering::Relaxed);
            before = now;
        }
    }
}

struct Worker {
    api: Api,
    id: String,
    totals: Arc<Totals>,
    durations: Arc<Mutex<Vec<Duration>>>,
}

impl Worker {
    async fn work(self, mut secret: watch::Receiver<Arc<PlainSecret>>) {
        // An error means that the sender is gone: the fleet is being stopped.
        while secret.has_changed().is_ok() {
            let current = Arc::clone(&secret.borrow_and_update());
            let watch = Stopwatch::start();
            let token = self.api.token(&self.id, &current).await;
            self.count(watch, token.as_ref().ok().map(|(status, _)| *status));
            if let Ok((_, Some(token))) = token {
                let watch = Stopwatch::start();
                self.count(watch, self.api.read_with_token(&self.id, &token).await.ok());
            }
            let watch = Stopwatch::start();
            self.count(watch, self.api.read_with_secret(&self.id, &current).await.ok());
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn count(&self, watch: Stopwatch, status: Option<StatusCode>) {
        self.totals.requests.fetch_add(1, Ordering::Relaxed);
        if status != Some(StatusCode::OK) {
            self.totals.refused.fetch_add(1, Ordering::Relaxed);
        }
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        if durations.len() < DURATIONS_MAX {
            durations.push(watch.elapsed());
        }
    }
}
