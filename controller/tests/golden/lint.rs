//! Walks every generated resource: only what Envoy, gRPC's own clients and our waypoint all take (api-surface D5).

use std::collections::BTreeSet;

use fairway_controller::l7::render::INVALID_BACKEND;
use fairway_controller::world::{Resource, ResourceType};
use fairway_proto::envoy::cluster::Cluster;
use fairway_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbPolicy};
use fairway_proto::envoy::core::HeaderValueOption;
use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{ConfigSource, address, config_source::ConfigSourceSpecifier};
use fairway_proto::envoy::endpoint::ClusterLoadAssignment;
use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use fairway_proto::envoy::http_connection_manager::HttpConnectionManager;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::jwt_authn::JwtAuthentication;
use fairway_proto::envoy::listener::filter::ConfigType as FilterConfig;
use fairway_proto::envoy::listener::{Filter, FilterChain, Listener};
use fairway_proto::envoy::rbac::{Rbac, rbac};
use fairway_proto::envoy::route::route::Action;
use fairway_proto::envoy::route::route_action::ClusterSpecifier;
use fairway_proto::envoy::route::route_match::PathSpecifier;
use fairway_proto::envoy::route::{RetryPolicy, Route, RouteAction, RouteConfiguration};
use fairway_proto::envoy::{http_rbac, network_rbac};
use prost::Message;
use prost_types::Any;

/// Panics at what one of the three would not take.
pub(crate) fn check(kind: ResourceType, resource: &Resource, is_grpc: bool) {
    let (name, body) = (resource.name.as_ref(), resource.body.as_slice());
    match kind {
        ResourceType::Listener => listener(name, &Listener::decode(body).unwrap(), is_grpc),
        ResourceType::RouteConfiguration => routes(name, &RouteConfiguration::decode(body).unwrap(), is_grpc),
        ResourceType::Cluster => cluster(name, &Cluster::decode(body).unwrap(), is_grpc),
        ResourceType::ClusterLoadAssignment => endpoints(name, &ClusterLoadAssignment::decode(body).unwrap()),
        ResourceType::Address | ResourceType::Authorization => panic!("{kind:?} is no resource of Envoy's"),
    }
}

fn type_name(any: &Any) -> &str {
    any.type_url.strip_prefix("type.googleapis.com/").unwrap()
}

fn is_ads(source: Option<&ConfigSource>) -> bool {
    matches!(source.unwrap().config_source_specifier, Some(ConfigSourceSpecifier::Ads(_)))
}

fn listener(name: &str, listener: &Listener, is_grpc: bool) {
    assert_eq!(listener.name, name);
    let Some(dialled) = &listener.api_listener else { return standing(name, listener) };
    assert!(listener.filter_chains.is_empty() && listener.address.is_none() && listener.bind_to_port.is_none());
    let known = if is_grpc { vec![FAULT, ROUTER] } else { vec![CORS, FAULT, SESSION, ROUTER] };
    let filters = manager(name, dialled.api_listener.as_ref().unwrap());
    assert!(filters.iter().all(|filter| known.contains(&filter.as_str())), "{name}: {filters:?}");
}

