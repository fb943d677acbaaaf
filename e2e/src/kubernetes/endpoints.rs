//! Where connections to services go, by the endpoint slices of the controller-manager: what a kube-proxy reads.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::select;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::work::RETRY;
use crate::services::Frontend;

/// Label that names the service of a slice.
const SERVICE: &str = "kubernetes.io/service-name";

type Named<T> = BTreeMap<(String, String), T>;

/// Watches services and slices, for ever.
pub(crate) async fn run(client: &Client, found: watch::Sender<Arc<Vec<Frontend>>>, changed: mpsc::Sender<()>) {
    let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
    let slices = watcher(Api::<EndpointSlice>::all(client.clone()), watcher::Config::default());
    let mut events = pin!(select(
        services.map(|event| Change::Service(Box::new(event))),
        slices.map(|event| Change::Slice(Box::new(event))),
    ));
    let (mut services, mut slices) = (Table::default(), Table::default());
    while let Some(change) = events.next().await {
        let taken = match change {
            Change::Service(event) => services.take(*event),
            Change::Slice(event) => slices.take(*event),
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "the API server does not give services and endpoints");
            sleep(RETRY).await;
            continue;
        }
        let frontends = frontends(&services.present, &slices.present);
        if found.send_if_modified(|before| replace(before, frontends)) {
            // One pending notice is enough.
            let _ = changed.try_send(());
        }
    }
}

fn replace(before: &mut Arc<Vec<Frontend>>, now: Vec<Frontend>) -> bool {
    let differs = **before != now;
    if differs {
        *before = Arc::new(now);
    }
    differs
}

enum Change {
    Service(Box<watcher::Result<Event<Service>>>),
    Slice(Box<watcher::Result<Event<EndpointSlice>>>),
}

/// Objects of one kind. What was there before a list is there until the list is complete.
struct Table<T> {
    present: Named<T>,
    listed: Named<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { present: Named::new(), listed: Named::new() }
    }
}

impl<T: Resource> Table<T> {
    fn take(&mut self, event: watcher::Result<Event<T>>) -> watcher::Result<()> {
        let key = |object: &T| (object.namespace().unwrap_or_default(), object.name_any());
        match event? {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => drop(self.listed.insert(key(&object), object)),
            Event::InitDone => self.present = std::mem::take(&mut self.listed),
            Event::Apply(object) => drop(self.present.insert(key(&object), object)),
            Event::Delete(object) => drop(self.present.remove(&key(&object))),
        }
        Ok(())
    }
}

/// Every address and port of every service, with the endpoints that are ready.
fn frontends(services: &Named<Service>, slices: &Named<EndpointSlice>) -> Vec<Frontend> {
    let mut frontends = Vec::new();
    for ((namespace, name), service) in services {
        let own: Vec<&EndpointSlice> = slices
            .values()
            .filter(|slice| slice.metadata.namespace.as_deref() == Some(namespace))
            .filter(|slice| slice.labels().get(SERVICE) == Some(name))
            .collect();
        let Some(spec) = &service.spec else { continue };
        let addresses = spec.cluster_ips.iter().flatten().filter_map(|text| text.parse::<IpAddr>().ok());
        for address in addresses {
            for port in spec.ports.iter().flatten() {
                frontends.extend(frontend(&format!("{namespace}/{name}"), address, port, &own));
            }
        }
    }
    frontends
}

fn frontend(service: &str, address: IpAddr, port: &ServicePort, slices: &[&EndpointSlice]) -> Option<Frontend> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => "tcp",
        Some("UDP") => "udp",
        Some(_) => return None,
    };
    let mut endpoints: Vec<SocketAddr> =
        slices.iter().flat_map(|slice| ready(slice, port)).filter(|to| to.is_ipv4() == address.is_ipv4()).collect();
    endpoints.sort();
    endpoints.dedup();
    let number = u16::try_from(port.port).ok()?;
    Some(Frontend { service: service.to_owned(), address: SocketAddr::new(address, number), protocol, endpoints })
}

/// The ready endpoints of a slice behind a port of its service, which has the same name in both.
fn ready(slice: &EndpointSlice, port: &ServicePort) -> Vec<SocketAddr> {
    let name = port.name.as_deref().unwrap_or_default();
    let same = slice.ports.iter().flatten().find(|own| own.name.as_deref().unwrap_or_default() == name);
    let Some(target) = same.and_then(|own| u16::try_from(own.port?).ok()) else { return Vec::new() };
    slice
        .endpoints
        .iter()
        // Unknown counts as ready (`EndpointConditions.ready`).
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
        .flat_map(|endpoint| endpoint.addresses.iter().filter_map(|text| text.parse().ok()))
        .map(|ip| SocketAddr::new(ip, target))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named<T: Resource + serde::de::DeserializeOwned>(objects: serde_json::Value) -> Named<T> {
        let objects: Vec<T> = serde_json::from_value(objects).unwrap();
        objects
            .into_iter()
            .map(|object| ((object.namespace().unwrap_or_default(), object.name_any()), object))
            .collect()
    }

    #[test]
    fn ready_endpoints_of_the_same_family_and_port_name_are_taken() {
        let services = named(json!([{"metadata": {"namespace": "shop", "name": "server"}, "spec": {
            "clusterIPs": ["10.96.0.9", "fd00:96::9"],
            "ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]}}]));
        let slice = |name: &str, service: &str, endpoints: serde_json::Value, addresses: &str| {
            json!({"metadata": {"namespace": "shop", "name": name, "labels": {SERVICE: service}},
                "addressType": addresses, "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints})
        };
        let slices = named(json!([
            slice(
                "a",
                "server",
                json!([
                    {"addresses": ["10.101.0.2"], "conditions": {"ready": true}},
                    {"addresses": ["10.101.0.3"], "conditions": {"ready": false}},
                    {"addresses": ["10.101.0.4"]},
                ]),
                "IPv4"
            ),
            slice("b", "server", json!([{"addresses": ["fd00:100:1::2"]}]), "IPv6"),
            slice("c", "stranger", json!([{"addresses": ["10.101.0.9"]}]), "IPv4"),
        ]));
        let found: Vec<(String, Vec<String>)> = frontends(&services, &slices)
            .into_iter()
            .map(|frontend| {
                (frontend.address.to_string(), frontend.endpoints.iter().map(ToString::to_string).collect())
            })
            .collect();
        let expected = [
            ("10.96.0.9:80", vec!["10.101.0.2:8080", "10.101.0.4:8080"]),
            ("10.96.0.9:81", vec![]),
            ("[fd00:96::9]:80", vec!["[fd00:100:1::2]:8080"]),
            ("[fd00:96::9]:81", vec![]),
        ];
        let expected: Vec<(String, Vec<String>)> = expected
            .into_iter()
            .map(|(address, to)| (address.to_owned(), to.into_iter().map(str::to_owned).collect()))
            .collect();
        assert_eq!(found, expected);
    }
}
