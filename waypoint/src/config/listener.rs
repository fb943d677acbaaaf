//! What is done with the connections to one port.

use std::sync::Arc;

use fairway_proto::envoy::core::ConfigSource;
use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier,
};
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter};
use fairway_proto::envoy::jwt_authn::JwtAuthentication;
use fairway_proto::envoy::listener::{
    Filter, FilterChain, Listener as Message, ListenerFilter, filter, listener_filter,
};
use fairway_proto::envoy::tcp_proxy::TcpProxy;
use fairway_proto::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier;
use fairway_proto::envoy::{fault, http_rbac, network_rbac};
use prost_types::Any;

use super::policy::Rules;
use super::tokens::Tokens;
use super::wrong::{Within, Wrong, all};
use super::{Chain, Listener, Opaque, ServerName, Weighted, duration, fields};

const HTTP_CONNECTION_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TLS_INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const HTTP_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const JWT_AUTHENTICATION: &str = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// Reads a `Listener`.
///
/// # Errors
/// The field that cannot be used.
pub fn listener(bytes: &[u8]) -> Result<Listener, Wrong> {
    fields::check("envoy.config.listener.v3.Listener", bytes)?;
    let message: Message = decode(bytes)?;
    if let Some(api) = &message.api_listener {
        return manager(any(api.api_listener.as_ref())?).within("api_listener.api_listener");
    }
    let has_names = !all("listener_filters", &message.listener_filters, inspector)?.is_empty();
    let is_plain = |chain: &FilterChain| names(chain).is_empty();
    match &*message.filter_chains {
        [] => Err(Wrong::missing("filter_chains")),
        [only] if is_plain(only) => chain(only).within("filter_chains[0]"),
        several => by_name(several, has_names).map(Listener::Opaque),
    }
}

/// A filter that looks at connections before it is known what is done with them: there is one.
fn inspector(filter: &ListenerFilter) -> Result<(), Wrong> {
    match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(config)) if config.type_url == TLS_INSPECTOR => Ok(()),
        Some(listener_filter::ConfigType::TypedConfig(config)) => Err(unsupported(config)),
        None => Err(Wrong::missing("typed_config")),
    }
}

fn names(chain: &FilterChain) -> &[String] {
    chain.filter_chain_match.as_ref().map_or(&[], |matching| &matching.server_names)
}

/// What is done with connections by the names that TLS clients ask for.
fn by_name(chains: &[FilterChain], has_names: bool) -> Result<Opaque, Wrong> {
    if !has_names {
        return Err(Wrong::new("listener_filters", "must have tls_inspector where chains have server_names"));
    }
    let mut opaque = Opaque::default();
    for (index, message) in chains.iter().enumerate() {
        let at = || format!("filter_chains[{index}]");
        let Listener::Opaque(Opaque { others: Some(read), .. }) = chain(message).within(at())? else {
            return Err(Wrong::new(at(), "must end with tcp_proxy where chains have server_names"));
        };
        if names(message).is_empty() {
            if index + 1 < chains.len() {
                return Err(Wrong::new(at(), "without server_names must be the last"));
            }
            opaque.others = Some(Arc::clone(&read));
        }
        for (place, name) in names(message).iter().enumerate() {
            let field = || format!("{}.filter_chain_match.server_names[{place}]", at());
            let lower = name.to_ascii_lowercase();
            let wanted = match lower.strip_prefix('*') {
                Some(parent) if parent.starts_with('.') => ServerName::Below(parent.to_owned()),
                None if !lower.is_empty() => ServerName::Exact(lower),
                _ => return Err(Wrong::new(field(), "must be a name, or *. and one")),
            };
            if opaque.named.iter().any(|(known, _)| *known == wanted) {
                return Err(Wrong::new(field(), "is there twice"));
            }
            opaque.named.push((wanted, Arc::clone(&read)));
        }
    }
    Ok(opaque)
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Wrong> {
    M::decode(bytes).map_err(|error| Wrong::here(error.to_string()))
}

fn any(any: Option<&Any>) -> Result<&Any, Wrong> {
    any.ok_or_else(|| Wrong::missing("typed_config"))
}

/// Policies first, then the filter that does the work.
fn chain(message: &FilterChain) -> Result<Listener, Wrong> {
    let Some((last, first)) = message.filters.split_last() else { return Err(Wrong::missing("filters")) };
    let config = |filter: &Filter| -> Result<Any, Wrong> {
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(Wrong::missing("typed_config"));
        };
        Ok(config.clone())
    };
    let mut before = all("filters", first, |filter| {
        let config = config(filter)?;
        if config.type_url != NETWORK_RBAC {
            return Err(unsupported(&config));
        }
        let message: network_rbac::Rbac = decode(&config.value)?;
        Rules::of(message.rules.as_ref()).within("rules")
    })?;
    let name = || format!("filters[{}]", first.len());
    let last = config(last).within(name())?;
    match last.type_url.as_str() {
        TCP_PROXY => tcp_proxy(before, &last).within(name()),
        HTTP_CONNECTION_MANAGER => match manager(&last).within(name())? {
            Listener::Http { tokens, policies, routes, merge_slashes } => {
                before.extend(policies);
                Ok(Listener::Http { tokens, policies: before, routes, merge_slashes })
            }
            other => Ok(other),
        },
        _ => Err(unsupported(&last)).within(name()),
    }
}

