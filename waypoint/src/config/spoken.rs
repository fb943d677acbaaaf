//! What is done with connections by what their clients turn out to speak.

use fairway_proto::envoy::listener::{FilterChain, ListenerFilter, listener_filter};

use super::listener::{chain, unsupported};
use super::opaque::names;
use super::wrong::{Within, Wrong, all};
use super::{Listener, Opaque};

const TLS_INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const HTTP_INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";

/// What Envoy's inspector calls HTTP. All of it is looked into: what was left out would pass as it is.
const HTTP: [&str; 3] = ["h2c", "http/1.0", "http/1.1"];

/// What is found out of a connection before it is known what is done with it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Inspected {
    /// Which name a TLS client asks for.
    pub(super) names: bool,
    /// Whether its client speaks HTTP.
    pub(super) protocols: bool,
}

impl Inspected {
    /// Reads the filters that find it out.
    pub(super) fn by(filters: &[ListenerFilter]) -> Result<Self, Wrong> {
        let urls = all("listener_filters", filters, inspector)?;
        Ok(Self { names: urls.contains(&TLS_INSPECTOR), protocols: urls.contains(&HTTP_INSPECTOR) })
    }
}

fn inspector(filter: &ListenerFilter) -> Result<&'static str, Wrong> {
    let Some(listener_filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
        return Err(Wrong::missing("typed_config"));
    };
    let known = [TLS_INSPECTOR, HTTP_INSPECTOR].into_iter().find(|url| *url == config.type_url);
    known.ok_or_else(|| unsupported(config))
}

pub(super) fn protocols(chain: &FilterChain) -> &[String] {
    chain.filter_chain_match.as_ref().map_or(&[], |matching| &matching.application_protocols)
}

/// Requests by the first chain, all else by the second.
pub(super) fn by_protocol(chains: &[FilterChain], has_protocols: bool) -> Result<Listener, Wrong> {
    if !has_protocols {
        let problem = "must have http_inspector where chains have application_protocols";
        return Err(Wrong::new("listener_filters", problem));
    }
    if let Some(index) = chains.iter().position(|chain| !names(chain).is_empty()) {
        let problem = "cannot be beside application_protocols";
        return Err(Wrong::new(format!("filter_chains[{index}].filter_chain_match.server_names"), problem));
    }
    let [requests, others] = chains else {
        return Err(Wrong::new("filter_chains", "must be two where one has application_protocols"));
    };
    let mut spoken: Vec<&str> = protocols(requests).iter().map(String::as_str).collect();
    spoken.sort_unstable();
    if spoken != HTTP {
        let field = "filter_chains[0].filter_chain_match.application_protocols";
        return Err(Wrong::new(field, format!("must be all of {}", HTTP.join(", "))));
    }
    if !protocols(others).is_empty() {
        let problem = "must be absent: it is for all others";
        return Err(Wrong::new("filter_chains[1].filter_chain_match.application_protocols", problem));
    }
    let Listener::Http(mut http) = chain(requests).within("filter_chains[0]")? else {
        return Err(Wrong::new("filter_chains[0]", "must end with http_connection_manager"));
    };
    let Listener::Opaque(Opaque { others: Some(others), .. }) = chain(others).within("filter_chains[1]")? else {
        return Err(Wrong::new("filter_chains[1]", "must end with tcp_proxy"));
    };
    http.otherwise = Some(others);
    Ok(Listener::Http(http))
}
