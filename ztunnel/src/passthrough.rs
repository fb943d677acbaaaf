//! One plaintext connection arriving for a pod, top to bottom.

use std::sync::Arc;
use std::time::Instant;

use fairway_core::facts::ConnectionFacts;
use fairway_core::io::copy;
use fairway_core::io::socket::{original_destination, reset_on_close};
use fairway_core::reason::Reason;
use fairway_core::route;

use crate::deliver::{Delivered, deliver};
use crate::listen::Accepted;
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, Outcome, Reporter};

/// Serves one plaintext connection to the pod: nobody is proven, policy decides whether that is enough.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer, permit: _permit } = accepted;
    let started = Instant::now();
    let Ok(arrived_at) = original_destination(&stream) else { return };
    let mut info = ConnectionInfo::new(Reporter::Destination, peer, arrived_at);
    let local = pod.workload().await;
    if let Some(local) = &local {
        info.source_workload = pod.mesh.live.snapshot().workload_at(&local.network, peer.ip()).cloned();
        info.destination_workload = Some(Arc::clone(local));
    }
    let refuse = |outcome: &Outcome| {
        reset_on_close(&stream);
        pod.mesh.telemetry.refused(&info, started, outcome);
    };
    if local.is_none() {
        return refuse(&Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
    }
    let destination = match route::passthrough(arrived_at) {
        Ok(destination) => destination,
        Err(refusal) => return refuse(&Outcome::from(&*refusal)),
    };
    let facts = ConnectionFacts { source: peer, source_identity: None, destination, http: None };
    let Delivered { mut authorized, application } = match deliver(&pod, pod.view(), facts, destination).await {
        Ok(delivered) => delivered,
        Err(outcome) => return refuse(&outcome),
    };
    let telemetry = pod.mesh.telemetry.open(info, authorized.allowed_by().cloned());
    let copied = copy::plain(&application, &stream, &telemetry);
    let outcome = match authorized.while_allowed(pod.drain.clone(), copied).await {
        Ok(result) => result.into(),
        Err(cut) => {
            reset_on_close(&stream);
            reset_on_close(&application);
            cut.into()
        }
    };
    telemetry.finish(&outcome);
}
