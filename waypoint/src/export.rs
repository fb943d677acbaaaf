//! Tells collectors of requests, in OTLP: requests leave spans and records of logs in bounded queues and wait for nobody, and one
//! task for each kind sends what gathers there, to each collector one batch at a time. What there is no room for, and what a
//! collector does not take, is counted and gone.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::headers::Baggage;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::tls::trust::Role;
use fairway_core::limits::{self, Limits};
use fairway_core::route::Bound;
use fairway_proto::otlp::logs::LogRecord;
use fairway_proto::otlp::trace::Span;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Call, CallError};
use crate::config::{Collector, Record};
use crate::dial::Client;
use crate::named::Named;
use crate::stream::Connection;
use crate::telemetry::{AtHand, Done};
use crate::trace::Trace;
use crate::troubles::Troubles;
use crate::waypoint::Waypoint;

mod attribute;
mod record;
mod signal;
mod span;

use signal::Signal;

/// Spans or records of one call; as many as OpenTelemetry's own exporters send (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;
/// About so many bytes of them in one call; collectors take 4 MiB (gRPC's usual bound for a message).
const BATCH_BYTES: usize = 1 << 20;
/// So long they are gathered for one call.
const GATHER: Duration = Duration::from_millis(500);
/// So long all collectors together have for what is left when we stop; what a pod has left then is five seconds.
const FAREWELL: Duration = Duration::from_secs(3);

/// A span or a record of a log, and who is told.
struct Item<S> {
    collector: Arc<Collector>,
    signal: S,
}

/// What is to be told to one collector. One that is silent keeps nobody but itself.
struct Outbox<S> {
    waiting: VecDeque<S>,
    /// How many are in the one call that is under way.
    under_way: usize,
}

impl<S> Default for Outbox<S> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), under_way: 0 }
    }
}

/// How a call ended: with how many that were not taken, if there was somebody to call as.
struct Told {
    collector: Arc<Collector>,
    total: usize,
    answered: Option<Result<usize, CallError>>,
}

/// Where requests leave what collectors are told.
pub struct Exports {
    spans: Queue<Span>,
    records: Queue<LogRecord>,
}

/// What takes it from there.
pub struct Exporters {
    spans: Exporter<Span>,
    records: Exporter<LogRecord>,
}

/// The end of a queue where things are left.
struct Queue<S> {
    sender: mpsc::Sender<Item<S>>,
    metrics: Metrics,
}

/// What takes things of one kind from their queue.
struct Exporter<S> {
    receiver: mpsc::Receiver<Item<S>>,
    metrics: Metrics,
    timeout: Duration,
    /// How many wait for one collector at most.
    most: usize,
    /// Of collectors that there is something for.
    outboxes: HashMap<Arc<Collector>, Outbox<S>>,
    /// Clusters of collectors that did not take the last batch.
    troubles: Troubles,
}

/// Both ends of the queues.
#[must_use]
pub fn queues(limits: &Limits, metrics: &Metrics) -> (Exports, Exporters) {
    let (spans, of_spans) = queue(limits, metrics);
    let (records, of_records) = queue(limits, metrics);
    (Exports { spans, records }, Exporters { spans: of_spans, records: of_records })
}

