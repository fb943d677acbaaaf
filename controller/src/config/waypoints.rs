//! Settings of the waypoints that are made of gateways.

use crate::lifecycle::render::WaypointSettings;

/// Flags about waypoints.
#[derive(Clone, Debug, clap::Args)]
pub struct WaypointArgs {
    /// Whether gateways of class fairway-waypoint become waypoints.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "FAIRWAY_WAYPOINTS")]
    pub waypoints: bool,
    /// Image of waypoints.
    #[arg(long, value_name = "IMAGE", default_value = concat!("fairway/waypoint:", env!("CARGO_PKG_VERSION")), env = "FAIRWAY_WAYPOINT_IMAGE")]
    pub waypoint_image: String,
    /// CPU that each pod of a waypoint asks for.
    #[arg(long, value_name = "QUANTITY", default_value = "100m", env = "FAIRWAY_WAYPOINT_CPU")]
    pub waypoint_cpu: String,
    /// Memory that each pod of a waypoint asks for, and is limited to.
    #[arg(long, value_name = "QUANTITY", default_value = "128Mi", env = "FAIRWAY_WAYPOINT_MEMORY")]
    pub waypoint_memory: String,
    /// Where waypoints find the controller [default: https://fairway-controller.<root namespace>.svc:15012].
    #[arg(long, value_name = "URL", env = "FAIRWAY_WAYPOINT_CONTROLLER")]
    pub waypoint_controller: Option<String>,
}

impl WaypointArgs {
    /// The settings, when waypoints are made at all.
    #[must_use]
    pub fn settings(
        self,
        audience: &str,
        root_namespace: &str,
        domain: &str,
        cluster: &str,
        root_config_map: &str,
    ) -> Option<WaypointSettings> {
        let controller = || format!("https://fairway-controller.{root_namespace}.svc:15012");
        self.waypoints.then(|| WaypointSettings {
            image: self.waypoint_image,
            cpu: self.waypoint_cpu,
            memory: self.waypoint_memory,
            controller: self.waypoint_controller.unwrap_or_else(controller),
            root_config_map: root_config_map.to_owned(),
            token_audience: audience.to_owned(),
            cluster_domain: domain.to_owned(),
            cluster_id: cluster.to_owned(),
        })
    }
}
