//! The label set of connection metrics, names and order as Istio has them (interop §9.2).

use std::fmt;
use std::str::FromStr;

use fairway_core::ident::Identity;
use fairway_core::io::metrics::LabelPair;
use fairway_core::reason::ResponseFlag;
use fairway_core::workload::Workload;

use super::ConnectionInfo;

/// Value of a label nothing is known for.
const UNKNOWN: &str = "unknown";
/// Between label values in a cache key; no value contains it.
const SEPARATOR: char = '\u{1f}';

/// Labels that may be left out: all but the one that keeps the two ends of a connection from being added up.
const OPTIONAL: [&str; 26] = [
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
    "source_region",
    "source_zone",
    "destination_region",
    "destination_zone",
];

/// Labels that connection metrics do without. As text: their names, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut(Vec<&'static str>);

/// A label that cannot be left out.
#[derive(Debug, thiserror::Error)]
#[error("no label of connection metrics that can be left out is called {0:?}; write some of {names}, separated by commas", names = OPTIONAL.join(", "))]
pub struct NoSuchLabel(String);

impl FromStr for LeftOut {
    type Err = NoSuchLabel;

    fn from_str(text: &str) -> Result<Self, NoSuchLabel> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let known = |name: &str| OPTIONAL.into_iter().find(|optional| *optional == name);
        names.map(|name| known(name).ok_or_else(|| NoSuchLabel(name.to_owned()))).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(","))
    }
}

/// Calls `use_labels` with the labels of a connection.
pub(super) fn with<T>(
    info: &ConnectionInfo,
    flag: ResponseFlag,
    left_out: &LeftOut,
    use_labels: impl FnOnce(&[LabelPair<'_>]) -> T,
) -> T {
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
    if !left_out.0.is_empty() {
        labels.retain(|(name, _)| !left_out.0.contains(name));
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
