//! What operators are told about certificates: how many hold, when the first one ends, when the authority last failed.
//!
//! Without a label for the identity, whose number has no bound over time; `/config_dump` has every one by name.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::Certificates;
use crate::io::metrics::Metrics;

const BY_STATE: &str = "fairway_certificates";
const EARLIEST_EXPIRY: &str = "fairway_certificate_expiry_timestamp_seconds";
const LAST_ERROR: &str = "fairway_certificate_last_error_timestamp_seconds";
const REQUESTS: &str = "fairway_certificate_requests_total";
const ROOTS: &str = "fairway_trust_bundle_roots";

/// Shows `certificates` in `metrics` from now on.
pub fn register(certificates: &Certificates, metrics: &Metrics) {
    metrics.describe(
        BY_STATE,
        "Certificates of the node's workloads: valid, failing to renew but valid, expired, or missing.",
    );
    metrics.describe(EARLIEST_EXPIRY, "When the certificate that ends first does so; 0 without any.");
    metrics.describe(LAST_ERROR, "When a certificate request last failed; 0 if none ever did.");
    metrics.describe(REQUESTS, "Certificate requests, by what became of them.");
    metrics.describe(ROOTS, "Roots that peers are checked against.");
    let states = ["valid", "failing", "expired", "missing"];
    let by_state = states.map(|state| metrics.gauge(BY_STATE, &[("state", state)]));
    let requests = ["granted", "failed"].map(|result| metrics.counter(REQUESTS, &[("result", result)]));
    let earliest = metrics.gauge(EARLIEST_EXPIRY, &[]);
    let last_error = metrics.gauge(LAST_ERROR, &[]);
    let roots = metrics.gauge(ROOTS, &[]);
    let certificates = certificates.clone();
    metrics.before_render(move || {
        let now = (certificates.clock())();
        let mut counts = [0_u32; 4];
        let mut first: Option<SystemTime> = None;
        for (_, state) in certificates.states() {
            let index = match &state.certificate {
                None => 3,
                Some(certificate) => {
                    first = Some(first.map_or(certificate.not_after, |first| first.min(certificate.not_after)));
                    match (certificate.expired_since(now), &state.last_error) {
                        (Some(_), _) => 2,
                        (None, Some(_)) => 1,
                        (None, None) => 0,
                    }
                }
            };
            if let Some(count) = counts.get_mut(index) {
                *count += 1;
            }
        }
        for (gauge, count) in by_state.iter().zip(counts) {
            gauge.set(f64::from(count));
        }
        let first = first.and_then(|first| first.duration_since(SystemTime::UNIX_EPOCH).ok());
        earliest.set(first.unwrap_or_default().as_secs_f64());
        let tally = certificates.tally();
        let seconds = tally.last_failure.load(Ordering::Relaxed);
        last_error.set(std::time::Duration::from_secs(seconds).as_secs_f64());
        for (counter, total) in requests.iter().zip([&tally.granted, &tally.failed]) {
            counter.absolute(total.load(Ordering::Relaxed));
        }
        roots.set(u32::try_from(certificates.trust().current().root_count()).map_or(f64::MAX, f64::from));
    });
}
