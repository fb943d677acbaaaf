//! What is counted and logged about each connection: metrics while it lives, one access-log line at its end.
//!
//! ```text
//! istio_tcp_connections_opened_total{reporter="source",source_workload="client",…} 1
//! 2026-01-02T03:04:05.678901Z  info  access  connection complete  src.addr="10.0.0.1:4000" src.workload="client" …
//! ```

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_core::authz::Denial;
use fairway_core::facts::Original;
use fairway_core::ident::Identity;
use fairway_core::io::copy::Meter;
use fairway_core::io::metrics::{Counter, Gauge, Metrics};
use fairway_core::policy::PolicyKey;
use fairway_core::reason::Reason;
use fairway_core::service::Service;
use fairway_core::workload::Workload;

mod access;
mod dry_run;
mod ended;
mod labels;
mod series;
pub mod table;

pub use dry_run::{DryRunMatches, DryRuns};
pub use labels::LeftOut;
pub use table::{ConnectionTable, OpenConnection};

use series::{Series, SeriesCache};
use table::{Entry, TableGuard};

const SOCKETS_OPEN: &str = "istio_tcp_sockets_open";
const REVOKED: &str = "istio_crl_policy_rejections_total";
const UNTRACKED: &str = "istio_crl_untracked_connections_total";
/// What is shed is told of once in so long.
const BETWEEN_SHED: Duration = Duration::from_secs(1);

const BEFORE_ANNOUNCEMENT: &str = "fairway_connections_before_announcement_total";

/// Which end of the connection tells about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's proxy.
    Source,
    /// The server's proxy.
    Destination,
}

impl Reporter {
    /// Value of the metrics' `reporter` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// Value of the log's `direction` field.
    #[must_use]
    pub const fn direction(self) -> &'static str {
        match self {
            Self::Source => "outbound",
            Self::Destination => "inbound",
        }
    }
}

/// What is known of a connection when it is decided on. Identities are those proven by mutual TLS, else none.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Which end we are.
    pub reporter: Reporter,
    /// The client's address.
    pub source: SocketAddr,
    /// The client's workload.
    pub source_workload: Option<Arc<Workload>>,
    /// The client's proven identity.
    pub source_identity: Option<Identity>,
    /// For whom the client, which is a waypoint, speaks.
    pub original: Option<Arc<Original>>,
    /// The address of the TCP connection towards the server, port 15008 for a tunnel.
    pub destination: SocketAddr,
    /// The tunnel's authority.
    pub hbone_destination: Option<String>,
    /// The server's workload.
    pub destination_workload: Option<Arc<Workload>>,
    /// The server's proven identity.
    pub destination_identity: Option<Identity>,
    /// The service the client dialled.
    pub destination_service: Option<Arc<Service>>,
}

impl ConnectionInfo {
    /// A connection of which only the addresses are known.
    #[must_use]
    pub fn new(reporter: Reporter, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            reporter,
            source,
            source_workload: None,
            source_identity: None,
            original: None,
            destination,
            hbone_destination: None,
            destination_workload: None,
            destination_identity: None,
            destination_service: None,
        }
    }

    /// Whether both ends proved who they are.
    #[must_use]
    pub fn is_mutual_tls(&self) -> bool {
        self.source_identity.is_some() && self.destination_identity.is_some()
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The one reason.
    pub reason: Reason,
    /// The policy that decided.
    pub policy: Option<PolicyKey>,
    /// What exactly went wrong, if there is more to say than the reason does.
    pub detail: Option<String>,
}

impl Outcome {
    /// Both ends were done.
    #[must_use]
    pub const fn ok() -> Self {
        Self::of(Reason::Ok)
    }

    /// For this reason.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        Self { reason, policy: None, detail: None }
    }

    /// For this reason, with the error that caused it.
    #[must_use]
    pub fn because(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, policy: None, detail: Some(detail.to_string()) }
    }
}

impl From<Denial> for Outcome {
    fn from(denial: Denial) -> Self {
        Self { detail: Some(denial.to_string()), reason: denial.reason, policy: denial.policy }
    }
}

/// Counts and logs the connections of this proxy. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    series: SeriesCache,
    table: ConnectionTable,
    dry_runs: DryRuns,
    before_announcement: Counter,
    shed: Seldom,
    revoked: [Counter; 2],
    outbound_open: Gauge,
    inbound_open: Gauge,
}

