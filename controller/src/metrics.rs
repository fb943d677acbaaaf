//! The controller's metrics, registered once.

use ::metrics::{Counter, Gauge};
use fairway_core::io::metrics::Metrics as Registry;
use time::OffsetDateTime;

use crate::ca::signer::Signer;

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
    /// Questions to the webhook.
    pub reviews: Reviews,
    generation: Gauge,
    errors: Gauge,
    kept: Gauge,
    stale: Gauge,
    mesh_config_refused: Gauge,
    keys: [Gauge; 3],
    authority: Authority,
}

/// Questions to the webhook, by what became of them.
#[derive(Clone, Debug)]
pub struct Reviews {
    /// The object may be stored.
    pub allowed: Counter,
    /// It may not.
    pub refused: Counter,
    /// There is no answer.
    pub unreadable: Counter,
}

/// Places where keys of tokens are fetched, by what is known of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyStates {
    /// They are those of the last fetch.
    pub fresh: usize,
    /// They could not be fetched again.
    pub stale: usize,
    /// There are none: tokens are refused.
    pub missing: usize,
}

/// Handles to what is told of the certificate authority.
#[derive(Clone, Debug)]
struct Authority {
    signer_end: Gauge,
    root_end: Gauge,
    roots: Gauge,
    refused: Gauge,
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
            ("fairway_certificate_requests_total", "Certificate requests, by what became of them."),
            ("fairway_handshake_failures_total", "Connections that did not get through the TLS handshake."),
            ("fairway_admission_reviews_total", "Questions to the webhook, by outcome."),
            ("fairway_world_generation", "Number of the configuration proxies are sent."),
            (
                "fairway_kept_policies_lost",
                "1 while the last good versions of policies cannot be read from or written to the state directory.",
            ),
            (
                "fairway_source_stale_seconds",
                "How long a part of the source cannot be read; 0 while all of it can. The last state stays in force.",
            ),
            (
                "fairway_authority_expiry_timestamp_seconds",
                "When what signs certificates ends, and the root above it, in seconds since 1970.",
            ),
            ("fairway_authority_roots", "Roots that proxies are told to trust."),
            (
                "fairway_authority_refused",
                "1 while the certificate authority in its files or secret cannot be used, and the last good one stays.",
            ),
            (
                "fairway_mesh_config_refused",
                "1 while the file of the mesh configuration cannot be used, and the last good one stays in force.",
            ),
            (
                "fairway_token_keys",
                "Places where keys of tokens are fetched: fresh, stale since they cannot be fetched again, or without any.",
            ),
            ("fairway_source_errors", "Things wrong with objects; see /debug/sources."),
        ] {
            registry.describe(name, help);
        }
        let outcome = |outcome| registry.counter("fairway_certificate_requests_total", &[("outcome", outcome)]);
        let review = |outcome| registry.counter("fairway_admission_reviews_total", &[("outcome", outcome)]);
        Self {
            reviews: Reviews {
                allowed: review("allowed"),
                refused: review("refused"),
                unreadable: review("unreadable"),
            },
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
            mesh_config_refused: registry.gauge("fairway_mesh_config_refused", &[]),
            keys: ["fresh", "stale", "missing"].map(|state| registry.gauge("fairway_token_keys", &[("state", state)])),
            authority: Authority {
                signer_end: registry.gauge("fairway_authority_expiry_timestamp_seconds", &[("of", "signer")]),
                root_end: registry.gauge("fairway_authority_expiry_timestamp_seconds", &[("of", "root")]),
                roots: registry.gauge("fairway_authority_roots", &[]),
                refused: registry.gauge("fairway_authority_refused", &[]),
            },
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

    /// Records whether the file of the mesh configuration cannot be used.
    pub fn set_mesh_config_refused(&self, is_refused: bool) {
        self.mesh_config_refused.set(if is_refused { 1.0 } else { 0.0 });
    }

    /// Records what is known of keys of tokens.
    pub fn set_keys(&self, states: KeyStates) {
        for (gauge, count) in self.keys.iter().zip([states.fresh, states.stale, states.missing]) {
            gauge.set(gauge_value(u64::try_from(count).unwrap_or(u64::MAX)));
        }
    }

    /// Records the certificate authority in use.
    pub fn set_authority(&self, signer: &Signer) {
        let seconds = |at: OffsetDateTime| gauge_value(u64::try_from(at.unix_timestamp()).unwrap_or_default());
        self.authority.signer_end.set(seconds(signer.not_after()));
        self.authority.root_end.set(seconds(signer.root().1));
        self.authority.roots.set(gauge_value(u64::try_from(signer.root_count()).unwrap_or(u64::MAX)));
    }

    /// Records whether what there is of a certificate authority cannot be used.
    pub fn set_authority_refused(&self, is_refused: bool) {
        self.authority.refused.set(if is_refused { 1.0 } else { 0.0 });
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

/// Gauges are floating point; counts beyond 2^32, and times beyond the year 2106, do not occur here.
fn gauge_value(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
