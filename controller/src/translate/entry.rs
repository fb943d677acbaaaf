//! ServiceEntry and WorkloadEntry to services and workloads (api-surface A6, A7; interop §2.5).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use fairway_core::source::istio_network::{EntryPort, Resolution, ServiceEntry, WorkloadEntry, WorkloadEntrySpec};
use fairway_core::source::objects::{annotation, label};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::load_balancing::{HealthPolicy, Mode};
use fairway_proto::workload::service::Visibility;
use fairway_proto::workload::{
    AppProtocol, LoadBalancing, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, WorkloadStatus,
    WorkloadType,
};
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::claims::{Claimed, Claims};
use super::endpoints::{PodAddresses, Served};
use super::nodes::{Nodes, written_locality};
use super::service::{TRAFFIC_DISTRIBUTION, distribution, hostname, octets, visibility};
use super::vip::Addresses;
use super::waypoint::{ServiceBinding, Waypoints};
use super::workload::{TUNNEL, canonical, trust_domain};
use super::{Fault, Settings};
use crate::age::by_age;
use crate::l7::upgrades;
use crate::l7::waypoints::Bound;

const AUTOALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
const SOCKET: &str = "unix://";
/// What the uid of a WorkloadEntry has after the cluster.
pub(super) const WORKLOAD_ENTRY: &str = "/networking.istio.io/WorkloadEntry/";

/// All entries.
#[derive(Debug, Default)]
pub struct Entries {
    /// One for each host.
    pub services: Vec<Service>,
    /// Endpoints that are written in a ServiceEntry.
    pub endpoints: Vec<Workload>,
    /// Which are bound to waypoints.
    pub bound: Vec<Bound>,
    /// What a user should know.
    pub faults: Vec<(ObjectKey, Fault)>,
    /// What pods serve because an endpoint has their address.
    pods: BTreeMap<ObjectKey, Served>,
    /// By namespace.
    selecting: BTreeMap<String, Vec<Selecting>>,
    /// WorkloadEntries whose address is somebody else's, and whose.
    pub claimed: BTreeMap<ObjectKey, String>,
    /// Addresses that are written in any entry, whoever else has them.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses of hosts for which none are written, to be kept in the status of their entry.
    pub given: Given,
    /// Services of which one address of a name is used at a time (`DNS_ROUND_ROBIN`).
    pub one_at_a_time: BTreeSet<String>,
}

/// Hosts and their addresses, by entry.
pub type Given = BTreeMap<ObjectKey, Vec<(String, IpAddr)>>;

/// A ServiceEntry that selects workloads.
#[derive(Debug, PartialEq)]
struct Selecting {
    labels: BTreeMap<String, String>,
    keys: Vec<String>,
    ports: Vec<EntryPort>,
}

/// What the translation of entries looks things up in.
#[derive(Debug)]
pub struct Surroundings<'a, 'b> {
    /// All objects.
    pub objects: &'a Objects,
    /// What is the same everywhere.
    pub settings: &'a Settings,
    /// Where nodes are.
    pub nodes: &'b Nodes<'a>,
    /// Whose addresses are whose.
    pub pods: &'b PodAddresses,
    /// Which waypoint is whose.
    pub waypoints: &'b Waypoints<'a>,
}

impl Entries {
    /// Translates every ServiceEntry. The oldest object that claims a host has it.
    #[must_use]
    pub fn new(around: &Surroundings<'_, '_>) -> Self {
        let Surroundings { objects, settings, .. } = *around;
        let mut entries = Self::default();
        if objects.service_entries.is_empty() && objects.workload_entries.is_empty() {
            return entries;
        }
        let claims = &mut Claims::new(objects, around.pods, settings);
        // A Service has its name before any entry.
        let mut taken: BTreeSet<(&str, String)> = objects
            .services
            .keys()
            .map(|key| (key.namespace.as_str(), hostname(&key.name, &key.namespace, settings)))
            .collect();
        let mut canonical: HashSet<String> = taken.iter().map(|(_, host)| host.clone()).collect();
        let mut allocated = Addresses::new(objects);
        for (key, entry) in by_age(objects.service_entries.iter(), |entry| &entry.metadata) {
            let mut hosts = Vec::new();
            for (index, host) in entry.spec.hosts.iter().enumerate() {
                let at = |message: &str| Fault { field: format!("spec.hosts[{index}]"), message: message.to_owned() };
                if host == "*" || host.is_empty() {
                    entries.fault(key, at("must be a name; it is left out"));
                } else if !taken.insert((&key.namespace, host.clone())) {
                    let message =
                        format!("{host} is defined by an older object of the namespace; this one is left out");
                    entries.fault(key, at(&message));
                } else {
                    hosts.push(host.as_str());
                }
            }
            entries.add(key, entry, &hosts, &mut canonical, &mut allocated, claims, around);
        }
        for (key, entry) in by_age(objects.workload_entries.iter(), |entry| &entry.metadata) {
            let Ok(address) = entry.spec.address.parse::<IpAddr>() else { continue };
            entries.addresses.insert(address);
            if let Err(owner) = claims.workload_entry(key, address) {
                entries.claimed.insert(key.clone(), owner);
            }
        }
        entries
    }

