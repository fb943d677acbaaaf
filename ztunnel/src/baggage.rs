//! How a workload describes itself to the other end of a tunnel (interop §1.3).

use fairway_core::io::hbone::headers::Baggage;
use fairway_core::workload::Workload;

/// The baggage of `workload`.
#[must_use]
pub fn of(workload: &Workload) -> Baggage {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let kind = workload.workload_type.as_str().to_ascii_lowercase();
    Baggage {
        cluster: some(&workload.cluster_id),
        namespace: some(workload.namespace()),
        workload: some(&workload.workload_name).map(|name| (kind, name)),
        service: some(&workload.canonical_name),
        version: some(&workload.canonical_revision),
        region: some(&workload.locality.region),
        zone: some(&workload.locality.zone),
    }
}
