//! Resources of the waypoint: any bytes, and listeners put together of filters whose insides are any bytes.

use fairway_core::ident::Identity;
use fairway_proto::envoy::core::{AggregatedConfigSource, ConfigSource, config_source::ConfigSourceSpecifier};
use fairway_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use fairway_proto::envoy::listener::{Filter, FilterChain, Listener as Message, filter};
use fairway_waypoint::config::{Listener, Wrong, assignment, cluster, listener, table};
use fairway_waypoint::facts::{Facts, Head};
use fairway_waypoint::noted::Noted;
use fairway_waypoint::rbac;
use http::HeaderMap;
use prost::Message as _;
use prost_types::Any;

use crate::input::Input;

/// Filters for requests that are read.
const FILTERS: [&str; 10] = [
    "ext_authz.v3.ExtAuthz",
    "jwt_authn.v3.JwtAuthentication",
    "rbac.v3.RBAC",
    "cors.v3.Cors",
    "local_ratelimit.v3.LocalRateLimit",
    "ratelimit.v3.RateLimit",
    "fault.v3.HTTPFault",
    "stateful_session.v3.StatefulSession",
    "ext_proc.v3.ExternalProcessor",
    "router.v3.Router",
];

/// The first byte says what it is, the rest is it.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte() % 6;
    let bytes = match kind {
        4 => requests(&mut input).encode_to_vec(),
        5 => connections(&mut input).encode_to_vec(),
        _ => input.rest().to_vec(),
    };
    match kind {
        0 => drop(twice(table, &bytes)),
        1 => drop(twice(cluster, &bytes)),
        2 => drop(twice(assignment, &bytes)),
        _ => {
            if let Some(listener) = twice(listener, &bytes) {
                decide(&listener);
            }
        }
    }
}

/// What is read is the same each time; with one more field, which nobody knows, it is refused.
fn twice<T: std::fmt::Debug>(read: impl Fn(&[u8]) -> Result<T, Wrong>, bytes: &[u8]) -> Option<T> {
    let first = read(bytes);
    let text = |read: &Result<T, Wrong>| format!("{read:?}");
    assert_eq!(text(&first), text(&read(bytes)));
    let unknown = [bytes, &[0xf8, 0xff, 0xff, 0xff, 0x0f, 0x00]].concat();
    assert!(first.is_err() || read(&unknown).is_err(), "a field that nobody knows is left out");
    if let Err(wrong) = &first {
        assert!(!wrong.to_string().is_empty());
    }
    first.ok()
}

fn any(kind: &str, value: Vec<u8>) -> Any {
    Any { type_url: format!("type.googleapis.com/envoy.extensions.filters.{kind}"), value }
}

fn with(filters: Vec<(String, Vec<u8>)>) -> Message {
    let filter = |(kind, value): (String, Vec<u8>)| Filter {
        config_type: Some(filter::ConfigType::TypedConfig(any(&kind, value))),
        ..Filter::default()
    };
    let chain = FilterChain { filters: filters.into_iter().map(filter).collect(), ..FilterChain::default() };
    Message { filter_chains: vec![chain], ..Message::default() }
}

/// A listener for requests, with any of the filters, and any bytes in them.
fn requests(input: &mut Input<'_>) -> Message {
    let mut manager = HttpConnectionManager::decode(input.piece()).unwrap_or_default();
    manager.http_filters.clear();
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    let source = ConfigSource { config_source_specifier: Some(ads), ..ConfigSource::default() };
    manager.route_specifier =
        Some(RouteSpecifier::Rds(Rds { config_source: Some(source), route_config_name: "r".into() }));
    while !input.is_empty() {
        let kind = FILTERS[usize::from(input.byte()) % FILTERS.len()];
        let config = any(&format!("http.{kind}"), input.piece().to_vec());
        let config_type = Some(http_filter::ConfigType::TypedConfig(config));
        manager.http_filters.push(HttpFilter { config_type, ..HttpFilter::default() });
    }
    let router = any("http.router.v3.Router", Vec::new());
    let config_type = Some(http_filter::ConfigType::TypedConfig(router));
    manager.http_filters.push(HttpFilter { config_type, ..HttpFilter::default() });
    let kind = "network.http_connection_manager.v3.HttpConnectionManager";
    with(vec![(kind.to_owned(), manager.encode_to_vec())])
}

/// A listener for connections, with rules of any bytes.
fn connections(input: &mut Input<'_>) -> Message {
    let proxy = ("network.tcp_proxy.v3.TcpProxy".to_owned(), input.piece().to_vec());
    let mut filters = Vec::new();
    while !input.is_empty() {
        filters.push(("network.rbac.v3.RBAC".to_owned(), input.piece().to_vec()));
    }
    filters.push(proxy);
    with(filters)
}

/// Rules that are read are decided by, and what is not known of a connection never lets more pass than a refusal of everything.
fn decide(listener: &Listener) {
    let identity = Identity::new("cluster.local", "shop", "web").expect("an identity");
    let headers = HeaderMap::new();
    let head =
        Head { method: "GET", authority: "web.shop", path: Some("/a"), query: None, headers: &headers, claims: None };
    let facts = Facts::of(&identity, [10, 0, 0, 1].into(), ([10, 96, 0, 1], 80).into());
    let (policies, silent) = match listener {
        Listener::Http(http) => (&http.policies, &http.silent),
        Listener::Opaque(opaque) => match opaque.chain(None) {
            Some(chain) => (&chain.policies, &chain.silent),
            None => return,
        },
    };
    let seen = facts.of_request(head, Some([192, 0, 2, 1].into()));
    let (of_connection, of_request) = (rbac::judge(policies, &facts), rbac::judge(policies, &seen));
    assert!(of_connection.is_err() || of_request.is_ok(), "who sees less lets more pass");
    for facts in [facts, seen] {
        let noted = Noted::of(silent, policies, &facts);
        assert!(!silent.is_empty() || noted == Noted::default(), "nobody is asked, and something is said");
    }
}
