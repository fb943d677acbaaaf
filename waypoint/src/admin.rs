//! What operators ask the waypoint: what it holds, how its clusters are, log level, shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fairway_core::io::admin::{Reply, Request, Router, StatusCode, json as page_of, json_written, logging, text};
use fairway_core::io::logging::LogFilter;
use fairway_core::io::xds::ClientStatus;
use fairway_proto::envoy_core::Node;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::in_flight;
use crate::load::Load;
use crate::waypoint::Waypoint;
use crate::why;
use crate::xds::dump::{Asked, Certificate, Dump, Wrong};

/// Everything the pages show or change. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// What all connections share.
    pub waypoint: Arc<Waypoint>,
    /// How new the world is.
    pub stream: ClientStatus,
    /// Who we are to the control plane.
    pub node: Node,
    /// The log filter.
    pub log_filter: LogFilter,
    /// Cancelled to shut down.
    pub shutdown: CancellationToken,
}

impl Admin {
    /// Pages of the admin port; loopback only, since they are not protected.
    #[must_use]
    pub fn router(&self) -> Router {
        let dump = self.clone();
        let [waypoint, requests, clusters] = [(); 3].map(|()| Arc::clone(&self.waypoint));
        let (filter, shutdown) = (self.log_filter.clone(), self.shutdown.clone());
        Router::new()
            .get("/config_dump", move |page| {
                let reply = dump.dump(&page);
                async move { reply }
            })
            .get("/clusters", move |_| {
                let reply = page_of(&clusters.clusters(Some(&Load::default()), Instant::now()));
                async move { reply }
            })
            .get("/requests", move |page| {
                let shown = in_flight::shown(&requests, (Instant::now(), SystemTime::now()));
                let reply = in_flight::page::answer(&page, &shown);
                async move { reply }
            })
            .get("/why/request", move |request| {
                let reply = why::page::answer(&waypoint, &request);
                async move { reply }
            })
            .post("/logging", move |request| {
                let reply = logging::answer(&filter, &request);
                async move { reply }
            })
            .post("/quitquitquit", move |_| {
                shutdown.cancel();
                async { text(StatusCode::OK, "shutting down\n") }
            })
    }

    /// In the form of Envoy's: what there is of each type, and what was refused; and what we know besides.
    fn dump(&self, page: &Request) -> Reply {
        let asked = match Asked::read(page) {
            Ok(asked) => asked,
            Err(error @ Wrong::Resource(_)) => return text(StatusCode::NOT_FOUND, format!("{error}\n")),
            Err(error @ Wrong::Parameter(_)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        let own = self.waypoint.known().map(|local| local.identity());
        let dump = Dump {
            held: self.waypoint.held.clone(),
            node: self.node.clone(),
            certificates: Certificate::all(&self.waypoint.certificates.states(), own.as_ref()),
            besides: self.besides(),
        };
        json_written(move |out| dump.write(&asked, out))
    }

    fn besides(&self) -> Map<String, Value> {
        let config = self.waypoint.config.load();
        let snapshot = self.waypoint.live.snapshot();
        let counts = snapshot.counts();
        [
            ("rejected", json!(config.faults.iter().collect::<BTreeMap<_, _>>())),
            ("warming", json!(config.warming)),
            ("workload", json!(self.waypoint.known().map(|local| local.uid.as_str().to_owned()))),
            ("world", json!({"workloads": counts.workloads, "services": counts.services})),
            ("stream", json!(format!("{:?}", self.stream.report()))),
            ("idleUpstreamConnections", json!(self.waypoint.upstreams.waiting())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}
