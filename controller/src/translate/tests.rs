//! What is made step by step is what is made at once: any objects, changed in any order.

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::l7::Client;
use crate::world::{ResourceType, World};

/// Puts or takes an object; what it says is read off the bits of `says`.
#[derive(Clone, Debug)]
struct Edit {
    kind: usize,
    namespace: usize,
    name: usize,
    says: Option<u32>,
}

const NAMESPACES: [&str; 3] = ["a", "b", "fairway-system"];
const KINDS: [Kind; 22] = [
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::Service,
    Kind::Namespace,
    Kind::Node,
    Kind::ServiceAccount,
    Kind::Gateway,
    Kind::ServiceEntry,
    Kind::WorkloadEntry,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::HTTPRoute,
    Kind::TCPRoute,
    Kind::TLSRoute,
    Kind::VirtualService,
    Kind::DestinationRule,
    Kind::RequestAuthentication,
    Kind::ReferenceGrant,
    Kind::RateLimit,
    Kind::ExternalProcessor,
    Kind::Telemetry,
    // Twice as often: what changes most.
    Kind::Pod,
];

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let says = prop_oneof![1 => Just(None), 4 => any::<u32>().prop_map(Some)];
    let edit = (0..KINDS.len(), 0..NAMESPACES.len(), 0..3_usize, says);
    proptest::collection::vec(
        edit.prop_map(|(kind, namespace, name, says)| Edit { kind, namespace, name, says }),
        1..80,
    )
}

/// Some bits of a number, one after the other.
struct Bits(u32);

impl Bits {
    fn next(&mut self, count: u32) -> u32 {
        let taken = self.0 % count;
        self.0 /= count;
        taken
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next(u32::try_from(from.len()).unwrap())).unwrap()].clone()
    }
}

fn edit<T: DeserializeOwned>(all: &mut OrderedMap<ObjectKey, Arc<T>>, key: ObjectKey, object: Option<Value>) {
    match object {
        Some(mut object) => {
            let metadata = object.as_object_mut().unwrap().entry("metadata").or_insert_with(|| json!({}));
            metadata["name"] = json!(key.name);
            metadata["namespace"] = json!(key.namespace);
            let version = key.kind.versions()[0];
            let group = key.kind.group();
            object["apiVersion"] = if group.is_empty() { json!(version) } else { json!(format!("{group}/{version}")) };
            object["kind"] = json!(key.kind.as_str());
            all.insert(key, Arc::new(serde_json::from_value(object).unwrap()));
        }
        None => drop(all.remove(&key)),
    }
}

fn labels(bits: &mut Bits) -> Value {
    match bits.next(4) {
        0 => json!({"app": "x"}),
        1 => json!({"app": "y"}),
        2 => json!({"app": "x", "istio.io/use-waypoint": "o0"}),
        _ => json!({"gateway.networking.k8s.io/gateway-name": "o0"}),
    }
}

fn binding(bits: &mut Bits) -> Value {
    match bits.next(4) {
        0 => json!({"istio.io/use-waypoint": "o0"}),
        1 => json!({"istio.io/use-waypoint": "o1", "istio.io/use-waypoint-namespace": "a"}),
        2 => json!({"topology.istio.io/network": "n"}),
        _ => json!({}),
    }
}

fn address(bits: &mut Bits) -> String {
    format!("10.0.0.{}", bits.next(4))
}

fn pod(bits: &mut Bits) -> Value {
    let address = address(bits);
    let phase = bits.pick(&["Running", "Running", "Succeeded"]);
    let (host, node, account) = (bits.next(5) == 0, bits.pick(&["o0", "o1"]), bits.pick(&["o0", "default"]));
    json!({
        "metadata": {"labels": labels(bits)},
        "spec": {"nodeName": node, "serviceAccountName": account, "hostNetwork": host,
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080 + bits.next(2)}]}]},
        "status": {"phase": phase, "podIP": address, "hostIP": "10.0.0.3", "conditions": [{"type": "Ready", "status": bits.pick(&["True", "False"])}]},
    })
}

fn slice(bits: &mut Bits) -> Value {
    let mut endpoints = Vec::new();
    for _ in 0..=bits.next(3) {
        let target = (bits.next(2) == 0).then(|| json!({"kind": "Pod", "name": format!("o{}", bits.next(3))}));
        let conditions = json!({"ready": bits.next(3) > 0});
        endpoints.push(
            json!({"addresses": [address(bits)], "conditions": conditions, "targetRef": target, "nodeName": "o0"}),
        );
    }
    json!({
        "addressType": bits.pick(&["IPv4", "IPv4", "IPv4", "FQDN"]),
        "endpoints": endpoints,
        "metadata": {"labels": {"kubernetes.io/service-name": format!("o{}", bits.next(2))}},
        "ports": [{"port": 8080 + bits.next(2)}],
    })
}

