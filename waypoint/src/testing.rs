//! For tests: a waypoint on loopback, with a world and a configuration of its own, clients and origins.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use fairway_core::access_log::Template;
use fairway_core::ident::Identity;
use fairway_core::io::certs::Certificates;
use fairway_core::io::certs::test_authority::TestAuthority;
use fairway_core::io::drain::{self, Drain, Trigger};
use fairway_core::io::hbone::client::Opened;
use fairway_core::io::hbone::handshakes::Handshakes;
use fairway_core::io::hbone::{ConnectRequest, Pool, ReceiveBudget, TunnelError, TunnelIo, TunnelKey};
use fairway_core::io::live::Live;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::socket::{Probing, SocketFactory};
use fairway_core::io::{listen, tls};
use fairway_core::limits::{self, Limits};
use fairway_core::service::Service;
use fairway_core::snapshot::{PodRef, Update};
use fairway_core::upgrade::Upgrades;
use fairway_core::workload::Workload;
use fairway_proto::workload as proto;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{
    Action, Assignment, Backend, Before, Cluster, Config, Current, Edits, Format, Forward, Host, Http, Listener,
    Logger, Logs, Match, Outliers, PathMatch, Protocol, Proxies, Route, Rules, Sink, Table, Tokens, Weighted,
};
use crate::export;
use crate::in_flight::InFlight;
use crate::lines;
use crate::load::Loads;
use crate::names::Names;
use crate::origination::Originations;
use crate::rates::Buckets;
use crate::telemetry::{HISTOGRAMS, Telemetry};
use crate::tunnel;
use crate::upstream::Upstreams;
use crate::waypoint::Waypoint;
use crate::xds::Held;

pub(crate) mod outside;

/// Generous: only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The service that is bound to the waypoint.
pub(crate) const WEB: &str = "web.shop.svc.cluster.local";

/// A waypoint on loopback.
pub(crate) struct Served {
    pub(crate) waypoint: Arc<Waypoint>,
    pub(crate) metrics: Metrics,
    pub(crate) certificates: Certificates,
    pub(crate) config: Config,
    pub(crate) logged: Logged,
    address: SocketAddr,
    pool: Pool,
    trigger: Trigger,
    drain: Drain,
    _root: tempfile::TempDir,
}

/// What was written to access logs.
#[derive(Clone, Default)]
pub(crate) struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logged {
    /// So many lines, once they are there.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        let there = async {
            loop {
                let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
                if text.lines().count() >= count {
                    return text.lines().map(str::to_owned).collect();
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, there).await.unwrap()
    }
}

/// An address of loopback that no other test uses, in this process or another.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The waypoint, as what is bound to it refers to it.
pub(crate) fn gateway() -> proto::GatewayAddress {
    proto::GatewayAddress {
        destination: Some(proto::gateway_address::Destination::Hostname(proto::NamespacedHostname {
            namespace: "shop".into(),
            hostname: "waypoint.shop.svc.cluster.local".into(),
        })),
        hbone_mtls_port: 15_008,
    }
}

pub(crate) fn pod(name: &str, address: IpAddr, hbone: bool) -> proto::Workload {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    proto::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        node: "n1".into(),
        service_account: name.into(),
        workload_name: name.into(),
        canonical_name: name.into(),
        addresses: vec![octets],
        tunnel_protocol: if hbone { proto::TunnelProtocol::Hbone.into() } else { proto::TunnelProtocol::None.into() },
        ..Default::default()
    }
}