/// What stands before a service at its waypoint.
fn standing(name: &str, listener: &Listener) {
    assert_eq!(listener.bind_to_port, Some(false), "{name}: it must not take what is not its own");
    assert!(listener.address.is_some());
    let names = |chain: &FilterChain| chain.filter_chain_match.as_ref().map(|it| it.server_names.clone());
    let all: Vec<_> = listener.filter_chains.iter().flat_map(|chain| names(chain).unwrap_or_default()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{name}: a name twice");
    let tells = |what: &str| listener.listener_filters.iter().any(|filter| filter.name == what);
    assert!(listener.listener_filters.len() <= 1);
    if tells("envoy.filters.listener.http_inspector") {
        return by_protocol(name, listener);
    }
    let asks = |chain: &FilterChain| chain.filters.iter().any(asks_for_names);
    let has_names = !all.is_empty() || listener.filter_chains.iter().any(asks);
    assert_eq!(has_names, tells("envoy.filters.listener.tls_inspector"), "{name}: who tells names apart?");
    let (last, named) = listener.filter_chains.split_last().unwrap();
    assert!(named.iter().all(|chain| names(chain).is_some_and(|names| !names.is_empty())), "{name}: two for all");
    named.iter().chain([last]).for_each(|chain| check_chain(name, chain));
}

/// Whether it is about names that TLS clients ask for.
fn asks_for_names(filter: &Filter) -> bool {
    let Some(FilterConfig::TypedConfig(config)) = &filter.config_type else { return false };
    let is_rules = type_name(config) == "envoy.extensions.filters.network.rbac.v3.RBAC";
    is_rules && {
        let rbac = network_rbac::Rbac::decode(config.value.as_slice()).unwrap();
        format!("{rbac:?}").contains("RequestedServerName(")
    }
}

/// What stands before workloads: requests, and all else.
fn by_protocol(name: &str, listener: &Listener) {
    let [requests, others] = listener.filter_chains.as_slice() else { panic!("{name}: requests, and all else") };
    let spoken = &requests.filter_chain_match.as_ref().unwrap().application_protocols;
    assert_eq!(*spoken, ["http/1.0", "http/1.1", "h2c"], "{name}: HTTP is not passed on as it is");
    assert_eq!(others.filter_chain_match, None);
    let goes_on = listener.listener_filters_timeout.is_some() && listener.continue_on_listener_filters_timeout;
    assert!(goes_on, "{name}: a server that speaks first is waited for");
    let ends_with = |chain: &FilterChain, filter: &str| chain.filters.last().is_some_and(|last| last.name == filter);
    assert!(ends_with(requests, "envoy.filters.network.http_connection_manager"), "{name}");
    assert!(ends_with(others, "envoy.filters.network.tcp_proxy"), "{name}");
    [requests, others].into_iter().for_each(|chain| check_chain(name, chain));
}

fn check_chain(name: &str, chain: &FilterChain) {
    let names: BTreeSet<&str> = chain.filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(names.len(), chain.filters.len());
    let configs: Vec<&Any> = chain
        .filters
        .iter()
        .map(|filter| {
            let Some(FilterConfig::TypedConfig(config)) = &filter.config_type else { panic!("{name}: no config") };
            config
        })
        .collect();
    let (last, others) = configs.split_last().unwrap();
    if type_name(last) == MANAGER {
        assert!(others.is_empty());
        manager(name, last);
        return;
    }
    assert_eq!(type_name(last), "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy");
    for config in others {
        assert_eq!(type_name(config), "envoy.extensions.filters.network.rbac.v3.RBAC");
        let rbac = network_rbac::Rbac::decode(config.value.as_slice()).unwrap();
        assert!(!rbac.stat_prefix.is_empty());
        check_rules(name, rbac.rules.as_ref().or(rbac.shadow_rules.as_ref()).unwrap(), false);
        assert!(rbac.rules.is_none() || rbac.shadow_rules.is_none(), "{name}: enforced and tried out");
    }
}

const CORS: &str = "envoy.filters.http.cors";
const FAULT: &str = "envoy.filters.http.fault";
const EXT_PROC: &str = "envoy.filters.http.ext_proc";
const SESSION: &str = "envoy.filters.http.stateful_session";
const ROUTER: &str = "envoy.filters.http.router";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Checks the filters and names them.
fn manager(name: &str, any: &Any) -> Vec<String> {
    assert_eq!(type_name(any), MANAGER);
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier else { panic!("{name}: no routes") };
    assert!(is_ads(rds.config_source.as_ref()) && rds.route_config_name == name);
    // Filters have unique names and end with the router; none is optional (A39).
    let names: BTreeSet<&str> = manager.http_filters.iter().map(|filter| filter.name.as_str()).collect();
    assert_eq!(names.len(), manager.http_filters.len());
    assert!(manager.http_filters.iter().all(|filter| !filter.is_optional));
    assert_eq!(manager.http_filters.last().unwrap().name, "envoy.filters.http.router");
    // Otherwise Envoy takes the address that a client says is its own.
    let asks_for_remote = manager.use_remote_address == Some(true);
    assert!(asks_for_remote || manager.xff_num_trusted_hops == 0, "{name}");
    for filter in &manager.http_filters {
        let Some(ConfigType::TypedConfig(config)) = &filter.config_type else { panic!("{name}: no config") };
        match type_name(config) {
            "envoy.extensions.filters.http.rbac.v3.RBAC" => {
                let rbac = http_rbac::Rbac::decode(config.value.as_slice()).unwrap();
                check_rules(name, rbac.rules.as_ref().or(rbac.shadow_rules.as_ref()).unwrap(), true);
                assert!(
                    asks_for_remote || !format!("{rbac:?}").contains("Some(RemoteIp("),
                    "{name}: anybody is believed"
                );
                assert!(rbac.rules.is_none() || rbac.shadow_rules.is_none(), "{name}: enforced and asked about");
            }
            "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
                check_tokens(name, &JwtAuthentication::decode(config.value.as_slice()).unwrap());
            }
            _ => {}
        }
    }
    manager.http_filters.into_iter().map(|filter| filter.name).collect()
}

