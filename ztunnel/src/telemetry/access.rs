//! The access log: one line a connection, fields in Istio's order and ours after them (interop §9.4).

use std::time::Instant;

use fairway_core::ident::Identity;
use fairway_core::policy::PolicyKey;
use fairway_core::reason::Reason;
use tracing::Level;

use super::{ConnectionInfo, Outcome, Reporter};

macro_rules! line {
    ($level:expr, $info:ident, $message:literal, { $($more:tt)* }) => {{
        let info = $info;
        let source = info.source_workload.as_deref();
        let destination = info.destination_workload.as_deref();
        let original = info.original.as_deref();
        tracing::event!(
            target: "access",
            $level,
            src.addr = %info.source,
            src.workload = source.map(|workload| &*workload.name),
            src.namespace = source.map(|workload| workload.namespace()),
            src.identity = info.source_identity.as_ref().map(Identity::as_str),
            src.cluster = source.map(|workload| &*workload.cluster_id),
            dst.addr = %info.destination,
            dst.hbone_addr = info.hbone_destination.as_deref(),
            dst.service = info.destination_service.as_deref().map(|service| service.hostname()),
            dst.workload = destination.map(|workload| &*workload.name),
            dst.namespace = destination.map(|workload| workload.namespace()),
            dst.identity = info.destination_identity.as_ref().map(Identity::as_str),
            dst.cluster = destination.map(|workload| &*workload.cluster_id),
            direction = info.reporter.direction(),
            $($more)*
            original.addr = original.map(|original| tracing::field::display(original.address)),
            original.identity = original.map(|original| original.identity.as_str()),
            $message
        );
    }};
}

pub(super) fn opened(info: &ConnectionInfo) {
    line!(Level::DEBUG, info, "connection opened", {});
}

/// `bytes` towards the destination and towards the source; `policy` is the one that allowed the connection. Where policy
/// ended it, the outcome's own is named, if one decided.
pub(super) fn complete(
    info: &ConnectionInfo,
    outcome: &Outcome,
    policy: Option<&PolicyKey>,
    bytes: (u64, u64),
    opened: Instant,
) {
    let (sent, received) = match info.reporter {
        Reporter::Source => bytes,
        // Our side is the server's.
        Reporter::Destination => (bytes.1, bytes.0),
    };
    let duration = format!("{}ms", opened.elapsed().as_millis());
    let reason = outcome.reason;
    let allowed_by = policy.filter(|_| !reason.is_denial());
    let policy = outcome.policy.as_ref().or(allowed_by).map(PolicyKey::as_str);
    if reason == Reason::Ok {
        line!(Level::INFO, info, "connection complete", {
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration.as_str(),
            reason = reason.label(),
            policy,
        });
    } else {
        let error = outcome.detail.as_deref().unwrap_or_else(|| reason.message());
        line!(Level::ERROR, info, "connection complete", {
            bytes_sent = sent,
            bytes_recv = received,
            duration = duration.as_str(),
            error,
            reason = reason.label(),
            policy,
            hint = reason.hint(),
        });
    }
}

/// Ended before there was anything to describe.
pub(super) fn failed(info: &ConnectionInfo, outcome: &Outcome) {
    tracing::event!(
        target: "access",
        Level::WARN,
        src.addr = %info.source,
        dst.addr = %info.destination,
        direction = info.reporter.direction(),
        error = outcome.detail.as_deref().unwrap_or_else(|| outcome.reason.message()),
        reason = outcome.reason.label(),
        policy = outcome.policy.as_ref().map(PolicyKey::as_str),
        hint = outcome.reason.hint(),
        "connection failed"
    );
}
