//! What a ring or table of endpoints is asked with: said in routes, decided by where these lead.

use fairway_proto::envoy::route::RouteConfiguration;
use fairway_proto::envoy::route::route::Action;
use fairway_proto::envoy::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use fairway_proto::envoy::route::route_action::{ClusterSpecifier, HashPolicy};

use super::super::destinations::Key;
use super::duration;

/// Tells each route what the first of its clusters that wants to know is asked with.
pub fn say(configuration: &mut RouteConfiguration, key: impl Fn(&str) -> Option<Key>) {
    let routes = configuration.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes);
    for route in routes {
        let Some(Action::Route(action)) = &mut route.action else { continue };
        let found = match &action.cluster_specifier {
            None => None,
            Some(ClusterSpecifier::Cluster(name)) => key(name),
            Some(ClusterSpecifier::WeightedClusters(several)) => {
                several.clusters.iter().find_map(|cluster| key(&cluster.name))
            }
        };
        action.hash_policy = found.map(policy).into_iter().collect();
    }
}

fn policy(key: Key) -> HashPolicy {
    let specifier = match key {
        Key::Header(header_name) => PolicySpecifier::Header(Header { header_name }),
        Key::Cookie { name, path, ttl } => PolicySpecifier::Cookie(Cookie { name, path, ttl: ttl.map(duration) }),
        Key::Source => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        Key::Parameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name }),
    };
    HashPolicy { policy_specifier: Some(specifier) }
}