fn service(name: &str, vip: [u8; 4], ports: &[(u32, u32, proto::AppProtocol)], bound: bool) -> Service {
    let ports = ports.iter().map(|(service_port, target_port, protocol)| proto::Port {
        service_port: *service_port,
        target_port: *target_port,
        app_protocol: (*protocol).into(),
    });
    let message = proto::Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: vec![proto::NetworkAddress { network: String::new(), address: vip.to_vec(), ..Default::default() }],
        ports: ports.collect(),
        waypoint: bound.then(gateway),
        ..Default::default()
    };
    Service::try_from(message).unwrap()
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::within(Limits::default()).await
    }

    /// With these bounds.
    pub(crate) async fn within(limits: Limits) -> Self {
        let root = tempfile::tempdir().unwrap();
        let authority = TestAuthority::open(&root.path().join("ca.pem"), SystemTime::now()).unwrap();
        let hour = Duration::from_secs(3600);
        let certificates = Certificates::new(Arc::new(authority), tls::provider(), hour, SystemTime::now);
        let live = Live::new();
        let metrics = Metrics::new(&HISTOGRAMS);
        let sockets = SocketFactory::host(None).within(&limits, Probing::default());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut own = pod("waypoint", IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), false);
        own.services.insert(
            "shop/waypoint.shop.svc.cluster.local".into(),
            proto::PortList {
                ports: vec![proto::Port { service_port: 15_008, target_port: 15_008, ..Default::default() }],
            },
        );
        let client = pod("client", IpAddr::V4(Ipv4Addr::LOCALHOST), true);
        use proto::AppProtocol::{Http11, Tcp, Unknown};
        let ports = [(80, 8080, Http11), (81, 8081, Unknown), (82, 8082, Tcp)];
        live.apply(vec![
            Workload::try_from(own).unwrap().into(),
            Workload::try_from(client).unwrap().into(),
            service("waypoint", [10, 96, 0, 9], &[(15_008, 15_008, Unknown)], false).into(),
            service("web", [10, 96, 0, 1], &ports, true).into(),
            service("other", [10, 96, 0, 2], &[(80, 8080, Http11)], false).into(),
            Update::Complete,
        ]);
        let ourselves = PodRef {
            node: None,
            namespace: "shop".into(),
            name: "waypoint".into(),
            service_account: "waypoint".into(),
        };
        let (trigger, drain) = drain::new();
        let pool = || Pool::new(sockets.clone(), certificates.clone(), ReceiveBudget::default());
        let (exports, exporters) = export::queues(&limits, &metrics);
        let (lines, writer) = lines::queue(&limits, &metrics);
        let waypoint = Arc::new(Waypoint {
            config: Arc::new(Current::default()),
            held: Held::default(),
            in_flight: InFlight::default(),
            view: live.subscribe(&ourselves),
            last: ArcSwapOption::empty(),
            live,
            tunnels: pool(),
            upstreams: Upstreams::within(&limits),
            loads: Loads::default(),
            originations: Originations::new(tls::provider(), &Limits::default()),
            names: Names::new(&metrics),
            rates: Buckets::within(&limits),
            telemetry: Telemetry::new(&metrics, &limits),
            exports,
            lines,
            handshakes: Handshakes::within(&limits),
            limits: limits.clone(),
            drain_notice: limits.duration(&limits::DRAIN_NOTICE),
            certificates: certificates.clone(),
            sockets: sockets.clone(),
            budget: ReceiveBudget::default(),
        });
        tokio::spawn(exporters.run(Arc::clone(&waypoint), drain.clone()));
        let logged = Logged::default();
        tokio::spawn(writer.run(logged.clone(), drain.clone()));
        let shared = Arc::clone(&waypoint);
        let held = drain.clone();
        let handle = move |arrival| drop(tokio::spawn(tunnel::serve(Arc::clone(&shared), arrival, held.clone())));
        let until_stopped = drain.clone();
        tokio::spawn(listen::accept("test", listener, Arc::new(Semaphore::new(64)), drain, handle));
        let pool = pool();
        let config = Config::default();
        let drain = until_stopped;
        Self { waypoint, metrics, certificates, config, logged, address, pool, trigger, drain, _root: root }
    }

    /// Announces a pod with this address and what else `change` says.
    pub(crate) fn announce(&self, name: &str, address: IpAddr, hbone: bool, change: impl FnOnce(&mut proto::Workload)) {
        let mut message = pod(name, address, hbone);
        change(&mut message);
        self.waypoint.live.apply(vec![Workload::try_from(message).unwrap().into()]);
    }

    /// Puts `self.config` in force.
    pub(crate) fn publish(&self) {
        self.waypoint.config.publish(self.config.clone());
    }

    /// Has this believed about where requests for port `port` come from, from now on.
    pub(crate) fn behind(&mut self, port: u16, proxies: Proxies) {
        if let Some(listener) = self.config.listeners.get_mut(&format!("{WEB}:{port}"))
            && let Listener::Http(http) = Arc::make_mut(listener)
        {
            http.proxies = proxies;
        }
        self.publish();
    }

    /// Has this line written of each request for port `port`, in the words of access logs, from now on.
    pub(crate) fn log(&mut self, port: u16, line: &str) {
        let sink = Sink::Line(Format::Text(Template::parse(&format!("{line}\n")).unwrap()), false);
        let logs = Logs { loggers: vec![Logger { condition: None, sink }], asked: Vec::new(), answered: Vec::new() };
        if let Some(listener) = self.config.listeners.get_mut(&format!("{WEB}:{port}"))
            && let Listener::Http(http) = Arc::make_mut(listener)
        {
            http.logs = Some(Arc::new(logs));
        }
        self.publish();
    }

    /// Believes these tokens from now on, in requests for port `port`.
    pub(crate) fn believe(&mut self, port: u16, tokens: Tokens) {
        if let Some(listener) = self.config.listeners.get_mut(&format!("{WEB}:{port}"))
            && let Listener::Http(http) = Arc::make_mut(listener)
        {
            http.tokens = Some(Arc::new(tokens));
        }
        self.publish();
    }

    /// A listener that looks into requests for port `port` of the service, with these routes, and the cluster of that port
    /// with these endpoints.
    pub(crate) fn http(&mut self, port: u16, policies: Vec<Rules>, routes: Vec<Route>, endpoints: &[SocketAddr]) {
        let name = format!("{WEB}:{port}");
        let http = Http {
            custom: Vec::new(),
            tokens: None,
            policies,
            silent: Vec::new(),
            routes: name.clone(),
            merge_slashes: true,
            proxies: Proxies::default(),
            rates: None,
            limiter: None,
            processor: None,
            tracing: None,
            logs: None,
            metrics: None,
            upgrades: Upgrades::usual(),
            otherwise: None,
        };
        let listener = Listener::Http(Box::new(http));
        self.config.listeners.insert(name.clone(), Arc::new(listener));
        self.config.routes.insert(
            name.clone(),
            Arc::new(Table { hosts: vec![Host { domains: vec!["*".into()], routes, counted: Vec::new() }] }),
        );
        self.cluster(&name, Protocol::AsClient, endpoints);
        self.publish();
    }

    pub(crate) fn cluster(&mut self, name: &str, protocol: Protocol, endpoints: &[SocketAddr]) {
        let cluster = Cluster { protocol, ..Cluster::named(name) };
        self.config.clusters.insert(name.to_owned(), Arc::new(cluster));
        let assignment = Assignment { priorities: vec![endpoints.to_vec()], weights: Vec::new() };
        self.config.endpoints.insert(name.to_owned(), Arc::new(assignment));
    }

    /// The cluster of this name, changed and in force.
    pub(crate) fn change_cluster(&mut self, name: &str, change: impl FnOnce(&mut Cluster)) {
        change(Arc::make_mut(self.config.clusters.get_mut(name).unwrap()));
        self.publish();
    }

    /// Opens a stream of the client to `authority`.
    pub(crate) async fn open(&self, authority: &str) -> Result<Opened, TunnelError> {
        let identity = |account| Identity::new("cluster.local", "shop", account).unwrap();
        let key = TunnelKey {
            source: identity("client"),
            accepted: [identity("waypoint")].into(),
            peer: self.address,
            workload: None,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let request = ConnectRequest { authority: authority.to_owned(), headers: HeaderMap::new() };
        tokio::time::timeout(PATIENCE, self.pool.open(&key, &request)).await.expect("an answer")
    }

    /// Bytes to and from `authority`.
    pub(crate) async fn dial(&self, authority: &str) -> TunnelIo {
        TunnelIo::new(self.open(authority).await.unwrap().stream, Bytes::new())
    }

    /// Sends a request over a new connection, HTTP/1.1 or HTTP/2.
    pub(crate) async fn send(&self, port: u16, http2: bool, request: Request<Full<Bytes>>) -> (Response<()>, String) {
        self.send_to(&format!("10.96.0.1:{port}"), http2, request).await
    }

    /// The same, to `authority`.
    pub(crate) async fn send_to(
        &self,
        authority: &str,
        http2: bool,
        request: Request<Full<Bytes>>,
    ) -> (Response<()>, String) {
        let io = TokioIo::new(self.dial(authority).await);
        let sending = async {
            let response = if http2 {
                let executor = hyper_util::rt::TokioExecutor::new();
                let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            let (parts, body) = response.into_parts();
            let text = body.collect().await.unwrap().to_bytes();
            (Response::from_parts(parts, ()), String::from_utf8_lossy(&text).into_owned())
        };
        tokio::time::timeout(PATIENCE, sending).await.expect("an answer")
    }

    /// Starts when the waypoint stops.
    pub(crate) fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Starts to stop.
    pub(crate) fn stop(&self) {
        self.trigger.start(drain::Mode::Graceful);
    }

    /// Stops, with no time left.
    pub(crate) fn stop_now(&self) {
        self.trigger.start(drain::Mode::Immediate);
    }
}

/// A request for `path` with these headers.
pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().uri(format!("http://web.shop{path}"));
    request = request.header("host", "web.shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// What an origin was asked.
pub(crate) type Asked = BTreeMap<String, String>;

/// An origin on loopback that answers with `answer` of what it is asked.
pub(crate) async fn origin(answer: impl Fn(Asked) -> Response<Full<Bytes>> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(speak(socket, answer.clone()));
        }
    });
    address
}

