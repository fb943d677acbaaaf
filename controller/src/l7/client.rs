//! What of a client decides what it is told.

use fairway_proto::envoy_core::Node;
use prost_types::value::Kind;

use super::waypoints::GatewayName;

/// How node ids of waypoints begin.
const WAYPOINT: &str = "waypoint~";
/// How gRPC's own clients call themselves.
const GRPC: &str = "gRPC";

/// What of a client decides what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Namespace of its token: its own routes are those of this namespace.
    pub namespace: String,
    /// Region, zone and subzone where it says it is; empty where it does not say.
    pub locality: [String; 3],
    /// Node it says it runs on.
    pub node: String,
    /// Name of its pod, by which more of it can be looked up.
    pub pod: String,
    /// Network it says it is in.
    pub network: Option<String>,
    /// It is no proxy: gRPC's own client.
    pub is_grpc: bool,
    /// It is the waypoint of this gateway, and stands before services rather than after clients.
    pub gateway: Option<GatewayName>,
}

impl Client {
    /// The client with this node message and the namespace and service account of this token: waypoints run as an account
    /// that has the name of their gateway, and who runs as another is not believed to be one.
    #[must_use]
    pub fn new(node: &Node, namespace: &str, service_account: &str) -> Self {
        let locality = node.locality.clone().unwrap_or_default();
        Self {
            namespace: namespace.to_owned(),
            locality: [locality.region, locality.zone, locality.sub_zone],
            node: metadata(node, "NODE_NAME").unwrap_or_default().to_owned(),
            pod: metadata(node, "NAME").unwrap_or_default().to_owned(),
            network: metadata(node, "NETWORK").map(str::to_owned),
            is_grpc: node.user_agent_name.starts_with(GRPC),
            gateway: node.id.starts_with(WAYPOINT).then(|| (namespace.to_owned(), service_account.to_owned())),
        }
    }
}

/// A text among the metadata of a node.
#[must_use]
pub fn metadata<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.metadata.as_ref()?.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}
