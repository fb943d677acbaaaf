//! Tests of the session: one thing leads to the next, and what is not understood leaves what there was.

use std::collections::BTreeSet;
use std::time::Duration;

use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::core::{AggregatedConfigSource, ConfigSource, GrpcService};
use fairway_proto::envoy::ext_proc::ExternalProcessor;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use fairway_proto::envoy::mutation_rules::HeaderMutationRules;
use fairway_proto::envoy::route::route::Action;
use fairway_proto::envoy::route::route_action::ClusterSpecifier;
use fairway_proto::envoy::route::route_match::PathSpecifier;
use fairway_proto::envoy::route::{Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost};
use fairway_proto::envoy::{cluster, endpoint, listener};
use prost::Message;
use prost_types::Any;

use super::*;

mod warm;

const WEB: &str = "web.shop:80";
const BOUNDS: Bounds = Bounds { most: Duration::from_secs(15), policy: Duration::from_millis(250) };

fn session() -> Session {
    Session::new(Node::default(), Held::default(), BOUNDS)
}

impl Session {
    /// What comes before any bound has passed.
    fn heard(&mut self, response: DeltaDiscoveryResponse) -> Received {
        self.receive(response, Instant::now())
    }
}

fn any(kind: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{kind}"), value: message.encode_to_vec() }
}

fn ads() -> Option<ConfigSource> {
    let specifier = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    Some(ConfigSource { config_source_specifier: Some(specifier), ..Default::default() })
}

fn listener_message(name: &str) -> listener::Listener {
    listener_with(name, Vec::new())
}

/// With these filters before the router.
fn listener_with(name: &str, mut http_filters: Vec<HttpFilter>) -> listener::Listener {
    let router = "envoy.extensions.filters.http.router.v3.Router";
    let filter = HttpFilter {
        name: "router".into(),
        config_type: Some(ConfigType::TypedConfig(any(router, &fairway_proto::envoy::router::Router {}))),
        ..Default::default()
    };
    http_filters.push(filter);
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: name.into() })),
        http_filters,
        ..Default::default()
    };
    let kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let api_listener = Some(listener::ApiListener { api_listener: Some(any(kind, &manager)) });
    listener::Listener { name: name.into(), api_listener, ..Default::default() }
}

/// A filter that has somebody look at requests.
fn seen_by(cluster: &str) -> HttpFilter {
    let target = EnvoyGrpc { cluster_name: cluster.into() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None };
    let rules = HeaderMutationRules { disallow_system: Some(true), disallow_expression: None };
    let (grpc_service, mutation_rules) = (Some(service), Some(rules));
    let processor = ExternalProcessor { grpc_service, mutation_rules, ..ExternalProcessor::default() };
    let kind = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
    let config_type = Some(ConfigType::TypedConfig(any(kind, &processor)));
    HttpFilter { name: "ext_proc".into(), config_type, ..Default::default() }
}

fn routes(name: &str, cluster: &str) -> RouteConfiguration {
    let action =
        RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())), ..Default::default() };
    let matching = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let route = Route { r#match: Some(matching), action: Some(Action::Route(action)), ..Default::default() };
    let host = VirtualHost { name: name.into(), domains: vec!["*".into()], routes: vec![route], ..Default::default() };
    RouteConfiguration { name: name.into(), virtual_hosts: vec![host] }
}

fn eds(name: &str) -> cluster::Cluster {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    cluster::Cluster { name: name.into(), cluster_discovery_type: kind, ..Default::default() }
}

fn response(kind: Kind, name: &str, value: Vec<u8>) -> DeltaDiscoveryResponse {
    let any = Any { type_url: kind.url().into(), value };
    let resource = Resource { name: name.into(), version: "1".into(), resource: Some(any), ..Default::default() };
    DeltaDiscoveryResponse {
        type_url: kind.url().into(),
        nonce: "n".into(),
        resources: vec![resource],
        ..Default::default()
    }
}

fn removal(kind: Kind, name: &str) -> DeltaDiscoveryResponse {
    let removed_resources = vec![name.into()];
    DeltaDiscoveryResponse { type_url: kind.url().into(), nonce: "n".into(), removed_resources, ..Default::default() }
}

fn asked(requests: &[DeltaDiscoveryRequest]) -> Vec<(&str, Vec<&str>, Vec<&str>)> {
    requests
        .iter()
        .filter(|request| request.response_nonce.is_empty())
        .map(|request| {
            let kind = request.type_url.rsplit('.').next().unwrap();
            let subscribe = request.resource_names_subscribe.iter().map(String::as_str).collect();
            (kind, subscribe, request.resource_names_unsubscribe.iter().map(String::as_str).collect())
        })
        .collect()
}

