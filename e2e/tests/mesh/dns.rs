//! DNS of captured pods: names of the mesh are answered, everything else passes untouched, whether resolvers work or not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};

use fairway_lab::Lab;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::shop::{self, CLIENT, SERVER, VISITOR};
use super::{enter, labs, observe};

/// Where the lab's resolver is: the underlay, which every pod reaches.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), 53);
/// Where nobody is: what is asked there is answered only if it is captured.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 255, 10)), 53);
const SERVICE: &str = "server.shop.svc.cluster.local";
/// What the resolver says of [`SERVICE`], so that nobody can mistake its answer for ours.
const WRONG: &str = "192.0.2.66";
/// A pod of the enrolled namespace that does not want its DNS captured.
const ALOOF: &str = "shop/aloof";
const ALOOF_POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: aloof, namespace: shop, annotations: {ambient.istio.io/dns-capture: \"false\"}}
spec:
  nodeName: node-1
  containers: [{name: idle, command: [sleep, infinity]}]
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Udp,
    Tcp,
}

/// A resolver that runs in the lab until it is dropped.
struct Resolver {
    running: Child,
}

impl Resolver {
    fn start(lab: &Lab) -> Self {
        let command = [
            // The way into the lab forks, so the resolver is told to end by the end of its input, not by a signal.
            "sh",
            "-c",
            "\"$@\" </dev/null & read -r _; kill $!; wait",
            "resolver",
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--log-facility=-",
            "--local=/example/",
            "--local=/cluster.local/",
            "--local-ttl=77",
            "--host-record=outside.example,192.0.2.80,2001:db8::80",
            "--txt-record=outside.example,as it is",
            "--txt-record=server.shop.svc.cluster.local,said by the resolver",
            "--srv-host=_http._tcp.server.shop.svc.cluster.local,elsewhere.example,80",
            "--host-record=server.shop.svc.cluster.local,192.0.2.66",
        ];
        let mut prepared = lab.node_command("underlay", &command);
        let running = prepared.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let resolver = Self { running };
        lab.wait_for("the resolver to answer", || {
            ask(lab, VISITOR, RESOLVER, Over::Udp, "outside.example", RecordType::A).is_some()
        })
        .unwrap();
        resolver
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // Ended already only if the lab is.
        drop(self.running.stdin.take());
        let _ = self.running.wait();
    }
}

/// A lab with the shop enrolled and a resolver; `None` when none can run here.
fn lab(test: &str) -> Option<(Lab, Resolver)> {
    if !labs::can_run(test) || !labs::can_enter(test) {
        return None;
    }
    let path = fairway_lab::prerequisites::search_path(None, &std::env::var("PATH").unwrap_or_default());
    if !std::env::split_paths(&path).any(|directory| directory.join("dnsmasq").is_file()) {
        labs::skip(test, "dnsmasq is not installed; see ./dev setup");
        return None;
    }
    labs::build();
    let mut options = labs::options(test);
    let ztunnel = options.environment.entry("ztunnel".to_owned()).or_default();
    ztunnel.insert("DNS_RESOLVERS".to_owned(), RESOLVER.to_string());
    let lab = Lab::up(options).unwrap();
    lab.wait_ready().unwrap();
    lab.apply(shop::MANIFESTS).unwrap();
    lab.apply(ALOOF_POD).unwrap();
    lab.wait_ready().unwrap();
    shop::enrol(&lab);
    lab.wait_captured(&[(ALOOF, true)]).unwrap();
    let resolver = Resolver::start(&lab);
    Some((lab, resolver))
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x4d53, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message.to_vec().unwrap()
}

/// What a pod hears when it asks `server`; `None` if that is nothing.
fn ask(lab: &Lab, pod: &str, server: SocketAddr, over: Over, name: &str, kind: RecordType) -> Option<Vec<u8>> {
    let query = query(name, kind);
    enter::pod(lab, pod, async || {
        let asked = async {
            match over {
                Over::Udp => {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
                    // Connected, so that an answer from anywhere else than where it was asked is not taken.
                    socket.connect(server).await.ok()?;
                    socket.send(&query).await.ok()?;
                    let mut reply = vec![0; 4096];
                    let length = socket.recv(&mut reply).await.ok()?;
                    reply.truncate(length);
                    Some(reply)
                }
                Over::Tcp => {
                    let mut stream = TcpStream::connect(server).await.ok()?;
                    stream.write_u16(query.len().try_into().unwrap()).await.ok()?;
                    stream.write_all(&query).await.ok()?;
                    let mut reply = vec![0; stream.read_u16().await.ok()?.into()];
                    stream.read_exact(&mut reply).await.ok()?;
                    Some(reply)
                }
            }
        };
        // Longer than the proxy waits for a resolver.
        timeout(std::time::Duration::from_secs(8), asked).await.ok().flatten()
    })
}

/// Response code, whether it is the last word of an authority, and the addresses.
fn read(reply: &[u8]) -> (ResponseCode, bool, Vec<String>) {
    let message = Message::from_vec(reply).unwrap();
    let addresses = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(ip) => Some(ip.to_string()),
        RData::AAAA(ip) => Some(ip.to_string()),
        _ => None,
    });
    let mut addresses: Vec<String> = addresses.collect();
    addresses.sort();
    (message.metadata.response_code, message.metadata.authoritative, addresses)
}