    fn fault(&mut self, key: &ObjectKey, fault: Fault) {
        self.faults.push((key.clone(), fault));
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a loop, named for its length")]
    fn add<'b>(
        &mut self,
        key: &'b ObjectKey,
        entry: &'b ServiceEntry,
        hosts: &[&str],
        canonical: &mut HashSet<String>,
        allocated: &mut Addresses,
        claims: &mut Claims<'b>,
        around: &Surroundings<'_, 'b>,
    ) {
        let spec = &entry.spec;
        for field in spec.others.keys() {
            let message = "is not supported and has no effect".to_owned();
            self.fault(key, Fault { field: format!("spec.{field}"), message });
        }
        let mut faults = Vec::new();
        let binding = around.waypoints.of_service(Kind::ServiceEntry, &entry.metadata, &mut faults);
        let upgrades = upgrades::read(&entry.metadata, !binding.gateways.is_empty(), &mut faults);
        let written = written_addresses(entry, &mut faults);
        self.addresses.extend(written.iter().map(|(_, block)| block.addr()));
        let Claimed { addresses, is_private, faults: claimed } = claims.service_entry(key, written);
        faults.extend(claimed);
        let visibility = match visibility(spec.export_to.iter().map(String::as_str)) {
            Visibility::Public if !is_private && around.settings.is_exported(&key.namespace) => Visibility::Public,
            _ => Visibility::Namespace,
        };
        if visibility == Visibility::Namespace && spec.export_to.iter().any(|namespace| namespace != ".") {
            let message = format!("only clients in {} see this entry", key.namespace);
            faults.push(Fault { field: "spec.exportTo".to_owned(), message });
        }
        self.faults.extend(faults.into_iter().map(|fault| (key.clone(), fault)));
        let mut keys = Vec::new();
        for host in hosts {
            let is_wildcard = host.starts_with("*.");
            if is_wildcard && binding.waypoint.is_none() {
                let message = format!("{host} needs a waypoint to tell names apart, and is left out without one");
                self.fault(key, Fault { field: "spec.hosts".to_owned(), message });
                continue;
            }
            let mut vips = addresses.clone();
            if vips.is_empty() && !is_wildcard && wants_addresses(entry) {
                let given = self.give(key, entry, host, allocated);
                vips = given.iter().copied().map(IpNet::from).collect();
                let of_entry = self.given.entry(key.clone()).or_default();
                of_entry.extend(given.into_iter().map(|address| ((*host).to_owned(), address)));
            }
            let service_key = format!("{}/{host}", key.namespace);
            self.bound.extend(Bound::of(&service_key, key, &binding, upgrades.as_ref()));
            keys.push((*host, service_key));
            if entry.spec.resolution == Resolution::DnsRoundRobin {
                self.one_at_a_time.insert(format!("{}/{host}", key.namespace));
            }
            let is_canonical = canonical.insert((*host).to_owned());
            self.services.push(service(key, entry, host, &vips, (is_canonical, visibility), &binding, around));
        }
        if let Some(selector) = &spec.workload_selector {
            if !spec.endpoints.is_empty() {
                let message = "excludes endpoints; the endpoints are left out".to_owned();
                self.fault(key, Fault { field: "spec.workloadSelector".to_owned(), message });
            }
            if !selector.labels.is_empty() {
                let keys = keys.into_iter().map(|(_, service)| service).collect();
                let selecting = Selecting { labels: selector.labels.clone(), keys, ports: spec.ports.clone() };
                self.selecting.entry(key.namespace.clone()).or_default().push(selecting);
            }
            return;
        }
        self.add_endpoints(key, entry, &keys, around);
    }

