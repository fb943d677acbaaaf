//! A new pod's connection that need not wait for the controller, because what the node knows of the pod is enough.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_core::route::Plan;
use fairway_core::workload::Workload;

use crate::pod::Pod;

/// Who connects and where the connection goes, if the pod is not announced yet and its announcement would not change it.
///
/// Where a tunnel is needed, only once the authority has agreed that the pod is who its node says, with a certificate; it
/// is not waited for when the announcement comes first.
pub(super) async fn departure(pod: &Pod, client: IpAddr, destination: SocketAddr) -> Option<(Arc<Workload>, Plan)> {
    let source = Arc::new(pod.newcomer(client)?);
    let plan = super::decide(pod, &source, destination).await.ok()?;
    match needs(&plan) {
        Needs::Nothing => {}
        Needs::Certificate => {
            let certificate = pod.mesh.certificates.claim(&source.identity());
            tokio::select! {
                certificate = certificate.get() => drop(certificate.ok()?),
                _announced = pod.workload() => return None,
            }
        }
        Needs::Announcement => return None,
    }
    pod.mesh.telemetry.connected_before_announcement();
    tracing::debug!(pod = &*pod.reference.name, %destination, "a pod that is not announced yet connects");
    Some((source, plan))
}

#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Certificate,
    Announcement,
}

/// What it takes to go by a plan that was made without what the controller will say of the pod.
fn needs(plan: &Plan) -> Needs {
    match plan {
        Plan::Passthrough { .. } | Plan::Direct { .. } => Needs::Nothing,
        Plan::Tunnel { .. } => Needs::Certificate,
        // A waypoint does not send to itself what it sends on, and this pod may be one.
        Plan::ViaWaypoint { .. } => Needs::Announcement,
        // Rare, and where names and networks are guessed there is most to be wrong about.
        Plan::ViaGateway { .. } | Plan::Resolve { .. } => Needs::Announcement,
    }
}