/// Nobody fetches keys itself, and what is not required is allowed to be missing.
fn check_tokens(name: &str, tokens: &JwtAuthentication) {
    assert!(!tokens.providers.is_empty() && tokens.rules.len() == 1 && !tokens.bypass_cors_preflight, "{name}");
    for provider in tokens.providers.values() {
        assert!(provider.jwks_source_specifier.is_some() && provider.payload_in_metadata == "payload", "{name}");
    }
}

fn check_rules(name: &str, rules: &Rbac, sees_requests: bool) {
    assert!(rules.action == rbac::Action::Allow as i32 || !rules.policies.is_empty(), "{name}: idle");
    for policy in rules.policies.values() {
        assert!(!policy.permissions.is_empty() && !policy.principals.is_empty(), "{name}");
        let text = format!("{policy:?}");
        let of_requests = ["Header(", "UrlPath(", "Metadata(", "Some(RemoteIp("].iter().any(|part| text.contains(part));
        assert!(sees_requests || !of_requests, "{name}: nobody sees {text}");
    }
}

fn cluster(name: &str, cluster: &Cluster, is_grpc: bool) {
    assert_eq!(cluster.name, name);
    let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type else { panic!("{name}: no type") };
    let kind = DiscoveryType::try_from(kind).unwrap();
    assert!(!is_grpc || kind == DiscoveryType::Eds, "{name}: gRPC takes no other type");
    assert!(!is_grpc || cluster.transport_socket.is_none(), "{name}: gRPC knows no files");
    assert!(cluster.connect_timeout.is_some() && cluster.circuit_breakers.is_some());
    if kind == DiscoveryType::OriginalDst {
        // Envoy takes it with no other policy, and there is nobody else to choose.
        assert_eq!(cluster.lb_policy(), LbPolicy::ClusterProvided, "{name}");
        assert!(cluster.load_assignment.is_none() && cluster.eds_cluster_config.is_none(), "{name}");
        assert!(cluster.load_balancing_policy.is_none() && cluster.outlier_detection.is_none(), "{name}");
        return;
    }
    assert_eq!(cluster.lb_policy, 0, "{name}: load_balancing_policy says it");
    match &cluster.load_assignment {
        None => {
            assert_eq!(kind, DiscoveryType::Eds, "{name}");
            let config = cluster.eds_cluster_config.as_ref().unwrap();
            assert!(is_ads(config.eds_config.as_ref()) && config.service_name == name);
        }
        Some(all) => {
            assert_eq!(all.cluster_name, name);
            assert!(cluster.respect_dns_ttl && cluster.eds_cluster_config.is_none(), "{name}");
            assert_eq!(cluster.dns_lookup_family(), DnsLookupFamily::V4Preferred, "{name}");
            let count = all.endpoints.iter().map(|place| place.lb_endpoints.len()).sum::<usize>();
            assert!(kind == DiscoveryType::StrictDns || (kind == DiscoveryType::LogicalDns && count == 1), "{name}");
        }
    }
    let policies = &cluster.load_balancing_policy.as_ref().unwrap().policies;
    let last = policies.last().unwrap().typed_extension_config.as_ref().unwrap().typed_config.as_ref().unwrap();
    assert_eq!(type_name(last), "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin");
    if let Some(outliers) = &cluster.outlier_detection {
        // Without a word, proxies compare.
        let is_asked = outliers.success_rate_stdev_factor.is_some();
        assert_eq!(outliers.enforcing_success_rate, Some(if is_asked { 100 } else { 0 }), "{name}");
        assert!(cluster.common_lb_config.is_some());
    }
}

