//! Pod to WDS Workload (interop §2.1, §2.5).

use fairway_core::source::objects::{
    annotation, is_host_network, is_ready, is_terminal, is_terminating, label, node_name, pod_ips, service_account_name,
};
use fairway_proto::workload::{
    GatewayAddress, Locality, NetworkMode, TunnelProtocol, Workload, WorkloadStatus, WorkloadType,
};
use k8s_openapi::api::core::v1::Pod;

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
pub fn is_healthy(pod: &Pod) -> bool {
    is_ready(pod) && !is_terminating(pod)
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
pub fn workload(pod: &Pod, context: Context, settings: &Settings) -> Option<Workload> {
    let addresses = pod_ips(pod);
    if is_terminal(pod) || addresses.is_empty() {
        return None;
    }
    let metadata = &pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let native_tunnel =
        label(metadata, TUNNEL).is_some_and(|protocols| protocols.split(',').any(|protocol| protocol == "http"));
    let captured = annotation(metadata, REDIRECTION) == Some("enabled");
    let tunnel_protocol = if captured || native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    let status = if is_healthy(pod) { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
    let network_mode = if is_host_network(pod) { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    let owner = owner_name(pod);
    let (canonical_name, canonical_revision) = canonical(|key| label(metadata, key), &owner);
    // Who ends tunnels itself stands where a waypoint would.
    let waypoint = if native_tunnel { None } else { context.waypoint };
    Some(Workload {
        uid: uid(&namespace, &name, settings),
        addresses: addresses.into_iter().map(octets).collect(),
        network: label(metadata, NETWORK).unwrap_or(&context.network).to_owned(),
        tunnel_protocol: tunnel_protocol.into(),
        trust_domain: trust_domain(settings),
        service_account: service_account_name(pod).to_owned(),
        node: node_name(pod).unwrap_or_default().to_owned(),
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
        name,
        namespace,
        ..Workload::default()
    })
}

/// The name under which telemetry adds pods up: a label, the controller that made the pod, or the pod itself.
fn owner_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    if let Some(name) = label(metadata, "service.istio.io/workload-name").filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let Some(owner) = owner else {
        return metadata.name.clone().unwrap_or_default();
    };
    if owner.kind == "ReplicaSet"
        && let Some(hash) = label(metadata, "pod-template-hash")
        && let Some(deployment) = owner.name.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-'))
        && !deployment.is_empty()
    {
        return deployment.to_owned();
    }
    owner.name.clone()
}
