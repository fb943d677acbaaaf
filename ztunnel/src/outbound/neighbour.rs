//! Straight into another pod of this node.
//!
//! Both ends are ours and known by their namespaces, which is what their certificates would say, too. The bytes do not
//! leave this process between the two sockets, so there is nothing to encrypt and only one copy to make. Identity,
//! policy at the destination and telemetry of both ends are those of a tunnel.

use fairway_core::facts::ConnectionFacts;
use fairway_core::io::copy::{self, Meter};
use fairway_core::io::socket::reset_on_close;
use fairway_core::reason::Reason;
use fairway_core::route::{self, Hop};
use fairway_core::workload::Workload;

use super::{Outgoing, while_served};
use crate::deliver::{Delivered, deliver_to};
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, Outcome, Reporter};

impl Outgoing {
    /// Carries the connection from `pod`, whose workload is `source`, into `neighbour`, the pod at the end of `hop`.
    pub(super) async fn neighbour(mut self, pod: &Pod, source: &Workload, neighbour: &Pod, hop: &Hop) {
        let telemetry = &pod.mesh.telemetry;
        // Followed before anything is decided, so that no change of policy can fall in between.
        let view = neighbour.view();
        let local = view.borrow().workload.clone();
        let authority = hop.authority.to_string();
        self.info.destination = hop.address;
        self.info.hbone_destination = Some(authority.clone());
        self.info.source_identity = Some(source.identity());
        self.info.destination_identity = local.as_deref().map(Workload::identity);
        let arriving = ConnectionInfo { reporter: Reporter::Destination, ..self.info.clone() };
        let started = self.started;
        let refuse = |connection: Self, outcome: &Outcome| {
            telemetry.refused(&arriving, started, outcome);
            connection.refuse(telemetry, outcome);
        };
        let Some(local) = local else {
            return refuse(self, &Outcome::because(Reason::WorkloadUnknown, &neighbour.reference.name));
        };
        let target = match route::inbound(&pod.mesh.live.snapshot(), &local, hop.address, &authority) {
            Ok(target) => target,
            Err(refusal) => return refuse(self, &Outcome::from(&*refusal)),
        };
        let facts = ConnectionFacts {
            source: self.info.source,
            source_identity: self.info.source_identity.clone(),
            destination: target.destination,
            http: None,
        };
        let Delivered { mut authorized, application } = match deliver_to(neighbour, view, facts, &target).await {
            Ok(delivered) => delivered,
            Err(outcome) => return refuse(self, &outcome),
        };
        let Self { stream, info, .. } = self;
        let ends = BothEnds {
            source: telemetry.open(info, None),
            destination: telemetry.open(arriving, authorized.allowed_by().cloned()),
        };
        let copied = while_served(pod, &stream, copy::plain(&stream, &application, &ends));
        let outcome = match authorized.while_allowed(neighbour.drain.clone(), copied).await {
            Ok(outcome) => outcome,
            Err(cut) => {
                reset_on_close(&stream);
                reset_on_close(&application);
                cut.into()
            }
        };
        ends.source.finish(&outcome);
        ends.destination.finish(&outcome);
    }
}

/// Counts for the proxies of both ends, which are the same one here.
struct BothEnds {
    source: ConnectionTelemetry,
    destination: ConnectionTelemetry,
}

impl Meter for BothEnds {
    fn out_of_application(&self, bytes: u64) {
        self.source.sent_to_destination(bytes);
        self.destination.sent_to_destination(bytes);
    }

    fn towards_application(&self, bytes: u64) {
        self.source.sent_to_source(bytes);
        self.destination.sent_to_source(bytes);
    }
}
