//! What others have installed beside the mesh: found by its labels, and all bytes forwarded.

use fairway_core::source::objects::is_ready;
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::objects::{Cluster, failed};

/// A program that others install.
pub(super) struct Beside {
    /// What it is called.
    pub(super) name: &'static str,
    /// The label that its pods have.
    label: &'static str,
    /// Where it listens.
    pub(super) port: u16,
}

/// As its operator, its chart and Istio's sample label it.
pub(super) const PROMETHEUS: Beside =
    Beside { name: "Prometheus", label: "app.kubernetes.io/name=prometheus", port: 9090 };
/// As its chart and Istio's sample label it.
pub(super) const GRAFANA: Beside = Beside { name: "Grafana", label: "app.kubernetes.io/name=grafana", port: 3000 };

/// A pod that is ready, rather in the mesh's namespace than in another.
pub(super) fn find(cluster: &Cluster, which: &Beside, mesh_namespace: &str) -> Result<(String, String)> {
    let pods: Api<Pod> = Api::all(cluster.client());
    let list = cluster.run(pods.list(&ListParams::default().labels(which.label)));
    let list = list.map_err(|error| failed("listing pods", error))?;
    let ready = list.items.into_iter().filter(is_ready);
    let mut names: Vec<(String, String)> =
        ready.filter_map(|pod| Some((pod.metadata.namespace?, pod.metadata.name?))).collect();
    names.sort_by_key(|(namespace, name)| (namespace != mesh_namespace, namespace.clone(), name.clone()));
    names.into_iter().next().ok_or_else(|| {
        Error::new(format!("there is no pod of {} that is ready", which.name)).hint(format!(
            "install it, with the label {}; its dashboards and alerts are in manifests/monitoring",
            which.label
        ))
    })
}

/// Forwards every connection to a port of a pod, until interrupted.
pub(super) async fn serve(cluster: &Cluster, listener: TcpListener, pod: &(String, String), port: u16) -> Result<()> {
    let (namespace, name) = pod;
    loop {
        let accepted = listener.accept().await;
        let (socket, _) = accepted.map_err(|error| Error::new("accepting a connection").because(error))?;
        let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
        tokio::spawn(carry(pods, name.clone(), port, socket));
    }
}

async fn carry(pods: Api<Pod>, name: String, port: u16, mut socket: TcpStream) {
    let mut forwarder = match pods.portforward(&name, &[port]).await {
        Ok(forwarder) => forwarder,
        Err(error) => return fairway_lab::complain!("error: forwarding to {name}: {error}"),
    };
    let Some(mut stream) = forwarder.take_stream(port) else { return };
    // Either end may break off; the browser sees that and asks again.
    let _ = copy_bidirectional(&mut socket, &mut stream).await;
}