fn unsupported(config: &Any) -> Wrong {
    Wrong::new("typed_config", format!("{} is not supported here", config.type_url))
}

fn tcp_proxy(policies: Vec<Rules>, config: &Any) -> Result<Listener, Wrong> {
    let message: TcpProxy = decode(&config.value)?;
    let clusters = match message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(1, name)],
        Some(ClusterSpecifier::WeightedClusters(several)) => {
            several.clusters.into_iter().map(|cluster| (cluster.weight, cluster.name)).collect()
        }
        None => return Err(Wrong::missing("cluster")),
    };
    let clusters = Weighted::new(clusters).ok_or_else(|| Wrong::new("weighted_clusters", "have no weight"))?;
    // Envoy's would be an hour; what is not said here is not closed.
    let idle = message.idle_timeout.as_ref().map(duration).transpose().within("idle_timeout")?;
    let idle = idle.filter(|idle| !idle.is_zero());
    let others = Some(Arc::new(Chain { policies, clusters, idle }));
    Ok(Listener::Opaque(Opaque { named: Vec::new(), others }))
}

fn manager(config: &Any) -> Result<Listener, Wrong> {
    if config.type_url != HTTP_CONNECTION_MANAGER {
        return Err(unsupported(config));
    }
    let message: HttpConnectionManager = decode(&config.value)?;
    let Some(RouteSpecifier::Rds(rds)) = &message.route_specifier else { return Err(Wrong::missing("rds")) };
    from_this_stream(rds.config_source.as_ref()).within("rds.config_source")?;
    if rds.route_config_name.is_empty() {
        return Err(Wrong::missing("rds.route_config_name"));
    }
    let normalised = message.normalize_path.unwrap_or(true);
    if !normalised {
        return Err(Wrong::new("normalize_path", "must be true: policies are asked about normalised paths"));
    }
    match PathWithEscapedSlashesAction::try_from(message.path_with_escaped_slashes_action) {
        Ok(_keeps) => {}
        Err(_) => return Err(Wrong::new("path_with_escaped_slashes_action", "must be KEEP_UNCHANGED")),
    }
    let Some((last, filters)) = message.http_filters.split_last() else { return Err(Wrong::missing("http_filters")) };
    let is_router = matches!(&last.config_type, Some(ConfigType::TypedConfig(config)) if config.type_url == ROUTER);
    if !is_router {
        return Err(Wrong::new(format!("http_filters[{}]", filters.len()), "the last filter must be the router"));
    }
    let (mut tokens, mut policies, mut reached) = (None, Vec::new(), 0);
    for (index, filter) in all("http_filters", filters, request_filter)?.into_iter().enumerate() {
        // What requests are asked is always in one order.
        if filter.place() < reached || (tokens.is_some() && matches!(filter, RequestFilter::Tokens(_))) {
            return Err(Wrong::new(
                format!("http_filters[{index}]"),
                "is out of order, which is jwt_authn, rbac, cors, fault, router",
            ));
        }
        reached = filter.place();
        match filter {
            RequestFilter::Tokens(read) => tokens = Some(Arc::new(read)),
            RequestFilter::Policies(rules) => policies.push(rules),
            RequestFilter::Cors | RequestFilter::Fault => {}
        }
    }
    let routes = rds.route_config_name.clone();
    Ok(Listener::Http { tokens, policies, routes, merge_slashes: message.merge_slashes })
}

/// What requests are asked before they are routed.
enum RequestFilter {
    Tokens(Tokens),
    Policies(Rules),
    /// Routes say what of it.
    Cors,
    /// See `Cors`.
    Fault,
}

impl RequestFilter {
    fn place(&self) -> u8 {
        match self {
            Self::Tokens(_) => 0,
            Self::Policies(_) => 1,
            Self::Cors => 2,
            Self::Fault => 3,
        }
    }
}

fn request_filter(filter: &HttpFilter) -> Result<RequestFilter, Wrong> {
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else { return Err(Wrong::missing("typed_config")) };
    match config.type_url.as_str() {
        JWT_AUTHENTICATION => {
            let message: JwtAuthentication = decode(&config.value)?;
            Ok(RequestFilter::Tokens(Tokens::of(&message).within("typed_config")?))
        }
        HTTP_RBAC => {
            let message: http_rbac::Rbac = decode(&config.value)?;
            Ok(RequestFilter::Policies(Rules::of(message.rules.as_ref()).within("rules")?))
        }
        CORS => Ok(RequestFilter::Cors),
        FAULT if decode::<fault::HttpFault>(&config.value)? == fault::HttpFault::default() => Ok(RequestFilter::Fault),
        FAULT => Err(Wrong::new("typed_config", "must be empty: routes say what goes wrong")),
        _ => Err(unsupported(config)),
    }
}

/// Everything comes on the one stream.
fn from_this_stream(source: Option<&ConfigSource>) -> Result<(), Wrong> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_)) => Ok(()),
        #[allow(unreachable_patterns, clippy::allow_attributes, reason = "the contract has one way")]
        _ => Err(Wrong::here("must be ADS")),
    }
}
