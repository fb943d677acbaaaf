//! What is done with the connections to one port.

use std::sync::Arc;

use fairway_core::upgrade::{BadUpgrade, Upgrades};
use fairway_proto::envoy::core::ConfigSource;
use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::ext_authz::ExtAuthz;
use fairway_proto::envoy::ext_proc::ExternalProcessor;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier,
};
use fairway_proto::envoy::http_connection_manager::http_filter::ConfigType;
use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter};
use fairway_proto::envoy::jwt_authn::JwtAuthentication;
use fairway_proto::envoy::listener::{Filter, FilterChain, Listener as Message, filter};
use fairway_proto::envoy::local_ratelimit::LocalRateLimit;
use fairway_proto::envoy::ratelimit::RateLimit;
use fairway_proto::envoy::stateful_session::StatefulSession;
use fairway_proto::envoy::{fault, http_rbac, network_rbac};
use prost_types::Any;

use super::authorizer::{authorizer, marking};
use super::limiter::Limiter;
use super::logs::Logs;
use super::metrics::Metrics;
use super::opaque::{by_name, names, tcp_proxy};
use super::policy::{Rules, Said};
use super::processor::Processor;
use super::proxies::{self, Proxies};
use super::rates::Rates;
use super::spoken::{Inspected, by_protocol, protocols};
use super::tokens::Tokens;
use super::trace::Tracing;
use super::wrong::{Within, Wrong, all};
use super::{Custom, Http, Listener, fields};

const HTTP_CONNECTION_MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const HTTP_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const JWT_AUTHENTICATION: &str = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const EXT_AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
const LOCAL_RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";
const EXT_PROC: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const STATEFUL_SESSION: &str = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
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
    let inspected = Inspected::by(&message.listener_filters)?;
    let mut listener = match &*message.filter_chains {
        [] => return Err(Wrong::missing("filter_chains")),
        [only] if names(only).is_empty() && protocols(only).is_empty() => chain(only).within("filter_chains[0]")?,
        several if several.iter().all(|chain| protocols(chain).is_empty()) => {
            Listener::Opaque(by_name(several, inspected.names)?)
        }
        several => by_protocol(several, inspected.protocols)?,
    };
    let metrics = Metrics::of(message.metadata.as_ref())?;
    match &mut listener {
        Listener::Http(http) => {
            http.metrics = metrics;
            http.proxies.trusted = proxies::trusted(message.metadata.as_ref())?;
        }
        Listener::Opaque(opaque) => {
            opaque.metrics = metrics;
            // Policies may ask for names where no chain does.
            opaque.reads_names = inspected.names;
        }
    }
    Ok(listener)
}

pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Wrong> {
    M::decode(bytes).map_err(|error| Wrong::here(error.to_string()))
}

fn any(any: Option<&Any>) -> Result<&Any, Wrong> {
    any.ok_or_else(|| Wrong::missing("typed_config"))
}

/// Policies first, then the filter that does the work.
pub(super) fn chain(message: &FilterChain) -> Result<Listener, Wrong> {
    let Some((last, first)) = message.filters.split_last() else { return Err(Wrong::missing("filters")) };
    let config = |filter: &Filter| -> Result<Any, Wrong> {
        let Some(filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(Wrong::missing("typed_config"));
        };
        Ok(config.clone())
    };
    let before = all("filters", first, |filter| {
        let config = config(filter)?;
        if config.type_url != NETWORK_RBAC {
            return Err(unsupported(&config));
        }
        let message: network_rbac::Rbac = decode(&config.value)?;
        Said::of(message.rules.as_ref(), message.shadow_rules.as_ref())
    })?;
    let (mut policies, mut silent) = Said::parted(before);
    let name = || format!("filters[{}]", first.len());
    let last = config(last).within(name())?;
    match last.type_url.as_str() {
        TCP_PROXY => tcp_proxy((policies, silent), &last).within(name()),
        HTTP_CONNECTION_MANAGER => match manager(&last).within(name())? {
            Listener::Http(mut http) => {
                policies.append(&mut http.policies);
                silent.append(&mut http.silent);
                (http.policies, http.silent) = (policies, silent);
                Ok(Listener::Http(http))
            }
            other => Ok(other),
        },
        _ => Err(unsupported(&last)).within(name()),
    }
}

