//! Tells collectors what requests took, in OTLP: requests leave their spans in a bounded queue and wait for nobody, and one task
//! sends what gathers there. What there is no room for, and what a collector does not take, is counted and gone.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
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
use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use crate::call::{Call, CallError};
use crate::config::Collector;
use crate::dial::Client;
use crate::stream::Connection;
use crate::telemetry::{AtHand, Done};
use crate::waypoint::Waypoint;

mod span;

const SPANS: &str = "fairway_waypoint_spans_total";
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Spans of one call; as many as OpenTelemetry's own exporters send (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;
/// So long spans are gathered for one call.
const GATHER: Duration = Duration::from_millis(500);

/// A span, and who is told.
struct Record {
    collector: Arc<Collector>,
    span: Span,
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
    /// Clusters of collectors that did not take the last batch, so that the log says it once.
    troubled: HashSet<Arc<str>>,
}

/// Both ends of a queue of spans.
#[must_use]
pub fn queue(limits: &Limits, metrics: &Metrics) -> (Exports, Exporter) {
    metrics.describe(
        SPANS,
        "Spans: sent, or lost as the queue was full, the collector did not take them, or nobody answered.",
    );
    let (sender, receiver) = mpsc::channel(limits.size(&limits::SPAN_QUEUE));
    let timeout = limits.duration(&limits::SPAN_EXPORT_TIMEOUT);
    let metrics = metrics.clone();
    (Exports { sender, metrics: metrics.clone() }, Exporter { receiver, metrics, timeout, troubled: HashSet::new() })
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
        let mut batch = Vec::new();
        loop {
            let is_last = tokio::select! {
                // What is there is sent, even when we stop.
                biased;
                count = self.receiver.recv_many(&mut batch, BATCH) => count == 0,
                _ = drain.started() => true,
            };
            if is_last {
                return;
            }
            let mut gathered = pin!(sleep(GATHER));
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                let mut stopping = drain.clone();
                tokio::select! {
                    count = self.receiver.recv_many(&mut batch, room) => if count == 0 { break },
                    () = &mut gathered => break,
                    _ = stopping.started() => break,
                }
            }
            self.send(&waypoint, &drain, std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, waypoint: &Arc<Waypoint>, drain: &Drain, batch: Vec<Record>) {
        let mut by_collector: HashMap<Arc<Collector>, Vec<Span>> = HashMap::new();
        for Record { collector, span } in batch {
            by_collector.entry(collector).or_default().push(span);
        }
        let Some(ourselves) = ourselves(waypoint, drain).await else {
            return count(&self.metrics, "unanswered", by_collector.values().map(Vec::len).sum());
        };
        let config = waypoint.config.load();
        let told = by_collector.into_iter().map(async |(collector, spans)| {
            let total = spans.len();
            let call = Call { cluster: &collector.cluster, method: METHOD, timeout: self.timeout };
            let answered = call.unary(&ourselves, &config, &request(&collector, spans)).await;
            let answered = answered.map(|answer| refused(&answer, total));
            (Arc::clone(&collector.cluster), total, answered)
        });
        let told: Vec<(Arc<str>, usize, Result<usize, CallError>)> = join_all(told).await;
        for (cluster, total, answered) in told {
            match answered {
                Ok(refused) => {
                    count(&self.metrics, "sent", total - refused);
                    count(&self.metrics, "refused", refused);
                    if self.troubled.remove(&cluster) {
                        tracing::info!(%cluster, "the collector takes spans again");
                    }
                }
                Err(error) => {
                    count(&self.metrics, "unanswered", total);
                    if self.troubled.insert(Arc::clone(&cluster)) {
                        tracing::warn!(%cluster, %error, "spans are lost, as the collector does not take them");
                    }
                }
            }
        }
    }
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
