//! Tests of what is read of connections that are told apart by what their clients speak.

use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::core::{AggregatedConfigSource, ConfigSource};
use fairway_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use fairway_proto::envoy::listener as message;
use fairway_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use prost::Message;
use prost_types::Any;

use super::super::*;

const HTTP: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

fn any(kind: &str, value: Vec<u8>) -> Any {
    Any { type_url: format!("type.googleapis.com/envoy.extensions.filters.{kind}"), value }
}

fn chain(protocols: &[&str], filter: Any) -> message::FilterChain {
    let application_protocols: Vec<String> = protocols.iter().map(|name| (*name).to_owned()).collect();
    let matching = message::FilterChainMatch { application_protocols, ..Default::default() };
    let config_type = Some(message::filter::ConfigType::TypedConfig(filter));
    message::FilterChain {
        filter_chain_match: (!protocols.is_empty()).then_some(matching),
        filters: vec![message::Filter { config_type, ..Default::default() }],
    }
}

fn requests(protocols: &[&str]) -> message::FilterChain {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    let config_source = Some(ConfigSource { config_source_specifier: Some(ads), ..Default::default() });
    let rds = Rds { config_source, route_config_name: "all".into() };
    let router = ConfigType::TypedConfig(any("http.router.v3.Router", Vec::new()));
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters: vec![HttpFilter { config_type: Some(router), ..Default::default() }],
        ..Default::default()
    };
    chain(protocols, any("network.http_connection_manager.v3.HttpConnectionManager", manager.encode_to_vec()))
}

fn bytes(protocols: &[&str]) -> message::FilterChain {
    let proxy = TcpProxy { cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())), ..Default::default() };
    chain(protocols, any("network.tcp_proxy.v3.TcpProxy", proxy.encode_to_vec()))
}

fn read(filter_chains: Vec<message::FilterChain>, inspector: Option<&str>) -> Result<Http, String> {
    let inspector = inspector.map(|kind| {
        let config = any(&format!("listener.{kind}"), Vec::new());
        let config_type = Some(message::listener_filter::ConfigType::TypedConfig(config));
        message::ListenerFilter { config_type, ..Default::default() }
    });
    let listener_filters = inspector.into_iter().collect();
    let message = message::Listener {
        filter_chains,
        listener_filters,
        // For Envoy; we have a time of our own.
        listener_filters_timeout: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        continue_on_listener_filters_timeout: true,
        ..Default::default()
    };
    match listener(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())? {
        Listener::Http(http) => Ok(*http),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn requests_have_a_chain_and_all_else_another() {
    const INSPECTOR: Option<&str> = Some("http_inspector.v3.HttpInspector");
    let read_with = |chains| read(chains, INSPECTOR);
    let http = read_with(vec![requests(&HTTP), bytes(&[])]).unwrap();
    assert_eq!((&*http.routes, http.otherwise.unwrap().clusters.at(0).unwrap().as_str()), ("all", "c"));
    assert_eq!(read(vec![requests(&[])], None).unwrap().otherwise, None, "nothing is said of what is no request");

    let mut with_names = bytes(&[]);
    let server_names = vec!["a.example".to_owned()];
    with_names.filter_chain_match = Some(message::FilterChainMatch { server_names, ..Default::default() });
    let protocols = "filter_chain_match.application_protocols";
    let rows = [
        (vec![requests(&HTTP)], "filter_chains: must be two where one has application_protocols".to_owned()),
        (
            vec![requests(&HTTP[1..]), bytes(&[])],
            format!("filter_chains[0].{protocols}: must be all of h2c, http/1.0, http/1.1"),
        ),
        (
            vec![bytes(&[]), requests(&HTTP)],
            format!("filter_chains[0].{protocols}: must be all of h2c, http/1.0, http/1.1"),
        ),
        (
            vec![requests(&HTTP), bytes(&["h2c"])],
            format!("filter_chains[1].{protocols}: must be absent: it is for all others"),
        ),
        (vec![bytes(&HTTP), bytes(&[])], "filter_chains[0]: must end with http_connection_manager".to_owned()),
        (vec![requests(&HTTP), requests(&[])], "filter_chains[1]: must end with tcp_proxy".to_owned()),
        (
            vec![requests(&HTTP), with_names],
            "filter_chains[1].filter_chain_match.server_names: cannot be beside application_protocols".to_owned(),
        ),
    ];
    for (chains, expected) in rows {
        assert_eq!(read_with(chains).unwrap_err(), expected);
    }
    for inspector in [None, Some("tls_inspector.v3.TlsInspector")] {
        let found = read(vec![requests(&HTTP), bytes(&[])], inspector).unwrap_err();
        let expected = "listener_filters: must have http_inspector where chains have application_protocols";
        assert_eq!(found, expected, "{inspector:?}");
    }
}

#[test]
fn what_is_no_request_has_its_own_part_in_who_may_pass() {
    let http = |policies: Vec<Rules>| {
        let clusters = Weighted::new(vec![(1, "c".to_owned())]).unwrap();
        let chain = Chain { policies, silent: Vec::new(), clusters, idle: None, logs: None };
        Listener::Http(Box::new(Http { otherwise: Some(Arc::new(chain)), ..Http::default() }))
    };
    let nobody = || vec![Rules { verdict: Verdict::Allow, policies: Vec::new() }];
    assert!(http(vec![]).is_open() && !http(nobody()).is_open());
    assert!(http(nobody()).guards_like(&http(nobody())) && !http(nobody()).guards_like(&http(vec![])));
    assert_eq!(http(vec![]).awaited(), ["c"]);
}
