//! Who counts requests for several proxies: a real server of Envoy's protocol, and what holds without it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fairway_core::reason::Reason;
use fairway_proto::envoy::core::HeaderValue;
use fairway_proto::rls::rate_limit_response::rate_limit::Unit;
use fairway_proto::rls::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use fairway_proto::rls::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use fairway_proto::rls::{RateLimitRequest, RateLimitResponse};
use http::StatusCode;
use http::header::HeaderName;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{reason_of, told, web};
use crate::config::{Counting, Limiter, Listener, Protocol, Value};
use crate::testing::{PATIENCE, Served, forwarding, get, own_address, route_to};

/// Lets everybody but `b` pass, and is out of order for `c`; remembers what it was asked.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<Vec<RateLimitRequest>>>);

#[tonic::async_trait]
impl RateLimitService for Counter {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let user = request.descriptors[0].entries[1].value.clone();
        self.0.lock().unwrap().push(request);
        if user == "c" {
            return Err(Status::unavailable("out of order"));
        }
        let (code, left) = if user == "b" { (Code::OverLimit, 0) } else { (Code::Ok, 4) };
        let limit = RateLimit { requests_per_unit: 5, unit: Unit::Minute.into(), name: String::new() };
        let status = DescriptorStatus {
            code: code.into(),
            current_limit: Some(limit),
            limit_remaining: left,
            duration_until_reset: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        };
        let line = |key: &str| vec![HeaderValue { key: key.into(), value: "told".into() }];
        Ok(Response::new(RateLimitResponse {
            overall_code: code.into(),
            statuses: vec![status],
            response_headers_to_add: line("x-to-client"),
            request_headers_to_add: line("x-to-endpoint"),
            raw_body: Vec::new(),
        }))
    }
}

async fn serve(counter: Counter) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(counter));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A waypoint that has requests with `x-user` counted.
async fn served(limiter: SocketAddr) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let fixed = ("plan".to_owned(), Value::Fixed("free".to_owned()));
    let user = ("user".to_owned(), Value::Header(HeaderName::from_static("x-user")));
    let counted = vec![Counting { keys: vec![fixed, user], is_shared: true }];
    let route = forwarding(route_to(&web(80)), |forward| forward.counted = counted);
    served.http(80, Vec::new(), vec![route], &[endpoint]);
    served.announce("limiter", limiter.ip(), false, |_| {});
    served.cluster("limiter", Protocol::Http2, &[limiter]);
    served
}

impl Served {
    fn limit(&mut self, status_on_error: Option<StatusCode>) {
        let (cluster, domain) = ("limiter".into(), "shop".to_owned());
        if let Listener::Http(http) = Arc::make_mut(self.config.listeners.get_mut(&web(80)).unwrap()) {
            http.limiter = Some(Limiter { cluster, domain, timeout: PATIENCE, status_on_error });
        }
        self.publish();
    }
}

#[tokio::test]
async fn whoever_counts_decides() {
    let counter = Counter::default();
    let mut served = served(serve(counter.clone()).await).await;
    served.limit(None);
    let asked = || std::mem::take(&mut *counter.0.lock().unwrap());
    for http2 in [false, true] {
        let (response, body) = served.send(80, http2, get("/", &[])).await;
        assert!(response.status().is_success() && asked().is_empty(), "without the header it is not counted: {body}");

        let (response, body) = served.send(80, http2, get("/", &[("x-user", "a")])).await;
        assert!(response.status().is_success() && body.contains("x-to-endpoint=told"), "{body}");
        assert_eq!(response.headers()["x-ratelimit-limit"], "5, 5;w=60");
        assert_eq!(
            (&response.headers()["x-ratelimit-remaining"], &response.headers()["x-to-client"]),
            (&"4".parse().unwrap(), &"told".parse().unwrap())
        );
        let question = asked().remove(0);
        let entries: Vec<_> =
            question.descriptors[0].entries.iter().map(|it| (it.key.as_str(), it.value.as_str())).collect();
        assert_eq!((question.domain.as_str(), entries), ("shop", vec![("plan", "free"), ("user", "a")]));

        let (response, body) = served.send(80, http2, get("/", &[("x-user", "b")])).await;
        assert_eq!((response.status().as_u16(), reason_of(&response)), (429, Some(Reason::RateLimited)), "{body}");
        assert_eq!((asked().len(), &response.headers()["retry-after"]), (1, &"30".parse().unwrap()));
        assert_eq!(response.headers()["x-to-client"], "told");
    }
    let grpc = get("/", &[("x-user", "b"), ("content-type", "application/grpc")]);
    let (response, _) = served.send(80, true, grpc).await;
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"8".parse().unwrap()));
}

#[tokio::test]
async fn without_an_answer_the_provider_says_what_holds() {
    let mut served = served(serve(Counter::default()).await).await;
    for (status, expected) in [(None, 200), (Some(StatusCode::SERVICE_UNAVAILABLE), 503)] {
        served.limit(status);
        let (response, body) = served.send(80, false, get("/", &[("x-user", "c")])).await;
        assert_eq!(response.status().as_u16(), expected, "{body}");
        assert_eq!(reason_of(&response), status.map(|_| Reason::RateLimiterFailed));
    }
    let page = served.metrics.render();
    for result in ["passed", "refused"] {
        let line = format!("fairway_waypoint_rate_limiter_failures_total{{result=\"{result}\"}} 1");
        assert!(page.lines().any(|it| it == line), "{page}");
    }
}