fn service(bits: &mut Bits) -> Value {
    let selector = bits.pick(&[Some("x"), Some("y"), None]).map(|app| json!({"app": app}));
    let exported = bits.pick(&["", "*", ".", "b", "~"]);
    json!({
        "metadata": {"labels": binding(bits), "annotations": {"networking.istio.io/exportTo": exported}},
        "spec": {"clusterIP": format!("10.96.0.{}", bits.next(3)), "selector": selector,
            "type": bits.pick(&["ClusterIP", "ClusterIP", "ExternalName"]),
            "publishNotReadyAddresses": bits.next(2) == 0,
            "ports": [{"port": 80, "targetPort": bits.pick(&["web", "8080"])}]},
    })
}

fn gateway(bits: &mut Bits) -> Value {
    let addresses = bits.pick(&[None, Some("10.96.0.9")]).map(|value| json!({"type": "IPAddress", "value": value}));
    json!({
        "metadata": {"labels": {"istio.io/waypoint-for": bits.pick(&["service", "workload", "all", "none"])}},
        "spec": {"gatewayClassName": bits.pick(&["fairway-waypoint", "other"]), "listeners": [{"name": "mesh", "port": 15008,
            "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": bits.pick(&["All", "Same"])}}}]},
        "status": {"addresses": addresses.into_iter().collect::<Vec<_>>()},
    })
}

fn service_entry(bits: &mut Bits) -> Value {
    let spec = match bits.next(3) {
        0 => json!({"workloadSelector": {"labels": {"app": bits.pick(&["x", "y"])}}}),
        1 => json!({"endpoints": [{"address": address(bits)}, {"address": address(bits)}]}),
        _ => json!({}),
    };
    let mut spec = spec;
    spec["hosts"] = json!([bits.pick(&["h.example", "i.example", "o0.a.svc.cluster.local"])]);
    spec["addresses"] = json!([address(bits)]);
    if bits.next(2) == 0 {
        spec["addresses"] = json!(["10.96.0.1"]);
    }
    spec["ports"] = json!([{"number": 443, "name": "tls", "protocol": "TLS"}]);
    spec["resolution"] = json!(bits.pick(&["STATIC", "DNS"]));
    spec["exportTo"] = bits.pick(&[json!([]), json!(["."]), json!(["*"]), json!(["b"])]);
    let created = format!("2026-01-0{}T00:00:00Z", 1 + bits.next(3));
    json!({"metadata": {"labels": binding(bits), "creationTimestamp": created}, "spec": spec})
}

fn policy(bits: &mut Bits) -> Value {
    let selector = bits.pick(&[Some("x"), Some("y"), None]).map(|app| json!({"matchLabels": {"app": app}}));
    json!({"spec": {"selector": selector, "action": bits.pick(&["ALLOW", "DENY", "AUDIT"]),
        "rules": [{"to": [{"operation": {"ports": [bits.pick(&["80", "none"])]}}]}]}})
}

fn peer(bits: &mut Bits) -> Value {
    let selector = bits.pick(&[Some("x"), None]).map(|app| json!({"matchLabels": {"app": app}}));
    json!({"spec": {"selector": selector, "mtls": {"mode": bits.pick(&["STRICT", "PERMISSIVE", "UNSET"])}}})
}

fn route(bits: &mut Bits) -> Value {
    let backend = json!({"name": format!("o{}", bits.next(2)), "namespace": bits.pick(&[None, Some("b")]), "port": 80});
    json!({"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": format!("o{}", bits.next(2)), "port": 80}],
        "rules": [{"backendRefs": [backend]}]}})
}

fn grant(bits: &mut Bits) -> Value {
    let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": bits.pick(&["a", "b"])});
    let name = bits.pick(&[None, Some("o0")]);
    json!({"spec": {"from": [from], "to": [{"group": "", "kind": "Service", "name": name}]}})
}

fn stream_route(bits: &mut Bits) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": format!("o{}", bits.next(2)), "port": 80});
    json!({"spec": {"parentRefs": [parent], "hostnames": ["o.example"],
        "rules": [{"backendRefs": [{"name": format!("o{}", bits.next(2)), "port": 80}]}]}})
}

fn virtual_service(bits: &mut Bits) -> Value {
    let host = bits.pick(&["o0", "o1", "o0.a.svc.cluster.local", "h.example"]);
    let subset = bits.pick(&[None, Some("x"), Some("z")]);
    let destination = json!({"host": bits.pick(&["o0", "o1", "h.example"]), "subset": subset, "port": {"number": 80}});
    let exported = bits.pick(&[json!([]), json!(["."]), json!(["*"]), json!(["b"])]);
    let section = bits.pick(&["http", "tcp"]);
    json!({"spec": {"hosts": [host], "exportTo": exported, section: [{"route": [{"destination": destination}]}]}})
}