/// Speaks HTTP/1.1 or HTTP/2, whatever comes, over `io`.
pub(crate) async fn speak<T>(io: T, answer: impl Fn(Asked) -> Response<Full<Bytes>> + Clone + Send + 'static)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let mut asked: Asked = parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect();
            asked.insert(":method".into(), parts.method.to_string());
            asked.insert(":path".into(), parts.uri.path_and_query().unwrap().to_string());
            asked.insert(":version".into(), format!("{:?}", parts.version));
            if let Some(authority) = parts.uri.authority() {
                asked.insert("host".into(), authority.to_string());
            }
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            asked.insert(":body".into(), String::from_utf8_lossy(&body).into_owned());
            Ok::<_, Infallible>(answer(asked))
        }
    });
    let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
}

/// An answer with this status and text.
pub(crate) fn answer(status: u16, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(text.into())).unwrap()
}

/// Of two endpoints the one that has failed twice in a row is left out, for longer than a test takes.
pub(crate) fn out_after_two_errors() -> Outliers {
    Outliers {
        errors: Some(2),
        gateway_errors: None,
        local_errors: None,
        is_split: false,
        success_rate: None,
        interval: Duration::from_secs(10),
        time: Duration::from_secs(3600),
        most_percent: 50,
        panic_percent: 0.0,
    }
}

/// A route for everything to one cluster.
pub(crate) fn route_to(cluster: &str) -> Route {
    let backend = Backend { cluster: cluster.into(), request: Edits::default(), response: Edits::default() };
    let forward = Forward {
        backends: Weighted::new(vec![(1, backend)]).unwrap(),
        no_cluster: http::StatusCode::INTERNAL_SERVER_ERROR,
        path: None,
        host: None,
        timeout: None,
        idle: None,
        retry: None,
        mirrors: Vec::new(),
        hash: None,
        counted: Vec::new(),
    };
    Route {
        name: "shop/route/0".into(),
        matching: Match {
            path: PathMatch::Prefix("/".into()),
            any_case: false,
            headers: vec![],
            without: vec![],
            query: vec![],
            namespace: vec![],
        },
        action: Action::Forward(Box::new(forward)),
        request: Edits::default(),
        response: Edits::default(),
        before: Before::default(),
    }
}

/// The route, with a change of how it forwards.
pub(crate) fn forwarding(mut route: Route, change: impl FnOnce(&mut Forward)) -> Route {
    if let Action::Forward(forward) = &mut route.action {
        change(forward);
    }
    route
}
