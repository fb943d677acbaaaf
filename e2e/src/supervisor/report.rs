//! The supervisor's account of the lab.

use std::time::Duration;

use fairway_core::source::objects::is_ready;
use serde_json::{Value, json};

use super::Supervisor;
use crate::addresses::{self, node_name};
use crate::component::{CONTROLLER_ADMIN_PORT, Component};
use crate::error::{Doing, Result};
use crate::http;
use crate::kubelet;
use crate::process;
use crate::services;
use crate::status::{ComponentStatus, ManifestError, NodeStatus, PodStatus, ServiceStatus, Status, UnknownObject};

/// How long the controller may take to say who is connected.
const PATIENCE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// The whole state; what the controller knows is added when it answers in time.
    pub(super) fn report(&self) -> impl Future<Output = Result<Value>> + use<> {
        let mut status = Status {
            name: self.config.name.clone(),
            components: self.components.iter().map(component_status).collect(),
            nodes: self.nodes.iter().map(|node| self.node_status(node.number)).collect(),
            pods: self.pod_statuses(),
            services: self.service_statuses(),
            errors: self.manifest_errors(),
            unknown_kinds: self.unknown_kinds(),
            ..Status::default()
        };
        let (mesh, underlay) = (self.config.mesh, self.underlay.clone());
        async move {
            if mesh {
                // Debug pages are for who is where the controller is, as it is here.
                let page =
                    |path: &str| format!("http://{}:{CONTROLLER_ADMIN_PORT}{path}", std::net::Ipv4Addr::LOCALHOST);
                if let Some(answer) = controller_says(&underlay, &page("/debug/syncz")).await {
                    status.proxies = answer.get("proxies").cloned().unwrap_or_default();
                }
                if let Some(answer) = controller_says(&underlay, &page("/debug/sources")).await {
                    add_errors(&mut status.errors, answer.get("errors"));
                }
            }
            serde_json::to_value(status).doing(|| "describing the lab")
        }
    }

    fn node_status(&self, number: u8) -> NodeStatus {
        let pods = self.pods.values().filter(|record| record.placement.node == number).count();
        let addresses = addresses::node(number).both().map(|address| address.to_string()).to_vec();
        NodeStatus { name: node_name(number), addresses, pods }
    }

    fn pod_statuses(&self) -> Vec<PodStatus> {
        let running = self.pods.iter().map(|(key, record)| {
            let pod = self.world.objects.whole_pods.get(key);
            let ending = record.stop.is_cancelled();
            PodStatus {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: record.placement.uid.clone(),
                node: Some(node_name(record.placement.node)),
                addresses: record.placement.addresses(),
                phase: if ending { "Terminating" } else { record.progress.phase() }.to_owned(),
                // Once the world says so too, services send connections there.
                ready: record.progress.is_ready() && !ending && pod.is_some_and(|pod| is_ready(pod)),
                pids: record.progress.containers.iter().filter_map(|container| container.pid).collect(),
                restarts: record.progress.restarts(),
                captured: pod.is_some_and(|pod| kubelet::is_captured(pod)),
                message: record.progress.message(),
            }
        });
        let unplaced = self.unplaced.iter().map(|(key, reason)| PodStatus {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: String::new(),
            node: None,
            addresses: Vec::new(),
            phase: "Pending".to_owned(),
            ready: false,
            pids: Vec::new(),
            restarts: 0,
            captured: false,
            message: Some(reason.clone()),
        });
        running.chain(unplaced).collect()
    }

    fn service_statuses(&self) -> Vec<ServiceStatus> {
        let objects = &self.world.objects;
        objects
            .services
            .iter()
            .map(|(key, service)| ServiceStatus {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                addresses: self.services.of(key).iter().map(ToString::to_string).collect(),
                ports: service
                    .spec
                    .iter()
                    .flat_map(|spec| spec.ports.iter().flatten())
                    .map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP").to_lowercase()))
                    .collect(),
                endpoints: services::ready_pods(objects, key, service).len(),
            })
            .collect()
    }

    fn manifest_errors(&self) -> Vec<ManifestError> {
        self.world.errors.iter().filter_map(|error| serde_json::from_value(json!(error)).ok()).collect()
    }

    fn unknown_kinds(&self) -> Vec<UnknownObject> {
        self.world.objects.unknown.iter().filter_map(|unknown| serde_json::from_value(json!(unknown)).ok()).collect()
    }
}

fn component_status(component: &Component) -> ComponentStatus {
    let status = component.status();
    ComponentStatus { memory: status.pid.and_then(process::memory), ..status }
}

async fn controller_says(underlay: &crate::sandbox::Sandbox, url: &str) -> Option<Value> {
    let answer = http::fetch(underlay, url, PATIENCE).await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

/// Adds what only the controller finds wrong, such as a policy it cannot translate.
fn add_errors(known: &mut Vec<ManifestError>, more: Option<&Value>) {
    let more = more.and_then(Value::as_array).into_iter().flatten();
    for error in more.filter_map(|error| serde_json::from_value::<ManifestError>(error.clone()).ok()) {
        if !known.contains(&error) {
            known.push(error);
        }
    }
}
