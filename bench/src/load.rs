//! The load generator: keep-alive connections that each send one prepared request after another.
//!
//! It shares the cores with the server it measures, so it is made to cost little: one thread, requests formatted
//! beforehand, one reused buffer for each connection, one histogram for all. Bounded in time, count and connections,
//! and only ever pointed at this machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::clock;
use crate::http::{self, Target};

/// The longest run, in seconds.
pub const SECONDS_MAX: u64 = 600;
const CONNECTIONS_MAX: usize = 1024;
const REQUESTS_MAX: u64 = 100_000_000;
/// How often one connection is opened anew before the run gives up on it.
const RECONNECTS_MAX: u32 = 100;
/// How long answers that are under way when the time is over are waited for.
const GRACE: Duration = Duration::from_secs(10);

/// What one connection sends. It hears each answer before it is asked for the next request.
pub trait Source: 'static {
    /// The next request, as bytes for the wire.
    fn request(&mut self) -> &[u8];

    /// The answer to the last request.
    fn answered(&mut self, _status: u16, _body: &[u8]) {}
}

/// The same few requests again and again.
#[derive(Debug)]
pub struct Cycle {
    requests: Arc<[Vec<u8>]>,
    next: usize,
}

impl Cycle {
    /// One source for each of `connections`, spread over the requests so that they do not walk in step.
    ///
    /// # Panics
    /// When `requests` is empty.
    #[must_use]
    pub fn spread(requests: Vec<Vec<u8>>, connections: usize) -> Vec<Self> {
        assert!(!requests.is_empty(), "a load needs at least one request");
        let requests: Arc<[Vec<u8>]> = requests.into();
        let stride = requests.len().div_ceil(connections.max(1));
        (0..connections)
            .map(|connection| Self {
                next: connection * stride % requests.len(),
                requests: Arc::clone(&requests),
            })
            .collect()
    }
}

impl Source for Cycle {
    fn request(&mut self) -> &[u8] {
        let current = self.next;
        self.next = (current + 1) % self.requests.len();
        &self.requests[current]
    }
}

/// Where a load goes and when it ends: after `duration`, or earlier after about `requests_max` requests.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The server under load.
    pub target: Target,
    /// No request is sent later than this after the start.
    pub duration: Duration,
    /// No request is sent after about as many answers.
    pub requests_max: u64,
}

impl Plan {
    /// A load that ends only by time.
    #[must_use]
    pub fn timed(target: Target, duration: Duration) -> Self {
        Self { target, duration, requests_max: REQUESTS_MAX }
    }
}

/// Latencies in a histogram of fixed size, three digits exact.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// # Panics
    /// Never: the bounds are constants that the histogram accepts.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are valid"))
    }

    /// Counts one request; beyond a minute, as a minute.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The latency that the given share of requests (0 to 1) did not exceed.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(share))
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// Takes in what another run recorded.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, which is the only thing that could differ.
        let _ = self.0.add(&other.0);
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Whole answers received, of any status.
    pub answers: u64,
    /// The same, by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Connections that ended or broke before the answer was there.
    pub broken: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From writing each request to the last byte of its answer.
    pub latencies: Latencies,
}

impl Outcome {
    /// Answers with a status from 200 to 299.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.by_status.range(200..300).map(|(_, count)| count).sum()
    }

    /// Everything that was not a good answer.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.answers - self.good() + self.broken
    }

    /// Good answers per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        rate(self.good(), self.elapsed)
    }

    /// Takes in another round of the same load.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.broken += other.broken;
        self.elapsed += other.elapsed;
        self.latencies.add(&other.latencies);
        for (status, count) in &other.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
    }
}

/// Events per second; 0 when no time passed.
#[must_use]
pub fn rate(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let count = count as f64;
        count / seconds
    } else {
        0.0
    }
}

/// Runs the load, one connection for each source, and waits for its end.
///
/// # Errors
/// When the plan is out of bounds, the server cannot be reached at the start, or answers what is not HTTP.
pub fn run<S: Source>(plan: Plan, sources: Vec<S>) -> Result<Outcome> {
    ensure!((1..=CONNECTIONS_MAX).contains(&sources.len()), "a load has 1 to {CONNECTIONS_MAX} connections");
    ensure!(
        plan.duration <= Duration::from_secs(SECONDS_MAX) && plan.requests_max <= REQUESTS_MAX,
        "a load lasts at most {SECONDS_MAX} seconds and {REQUESTS_MAX} requests"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, drive(plan, sources))
}

