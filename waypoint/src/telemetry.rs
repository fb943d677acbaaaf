//! What is counted and logged about each request and each connection, in Istio's words (interop §9.3).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::cel::Subject;
use fairway_core::ident::Identity;
use fairway_core::io::metrics::{HeldCounter, Histogram, LabelPair, Metrics};
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use fairway_core::workload::Workload;

use crate::access_log::carried::Closed;
use crate::access_log::{Ended, Kept};
use crate::carried::Carried;
use crate::config;
use crate::failure::Failure;
use crate::in_flight::Entry;
use crate::noted::{Noted, Would};
use crate::rates::Told;
use crate::stream::Connection;
use crate::trace::Trace;
use crate::troubles::Troubles;

mod asked;
pub(crate) mod clusters;
mod recent;
mod routes;

use asked::{Labels, Said};
use recent::Recent;
use routes::{RouteHandles, RouteKey};

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";
const REQUEST_BYTES: &str = "istio_request_bytes";
const RESPONSE_BYTES: &str = "istio_response_bytes";
const TCP_OPENED: &str = "istio_tcp_connections_opened_total";
const TCP_CLOSED: &str = "istio_tcp_connections_closed_total";
const TCP_SENT: &str = "istio_tcp_sent_bytes_total";
const TCP_RECEIVED: &str = "istio_tcp_received_bytes_total";
const REFUSED: &str = "fairway_waypoint_tunnels_refused_total";
const LEFT_OUT: &str = "fairway_waypoint_endpoints_left_out_total";
const UNANSWERED: &str = "fairway_waypoint_authorizer_failures_total";
const UNCOUNTED: &str = "fairway_waypoint_rate_limiter_failures_total";
const UNPROCESSED: &str = "fairway_waypoint_processor_failures_total";
const RATE_LIMIT_BUCKETS: &str = "fairway_waypoint_rate_limit_buckets";
const RATE_LIMIT_SHARED: &str = "fairway_waypoint_rate_limit_shared_total";
const LABELS_SHARED: &str = "fairway_waypoint_metric_labels_shared_total";
const AUDITED: &str = "fairway_policy_audit_matches_total";
/// The same as node proxies count connections by.
const DRY_RUN: &str = "fairway_policy_dry_run_matches_total";
const MIRRORED: &str = "fairway_waypoint_mirrored_requests_total";

/// Upper bounds in milliseconds and bytes, as Istio's waypoints have them.
const BUCKETS: &[f64] = &[
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The histograms' buckets.
pub const HISTOGRAMS: [(&str, &[f64]); 4] =
    [(DURATION, BUCKETS), (REQUEST_BYTES, BUCKETS), (RESPONSE_BYTES, BUCKETS), (routes::DURATION, routes::BUCKETS)];

/// Value of a label nothing is known for.
const UNKNOWN: &str = "unknown";

/// Counts and logs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    metrics: Metrics,
    /// For so long after its last use no series expires.
    fresh: Duration,
    /// Clusters of authorizers that did not answer the last question.
    silent_authorizers: Troubles,
    /// The same for rate limiters.
    silent_limiters: Troubles,
    /// The same for processors.
    silent_processors: Troubles,
    /// What labels that somebody asks for have said.
    values: asked::Values,
}

/// One request, as it turned out.
#[derive(Debug)]
pub struct Done {
    /// When it began.
    pub started: Instant,
    /// Method.
    pub method: http::Method,
    /// Host.
    pub authority: String,
    /// Path, without the query, which may hold secrets.
    pub path: String,
    /// Where its client is, as far as proxies say it who are believed.
    pub remote: Option<IpAddr>,
    /// Name of the route.
    pub route: String,
    /// Whether it had to wait on purpose.
    pub is_delayed: bool,
    /// Attempts beyond the first.
    pub retries: u32,
    /// Whether it is gRPC's.
    pub is_grpc: bool,
    /// Status of the answer; 0 where the client left before it.
    pub status: u16,
    /// gRPC's status of the answer.
    pub grpc_status: Option<u32>,
    /// Why it ended so.
    pub reason: Reason,
    /// More of that.
    pub detail: Option<String>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint's workload.
    pub workload: Option<Arc<Workload>>,
    /// Whom it has proved to be.
    pub identity: Option<Identity>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// The trace that it belongs to, where anything is made of traces.
    pub trace: Option<Box<Trace>>,
    /// What is kept of it for those whom the listener names to be told of it; none where our own log is all.
    pub kept: Option<Box<Kept>>,
    /// What policies say of it that decide nothing; none where they say nothing.
    pub noted: Option<Box<Noted>>,
    /// Where it is seen while it is under way; none for requests of our own.
    pub entry: Option<Entry>,
}

