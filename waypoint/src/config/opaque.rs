//! What is done with connections that are passed on as they are, by the names that TLS clients ask for.

use std::sync::Arc;
use std::time::Duration;

use fairway_proto::envoy::listener::FilterChain;
use fairway_proto::envoy::tcp_proxy::TcpProxy;
use fairway_proto::envoy::tcp_proxy::tcp_proxy::ClusterSpecifier;
use prost_types::Any;

use super::listener::{chain, decode};
use super::logs::Logs;
use super::metrics::Metrics;
use super::policy::{Rules, Silent};
use super::wrong::{Within, Wrong};
use super::{Listener, Weighted, duration};

/// What is done with connections that are passed on as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opaque {
    /// With those of TLS clients that ask for these names.
    pub named: Vec<(ServerName, Arc<Chain>)>,
    /// With all others; they are closed if it is none.
    pub others: Option<Arc<Chain>>,
    /// Whether it is looked for the names that TLS clients ask for.
    pub reads_names: bool,
    /// What is counted otherwise than usual.
    pub metrics: Option<Arc<Metrics>>,
}

/// Which names TLS clients ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This one.
    Exact(String),
    /// Those that end so, with the dot that this begins with.
    Below(String),
}

/// What is done with one kind of connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Who may connect, in order: all must agree.
    pub policies: Vec<Rules>,
    /// Who is only told of.
    pub silent: Vec<Silent>,
    /// Where to.
    pub clusters: Weighted<String>,
    /// Longest time without a byte in either direction.
    pub idle: Option<Duration>,
    /// Who is told of connections that have ended; none is our own log.
    pub logs: Option<Arc<Logs>>,
}

impl Opaque {
    /// What is done with a connection whose client asks for this name; the most specific one counts.
    #[must_use]
    pub fn chain(&self, name: Option<&str>) -> Option<&Arc<Chain>> {
        let fits = |(wanted, _): &&(ServerName, Arc<Chain>)| match (wanted, name) {
            (ServerName::Exact(exact), Some(name)) => name == exact,
            (ServerName::Below(parent), Some(name)) => name.len() > parent.len() && name.ends_with(parent.as_str()),
            (_, None) => false,
        };
        let rank = |(wanted, _): &&(ServerName, Arc<Chain>)| match wanted {
            ServerName::Exact(_) => usize::MAX,
            ServerName::Below(parent) => parent.len(),
        };
        let named = self.named.iter().filter(fits).max_by_key(rank).map(|(_, chain)| chain);
        named.or(self.others.as_ref())
    }

    /// All of them.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.named.iter().map(|(_, chain)| chain).chain(&self.others)
    }

    /// Clusters that connections may be sent to.
    pub fn clusters(&self) -> impl Iterator<Item = &String> {
        self.chains().flat_map(|chain| chain.clusters.iter())
    }
}

pub(super) fn names(chain: &FilterChain) -> &[String] {
    chain.filter_chain_match.as_ref().map_or(&[], |matching| &matching.server_names)
}

/// What is done with connections by the names that TLS clients ask for.
pub(super) fn by_name(chains: &[FilterChain], has_names: bool) -> Result<Opaque, Wrong> {
    if !has_names {
        return Err(Wrong::new("listener_filters", "must have tls_inspector where chains have server_names"));
    }
    let mut opaque = Opaque { reads_names: true, ..Opaque::default() };
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

/// Connections that pass `policies` go where the filter says.
pub(super) fn tcp_proxy((policies, silent): (Vec<Rules>, Vec<Silent>), config: &Any) -> Result<Listener, Wrong> {
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
    let logs = Logs::of(&message.access_log)?.map(Arc::new);
    let others = Some(Arc::new(Chain { policies, silent, clusters, idle, logs }));
    Ok(Listener::Opaque(Opaque { others, ..Opaque::default() }))
}
