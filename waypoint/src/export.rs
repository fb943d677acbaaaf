//! Tells collectors what requests took, in OTLP: requests leave their spans in a bounded queue and wait for nobody, and one task
//! sends what gathers there, to each collector one batch at a time. What there is no room for, and what a collector does not take,
//! is counted and gone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::headers::Baggage;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::tls::trust::Role;
use fairway_core::limits::{self, Limits};
use fairway_core::route::Bound;
use fairway_proto::otlp::common::InstrumentationScope;
use fairway_proto::otlp::resource::Resource;
use fairway_proto::otlp::trace::{ResourceSpans, ScopeSpans, Span};
use fairway_proto::otlp::trace_service::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Call, CallError};
use crate::config::Collector;
use crate::dial::Client;
use crate::named::Named;
use crate::stream::Connection;
use crate::telemetry::{AtHand, Done};
use crate::troubles::Troubles;
use crate::waypoint::Waypoint;

mod span;

const SPANS: &str = "fairway_waypoint_spans_total";
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Spans of one call; as many as OpenTelemetry's own exporters send (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;
/// About so many bytes of spans in one call; collectors take 4 MiB (gRPC's usual bound for a message).
const BATCH_BYTES: usize = 1 << 20;
/// So long spans are gathered for one call.
const GATHER: Duration = Duration::from_millis(500);
/// So long all collectors together have for what is left when we stop; what a pod has left then is five seconds.
const FAREWELL: Duration = Duration::from_secs(3);

/// A span, and who is told.
struct Record {
    collector: Arc<Collector>,
    span: Span,
}

/// What is to be told to one collector. One that is silent keeps nobody but itself.
#[derive(Default)]
struct Outbox {
    waiting: VecDeque<Span>,
    /// Spans of the one call that is under way.
    under_way: usize,
}

/// How a call ended: with how many spans that were not taken, if there was somebody to call as.
struct Told {
    collector: Arc<Collector>,
    total: usize,
    answered: Option<Result<usize, CallError>>,
}

/// Where requests leave their spans.
pub struct Exports {
    sender: mpsc::Sender<Record>,
    metrics: Metrics,
}

/// What takes them from there.
pub struct Exporter {
    receiver: mpsc::Receiver<Record>,
    metrics: Metrics,
    timeout: Duration,
    /// Spans that wait for one collector at most.
    most: usize,
    /// Of collectors that there is something for.
    outboxes: HashMap<Arc<Collector>, Outbox>,
    /// Clusters of collectors that did not take the last batch.
    troubles: Troubles,
}

/// Both ends of a queue of spans.
#[must_use]
pub fn queue(limits: &Limits, metrics: &Metrics) -> (Exports, Exporter) {
    metrics.describe(
        SPANS,
        "Spans: sent, or lost as the queue was full, the collector did not take them, or nobody answered.",
    );
    let most = limits.size(&limits::SPAN_QUEUE);
    let (sender, receiver) = mpsc::channel(most);
    let timeout = limits.duration(&limits::SPAN_EXPORT_TIMEOUT);
    let metrics = metrics.clone();
    let exports = Exports { sender, metrics: metrics.clone() };
    let (outboxes, troubles) = (HashMap::new(), Troubles::default());
    (exports, Exporter { receiver, metrics, timeout, most, outboxes, troubles })
}

