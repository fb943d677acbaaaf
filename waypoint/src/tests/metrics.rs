//! What is counted otherwise than usual: labels, metrics that are off, and bounds of what clients may choose.

use std::sync::Arc;

use fairway_core::access_log::Template;
use fairway_proto::envoy::core::Metadata;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::streams::{chain, named};
use super::{told, web};
use crate::config::{Chain, Format, Listener, Logger, Logs, Metrics, Opaque, Route, Sink};
use crate::testing::{PATIENCE, Served, get, route_to};

fn written(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Bool(truth) => Kind::BoolValue(*truth),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(written).collect() }),
        Value::Object(_) => Kind::StructValue(object(value)),
        other => panic!("{other}"),
    };
    prost_types::Value { kind: Some(kind) }
}

fn object(value: &Value) -> Struct {
    let fields = value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), written(value)));
    Struct { fields: fields.collect() }
}

/// What the controller says so.
fn metrics(said: Value) -> Option<Arc<Metrics>> {
    let said = object(&json!({"metrics": said}));
    Metrics::of(Some(&Metadata { filter_metadata: [("dev.fairway.metrics".to_owned(), said)].into() })).unwrap()
}

/// Lines that say when something is over, and counted.
pub(super) fn lines(text: &str) -> Option<Arc<Logs>> {
    let sink = Sink::Line(Format::Text(Template::parse(text).unwrap()), false);
    let loggers = vec![Logger { condition: None, sink }];
    Some(Arc::new(Logs { loggers, asked: Vec::new(), answered: Vec::new() }))
}

/// Lines of a metric, without those of histograms that say how many.
fn series<'a>(page: &'a str, metric: &str) -> Vec<&'a str> {
    page.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'))).collect()
}

async fn served(said: Option<Value>) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, Vec::new(), vec![route_to(&web(80))], &[endpoint]);
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.metrics = said.and_then(metrics);
        http.logs = lines("%RESPONSE_CODE%\n");
    }
    served.publish();
    served
}

#[tokio::test]
async fn labels_are_added_changed_and_left_out_metric_by_metric() {
    let served = served(Some(json!([
        {"name": "requests_total", "tags_to_remove": ["source_app", "grpc_response_status"], "dimensions": {
            "host": "request.host",
            "plan": "request.headers['x-plan']",
            "caller": "source.workload.name + '/' + filter_state.downstream_peer.namespace",
            "response_code": "response.code >= 400 ? 'bad' : 'good'",
        }},
        {"name": "request_bytes", "drop": true},
        {"name": "response_bytes", "dimensions": {"port": "destination.port"}},
    ])))
    .await;
    for headers in [&[("x-plan", "free")][..], &[("x-plan", "free")], &[]] {
        served.send(80, false, get("/", headers)).await;
    }
    served.logged.lines(3).await;
    let page = served.metrics.render();
    let requests = series(&page, "istio_requests_total");
    let [free, without] = requests.as_slice() else { panic!("{requests:?}") };
    let (free, without) = if free.contains("plan=\"free\"") { (free, without) } else { (without, free) };
    for part in ["host=\"web.shop\"", "plan=\"free\"", "caller=\"client/shop\"", "response_code=\"good\"", "} 2"] {
        assert!(free.contains(part), "{part}: {free}");
    }
    assert!(without.contains("plan=\"unknown\"") && without.ends_with("} 1"), "{without}");
    let gone = ["source_app=", "grpc_response_status=", "response_code=\"200\""];
    assert!(gone.iter().all(|part| !free.contains(part)), "{free}");
    assert!(!page.contains("istio_request_bytes_count{"), "{page}");
    let sizes = series(&page, "istio_response_bytes_count");
    assert!(sizes.len() == 1 && sizes[0].contains("port=\"80\"") && sizes[0].contains("response_code=\"200\""));
    let durations = series(&page, "istio_request_duration_milliseconds_count");
    assert!(durations.len() == 1 && durations[0].contains("source_app="), "of which nothing is said: {durations:?}");
}

