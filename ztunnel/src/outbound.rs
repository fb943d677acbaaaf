//! One captured connection leaving a pod, top to bottom.

mod neighbour;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::io::copy::{self, CopyError};
use fairway_core::io::hbone::{ConnectRequest, TunnelKey, headers};
use fairway_core::io::socket::{original_destination, reset_on_close};
use fairway_core::reason::Reason;
use fairway_core::route::{self, Hop, Plan};
use fairway_core::service::Service;
use fairway_core::workload::Workload;
use http::{HeaderMap, header};
use tokio::net::TcpStream;

use crate::baggage;
use crate::listen::Accepted;
use crate::outcome;
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, Outcome, Reporter, Telemetry};

/// Serves one connection of the pod to somewhere else.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { stream, peer: client, permit: _permit } = accepted;
    let Ok(destination) = original_destination(&stream) else { return };
    let telemetry = &pod.mesh.telemetry;
    let mut connection =
        Outgoing { stream, started: Instant::now(), info: ConnectionInfo::new(Reporter::Source, client, destination) };
    let Some(source) = pod.workload().await else {
        return connection.refuse(telemetry, &Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
    };
    connection.info.source_workload = Some(Arc::clone(&source));
    // One snapshot for the whole decision.
    let snapshot = pod.mesh.live.snapshot();
    let plan = match route::plan(&snapshot, &source, destination, &mut rand::rng()) {
        Ok(plan) => plan,
        Err(refusal) => {
            connection.info.destination_workload.clone_from(&refusal.workload);
            connection.info.destination_service.clone_from(&refusal.service);
            return connection.refuse(telemetry, &Outcome::from(&*refusal));
        }
    };
    connection.info.destination_workload = plan.workload().cloned();
    connection.info.destination_service = plan.service().cloned();
    match &plan {
        Plan::Passthrough { address, .. } | Plan::Direct { address, .. } => connection.plain(&pod, *address).await,
        Plan::Tunnel { hop, workload, .. } if let Some(neighbour) = pod.mesh.neighbours.find(workload) => {
            connection.neighbour(&pod, &source, &neighbour, hop).await;
        }
        Plan::Tunnel { hop, workload: peer, .. } | Plan::ViaWaypoint { hop, waypoint: peer, .. } => {
            let key = TunnelKey {
                source: source.identity(),
                accepted: Arc::clone(&hop.identities),
                peer: hop.address,
                workload: Some(peer.uid.clone()),
                client: client.ip(),
            };
            let request = request(&source, hop, client, plan.service());
            connection.tunnel(&pod, &key, &request).await;
        }
        Plan::Resolve { hostname, .. } => {
            let detail = format!("{hostname}: an endpoint that is only a hostname cannot be reached yet");
            connection.refuse(telemetry, &Outcome::because(Reason::DnsFailed, detail));
        }
    }
}

/// A captured connection and what is known of it so far.
struct Outgoing {
    stream: TcpStream,
    started: Instant,
    info: ConnectionInfo,
}

impl Outgoing {
    /// Plain TCP to a destination outside the mesh.
    async fn plain(self, pod: &Pod, address: SocketAddr) {
        let upstream = match pod.sockets.connect(address, None).await {
            Ok(upstream) => upstream,
            Err(error) => return self.refuse(&pod.mesh.telemetry, &outcome::upstream_unreachable(&error)),
        };
        let Self { stream, info, .. } = self;
        let telemetry = pod.mesh.telemetry.open(info, None);
        let outcome = while_served(pod, &stream, copy::plain(&stream, &upstream, &telemetry)).await;
        telemetry.finish(&outcome);
    }

    /// Mutual TLS to the destination's node, or to its waypoint.
    async fn tunnel(mut self, pod: &Pod, key: &TunnelKey, request: &ConnectRequest) {
        self.info.destination = key.peer;
        self.info.hbone_destination = Some(request.authority.clone());
        let mut opened = match pod.pool.open(key, request).await {
            Ok(opened) => opened,
            Err(error) => return self.refuse(&pod.mesh.telemetry, &Outcome::from(&error)),
        };
        let Self { stream, mut info, .. } = self;
        info.source_identity = Some(key.source.clone());
        info.destination_identity = opened.peer_identity.take();
        let telemetry = pod.mesh.telemetry.open(info, None);
        let outcome = while_served(pod, &stream, copy::with_tunnel(&stream, &mut opened.stream, &telemetry)).await;
        telemetry.finish(&outcome);
    }

    /// The application learns of a refusal by a reset: an orderly close would look like an empty answer.
    fn refuse(self, telemetry: &Telemetry, outcome: &Outcome) {
        reset_on_close(&self.stream);
        telemetry.refused(&self.info, self.started, outcome);
    }
}

/// Runs `copy` to its end, unless the pod leaves the mesh before.
async fn while_served(
    pod: &Pod,
    application: &TcpStream,
    copy: impl Future<Output = Result<(), CopyError>>,
) -> Outcome {
    let mut drain = pod.drain.clone();
    tokio::select! {
        biased;
        () = drain.immediate() => {
            reset_on_close(application);
            Outcome::of(Reason::WorkloadRemoved)
        }
        result = copy => result.into(),
    }
}

fn request(source: &Workload, hop: &Hop, client: SocketAddr, service: Option<&Arc<Service>>) -> ConnectRequest {
    let lines = [
        (headers::BAGGAGE, baggage::of(source).to_value()),
        (header::FORWARDED, headers::forwarded(client, service.map(|service| service.hostname()))),
        (headers::TRACEPARENT, headers::traceparent(rand::random(), rand::random())),
    ];
    let headers: HeaderMap = lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    ConnectRequest { authority: hop.authority.to_string(), headers }
}