    /// The addresses of a host for which none are written. Those of before are its own still, so that who has come to it by one
    /// goes on doing so, whatever other hosts come and go (docs/adr/0026-addresses-of-hosts-are-kept.md). In place of what it
    /// may not keep it gets another one of that version.
    fn give(&mut self, key: &ObjectKey, entry: &ServiceEntry, host: &str, allocated: &mut Addresses) -> Vec<IpAddr> {
        let (mut kept, mut lost): (Vec<IpAddr>, Vec<IpAddr>) = (Vec::new(), Vec::new());
        for value in addresses_before(entry, host) {
            let problem = match value.parse::<IpAddr>() {
                Ok(address) if kept.contains(&address) => None,
                Ok(address) => {
                    let problem = allocated.keep(address, &key.namespace, host).err();
                    let list = if problem.is_none() { &mut kept } else { &mut lost };
                    list.push(address);
                    problem
                }
                Err(_) => Some("is no address".to_owned()),
            };
            if let Some(problem) = problem {
                let message = format!("{value:?} of {host} {problem}; it is not used");
                self.fault(key, Fault { field: "status.addresses".to_owned(), message });
            }
        }
        let has_version = |all: &[IpAddr], wanted: &IpAddr| all.iter().any(|it| it.is_ipv4() == wanted.is_ipv4());
        if !kept.is_empty() && lost.iter().all(|address| has_version(&kept, address)) {
            return kept;
        }
        let mut new = allocated.allocate(&key.namespace, host);
        new.retain(|address| kept.is_empty() || (has_version(&lost, address) && !has_version(&kept, address)));
        kept.extend(new);
        kept
    }

    fn add_endpoints(
        &mut self,
        key: &ObjectKey,
        entry: &ServiceEntry,
        keys: &[(&str, String)],
        around: &Surroundings<'_, '_>,
    ) {
        let Surroundings { settings, nodes, pods, .. } = *around;
        let uid = |address: &str| {
            format!("{}/networking.istio.io/ServiceEntry/{}/{}/{address}", settings.cluster_id, key.namespace, key.name)
        };
        let spec = &entry.spec;
        let by_name = matches!(spec.resolution, Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns);
        if spec.resolution == Resolution::None {
            return;
        }
        let starred = keys.iter().filter(|(host, _)| host.starts_with('*'));
        for (host, _) in starred.filter(|_| spec.resolution == Resolution::DynamicDns) {
            let message =
                format!("DYNAMIC_DNS of a name with a star is not supported: {host} has no endpoint, and is refused");
            self.fault(key, Fault { field: "spec.resolution".to_owned(), message });
        }
        if by_name && (spec.endpoints.is_empty() || spec.resolution == Resolution::DynamicDns) {
            // A wildcard is no name that could be resolved.
            for (host, service) in keys.iter().filter(|(host, _)| !host.starts_with('*')) {
                let written = WorkloadEntrySpec { address: (*host).to_owned(), ..WorkloadEntrySpec::default() };
                let served = [(service.clone(), ports(&spec.ports, &written))].into();
                let workload = workload(uid(host), &key.name, &key.namespace, &written, served, nodes, settings);
                self.endpoints.push(workload);
            }
            return;
        }
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let served: Served =
                keys.iter().map(|(_, service)| (service.clone(), ports(&spec.ports, endpoint))).collect();
            let address = endpoint.address.parse::<IpAddr>();
            let problem = match &address {
                _ if endpoint.address.starts_with(SOCKET) => Some("sockets cannot be reached from a node proxy"),
                Err(_) if spec.resolution == Resolution::Static => Some("must be an address, as resolution is STATIC"),
                Err(_) if endpoint.address.is_empty() => Some("is missing"),
                _ => None,
            };
            if let Some(problem) = problem {
                let field = format!("spec.endpoints[{index}].address");
                self.fault(key, Fault { field, message: format!("{problem}; the endpoint is left out") });
                continue;
            }
            // A peer that may be enrolled is reached as itself, never in clear text.
            self.addresses.extend(address.as_ref().ok());
            if let Some(pod) = address.ok().and_then(|address| pods.pod(address)) {
                self.pods.entry(pod.clone()).or_default().extend(served);
                continue;
            }
            let uid = uid(&endpoint.address);
            self.endpoints.push(workload(uid, &key.name, &key.namespace, endpoint, served, nodes, settings));
        }
    }

    /// The namespaces and the pods that may serve other things than by `before`.
    pub(super) fn differs(&self, before: &Self) -> (BTreeSet<String>, BTreeSet<ObjectKey>) {
        let namespaces = self.selecting.keys().chain(before.selecting.keys());
        let pods = self.pods.keys().chain(before.pods.keys());
        let claimed = self.claimed.keys().chain(before.claimed.keys());
        let claimed = claimed.filter(|it| self.claimed.get(*it) != before.claimed.get(*it)).map(|it| &it.namespace);
        let namespaces = namespaces.filter(|it| self.selecting.get(*it) != before.selecting.get(*it));
        (
            namespaces.chain(claimed).cloned().collect(),
            pods.filter(|it| self.pods.get(*it) != before.pods.get(*it)).cloned().collect(),
        )
    }

    /// What a workload with these labels serves of the entries; for a pod also by its address.
    #[must_use]
    pub fn served_by(
        &self,
        namespace: &str,
        pod: Option<&str>,
        has_label: impl Fn(&str, &str) -> bool,
        written: &WorkloadEntrySpec,
    ) -> Served {
        let mut served =
            pod.and_then(|name| self.pods.get(&ObjectKey::pod(namespace, name))).cloned().unwrap_or_default();
        for selecting in self.selecting.get(namespace).into_iter().flatten() {
            if selecting.labels.iter().all(|(key, value)| has_label(key, value)) {
                served.extend(selecting.keys.iter().map(|key| (key.clone(), ports(&selecting.ports, written))));
            }
        }
        served
    }
}

