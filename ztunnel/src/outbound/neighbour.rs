//! Straight into another pod of this node.
//!
//! Both ends are ours and known by their namespaces, which is what their certificates would say, too. The bytes do not
//! leave this process between the two sockets, so there is nothing to encrypt and only one copy to make. Identity,
//! policy at the destination and telemetry of both ends are those of a tunnel.

use std::pin::pin;
use std::sync::Arc;

use fairway_core::facts::ConnectionFacts;
use fairway_core::io::copy::{self, Meter};
use fairway_core::io::drain::Drain;
use fairway_core::io::socket::reset_on_close;
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use fairway_core::route::{self, Hop};
use fairway_core::workload::Workload;
use tokio::net::TcpStream;

use super::{Outgoing, while_served};
use crate::conn::Authorized;
use crate::deliver::{Delivered, deliver_to};
use crate::dialled;
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, Outcome, Reporter};

impl Outgoing {
    /// Lets the connection, whose source is the workload `source`, into `neighbour`, the pod at the end of `hop`.
    pub(super) async fn neighbour(mut self, source: &Workload, neighbour: Arc<Pod>, hop: &Hop) -> Option<super::Open> {
        // Followed before anything is decided, so that no change of policy can fall in between.
        let view = neighbour.view();
        let local = view.borrow().workload.clone();
        let authority = hop.authority.to_string();
        self.info.destination = hop.address;
        self.info.hbone_destination = Some(authority.clone());
        self.info.source_identity = Some(source.identity());
        self.info.destination_identity = local.as_deref().map(Workload::identity);
        let mut arriving = ConnectionInfo { reporter: Reporter::Destination, ..self.info.clone() };
        if let Some(local) = local.as_deref().filter(|_| arriving.destination_service.is_none()) {
            let port = dialled::port_of(&authority);
            arriving.destination_service = dialled::service(&neighbour.mesh.live.snapshot(), local, None, port);
        }
        let refuse = |connection: Self, outcome: &Outcome| {
            connection.telemetry.refused(&arriving, connection.started, outcome);
            connection.refuse(outcome)
        };
        let Some(local) = local else {
            return refuse(self, &Outcome::because(Reason::WorkloadUnknown, &neighbour.reference.name));
        };
        let target = match route::inbound(&neighbour.mesh.live.snapshot(), &local, hop.address, &authority) {
            Ok(target) => target,
            Err(refusal) => return refuse(self, &Outcome::from(&*refusal)),
        };
        let facts = ConnectionFacts {
            source: self.info.source,
            source_identity: self.info.source_identity.clone(),
            original: None,
            destination: target.destination,
            http: None,
        };
        let Delivered { authorized, application } = match deliver_to(&neighbour, view, facts, &target).await {
            Ok(delivered) => delivered,
            Err(outcome) => return refuse(self, &outcome),
        };
        let ends = BothEnds {
            source: self.telemetry.open(self.info, None),
            destination: self.telemetry.open(arriving, authorized.allowed_by().cloned()),
        };
        Some(super::Open::Neighbour(Box::new(Open { stream: self.stream, application, authorized, neighbour, ends })))
    }
}

/// A connection between two pods of this node.
pub(super) struct Open {
    stream: TcpStream,
    application: TcpStream,
    authorized: Authorized,
    neighbour: Arc<Pod>,
    ends: BothEnds,
}

impl Open {
    /// Carries bytes until both ends are done, policy says no, or one of the pods leaves the mesh.
    pub(super) async fn carry(mut self: Box<Self>, drain: Drain, limits: &Limits) {
        let allowed = {
            let copied = pin!(copy::plain(&mut self.stream, &mut self.application, limits, &self.ends));
            let served = pin!(while_served(drain, copied));
            let allowed_by = |policy| self.ends.destination.allowed_by(policy);
            self.authorized.while_allowed(self.neighbour.drain.clone(), served, allowed_by).await
        };
        let outcome = match allowed {
            Ok(Some(result)) => result.into(),
            cut => {
                reset_on_close(&self.stream);
                reset_on_close(&self.application);
                cut.err().map_or(Outcome::of(Reason::WorkloadRemoved), Outcome::from)
            }
        };
        self.ends.source.finish(&outcome);
        self.ends.destination.finish(&outcome);
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
