//! Pod to WDS Workload (interop §2.1, §2.5).

use fairway_core::source::labels::HasLabels;
use fairway_core::source::{MeshPod, ObjectKey};
use fairway_proto::workload::{
    GatewayAddress, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadStatus, WorkloadType,
};

use super::Settings;
use super::endpoints::Served;
use super::nodes::NETWORK;
use super::service::octets;

/// Set by the agent on a pod whose traffic is captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Says that the application terminates tunnels itself.
pub(super) const TUNNEL: &str = "networking.istio.io/tunnel";
/// Trust domain that the wire leaves out.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_REVISION: &str = "latest";

/// What a pod's uid has after the cluster.
pub(super) const POD: &str = "//Pod/";

/// The key of a pod in workload discovery.
#[must_use]
pub fn uid(namespace: &str, name: &str, settings: &Settings) -> String {
    format!("{}{POD}{namespace}/{name}", settings.cluster_id)
}

/// What is known of a pod from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Keys of the policies it lists.
    pub authorization_policies: Vec<String>,
    /// What it serves.
    pub services: Served,
    /// Waypoint of traffic to itself.
    pub waypoint: Option<GatewayAddress>,
    /// Where its node is.
    pub locality: Option<Locality>,
    /// Network of its node.
    pub network: String,
}

/// Whether a pod takes traffic.
#[must_use]
pub fn is_healthy(pod: &MeshPod) -> bool {
    pod.is_ready && !pod.is_ending
}

/// The trust domain, which the wire leaves out when it is the usual one.
pub(super) fn trust_domain(settings: &Settings) -> String {
    if settings.trust_domain == DEFAULT_TRUST_DOMAIN { String::new() } else { settings.trust_domain.clone() }
}

/// Name and revision under which telemetry knows a workload with these labels.
pub(super) fn canonical<'a>(text: impl Fn(&str) -> Option<&'a str>, otherwise: &str) -> (String, String) {
    let first = |keys: [&str; 3]| keys.into_iter().find_map(&text).filter(|value| !value.is_empty());
    let name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    (name.unwrap_or(otherwise).to_owned(), revision.unwrap_or(DEFAULT_REVISION).to_owned())
}

/// What proxies are told of a pod; nothing before it has an address and once it has run to its end.
#[must_use]
pub fn workload(key: &ObjectKey, pod: &MeshPod, context: Context, settings: &Settings) -> Option<Workload> {
    if pod.is_terminal || pod.addresses.is_empty() {
        return None;
    }
    let native_tunnel =
        pod.label(TUNNEL).is_some_and(|protocols| protocols.split(',').any(|protocol| protocol == "http"));
    let captured = pod.annotation(REDIRECTION) == Some("enabled");
    let tunnel_protocol = if captured || native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    let status = if is_healthy(pod) { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
    let network_mode = if pod.is_host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    let owner = owner_name(key, pod).to_owned();
    let (canonical_name, canonical_revision) = canonical(|key| pod.label(key), &owner);
    // Who ends tunnels itself stands where a waypoint would.
    let waypoint = if native_tunnel { None } else { context.waypoint };
    Some(Workload {
        uid: uid(&key.namespace, &key.name, settings),
        addresses: pod.addresses.iter().copied().map(octets).collect(),
        network: pod.label(NETWORK).unwrap_or(&context.network).to_owned(),
        tunnel_protocol: tunnel_protocol.into(),
        trust_domain: trust_domain(settings),
        service_account: pod.service_account.to_string(),
        node: pod.node().unwrap_or_default().to_owned(),
        canonical_name,
        canonical_revision,
        waypoint,
        locality: context.locality,
        workload_type: WorkloadType::Pod.into(),
        workload_name: owner,
        native_tunnel,
        authorization_policies: context.authorization_policies,
        status: status.into(),
        cluster_id: settings.cluster_id.clone(),
        services: context.services,
        network_mode: network_mode.into(),
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        ..Workload::default()
    })
}

/// The name under which telemetry adds pods up: a label, the controller that made the pod, or the pod itself.
fn owner_name<'a>(key: &'a ObjectKey, pod: &'a MeshPod) -> &'a str {
    let named = pod.label("service.istio.io/workload-name").filter(|name| !name.is_empty());
    named.unwrap_or(if pod.maker.is_empty() { &key.name } else { &pod.maker })
}
