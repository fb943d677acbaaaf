//! Names of the resource types a discovery stream carries.

/// A workload or a service, [`crate::workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// A policy, [`crate::security::Authorization`].
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// A workload alone, [`crate::workload::Workload`].
pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
/// How far the proxies are, [`crate::status::ClientConfig`] each; what istioctl asks for.
pub const SYNC_STATUS: &str = "istio.io/debug/syncz";
/// The type of those.
pub const CLIENT_CONFIG: &str = "type.googleapis.com/envoy.service.status.v3.ClientConfig";
/// Where requests come in, [`crate::envoy::listener::Listener`].
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Which requests go where, [`crate::envoy::route::RouteConfiguration`].
pub const ROUTE_CONFIGURATION: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// What requests are sent to, [`crate::envoy::cluster::Cluster`].
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Who serves, [`crate::envoy::endpoint::ClusterLoadAssignment`].
pub const CLUSTER_LOAD_ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
