//! What is known of a mesh when it is judged whether it is well. Gathered elsewhere, and made by hand in tests.

use fairway_lab::status::ComponentStatus;

use crate::analyze::Message;
use crate::proxy_status::Proxy;

/// What a part said, or why it said nothing.
pub(super) type Asked<T> = std::result::Result<T, String>;

/// All of it. Clocks are how many seconds something is ahead of this machine.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Seconds since 1970, by this machine.
    pub(super) now: i64,
    /// Whether the mesh is a lab on this machine; else it is in a cluster.
    pub(super) is_lab: bool,
    /// Namespace of the mesh's own parts.
    pub(super) mesh_namespace: String,
    /// Whether this machine can run a lab, where one is meant.
    pub(super) machine: Option<Asked<()>>,
    /// The API server, where there is one.
    pub(super) api: Option<Asked<Api>>,
    /// What runs of the mesh itself.
    pub(super) components: Vec<ComponentStatus>,
    pub(super) controllers: Vec<(String, Asked<Controller>)>,
    /// How far each proxy is, as the controllers say.
    pub(super) proxies: Asked<Vec<Proxy>>,
    pub(super) nodes: Vec<Node>,
    /// What is wrong with the objects.
    pub(super) objects: Asked<Vec<Message>>,
}

/// An API server.
#[derive(Clone, Debug, Default)]
pub(super) struct Api {
    /// Such as `v1.33.1`.
    pub(super) version: String,
    pub(super) clock: Option<i64>,
    /// Kinds that the mesh reads and the server does not have: plural and group, such as `ratelimits.fairway.dev`.
    pub(super) missing_kinds: Vec<String>,
    /// Whether there is the GatewayClass of waypoints, which an installation with waypoints makes.
    pub(super) has_waypoint_class: bool,
    /// What an installation has to create and this user may not.
    pub(super) denied: Vec<String>,
}

/// A replica of the controller.
#[derive(Clone, Debug, Default)]
pub(super) struct Controller {
    pub(super) clock: Option<i64>,
    /// When what signs certificates ends, and the root above it, in seconds since 1970.
    pub(super) signer_ends: Option<i64>,
    pub(super) root_ends: Option<i64>,
    /// The authority in its files or secret cannot be used.
    pub(super) authority_refused: bool,
    /// How long a part of the objects cannot be read, in seconds.
    pub(super) stale_seconds: u64,
    /// The mesh configuration, as it is now, cannot be used.
    pub(super) mesh_config_refused: bool,
    /// The last good versions of policies cannot be kept.
    pub(super) policies_lost: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) proxy: Asked<NodeProxy>,
    pub(super) agent: Asked<Agent>,
}

/// A node proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeProxy {
    pub(super) clock: Option<i64>,
    pub(super) trust_domain: String,
    /// Trust domains of the workloads that the controller has told it of.
    pub(super) told_trust_domains: Vec<String>,
    /// Whether policies look at clients behind waypoints.
    pub(super) clients_count: bool,
    pub(super) is_connected: Option<bool>,
    pub(super) silent_seconds: Option<u64>,
    pub(super) certificates: Vec<Certificate>,
    /// Pods that it was handed and cannot serve, with the reason.
    pub(super) pending: Vec<(String, String)>,
}

/// A certificate that a node proxy should have.
#[derive(Clone, Debug, Default)]
pub(super) struct Certificate {
    pub(super) identity: String,
    /// When it begins and ends to hold, in seconds since 1970; none while there is none.
    pub(super) holds: Option<(i64, i64)>,
    pub(super) error: Option<String>,
}

/// A node agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    /// Whether the plugin is in the chain.
    pub(super) is_installed: Option<bool>,
    /// Pods that should be in the mesh and are not, with what is in the way.
    pub(super) not_captured: Vec<(String, Option<String>)>,
}
