//! Traces through a waypoint to a real server of OTLP.

use std::net::SocketAddr;
use std::sync::Arc;

use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::trace::Span;
use fairway_proto::otlp::trace::span::SpanKind;
use fairway_proto::otlp::trace::status::StatusCode;
use fairway_proto::otlp::trace_service::trace_service_server::{TraceService, TraceServiceServer};
use fairway_proto::otlp::trace_service::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{told, web};
use crate::config::{Collector, Listener, Protocol, Tag, TagValue, Tracing};
use crate::testing::{PATIENCE, Served, get, own_address, route_to};

/// Passes on what it is told; does not take spans of answers of 404.
struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        let spans = request.resource_spans.iter().flat_map(|it| &it.scope_spans).flat_map(|it| &it.spans);
        let odd = spans.filter(|span| said(span, "http.response.status_code") == "404").count();
        self.0.send(request).unwrap();
        let rejected_spans = i64::try_from(odd).unwrap();
        let partial_success = Some(ExportTracePartialSuccess { rejected_spans, error_message: String::new() });
        Ok(Response::new(ExportTraceServiceResponse { partial_success }))
    }
}

async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, receiver)
}

fn said(span: &Span, key: &str) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A waypoint before an endpoint that tells what it is asked, which tells a collector about no request unless its client wants
/// it.
async fn served(collector: SocketAddr) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, Vec::new(), vec![route_to(&web(80))], &[endpoint]);
    served.announce("collector", collector.ip(), false, |_| {});
    served.cluster("collector", Protocol::Http2, &[collector]);
    let tags = vec![Tag { name: "plan".into(), value: TagValue::Fixed("free".into()) }];
    let collector = Arc::new(Collector {
        cluster: "collector".into(),
        attributes: vec![("service.name".into(), "way.shop".into())],
    });
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.tracing = Some(Arc::new(Tracing { collector, per_million: 0, tags }));
    }
    served.publish();
    served
}

#[tokio::test]
async fn a_collector_is_told_what_clients_want_it_to_be_told() {
    let (address, mut told) = collector().await;
    let served = served(address).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    for http2 in [false, true] {
        let (_, body) = served.send(80, http2, get("/quiet", &[])).await;
        let is_quiet = |line: &str| line.starts_with("traceparent=00-") && line.ends_with("-00");
        assert!(body.lines().any(is_quiet), "who is asked hears of the trace: {body}");
        let lines = [("traceparent", parent.as_str()), ("tracestate", "a=b")];
        let (_, body) = served.send(80, http2, get("/a/../seen?q=secret", &lines)).await;
        let request = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        let [of_resource] = request.resource_spans.try_into().unwrap();
        assert_eq!(of_resource.resource.unwrap().attributes[0].key, "service.name");
        let [span] =
            of_resource.scope_spans.into_iter().flat_map(|it| it.spans).collect::<Vec<_>>().try_into().unwrap();
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hexadecimal(&span.trace_id), trace);
        assert_eq!(hexadecimal(&span.parent_span_id), "00f067aa0ba902b7");
        assert!(body.contains(&format!("traceparent=00-{trace}-{}-01", hexadecimal(&span.span_id))), "{body}");
        assert!(body.contains("tracestate=a=b") && span.trace_state == "a=b", "{body}");
        assert_eq!((span.name.as_str(), span.kind()), (&*format!("{}/*", web(80)), SpanKind::Server));
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
        assert_eq!(span.status.as_ref().unwrap().code(), StatusCode::Unset);
        for (key, expected) in [
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("url.path", "/seen"),
            ("server.address", "web.shop"),
            ("source.principal", "spiffe://cluster.local/ns/shop/sa/client"),
            ("destination.workload", "web"),
            ("plan", "free"),
            ("error.type", ""),
        ] {
            assert_eq!(said(&span, key), expected, "{key}");
        }
    }
}

#[tokio::test]
async fn what_a_collector_does_not_take_keeps_nobody() {
    // Nobody is there any more.
    let address = TcpListener::bind((own_address(), 0)).await.unwrap().local_addr().unwrap();
    let mut served = served(address).await;
    let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
    let lost = async |served: &Served, result: &str| {
        let line = format!("fairway_waypoint_spans_total{{result=\"{result}\"}} 1");
        let counted = async {
            while !served.metrics.render().lines().any(|it| it == line) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{line}: {}", served.metrics.render()));
    };
    let (response, _) = served.send(80, false, get("/", &[parent])).await;
    assert!(response.status().is_success());
    lost(&served, "unanswered").await;

    let (address, mut told) = collector().await;
    served.announce("collector", address.ip(), false, |_| {});
    served.cluster("collector", Protocol::Http2, &[address]);
    // No route takes it.
    served.config.routes.clear();
    served.publish();
    let (response, _) = served.send(80, false, get("/", &[parent])).await;
    let status = response.status().as_u16();
    let request = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(
        (said(span, "http.response.status_code"), span.status.as_ref().unwrap().code()),
        (status.to_string(), StatusCode::Error)
    );
    assert_eq!(said(span, "error.type"), "destination_unknown");
    lost(&served, "sent").await;
}
