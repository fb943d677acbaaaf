//! Each broken set-up is found by one check, and nothing is found in one that is well.

use fairway_lab::status::ComponentStatus;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node as KubeNode;
use serde_json::json;

use super::decide::{before, running};
use super::facts::{Agent, Api, Certificate, Controller, Facts, Node, NodeProxy};
use super::gather::{not_captured, read_dump, trust_domain, without_mesh};
use super::*;
use crate::analyze;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn node(name: &str) -> Node {
    let certificate = Certificate {
        identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        holds: Some((NOW - 100, NOW + DAY)),
        error: None,
    };
    let proxy = NodeProxy {
        clock: Some(0),
        trust_domain: "cluster.local".to_owned(),
        told_trust_domains: vec!["cluster.local".to_owned()],
        clients_count: true,
        is_connected: Some(true),
        silent_seconds: Some(3),
        certificates: vec![certificate],
        pending: Vec::new(),
    };
    let agent = Agent { is_installed: Some(true), not_captured: Vec::new() };
    Node { name: name.to_owned(), proxy: Ok(proxy), agent: Ok(agent) }
}

/// A cluster of two nodes that is well.
fn well() -> Facts {
    let controller = Controller {
        clock: Some(0),
        signer_ends: Some(NOW + 300 * DAY),
        root_ends: Some(NOW + 3000 * DAY),
        ..Controller::default()
    };
    let component = |name: &str, node: &str| ComponentStatus {
        name: name.to_owned(),
        node: Some(node.to_owned()),
        ready: true,
        ..ComponentStatus::default()
    };
    let proxy = |node: &str| -> crate::proxy_status::Proxy {
        serde_json::from_value(json!({
            "name": format!("ztunnel-{node}.fairway-system"), "kind": "ztunnel", "node": node, "version": "0.1.0",
            "types": {"istio.workload.Address": {"sent": 7, "acked": 7, "nacked": null}},
        }))
        .unwrap()
    };
    Facts {
        now: NOW,
        is_lab: false,
        mesh_namespace: "fairway-system".to_owned(),
        machine: None,
        api: Some(Ok(Api { version: "v1.33.1".to_owned(), clock: Some(0), ..Api::default() })),
        components: vec![
            component("ztunnel-a", "node-1"),
            component("ztunnel-b", "node-2"),
            component("cni-b", "node-2"),
        ],
        controllers: vec![("controller-0".to_owned(), Ok(controller))],
        proxies: Ok(vec![proxy("node-1"), proxy("node-2")]),
        nodes: vec![node("node-1"), node("node-2")],
        objects: Ok(Vec::new()),
    }
}

/// The checks that do not hold: their names, worst first as they are listed, and what the first says to do.
fn found(facts: &Facts) -> (Vec<(&'static str, Outcome)>, String) {
    let sections = running(facts);
    let bad: Vec<&Check> =
        sections.iter().flat_map(|section| &section.checks).filter(|it| it.outcome != Outcome::Good).collect();
    let hint = bad.first().and_then(|check| check.hint.clone()).unwrap_or_default();
    (bad.iter().map(|check| (check.id, check.outcome)).collect(), hint)
}

fn objects(manifests: &str) -> Vec<analyze::Message> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), manifests).unwrap();
    let loaded = fairway_core::source::directory::load(directory.path(), None);
    analyze::look(loaded, &fairway_controller::translate::Settings::default(), true)
}

