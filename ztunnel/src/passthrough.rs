//! One plaintext connection arriving for a pod, top to bottom.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::facts::ConnectionFacts;
use fairway_core::io::copy;
use fairway_core::io::drain::Drain;
use fairway_core::io::socket::{original_destination, reset_on_close};
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use fairway_core::route;
use tokio::net::TcpStream;

use crate::conn::Authorized;
use crate::deliver::{Delivered, deliver};
use crate::dialled;
use crate::listen::{Accepted, Arrival};
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, Outcome, Reporter};

/// Serves one plaintext connection to the pod: nobody is proven, policy decides whether that is enough.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { arrival: Arrival { stream, peer, permit: _permit }, place: _place } = accepted;
    // Boxed: what it takes to let a connection in is soon over. What idles is the copy alone.
    let mut drain = pod.drain.clone();
    let open = tokio::select! {
        open = Box::pin(open(&pod, stream, peer)) => open,
        () = drain.immediate() => None,
    };
    if let Some(open) = open {
        open.carry(drain, &pod.mesh.limits).await;
    }
}

async fn open(pod: &Pod, stream: TcpStream, peer: SocketAddr) -> Option<Box<Open>> {
    let started = Instant::now();
    let arrived_at = original_destination(&stream).ok()?;
    let mut info = ConnectionInfo::new(Reporter::Destination, peer, arrived_at);
    let local = pod.workload().await;
    if let Some(local) = &local {
        let snapshot = pod.mesh.live.snapshot();
        info.source_workload = snapshot.workload_at(&local.network, peer.ip()).cloned();
        info.destination_service = dialled::service(&snapshot, local, None, Some(arrived_at.port()));
        info.destination_workload = Some(Arc::clone(local));
    }
    let refuse = |outcome: &Outcome| {
        reset_on_close(&stream);
        pod.mesh.telemetry.refused(&info, started, outcome);
        None
    };
    if local.is_none() {
        return refuse(&Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
    }
    let destination = match route::passthrough(arrived_at) {
        Ok(destination) => destination,
        Err(refusal) => return refuse(&Outcome::from(&*refusal)),
    };
    let facts = ConnectionFacts { source: peer, source_identity: None, original: None, destination, http: None };
    let Delivered { authorized, application } = match deliver(pod, pod.view(), facts, destination).await {
        Ok(delivered) => delivered,
        Err(outcome) => return refuse(&outcome),
    };
    let telemetry = pod.mesh.telemetry.open(info, authorized.allowed_by().cloned());
    Some(Box::new(Open { authorized, application, stream, telemetry }))
}

/// A connection that was let in.
struct Open {
    authorized: Authorized,
    application: TcpStream,
    stream: TcpStream,
    telemetry: ConnectionTelemetry,
}

impl Open {
    /// Carries bytes until both ends are done, policy says no, or the pod leaves the mesh.
    async fn carry(mut self: Box<Self>, drain: Drain, limits: &Limits) {
        let allowed = {
            let copied = pin!(copy::plain(&mut self.application, &mut self.stream, limits, &self.telemetry));
            self.authorized.while_allowed(drain, copied, |policy| self.telemetry.allowed_by(policy)).await
        };
        let outcome = match allowed {
            Ok(result) => result.into(),
            Err(cut) => {
                reset_on_close(&self.stream);
                reset_on_close(&self.application);
                cut.into()
            }
        };
        self.telemetry.finish(&outcome);
    }
}
