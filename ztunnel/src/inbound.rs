//! Tunnels arriving for a pod: one connection carries many streams, each is one application connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::addr::canonical;
use fairway_core::facts::ConnectionFacts;
use fairway_core::ident::Identity;
use fairway_core::io::copy;
use fairway_core::io::hbone::headers::{BAGGAGE, forwarded_host};
use fairway_core::io::hbone::server::{self, Incoming};
use fairway_core::io::socket::reset_on_close;
use fairway_core::reason::Reason;
use fairway_core::route;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use http::HeaderMap;

use crate::baggage;
use crate::deliver::{Delivered, deliver_to};
use crate::listen::Accepted;
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, Outcome, Reporter};

/// Serves one tunnel connection to the pod: proves both sides, then serves its streams until it ends.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer, permit: _permit } = accepted;
    let started = Instant::now();
    let Ok(arrived_at) = stream.local_addr().map(canonical) else { return };
    let mut info = ConnectionInfo::new(Reporter::Destination, peer, arrived_at);
    let Some(local) = pod.workload().await else {
        let unknown = Outcome::because(Reason::WorkloadUnknown, &pod.reference.name);
        return pod.mesh.telemetry.refused(&info, started, &unknown);
    };
    info.destination_workload = Some(Arc::clone(&local));
    let certificate = match pod.mesh.certificates.claim(&local.identity()).get().await {
        Ok(certificate) => certificate,
        Err(error) => {
            let unavailable = Outcome::because(Reason::CertificateUnavailable, error);
            return pod.mesh.telemetry.refused(&info, started, &unavailable);
        }
    };
    let (tls, client) = match server::accept_tls(stream, certificate.credentials.server()).await {
        Ok(proven) => proven,
        Err(error) => return pod.mesh.telemetry.refused(&info, started, &Outcome::from(&error)),
    };
    let mut draining = pod.drain.clone();
    let drain = async move {
        draining.started().await;
    };
    let streams = |incoming: Incoming| {
        let arrived = Arrived { pod: Arc::clone(&pod), peer, arrived_at, client: client.clone(), incoming };
        tokio::spawn(arrived.serve());
    };
    if let Err(error) = server::serve(tls, peer, drain, streams).await {
        tracing::debug!(%peer, %client, %error, "tunnel connection ended");
    }
}

/// One stream that asks to be let through, and what is known of it from the connection it came on.
struct Arrived {
    pod: Arc<Pod>,
    peer: SocketAddr,
    arrived_at: SocketAddr,
    client: Identity,
    incoming: Incoming,
}

impl Arrived {
    /// Serves the stream, in the order of interop §1.4: policy, then the application, then 200.
    async fn serve(self) {
        let started = Instant::now();
        let pod = Arc::clone(&self.pod);
        // Followed before anything is decided, so that no change of policy can fall in between.
        let view = pod.view();
        let snapshot = pod.mesh.live.snapshot();
        let local = view.borrow().workload.clone();
        let info = self.describe(&snapshot, local.as_ref());
        let refuse = |incoming: Incoming, outcome: &Outcome| {
            incoming.refuse(outcome.reason);
            pod.mesh.telemetry.refused(&info, started, outcome);
        };
        let Some(local) = local else {
            return refuse(self.incoming, &Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
        };
        let Some(authority) = self.incoming.authority().filter(|_| self.incoming.is_connect()) else {
            return refuse(self.incoming, &Outcome::because(Reason::BadRequest, "not a CONNECT with an authority"));
        };
        let target = match route::inbound(&snapshot, &local, self.arrived_at, authority) {
            Ok(target) => target,
            Err(refusal) => return refuse(self.incoming, &Outcome::from(&*refusal)),
        };
        let facts = ConnectionFacts {
            source: self.peer,
            source_identity: Some(self.client),
            destination: target.destination,
            http: None,
        };
        let Delivered { mut authorized, application } = match deliver_to(&pod, view, facts, &target).await {
            Ok(delivered) => delivered,
            Err(outcome) => return refuse(self.incoming, &outcome),
        };
        let Ok(mut tunnel) = self.incoming.accept(describe_ourselves(&local)) else {
            let left = Outcome::because(Reason::ResetByPeer, "the client left before it was answered");
            return pod.mesh.telemetry.refused(&info, started, &left);
        };
        let telemetry = pod.mesh.telemetry.open(info, authorized.allowed_by().cloned());
        let copied = copy::with_tunnel(&application, &mut tunnel, &telemetry);
        let outcome = match authorized.while_allowed(pod.drain.clone(), copied).await {
            Ok(result) => result.into(),
            Err(cut) => {
                tunnel.abort();
                reset_on_close(&application);
                cut.into()
            }
        };
        telemetry.finish(&outcome);
    }

    fn describe(&self, snapshot: &Snapshot, local: Option<&Arc<Workload>>) -> ConnectionInfo {
        let mut info = ConnectionInfo::new(Reporter::Destination, self.peer, self.arrived_at);
        info.source_identity = Some(self.client.clone());
        info.hbone_destination = self.incoming.authority().map(ToOwned::to_owned);
        let Some(local) = local else { return info };
        // The address says which workload it is only if the certificate agrees: behind a gateway or waypoint it does not.
        let source = snapshot.workload_at(&local.network, self.peer.ip());
        info.source_workload = source.filter(|source| source.identity() == self.client).cloned();
        info.destination_identity = Some(local.identity());
        info.destination_workload = Some(Arc::clone(local));
        // Untrusted, and therefore believed only about services the pod is part of.
        info.destination_service = forwarded_host(self.incoming.headers()).and_then(|host| {
            let entry = local.services.iter().find(|entry| entry.key.hostname() == host)?;
            snapshot.service(&entry.key).cloned()
        });
        info
    }
}

/// The 200's baggage: the client uses it for labels when it knew only a gateway (interop §1.3).
fn describe_ourselves(local: &Workload) -> HeaderMap {
    baggage::of(local).to_value().map(|value| (BAGGAGE, value)).into_iter().collect()
}