impl Telemetry {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self::leaving_out(LeftOut::default(), metrics)
    }

    /// As [`Telemetry::new`], without some labels.
    #[must_use]
    pub fn leaving_out(labels: LeftOut, metrics: &Metrics) -> Self {
        metrics.describe(SOCKETS_OPEN, "Connections open now.");
        metrics.describe(BEFORE_ANNOUNCEMENT, "Connections of pods that the controller had not announced yet.");
        metrics.describe(REVOKED, "Connections refused or cut because a certificate of the peer is revoked.");
        metrics.describe(
            UNTRACKED,
            "Connections whose certificates are not looked at again when revocations change: none.",
        );
        for reporter in [Reporter::Source, Reporter::Destination] {
            metrics.counter(UNTRACKED, &[("reporter", reporter.as_str())]).increment(0);
        }
        let revoked = |reporter: Reporter| metrics.counter(REVOKED, &[("reporter", reporter.as_str())]);
        let open = |reporter: Reporter| metrics.gauge(SOCKETS_OPEN, &[("reporter", reporter.as_str())]);
        Self {
            shared: Arc::new(Shared {
                series: SeriesCache::new(metrics, labels),
                table: ConnectionTable::default(),
                dry_runs: DryRuns::new(metrics),
                shed: Seldom::default(),
                before_announcement: metrics.counter(BEFORE_ANNOUNCEMENT, &[]),
                revoked: [revoked(Reporter::Source), revoked(Reporter::Destination)],
                outbound_open: open(Reporter::Source),
                inbound_open: open(Reporter::Destination),
            }),
        }
    }

    /// The connections open now.
    #[must_use]
    pub fn table(&self) -> &ConnectionTable {
        &self.shared.table
    }

    /// Takes note of the policies in dry run that match one connection.
    #[must_use]
    pub fn dry_run(&self) -> DryRunMatches {
        self.shared.dry_runs.of_connection()
    }

    /// A pod connects that the controller has not announced yet.
    pub fn connected_before_announcement(&self) {
        self.shared.before_announcement.increment(1);
    }

    /// A connection was let through, by an ALLOW policy where one had to, and both its ends exist.
    #[must_use]
    pub fn open(&self, info: ConnectionInfo, policy: Option<PolicyKey>) -> ConnectionTelemetry {
        let info = Arc::new(info);
        let series = self.shared.series.get(&info);
        let gauge = match info.reporter {
            Reporter::Source => self.shared.outbound_open.clone(),
            Reporter::Destination => self.shared.inbound_open.clone(),
        };
        gauge.increment(1.0);
        series.opened();
        access::opened(&info);
        let entry = Arc::new(Entry::new(Arc::clone(&info), policy));
        let guard = self.shared.table.insert(Arc::clone(&entry));
        ConnectionTelemetry { telemetry: self.clone(), info, series, gauge, entry, finished: false, _guard: guard }
    }

    /// A connection was refused or failed before it was open.
    pub fn refused(&self, info: &ConnectionInfo, started: Instant, outcome: &Outcome) {
        self.failed(info, outcome.reason);
        if info.source_workload.is_none() && info.destination_workload.is_none() {
            access::failed(info, outcome);
        } else {
            access::complete(info, outcome, None, (0, 0), started);
        }
    }

    /// A connection or stream was refused because there are too many: counted like others, but told of only now and then,
    /// as these come in crowds and writing costs what is short.
    pub fn shed(&self, info: &ConnectionInfo, outcome: &Outcome) {
        self.failed(info, outcome.reason);
        if let Some(untold) = self.shared.shed.tell(Instant::now()) {
            if untold > 0 {
                tracing::warn!(untold, "more were refused like the next since the last one was told of");
            }
            access::complete(info, outcome, None, (0, 0), Instant::now());
        }
    }

    fn failed(&self, info: &ConnectionInfo, reason: Reason) {
        self.shared.series.failed(info, reason);
        if reason == Reason::CertificateRevoked {
            let [source, destination] = &self.shared.revoked;
            match info.reporter {
                Reporter::Source => source.increment(1),
                Reporter::Destination => destination.increment(1),
            }
        }
    }
}

/// Says what happens often only now and then.
#[derive(Debug, Default)]
struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether to tell of what happens `now`; and how often it happened untold before.
    fn tell(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, untold) = &mut *state;
        if told.is_some_and(|told| now.saturating_duration_since(told) < BETWEEN_SHED) {
            *untold += 1;
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(untold))
    }
}

/// Bytes that passed, seen from the client.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    to_destination: AtomicU64,
    to_source: AtomicU64,
}

impl Bytes {
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.to_destination.load(Ordering::Relaxed), self.to_source.load(Ordering::Relaxed))
    }
}

/// One open connection. End it with [`ConnectionTelemetry::finish`]; one that is dropped counts as cut short.
#[derive(Debug)]
pub struct ConnectionTelemetry {
    telemetry: Telemetry,
    info: Arc<ConnectionInfo>,
    series: Arc<Series>,
    gauge: Gauge,
    entry: Arc<Entry>,
    finished: bool,
    _guard: TableGuard,
}

impl ConnectionTelemetry {
    /// Bytes went from the client towards the server.
    pub fn sent_to_destination(&self, bytes: u64) {
        self.entry.bytes.to_destination.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_destination(bytes);
    }

    /// Bytes went from the server towards the client.
    pub fn sent_to_source(&self, bytes: u64) {
        self.entry.bytes.to_source.fetch_add(bytes, Ordering::Relaxed);
        self.series.to_source(bytes);
    }

    /// Another ALLOW policy than before lets the connection go on.
    pub fn allowed_by(&self, policy: Option<PolicyKey>) {
        *self.entry.policy() = policy;
    }

    /// The connection ended: counts it and writes its line.
    pub fn finish(mut self, outcome: &Outcome) {
        self.finished = true;
        self.close(outcome);
    }

    fn close(&self, outcome: &Outcome) {
        self.series.closed();
        if outcome.reason != Reason::Ok {
            self.telemetry.failed(&self.info, outcome.reason);
        }
        access::complete(&self.info, outcome, self.entry.policy().as_ref(), self.entry.bytes.read(), self.entry.opened);
    }
}

impl Drop for ConnectionTelemetry {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
        if !self.finished {
            // Its task was cancelled: a drain that ran out, or the process going down.
            self.close(&Outcome::of(Reason::Draining));
        }
    }
}

/// The application is the client at the source and the server at the destination.
impl Meter for ConnectionTelemetry {
    fn out_of_application(&self, bytes: u64) {
        match self.info.reporter {
            Reporter::Source => self.sent_to_destination(bytes),
            Reporter::Destination => self.sent_to_source(bytes),
        }
    }

    fn towards_application(&self, bytes: u64) {
        match self.info.reporter {
            Reporter::Source => self.sent_to_source(bytes),
            Reporter::Destination => self.sent_to_destination(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
