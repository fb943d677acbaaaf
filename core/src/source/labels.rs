//! Labels that people set, and the class they name, as Istio and Gateway API have them; and what has labels.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// On namespaces and pods: in the mesh with the value [`AMBIENT`], out of it with [`NONE`]; a pod's own counts first.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Value of [`DATAPLANE_MODE`] that opts in.
pub const AMBIENT: &str = "ambient";
/// Value of [`DATAPLANE_MODE`], and of [`USE_WAYPOINT`], that opts out of what a wider scope says.
pub const NONE: &str = "none";
/// On namespaces, services, service accounts and pods: the name of their waypoint.
pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// On what asks for a waypoint of another namespace: that.
pub const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// On a waypoint's Gateway: what comes through it, `service` (without the label), `workload`, `all` or `none`.
pub const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Class of the Gateways that Fairway runs waypoints for.
pub const WAYPOINT_CLASS: &str = "fairway-waypoint";

/// What has labels.
pub trait HasLabels {
    /// The value of the label `key`.
    fn label(&self, key: &str) -> Option<&str>;
}

impl HasLabels for ObjectMeta {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }
}
