//! The lab's Kubernetes: a real control plane on the underlay, and the lab in the place of its kubelets.
//!
//! The control plane's processes are components like the mesh's own ([`control_plane`]). Everything that talks to the API
//! server runs on one thread in the underlay's network ([`work`]); the supervisor knows only the channels to it. What the API
//! server holds is written to the lab's manifests ([`mirror`]), so the supervisor reads one source either way, and
//! what the supervisor knows of pods is written back ([`pods`]).

mod certificates;
mod client;
mod cluster;
pub(crate) mod control_plane;
mod endpoints;
mod kubeconfig;
mod manifests;
mod mirror;
pub(crate) mod pods;
pub(crate) mod relay;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_core::source::ObjectKey;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};

use crate::error::{Doing, Result};
use crate::layout::Layout;
use crate::options::Config;
use crate::sandbox::Sandbox;
use crate::services::Frontend;
use crate::volumes::Order;
pub(crate) use cluster::request_token;
use pods::Report;

/// Name of the folder of Gateway API's definitions; `./dev setup` fills it.
const GATEWAY_API: &str = "gateway-api";

/// What the supervisor says of every pod it runs, and of those that have ended but are not deleted yet.
pub(crate) type Reports = BTreeMap<ObjectKey, Report>;

/// The supervisor's end of the lab's Kubernetes.
pub(crate) struct Kubernetes {
    reports: watch::Sender<Arc<Reports>>,
    frontends: watch::Receiver<Arc<Vec<Frontend>>>,
}

/// The other end.
pub(crate) struct Worker {
    pub(crate) nodes: u8,
    pub(crate) mesh: bool,
    /// Where Gateway API's definitions are, if they are anywhere: beside the control plane's program.
    pub(crate) gateway_api: PathBuf,
    pub(crate) authority: certificates::Authority,
    pub(crate) reports: watch::Receiver<Arc<Reports>>,
    pub(crate) frontends: watch::Sender<Arc<Vec<Frontend>>>,
    pub(crate) orders: mpsc::Receiver<Order>,
    /// Wakes the supervisor.
    pub(crate) changed: mpsc::Sender<()>,
}

impl Kubernetes {
    /// Prepares what the control plane's processes start from, and starts the thread that works for the API server once
    /// that answers. `changed` hears of changes behind services.
    pub(crate) async fn start(
        config: &Config,
        underlay: &Sandbox,
        orders: mpsc::Receiver<Order>,
        changed: mpsc::Sender<()>,
    ) -> Result<Self> {
        let layout = Layout::inside();
        let authority = control_plane::prepare(&layout)?;
        relay::start(&layout, &authority, underlay)?;
        let (reports, heard) = watch::channel(Arc::default());
        let (found, frontends) = watch::channel(Arc::default());
        let worker = Worker {
            nodes: config.nodes,
            mesh: config.mesh,
            gateway_api: config.binaries.kubernetes.clone().unwrap_or_default().with_file_name(GATEWAY_API),
            authority,
            reports: heard,
            frontends: found,
            orders,
            changed,
        };
        // A thread is in the network of the one that starts it.
        underlay.run(move || work::start(worker)).await?.doing(|| "starting the thread that works for Kubernetes")?;
        Ok(Self { reports, frontends })
    }

    /// Says how the pods are now.
    pub(crate) fn report(&self, reports: Reports) {
        self.reports.send_if_modified(|before| {
            let differs = **before != reports;
            if differs {
                *before = Arc::new(reports);
            }
            differs
        });
    }

    /// Where connections to services go, by the endpoint slices.
    pub(crate) fn frontends(&self) -> Arc<Vec<Frontend>> {
        self.frontends.borrow().clone()
    }
}

/// Annotation that carries a pod's uid in the lab's manifests. The uid itself appears in its place when the lab has made the
/// pod's network, as agents look for the network by it.
const UID: &str = "lab.fairway.dev/uid";

/// The uid that the API server gave a pod; none in a lab without one.
pub(crate) fn uid(pod: &Pod) -> Option<&str> {
    fairway_core::source::objects::annotation(&pod.metadata, UID)
}
