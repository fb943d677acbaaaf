//! What clients dial, and what stands before services at their waypoints.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairway_core::upgrade::Upgrades;
use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{Address, SocketAddress, address};
use fairway_proto::envoy::http_connection_manager::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
};
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use fairway_proto::envoy::http_inspector::HttpInspector;
use fairway_proto::envoy::listener::filter::ConfigType as FilterConfig;
use fairway_proto::envoy::listener::listener_filter::ConfigType as ListenerFilterConfig;
use fairway_proto::envoy::listener::{
    AdditionalAddress, ApiListener, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
};
use fairway_proto::envoy::router::Router;
use fairway_proto::envoy::tcp_proxy::TcpProxy;
use fairway_proto::envoy::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use fairway_proto::envoy::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};
use fairway_proto::envoy::tls_inspector::TlsInspector;
use fairway_proto::envoy::{http_rbac, network_rbac};
use prost_types::Any;

use super::super::Client;
use super::super::authorizers::Authorizers;
use super::super::authz::{Layer, Policy};
use super::super::model::{Entry, Stream, Target};
use super::super::providers::Limiter;
use super::super::proxies::Proxies;
use super::super::rates;
use super::super::telemetry::{Counted, Logged, Traced};
use super::super::tokens::{self, KeySets};
use super::super::waypoints::Sees;
use super::rbac::Silent;
use super::{
    INVALID_BACKEND, ads, any, authorizers, duration, logs, metrics, per_route, processors, proxies,
    rates as render_rates, rbac, tracing,
};

/// What is not for a service: the listener, its routes, and the cluster of whoever is dialled.
pub const WORKLOADS: &str = "workloads";

/// How long a client that says nothing is taken for one that may still speak HTTP. Then its server may begin; Envoy's own 15 s would
/// end with the connection closed.
const SERVER_FIRST: Duration = Duration::from_millis(100);

/// What Envoy's inspector calls HTTP.
const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const JWT_AUTHENTICATION: &str = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const HTTP_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const HTTP_INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
const TLS_INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// What is done to requests before they are routed.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// Who may send which.
    pub policies: &'a [&'a Policy],
    /// Who is believed about where they come from.
    pub proxies: &'a Proxies,
    /// Who may be asked by them.
    pub authorizers: &'a Authorizers,
    /// Whose tokens are believed.
    pub tokens: &'a [&'a tokens::Policy],
    /// The keys that had to be fetched for that.
    pub keys: &'a KeySets,
    /// How many pass, of those of any route.
    pub rates: &'a [&'a rates::Policy],
    /// Who counts them for several proxies.
    pub limiter: Option<&'a Limiter>,
    /// Who sees them.
    pub sees: Option<&'a Sees<'a>>,
    /// What is done with traces.
    pub traced: Option<&'a Traced>,
    /// Who is told of requests that have ended; nothing is the waypoint's own log.
    pub logged: Option<&'a Logged>,
    /// What is counted otherwise than usual.
    pub counted: Option<&'a Counted>,
    /// What they may go on as; what that carries is not looked into.
    pub upgrades: &'a Upgrades,
}

/// Who hears of connections that are not looked into, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard<'a> {
    /// Who is told of those that have ended; nothing is the waypoint's own log.
    pub logged: Option<&'a Logged>,
    /// What is counted otherwise than usual.
    pub counted: Option<&'a Counted>,
}

/// What a client dials: the routes of the same name, of which these are all.
pub fn dialled<'a>(name: &str, routes: impl Iterator<Item = &'a Entry>, client: &Client) -> Listener {
    let filters = per_route::filters(routes, None, client.is_grpc);
    let api_listener = ApiListener { api_listener: Some(any(MANAGER, &manager(name, filters))) };
    Listener { name: name.to_owned(), api_listener: Some(api_listener), ..Listener::default() }
}

/// What stands before a port that speaks HTTP: tokens, policies, and then the routes of the same name, of which these are all.
pub fn http<'a>(
    name: &str,
    addresses: &[IpAddr],
    port: u16,
    before: Before<'_>,
    routes: impl Iterator<Item = &'a Entry>,
) -> Option<Listener> {
    let mut listener = standing(name, addresses, port, vec![requests(name, before, routes)], before.counted)?;
    proxies::say(&mut listener, before.proxies);
    Some(listener)
}