fn destination_rule(bits: &mut Bits) -> Value {
    let host = bits.pick(&["o0", "o1", "o0.a.svc.cluster.local", "h.example", "*.example"]);
    let exported = bits.pick(&[json!([]), json!(["."]), json!(["*"]), json!(["b"])]);
    let subsets = bits.pick(&[
        json!([]),
        json!([{"name": "x", "labels": {"app": "x"}}]),
        json!([{"name": "x", "labels": {"app": "y"}}, {"name": "z"}]),
    ]);
    let policy = bits.pick(&[json!(null), json!({"loadBalancer": {"simple": "RANDOM"}})]);
    json!({"spec": {"host": host, "exportTo": exported, "subsets": subsets, "trafficPolicy": policy}})
}

fn tokens(bits: &mut Bits) -> Value {
    let service = json!([{"group": "", "kind": "Service", "name": format!("o{}", bits.next(2))}]);
    let gateway = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "o0"}]);
    let targets = bits.pick(&[service, gateway]);
    let issuer = bits.pick(&["https://i.example", ""]);
    json!({"spec": {"targetRefs": targets, "jwtRules": [{"issuer": issuer, "jwksUri": "https://i.example/keys"}]}})
}

fn rate_limit(bits: &mut Bits) -> Value {
    let service = json!([{"group": "", "kind": "Service", "name": format!("o{}", bits.next(2))}]);
    let route = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "o0"}]);
    let targets = bits.pick(&[service, route]);
    json!({"spec": {"targetRefs": targets, "limits": [{"requests": bits.next(2), "period": "1s"}]}})
}

fn processor(bits: &mut Bits) -> Value {
    let service = json!([{"group": "", "kind": "Service", "name": format!("o{}", bits.next(2))}]);
    let route = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "o0"}]);
    let targets = bits.pick(&[service, route]);
    json!({"spec": {"targetRefs": targets, "provider": bits.pick(&["p", "q", "none"])}})
}

fn telemetry(bits: &mut Bits) -> Value {
    let service = json!([{"group": "", "kind": "Service", "name": format!("o{}", bits.next(2))}]);
    let targets = bits.pick(&[service, json!([])]);
    let expression = bits.pick(&["response.code >= 400", "response.kode"]);
    json!({"spec": {"targetRefs": targets, "tracing": [{"randomSamplingPercentage": bits.next(120)}],
        "accessLogging": [{"filter": {"expression": expression}}]}})
}

fn apply(objects: &mut Objects, change: &Edit) {
    let kind = KINDS[change.kind];
    let namespace = NAMESPACES[change.namespace];
    let name = if kind == Kind::Namespace { namespace.to_owned() } else { format!("o{}", change.name) };
    let key = ObjectKey::new(kind, namespace, name);
    let mut bits = change.says.map(Bits);
    let bits = bits.as_mut();
    match kind {
        Kind::Pod => edit(&mut objects.pods, key, bits.map(pod)),
        Kind::EndpointSlice => edit(&mut objects.endpoint_slices, key, bits.map(slice)),
        Kind::Service => edit(&mut objects.services, key, bits.map(service)),
        Kind::Gateway => edit(&mut objects.gateways, key, bits.map(gateway)),
        Kind::ServiceEntry => edit(&mut objects.service_entries, key, bits.map(service_entry)),
        Kind::AuthorizationPolicy => edit(&mut objects.authorization_policies, key, bits.map(policy)),
        Kind::PeerAuthentication => edit(&mut objects.peer_authentications, key, bits.map(peer)),
        Kind::HTTPRoute => edit(&mut objects.http_routes, key, bits.map(route)),
        Kind::TCPRoute => edit(&mut objects.tcp_routes, key, bits.map(stream_route)),
        Kind::TLSRoute => edit(&mut objects.tls_routes, key, bits.map(stream_route)),
        Kind::VirtualService => edit(&mut objects.virtual_services, key, bits.map(virtual_service)),
        Kind::DestinationRule => edit(&mut objects.destination_rules, key, bits.map(destination_rule)),
        Kind::RequestAuthentication => edit(&mut objects.request_authentications, key, bits.map(tokens)),
        Kind::RateLimit => edit(&mut objects.rate_limits, key, bits.map(rate_limit)),
        Kind::ExternalProcessor => edit(&mut objects.external_processors, key, bits.map(processor)),
        Kind::Telemetry => edit(&mut objects.telemetries, key, bits.map(telemetry)),
        Kind::ReferenceGrant => edit(&mut objects.reference_grants, key, bits.map(grant)),
        Kind::WorkloadEntry => {
            let entry = |bits: &mut Bits| json!({"metadata": {"labels": labels(bits)}, "spec": {"address": address(bits), "serviceAccount": "o0"}});
            edit(&mut objects.workload_entries, key, bits.map(entry));
        }
        Kind::ServiceAccount => {
            edit(&mut objects.service_accounts, key, bits.map(|bits| json!({"metadata": {"labels": binding(bits)}})));
        }
        Kind::Node => {
            let node = |bits: &mut Bits| {
                let zone = bits.pick(&["z1", "z2"]);
                json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone,
                    "topology.istio.io/network": bits.pick(&["n", "m"])}}})
            };
            edit(&mut objects.nodes, key, bits.map(node));
        }
        Kind::Namespace => {
            let namespace = |bits: &mut Bits| {
                let distribution = bits.pick(&["PreferClose", ""]);
                let mut labels = binding(bits);
                labels["fairway.dev/waypoint"] = json!(bits.pick(&["automatic", "other"]));
                json!({"metadata": {"labels": labels,
                    "annotations": {"networking.istio.io/traffic-distribution": distribution}}})
            };
            edit(&mut objects.namespaces, key, bits.map(namespace));
        }
        _ => unreachable!("not among the kinds"),
    }
}

