//! Tests of `dns::serve`: a pod's DNS server on loopback, with a resolver behind it. Time is paused.

use std::time::SystemTime;

use fairway_core::dns::Zone;
use fairway_core::ident::TrustDomain;
use fairway_core::io::certs::Certificates;
use fairway_core::io::certs::authority::{Answer, Authority};
use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::dns::test_resolver::{FakeResolver, both_families, silent};
use fairway_core::io::drain::{self, Mode, Trigger};
use fairway_core::io::live::Live;
use fairway_core::io::metrics::Metrics;
use fairway_core::io::tls;
use fairway_core::limits::Limits;
use fairway_core::service::Service;
use fairway_core::snapshot::{PodRef, Update};
use fairway_core::workload::newcomer::Site;
use fairway_proto::workload as proto;
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use super::*;
use crate::dns::lookup::Lookup;
use crate::dns::metrics::DnsMetrics;
use crate::neighbours::Neighbours;
use crate::pod::Mesh;
use crate::telemetry::Telemetry;
use crate::workers::Workers;

const OURS: &str = "server.shop.svc.cluster.local";
const VIP: &str = "10.96.0.1";
const OUTSIDE: &str = "api.example.com";
const OUTSIDE_ADDRESS: &str = "192.0.2.1";

/// Nobody needs a certificate here.
struct NoAuthority;

impl Authority for NoAuthority {
    fn sign<'a>(&'a self, _: &'a fairway_core::ident::Identity, _: String, _: Duration) -> Answer<'a> {
        Box::pin(std::future::pending())
    }
}

/// A pod's server, and where to ask it.
struct Served {
    live: Live,
    metrics: Metrics,
    trigger: Trigger,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Served {
    fn start(resolver: SocketAddr) -> Self {
        let (metrics, live, ours) = (Metrics::default(), Live::new(), SocketFactory::host(None));
        let (trigger, drain) = drain::new();
        let resolvers = Resolvers::fixed(&[resolver]);
        let counted = DnsMetrics::new(&metrics);
        let upstream = Upstream::new(resolvers.clone(), ours.clone(), ours.clone());
        let dns = Arc::new(Dns::new(Zone::default(), 0, resolvers, ours.clone(), counted.clone()));
        let authority = Arc::new(NoAuthority);
        let mesh = Mesh {
            site: Site { trust_domain: Some(TrustDomain::default()), ..Site::default() },
            workers: Workers::on(vec![Handle::current()]),
            live: live.clone(),
            certificates: Certificates::new(authority, tls::provider(), Duration::from_secs(3600), SystemTime::now),
            telemetry: Telemetry::new(&metrics),
            budget: fairway_core::io::hbone::ReceiveBudget::default(),
            limits: Limits::default(),
            ipv6: true,
            pressure: Default::default(),
            exchange_baggage: true,
            waypoint_bypass: false,
            clients_behind_waypoints: true,
            tunnel_over_loopback: true,
            neighbours: Neighbours::default(),
            lookup: Lookup::new(upstream, counted),
            dns: Some(Arc::clone(&dns)),
        };
        let reference = PodRef {
            node: Some("node-1".into()),
            namespace: "shop".into(),
            name: "client".into(),
            service_account: "client".into(),
        };
        let sockets = Sockets::open(&ours, 0, false).unwrap();
        let (udp, tcp) = (sockets.datagrams[0].local_addr().unwrap(), sockets.listeners[0].local_addr().unwrap());
        let pod = Arc::new(Pod::new(reference, Arc::new(mesh), ours, false, drain.clone()));
        Server::start(pod, dns, sockets, &drain);
        Self { live, metrics, trigger, udp, tcp }
    }

    /// As [`Served::start`], with the pod announced.
    fn known(resolver: SocketAddr) -> Self {
        let served = Self::start(resolver);
        served.announce();
        served
    }

    /// Tells all there is, the pod excepted.
    fn complete(&self) {
        self.live.apply(vec![Update::from(service()), Update::Complete]);
    }

    fn announce(&self) {
        let client = proto::Workload {
            uid: "Kubernetes//Pod/shop/client".into(),
            name: "client".into(),
            namespace: "shop".into(),
            node: "node-1".into(),
            service_account: "client".into(),
            canonical_name: "client".into(),
            ..Default::default()
        };
        let client = Workload::try_from(client).unwrap();
        self.live.apply(vec![Update::from(client), Update::from(service()), Update::Complete]);
    }

    fn has(&self, line: &str) -> bool {
        self.metrics.render().lines().any(|found| found == line)
    }
}

/// What [`OURS`] names.
fn service() -> Service {
    let vip = proto::NetworkAddress { address: vec![10, 96, 0, 1], ..Default::default() };
    let service = proto::Service {
        name: "server".into(),
        namespace: "shop".into(),
        hostname: OURS.into(),
        addresses: vec![vip],
        ..Default::default()
    };
    Service::try_from(service).unwrap()
}

fn question(id: u16, name: &str) -> Vec<u8> {
    wire::question(id, name, fairway_core::dns::Family::V4).unwrap()
}

/// Number, then address or code.
fn outline(reply: &[u8]) -> (u16, String) {
    let reply = Message::from_vec(reply).unwrap();
    let address = reply.answers.first().and_then(|record| match &record.data {
        RData::A(ip) => Some(ip.to_string()),
        _ => None,
    });
    (reply.metadata.id, address.unwrap_or_else(|| format!("{:?}", reply.metadata.response_code)))
}

struct Asking(UdpSocket);

impl Asking {
    async fn of(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        Self(socket)
    }