#[tokio::test]
async fn routes_have_series_of_their_own() {
    let mut served = served(None).await;
    let endpoint = told("other").await;
    served.announce("other", endpoint.ip(), false, |_| {});
    served.http(80, Vec::new(), vec![Route { name: "shop/web/0".to_owned(), ..route_to(&web(80)) }], &[endpoint]);
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.logs = lines("%RESPONSE_CODE%\n");
    }
    served.publish();
    for path in ["/", "/", "/%00"] {
        served.send(80, false, get(path, &[])).await;
    }
    served.logged.lines(3).await;
    let page = served.metrics.render();
    let of = |route: &str| format!("destination_service=\"web.shop.svc.cluster.local\",route=\"{route}\"");
    let requests = "fairway_waypoint_route_requests_total";
    for line in [
        format!("{requests}{{{},response_code=\"200\",grpc_response_status=\"\"}} 2", of("shop/web/0")),
        format!("{requests}{{{},response_code=\"400\",grpc_response_status=\"\"}} 1", of("none")),
        format!("fairway_waypoint_route_duration_seconds_count{{{}}} 2", of("shop/web/0")),
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[tokio::test]
async fn what_is_said_anew_holds_for_connections_that_are_open() {
    let mut served = served(None).await;
    let io = hyper_util::rt::TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for turn in 1..=2 {
        let response = timeout(PATIENCE, sender.send_request(get("/", &[]))).await.unwrap().unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        served.logged.lines(turn).await;
        if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
            http.metrics = metrics(json!([{"name": "requests_total", "dimensions": {"version": "'two'"}}]));
        }
        served.publish();
    }
    let page = served.metrics.render();
    let requests = series(&page, "istio_requests_total");
    let of_two = requests.iter().filter(|line| line.contains(",version=\"two\""));
    assert_eq!((requests.len(), of_two.count()), (2, 1), "{requests:?}");
}

#[tokio::test]
async fn paths_that_clients_make_up_end_in_one_series() {
    let served = served(Some(json!([{"name": "requests_total", "dimensions": {"path": "request.url_path"}}]))).await;
    let io = hyper_util::rt::TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let most = served.waypoint.limits.size(&fairway_core::limits::METRIC_LABEL_VALUES);
    for number in 0..most + 3 {
        let response = sender.send_request(get(&format!("/{number}"), &[])).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    }
    served.logged.lines(most + 3).await;
    let page = served.metrics.render();
    let requests = series(&page, "istio_requests_total");
    assert_eq!(requests.len(), most + 1);
    let rest = requests.iter().find(|line| line.contains("path=\"overflow\"")).unwrap();
    assert!(rest.ends_with("} 3"), "{rest}");
    let shared = "fairway_waypoint_metric_labels_shared_total{limit=\"metric_label_values\"} 3";
    assert!(page.lines().any(|line| line == shared), "{page}");
}

#[tokio::test]
async fn connections_that_nobody_looks_into_are_told_and_counted_as_the_listener_says() {
    let mut served = Served::start().await;
    let endpoint = named("a").await;
    let text = "%BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %RESPONSE_FLAGS% %RESPONSE_CODE% \
                %CONNECTION_TERMINATION_DETAILS% %REQUESTED_SERVER_NAME% %DOWNSTREAM_PEER_URI_SAN% %REQ(:PATH)%\n";
    let mut loggers = lines(text).unwrap().loggers.clone();
    let condition = |text: &str| Some(fairway_core::cel::Expression::condition(text).unwrap());
    let never = Sink::Line(Format::Text(Template::parse("no request\n").unwrap()), false);
    loggers.insert(0, Logger { condition: condition("response.code < 400"), sink: never });
    loggers[1].condition = condition("connection.mtls && destination.port == 82");
    let logs = Some(Arc::new(Logs { loggers, asked: Vec::new(), answered: Vec::new() }));
    let others = Some(Arc::new(Chain { logs, ..(*chain("a", vec![], None)).clone() }));
    let said = metrics(json!([
        {"name": "tcp_connections_opened_total", "drop": true},
        {"name": "tcp_sent_bytes_total", "tags_to_remove": ["source_app"], "dimensions": {
            "to": "upstream.address", "path": "request.path",
        }},
    ]));
    served.opaque(Opaque { others, metrics: said, ..Opaque::default() }, &[("a", endpoint)]);
    let mut stream = served.dial("10.96.0.1:82").await;
    let work = async {
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    };
    assert_eq!(timeout(PATIENCE, work).await.unwrap(), "ahello");
    let client = "spiffe://cluster.local/ns/shop/sa/client";
    assert_eq!(served.logged.lines(1).await, [format!("5 6 a {endpoint} - 0 - - {client} -")]);
    let page = served.metrics.render();
    assert!(series(&page, "istio_tcp_connections_opened_total").is_empty(), "{page}");
    assert_eq!(series(&page, "istio_tcp_connections_closed_total").len(), 1);
    let [sent] = series(&page, "istio_tcp_sent_bytes_total")[..] else { panic!("{page}") };
    let to = format!("to=\"{endpoint}\"");
    assert!(sent.contains(&to) && sent.contains("path=\"unknown\"") && sent.ends_with("} 6"), "{sent}");
    assert!(!sent.contains("source_app="), "{sent}");
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_told_with_its_reason() {
    let mut served = Served::start().await;
    let text = "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% %UPSTREAM_CLUSTER% %UPSTREAM_HOST%\n";
    let others = Some(Arc::new(Chain { logs: lines(text), ..(*chain("gone", vec![], None)).clone() }));
    served.opaque(Opaque { others, ..Opaque::default() }, &[]);
    assert!(served.open("10.96.0.1:82").await.is_err());
    let [line] = served.logged.lines(1).await.try_into().unwrap();
    assert!(line.ends_with(" no_healthy_upstream gone -"), "{line}");
}
