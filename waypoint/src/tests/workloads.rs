//! Pods that are dialled by their own address: what is looked into, what is not, and where it goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_core::snapshot::Update;
use fairway_core::why::passage::{Action, Handling, Passage};
use fairway_proto::workload as proto;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::streams::{chain, named};
use super::{reason_of, told};
use crate::config::{
    Cluster, Header, HeaderMatch, Host, Http, Listener, Permission, Policy, Principal, Protocol, Rules, Table, Text,
    Verdict,
};
use crate::stream::WORKLOADS;
use crate::testing::{PATIENCE, Served, WEB, gateway, get, route_to};
use crate::upstream::Upstreams;
use crate::why::{Wanted, passage};

fn deny(permission: Permission) -> Vec<Rules> {
    let policy = Policy { name: "shop/no/0".into(), permissions: vec![permission], principals: vec![Principal::Any] };
    vec![Rules { verdict: Verdict::Deny, policies: vec![policy] }]
}

/// Nobody may delete anything.
fn no_deletion() -> Vec<Rules> {
    deny(Permission::Header(HeaderMatch { name: Header::Method, value: Text::Exact("DELETE".into()) }))
}

fn delete() -> Request<Full<bytes::Bytes>> {
    let mut request = get("/", &[]);
    *request.method_mut() = Method::DELETE;
    request
}

impl Served {
    /// Stands before workloads, with these policies for requests and for all else.
    fn before_workloads(&mut self, requests: Vec<Rules>, others: Vec<Rules>) {
        let (routes, otherwise) = (WORKLOADS.to_owned(), Some(chain(WORKLOADS, others, None)));
        let http = Http { policies: requests, routes, merge_slashes: true, otherwise, ..Http::default() };
        self.config.listeners.insert(WORKLOADS.to_owned(), Arc::new(Listener::Http(Box::new(http))));
        let routes = vec![route_to(WORKLOADS)];
        let host = Host { domains: vec!["*".into()], routes, counted: Vec::new() };
        self.config.routes.insert(WORKLOADS.to_owned(), Arc::new(Table { hosts: vec![host] }));
        let cluster = Cluster { protocol: Protocol::AsClient, is_dialled: true, ..Cluster::named(WORKLOADS) };
        self.config.clusters.insert(WORKLOADS.to_owned(), Arc::new(cluster));
        self.publish();
    }

    /// Announces a pod with a waypoint of its own, at these ports of the service.
    fn guarded(&self, name: &str, address: IpAddr, ports: &[(u32, u16)]) {
        let port = |(service_port, target_port): &(u32, u16)| proto::Port {
            service_port: *service_port,
            target_port: u32::from(*target_port),
            ..Default::default()
        };
        self.announce(name, address, false, |pod| {
            pod.waypoint = Some(gateway());
            let ports = proto::PortList { ports: ports.iter().map(port).collect() };
            pod.services.extend((!ports.ports.is_empty()).then(|| (format!("shop/{WEB}"), ports)));
        });
    }

    fn said(&self, authority: SocketAddr, request: Request<()>) -> Passage {
        let wanted = Wanted {
            authority: authority.to_string(),
            source: ([127, 0, 0, 1], 40_000).into(),
            identity: Identity::new("cluster.local", "shop", "client").unwrap(),
            request,
        };
        passage(&self.waypoint, wanted, (Instant::now(), SystemTime::now())).unwrap()
    }
}