fn count(metrics: &Metrics, result: &str, spans: usize) {
    if spans > 0 {
        metrics.counter(SPANS, &[("result", result)]).increment(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

impl Exports {
    /// A request has ended; somebody is told if that was decided when it began.
    pub fn request(&self, connection: &Connection, done: &Done) {
        let Some(trace) = done.trace.as_deref().filter(|trace| trace.is_sampled) else { return };
        let collector = Arc::clone(&trace.tracing.collector);
        self.leave(|| Record { collector, span: span::of(connection, done, trace) });
    }

    fn leave(&self, record: impl FnOnce() -> Record) {
        match self.sender.try_reserve() {
            Ok(place) => place.send(record()),
            Err(_full) => count(&self.metrics, "queue_full", 1),
        }
    }
}

impl Exporter {
    /// Sends until the drain starts, and then what is left. Until there is somebody to send as, spans wait.
    pub async fn run(mut self, waypoint: Arc<Waypoint>, mut drain: Drain) {
        let patience = self.timeout;
        let mut calls: FuturesUnordered<BoxFuture<'static, Told>> = FuturesUnordered::new();
        let mut arrived = Vec::new();
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                // What is there is sent, even when we stop.
                biased;
                Some(told) = calls.next() => self.note(told),
                count = self.receiver.recv_many(&mut arrived, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.keep(arrived.drain(..));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                _ = drain.started() => break,
            }
            let now = Instant::now();
            let is_due = due.is_some_and(|due| due <= now);
            for (collector, spans) in self.batches(is_due) {
                calls.push(Box::pin(send(Arc::clone(&waypoint), drain.clone(), patience, collector, spans)));
            }
            due = due.filter(|_| !is_due).or_else(|| self.waits().then(|| now + GATHER));
        }
        while let Ok(record) = self.receiver.try_recv() {
            self.keep(std::iter::once(record));
        }
        let rest = async {
            loop {
                for (collector, spans) in self.batches(true) {
                    calls.push(Box::pin(send(Arc::clone(&waypoint), drain.clone(), patience, collector, spans)));
                }
                let Some(told) = calls.next().await else { break };
                self.note(told);
            }
        };
        // Whoever has not taken them by then is not waited for: nobody knows of what is under way whether it was taken.
        let _in_time = timeout(patience.min(FAREWELL), rest).await;
        let left: usize = self.outboxes.values().map(|outbox| outbox.waiting.len() + outbox.under_way).sum();
        count(&self.metrics, "unanswered", left);
    }

    /// Sorts spans by who is told.
    fn keep(&mut self, arrived: impl Iterator<Item = Record>) {
        let mut lost = 0;
        for Record { collector, span } in arrived {
            let outbox = self.outboxes.entry(collector).or_default();
            if outbox.waiting.len() < self.most {
                outbox.waiting.push_back(span);
            } else {
                lost += 1;
            }
        }
        count(&self.metrics, "queue_full", lost);
    }

    /// Whether there are spans that no call will send which is under way.
    fn waits(&self) -> bool {
        self.outboxes.values().any(|outbox| outbox.under_way == 0 && !outbox.waiting.is_empty())
    }

    /// What is sent now: of each collector that has no call under way a batch that is full, or whatever there is, if it is `due`.
    fn batches(&mut self, is_due: bool) -> Vec<(Arc<Collector>, Vec<Span>)> {
        let mut batches = Vec::new();
        for (collector, outbox) in &mut self.outboxes {
            let is_ready = outbox.waiting.len() >= BATCH || (is_due && !outbox.waiting.is_empty());
            if is_ready && outbox.under_way == 0 {
                batches.push((Arc::clone(collector), outbox.batch()));
            }
        }
        batches
    }

    /// A call is over.
    fn note(&mut self, told: Told) {
        let Told { collector, total, answered } = told;
        if let Entry::Occupied(mut outbox) = self.outboxes.entry(Arc::clone(&collector)) {
            outbox.get_mut().under_way = 0;
            if outbox.get().waiting.is_empty() {
                outbox.remove();
            }
        }
        let cluster = &collector.cluster;
        match answered {
            Some(Ok(refused)) => {
                count(&self.metrics, "sent", total - refused);
                count(&self.metrics, "refused", refused);
                if self.troubles.end(cluster) {
                    tracing::info!(%cluster, "the collector takes spans again");
                }
            }
            Some(Err(error)) => {
                count(&self.metrics, "unanswered", total);
                if self.troubles.begin(cluster) {
                    tracing::warn!(%cluster, %error, "spans are lost, as the collector does not take them");
                }
            }
            None => count(&self.metrics, "unanswered", total),
        }
    }
}

impl Outbox {
    /// Takes the next batch, which is under way from now on: at least one span, if there is one.
    fn batch(&mut self) -> Vec<Span> {
        let mut bytes: usize = 0;
        let fits = |span: &&Span| {
            bytes = bytes.saturating_add(span.encoded_len());
            bytes <= BATCH_BYTES
        };
        let fitting = self.waiting.iter().take(BATCH).take_while(fits).count();
        self.under_way = if fitting == 0 { self.waiting.len().min(1) } else { fitting };
        self.waiting.drain(..self.under_way).collect()
    }
}

/// Tells a collector.
async fn send(
    waypoint: Arc<Waypoint>,
    drain: Drain,
    timeout: Duration,
    collector: Arc<Collector>,
    spans: Vec<Span>,
) -> Told {
    let total = spans.len();
    let Some(ourselves) = ourselves(&waypoint, &drain).await else {
        return Told { collector, total, answered: None };
    };
    let config = waypoint.config.load();
    // To tell twice is to tell of two.
    let call = Call { cluster: &collector.cluster, method: METHOD, timeout, may_repeat: false };
    let answered = call.unary(&ourselves, &config, &request(&collector, spans)).await;
    let answered = answered.map(|answer| refused(&answer, total));
    Told { collector, total, answered: Some(answered) }
}

fn request(collector: &Collector, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource { attributes: vec![span::text("service.name", &collector.service)] };
    let scope =
        InstrumentationScope { name: "fairway-waypoint".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
}

/// How many of so many spans were not taken.
fn refused(answer: &ExportTraceServiceResponse, total: usize) -> usize {
    let rejected = answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans);
    usize::try_from(rejected).unwrap_or(0).min(total)
}

/// Ourselves as a client of the mesh; nothing before we have a name and a certificate.
async fn ourselves(waypoint: &Arc<Waypoint>, drain: &Drain) -> Option<Arc<Connection>> {
    let local = waypoint.workload().await?;
    let identity = local.identity();
    let certificate = waypoint.certificates.claim(&identity).get().await.ok()?;
    let lifetime = Lifetime::new(&waypoint.certificates, &certificate, Role::Client, None);
    let address = local.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let address = SocketAddr::new(address, 0);
    let baggage = Baggage::of(&local);
    let client = Client { identity, address, workload: Some(Arc::clone(&local)), baggage };
    Some(Arc::new(Connection {
        waypoint: Arc::clone(waypoint),
        bound: Bound::Workload { workload: Arc::clone(&local), address },
        named: Named::by(&local.identity(), &client),
        local,
        client,
        listener: String::new(),
        lifetime,
        drain: drain.clone(),
        series: AtHand::default(),
        permit: Arc::new(Semaphore::new(1)).try_acquire_owned().ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_lost_and_counted() {
        let (limits, metrics) = (Limits::with(&BTreeMap::from([(limits::SPAN_QUEUE.name, 2)])), Metrics::default());
        let (exports, mut exporter) = queue(&limits.unwrap(), &metrics);
        let collector = Arc::new(Collector { cluster: "collector".into(), service: "way".into() });
        for _ in 0..5 {
            exports.leave(|| Record { collector: Arc::clone(&collector), span: Span::default() });
        }
        assert!(exporter.receiver.try_recv().is_ok() && exporter.receiver.try_recv().is_ok());
        assert!(exporter.receiver.try_recv().is_err());
        let page = metrics.render();
        assert!(page.lines().any(|line| line == "fairway_waypoint_spans_total{result=\"queue_full\"} 3"), "{page}");
    }

    fn records(name: &str, spans: usize, bytes: usize) -> impl Iterator<Item = Record> {
        let collector = Arc::new(Collector { cluster: name.into(), service: "way".into() });
        let span = move |_| Span { name: "x".repeat(bytes), ..Span::default() };
        (0..spans).map(span).map(move |span| Record { collector: Arc::clone(&collector), span })
    }

    #[test]
    fn a_collector_that_is_silent_keeps_nobody_but_itself() {
        let (limits, metrics) = (Limits::with(&BTreeMap::from([(limits::SPAN_QUEUE.name, 600)])), Metrics::default());
        let (_exports, mut exporter) = queue(&limits.unwrap(), &metrics);
        let sizes = |batches: &[(Arc<Collector>, Vec<Span>)]| {
            batches.iter().map(|(collector, spans)| (collector.cluster.to_string(), spans.len())).collect::<Vec<_>>()
        };
        exporter.keep(records("silent", 601, 1));
        let silent = exporter.batches(false);
        assert_eq!(sizes(&silent), [("silent".to_owned(), BATCH)]);
        exporter.keep(records("silent", 600, 1).chain(records("other", 3, 1)));
        assert!(exporter.batches(false).is_empty() && exporter.waits());
        assert_eq!(sizes(&exporter.batches(true)), [("other".to_owned(), 3)]);
        let page = metrics.render();
        // One at first, and those that the place of the batch under way was too small for.
        let lost = 1 + (600 - BATCH);
        let line = format!("fairway_waypoint_spans_total{{result=\"queue_full\"}} {lost}");
        assert!(page.lines().any(|it| it == line), "{page}");

        assert!(!exporter.waits(), "all have a call under way");
        let collector = Arc::clone(&silent[0].0);
        exporter.note(Told { collector, total: BATCH, answered: None });
        assert_eq!(sizes(&exporter.batches(false)), [("silent".to_owned(), BATCH)]);
    }

    #[test]
    fn a_batch_is_no_longer_than_a_collector_takes_but_never_empty() {
        let row = |spans, bytes| {
            let mut outbox = Outbox::default();
            outbox.waiting.extend(records("collector", spans, bytes).map(|record| record.span));
            (outbox.batch().len(), outbox.under_way)
        };
        assert_eq!(row(0, 1), (0, 0));
        assert_eq!(row(BATCH + 1, 1), (BATCH, BATCH));
        assert_eq!(row(9, BATCH_BYTES / 4), (3, 3));
        assert_eq!(row(2, BATCH_BYTES), (1, 1));
    }

    #[test]
    fn a_collector_takes_no_more_than_it_got() {
        use fairway_proto::otlp::trace_service::ExportTracePartialSuccess;
        for (rejected_spans, expected) in [(0, 0), (2, 2), (7, 5), (-1, 0)] {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: String::new() };
            let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
            assert_eq!(refused(&answer, 5), expected);
        }
    }
}
