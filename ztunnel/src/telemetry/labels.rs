//! The label set of connection metrics, names and order as Istio has them (interop §9.2).

use fairway_core::ident::Identity;
use fairway_core::io::metrics::LabelPair;
use fairway_core::reason::ResponseFlag;
use fairway_core::workload::Workload;

use super::ConnectionInfo;

/// Value of a label nothing is known for.
const UNKNOWN: &str = "unknown";
/// Between label values in a cache key; no value contains it.
const SEPARATOR: char = '\u{1f}';

/// Calls `use_labels` with the labels of a connection.
pub(super) fn with<T>(info: &ConnectionInfo, flag: ResponseFlag, use_labels: impl FnOnce(&[LabelPair<'_>]) -> T) -> T {
    let (source, destination) = (info.source_workload.as_deref(), info.destination_workload.as_deref());
    let service = info.destination_service.as_deref();
    let mut labels: Vec<LabelPair<'_>> = Vec::with_capacity(27);
    labels.push(("reporter", info.reporter.as_str()));
    labels.extend([
        ("source_workload", of(source, |workload| &workload.workload_name)),
        ("source_canonical_service", of(source, |workload| &workload.canonical_name)),
        ("source_canonical_revision", of(source, |workload| &workload.canonical_revision)),
        ("source_workload_namespace", of(source, Workload::namespace)),
        ("source_principal", or_unknown(info.source_identity.as_ref().map(Identity::as_str))),
        ("source_app", of(source, |workload| &workload.canonical_name)),
        ("source_version", of(source, |workload| &workload.canonical_revision)),
        ("source_cluster", of(source, |workload| &workload.cluster_id)),
        ("destination_service", or_unknown(service.map(|service| service.hostname()))),
        ("destination_service_namespace", or_unknown(service.map(|service| service.namespace()))),
        ("destination_service_name", or_unknown(service.map(|service| &*service.name))),
        ("destination_workload", of(destination, |workload| &workload.workload_name)),
        ("destination_canonical_service", of(destination, |workload| &workload.canonical_name)),
        ("destination_canonical_revision", of(destination, |workload| &workload.canonical_revision)),
        ("destination_workload_namespace", of(destination, Workload::namespace)),
        ("destination_principal", or_unknown(info.destination_identity.as_ref().map(Identity::as_str))),
        ("destination_app", of(destination, |workload| &workload.canonical_name)),
        ("destination_version", of(destination, |workload| &workload.canonical_revision)),
        ("destination_cluster", of(destination, |workload| &workload.cluster_id)),
        ("request_protocol", "tcp"),
        ("response_flags", flag.as_str()),
        ("connection_security_policy", if info.is_mutual_tls() { "mutual_tls" } else { UNKNOWN }),
    ]);
    if source.is_some() || destination.is_some() {
        labels.extend([
            ("source_region", of(source, |workload| &workload.locality.region)),
            ("source_zone", of(source, |workload| &workload.locality.zone)),
            ("destination_region", of(destination, |workload| &workload.locality.region)),
            ("destination_zone", of(destination, |workload| &workload.locality.zone)),
        ]);
    }
    use_labels(&labels)
}

/// One text that is the same for the same label values.
pub(super) fn key(labels: &[LabelPair<'_>]) -> String {
    let mut key = String::with_capacity(512);
    for (_, value) in labels {
        key.push_str(value);
        key.push(SEPARATOR);
    }
    key
}

fn of<'a>(workload: Option<&'a Workload>, field: impl FnOnce(&'a Workload) -> &'a str) -> &'a str {
    or_unknown(workload.map(field))
}

fn or_unknown(text: Option<&str>) -> &str {
    match text {
        Some(text) if !text.is_empty() => text,
        _ => UNKNOWN,
    }
}
