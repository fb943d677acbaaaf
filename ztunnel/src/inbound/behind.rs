//! Clients behind a waypoint: who is believed to speak for them, and until when.

use std::net::Ipv4Addr;

use fairway_core::io::live::Live;
use fairway_core::policy::Policy;
use fairway_core::service::Service;
use fairway_core::snapshot::Update;
use fairway_proto::security::{self, Authorization, Clause, Match, Rule, StringMatch, string_match::MatchType};
use fairway_proto::workload::{
    GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList, Service as ServiceMessage,
    Workload as WorkloadMessage, gateway_address::Destination,
};
use http::HeaderValue;
use http::header::FORWARDED;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{PATIENCE, ServedPod};

const WEB: &str = "web.shop.svc.cluster.local";
const WAY: &str = "way.shop.svc.cluster.local";

/// A service of `shop`, bound to the waypoint or not.
fn service(hostname: &str, vip: [u8; 4], is_bound: bool) -> Update {
    let waypoint = NamespacedHostname { namespace: "shop".into(), hostname: WAY.into() };
    let waypoint = GatewayAddress { destination: Some(Destination::Hostname(waypoint)), hbone_mtls_port: 15_008 };
    let message = ServiceMessage {
        name: hostname.split('.').next().unwrap().into(),
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: vec![NetworkAddress { address: vip.to_vec(), ..Default::default() }],
        ports: vec![Port { service_port: 80, target_port: 8080, ..Default::default() }],
        waypoint: is_bound.then_some(waypoint),
        ..Default::default()
    };
    Service::try_from(message).unwrap().into()
}

fn endpoint(name: &str, hostname: &str) -> Update {
    let ports = PortList { ports: vec![Port { service_port: 80, target_port: 8080, ..Default::default() }] };
    let message = WorkloadMessage {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        node: "n1".into(),
        service_account: name.into(),
        services: [(format!("shop/{hostname}"), ports)].into(),
        ..Default::default()
    };
    Workload::try_from(message).unwrap().into()
}