/// What stands before workloads, whichever is dialled at whichever port: clients that speak HTTP are looked into.
#[must_use]
pub fn workloads(before: Before<'_>, heard: Heard<'_>) -> Option<Listener> {
    let filter_chain_match =
        FilterChainMatch { application_protocols: HTTP.map(str::to_owned).to_vec(), ..FilterChainMatch::default() };
    let requests =
        FilterChain { filter_chain_match: Some(filter_chain_match), ..requests(WORKLOADS, before, std::iter::empty()) };
    let to_dialled = ClusterSpecifier::Cluster(WORKLOADS.to_owned());
    let others = connections((WORKLOADS, &[]), (before.policies, Layer::Connection), to_dialled, None, heard);
    let anywhere = [Ipv4Addr::UNSPECIFIED.into()];
    let mut listener = standing(WORKLOADS, &anywhere, 0, vec![requests, others], before.counted)?;
    let inspector = any(HTTP_INSPECTOR, &HttpInspector {});
    listener.listener_filters.push(inspecting("envoy.filters.listener.http_inspector", inspector));
    listener.listener_filters_timeout = Some(duration(SERVER_FIRST));
    listener.continue_on_listener_filters_timeout = true;
    proxies::say(&mut listener, before.proxies);
    Some(listener)
}

/// What is done with requests.
fn requests<'a>(name: &str, before: Before<'_>, routes: impl Iterator<Item = &'a Entry>) -> FilterChain {
    let tokens = super::tokens::filter(before.tokens, before.keys);
    let tokens = tokens.map(|filter| http_filter("envoy.filters.http.jwt_authn", any(JWT_AUTHENTICATION, &filter)));
    let asked = authorizers::filters(before.policies, before.authorizers);
    let silent = rbac::silent(before.policies, Layer::Request).into_iter().map(|(kind, silent)| {
        let config = match silent {
            Silent::Audit(rules) => http_rbac::Rbac { rules: Some(rules), ..http_rbac::Rbac::default() },
            Silent::Tried(prefix, rules) => http_rbac::Rbac {
                shadow_rules: Some(rules),
                shadow_rules_stat_prefix: prefix.to_owned(),
                ..http_rbac::Rbac::default()
            },
        };
        http_filter(&format!("envoy.filters.http.rbac/{kind}"), any(HTTP_RBAC, &config))
    });
    let is_known = |provider: &str| before.authorizers.contains_key(provider);
    let policies = rbac::rules(before.policies, Layer::Request, is_known).into_iter().map(|(kind, rules)| {
        let config = any(HTTP_RBAC, &http_rbac::Rbac { rules: Some(rules), ..http_rbac::Rbac::default() });
        http_filter(&format!("envoy.filters.http.rbac/{kind}"), config)
    });
    let rates = render_rates::filter(name, before.rates).into_iter().chain(before.limiter.map(render_rates::asking));
    let of_routes = per_route::filters(routes, rates, false);
    let sees = before.sees.map(processors::filter);
    // What is refused is told of, too.
    let filters = asked.into_iter().chain(tokens).chain(silent).chain(policies).chain(of_routes).chain(sees);
    let has_origins = before.proxies.hops > 0 || before.policies.iter().any(|policy| policy.asks_for_remote());
    // What policies and routes are compared with is what the endpoint will understand.
    let manager = HttpConnectionManager {
        normalize_path: Some(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        tracing: before.traced.map(tracing::tracing),
        access_log: before.logged.map(logs::logs).unwrap_or_default(),
        upgrade_configs: before.upgrades.names().map(|name| UpgradeConfig { upgrade_type: name }).collect(),
        // Where nobody asks, it is not said either: who does not know the fields goes on as before.
        use_remote_address: has_origins.then_some(true),
        xff_num_trusted_hops: before.proxies.hops,
        ..manager(name, filters.collect())
    };
    let filter = network_filter("envoy.filters.network.http_connection_manager", any(MANAGER, &manager));
    FilterChain { filters: vec![filter], ..FilterChain::default() }
}

/// What stands before a port that is not looked into: policies, and then the endpoints of the same name, or where its routes
/// lead. Connections without a word for so long are closed. Names of TLS are looked for where routes tell connections apart by them, and
/// where a policy asks for them on a port that is declared as TLS: elsewhere a client may wait for the server to begin.
#[must_use]
pub fn tcp(
    name: &str,
    (addresses, port): (&[IpAddr], u16),
    policies: &[&Policy],
    (streams, is_tls): (&[Stream], bool),
    idle: Option<Duration>,
    heard: Heard<'_>,
) -> Option<Listener> {
    let is_routed_by_name = streams.iter().any(|stream| !stream.servers.is_empty());
    let reads_names = is_routed_by_name || is_tls && policies.iter().any(|policy| policy.asks_for_server_names());
    let layer = if reads_names { Layer::Hello } else { Layer::Connection };
    let chain = |servers: &[String], proxy| connections((name, servers), (policies, layer), proxy, idle, heard);
    let (named, others): (Vec<&Stream>, Vec<&Stream>) = streams.iter().partition(|stream| !stream.servers.is_empty());
    let all = named.into_iter().chain(others);
    let chains = match streams {
        [] => vec![chain(&[], ClusterSpecifier::Cluster(name.to_owned()))],
        _ => all.map(|stream| chain(&stream.servers, shares(stream))).collect(),
    };
    let mut listener = standing(name, addresses, port, chains, heard.counted)?;
    if reads_names {
        let inspector = any(TLS_INSPECTOR, &TlsInspector {});
        listener.listener_filters.push(inspecting("envoy.filters.listener.tls_inspector", inspector));
    }
    Some(listener)
}