fn queue<S: Signal>(limits: &Limits, metrics: &Metrics) -> (Queue<S>, Exporter<S>) {
    metrics.describe(S::COUNTED, S::HELP);
    let most = limits.size(S::QUEUE);
    let (sender, receiver) = mpsc::channel(most);
    let timeout = limits.duration(&limits::SPAN_EXPORT_TIMEOUT);
    let (queue, metrics) = (Queue { sender, metrics: metrics.clone() }, metrics.clone());
    let (outboxes, troubles) = (HashMap::new(), Troubles::default());
    (queue, Exporter { receiver, metrics, timeout, most, outboxes, troubles })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn count<S: Signal>(metrics: &Metrics, result: &str, number: usize) {
    if number > 0 {
        metrics.counter(S::COUNTED, &[("result", result)]).increment(u64::try_from(number).unwrap_or(u64::MAX));
    }
}

impl Exports {
    /// A request has ended; somebody is told if that was decided when it began.
    pub fn request(&self, connection: &Connection, done: &Done) {
        let Some(trace) = done.trace.as_deref().filter(|trace| trace.is_sampled) else { return };
        let collector = Arc::clone(&trace.tracing.collector);
        self.spans.leave(|| Item { collector, signal: span::of(connection, done, trace) });
    }

    /// Something has ended of which `about` says who is told, with a text and pieces.
    pub fn record(
        &self,
        about: &Record,
        trace: Option<&Trace>,
        begun: SystemTime,
        said: (Option<String>, Vec<(&str, String)>),
    ) {
        let collector = Arc::clone(&about.collector);
        self.records.leave(|| Item { collector, signal: record::of(trace, begun, said) });
    }
}

impl<S: Signal> Queue<S> {
    fn leave(&self, item: impl FnOnce() -> Item<S>) {
        match self.sender.try_reserve() {
            Ok(place) => place.send(item()),
            Err(_full) => count::<S>(&self.metrics, "queue_full", 1),
        }
    }
}

impl Exporters {
    /// Sends until the drain starts, and then what is left.
    pub async fn run(self, waypoint: Arc<Waypoint>, drain: Drain) {
        tokio::join!(self.spans.run(Arc::clone(&waypoint), drain.clone()), self.records.run(waypoint, drain));
    }
}

impl<S: Signal> Exporter<S> {
    /// Sends until the drain starts, and then what is left. Until there is somebody to send as, they wait.
    async fn run(mut self, waypoint: Arc<Waypoint>, mut drain: Drain) {
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
            for (collector, signals) in self.batches(is_due) {
                calls.push(Box::pin(send(Arc::clone(&waypoint), drain.clone(), patience, collector, signals)));
            }
            due = due.filter(|_| !is_due).or_else(|| self.waits().then(|| now + GATHER));
        }
        while let Ok(item) = self.receiver.try_recv() {
            self.keep(std::iter::once(item));
        }
        let rest = async {
            loop {
                for (collector, signals) in self.batches(true) {
                    calls.push(Box::pin(send(Arc::clone(&waypoint), drain.clone(), patience, collector, signals)));
                }
                let Some(told) = calls.next().await else { break };
                self.note(told);
            }
        };
        // Whoever has not taken them by then is not waited for: nobody knows of what is under way whether it was taken.
        let _in_time = timeout(patience.min(FAREWELL), rest).await;
        let left: usize = self.outboxes.values().map(|outbox| outbox.waiting.len() + outbox.under_way).sum();
        count::<S>(&self.metrics, "unanswered", left);
    }

    /// Sorts by who is told.
    fn keep(&mut self, arrived: impl Iterator<Item = Item<S>>) {
        let mut lost = 0;
        for Item { collector, signal } in arrived {
            let outbox = self.outboxes.entry(collector).or_default();
            if outbox.waiting.len() < self.most {
                outbox.waiting.push_back(signal);
            } else {
                lost += 1;
            }
        }
        count::<S>(&self.metrics, "queue_full", lost);
    }

    /// Whether there is something that no call will send which is under way.
    fn waits(&self) -> bool {
        self.outboxes.values().any(|outbox| outbox.under_way == 0 && !outbox.waiting.is_empty())
    }

    /// What is sent now: of each collector that has no call under way a batch that is full, or whatever there is, if it is `due`.
    fn batches(&mut self, is_due: bool) -> Vec<(Arc<Collector>, Vec<S>)> {
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
                count::<S>(&self.metrics, "sent", total - refused);
                count::<S>(&self.metrics, "refused", refused);
                if self.troubles.end(cluster) {
                    tracing::info!(%cluster, "the collector takes {} again", S::NAME);
                }
            }
            Some(Err(error)) => {
                count::<S>(&self.metrics, "unanswered", total);
                if self.troubles.begin(cluster) {
                    tracing::warn!(%cluster, %error, "{} are lost, as the collector does not take them", S::NAME);
                }
            }
            None => count::<S>(&self.metrics, "unanswered", total),
        }
    }
}