async fn drive<S: Source>(plan: Plan, sources: Vec<S>) -> Result<Outcome> {
    let mut connections = Vec::with_capacity(sources.len());
    for source in sources {
        connections.push((connect(plan.target).await?, source));
    }
    let tally = Rc::new(RefCell::new(Outcome::default()));
    let start = clock::now();
    let tasks: Vec<_> = connections
        .into_iter()
        .map(|(stream, source)| {
            let worker = Worker { plan, start, tally: Rc::clone(&tally) };
            tokio::task::spawn_local(tokio::time::timeout(plan.duration + GRACE, worker.run(stream, source)))
        })
        .collect();
    for task in tasks {
        task.await?.context("a request was not answered within 10 seconds of the end of the load")??;
    }
    let mut outcome = tally.take();
    outcome.elapsed = clock::since(start);
    Ok(outcome)
}

async fn connect(target: Target) -> Result<TcpStream> {
    let stream = TcpStream::connect(target.address()).await.context("connecting to the server under load")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Worker {
    plan: Plan,
    start: Instant,
    tally: Rc<RefCell<Outcome>>,
}

impl Worker {
    async fn run<S: Source>(self, mut stream: TcpStream, mut source: S) -> Result<()> {
        let mut buffer = Vec::with_capacity(16 * 1024);
        let mut reconnects = 0;
        let mut before = clock::now();
        while before.saturating_duration_since(self.start) < self.plan.duration {
            let answer = exchange(&mut stream, source.request(), &mut buffer).await?;
            let after = clock::now();
            let usable = {
                let mut tally = self.tally.borrow_mut();
                if let Some(head) = answer {
                    tally.answers += 1;
                    *tally.by_status.entry(head.status).or_default() += 1;
                    tally.latencies.record(after.saturating_duration_since(before));
                    source.answered(head.status, &buffer[head.head_bytes..head.length()]);
                }
                let usable = answer.is_some_and(|head| !head.closes);
                tally.broken += u64::from(!usable);
                if tally.answers >= self.plan.requests_max {
                    return Ok(());
                }
                usable
            };
            before = after;
            if !usable {
                reconnects += 1;
                ensure!(
                    reconnects <= RECONNECTS_MAX,
                    "the server ended one connection {RECONNECTS_MAX} times"
                );
                stream = connect(self.plan.target).await?;
            }
        }
        Ok(())
    }
}

/// Sends a request and reads its answer into `buffer`; `None` when the connection ended before the answer was whole.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<Option<http::Head>> {
    if stream.write_all(request).await.is_err() {
        return Ok(None);
    }
    buffer.clear();
    let mut head = None;
    loop {
        match stream.read_buf(buffer).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(None),
        }
        if head.is_none() {
            head = http::head(buffer)?;
        }
        if let Some(head) = head {
            ensure!(buffer.len() <= head.length(), "the answer is longer than it says");
            if buffer.len() == head.length() {
                return Ok(Some(head));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A server that answers each request on each connection with the next of `answers`, then closes.
    fn scripted(connections: usize, answers: &'static [&'static str]) -> Result<Target> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let target = Target::new(listener.local_addr()?)?;
        std::thread::spawn(move || {
            for stream in listener.incoming().take(connections) {
                let mut stream = stream.expect("a connection");
                let mut received = [0; 4096];
                for answer in answers {
                    if stream.read(&mut received).unwrap_or(0) == 0 {
                        break;
                    }
                    stream.write_all(answer.as_bytes()).expect("writing an answer");
                }
            }
        });
        Ok(target)
    }

    fn plan(target: Target, requests_max: u64) -> Plan {
        Plan { target, duration: Duration::from_secs(5), requests_max }
    }

    #[test]
    fn answers_are_counted_by_status() -> Result<()> {
        let target = scripted(
            1,
            &[
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            ],
        )?;
        let request = http::prepared(target, "GET", "/", &[], b"");
        let outcome = run(plan(target, 3), Cycle::spread(vec![request], 1))?;
        assert_eq!(outcome.by_status, BTreeMap::from([(200, 2), (429, 1)]));
        assert_eq!((outcome.good(), outcome.bad(), outcome.broken), (2, 1, 0));
        Ok(())
    }

    #[test]
    fn a_connection_that_ends_is_an_error_and_is_opened_anew() -> Result<()> {
        let target = scripted(2, &["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"])?;
        let request = http::prepared(target, "GET", "/", &[], b"");
        let outcome = run(plan(target, 2), Cycle::spread(vec![request], 1))?;
        assert_eq!((outcome.answers, outcome.broken), (2, 1));
        Ok(())
    }

    #[test]
    fn connections_start_at_different_requests() {
        let requests: Vec<Vec<u8>> = (0..4).map(|byte| vec![byte]).collect();
        let mut sources = Cycle::spread(requests, 2);
        assert_eq!(sources[0].request(), [0]);
        assert_eq!(sources[1].request(), [2]);
        assert_eq!(sources[1].request(), [3]);
        assert_eq!(sources[1].request(), [0]);
    }
}
