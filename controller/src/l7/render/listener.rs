//! What clients dial, and what stands before services at their waypoints.

use std::net::IpAddr;

use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{Address, SocketAddress, address};
use fairway_proto::envoy::http_connection_manager::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier,
};
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use fairway_proto::envoy::listener::filter::ConfigType as FilterConfig;
use fairway_proto::envoy::listener::{AdditionalAddress, ApiListener, Filter, FilterChain, Listener};
use fairway_proto::envoy::router::Router;
use fairway_proto::envoy::tcp_proxy::TcpProxy;
use fairway_proto::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier;
use fairway_proto::envoy::{http_rbac, network_rbac};
use prost_types::Any;

use super::super::authz::{Layer, Policy};
use super::{ads, any, rbac};

/// The listener for what is not for a service.
pub const WORKLOADS: &str = "workloads";

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HTTP_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// What a client dials: the routes of the same name.
#[must_use]
pub fn dialled(name: &str) -> Listener {
    let api_listener = ApiListener { api_listener: Some(any(MANAGER, &manager(name, Vec::new()))) };
    Listener { name: name.to_owned(), api_listener: Some(api_listener), ..Listener::default() }
}

/// What stands before a port that speaks HTTP: policies, and then the routes of the same name.
#[must_use]
pub fn http(name: &str, addresses: &[IpAddr], port: u16, policies: &[&Policy]) -> Option<Listener> {
    let filters = rbac::rules(policies, Layer::Request).into_iter().map(|(kind, rules)| {
        let config = any(HTTP_RBAC, &http_rbac::Rbac { rules: Some(rules) });
        http_filter(&format!("envoy.filters.http.rbac/{kind}"), config)
    });
    // What policies and routes are compared with is what the endpoint will understand.
    let manager = HttpConnectionManager {
        normalize_path: Some(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        ..manager(name, filters.collect())
    };
    let filter = network_filter("envoy.filters.network.http_connection_manager", any(MANAGER, &manager));
    standing(name, addresses, port, vec![filter])
}

/// What stands before a port that is not looked into: policies, and then the endpoints of the same name.
#[must_use]
pub fn tcp(name: &str, addresses: &[IpAddr], port: u16, policies: &[&Policy]) -> Option<Listener> {
    let rules = rbac::rules(policies, Layer::Connection).into_iter().map(|(kind, rules)| {
        let config = network_rbac::Rbac { rules: Some(rules), stat_prefix: name.to_owned() };
        network_filter(&format!("envoy.filters.network.rbac/{kind}"), any(NETWORK_RBAC, &config))
    });
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        ..TcpProxy::default()
    };
    let proxy = network_filter("envoy.filters.network.tcp_proxy", any(TCP_PROXY, &proxy));
    standing(name, addresses, port, rules.chain([proxy]).collect())
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
fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), is_optional: false }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(FilterConfig::TypedConfig(config)) }
}

/// A listener at addresses that tunnels lead to; without any there is nothing to stand before.
fn standing(name: &str, addresses: &[IpAddr], port: u16, filters: Vec<Filter>) -> Option<Listener> {
    let mut addresses = addresses.iter().map(|address| {
        let port = Some(PortSpecifier::PortValue(u32::from(port)));
        let socket = SocketAddress { address: address.to_string(), port_specifier: port };
        Address { address: Some(address::Address::SocketAddress(socket)) }
    });
    Some(Listener {
        name: name.to_owned(),
        address: Some(addresses.next()?),
        additional_addresses: addresses.map(|address| AdditionalAddress { address: Some(address) }).collect(),
        filter_chains: vec![FilterChain { filters, ..FilterChain::default() }],
        bind_to_port: Some(false),
        ..Listener::default()
    })
}