impl<S: Signal> Outbox<S> {
    /// Takes the next batch, which is under way from now on: at least one, if there is one.
    fn batch(&mut self) -> Vec<S> {
        let mut bytes: usize = 0;
        let fits = |signal: &&S| {
            bytes = bytes.saturating_add(signal.encoded_len());
            bytes <= BATCH_BYTES
        };
        let fitting = self.waiting.iter().take(BATCH).take_while(fits).count();
        self.under_way = if fitting == 0 { self.waiting.len().min(1) } else { fitting };
        self.waiting.drain(..self.under_way).collect()
    }
}

/// Tells a collector.
async fn send<S: Signal>(
    waypoint: Arc<Waypoint>,
    drain: Drain,
    timeout: Duration,
    collector: Arc<Collector>,
    signals: Vec<S>,
) -> Told {
    let total = signals.len();
    let Some(ourselves) = ourselves(&waypoint, &drain).await else {
        return Told { collector, total, answered: None };
    };
    let config = waypoint.config.load();
    // To tell twice is to tell of two.
    let call = Call { cluster: &collector.cluster, method: S::METHOD, timeout, may_repeat: false };
    let answered = call.unary(&ourselves, &config, &S::request(&collector.attributes, signals)).await;
    let answered = answered.map(|answer: S::Answer| refused(S::refused(&answer), total));
    Told { collector, total, answered: Some(answered) }
}

/// How many of so many were not taken, of what a collector says.
fn refused(said: i64, total: usize) -> usize {
    usize::try_from(said).unwrap_or(0).min(total)
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
    let bound = Bound::Workload { workload: Arc::clone(&local), address };
    Some(Arc::new(Connection {
        waypoint: Arc::clone(waypoint),
        in_flight: waypoint.in_flight.stream(&client.identity, address, &bound),
        bound,
        named: Named::by(&local.identity(), &client.identity, client.address.ip()),
        local,
        client,
        listener: String::new(),
        started: std::time::Instant::now(),
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
        let (exports, mut exporter) = queue::<Span>(&limits.unwrap(), &metrics);
        let collector = Arc::new(Collector { cluster: "collector".into(), attributes: Vec::new() });
        for _ in 0..5 {
            exports.leave(|| Item { collector: Arc::clone(&collector), signal: Span::default() });
        }
        assert!(exporter.receiver.try_recv().is_ok() && exporter.receiver.try_recv().is_ok());
        assert!(exporter.receiver.try_recv().is_err());
        let page = metrics.render();
        assert!(page.lines().any(|line| line == "fairway_waypoint_spans_total{result=\"queue_full\"} 3"), "{page}");
    }

    fn records(name: &str, spans: usize, bytes: usize) -> impl Iterator<Item = super::Item<Span>> {
        let collector = Arc::new(Collector { cluster: name.into(), attributes: Vec::new() });
        let span = move |_| Span { name: "x".repeat(bytes), ..Span::default() };
        (0..spans).map(span).map(move |signal| super::Item { collector: Arc::clone(&collector), signal })
    }

    #[test]
    fn a_collector_that_is_silent_keeps_nobody_but_itself() {
        let (limits, metrics) = (Limits::with(&BTreeMap::from([(limits::SPAN_QUEUE.name, 600)])), Metrics::default());
        let (_exports, mut exporter) = queue::<Span>(&limits.unwrap(), &metrics);
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
            outbox.waiting.extend(records("collector", spans, bytes).map(|item| item.signal));
            (outbox.batch().len(), outbox.under_way)
        };
        assert_eq!(row(0, 1), (0, 0));
        assert_eq!(row(BATCH + 1, 1), (BATCH, BATCH));
        assert_eq!(row(9, BATCH_BYTES / 4), (3, 3));
        assert_eq!(row(2, BATCH_BYTES), (1, 1));
    }

    #[test]
    fn a_collector_takes_no_more_than_it_got() {
        for (said, expected) in [(0, 0), (2, 2), (7, 5), (-1, 0)] {
            assert_eq!(refused(said, 5), expected);
        }
    }
}
