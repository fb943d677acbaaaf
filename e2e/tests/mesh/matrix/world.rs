//! The pods of the matrix, their addresses, and the policies of each phase.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_lab::Lab;
use serde_json::Value;

use super::NODES;
use super::cell::{Cell, Mode, Rule};
use crate::mesh::observe;

pub(crate) const MANIFESTS: &str = include_str!("world.yaml");
/// Key of the policy that STRICT becomes.
const STRICT: &str = "fairway-system/istio_converted_static_strict";
const NAMESPACES: [&str; 2] = ["inside", "outside"];

/// Addresses of pods and services, IPv4 first, by `NAMESPACE/NAME`.
pub(crate) struct World {
    pods: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Vec<IpAddr>>,
}

impl World {
    pub(crate) fn of(lab: &Lab) -> Self {
        let parse = |addresses: &[String]| -> Vec<IpAddr> { addresses.iter().map(|ip| ip.parse().unwrap()).collect() };
        let status = lab.status().unwrap();
        let pods = status.pods.iter().map(|pod| (format!("{}/{}", pod.namespace, pod.name), parse(&pod.addresses)));
        let services = status
            .services
            .iter()
            .map(|service| (format!("{}/{}", service.namespace, service.name), parse(&service.addresses)));
        Self { pods: pods.collect(), services: services.collect() }
    }

    /// Addresses of a pod.
    pub(crate) fn addresses(&self, pod: &str) -> &[IpAddr] {
        &self.pods[pod]
    }

    /// Whether the pods of a cell have addresses of its family.
    pub(crate) fn has(&self, cell: &Cell) -> bool {
        let pods = [cell.client_pod(), cell.server_pod()];
        pods.iter().all(|pod| self.pods[pod].len() > usize::from(cell.ipv6))
    }

    /// Address of a pod in the cell's family, as it stands in a URL.
    pub(crate) fn host(&self, pod: &str, cell: &Cell) -> String {
        written(self.pods[pod][usize::from(cell.ipv6)])
    }

    /// What the client of a cell asks for.
    pub(crate) fn url(&self, cell: &Cell) -> String {
        let server = cell.server_pod();
        if cell.service {
            format!("http://{}/{}", written(self.services[&server][usize::from(cell.ipv6)]), cell.marker())
        } else {
            format!("http://{}:8080/{}", self.host(&server, cell), cell.marker())
        }
    }
}

fn written(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// Puts the policies of a phase in force and waits until both proxies have them.
pub(crate) fn enforce(lab: &Lab, mode: Mode, rule: Rule) {
    for namespace in NAMESPACES {
        lab.apply(&peer_authentication(namespace, mode)).unwrap();
        match rule {
            Rule::None => lab.delete(&authorization(namespace, "ALLOW")).unwrap(),
            Rule::Allow => lab.apply(&authorization(namespace, "ALLOW")).unwrap(),
            Rule::Deny => lab.apply(&authorization(namespace, "DENY")).unwrap(),
        }
    }
    let wanted = wanted(rule);
    for node in NODES {
        lab.wait_until(&format!("{node} to have the policies of {mode:?} and {rule:?}"), || {
            let dump = observe::config_dump(lab, node)?;
            let found = in_force(&dump);
            let strict = strict_workloads(&dump);
            let settled = found == wanted && strict == if mode == Mode::Strict { 6 } else { 0 };
            if settled { Ok(()) } else { Err(format!("{found:?}, {strict} workloads strict")) }
        })
        .unwrap();
    }
}

fn wanted(rule: Rule) -> BTreeSet<String> {
    let action = match rule {
        Rule::None => None,
        Rule::Allow => Some("Allow"),
        Rule::Deny => Some("Deny"),
    };
    NAMESPACES.iter().filter_map(|namespace| Some(format!("{namespace}/about-the-client {}", action?))).collect()
}

fn list<'a>(dump: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    dump[name].as_array().into_iter().flatten()
}

/// The policies a proxy has; the one of STRICT may be there without being used.
fn in_force(dump: &Value) -> BTreeSet<String> {
    let text = |policy: &Value, name: &str| policy[name].as_str().unwrap_or_default().to_owned();
    list(dump, "policies")
        .map(|policy| format!("{}/{} {}", text(policy, "namespace"), text(policy, "name"), text(policy, "action")))
        .filter(|policy| !policy.starts_with(STRICT))
        .collect()
}

/// How many workloads of the matrix are told to be strict.
fn strict_workloads(dump: &Value) -> usize {
    let told = |workload: &&Value| {
        workload["authorizationPolicies"].as_array().is_some_and(|keys| keys.iter().any(|key| key == STRICT))
    };
    list(dump, "workloads").filter(told).count()
}

fn peer_authentication(namespace: &str, mode: Mode) -> String {
    let mode = format!("{mode:?}").to_uppercase();
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: {namespace}}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn authorization(namespace: &str, action: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: about-the-client, namespace: {namespace}}}\n\
         spec: {{action: {action}, rules: [{{from: [{{source: {{principals: [cluster.local/ns/inside/sa/client]}}}}]}}]}}\n"
    )
}