/// The addresses the proxy itself answers with.
fn ours(lab: &Lab, over: Over, name: &str, kind: RecordType) -> Vec<String> {
    let reply = ask(lab, CLIENT, NOBODY, over, name, kind);
    assert!(reply.is_some(), "no answer for {name} over {over:?}");
    let (code, authoritative, addresses) = read(&reply.unwrap());
    assert_eq!((code, authoritative), (ResponseCode::NoError, true), "{name} {over:?}");
    addresses
}

fn vips(lab: &Lab) -> Vec<String> {
    let dump = observe::config_dump(lab, "node-1").unwrap();
    let services = dump["services"].as_array().unwrap();
    let server = services.iter().find(|service| service["hostname"] == SERVICE).unwrap();
    let vips = server["vips"].as_array().unwrap().iter();
    vips.map(|vip| vip.as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

/// Asks what is ours, over both transports, in the ways a pod's resolver would.
fn names_of_the_mesh_are_answered(lab: &Lab) {
    let (four, six): (Vec<String>, Vec<String>) = vips(lab).into_iter().partition(|vip| !vip.contains(':'));
    assert!(!four.is_empty() && !six.is_empty());
    let pod = labs::pod(lab, SERVER).addresses;
    for over in [Over::Udp, Over::Tcp] {
        for name in [SERVICE, "Server.Shop.svc.cluster.local", "server.shop.shop.svc.cluster.local", "server"] {
            assert_eq!(ours(lab, over, name, RecordType::A), four, "{name} {over:?}");
        }
        assert_eq!(ours(lab, over, SERVICE, RecordType::AAAA), six);
        assert_eq!(ours(lab, over, "headless.shop.svc.cluster.local", RecordType::A), pod[..1]);
    }
}

#[test]
fn a_captured_pod_resolves_names_of_the_mesh_and_the_world() {
    let Some((lab, resolver)) = lab("dns") else { return };
    names_of_the_mesh_are_answered(&lab);
    // What is not ours is what the resolver says, byte by byte.
    for (name, kind) in [
        ("outside.example", RecordType::A),
        ("outside.example", RecordType::AAAA),
        ("outside.example", RecordType::TXT),
        ("nowhere.example", RecordType::A),
        (SERVICE, RecordType::TXT),
        (SERVICE, RecordType::ANY),
        ("_http._tcp.server.shop.svc.cluster.local", RecordType::SRV),
        ("nobody.shop.svc.cluster.local", RecordType::A),
    ] {
        for over in [Over::Udp, Over::Tcp] {
            let direct = ask(&lab, VISITOR, RESOLVER, over, name, kind);
            assert!(direct.is_some(), "{name} {kind} {over:?}");
            assert_eq!(ask(&lab, CLIENT, NOBODY, over, name, kind), direct, "{name} {kind} {over:?}");
        }
    }
    // Who is not captured asks for himself.
    for pod in [VISITOR, ALOOF] {
        let reply = ask(&lab, pod, RESOLVER, Over::Udp, SERVICE, RecordType::A).unwrap();
        assert_eq!(read(&reply).2, [WRONG], "{pod}");
    }
    assert_eq!(read(&ask(&lab, ALOOF, RESOLVER, Over::Tcp, SERVICE, RecordType::A).unwrap()).2, [WRONG]);
    let page = observe::metrics(&lab, "node-1");
    let count = |name, kind, transport| {
        let labels =
            [("request_query_type", kind), ("request_protocol", transport), ("source_canonical_service", "client")];
        observe::sum(&page, name, &labels)
    };
    for transport in ["udp", "tcp"] {
        assert!(
            count("istio_dns_requests_total", "a", transport)
                > count("istio_dns_upstream_requests_total", "a", transport)
        );
        assert!(count("istio_dns_upstream_requests_total", "srv", transport) >= 1.0, "{transport}");
        assert!(count("istio_dns_upstream_request_duration_seconds_count", "srv", transport) >= 1.0, "{transport}");
    }
    assert_eq!(observe::sum(&page, "istio_dns_upstream_failures_total", &[]), 0.0);

    // The resolver goes, the mesh's names stay.
    drop(resolver);
    names_of_the_mesh_are_answered(&lab);
    for over in [Over::Udp, Over::Tcp] {
        let reply = ask(&lab, CLIENT, NOBODY, over, "outside.example", RecordType::A).unwrap();
        assert_eq!(read(&reply), (ResponseCode::ServFail, false, Vec::new()), "{over:?}");
    }
    let page = observe::metrics(&lab, "node-1");
    assert!(observe::sum(&page, "istio_dns_upstream_failures_total", &[("request_query_type", "a")]) >= 2.0);
    shop::carries_on(&lab);
    let _resolver = Resolver::start(&lab);
    let reply = ask(&lab, CLIENT, NOBODY, Over::Udp, "outside.example", RecordType::A).unwrap();
    assert_eq!(read(&reply).2, ["192.0.2.80"]);
}
