//! Numbers for operators, in the OpenMetrics text format. Names no client and no secret: what a
//! series could leak is not in a label.

use std::sync::atomic::Ordering;

use keyrelay_core::change_rates::RateOf;
use keyrelay_core::client::ProofKind;
use keyrelay_core::event::EventKind;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A label and its value.
type Label<V> = [(&'static str, V); 1];

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    responses: Family<Label<u16>, Counter>,
    uses: Uses,
    /// Proofs that did not let anybody in.
    pub(crate) refused: Counter,
    /// Secrets moved to retiring.
    pub(crate) rotations: Counter,
    /// Retiring secrets removed.
    pub(crate) retirements: Counter,
    /// Rotations undone.
    pub(crate) undone: Counter,
    /// Secrets ended by `$revoke-secret`.
    pub(crate) revocations: Counter,
    /// Answers given again under their `Idempotency-Key`.
    pub(crate) replays: Counter,
    /// Attempts to get in with a secret that has ended.
    pub(crate) former_secret_seen: Counter,
    /// Connections closed at once, because their address had too many.
    pub(crate) connections_refused: Counter,
    /// Bytes in flight.
    pub(crate) bytes_in_flight: Gauge,
    /// Requests for bytes that were refused, because too many were in flight.
    pub(crate) bytes_refused: Counter,
    log_lines_lost: Counter,
    panics: Counter,
    /// Open connections.
    pub(crate) connections: Gauge,
    events: Family<Label<&'static str>, Counter>,
    over_rate: Family<Label<&'static str>, Counter>,
    over_quota: Counter,
    deliveries: Family<Label<&'static str>, Counter>,
    /// Deliveries to webhooks that are still tried.
    pub(crate) deliveries_pending: Gauge,
    /// Open streams of events.
    pub(crate) event_streams: Gauge,
}

/// Uses by what was used, looked up once.
#[derive(Debug)]
struct Uses {
    active: Counter,
    retiring: Counter,
    key: Counter,
    certificate: Counter,
}

impl Uses {
    fn of(family: &Family<Label<&'static str>, Counter>) -> Self {
        let of = |kind: ProofKind| family.get_or_create_owned(&[("slot", kind.as_str())]);
        Self {
            active: of(ProofKind::ActiveSecret),
            retiring: of(ProofKind::RetiringSecret),
            key: of(ProofKind::Key),
            certificate: family.get_or_create_owned(&[("slot", "certificate")]),
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("keyrelay");
        let uses: Family<Label<&'static str>, Counter> = Family::default();
        let metrics = Self {
            responses: Family::default(),
            uses: Uses::of(&uses),
            refused: Counter::default(),
            rotations: Counter::default(),
            retirements: Counter::default(),
            undone: Counter::default(),
            revocations: Counter::default(),
            replays: Counter::default(),
            former_secret_seen: Counter::default(),
            connections_refused: Counter::default(),
            bytes_in_flight: Gauge::default(),
            bytes_refused: Counter::default(),
            log_lines_lost: Counter::default(),
            panics: Counter::default(),
            connections: Gauge::default(),
            events: Family::default(),
            over_rate: Family::default(),
            over_quota: Counter::default(),
            deliveries: Family::default(),
            deliveries_pending: Gauge::default(),
            event_streams: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_responses", "Answers by status", metrics.responses.clone());
        registry.register("secret_uses", "Times a secret, key or certificate let a client in", uses);
        registry.register("proofs_refused", "Secrets presented that let nobody in", metrics.refused.clone());
        registry.register("rotations", "Secrets rotated", metrics.rotations.clone());
        registry.register("retirements", "Retiring secrets removed", metrics.retirements.clone());
        registry.register("rotations_undone", "Rotations undone", metrics.undone.clone());
        registry.register("revocations", "Secrets revoked", metrics.revocations.clone());
        registry.register("answers_replayed", "Answers given again for their key", metrics.replays.clone());
        registry.register(
            "former_secret_seen",
            "Attempts with a secret that has ended",
            metrics.former_secret_seen.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused because the server or their address had too many",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "bytes_in_flight",
            "Bytes held by requests: bodies, values parsed from them, and answers being sent",
            metrics.bytes_in_flight.clone(),
        );
        registry.register(
            "bytes_in_flight_refused",
            "Refusals because too many bytes were in flight",
            metrics.bytes_refused.clone(),
        );
        registry.register(
            "log_lines_lost",
            "Log lines that the server failed to write",
            metrics.log_lines_lost.clone(),
        );
        registry.register("panics", "Panics that the server survived", metrics.panics.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "changes_over_quota",
            "Changes refused because a project had too many resources",
            metrics.over_quota.clone(),
        );
        registry.register(
            "changes_over_rate",
            "Changes refused because a client or a project wrote too much",
            metrics.over_rate.clone(),
        );
        registry.register("events", "Events by type", metrics.events.clone());
        registry.register(
            "webhook_deliveries",
            "Attempts at a delivery to a webhook, by what became of them",
            metrics.deliveries.clone(),
        );
        registry.register(
            "webhook_deliveries_pending",
            "Deliveries to webhooks that are still tried, of all servers",
            metrics.deliveries_pending.clone(),
        );
        registry.register("event_streams", "Open streams of events", metrics.event_streams.clone());
        Self { registry, ..metrics }
    }

    pub(crate) fn count_use(&self, kind: ProofKind) {
        let counter = match kind {
            ProofKind::ActiveSecret => &self.uses.active,
            ProofKind::RetiringSecret => &self.uses.retiring,
            ProofKind::Key => &self.uses.key,
            ProofKind::Certificate(_) => &self.uses.certificate,
            ProofKind::Nothing => return,
        };
        counter.inc();
    }

    pub(crate) fn count_response(&self, status: u16) {
        self.responses.get_or_create(&[("status", status)]).inc();
    }

    /// `delivered`, `failed` (it is tried again) or `dead` (it is not).
    pub(crate) fn count_delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts pending deliveries whose events were deleted.
    pub(crate) fn count_dropped_deliveries(&self, deliveries: u64) {
        self.deliveries.get_or_create(&[("outcome", "dropped")]).inc_by(deliveries);
    }

    /// Sets how many changes each rate, and the quota, have refused.
    pub(crate) fn set_over_rate(&self, refused: impl Fn(RateOf) -> u64, over_quota: u64) {
        self.over_quota.inner().store(over_quota, Ordering::Relaxed);
        for of in [RateOf::Client, RateOf::Project] {
            let counter = self.over_rate.get_or_create_owned(&[("of", of.as_str())]);
            counter.inner().store(refused(of), Ordering::Relaxed);
        }
    }

    /// Sets the counts of the process.
    pub(crate) fn set_process(&self, log_lines_lost: u64, panics: u64) {
        self.log_lines_lost.inner().store(log_lines_lost, Ordering::Relaxed);
        self.panics.inner().store(panics, Ordering::Relaxed);
    }

    /// Takes up how many events of each kind were told.
    pub(crate) fn set_events(&self, told: impl Fn(EventKind) -> u64) {
        for kind in EventKind::ALL {
            let counter = self.events.get_or_create_owned(&[("type", kind.as_str())]);
            counter.inner().store(told(kind), Ordering::Relaxed);
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
