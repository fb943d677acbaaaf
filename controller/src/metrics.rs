//! The controller's metrics, registered once.

use ::metrics::{Counter, Gauge};
use fairway_core::io::metrics::Metrics as Registry;

/// Handles to everything that is counted. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Discovery clients connected.
    pub clients: Gauge,
    /// Discovery responses sent.
    pub responses: Counter,
    /// Discovery responses refused by clients.
    pub nacks: Counter,
    /// Certificates signed.
    pub signed: Counter,
    /// Certificate requests refused.
    pub refused: Counter,
    /// Connections that did not get through the TLS handshake.
    pub handshakes_failed: Counter,
    generation: Gauge,
    errors: Gauge,
    kept: Gauge,
    stale: Gauge,
}

impl Metrics {
    /// Registers all series.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::default();
        for (name, help) in [
            ("fairway_discovery_clients", "Discovery clients connected."),
            ("fairway_discovery_responses_total", "Discovery responses sent."),
            ("fairway_discovery_refusals_total", "Discovery responses refused by clients."),
            ("fairway_certificate_requests_total", "Certificate requests, by outcome."),
            ("fairway_handshake_failures_total", "Connections that did not get through the TLS handshake."),
            ("fairway_world_generation", "Number of the configuration proxies are sent."),
            (
                "fairway_kept_policies_lost",
                "1 while the last good versions of policies cannot be read from or written to the state directory.",
            ),
            (
                "fairway_source_stale_seconds",
                "How long a part of the source cannot be read; 0 while all of it can. The last state stays in force.",
            ),
            ("fairway_source_errors", "Things wrong with objects; see /debug/sources."),
        ] {
            registry.describe(name, help);
        }
        let outcome = |outcome| registry.counter("fairway_certificate_requests_total", &[("outcome", outcome)]);
        Self {
            clients: registry.gauge("fairway_discovery_clients", &[]),
            responses: registry.counter("fairway_discovery_responses_total", &[]),
            nacks: registry.counter("fairway_discovery_refusals_total", &[]),
            signed: outcome("signed"),
            refused: outcome("refused"),
            handshakes_failed: registry.counter("fairway_handshake_failures_total", &[]),
            generation: registry.gauge("fairway_world_generation", &[]),
            errors: registry.gauge("fairway_source_errors", &[]),
            kept: registry.gauge("fairway_kept_policies_lost", &[]),
            stale: registry.gauge("fairway_source_stale_seconds", &[]),
            registry,
        }
    }

    /// Records the state of the world: things wrong with the manifests, and whether good versions of policies are kept.
    pub fn set_world(&self, generation: u64, errors: usize, lost: bool) {
        self.kept.set(if lost { 1.0 } else { 0.0 });
        self.generation.set(gauge_value(generation));
        self.errors.set(gauge_value(u64::try_from(errors).unwrap_or(u64::MAX)));
    }

    /// Records how long a part of the source cannot be read.
    pub fn set_stale(&self, stale: std::time::Duration) {
        self.stale.set(stale.as_secs_f64());
    }

    /// The registry, for the metrics page.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Gauges are floating point; counts beyond 2^32 do not occur here.
fn gauge_value(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
