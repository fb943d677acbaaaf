//! What operators ask the proxy: dump, connections, log level, shutdown; metrics and readiness on ports of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::dns::Zone;
use fairway_core::io::admin::{Reply, Router, StatusCode, html, json, logging, text};
use fairway_core::io::certs::Certificates;
use fairway_core::io::live::Live;
use fairway_core::io::logging::LogFilter;
use fairway_core::io::xds::ClientStatus;
use fairway_core::limits::Limits;
use fairway_core::workload::Workload;
use tokio_util::sync::CancellationToken;

use crate::node::{PodInfo, PodUid};
use crate::telemetry::ConnectionTable;

mod connections;
mod dump;
mod why;

/// The pods of the node now.
pub type PodList = Arc<dyn Fn() -> Vec<PodState> + Send + Sync>;

/// Whether the proxy serves a workload at an address itself.
pub type IsNeighbour = Arc<dyn Fn(&Workload, IpAddr) -> bool + Send + Sync>;

/// A pod the node agent has handed over.
#[derive(Clone, Debug)]
pub struct PodState {
    /// Its UID.
    pub uid: PodUid,
    /// Who it is.
    pub info: PodInfo,
    /// Why it is not served yet; none if it is.
    pub pending: Option<String>,
}

/// Everything the pages show or change. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// The configuration received.
    pub live: Live,
    /// How new that is.
    pub stream: ClientStatus,
    /// Certificates of the node's workloads.
    pub certificates: Certificates,
    /// Open connections.
    pub connections: ConnectionTable,
    /// How much is kept for who looks.
    pub limits: Limits,
    /// The pods handed over, served or not.
    pub pods: PodList,
    /// Which of the node's pods are reached without a tunnel.
    pub is_neighbour: IsNeighbour,
    /// Whether policies look at the clients for whom waypoints speak.
    pub clients_behind_waypoints: bool,
    /// What short names mean.
    pub zone: Zone,
    /// The proxy's settings as shown in the dump.
    pub config: serde_json::Value,
    /// The log filter.
    pub log_filter: LogFilter,
    /// Cancelled to shut the proxy down.
    pub shutdown: CancellationToken,
}

impl Admin {
    /// Pages of the admin port; loopback only, since they are not protected.
    #[must_use]
    pub fn router(&self) -> Router {
        let (dump, connections, logging, shutdown) =
            (self.clone(), self.connections.clone(), self.log_filter.clone(), self.shutdown.clone());
        let (departing, arriving, limits) = (self.clone(), self.clone(), self.limits.clone());
        Router::new()
            .get("/", |_| async { html(INDEX) })
            .any("/config_dump", move |_| {
                let dump = dump.clone();
                async move { dump.config_dump().await }
            })
            .get("/connections", move |request| {
                let reply = connections::answer(&connections, &limits, &request, Instant::now());
                async move { reply }
            })
            .get("/why/departure", move |request| {
                let reply = why::departure(&departing, &request);
                async move { reply }
            })
            .get("/why/arrival", move |request| {
                let reply = why::arrival(&arriving, &request);
                async move { reply }
            })
            .post("/logging", move |request| {
                let reply = logging::answer(&logging, &request);
                async move { reply }
            })
            .post("/quitquitquit", move |_| {
                shutdown.cancel();
                async { text(StatusCode::OK, "shutting down\n") }
            })
            .any("/debug/pprof/profile", |_| async { no_profiler() })
            .any("/debug/pprof/heap", |_| async { no_profiler() })
    }

    async fn config_dump(self) -> Reply {
        // Tens of megabytes in a large mesh: not on a worker that carries connections.
        let written = tokio::task::spawn_blocking(move || {
            let (snapshot, certificates) = (self.live.snapshot(), self.certificates.states());
            json(&dump::ConfigDump::new(
                &snapshot,
                self.stream.report(),
                &certificates,
                &(self.pods)(),
                &self.connections.list(),
                &self.config,
            ))
        });
        written.await.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }
}

/// Istio's proxy profiles itself there. Ours has symbols instead: the kernel's profiler needs nothing from within.
fn no_profiler() -> Reply {
    let hint = "no profiler is built in; on the node, run `perf record -g -p PID` against this process\n";
    text(StatusCode::NOT_FOUND, hint)
}

const INDEX: &str = "<!doctype html><title>ztunnel</title><h1>ztunnel</h1><ul>\
    <li><a href=\"config_dump\">config_dump</a>: workloads, services, policies, certificates, pods\
    <li><a href=\"connections\">connections</a>: connections open now, a JSON object a line; ?ended=NUMBER: and those that have ended since\
    <li>why/departure?pod=NAMESPACE/NAME&amp;destination=HOST:PORT, why/arrival: what would become of a connection\
    <li>POST logging?level=debug, logging?level=access=debug,info, logging?reset: what is logged\
    <li>POST quitquitquit: shut down gracefully\
    </ul>\n";

#[cfg(test)]
mod tests;