/// What is done with connections that are not looked into, of those that ask for these names of servers if there are any.
fn connections(
    (name, servers): (&str, &[String]),
    (policies, layer): (&[&Policy], Layer),
    proxy: ClusterSpecifier,
    idle: Option<Duration>,
    heard: Heard<'_>,
) -> FilterChain {
    let rules = rbac::rules(policies, layer, |_| false).into_iter().map(|(kind, rules)| {
        let rules = Some(rules);
        let config = network_rbac::Rbac { rules, stat_prefix: name.to_owned(), ..network_rbac::Rbac::default() };
        network_filter(&format!("envoy.filters.network.rbac/{kind}"), any(NETWORK_RBAC, &config))
    });
    let silent = rbac::silent(policies, layer).into_iter().map(|(kind, silent)| {
        let stat_prefix = name.to_owned();
        let config = match silent {
            Silent::Audit(rules) => {
                network_rbac::Rbac { rules: Some(rules), stat_prefix, ..network_rbac::Rbac::default() }
            }
            Silent::Tried(prefix, rules) => network_rbac::Rbac {
                shadow_rules: Some(rules),
                shadow_rules_stat_prefix: prefix.to_owned(),
                stat_prefix,
                ..network_rbac::Rbac::default()
            },
        };
        network_filter(&format!("envoy.filters.network.rbac/{kind}"), any(NETWORK_RBAC, &config))
    });
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        access_log: heard.logged.map(logs::logs).unwrap_or_default(),
        idle_timeout: idle.map(duration),
        cluster_specifier: Some(proxy),
    };
    let proxy = network_filter("envoy.filters.network.tcp_proxy", any(TCP_PROXY, &proxy));
    let filter_chain_match = (!servers.is_empty())
        .then(|| FilterChainMatch { server_names: servers.to_vec(), ..FilterChainMatch::default() });
    FilterChain { filter_chain_match, filters: silent.chain(rules).chain([proxy]).collect() }
}

/// Where connections go.
fn shares(stream: &Stream) -> ClusterSpecifier {
    let cluster =
        |target: &Option<Target>| target.as_ref().map_or_else(|| INVALID_BACKEND.to_owned(), ToString::to_string);
    if let [(_, only)] = stream.shares.as_slice() {
        return ClusterSpecifier::Cluster(cluster(only));
    }
    let weighed = stream.shares.iter().map(|(weight, target)| ClusterWeight { name: cluster(target), weight: *weight });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighed.collect() })
}

fn manager(name: &str, mut filters: Vec<HttpFilter>) -> HttpConnectionManager {
    filters.push(http_filter("envoy.filters.http.router", any(ROUTER, &Router {})));
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: filters,
        ..HttpConnectionManager::default()
    }
}

/// Never optional: who does not know a filter must not do without.
pub(super) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), is_optional: false }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(FilterConfig::TypedConfig(config)) }
}

fn inspecting(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter { name: name.to_owned(), config_type: Some(ListenerFilterConfig::TypedConfig(config)) }
}

/// A listener at addresses that tunnels lead to; without any there is nothing to stand before.
fn standing(
    name: &str,
    addresses: &[IpAddr],
    port: u16,
    filter_chains: Vec<FilterChain>,
    counted: Option<&Counted>,
) -> Option<Listener> {
    let mut addresses = addresses.iter().map(|address| {
        let port = Some(PortSpecifier::PortValue(u32::from(port)));
        let socket = SocketAddress { address: address.to_string(), port_specifier: port };
        Address { address: Some(address::Address::SocketAddress(socket)) }
    });
    Some(Listener {
        name: name.to_owned(),
        address: Some(addresses.next()?),
        additional_addresses: addresses.map(|address| AdditionalAddress { address: Some(address) }).collect(),
        filter_chains,
        metadata: metrics::metadata(counted),
        bind_to_port: Some(false),
        ..Listener::default()
    })
}