fn endpoints(name: &str, assignment: &ClusterLoadAssignment) {
    assert_eq!(assignment.cluster_name, name);
    let priorities: BTreeSet<u32> = assignment.endpoints.iter().map(|locality| locality.priority).collect();
    assert!(priorities.iter().copied().eq(0..u32::try_from(priorities.len()).unwrap()), "{name}: {priorities:?}");
    let (mut places, mut addresses, mut weight) = (BTreeSet::new(), BTreeSet::new(), 0_u32);
    for locality in &assignment.endpoints {
        let place = locality.locality.clone().unwrap();
        assert!(places.insert((locality.priority, place.region, place.zone, place.sub_zone)), "{name}: a place twice");
        assert!(locality.load_balancing_weight.unwrap() > 0 && !locality.lb_endpoints.is_empty());
        weight = weight.checked_add(locality.load_balancing_weight.unwrap()).unwrap();
        for endpoint in &locality.lb_endpoints {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!("{name}") };
            let Some(address::Address::SocketAddress(socket)) = &endpoint.address.as_ref().unwrap().address else {
                panic!("{name}")
            };
            assert!(socket.address.parse::<std::net::IpAddr>().is_ok(), "{name}: {}", socket.address);
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("{name}") };
            assert!((1..=65535).contains(&port));
            assert!(addresses.insert((socket.address.clone(), port)), "{name}: {} twice", socket.address);
        }
    }
}

fn routes(name: &str, configuration: &RouteConfiguration, is_grpc: bool) {
    assert_eq!(configuration.name, name);
    let [host] = configuration.virtual_hosts.as_slice() else { panic!("{name}: one virtual host") };
    assert_eq!(host.domains, ["*"]);
    for route in &host.routes {
        check_route(name, route, is_grpc);
    }
}

fn check_route(name: &str, route: &Route, is_grpc: bool) {
    for (filter, settings) in &route.typed_per_filter_config {
        let expected = match filter.as_str() {
            // gRPC refuses routes with settings for filters that it does not know (A39).
            CORS if !is_grpc => "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            SESSION if !is_grpc => "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
            FAULT => "envoy.extensions.filters.http.fault.v3.HTTPFault",
            EXT_PROC if !is_grpc => "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
            other => panic!("{name}: {other}"),
        };
        assert_eq!(type_name(settings), expected);
    }
    let matching = route.r#match.as_ref().unwrap();
    match matching.path_specifier.as_ref().unwrap() {
        PathSpecifier::Path(path) | PathSpecifier::Prefix(path) => assert!(path.starts_with('/'), "{name}: {path}"),
        PathSpecifier::SafeRegex(regex) => assert!(!regex.regex.is_empty()),
        PathSpecifier::ConnectMatcher(_) => check_connect(name, route, is_grpc),
    }
    let matched = matching.headers.iter().map(|header| (&header.name, header.header_match_specifier.is_some()));
    for (header, has_specifier) in matched {
        assert!(has_specifier && *header == header.to_lowercase(), "{name}: {header}");
        let is_known = [":method", ":authority", ":scheme"].contains(&header.as_str());
        assert!(!header.starts_with(':') || is_known, "{name}: {header}");
    }
    check_headers(name, &route.request_headers_to_add, &route.request_headers_to_remove);
    check_headers(name, &route.response_headers_to_add, &route.response_headers_to_remove);
    match route.action.as_ref().unwrap() {
        Action::Route(action) => check_action(name, action),
        Action::Redirect(redirect) => assert!(!redirect.host_redirect.contains(['\r', '\n'])),
        Action::DirectResponse(response) => assert!((200..600).contains(&response.status)),
    }
}