fn service(
    key: &ObjectKey,
    entry: &ServiceEntry,
    host: &str,
    addresses: &[IpNet],
    (canonical, visibility): (bool, Visibility),
    binding: &ServiceBinding,
    around: &Surroundings<'_, '_>,
) -> Service {
    let spec = &entry.spec;
    let network = around.nodes.network("");
    let addresses = addresses.iter().map(|block| NetworkAddress {
        network: network.to_owned(),
        address: octets(block.addr()),
        length: (block.prefix_len() != block.max_prefix_len()).then(|| block.prefix_len().into()),
    });
    let load_balancing = if spec.resolution == Resolution::None {
        // Clients know the address they want.
        let (mode, health_policy) = (Mode::Passthrough.into(), HealthPolicy::AllowAll.into());
        Some(LoadBalancing { mode, health_policy, ..LoadBalancing::default() })
    } else {
        let namespace = around.objects.namespace(&key.namespace).map(|namespace| &namespace.metadata);
        let of_namespace = namespace.and_then(|metadata| annotation(metadata, TRAFFIC_DISTRIBUTION));
        let (mode, scopes) =
            distribution(annotation(&entry.metadata, TRAFFIC_DISTRIBUTION).or(of_namespace).unwrap_or_default());
        (!scopes.is_empty()).then(|| LoadBalancing {
            routing_preference: scopes.iter().map(|scope| i32::from(*scope)).collect(),
            mode: mode.into(),
            ..LoadBalancing::default()
        })
    };
    Service {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        hostname: host.to_owned(),
        addresses: addresses.collect(),
        ports: tcp(&spec.ports).map(|port| announced(port, None)).collect(),
        subject_alt_names: spec.subject_alt_names.clone(),
        waypoint: binding.waypoint.clone(),
        weighted_waypoints: binding.weighted.clone(),
        ingress_use_waypoint: binding.ingress,
        load_balancing,
        canonical,
        visibility: visibility.into(),
        ..Service::default()
    }
}

/// Tunnels carry TCP, so other ports are not announced.
pub(crate) fn tcp(ports: &[EntryPort]) -> impl Iterator<Item = &EntryPort> {
    ports.iter().filter(|port| port.number != 0 && !port.protocol.eq_ignore_ascii_case("UDP"))
}

