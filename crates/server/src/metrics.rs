//! Numbers for operators, in the OpenMetrics text format. Names no client and no secret: what a
//! series could leak is not in a label.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use keyrelay_core::slots::SlotKind;

/// A label and its value.
type Label<V> = [(&'static str, V); 1];

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    responses: Family<Label<u16>, Counter>,
    active_uses: Counter,
    retiring_uses: Counter,
    /// Proofs that did not let anybody in.
    pub(crate) refused: Counter,
    /// Secrets moved to retiring.
    pub(crate) rotations: Counter,
    /// Retiring secrets removed.
    pub(crate) retirements: Counter,
    /// Attempts to get in with a secret that has ended.
    pub(crate) former_secret_seen: Counter,
    /// Open connections.
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("keyrelay");
        let uses: Family<Label<&'static str>, Counter> = Family::default();
        let metrics = Self {
            responses: Family::default(),
            active_uses: uses.get_or_create_owned(&[("slot", SlotKind::Active.as_str())]),
            retiring_uses: uses.get_or_create_owned(&[("slot", SlotKind::Retiring.as_str())]),
            refused: Counter::default(),
            rotations: Counter::default(),
            retirements: Counter::default(),
            former_secret_seen: Counter::default(),
            connections: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_responses", "Answers by status", metrics.responses.clone());
        registry.register("secret_uses", "Times a secret let a client in, by its slot", uses);
        registry.register("proofs_refused", "Secrets presented that let nobody in", metrics.refused.clone());
        registry.register("rotations", "Secrets rotated", metrics.rotations.clone());
        registry.register("retirements", "Retiring secrets removed", metrics.retirements.clone());
        registry.register(
            "former_secret_seen",
            "Attempts with a secret that has ended",
            metrics.former_secret_seen.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        Self { registry, ..metrics }
    }

    pub(crate) fn count_use(&self, kind: SlotKind) {
        match kind {
            SlotKind::Active => self.active_uses.inc(),
            SlotKind::Retiring => self.retiring_uses.inc(),
        };
    }

    pub(crate) fn count_response(&self, status: u16) {
        self.responses.get_or_create(&[("status", status)]).inc();
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