/// A tunnel leads where its client says, and to nobody else; no call is one.
fn check_connect(name: &str, route: &Route, is_grpc: bool) {
    assert!(!is_grpc, "{name}: gRPC refuses what it does not know");
    if let Some(Action::Route(action)) = &route.action {
        let has_rewrite = action.regex_rewrite.is_some() || action.host_rewrite_specifier.is_some();
        assert!(action.prefix_rewrite.is_empty() && !has_rewrite, "{name}: {action:?}");
        assert!(action.request_mirror_policies.is_empty(), "{name}: {action:?}");
    }
}

fn check_action(name: &str, action: &RouteAction) {
    match action.cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::Cluster(cluster) => assert!(!cluster.is_empty()),
        ClusterSpecifier::WeightedClusters(clusters) => {
            let total: u64 = clusters.clusters.iter().map(|cluster| u64::from(cluster.weight.unwrap())).sum();
            assert!((1..=u64::from(u32::MAX)).contains(&total), "{name}: {total}");
            for cluster in &clusters.clusters {
                assert!(cluster.weight != Some(0) && !cluster.name.is_empty());
                check_headers(name, &cluster.request_headers_to_add, &cluster.request_headers_to_remove);
                check_headers(name, &cluster.response_headers_to_add, &cluster.response_headers_to_remove);
                let is_refused = action.cluster_not_found_response_code == 2;
                assert!(cluster.name != INVALID_BACKEND || is_refused, "{name}: what is invalid is answered with 500");
            }
        }
    }
    // Said twice or not at all: gRPC reads the one, Envoy the other, whose default is 15 s.
    let timeout = action.timeout.unwrap();
    let stream = action.max_stream_duration.as_ref().map(|duration| duration.max_stream_duration.unwrap());
    assert_eq!(stream.unwrap_or_default(), timeout, "{name}");
    assert!(action.prefix_rewrite.is_empty() || action.regex_rewrite.is_none());
    if let Some(policy) = &action.retry_policy {
        check_retry(name, policy);
    }
}

fn check_retry(name: &str, policy: &RetryPolicy) {
    assert!(!policy.retry_on.is_empty() && policy.num_retries.is_some_and(|retries| retries > 0), "{name}");
    if let Some(backoff) = &policy.retry_back_off {
        let nanos = |duration: Option<prost_types::Duration>| {
            let duration = duration.unwrap();
            i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
        };
        assert!(nanos(backoff.base_interval) > 0 && nanos(backoff.max_interval) >= nanos(backoff.base_interval));
    }
}

fn check_headers(name: &str, added: &[HeaderValueOption], removed: &[String]) {
    for option in added {
        let header = option.header.as_ref().unwrap();
        assert!(!header.key.starts_with(':') && header.key != "host", "{name}: {}", header.key);
        // In a format, every percent sign that stands for itself is written twice.
        assert!(!header.value.replace("%%", "").contains('%'), "{name}: {}", header.value);
    }
    assert!(removed.iter().all(|header| !header.starts_with(':') && header != "host"));
}