pub(super) fn unsupported(config: &Any) -> Wrong {
    Wrong::new("typed_config", format!("{} is not supported here", config.type_url))
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
    let proxies = Proxies::of(&message)?;
    let Some((last, filters)) = message.http_filters.split_last() else { return Err(Wrong::missing("http_filters")) };
    let is_router = matches!(&last.config_type, Some(ConfigType::TypedConfig(config)) if config.type_url == ROUTER);
    if !is_router {
        return Err(Wrong::new(format!("http_filters[{}]", filters.len()), "the last filter must be the router"));
    }
    let (mut tokens, mut rates, mut limiter, mut policies, mut reached) = (None, None, None, Vec::new(), 0);
    let (mut marked, mut custom, mut processor) = (None, Vec::new(), None);
    let mut filters = all("http_filters", filters, request_filter)?.into_iter().enumerate().peekable();
    while let Some((index, filter)) = filters.next() {
        let filter = match filter {
            // Shadows that somebody is asked about mark it for that; others are only told of.
            RequestFilter::Rules(message)
                if message.shadow_rules.is_some() && matches!(filters.peek(), Some((_, RequestFilter::Asks(_)))) =>
            {
                let (prefix, rules) = marking(&message).within(format!("http_filters[{index}].typed_config"))?;
                RequestFilter::Marks(prefix, rules)
            }
            other => other,
        };
        // What requests are asked is always in one order.
        // What marks requests, and who asks about those that are marked, belong together.
        if marked.is_some() != matches!(filter, RequestFilter::Asks(_)) {
            let problem = "ext_authz must come right behind the rbac with the shadow_rules that it asks about";
            return Err(Wrong::new(format!("http_filters[{index}]"), problem));
        }
        let is_second = match filter {
            RequestFilter::Tokens(_) => tokens.is_some(),
            RequestFilter::Rates(_) => rates.is_some(),
            RequestFilter::Limiter(_) => limiter.is_some(),
            RequestFilter::Processor(_) => processor.is_some(),
            _ => false,
        };
        if filter.place() < reached || is_second {
            return Err(Wrong::new(
                format!("http_filters[{index}]"),
                concat!(
                    "is out of order, which is ext_authz, jwt_authn, rbac, cors, local_ratelimit, ratelimit, fault, ",
                    "stateful_session, ext_proc, router"
                ),
            ));
        }
        reached = filter.place();
        match filter {
            RequestFilter::Tokens(read) => tokens = Some(Arc::new(read)),
            RequestFilter::Rules(message) => {
                let said = Said::of(message.rules.as_ref(), message.shadow_rules.as_ref());
                policies.push(said.within(format!("http_filters[{index}].typed_config"))?);
            }
            RequestFilter::Marks(prefix, rules) => marked = Some((prefix, rules)),
            RequestFilter::Asks(message) => {
                let Some((prefix, rules)) = marked.take() else { continue };
                let read = authorizer(&message, &prefix).within(format!("http_filters[{index}].typed_config"))?;
                custom.push(Custom { rules, authorizer: read });
            }
            RequestFilter::Rates(read) => rates = Some(read),
            RequestFilter::Limiter(read) => limiter = Some(read),
            RequestFilter::Processor(read) => processor = Some(Arc::new(*read)),
            RequestFilter::Cors | RequestFilter::Fault | RequestFilter::Session => {}
        }
    }
    let (policies, silent) = Said::parted(policies);
    let mut upgrades = Upgrades::default();
    for (index, message) in message.upgrade_configs.iter().enumerate() {
        let wrong = |problem: BadUpgrade| Wrong::new("upgrade_type", format!("{:?} {problem}", message.upgrade_type));
        upgrades.allow(&message.upgrade_type).map_err(wrong).within(format!("upgrade_configs[{index}]"))?;
    }
    let tracing = message.tracing.as_ref().map(Tracing::of).transpose().within("tracing")?.map(Arc::new);
    let logs = Logs::of(&message.access_log)?.map(Arc::new);
    let (routes, merge_slashes) = (rds.route_config_name.clone(), message.merge_slashes);
    let http = Http {
        custom,
        tokens,
        policies,
        silent,
        routes,
        merge_slashes,
        proxies,
        rates,
        limiter,
        processor,
        tracing,
        logs,
        metrics: None,
        upgrades,
        otherwise: None,
    };
    Ok(Listener::Http(Box::new(http)))
}

/// What requests are asked before they are routed.
enum RequestFilter {
    /// Which requests somebody is asked about, and with what they are marked.
    Marks(String, Rules),
    /// Who is.
    Asks(Box<ExtAuthz>),
    Tokens(Tokens),
    /// Who may do what, and what is only told of.
    Rules(Box<http_rbac::Rbac>),
    /// Routes say what of it.
    Cors,
    /// Routes say what requests are counted by.
    Rates(Rates),
    /// Somebody else counts them; routes say by what.
    Limiter(Limiter),
    /// See `Cors`.
    Fault,
    /// Who sees them; routes say how much.
    Processor(Box<Processor>),
    /// See `Cors`.
    Session,
}

impl RequestFilter {
    fn place(&self) -> u8 {
        match self {
            Self::Marks(..) | Self::Asks(_) => 0,
            Self::Tokens(_) => 1,
            Self::Rules(_) => 2,
            Self::Cors => 3,
            Self::Rates(_) => 4,
            Self::Limiter(_) => 5,
            Self::Fault => 6,
            Self::Session => 7,
            Self::Processor(_) => 8,
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
        HTTP_RBAC => Ok(RequestFilter::Rules(Box::new(decode(&config.value)?))),
        EXT_AUTHZ => Ok(RequestFilter::Asks(Box::new(decode(&config.value)?))),
        CORS => Ok(RequestFilter::Cors),
        LOCAL_RATE_LIMIT => {
            let message: LocalRateLimit = decode(&config.value)?;
            Ok(RequestFilter::Rates(Rates::of(&message).within("typed_config")?))
        }
        RATE_LIMIT => {
            let message: RateLimit = decode(&config.value)?;
            Ok(RequestFilter::Limiter(Limiter::of(&message).within("typed_config")?))
        }
        FAULT if decode::<fault::HttpFault>(&config.value)? == fault::HttpFault::default() => Ok(RequestFilter::Fault),
        FAULT => Err(Wrong::new("typed_config", "must be empty: routes say what goes wrong")),
        EXT_PROC => {
            let message: ExternalProcessor = decode(&config.value)?;
            Ok(RequestFilter::Processor(Box::new(Processor::of(&message).within("typed_config")?)))
        }
        STATEFUL_SESSION if decode::<StatefulSession>(&config.value)? == StatefulSession::default() => {
            Ok(RequestFilter::Session)
        }
        STATEFUL_SESSION => Err(Wrong::new("typed_config", "must be empty: routes say who keeps what")),
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