#[tokio::test]
async fn requests_to_pods_are_looked_into_and_go_to_whoever_was_dialled() {
    let mut served = Served::start().await;
    let (one, other) = (told("one").await, told("other").await);
    for (name, pod) in [("one", one), ("other", other)] {
        served.guarded(name, pod.ip(), &[]);
    }
    served.before_workloads(no_deletion(), deny(Permission::Any));
    for round in 0..2 {
        for http2 in [false, true] {
            for (name, pod) in [("one", one), ("other", other)] {
                let (response, body) = served.send_to(&pod.to_string(), http2, get("/a", &[])).await;
                assert_eq!(response.status(), StatusCode::OK, "{round}: {body}");
                let version = if http2 { ":version=HTTP/2.0" } else { ":version=HTTP/1.1" };
                assert!(body.starts_with(name) && body.contains(version), "{round}: {body}");
                let (response, body) = served.send_to(&pod.to_string(), http2, delete()).await;
                assert_eq!((response.status(), &*body), (StatusCode::FORBIDDEN, "RBAC: access denied"), "{name}");
                assert_eq!(reason_of(&response), Some(Reason::PolicyDenied));
            }
        }
        // Who is dialled is in no list of endpoints, and what is under way there is kept count of all the same.
        Upstreams::tidy(&served.waypoint);
        assert!(served.waypoint.loads.known(WORKLOADS).is_some());
    }
    let seen = served.waypoint.clusters(None, Instant::now());
    assert_eq!((seen[WORKLOADS].requests.now, seen[WORKLOADS].endpoints.len()), (0, 0));
    let page = served.metrics.render();
    let is_told = |parts: &[&str]| {
        let mut lines = page.lines().filter(|line| line.starts_with("istio_requests_total{"));
        assert!(lines.any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {page}");
    };
    let of_pod = "destination_workload=\"other\"";
    is_told(&[of_pod, "destination_service=\"unknown\"", "response_code=\"200\"", "source_workload=\"client\""]);
    is_told(&[of_pod, "destination_service=\"unknown\"", "response_code=\"403\""]);
}

#[tokio::test]
async fn what_is_no_request_is_decided_by_what_is_known_of_a_connection() {
    let mut served = Served::start().await;
    let (greeter, web) = (named("220 ").await, told("web").await);
    served.guarded("greeter", greeter.ip(), &[]);
    served.guarded("web", web.ip(), &[]);
    served.before_workloads(no_deletion(), Vec::new());
    for first in ["", "\x16\x03ab"] {
        let mut stream = served.dial(&greeter.to_string()).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        let mut heard = vec![0; 4 + first.len()];
        timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(heard).unwrap(), format!("220 {first}"));
    }
    let (response, _) = served.send_to(&web.to_string(), false, get("/", &[])).await;
    assert_eq!(response.status(), StatusCode::OK);

    // Where nobody may connect, a request that may be sent still is.
    served.before_workloads(no_deletion(), deny(Permission::Any));
    for first in ["", "\x16\x03ab"] {
        let mut stream = served.dial(&greeter.to_string()).await;
        stream.write_all(first.as_bytes()).await.unwrap();
        if first.is_empty() {
            stream.shutdown().await.unwrap();
        }
        let ended = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        assert!(ended.is_err(), "nothing is heard of who may not be spoken to: {ended:?}");
    }
    let (response, _) = served.send_to(&web.to_string(), true, get("/", &[])).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_services_say_of_a_pods_port_counts() {
    let mut served = Served::start().await;
    let pod = told("web").await;
    // The service's port 82 is declared TCP, 80 is HTTP.
    for (service_port, status) in [(82, StatusCode::FORBIDDEN), (80, StatusCode::OK), (81, StatusCode::OK)] {
        served.guarded("web", pod.ip(), &[(service_port, pod.port())]);
        served.before_workloads(Vec::new(), deny(Permission::Any));
        let handling = served.said(pod, get("/", &[]).map(drop)).handling;
        if status == StatusCode::OK {
            let (response, _) = served.send_to(&pod.to_string(), false, get("/", &[])).await;
            assert_eq!(response.status(), StatusCode::OK, "{service_port}");
            let expected = if service_port == 80 { Handling::Requests } else { Handling::RequestsIfSpoken };
            assert_eq!(handling, Some(expected), "{service_port}");
        } else {
            let refused = served.open(&pod.to_string()).await.err().map(|error| error.reason());
            assert_eq!((refused, handling), (Some(Reason::PolicyDenied), Some(Handling::Bytes)), "{service_port}");
        }
    }
}

#[tokio::test]
async fn what_is_said_of_a_pod_is_true() {
    let mut served = Served::start().await;
    let pod = told("web").await;
    served.guarded("web", pod.ip(), &[]);
    served.before_workloads(no_deletion(), deny(Permission::Any));
    let said = served.said(pod, get("/", &[]).map(drop));
    assert_eq!((said.handling, said.listener.as_deref()), (Some(Handling::RequestsIfSpoken), Some(WORKLOADS)));
    let Some(Action::Forward(forward)) = &said.action else { panic!("{said:?}") };
    assert_eq!((&*forward.backends[0].cluster, forward.backends[0].endpoints), (WORKLOADS, Some(1)));
    let onward = said.onward.as_ref().and_then(|onward| onward.workload.as_ref());
    assert_eq!(onward.map(|workload| &*workload.name), Some("web"), "{said:?}");
    let said = served.said(pod, delete().map(drop));
    assert_eq!((said.status, said.refused.map(|it| it.reason)), (Some(403), Some(Reason::PolicyDenied.label().into())));
}

/// Its address is another pod's by now, or another waypoint stands before it, or none.
#[tokio::test]
async fn what_is_not_before_this_waypoint_any_more_gets_no_more_requests() {
    let elsewhere = |pod: &mut proto::Workload| {
        let mut other = gateway();
        let hostname = "other.shop.svc.cluster.local".to_owned();
        let named = proto::NamespacedHostname { namespace: "shop".into(), hostname };
        other.destination = Some(proto::gateway_address::Destination::Hostname(named));
        pod.waypoint = Some(other);
    };
    for change in ["another pod", "another waypoint", "none"] {
        let mut served = Served::start().await;
        let pod = told("web").await;
        served.guarded("web", pod.ip(), &[]);
        served.before_workloads(Vec::new(), Vec::new());
        let io = TokioIo::new(served.dial(&pod.to_string()).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        for (is_changed, status) in [(false, StatusCode::OK), (true, StatusCode::SERVICE_UNAVAILABLE)] {
            match change {
                _ if !is_changed => {}
                "another pod" => {
                    served.waypoint.live.apply(vec![Update::RemoveAddress("Kubernetes//Pod/shop/web".into())]);
                    served.guarded("newcomer", pod.ip(), &[]);
                }
                "another waypoint" => served.announce("web", pod.ip(), false, elsewhere),
                _ => served.announce("web", pod.ip(), false, |_| {}),
            }
            sender.ready().await.unwrap();
            let answer = timeout(PATIENCE, sender.send_request(get("/", &[]))).await.unwrap().unwrap();
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(parts.status, status, "{change}: {body:?}");
            let reason = reason_of(&http::Response::from_parts(parts, ()));
            assert_eq!(reason, is_changed.then_some(Reason::WorkloadRemoved), "{change}");
        }
    }
}