#[test]
fn listeners_lead_to_routes_to_clusters_to_endpoints_and_back() {
    let mut session = session();
    assert!(session.connected(Instant::now()).is_empty(), "a request for nothing would be one for everything");
    let requests = session.want(vec![WEB.into()], Instant::now());
    assert_eq!(asked(&requests), [("Listener", vec![WEB], vec![])]);
    let received = session.heard(response(Kind::Listener, WEB, listener_message(WEB).encode_to_vec()));
    // What is no HTTP has no routes, and goes to the cluster of the same name.
    assert_eq!(asked(&received.requests), [("RouteConfiguration", vec![WEB], vec![]), ("Cluster", vec![WEB], vec![])]);
    session.heard(removal(Kind::Cluster, WEB));
    assert!(!session.is_answered());
    let received = session.heard(response(Kind::Routes, WEB, routes(WEB, "canary").encode_to_vec()));
    assert_eq!(asked(&received.requests), [("Cluster", vec!["canary"], vec![])]);
    let received = session.heard(response(Kind::Cluster, "canary", eds("canary").encode_to_vec()));
    assert_eq!(asked(&received.requests), [("ClusterLoadAssignment", vec!["canary"], vec![])]);
    let nobody = endpoint::ClusterLoadAssignment { cluster_name: "canary".into(), ..Default::default() };
    session.heard(response(Kind::Endpoints, "canary", nobody.encode_to_vec()));
    assert!(session.is_answered());

    // Another stream: what is held is said, and asked for again.
    let again = session.connected(Instant::now());
    assert_eq!(again.len(), 4);
    assert!(again.iter().all(|request| request.initial_resource_versions.values().eq(["1"])));

    // What nothing leads to any more is let go, once something else is in its place.
    let received = session.heard(response(Kind::Routes, WEB, routes(WEB, "stable").encode_to_vec()));
    assert_eq!(asked(&received.requests), [("Cluster", vec!["stable"], vec![])]);
    let received = session.heard(removal(Kind::Cluster, "stable"));
    assert_eq!(
        asked(&received.requests),
        [("Cluster", vec![], vec!["canary"]), ("ClusterLoadAssignment", vec![], vec!["canary"])]
    );
    assert!(session.config().clusters.is_empty() && session.config().endpoints.is_empty());
    session.want(vec![], Instant::now());
    assert_eq!(session.config().listeners.len() + session.config().routes.len(), 0);
}

#[test]
fn who_sees_requests_is_asked_for_like_what_routes_lead_to() {
    let mut session = session();
    session.want(vec![WEB.into()], Instant::now());
    let received = session.heard(response(
        Kind::Listener,
        WEB,
        listener_with(WEB, vec![seen_by("scanner.shop:9000")]).encode_to_vec(),
    ));
    let asked = asked(&received.requests);
    assert!(asked.contains(&("Cluster", vec!["scanner.shop:9000", WEB], vec![])), "{asked:?}");
}

#[test]
fn what_is_not_understood_is_named_and_the_last_good_one_stays() {
    let kept = Held::default();
    let mut session = Session::new(Node::default(), kept.clone(), BOUNDS);
    session.want(vec![WEB.into()], Instant::now());
    session.heard(response(Kind::Listener, WEB, listener_message(WEB).encode_to_vec()));
    session.heard(response(Kind::Routes, WEB, routes(WEB, "stable").encode_to_vec()));
    session.heard(removal(Kind::Cluster, "stable"));
    // Field 4 of a route: metadata, which filters of Envoy's read.
    let mut broken = routes(WEB, "canary");
    let mut route = broken.virtual_hosts[0].routes[0].encode_to_vec();
    route.extend([4 << 3 | 2, 0]);
    broken.virtual_hosts[0].routes.clear();
    let mut host = broken.virtual_hosts[0].encode_to_vec();
    host.extend([3 << 3 | 2, u8::try_from(route.len()).unwrap()]);
    host.extend(route);
    let mut bytes = vec![2 << 3 | 2, u8::try_from(host.len()).unwrap()];
    bytes.extend(host);
    let received = session.heard(response(Kind::Routes, WEB, bytes));
    let expected = "virtual_hosts[0].routes[0].field 4: is not supported in envoy.config.route.v3.Route";
    assert_eq!(received.rejections, [(WEB.to_owned(), expected.to_owned())]);
    let nack = received.requests[0].error_detail.as_ref().unwrap();
    assert_eq!((nack.code, nack.message.as_str()), (INVALID, &*format!("{WEB}: {expected}")));
    let held: BTreeSet<&str> = session.config().routes[WEB].clusters().collect();
    assert_eq!(held, BTreeSet::from(["stable"]));
    assert_eq!(session.config().faults[WEB], expected);
    let shown = kept.behind(Kind::Routes, None, 1).remove(0);
    assert_eq!(
        (shown.bad.map(|bad| bad.details), shown.good.map(|(version, ..)| version)),
        (Some(expected.to_owned()), Some("1".into()))
    );
    session.heard(response(Kind::Routes, WEB, routes(WEB, "canary").encode_to_vec()));
    assert!(session.config().faults.is_empty());
}

#[test]
fn a_listener_that_does_not_exist_is_known_not_to() {
    let mut session = session();
    session.want(vec![WEB.into()], Instant::now());
    session.heard(removal(Kind::Listener, WEB));
    assert!(session.is_answered() && session.config().absent.contains(WEB));
    session.heard(response(Kind::Listener, WEB, listener_message(WEB).encode_to_vec()));
    session.heard(removal(Kind::Routes, WEB));
    assert!(session.config().absent.is_empty() && session.config().listeners.contains_key(WEB));
    session.heard(removal(Kind::Listener, WEB));
    assert!(session.config().listeners.is_empty());
}
