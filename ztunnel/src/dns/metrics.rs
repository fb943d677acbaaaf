//! What is counted of DNS, under Istio's names and labels (interop §9.1).

use std::time::Duration;

use fairway_core::io::dns::wire::{Kind, Transport};
use fairway_core::io::metrics::Metrics;
use fairway_core::reason::Reason;
use fairway_core::workload::Workload;

const REQUESTS: &str = "istio_dns_requests_total";
const FORWARDED: &str = "istio_dns_upstream_requests_total";
const FAILED: &str = "istio_dns_upstream_failures_total";
const TOOK: &str = "istio_dns_upstream_request_duration_seconds";
const REASONS: &str = "fairway_dns_failures_total";
const RESOLVED: &str = "istio_on_demand_dns_total";

/// The buckets of the histogram here, in seconds, for the registry.
pub const BUCKETS: (&str, &[f64]) = (TOOK, &[0.0005, 0.001, 0.01, 0.1, 1.0, 5.0]);

/// Value of a label nothing is known for.
const UNKNOWN: &str = "unknown";

/// Counts queries and resolutions.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    metrics: Metrics,
}

/// Whose query it is, and what kind.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is asked for.
    pub kind: Kind,
    /// How it came.
    pub transport: Transport,
    /// Who asks, if known.
    pub client: Option<&'a Workload>,
}

impl Asked<'_> {
    fn count(&self, metrics: &Metrics, name: &'static str) {
        self.with_labels(|labels| metrics.held_counter(name, labels).increment(1));
    }

    fn with_labels<T>(&self, use_labels: impl FnOnce(&[(&'static str, &str)]) -> T) -> T {
        let of = |text: Option<&str>| text.filter(|text| !text.is_empty()).map_or(UNKNOWN.to_owned(), str::to_owned);
        let service = of(self.client.map(|client| &*client.canonical_name));
        let revision = of(self.client.map(|client| &*client.canonical_revision));
        use_labels(&[
            ("request_query_type", self.kind),
            ("request_protocol", self.transport.as_str()),
            ("source_canonical_service", &service),
            ("source_canonical_revision", &revision),
        ])
    }
}

impl DnsMetrics {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        metrics.describe(REQUESTS, "DNS queries of pods.");
        metrics.describe(FORWARDED, "DNS queries of pods that were passed on to a resolver.");
        metrics.describe(FAILED, "DNS queries of pods that no resolver answered.");
        metrics.describe(TOOK, "Time resolvers took to answer.");
        metrics.describe(REASONS, "Names that could not be resolved, for pods or for their connections, by reason.");
        metrics.describe(RESOLVED, "Hostnames of endpoints that were resolved for a connection.");
        Self { metrics: metrics.clone() }
    }

    /// A query came.
    pub fn request(&self, asked: Asked<'_>) {
        asked.count(&self.metrics, REQUESTS);
    }

    /// It was passed on.
    pub fn forwarded(&self, asked: Asked<'_>) {
        asked.count(&self.metrics, FORWARDED);
    }

    /// A resolver answered after so long.
    pub fn answered(&self, asked: Asked<'_>, after: Duration) {
        asked.with_labels(|labels| self.metrics.held_histogram(TOOK, labels).record(after.as_secs_f64()));
    }

    /// No resolver did.
    pub fn failed(&self, asked: Asked<'_>, reason: Reason) {
        asked.count(&self.metrics, FAILED);
        self.reason(reason);
    }

    /// A connection of `client` needed the addresses of `hostname`.
    pub fn resolved(&self, client: &Workload, hostname: &str) {
        let or_unknown = |text: &'_ str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
        let labels = [
            ("source_workload", or_unknown(&client.workload_name)),
            ("source_canonical_service", or_unknown(&client.canonical_name)),
            ("source_canonical_revision", or_unknown(&client.canonical_revision)),
            ("source_workload_namespace", or_unknown(client.namespace())),
            ("source_principal", client.identity().as_str().to_owned()),
            ("source_app", or_unknown(&client.canonical_name)),
            ("source_version", or_unknown(&client.canonical_revision)),
            ("source_cluster", or_unknown(&client.cluster_id)),
            ("hostname", hostname.to_owned()),
        ];
        let labels: Vec<(&'static str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.metrics.held_counter(RESOLVED, &labels).increment(1);
    }

    /// A name could not be resolved.
    pub fn reason(&self, reason: Reason) {
        self.metrics.counter(REASONS, &[("reason", reason.label())]).increment(1);
    }
}