    async fn send(&self, id: u16, name: &str) {
        self.0.send(&question(id, name)).await.unwrap();
    }

    async fn heard(&self) -> (u16, String) {
        let mut reply = vec![0; 4096];
        let length = self.0.recv(&mut reply).await.unwrap();
        outline(&reply[..length])
    }
}

#[tokio::test(start_paused = true)]
async fn ours_and_theirs_over_datagrams() {
    let resolver = FakeResolver::start(both_families, None).await;
    let served = Served::known(resolver.address);
    let asking = Asking::of(served.udp).await;
    for (id, name, expected) in [(1, OURS, VIP), (2, OUTSIDE, OUTSIDE_ADDRESS), (3, "server", VIP)] {
        asking.send(id, name).await;
        assert_eq!(asking.heard().await, (id, expected.to_owned()));
    }
    assert_eq!(resolver.asked(), (1, 0));
    let labels = "request_query_type=\"a\",request_protocol=\"udp\",source_canonical_service=\"client\",source_canonical_revision=\"unknown\"";
    assert!(served.has(&format!("istio_dns_requests_total{{{labels}}} 3")), "{}", served.metrics.render());
    assert!(served.has(&format!("istio_dns_upstream_requests_total{{{labels}}} 1")));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_foreign_names_is_shed_and_ours_are_answered_meanwhile() {
    let quiet = FakeResolver::start(silent, None).await;
    let served = Served::known(quiet.address);
    let asking = Asking::of(served.udp).await;
    let most = limits::DNS_QUERIES_PER_POD.default;
    for id in 0..most {
        asking.send(u16::try_from(id).unwrap(), OUTSIDE).await;
        // So that no queue on the way overflows.
        tokio::task::yield_now().await;
    }
    asking.send(9_000, OUTSIDE).await;
    asking.send(9_001, OURS).await;
    assert_eq!(asking.heard().await, (9_000, "ServFail".to_owned()), "one too many is told at once");
    assert_eq!(asking.heard().await, (9_001, VIP.to_owned()));
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    for (id, name, expected) in [(1, OURS, VIP), (2, OUTSIDE, "ServFail")] {
        write_message(&mut stream, &question(id, name)).await.unwrap();
        assert_eq!(outline(&read_message(&mut stream).await.unwrap()), (id, expected.to_owned()));
    }
    assert!(served.has("fairway_dns_failures_total{reason=\"connection_limit\"} 2"), "{}", served.metrics.render());
    // Those that were passed on are told, too, when their time is over, and then there is room again.
    for _ in 0..most {
        assert_eq!(asking.heard().await.1, "ServFail");
    }
    asking.send(9_002, OUTSIDE).await;
    assert_eq!(asking.heard().await.0, 9_002);
    assert!(served.has("fairway_dns_failures_total{reason=\"connection_limit\"} 2"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_announced_late_is_waited_for_but_not_for_long() {
    let resolver = FakeResolver::start(both_families, None).await;
    for announced in [true, false] {
        let served = Served::start(resolver.address);
        let asking = Asking::of(served.udp).await;
        let started = Instant::now();
        asking.send(1, OURS).await;
        assert!(timeout(limits::DNS_WORKLOAD_WAIT.duration() / 2, asking.heard()).await.is_err());
        if announced {
            served.announce();
        }
        let expected = if announced { VIP } else { OUTSIDE_ADDRESS };
        assert_eq!(asking.heard().await, (1, expected.to_owned()));
        assert!(started.elapsed() <= limits::DNS_WORKLOAD_WAIT.duration() + Duration::from_millis(10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_its_node_knows_is_answered_before_it_is_announced() {
    let resolver = FakeResolver::start(both_families, None).await;
    let served = Served::start(resolver.address);
    served.complete();
    let asking = Asking::of(served.udp).await;
    let started = Instant::now();
    asking.send(1, OURS).await;
    assert_eq!(asking.heard().await, (1, VIP.to_owned()));
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    write_message(&mut stream, &question(2, OURS)).await.unwrap();
    assert_eq!(outline(&read_message(&mut stream).await.unwrap()), (2, VIP.to_owned()));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_queries_is_answered_in_order_until_it_idles() {
    let resolver = FakeResolver::start(both_families, Some(both_families)).await;
    let served = Served::known(resolver.address);
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    for (id, name) in [(1, OUTSIDE), (2, OURS), (3, OUTSIDE)] {
        write_message(&mut stream, &question(id, name)).await.unwrap();
    }
    for (id, expected) in [(1, OUTSIDE_ADDRESS), (2, VIP), (3, OUTSIDE_ADDRESS)] {
        assert_eq!(outline(&read_message(&mut stream).await.unwrap()), (id, expected.to_owned()));
    }
    assert_eq!(resolver.asked(), (0, 2));
    let idle = Instant::now();
    assert!(read_message(&mut stream).await.is_err());
    assert_eq!(idle.elapsed().as_secs(), limits::DNS_IDLE_TIMEOUT.duration().as_secs());
    // A message that does not come to its end is not waited for any longer.
    let mut slow = TcpStream::connect(served.tcp).await.unwrap();
    slow.write_all(b"\xff\xff\x12\x34").await.unwrap();
    assert!(read_message(&mut slow).await.is_err());
    // And what is no query ends the connection.
    let mut wrong = TcpStream::connect(served.tcp).await.unwrap();
    let answer = wire::failure(&question(1, OURS), ResponseCode::ServFail).unwrap();
    write_message(&mut wrong, &answer).await.unwrap();
    let started = Instant::now();
    assert!(read_message(&mut wrong).await.is_err());
    assert!(started.elapsed() < limits::DNS_IDLE_TIMEOUT.duration());
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_what_was_asked_and_then_lets_go() {
    let resolver = FakeResolver::start(both_families, None).await;
    let quiet = FakeResolver::start(silent, Some(silent)).await;
    let served = Served::known(resolver.address);
    let asking = Asking::of(served.udp).await;
    asking.send(1, OURS).await;
    asking.send(2, OUTSIDE).await;
    served.trigger.start(Mode::Graceful);
    assert_eq!(asking.heard().await, (1, VIP.to_owned()));
    assert_eq!(asking.heard().await, (2, OUTSIDE_ADDRESS.to_owned()));
    served.trigger.drained().await;
    assert!(TcpStream::connect(served.tcp).await.is_err());
    // What waits for a resolver does not hold up a pod that must go.
    let served = Served::known(quiet.address);
    let asking = Asking::of(served.udp).await;
    asking.send(3, OUTSIDE).await;
    let mut stream = TcpStream::connect(served.tcp).await.unwrap();
    write_message(&mut stream, &question(4, OUTSIDE)).await.unwrap();
    assert!(timeout(Duration::from_millis(100), asking.heard()).await.is_err());
    let started = Instant::now();
    assert_eq!(served.trigger.drain(Mode::Immediate, Duration::ZERO).await, drain::Outcome::Drained);
    assert!(started.elapsed() < Duration::from_millis(100));
}