/// What is spoken at a port.
pub(crate) fn app_protocol(port: &EntryPort) -> AppProtocol {
    match port.protocol.to_ascii_uppercase().as_str() {
        "HTTP" => AppProtocol::Http11,
        "HTTP2" => AppProtocol::Http2,
        "GRPC" => AppProtocol::Grpc,
        "HTTPS" | "TLS" => AppProtocol::Tls,
        "TCP" | "MONGO" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

fn announced(port: &EntryPort, target: Option<u16>) -> Port {
    let target = target.or(port.target_port).unwrap_or(port.number);
    Port { service_port: port.number.into(), target_port: target.into(), app_protocol: app_protocol(port).into() }
}

/// The ports on an endpoint, which may have its own by name.
fn ports(ports: &[EntryPort], endpoint: &WorkloadEntrySpec) -> PortList {
    PortList { ports: tcp(ports).map(|port| announced(port, endpoint.ports.get(&port.name).copied())).collect() }
}

/// The virtual addresses and blocks that are written, each with the path of its field.
fn written_addresses(entry: &ServiceEntry, faults: &mut Vec<Fault>) -> Vec<(String, IpNet)> {
    let mut blocks = Vec::new();
    for (index, text) in entry.spec.addresses.iter().enumerate() {
        match text.parse::<IpNet>().map(|block| block.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(block) => blocks.push((format!("spec.addresses[{index}]"), block)),
            Err(_) => faults.push(Fault {
                field: format!("spec.addresses[{index}]"),
                message: format!("{text:?} is neither an address nor a block of addresses; it is left out"),
            }),
        }
    }
    blocks
}

/// Whether hosts without addresses are given some, so that they can be told apart.
fn wants_addresses(entry: &ServiceEntry) -> bool {
    entry.spec.addresses.is_empty()
        && entry.spec.resolution != Resolution::None
        && label(&entry.metadata, AUTOALLOCATE) != Some("false")
}

/// The addresses that a host was given before, as its entry's status says.
fn addresses_before<'a>(entry: &'a ServiceEntry, host: &'a str) -> impl Iterator<Item = &'a str> {
    let is_only = entry.spec.hosts.len() == 1;
    let of_host = entry.status.addresses.iter().filter(move |it| it.host == host || (it.host.is_empty() && is_only));
    of_host.map(|address| address.value.as_str())
}

/// What proxies are told of an endpoint or a WorkloadEntry.
fn workload(
    uid: String,
    name: &str,
    namespace: &str,
    spec: &WorkloadEntrySpec,
    services: Served,
    nodes: &Nodes<'_>,
    settings: &Settings,
) -> Workload {
    let address = spec.address.parse::<IpAddr>().ok();
    let text = |key: &str| spec.labels.get(key).map(String::as_str);
    let native_tunnel = text(TUNNEL).is_some_and(|protocols| protocols.split(',').any(|protocol| protocol == "http"));
    let tunnel_protocol = if native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None };
    let (canonical_name, canonical_revision) = canonical(text, name);
    let network = Some(spec.network.as_str()).filter(|network| !network.is_empty());
    Workload {
        uid,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        addresses: address.into_iter().map(octets).collect(),
        hostname: if address.is_some() { String::new() } else { spec.address.clone() },
        network: network.unwrap_or_else(|| nodes.network("")).to_owned(),
        tunnel_protocol: tunnel_protocol.into(),
        native_tunnel,
        trust_domain: trust_domain(settings),
        service_account: spec.service_account.clone(),
        canonical_name,
        canonical_revision,
        workload_type: WorkloadType::Pod.into(),
        workload_name: name.to_owned(),
        cluster_id: settings.cluster_id.clone(),
        locality: written_locality(&spec.locality),
        capacity: (spec.weight > 1).then_some(spec.weight),
        services,
        ..Workload::default()
    }
}

/// The metadata by which selectors and policies know a WorkloadEntry: its labels are in two places.
#[must_use]
pub fn selectable(entry: &WorkloadEntry) -> ObjectMeta {
    let mut metadata = entry.metadata.clone();
    let mut labels = metadata.labels.take().unwrap_or_default();
    labels.extend(entry.spec.labels.clone());
    metadata.labels = Some(labels);
    metadata
}

/// Uid of the workload that a WorkloadEntry is.
pub fn workload_entry_uid(key: &ObjectKey, settings: &Settings) -> String {
    format!("{}{WORKLOAD_ENTRY}{}/{}", settings.cluster_id, key.namespace, key.name)
}

/// What proxies are told of a WorkloadEntry; nothing when it cannot be reached.
pub fn workload_entry(
    key: &ObjectKey,
    entry: &WorkloadEntry,
    metadata: &ObjectMeta,
    services: Served,
    nodes: &Nodes<'_>,
    settings: &Settings,
    faults: &mut Vec<Fault>,
) -> Option<Workload> {
    let spec = &entry.spec;
    let problem = if spec.address.starts_with(SOCKET) {
        Some("sockets cannot be reached from a node proxy")
    } else if spec.address.is_empty() {
        Some("is missing, and gateways of other networks are not supported")
    } else {
        None
    };
    if let Some(problem) = problem {
        let message = format!("{problem}; the entry is left out");
        faults.push(Fault { field: "spec.address".to_owned(), message });
        return None;
    }
    let uid = workload_entry_uid(key, settings);
    let labelled = WorkloadEntrySpec { labels: metadata.labels.clone().unwrap_or_default(), ..spec.clone() };
    let mut workload = workload(uid, &key.name, &key.namespace, &labelled, services, nodes, settings);
    if entry.status.is_unhealthy() {
        workload.status = WorkloadStatus::Unhealthy.into();
    }
    Some(workload)
}
