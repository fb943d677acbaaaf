//! What operators ask the waypoint: what it holds, how its clusters are, log level, shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::io::admin::{Router, StatusCode, json, text};
use fairway_core::io::logging::LogFilter;
use fairway_core::io::xds::ClientStatus;
use tokio_util::sync::CancellationToken;

use crate::config::{Assignment, Cluster};
use crate::load::{Load, Seen};
use crate::waypoint::Waypoint;
use crate::why;

/// Everything the pages show or change. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// What all connections share.
    pub waypoint: Arc<Waypoint>,
    /// How new the world is.
    pub stream: ClientStatus,
    /// The log filter.
    pub log_filter: LogFilter,
    /// Cancelled to shut down.
    pub shutdown: CancellationToken,
}

impl Admin {
    /// Pages of the admin port; loopback only, since they are not protected.
    #[must_use]
    pub fn router(&self) -> Router {
        let (dump, clusters) = (self.clone(), self.clone());
        let waypoint = Arc::clone(&self.waypoint);
        let (logging, shutdown) = (self.log_filter.clone(), self.shutdown.clone());
        Router::new()
            .get("/config_dump", move |_| {
                let reply = json(&dump.dump());
                async move { reply }
            })
            .get("/clusters", move |_| {
                let reply = json(&clusters.clusters(Instant::now()));
                async move { reply }
            })
            .get("/why/request", move |request| {
                let reply = why::page::answer(&waypoint, &request);
                async move { reply }
            })
            .post("/logging", move |request| {
                let set = request.parameter("level").map_or(Ok(()), |level| logging.set(&level));
                let reply = match set {
                    Ok(()) => text(StatusCode::OK, format!("{}\n", logging.current())),
                    Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
                };
                async move { reply }
            })
            .post("/quitquitquit", move |_| {
                shutdown.cancel();
                async { text(StatusCode::OK, "shutting down\n") }
            })
    }

    /// Each cluster: what is under way, of how much there may be, and which endpoints are asked.
    fn clusters(&self, now: Instant) -> BTreeMap<String, Seen> {
        let config = self.waypoint.config.load();
        let (idle, nobody) = (Load::default(), Assignment::default());
        let seen = |(name, cluster): (&String, &Arc<Cluster>)| {
            let load = self.waypoint.loads.known(name);
            let assignment = config.endpoints.get(&cluster.endpoints).map_or(&nobody, |assignment| &**assignment);
            (name.clone(), load.as_deref().unwrap_or(&idle).seen(cluster, assignment, now))
        };
        config.clusters.iter().map(seen).collect()
    }

    /// In the words of xDS: what there is of each type, and what was refused.
    fn dump(&self) -> serde_json::Value {
        let config = self.waypoint.config.load();
        let shown = |value: &dyn std::fmt::Debug| serde_json::Value::from(format!("{value:?}"));
        let listeners: BTreeMap<_, _> = config.listeners.iter().map(|(name, it)| (name, shown(it))).collect();
        let routes: BTreeMap<_, _> = config.routes.iter().map(|(name, it)| (name, shown(it))).collect();
        let clusters: BTreeMap<_, _> = config.clusters.iter().map(|(name, it)| (name, shown(it))).collect();
        let endpoints: BTreeMap<_, _> = config.endpoints.iter().map(|(name, it)| (name, &it.priorities)).collect();
        let snapshot = self.waypoint.live.snapshot();
        let counts = snapshot.counts();
        serde_json::json!({
            "listeners": listeners,
            "routes": routes,
            "clusters": clusters,
            "endpoints": endpoints,
            "rejected": config.faults.iter().collect::<BTreeMap<_, _>>(),
            "workload": self.waypoint.known().map(|local| local.uid.as_str().to_owned()),
            "world": {"workloads": counts.workloads, "services": counts.services},
            "stream": format!("{:?}", self.stream.report()),
            "idleUpstreamConnections": self.waypoint.upstreams.waiting(),
        })
    }
}