/// The world after a translation.
fn step(world: &World, translation: &Translation, settings: &Settings) -> World {
    let next = world.next(&translation.desired);
    let l7 = world.l7().next(Arc::new(translation.clone()), Arc::clone(next.addresses()), &settings.network);
    next.with_l7(world, l7)
}

/// Names and versions of what is sent.
fn sent(world: &World) -> Vec<(String, String)> {
    let all = ResourceType::NODE.into_iter().flat_map(|kind| world.resources(kind).values());
    all.map(|resource| (resource.name.to_string(), resource.version.clone())).collect()
}

/// What can be found of each resource that is not found by its name.
fn found(world: &World) -> Vec<Vec<String>> {
    let lookup = world.lookup();
    let names = |keys: Vec<&Arc<str>>| keys.into_iter().map(ToString::to_string).collect::<Vec<_>>();
    let nodes = ["o0", "o1"].map(|node| names(lookup.on_node(node).collect()));
    let services = ["a", "b"]
        .map(|namespace| names(lookup.of_service(&format!("{namespace}/o0.{namespace}.svc.cluster.local")).collect()));
    let addresses = (0..4).map(|last| {
        let mut found = lookup.named(&format!("/10.0.0.{last}")).into_iter().map(str::to_owned).collect::<Vec<_>>();
        found.sort();
        found
    });
    nodes.into_iter().chain(services).chain(addresses).collect()
}

/// What HTTP clients are sent: one that is none of ours, and a waypoint.
fn sent_to_clients(world: &World) -> Vec<(String, String)> {
    let client = Client { namespace: "b".to_owned(), is_grpc: true, ..Client::default() };
    let waypoint = Client { gateway: Some(("a".to_owned(), "o0".to_owned())), ..Client::default() };
    let all = [client, waypoint].into_iter().flat_map(|client| {
        let kinds = ResourceType::ALL.into_iter().filter(|kind| !ResourceType::NODE.contains(kind));
        kinds.flat_map(move |kind| world.l7().all(kind, &client).collect::<Vec<_>>())
    });
    let mut all: Vec<_> = all.map(|resource| (resource.name.to_string(), resource.version)).collect();
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn step_by_step_is_as_at_once(edits in edits(), at_a_time in 1..4_usize) {
        let settings = Settings::default();
        let mut objects = Objects::default();
        let mut translation = Translation::default();
        let mut world = World::default();
        for some in edits.chunks(at_a_time) {
            some.iter().for_each(|edit| apply(&mut objects, edit));
            let before = Translation::before(translation.accepted().clone());
            let whole = translate(&objects, &BTreeMap::new(), &settings, &before);
            translation = translate(&objects, &BTreeMap::new(), &settings, &translation);
            prop_assert_eq!(&translation.desired, &whole.desired, "after {:?}", some);
            prop_assert_eq!(&translation.problems, &whole.problems, "after {:?}", some);
            prop_assert_eq!(&translation.waypoints, &whole.waypoints, "after {:?}", some);
            prop_assert!(translation.routes.attached == whole.routes.attached, "after {:?}", some);
            prop_assert_eq!(&translation.destinations, &whole.destinations, "after {:?}", some);
            let at_once = step(&World::default(), &whole, &settings);
            let before = world;
            world = step(&before, &translation, &settings);
            prop_assert_eq!(sent(&world), sent(&at_once));
            prop_assert_eq!(found(&world), found(&at_once));
            prop_assert_eq!(sent_to_clients(&world), sent_to_clients(&at_once));
            let same = sent(&world) == sent(&before) && sent_to_clients(&world) == sent_to_clients(&before);
            prop_assert!(same || world.generation > before.generation, "nobody would look after {:?}", some);
        }
    }
}