#[test]
fn a_mesh_that_is_well_is_said_to_be() {
    let sections = running(&well());
    assert_eq!(worst(&sections), Outcome::Good, "{sections:#?}");
    let text = shown(&Answer { outcome: worst(&sections), sections }, false);
    assert!(text.contains("control plane\n  ✓ the mesh is installed (3 parts)\n"), "{text}");
    assert!(text.ends_with("0 doubtful, 0 failed\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

/// What breaks a set-up, and what finds it.
type Row<'a> = (&'a str, Box<dyn Fn(&mut Facts)>, &'a str, Outcome, &'a str);

fn controller(facts: &mut Facts) -> &mut Controller {
    facts.controllers[0].1.as_mut().unwrap()
}

fn api(facts: &mut Facts) -> &mut Api {
    facts.api.as_mut().unwrap().as_mut().unwrap()
}

fn proxy(facts: &mut Facts) -> &mut NodeProxy {
    facts.nodes[1].proxy.as_mut().unwrap()
}

#[test]
fn each_broken_set_up_is_found_by_its_check_alone_and_the_hint_says_what_to_do() {
    use Outcome::{Failed, Warning};
    const POLICY: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ambient.istio.io/redirection: enabled}}\n\
        spec: {containers: []}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n\
        spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}\n";
    const BOUND: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: way}}\n\
        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
    const WAYPOINT: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\n\
        spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
        status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}\n---\n";
    const DOWN: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: way-0, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: way}}\n\
        spec: {containers: []}\nstatus: {phase: Running, podIP: 10.0.0.9, conditions: [{type: Ready, status: \"False\"}]}\n";
    let rows: Vec<Row<'_>> = vec![
        (
            "expired authority",
            Box::new(|it| controller(it).root_ends = Some(NOW - 60)),
            "authority-valid",
            Failed,
            "authority.md",
        ),
        (
            "ending authority",
            Box::new(|it| controller(it).signer_ends = Some(NOW + DAY)),
            "authority-lasts",
            Warning,
            "authority.md",
        ),
        (
            "broken authority",
            Box::new(|it| controller(it).authority_refused = true),
            "authority-usable",
            Failed,
            "logs controller-0",
        ),
        ("stale objects", Box::new(|it| controller(it).stale_seconds = 9), "objects-read", Failed, "logs controller-0"),
        (
            "plugin removed from the chain",
            Box::new(|it| it.nodes[1].agent.as_mut().unwrap().is_installed = Some(false)),
            "plugin-installed",
            Failed,
            "logs cni-b",
        ),
        ("NetworkPolicy", Box::new(|it| it.objects = Ok(objects(POLICY))), "tunnels-admitted", Failed, "port: 15008"),
        ("clock skew", Box::new(|it| proxy(it).clock = Some(-400)), "clocks-agree", Failed, "timedatectl set-ntp true"),
        ("little skew", Box::new(|it| proxy(it).clock = Some(9)), "clocks-close", Warning, "timedatectl"),
        (
            "wrong trust domain",
            Box::new(|it| proxy(it).trust_domain = "elsewhere".to_owned()),
            "trust-domain",
            Failed,
            "TRUST_DOMAIN",
        ),
        (
            "missing definition",
            Box::new(|it| api(it).missing_kinds = vec!["ratelimits.fairway.dev".to_owned()]),
            "kinds-defined",
            Failed,
            "kubectl create -f manifests/chart/crds",
        ),
        (
            "Gateway API missing, and no waypoints installed",
            Box::new(|it| api(it).missing_kinds = vec!["gateways.gateway.networking.k8s.io".to_owned()]),
            "gateway-api",
            Warning,
            "waypoints.enabled=false",
        ),
        (
            "Gateway API missing below waypoints",
            Box::new(|it| {
                api(it).missing_kinds = vec!["gateways.gateway.networking.k8s.io".to_owned()];
                api(it).has_waypoint_class = true;
            }),
            "kinds-defined",
            Failed,
            "standard channel",
        ),
        (
            "old Kubernetes",
            Box::new(|it| api(it).version = "v1.29.9".to_owned()),
            "kubernetes-version",
            Warning,
            "upgrade the cluster",
        ),
        (
            "waypoint missing",
            Box::new(|it| it.objects = Ok(objects(BOUND))),
            "waypoints-usable",
            Failed,
            "fairway waypoint apply --namespace shop --name way --wait",
        ),
        (
            "waypoint down",
            Box::new(|it| it.objects = Ok(objects(&format!("{WAYPOINT}{DOWN}")))),
            "waypoints-up",
            Failed,
            "deleting it",
        ),
        (
            "mesh configuration refused",
            Box::new(|it| controller(it).mesh_config_refused = true),
            "mesh-config-usable",
            Failed,
            "fairway analyze",
        ),
        (
            "ztunnel down on one node",
            Box::new(|it| it.nodes[1].proxy = Err("connection refused".to_owned())),
            "proxies-answer",
            Failed,
            "delete pod ztunnel-b",
        ),
        ("cut off", Box::new(|it| proxy(it).is_connected = Some(false)), "controller-reached", Failed, "15012"),
        ("silence", Box::new(|it| proxy(it).silent_seconds = Some(90)), "controller-reached", Failed, "15012"),
        (
            "stale configuration",
            Box::new(|it| {
                it.proxies.as_mut().unwrap().remove(1);
            }),
            "configuration-current",
            Failed,
            "fairway proxy-status",
        ),
        (
            "port 15008 taken",
            Box::new(|it| {
                let error = "binding 0.0.0.0:15008: Address already in use (os error 98)".to_owned();
                proxy(it).pending = vec![("shop/web".to_owned(), error)];
                it.nodes[1].agent.as_mut().unwrap().not_captured = vec![("shop/web".to_owned(), None)];
            }),
            "ports-free",
            Failed,
            "another port",
        ),
        (
            "pod left out",
            Box::new(|it| it.nodes[0].agent.as_mut().unwrap().not_captured = vec![("shop/web".to_owned(), None)]),
            "pods-captured",
            Failed,
            "kubectl describe pod",
        ),
        (
            "no certificate",
            Box::new(|it| proxy(it).certificates[0].holds = None),
            "certificates-valid",
            Failed,
            "authority",
        ),
        (
            "certificate of another time",
            Box::new(|it| proxy(it).certificates[0].holds = Some((NOW + 900, NOW + DAY))),
            "certificates-valid",
            Failed,
            "clocks",
        ),
        (
            "certificate not renewed",
            Box::new(|it| proxy(it).certificates[0].holds = Some((NOW - DAY, NOW + 600))),
            "certificates-renewed",
            Warning,
            "audit log",
        ),
        (
            "no API server",
            Box::new(|it| it.api = Some(Err("refused".to_owned()))),
            "api-server",
            Failed,
            "kubectl version",
        ),
        (
            "a part that is not ready",
            Box::new(|it| it.components[0].ready = false),
            "parts-ready",
            Failed,
            "logs ztunnel-a",
        ),
    ];
    for (what, break_it, check, outcome, hint) in rows {
        let mut facts = well();
        break_it(&mut facts);
        let (bad, said) = found(&facts);
        assert_eq!(bad, [(check, outcome)], "{what}");
        assert!(said.contains(hint), "{what}: {said}");
    }
}

#[test]
fn a_clock_of_ours_that_is_wrong_is_not_the_nodes_fault() {
    let mut facts = well();
    for node in &mut facts.nodes {
        node.proxy.as_mut().unwrap().clock = Some(500);
    }
    controller(&mut facts).clock = Some(500);
    api(&mut facts).clock = Some(500);
    assert_eq!(found(&facts).0, []);
}

#[test]
fn before_the_installation_rights_and_platform_count() {
    let mut facts = well();
    assert_eq!(worst(&before(&facts)), Outcome::Good);
    api(&mut facts).denied = vec!["daemonsets".to_owned()];
    let sections = before(&facts);
    let text = shown(&Answer { outcome: worst(&sections), sections }, false);
    assert!(
        text.contains("× you may create what an installation creates\n    - you may not create daemonsets\n    fix: "),
        "{text}"
    );
}

#[test]
fn before_the_installation_kinds_of_gateway_api_alone_are_asked_for() {
    for (missing, outcome) in [
        ("ratelimits.fairway.dev", Outcome::Good),
        ("authorizationpolicies.security.istio.io", Outcome::Good),
        ("gateways.gateway.networking.k8s.io", Outcome::Warning),
    ] {
        let mut facts = well();
        api(&mut facts).missing_kinds = vec![missing.to_owned()];
        let sections = before(&facts);
        assert_eq!(worst(&sections), outcome, "{missing}");
        let text = shown(&Answer { outcome, sections }, false);
        assert_eq!(text.contains("waypoints.enabled=false"), outcome == Outcome::Warning, "{text}");
    }
}

#[test]
fn nodes_that_nothing_of_the_mesh_is_meant_for_are_left_out() {
    let node = |name: &str, labels: serde_json::Value| -> KubeNode {
        let metadata = json!({"name": name, "labels": labels});
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata})).unwrap()
    };
    let nodes = [
        node("linux", json!({"kubernetes.io/os": "linux"})),
        node("windows", json!({"kubernetes.io/os": "windows"})),
        node("virtual", json!({"kubernetes.io/os": "linux", "type": "virtual-kubelet"})),
    ];
    let set = |account: &str, selector: serde_json::Value| -> DaemonSet {
        let template = json!({"spec": {"serviceAccountName": account, "nodeSelector": selector, "containers": []}});
        let spec = json!({"selector": {}, "template": template});
        let metadata = json!({"name": account});
        let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec});
        serde_json::from_value(set).unwrap()
    };
    let linux = json!({"kubernetes.io/os": "linux"});
    for (sets, expected) in [
        (vec![set("ztunnel", linux.clone()), set("fairway-cni", linux)], vec!["virtual", "windows"]),
        (vec![set("ztunnel", json!({}))], vec!["virtual"]),
        (vec![set("other", json!({"none": "such"}))], vec!["virtual"]),
        (Vec::new(), vec!["virtual"]),
    ] {
        assert_eq!(without_mesh(&nodes, &sets).into_iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn the_trust_domain_is_what_all_proxies_say() {
    let mut facts = well();
    assert_eq!(trust_domain(&facts.nodes), "cluster.local");
    proxy(&mut facts).trust_domain = "elsewhere".to_owned();
    assert_eq!(trust_domain(&facts.nodes), "", "they do not agree");
    facts.nodes[0].proxy = Err("refused".to_owned());
    assert_eq!(trust_domain(&facts.nodes), "elsewhere");
}

#[test]
fn before_a_lab_the_machine_counts() {
    let mut facts = Facts { api: None, is_lab: true, machine: Some(Ok(())), ..well() };
    assert_eq!(worst(&before(&facts)), Outcome::Good);
    assert!(!before(&facts).is_empty(), "something is said");
    facts.machine = Some(Err("`nft` is not installed".to_owned()));
    assert_eq!(worst(&before(&facts)), Outcome::Failed);
}

#[test]
fn pages_are_read() {
    let dump = json!({
        "workloads": [{"trustDomain": "a"}, {"trustDomain": "a"}, {"trustDomain": ""}],
        "config": {"trustDomain": "b"},
        "configuration": {"connected": false, "secondsSinceContact": 7},
        "certificates": [
            {"identity": "x", "state": "Available", "certChain": [{"validFrom": "1970-01-01T00:00:05Z", "expirationTime": "1970-01-01T00:01:00Z"}]},
            {"identity": "y", "state": "Unavailable: no", "certChain": []},
        ],
        "workloadState": {"u": {"state": "Pending", "error": "in use", "info": {"namespace": "shop", "name": "web"}},
            "v": {"state": "Up", "info": {"namespace": "shop", "name": "up"}}},
    });
    let read = read_dump(&dump);
    assert_eq!((read.trust_domain.as_str(), read.told_trust_domains.as_slice()), ("b", ["a".to_owned()].as_slice()));
    assert_eq!((read.is_connected, read.silent_seconds), (Some(false), Some(7)));
    assert_eq!(read.pending, [("shop/web".to_owned(), "in use".to_owned())]);
    assert_eq!(read.certificates[0].holds, Some((5, 60)));
    assert_eq!((read.certificates[1].holds, read.certificates[1].error.as_deref()), (None, Some("Unavailable: no")));
    let pods = json!({"pods": [
        {"namespace": "shop", "name": "in", "desired": "captured", "actual": "captured", "error": null},
        {"namespace": "shop", "name": "late", "desired": "captured", "actual": "pending", "error": "why"},
        {"namespace": "shop", "name": "out", "desired": "excluded", "actual": "absent", "error": null},
    ]});
    assert_eq!(not_captured(&pods), [("shop/late".to_owned(), Some("why".to_owned()))]);
}
