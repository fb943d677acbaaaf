//! Labels that people set, as Istio has them.

/// Puts a namespace or a pod into the mesh, with the value [`AMBIENT`].
pub(crate) const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// See [`DATAPLANE_MODE`].
pub(crate) const AMBIENT: &str = "ambient";
/// Names the waypoint of a namespace, a service, a service account or a pod.
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// What a waypoint is for: service, workload, all or none.
pub(crate) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
