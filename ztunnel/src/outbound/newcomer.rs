//! A new pod's connection that need not wait for the controller, because what the node knows of the pod is enough.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_core::route::Plan;
use fairway_core::workload::Workload;

use crate::pod::Pod;

/// Who connects and where the connection goes, if the pod is not announced yet and its announcement would not change it.
/// The certificate that a tunnel needs is given only if the authority agrees that the pod is here.
pub(super) async fn departure(pod: &Pod, client: IpAddr, destination: SocketAddr) -> Option<(Arc<Workload>, Plan)> {
    let source = Arc::new(pod.newcomer(client)?);
    let plan = super::plan(pod, &source, destination).await.ok()?;
    stands(&plan).then_some((source, plan))
}

/// Whether the plan is the same whatever the controller will say of the pod.
fn stands(plan: &Plan) -> bool {
    match plan {
        Plan::Passthrough { .. } | Plan::Direct { .. } | Plan::Tunnel { .. } => true,
        // A waypoint does not send to itself what it sends on, and this pod may be one.
        Plan::ViaWaypoint { .. } => false,
        // Rare, and where names and networks are guessed there is most to be wrong about.
        Plan::ViaGateway { .. } | Plan::Resolve { .. } => false,
    }
}
