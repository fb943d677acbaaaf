//! What a cluster has before any user comes: nodes that are alive, and the mesh's own namespace with a pod for each ztunnel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::sleep;

use super::control_plane::{AGENT, CONTROLLER};
use super::work::{RETRY, insist};
use crate::addresses::{self, node_name};
use crate::error::{Doing, Result};
use crate::kubelet::{self, SYSTEM_NAMESPACE, ztunnel_pod};
use crate::layout::Layout;
use crate::token;

/// Who applies objects, as the API server keeps it.
pub(crate) const MANAGER: &str = "fairway-lab";
/// Namespace of nodes' leases.
const LEASES: &str = "kube-node-lease";
/// How often a node says that it lives, and how long that holds: kubelet's defaults.
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;
/// What a node says it can hold. Requests of pods are accounted and not enforced, so there is plenty.
const CPUS: &str = "64";
const MEMORY: &str = "256Gi";
/// Audience of the tokens with which ztunnels ask for certificates.
const AUDIENCE: &str = "istio-ca";

/// Registers nodes and applies the pods that stand for ztunnels; comes back when all of it is there.
pub(crate) async fn set_up(client: &Client, nodes: u8, mesh: bool) {
    let api: Api<Node> = Api::all(client.clone());
    for number in 1..=nodes {
        let (name, object) = (node_name(number), node(number));
        apply(&api, &name, &object).await;
        // Not applied as the rest is: that takes addresses by type, and there are two of one type.
        let (status, params) = (Patch::Merge(status(number)), PatchParams::default());
        insist("saying that a node is ready", || api.patch_status(&name, &params, &status)).await;
    }
    if !mesh {
        return;
    }
    for node in (1..=nodes).map(node_name) {
        let pods = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        apply::<Pod>(&pods, &ztunnel_pod(&node), &kubelet::ztunnel_manifest(&node)).await;
    }
}

/// Applies an object, again and again until the API server takes it.
async fn apply<K>(api: &Api<K>, name: &str, object: &Value)
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let (force, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(object));
    insist("applying what every cluster of a lab has", || api.patch(name, &force, &patch)).await;
}

/// A node of the lab as its kubelet would register it.
fn node(number: u8) -> Value {
    let name = node_name(number);
    let labels = json!({
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture(),
    });
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

fn status(number: u8) -> Value {
    let name = node_name(number);
    let internal = addresses::node(number).both().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    let mut known = internal.to_vec();
    known.push(json!({"type": "Hostname", "address": name}));
    let room = json!({"cpu": CPUS, "memory": MEMORY, "ephemeral-storage": MEMORY, "pods": "253"});
    let now = now();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "the lab runs",
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    json!({"status": {
        "capacity": room, "allocatable": room, "addresses": known,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "nodeInfo": {
            "machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": kernel(),
            "osImage": "network namespace", "operatingSystem": "linux", "architecture": architecture(),
            "containerRuntimeVersion": format!("fairway-lab://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": format!("v{}-fairway-lab", env!("CARGO_PKG_VERSION")), "kubeProxyVersion": "",
        },
    }})
}

fn architecture() -> &'static str {
    // Kubernetes has Go's names.
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Now, as the API server writes times.
pub(crate) fn now() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    OffsetDateTime::now_utc().format(&format).unwrap_or_default()
}

fn now_with_micros() -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::now_utc().format(&format).unwrap_or_default()
}

/// Keeps the nodes alive, for ever.
pub(crate) async fn renew_leases(client: &Client, nodes: u8) {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let force = PatchParams::apply(MANAGER).force();
    loop {
        let mut failed = false;
        for number in 1..=nodes {
            let name = node_name(number);
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": LEASES},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now_with_micros()},
            });
            if let Err(error) = api.patch(&name, &force, &Patch::Apply(&lease)).await {
                tracing::warn!(%error, node = name, "cannot renew a node's lease");
                failed = true;
            }
        }
        sleep(if failed { RETRY } else { LEASE_RENEWAL }).await;
    }
}

/// Keeps a good token in the files of controller, agents and every node's ztunnel, for ever.
pub(crate) async fn renew_tokens(client: &Client, layout: &Layout, nodes: u8) {
    loop {
        let mut failed = false;
        for account in [CONTROLLER, AGENT] {
            if let Err(error) = renew_account(client, layout, account).await {
                tracing::warn!(%error, account, "cannot renew a token of the mesh's own");
                failed = true;
            }
        }
        for number in 1..=nodes {
            if let Err(error) = renew_token(client, layout, &node_name(number)).await {
                tracing::warn!(%error, node = number, "cannot renew a ztunnel's token");
                failed = true;
            }
        }
        sleep(if failed { RETRY } else { token::RENEWAL }).await;
    }
}

async fn renew_token(client: &Client, layout: &Layout, node: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let name = ztunnel_pod(node);
    let pod = pods.get(&name).await.doing(|| format!("looking for pod {name}"))?;
    let token = request_token(client, &pod, "ztunnel", &[AUDIENCE.to_owned()], token::LIFETIME).await?;
    keep(&layout.node_token(node), &token)
}

async fn renew_account(client: &Client, layout: &Layout, account: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let spec = TokenRequestSpec {
        expiration_seconds: i64::try_from(token::LIFETIME.as_secs()).ok(),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .doing(|| format!("asking for a token of {account}"))?;
    keep(&layout.account_token(account), &answer.status.map(|status| status.token).unwrap_or_default())
}

/// Writes a token for its owner only.
fn keep(path: &Path, token: &str) -> Result<()> {
    let temporary = path.with_extension("partial");
    fs::write(&temporary, token)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&temporary, path))
        .doing(|| format!("writing {}", path.display()))
}

/// A token of `account` that is good as long as `pod` exists, and at most for `lifetime`.
pub(crate) async fn request_token(
    client: &Client,
    pod: &Pod,
    account: &str,
    audiences: &[String],
    lifetime: Duration,
) -> Result<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    };
    let spec = TokenRequestSpec {
        audiences: audiences.to_vec(),
        bound_object_ref: Some(bound),
        expiration_seconds: i64::try_from(lifetime.as_secs()).ok(),
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .doing(|| format!("asking for a token of {namespace}/{account}"))?;
    Ok(answer.status.map(|status| status.token).unwrap_or_default())
}
