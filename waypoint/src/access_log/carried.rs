//! Tells of a connection that nobody looked into, when it has ended. What only requests have, it has not.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::access_log::{Entry, Operator, Plain, Said};
use fairway_core::cel::{Attribute, Subject, Value};
use fairway_core::io::logging::in_milliseconds;
use fairway_core::reason::{Reason, ResponseFlag};

use super::{ends, peer, put, wanted};
use crate::carried::Carried;
use crate::config::{Logs, Sink};
use crate::noted::Noted;
use crate::stream::Connection;

/// A connection that has ended.
pub(crate) struct Closed<'a> {
    connection: &'a Connection,
    carried: &'a Carried,
    took: Duration,
    begun: SystemTime,
}

impl<'a> Closed<'a> {
    pub(crate) fn of(connection: &'a Connection, carried: &'a Carried) -> Self {
        let (took, now) = (connection.started.elapsed(), SystemTime::now());
        Self { connection, carried, took, begun: now.checked_sub(took).unwrap_or(now) }
    }
}

/// Tells of it those whom the listener names; none is our own log.
pub fn tell(connection: &Connection, carried: &Carried, noted: Option<&Noted>, logs: Option<&Arc<Logs>>) {
    let Some(logs) = logs else { return usual(connection, carried, noted) };
    let closed = Closed::of(connection, carried);
    for logger in wanted(logs, &closed) {
        match &logger.sink {
            Sink::Usual => usual(connection, carried, noted),
            sink => put(connection, sink, &closed, (closed.begun, None)),
        }
    }
}

impl Entry for Closed<'_> {
    fn say(&self, operator: &Operator) -> Option<Said<'_>> {
        let Operator::Plain(plain) = operator else {
            let is_start = matches!(operator, Operator::StartTime);
            return is_start.then(|| Said::Text(in_milliseconds(self.begun).into()));
        };
        let carried = self.carried;
        let text = |text: &str| Some(Said::Text(text.to_owned().into()));
        let failure = carried.failure.as_ref();
        let reason = carried.reason();
        match plain {
            // As Envoy writes what is no request.
            Plain::ResponseCode => Some(Said::Number(0)),
            Plain::ResponseFlags => text(reason.response_flag().as_str()),
            Plain::BytesReceived => Some(Said::Number(carried.received)),
            Plain::BytesSent => Some(Said::Number(carried.sent)),
            Plain::Duration => Some(Said::Number(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX))),
            Plain::UpstreamHost => text(&carried.endpoint?.to_string()),
            Plain::UpstreamCluster => text(carried.cluster.as_deref()?),
            Plain::UpstreamPeer => text(carried.workload.as_ref()?.identity().as_str()),
            Plain::UpstreamFailure => {
                let flag = reason.response_flag();
                let is_endpoints = matches!(flag, ResponseFlag::Connect | ResponseFlag::TlsFailure);
                let is_endpoints = is_endpoints || carried.workload.is_none();
                text(&failure.filter(|_| is_endpoints && !reason.is_denial())?.detail)
            }
            Plain::ConnectionTerminationDetails => text(failure.map(|_| reason.label())?),
            Plain::RequestedServerName => text(carried.server_name.as_deref()?),
            plain => ends(self.connection, *plain),
        }
    }
}

impl Subject for Closed<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let carried = self.carried;
        match attribute {
            Attribute::UpstreamAddress => Some(Value::Text(carried.endpoint?.to_string().into())),
            attribute => peer(self.connection, carried.workload.as_deref(), attribute),
        }
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// Our own log.
fn usual(connection: &Connection, carried: &Carried, noted: Option<&Noted>) {
    let client = &connection.client;
    let reason = carried.reason();
    let failure = carried.failure.as_ref();
    line!(reason != Reason::Ok, "connection complete", {
        src.addr = %client.address,
        src.workload = client.workload.as_deref().map(|workload| &*workload.name),
        src.identity = client.identity.as_str(),
        dst.hbone_addr = %connection.bound.address(),
        dst.service = connection.bound.service().map(|service| service.hostname()),
        dst.workload = carried.workload.as_deref().map(|workload| &*workload.name),
        audited_by = noted.and_then(Noted::audits),
        dry_run = noted.and_then(Noted::dry_run),
        bytes_sent = carried.sent, bytes_recv = carried.received,
        reason = reason.label(),
        error = failure.map(|failure| failure.detail.as_str()),
        hint = failure.map(|_| reason.hint()),
    });
}
