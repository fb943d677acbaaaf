//! Access logs: lines on standard output, and records for a real server of OTLP.

use std::sync::Arc;

use fairway_core::access_log::Template;
use fairway_core::cel::Expression;
use fairway_core::io::logging::{Shape, subscriber};
use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::logs_service::logs_service_server::{LogsService, LogsServiceServer};
use fairway_proto::otlp::logs_service::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use http::header::HeaderName;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{told, web};
use crate::config::{Collector, Format, Listener, Logger, Logs, PathMatch, Protocol, Proxies, Record, Sink};
use crate::testing::{Logged, PATIENCE, Served, get, own_address, route_to};

/// Passes on what it is told.
struct Receiver(mpsc::UnboundedSender<ExportLogsServiceRequest>);

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn if_so(condition: &str) -> Option<Expression> {
    Some(Expression::condition(condition).unwrap())
}

/// A waypoint before an endpoint for what is below `/known`, with these loggers.
async fn served(loggers: Vec<Logger>) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let mut route = route_to(&web(80));
    route.name = "known".to_owned();
    route.matching.path = PathMatch::Prefix("/known".into());
    served.http(80, Vec::new(), vec![route], &[endpoint]);
    let asked = ["user-agent", "x-request-id", "x-user", "x-forwarded-client-cert"].map(HeaderName::from_static);
    let answered = vec![HeaderName::from_static("content-length")];
    let logs = Logs { loggers, asked: asked.to_vec(), answered };
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.logs = Some(Arc::new(logs));
    }
    served.publish();
    served
}

#[tokio::test]
async fn lines_say_what_was_asked_for_of_the_requests_that_were() {
    let text = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                %RESPONSE_CODE_DETAILS% %ROUTE_NAME% %REQ(USER-AGENT)% %REQ(:AUTHORITY)% %UPSTREAM_CLUSTER_RAW%\n";
    let forged = "URI=spiffe://cluster.local/ns/shop/sa/other";
    let json = [("code", "%RESPONSE_CODE%"), ("by", "%DOWNSTREAM_PEER_URI_SAN%"), ("grpc", "%GRPC_STATUS_NUMBER%")];
    let json = json.map(|(name, text)| (name.to_owned(), template(text))).to_vec();
    let length = template("%RESP(content-length)% %REQ(x-forwarded-client-cert)%\n");
    let served = served(vec![
        Logger { condition: None, sink: Sink::Line(Format::Text(template(text)), false) },
        Logger {
            condition: if_so("response.code >= 400 && request.headers['x-user'] == 'ann'"),
            sink: Sink::Line(Format::Json(json), false),
        },
        Logger { condition: if_so("request.path == '/known/last'"), sink: Sink::Line(Format::Text(length), false) },
    ])
    .await;
    let headers = [("user-agent", "test"), ("x-user", "ann"), ("x-forwarded-client-cert", forged)];
    served.send(80, false, get("/known/a?q=1", &headers)).await;
    served.send(80, true, get("/other", &headers)).await;
    served.send(80, false, get("/other", &[])).await;
    let (_, body) = served.send(80, false, get("/known/last", &headers)).await;
    let lines = served.logged.lines(6).await;
    let expected = [
        "GET /known/a?q=1 HTTP/1.1 200 - via_upstream known test web.shop web.shop.svc.cluster.local:80",
        "GET /other HTTP/2 404 NR route_not_found - test web.shop -",
        "{\"by\":\"spiffe://cluster.local/ns/shop/sa/client\",\"code\":404,\"grpc\":null}",
        "GET /other HTTP/1.1 404 NR route_not_found - - web.shop -",
        "GET /known/last HTTP/1.1 200 - via_upstream known test web.shop web.shop.svc.cluster.local:80",
    ];
    assert_eq!(lines[..5], expected);
    // What a client says of itself is not what is logged of it.
    let own = "By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/client";
    assert_eq!(lines[5], format!("{} {own}", body.len()));
}

#[tokio::test]
async fn the_identifier_that_is_logged_is_the_one_that_the_endpoint_gets() {
    let line = Format::Text(template("%REQ(X-REQUEST-ID)%\n"));
    let served = served(vec![Logger { condition: None, sink: Sink::Line(line, false) }]).await;
    let (_, body) = served.send(80, false, get("/known", &[])).await;
    let [identifier] = served.logged.lines(1).await.try_into().unwrap();
    assert!(body.lines().any(|line| line == format!("x-request-id={identifier}")), "{identifier}: {body}");
}

#[tokio::test]
async fn the_client_that_is_logged_is_the_one_before_proxies_that_are_believed() {
    let text = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%\n";
    let line = || Sink::Line(Format::Text(template(text)), false);
    let forwarded = [("x-forwarded-for", "192.0.2.1")];
    for (account, expected) in [("client", "192.0.2.1:0 192.0.2.1 0"), ("gateway", "127.0.0.1")] {
        let mut served = served(vec![Logger { condition: None, sink: line() }]).await;
        let trusted = [format!("spiffe://cluster.local/ns/shop/sa/{account}")].into();
        served.behind(80, Proxies { hops: 1, trusted });
        served.send(80, false, get("/known", &forwarded)).await;
        let [line] = served.logged.lines(1).await.try_into().unwrap();
        assert!(line == expected || line.split(' ').nth(1) == Some(expected), "{account}: {line}");
    }
}

#[tokio::test]
async fn a_collector_is_told_in_one_text_and_piece_by_piece() {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut told) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(LogsServiceServer::new(Receiver(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let collector = Collector { cluster: "logs".into(), attributes: vec![("log_name".into(), "way".into())] };
    let record = Record {
        collector: Arc::new(collector),
        body: Some(template("%REQ(:PATH)%")),
        attributes: vec![("code".into(), template("%RESPONSE_CODE%"))],
    };
    let sink = Sink::Collector(Box::new(record));
    let mut served = served(vec![Logger { condition: if_so("request.url_path != '/quiet'"), sink }]).await;
    served.announce("logs", address.ip(), false, |_| {});
    served.cluster("logs", Protocol::Http2, &[address]);
    served.publish();
    for path in ["/quiet", "/known?q=1"] {
        served.send(80, false, get(path, &[])).await;
    }
    let request = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let [of_resource] = request.resource_logs.try_into().unwrap();
    assert_eq!(of_resource.resource.unwrap().attributes[0].key, "log_name");
    let [record] =
        of_resource.scope_logs.into_iter().flat_map(|it| it.log_records).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(record.body.unwrap().value, Some(Value::StringValue("/known?q=1".into())));
    let [attribute] = record.attributes.try_into().unwrap();
    let code = Some(Value::StringValue("200".into()));
    assert_eq!((attribute.key.as_str(), attribute.value.unwrap().value), ("code", code));
    assert!(record.time_unix_nano > 0);
}

#[tokio::test]
async fn what_did_not_end_well_is_logged_as_an_error() {
    let lines = Logged::default();
    let writer = lines.clone();
    let (subscriber, _filter) = subscriber(Shape::Plain, "off,access=info", move || writer.clone()).unwrap();
    let _ours = tracing::subscriber::set_default(subscriber);
    let served = served(vec![Logger { condition: None, sink: Sink::Usual }]).await;
    served.send(80, false, get("/known", &[])).await;
    served.send(80, false, get("/other", &[])).await;
    let lines = lines.lines(2).await;
    for (line, level, reason) in [(&lines[0], "info", "ok"), (&lines[1], "error", "route_not_found")] {
        assert!(line.contains(&format!("\t{level}\taccess\t")), "{line}");
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
    }
}