impl Done {
    /// Says where it is now.
    pub fn note(&self, note: impl FnOnce(&Entry)) {
        if let Some(entry) = &self.entry {
            note(entry);
        }
    }

    /// Nothing yet, of a request that starts now.
    #[must_use]
    pub fn begun(method: http::Method, path: String, is_grpc: bool) -> Self {
        Self {
            started: Instant::now(),
            method,
            authority: String::new(),
            path,
            remote: None,
            route: String::new(),
            is_delayed: false,
            retries: 0,
            is_grpc,
            status: 0,
            grpc_status: None,
            reason: Reason::ClientLeft,
            detail: None,
            endpoint: None,
            workload: None,
            identity: None,
            received: 0,
            sent: 0,
            trace: None,
            kept: None,
            noted: None,
            entry: None,
        }
    }
}

/// Who is asked about requests.
#[derive(Clone, Copy)]
enum Asked {
    Authorizer,
    Limiter,
}

impl Asked {
    /// What counts the questions that it did not answer.
    const fn failures(self) -> &'static str {
        match self {
            Self::Authorizer => UNANSWERED,
            Self::Limiter => UNCOUNTED,
        }
    }

    const fn any(self) -> &'static str {
        match self {
            Self::Authorizer => "an authorizer",
            Self::Limiter => "a rate limiter",
        }
    }

    const fn this(self) -> &'static str {
        match self {
            Self::Authorizer => "the authorizer",
            Self::Limiter => "the rate limiter",
        }
    }
}

/// Series that one connection keeps at hand.
#[derive(Default)]
pub struct AtHand {
    series: Recent<SeriesKey, Handles>,
    routes: Recent<RouteKey, RouteHandles>,
    /// By policy: what audits, or would decide so.
    noted: Recent<(String, Option<Would>), HeldCounter>,
}

/// The handles of one series.
struct Handles {
    /// None where nobody wants it.
    requests: Option<HeldCounter>,
    /// The same.
    observed: [Option<Histogram>; 3],
}