/// Lets in one account alone.
fn only(account: &str) -> Update {
    let principal = MatchType::Exact(format!("cluster.local/ns/shop/sa/{account}"));
    let principals = vec![StringMatch { match_type: Some(principal) }];
    let clause = Clause { matches: vec![Match { principals, ..Match::default() }] };
    let message = Authorization {
        name: "only".into(),
        namespace: "shop".into(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Allow.into(),
        rules: vec![Rule { clauses: vec![clause] }],
        ..Authorization::default()
    };
    Policy::try_from(message).unwrap().into()
}

/// A pod of a service behind a waypoint that lets `client` in.
async fn guarded(change: impl FnOnce(&mut crate::pod::Mesh)) -> ServedPod {
    let served = ServedPod::with(Limits::default(), change).await;
    served.pod.mesh.live.apply(vec![
        service(WEB, [10, 96, 0, 1], true),
        service(WAY, [10, 96, 0, 2], false),
        endpoint("cart", WEB),
        endpoint("way", WAY),
        only("client"),
    ]);
    served
}

/// What `by` says of `client`.
fn speaking(by: &str, client: &str) -> HeaderMap {
    let identity = |account| Identity::new("cluster.local", "shop", account).unwrap();
    HeaderMap::from_iter([
        (headers::CLIENT_CERTIFICATE, headers::client_certificate(&identity(by), &identity(client)).unwrap()),
        (FORWARDED, headers::forwarded("10.0.0.9:4000".parse().unwrap(), Some(WEB)).unwrap()),
    ])
}

/// Dialled by its own address, as who is no waypoint may.
fn directly(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(FORWARDED, HeaderValue::from_static("for=\"10.0.0.9:4000\""));
    headers
}

#[tokio::test]
async fn a_waypoint_of_the_pod_is_believed_and_nobody_else() {
    let served = guarded(|_| {}).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let twice = |name: http::HeaderName| {
        let mut headers = speaking("way", "client");
        headers.append(&name, headers[&name].clone());
        headers
    };
    let rows = [
        ("a client that is let in", "way", speaking("way", "client"), true),
        ("another client", "way", speaking("way", "guest"), false),
        ("the waypoint for nobody", "way", HeaderMap::new(), false),
        ("somebody says it who is no waypoint", "web", directly(speaking("web", "client")), false),
        ("somebody says it in the waypoint's name", "web", directly(speaking("way", "client")), false),
        ("the waypoint in somebody's name", "way", speaking("web", "client"), false),
        ("two clients", "way", twice(headers::CLIENT_CERTIFICATE), false),
        ("two addresses", "way", twice(FORWARDED), false),
        ("the client itself", "client", directly(HeaderMap::new()), true),
    ];
    for (what, account, headers, is_allowed) in rows {
        let opened = served.open_as(account, &served.member(), port, headers).await;
        let reason = opened.as_ref().err().map(|error| error.reason());
        assert_eq!(reason, (!is_allowed).then_some(Reason::PolicyNotAllowed), "{what}");
    }
}

#[tokio::test]
async fn where_it_is_switched_off_only_the_waypoint_counts() {
    let served = guarded(|mesh| mesh.clients_behind_waypoints = false).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = || async { served.open_as("way", &served.member(), port, speaking("way", "client")).await };
    assert_eq!(asked().await.err().map(|error| error.reason()), Some(Reason::PolicyNotAllowed));
    served.pod.mesh.live.apply(vec![only("way")]);
    assert!(asked().await.is_ok());
}

/// Where the world is held on demand and nobody answers, a stream fails that has to wait for who the pod's waypoints are.
#[tokio::test]
async fn who_the_waypoints_are_is_asked_for_where_policies_may_look_at_it() {
    let directly_said = || directly(speaking("way", "client"));
    let known = || vec![service(WEB, [10, 96, 0, 1], true), service(WAY, [10, 96, 0, 2], false), endpoint("way", WAY)];
    let late = Some(Reason::DestinationUnknown);
    let rows = [
        ("no policy", vec![], directly_said(), None),
        ("a policy", vec![only("client")], directly_said(), late),
        ("a policy, and nobody is spoken for", vec![only("way")], HeaderMap::new(), None),
        ("a policy, and the waypoint is known", [known(), vec![only("client")]].concat(), directly_said(), None),
    ];
    for (what, held, headers, refused) in rows {
        let served = ServedPod::with(Limits::default(), |mesh| mesh.live = Live::on_demand()).await;
        served.pod.mesh.live.apply([vec![endpoint("cart", WEB), Update::Complete], held].concat());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let opened = served.open_as("way", &served.member(), port, headers).await;
        assert_eq!(opened.err().map(|error| error.reason()), refused, "{what}");
    }
}

/// What was believed holds for as long as policies say so, and for as long as the waypoint is one of the pod's.
#[tokio::test]
async fn open_streams_are_judged_again_by_who_is_behind_them() {
    let changes = [
        ("another client is let in instead", only("guest")),
        ("the service has no waypoint any more", service(WEB, [10, 96, 0, 1], false)),
    ];
    for (what, change) in changes {
        let served = guarded(|_| {}).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let member = served.member();
        let mut open = served.open_as("way", &member, port, speaking("way", "client")).await.unwrap();
        let (mut application, _) = listener.accept().await.unwrap();
        // What lets others in as well changes nothing.
        served.pod.mesh.live.apply(vec![endpoint("way-1", WAY)]);
        open.stream.sender.send_all(bytes::Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(application.read(&mut [0; 4]).await.unwrap(), 1, "{what}");
        served.pod.mesh.live.apply(vec![change]);
        let ended = tokio::time::timeout(PATIENCE, application.read(&mut [0; 4])).await.expect(what);
        assert!(ended.is_err(), "{what}: reset, and not ended: {ended:?}");
    }
}
