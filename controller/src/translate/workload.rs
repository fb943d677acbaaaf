//! Pod to WDS Workload (interop §2.1, §2.5).

use fairway_core::source::objects::{
    annotation, is_host_network, is_ready, is_terminal, is_terminating, label, node_name, pod_ips, service_account_name,
};
use fairway_proto::workload::{NetworkMode, TunnelProtocol, Workload, WorkloadStatus, WorkloadType};
use k8s_openapi::api::core::v1::Pod;

use super::Settings;
use super::service::{Backends, octets};

/// Set by the agent on a pod whose traffic is captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Says that the application terminates tunnels itself.
const TUNNEL: &str = "networking.istio.io/tunnel";
const NETWORK: &str = "topology.istio.io/network";
/// Trust domain that the wire leaves out.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_REVISION: &str = "latest";

/// The key of a pod in workload discovery.
#[must_use]
pub fn uid(namespace: &str, name: &str, settings: &Settings) -> String {
    format!("{}//Pod/{namespace}/{name}", settings.cluster_id)
}

/// What proxies are told of a pod; nothing before it has an address and once it has run to its end.
#[must_use]
pub fn workload(
    pod: &Pod,
    backends: &Backends<'_>,
    authorization_policies: Vec<String>,
    settings: &Settings,
) -> Option<Workload> {
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
    let status =
        if is_ready(pod) && !is_terminating(pod) { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
    let network_mode = if is_host_network(pod) { NetworkMode::HostNetwork } else { NetworkMode::Standard };
    let owner = owner_name(pod);
    Some(Workload {
        uid: uid(&namespace, &name, settings),
        addresses: addresses.into_iter().map(octets).collect(),
        network: label(metadata, NETWORK).unwrap_or(&settings.network).to_owned(),
        tunnel_protocol: tunnel_protocol.into(),
        trust_domain: if settings.trust_domain == DEFAULT_TRUST_DOMAIN {
            String::new()
        } else {
            settings.trust_domain.clone()
        },
        service_account: service_account_name(pod).to_owned(),
        node: node_name(pod).unwrap_or_default().to_owned(),
        canonical_name: first_label(pod, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or(&owner)
            .to_owned(),
        canonical_revision: first_label(
            pod,
            &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
        )
        .unwrap_or(DEFAULT_REVISION)
        .to_owned(),
        workload_type: WorkloadType::Pod.into(),
        workload_name: owner,
        native_tunnel,
        authorization_policies,
        status: status.into(),
        cluster_id: settings.cluster_id.clone(),
        services: backends.selecting(pod),
        network_mode: network_mode.into(),
        name,
        namespace,
        ..Workload::default()
    })
}

fn first_label<'a>(pod: &'a Pod, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| label(&pod.metadata, key)).filter(|value| !value.is_empty())
}

/// The name under which telemetry adds pods up: a label, the controller that made the pod, or the pod itself.
fn owner_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    if let Some(name) = first_label(pod, &["service.istio.io/workload-name"]) {
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