impl Handles {
    fn count(&self, observed: [f64; 3]) {
        if let Some(requests) = &self.requests {
            requests.increment(1);
        }
        for (histogram, value) in self.observed.iter().zip(observed) {
            if let Some(histogram) = histogram {
                histogram.record(value);
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SeriesKey {
    status: u16,
    flags: &'static str,
    grpc: Option<u32>,
    is_grpc: bool,
    workload: Option<fairway_core::workload::WorkloadUid>,
    /// What labels say that somebody asks for.
    asked: Option<Said>,
}

impl Telemetry {
    /// Counts into `metrics`, which were made with these limits.
    #[must_use]
    pub fn new(metrics: &Metrics, limits: &Limits) -> Self {
        metrics.describe(REQUESTS, "Requests that were answered.");
        metrics.describe(DURATION, "Time from the head of a request to the end of its answer, in milliseconds.");
        metrics.describe(REQUEST_BYTES, "Bytes of request bodies.");
        metrics.describe(RESPONSE_BYTES, "Bytes of bodies of answers.");
        routes::describe(metrics);
        metrics.describe(TCP_OPENED, "Connections opened.");
        metrics.describe(TCP_CLOSED, "Connections closed.");
        metrics.describe(TCP_SENT, "Bytes sent by servers, at either reporter.");
        metrics.describe(TCP_RECEIVED, "Bytes sent by clients, at either reporter.");
        metrics
            .describe(REFUSED, "Tunnels and streams in them that were refused before it was known what they are for.");
        metrics.describe(LEFT_OUT, "Times that an endpoint was left out for a while, as it kept failing.");
        metrics.describe(
            UNANSWERED,
            "Requests about which an authorizer was asked and did not answer, and what became of them.",
        );
        metrics.describe(
            UNCOUNTED,
            "Requests about which a rate limiter was asked and did not answer, and what became of them.",
        );
        metrics.describe(
            UNPROCESSED,
            "Requests that an external processor did not answer to, or not in its turn, and what became of them.",
        );
        metrics
            .describe(RATE_LIMIT_BUCKETS, "Values that requests are counted by at the moment, over all rate limits.");
        metrics.describe(
            RATE_LIMIT_SHARED,
            "Requests that were counted with others as there was no room for their own value.",
        );
        metrics.describe(
            LABELS_SHARED,
            "Requests and connections that were counted with others as there was no room for the values of labels that a Telemetry asks for.",
        );
        metrics.describe(AUDITED, "Requests and connections that a policy with the action AUDIT matched.");
        metrics
            .describe(DRY_RUN, "Connections that a policy in dry run matched, which it would have allowed or denied.");
        metrics
            .describe(MIRRORED, "Copies of requests, and those that could not be made because the body is too long.");
        let fresh = limits.duration(&limits::METRIC_SERIES_IDLE) / 2;
        let (silent_authorizers, silent_limiters) = (Troubles::default(), Troubles::default());
        let silent_processors = Troubles::default();
        let values = asked::Values::within(limits);
        Self { metrics: metrics.clone(), fresh, silent_authorizers, silent_limiters, silent_processors, values }
    }

    /// A tunnel whose client did not prove who it is, or that there is no room for.
    pub fn tunnel_refused(&self, peer: SocketAddr, failure: &Failure) {
        self.metrics.counter(REFUSED, &[("reason", failure.reason.label())]).increment(1);
        tracing::event!(
            target: "access", tracing::Level::WARN,
            src.addr = %peer, error = failure.detail, reason = failure.reason.label(), hint = failure.reason.hint(),
            "connection failed"
        );
    }

    /// A stream that asks for what it cannot have.
    pub fn stream_refused(&self, peer: SocketAddr, client: &Identity, failure: &Failure) {
        self.metrics.counter(REFUSED, &[("reason", failure.reason.label())]).increment(1);
        tracing::event!(
            target: "access", tracing::Level::WARN,
            src.addr = %peer, src.identity = client.as_str(), error = failure.detail, reason = failure.reason.label(),
            hint = failure.reason.hint(), "connection failed"
        );
    }

    /// What policies say that decide nothing.
    pub fn noted(&self, at_hand: &AtHand, noted: &Noted) {
        let audits = noted.audits.iter().map(|policy| (None, policy));
        let now = Instant::now();
        for (would, policy) in audits.chain(noted.dry_run.iter().map(|(would, policy)| (Some(*would), policy))) {
            // Policies come and go, and so do their series.
            let counter = || match would {
                None => self.metrics.held_counter(AUDITED, &[("policy", policy)]),
                Some(would) => self.metrics.held_counter(DRY_RUN, &[("policy", policy), ("action", would.label())]),
            };
            let is_meant = |(known, decides): &(String, Option<Would>)| *decides == would && known == policy;
            let look_up = || ((policy.clone(), would), counter());
            at_hand.noted.with(is_meant, (now, self.fresh), look_up, |counter| counter.increment(1));
        }
    }

    /// An endpoint is left out for a while, as it keeps failing.
    pub fn left_out(&self, cluster: &str, endpoint: SocketAddr) {
        self.metrics.counter(LEFT_OUT, &[]).increment(1);
        tracing::warn!(cluster, %endpoint, "an endpoint keeps failing and is left out for a while");
    }

    /// An authorizer did not answer; `passes` where requests go on then. The log says it once.
    pub fn unanswered(&self, cluster: &Arc<str>, passes: bool, detail: &str) {
        self.silent(Asked::Authorizer, cluster, passes, detail);
    }

    /// An authorizer has answered.
    pub fn answered(&self, cluster: &Arc<str>) {
        self.heard(Asked::Authorizer, cluster);
    }

    /// An external processor did not answer, or not in its turn; `passes` where requests go on then. The log says it once.
    pub fn unprocessed(&self, cluster: &Arc<str>, passes: bool, detail: &str) {
        let result = if passes { "passed" } else { "refused" };
        self.metrics.counter(UNPROCESSED, &[("result", result)]).increment(1);
        if self.silent_processors.begin(cluster) {
            tracing::warn!(%cluster, result, error = detail, "an external processor does not answer");
        }
    }

    /// An external processor has answered.
    pub fn processed(&self, cluster: &Arc<str>) {
        if self.silent_processors.end(cluster) {
            tracing::info!(%cluster, "the external processor answers again");
        }
    }

    /// A service that counts requests for several proxies did not answer; `passes` where requests go on then. The log says it
    /// once.
    pub fn uncounted(&self, cluster: &Arc<str>, passes: bool, detail: &str) {
        self.silent(Asked::Limiter, cluster, passes, detail);
    }

    /// A service that counts requests for several proxies has answered.
    pub fn counted_elsewhere(&self, cluster: &Arc<str>) {
        self.heard(Asked::Limiter, cluster);
    }

    fn silent(&self, asked: Asked, cluster: &Arc<str>, passes: bool, detail: &str) {
        let result = if passes { "passed" } else { "refused" };
        self.metrics.counter(asked.failures(), &[("result", result)]).increment(1);
        if self.troubles(asked).begin(cluster) {
            tracing::warn!(%cluster, result, error = detail, "{} does not answer", asked.any());
        }
    }

    fn heard(&self, asked: Asked, cluster: &Arc<str>) {
        if self.troubles(asked).end(cluster) {
            tracing::info!(%cluster, "{} answers again", asked.this());
        }
    }

    fn troubles(&self, asked: Asked) -> &Troubles {
        match asked {
            Asked::Authorizer => &self.silent_authorizers,
            Asked::Limiter => &self.silent_limiters,
        }
    }

    /// A request was counted by a rate limit.
    pub fn counted(&self, told: &Told<'_>) {
        if told.shares {
            self.metrics.counter(RATE_LIMIT_SHARED, &[("limit", limits::RATE_LIMIT_BUCKETS.name)]).increment(1);
        }
    }

    /// So many values that requests are counted by are remembered.
    pub fn buckets(&self, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "bounded by a limit")]
        self.metrics.gauge(RATE_LIMIT_BUCKETS, &[]).set(count as f64);
    }

    /// A copy of a request was sent, or could not be.
    pub fn mirrored(&self, sent: bool) {
        let result = if sent { "sent" } else { "too_long" };
        self.metrics.counter(MIRRORED, &[("result", result)]).increment(1);
    }

    /// A connection that nobody looked into has ended; `metrics` says what is counted otherwise than usual.
    pub fn connection(&self, connection: &Connection, carried: &Carried, metrics: Option<&Arc<config::Metrics>>) {
        let workload = carried.workload.as_deref();
        let identity = workload.map(Workload::identity);
        let mut usual = ends(connection, workload, identity.as_ref());
        usual.extend([("request_protocol", "tcp"), ("response_flags", carried.reason().response_flag().as_str())]);
        let asked = metrics.map(|metrics| self.asked(connection, metrics, &Closed::of(connection, carried)));
        let counted = [(TCP_OPENED, 1), (TCP_CLOSED, 1), (TCP_RECEIVED, carried.received), (TCP_SENT, carried.sent)];
        for (name, value) in counted {
            if let Some((labels, asked)) = labels(asked.as_ref(), name, &usual) {
                self.metrics.held_counter_with(name, &labels, &asked).increment(value);
            }
        }
    }

    /// A request has ended: it is counted.
    pub fn request(&self, connection: &Connection, done: &Done) {
        let flags = flags(done);
        let took = done.started.elapsed();
        let metrics = done.kept.as_deref().and_then(|kept| Some((kept, kept.metrics()?)));
        let asked =
            metrics.map(|(kept, metrics)| self.asked(connection, metrics, &Ended::of(connection, done, kept, took)));
        let key = SeriesKey {
            status: done.status,
            flags,
            grpc: done.grpc_status,
            is_grpc: done.is_grpc,
            workload: done.workload.as_ref().map(|workload| workload.uid.clone()),
            asked,
        };
        let milliseconds = took.as_secs_f64() * 1000.0;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a body, for a histogram")]
        let observed = [milliseconds, done.received as f64, done.sent as f64];
        let now = Instant::now();
        let AtHand { series, routes, .. } = &connection.series;
        let look_up = || (key.clone(), self.handles(connection, done, &key));
        series.with(|known| *known == key, (now, self.fresh), look_up, |series| series.count(observed));
        let look_up = || {
            let key = RouteKey::of(done);
            let handles = RouteHandles::of(&self.metrics, connection.bound.service(), &key);
            (key, handles)
        };
        routes.with(|known| known.is_of(done), (now, self.fresh), look_up, |route| route.count(took));
    }

    /// What labels say that somebody asks for.
    fn asked(&self, connection: &Connection, metrics: &Arc<config::Metrics>, subject: &impl Subject) -> Said {
        let (said, overflows) = self.values.said(&connection.listener, metrics, subject, Instant::now());
        if overflows {
            self.metrics.counter(LABELS_SHARED, &[("limit", limits::METRIC_LABEL_VALUES.name)]).increment(1);
        }
        said
    }

    /// Counter and histograms of one series; to be kept at hand, as making its labels costs more than counting.
    fn handles(&self, connection: &Connection, done: &Done, key: &SeriesKey) -> Handles {
        let status = done.status.to_string();
        let grpc = done.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        let mut usual = ends(connection, done.workload.as_deref(), done.identity.as_ref());
        usual.extend([
            ("request_protocol", if done.is_grpc { "grpc" } else { "http" }),
            ("response_code", status.as_str()),
            ("grpc_response_status", grpc.as_str()),
            ("response_flags", key.flags),
        ]);
        let of = |name| labels(key.asked.as_ref(), name, &usual);
        Handles {
            requests: of(REQUESTS).map(|(labels, asked)| self.metrics.held_counter_with(REQUESTS, &labels, &asked)),
            observed: [DURATION, REQUEST_BYTES, RESPONSE_BYTES]
                .map(|name| of(name).map(|(labels, asked)| self.metrics.held_histogram_with(name, &labels, &asked))),
        }
    }
}

/// Labels of a metric; nothing where nobody wants it.
fn labels<'a>(asked: Option<&'a Said>, metric: &str, usual: &[LabelPair<'a>]) -> Option<Labels<'a>> {
    match asked {
        None => Some((usual.to_vec(), Vec::new())),
        Some(asked) => asked.labels(metric, usual),
    }
}

/// The short codes that users of Envoy know.
pub(crate) fn flags(done: &Done) -> &'static str {
    match done.reason {
        Reason::Ok | Reason::RouteAnswered if done.is_delayed => "DI",
        Reason::FaultInjected => "FI",
        Reason::NoHealthyUpstream => "UH",
        Reason::RouteNotFound => "NR",
        Reason::TimedOut => "UT",
        Reason::IdleTimeout => "SI",
        Reason::ConnectionLimit => "UO",
        Reason::RateLimited => "RL",
        Reason::ResetByPeer | Reason::Http2Failed => "UC",
        Reason::AnswerMalformed => "UPE",
        Reason::ClientLeft => "DC",
        Reason::Ok | Reason::RouteAnswered | Reason::RouteRefuses => "-",
        Reason::BadRequest | Reason::HeadersTooLarge => "-",
        // As Envoy, which has no code for it.
        Reason::ProcessorFailed | Reason::ProcessorAnswered => "-",
        Reason::RateLimiterFailed => "RLSE",
        Reason::AuthorizerRefused | Reason::AuthorizerFailed => "UAEX",
        reason if reason.is_denial() => "-",
        _ => "UF",
    }
}

fn ends<'a>(
    connection: &'a Connection,
    workload: Option<&'a Workload>,
    identity: Option<&'a Identity>,
) -> Vec<LabelPair<'a>> {
    fn of<'a>(workload: Option<&'a Workload>, field: impl Fn(&'a Workload) -> &'a str) -> &'a str {
        workload.map(field).filter(|text| !text.is_empty()).unwrap_or(UNKNOWN)
    }
    let source = connection.client.workload.as_deref();
    let service = connection.bound.service();
    vec![
        ("reporter", "waypoint"),
        ("source_workload", of(source, |workload| &workload.workload_name)),
        ("source_canonical_service", of(source, |workload| &workload.canonical_name)),
        ("source_canonical_revision", of(source, |workload| &workload.canonical_revision)),
        ("source_workload_namespace", connection.client.identity.namespace()),
        ("source_principal", connection.client.identity.as_str()),
        ("source_app", of(source, |workload| &workload.canonical_name)),
        ("source_version", of(source, |workload| &workload.canonical_revision)),
        ("source_cluster", of(source, |workload| &workload.cluster_id)),
        ("destination_service", service.map_or(UNKNOWN, |service| service.hostname())),
        ("destination_service_namespace", service.map_or(UNKNOWN, |service| service.namespace())),
        ("destination_service_name", service.map_or(UNKNOWN, |service| &service.name)),
        ("destination_workload", of(workload, |workload| &workload.workload_name)),
        ("destination_canonical_service", of(workload, |workload| &workload.canonical_name)),
        ("destination_canonical_revision", of(workload, |workload| &workload.canonical_revision)),
        ("destination_workload_namespace", of(workload, Workload::namespace)),
        ("destination_principal", identity.map_or(UNKNOWN, Identity::as_str)),
        ("destination_app", of(workload, |workload| &workload.canonical_name)),
        ("destination_version", of(workload, |workload| &workload.canonical_revision)),
        ("destination_cluster", of(workload, |workload| &workload.cluster_id)),
        ("connection_security_policy", "mutual_tls"),
    ]
}
