//! Tests of `status`.

use fairway_core::source::directory::load;
use serde_json::json;

use super::concerned::{Places, Services};
use super::*;
use crate::serve::clients::{Client, TypeStatus};
use crate::serve::session::Refusals;
use crate::translate::Settings;
use crate::world::ResourceType;

const POLICY: &str =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: it, namespace: shop}\n";

fn published(spec: &str) -> Published {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.yaml"), format!("{POLICY}{spec}\n")).unwrap();
    Published::default().next(Arc::new(load(root.path(), None)), &Settings::default())
}

fn only(published: &Published) -> Verdict {
    verdicts(published).into_values().next().unwrap()
}

#[test]
fn verdicts_say_what_became_of_a_policy_by_field() {
    for (spec, condition, holds, reason, words) in [
        ("spec: {}", ZTUNNEL_ACCEPTED, true, "Accepted", "as written"),
        (
            "spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            ZTUNNEL_ACCEPTED,
            false,
            "UnsupportedValue",
            "spec.rules[0].to[0].operation.methods",
        ),
        (
            "spec: {rules: [{to: [{operation: {ports: [http]}}]}]}",
            ZTUNNEL_ACCEPTED,
            false,
            "Invalid",
            "spec.rules[0].to[0].operation.ports[0]",
        ),
        ("spec: {action: MAYBE}", ZTUNNEL_ACCEPTED, false, "Invalid", "spec.action"),
        (
            "spec: {targetRefs: [{kind: Service, name: web}]}",
            WAYPOINT_ACCEPTED,
            false,
            "NeedsWaypoint",
            "spec.targetRefs",
        ),
    ] {
        let verdict = only(&published(spec));
        assert_eq!((verdict.condition, verdict.holds, verdict.reason), (condition, holds, reason), "{spec}");
        assert!(verdict.message.contains(words), "{spec}: {}", verdict.message);
    }
}

#[test]
fn routes_of_one_name_and_two_kinds_are_told_apart() {
    let service = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n---\n"
        )
    };
    let routes = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: it, namespace: shop}\n\
                  spec: {parentRefs: [{group: \"\", kind: Service, name: web}]}\n---\n\
                  apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: it, namespace: shop}\n\
                  spec: {hosts: [api], http: [{route: [{destination: {host: api}}]}]}\n";
    let manifests = format!("{}{}{routes}", service("web", "10.96.0.1"), service("api", "10.96.0.2"));
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
    let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
    let places = Places::of(&published);
    for (kind, service) in [(Kind::HTTPRoute, "web"), (Kind::VirtualService, "api")] {
        let concerned = places.route(&ObjectKey::new(kind, "shop", "it")).unwrap();
        let hostname = format!("{service}.shop.svc.cluster.local");
        assert_eq!(concerned.services, Services::Named(BTreeSet::from([hostname])), "{kind:?}");
    }
    assert!(places.route(&ObjectKey::new(Kind::GRPCRoute, "shop", "it")).is_none());
}

#[test]
fn nothing_is_written_that_is_said_already() {
    let said = |status: &str, message: &str| {
        json!({"type": ZTUNNEL_ACCEPTED, "status": status, "reason": "Accepted", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": null})
    };
    let verdict = only(&published("spec: {}"));
    let message = verdict.message.clone();
    let now = "2026-02-02T00:00:00Z";
    let compare = |present: &[Value]| {
        let (conditions, differs) = verdict.compare(None, present, now);
        (conditions[0]["lastTransitionTime"].as_str().unwrap().to_owned(), differs)
    };
    assert_eq!(compare(&[]), (now.to_owned(), true));
    let before = "2026-01-01T00:00:00Z".to_owned();
    assert_eq!(compare(&[said("True", &message)]), (before.clone(), false));
    assert_eq!(compare(&[said("True", "other")]), (before, true), "still holds since then");
    assert_eq!(compare(&[said("False", &message)]), (now.to_owned(), true));
    let other = json!({"type": WAYPOINT_ACCEPTED, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(compare(&[other]), (now.to_owned(), true));
}

#[test]
fn verdicts_say_what_became_of_a_virtual_service() {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: it, namespace: shop, generation: 3}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
    for (spec, holds, words) in [
        ("{hosts: [web], http: [{route: [{destination: {host: web}}]}]}", true, "as written"),
        (
            "{hosts: [web], http: [{rewrite: {uriRegexRewrite: {}}, route: [{destination: {host: web}}]}]}",
            false,
            "spec.http[0].rewrite.uriRegexRewrite",
        ),
        ("{hosts: [none]}", false, "spec.hosts[0]"),
    ] {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), format!("{head}spec: {spec}\n{service}")).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let verdict = traffic(&published).into_values().next().unwrap();
        assert_eq!((verdict.condition, verdict.holds, verdict.generation), (ACCEPTED, holds, Some(3)), "{spec}");
        assert!(verdict.message.contains(words), "{spec}: {}", verdict.message);
    }
    // One that is for gateways alone is not ours to speak of.
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.yaml"), format!("{head}spec: {{hosts: [web], gateways: [edge]}}\n")).unwrap();
    let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
    assert!(traffic(&published).is_empty());
}

/// States one after the other, as users see them.
struct Mesh {
    root: tempfile::TempDir,
    published: Arc<Published>,
    memory: Memory,
}

impl Mesh {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), published: Arc::default(), memory: Memory::default() }
    }

    fn apply(&mut self, manifests: &str) {
        std::fs::write(self.root.path().join("a.yaml"), manifests).unwrap();
        let loaded = load(self.root.path(), Some(&self.published.loaded));
        self.published = Arc::new(self.published.next(Arc::new(loaded), &Settings::default()));
    }

    /// The reason of what is said of being in force.
    fn programmed(&mut self, clients: &[Client]) -> String {
        let accounts = BTreeSet::from([("fairway-system".to_owned(), "ztunnel".to_owned())]);
        let statements = Survey::of(&self.published).statements(&mut self.memory, clients, &accounts);
        let (key, statement) = statements.iter().find(|(key, _)| key.name == "it").unwrap();
        let (status, _) = statement.compare(&self.published, key, "2026-02-02T00:00:00Z");
        let conditions = status["conditions"].as_array().unwrap();
        let programmed = conditions.iter().find(|condition| condition["type"] == "Programmed").unwrap();
        let reason = programmed["reason"].as_str().unwrap();
        assert_eq!(programmed["status"] == "True", reason == "Programmed", "{status}");
        reason.to_owned()
    }

    /// A proxy that has taken over all there is.
    fn proxy(&self, gateway: Option<&str>) -> Client {
        let generation = self.published.world.generation;
        let kind = if gateway.is_some() { ResourceType::Listener } else { ResourceType::Authorization };
        let refused = Refusals::default();
        let status = TypeStatus { sent: generation, acked: generation, nacked: None, refused, updated: None };
        Client {
            id: "proxy".to_owned(),
            is_node: gateway.is_none(),
            gateway: gateway.map(|name| ("shop".to_owned(), name.to_owned())),
            types: [(kind.short_name(), status)].into(),
            ..Client::default()
        }
    }
}

#[test]
fn nothing_is_in_force_when_nobody_is_left_to_enforce_it() {
    let policy = format!("{POLICY}spec: {{}}\n");
    let mut mesh = Mesh::new();
    mesh.apply(&policy);
    assert_eq!(mesh.programmed(&[]), "NoProxies");
    assert_eq!(mesh.programmed(&[mesh.proxy(None)]), "Programmed");
    assert_eq!(mesh.programmed(&[]), "NoProxies");
    // A proxy that runs is connected to another replica, or on its way: it goes on with what it has.
    let ztunnel = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: ztunnel-a, namespace: fairway-system}\n\
                   spec: {nodeName: a, serviceAccountName: ztunnel, containers: [{name: c, image: none}]}\n\
                   status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: \"True\"}]}\n";
    mesh.apply(&format!("{policy}{ztunnel}"));
    assert_eq!(mesh.programmed(&[]), "NoProxies");
    assert_eq!(mesh.programmed(&[mesh.proxy(None)]), "Programmed");
    assert_eq!(mesh.programmed(&[]), "Programmed");
    mesh.apply(&format!("{policy}{}", ztunnel.replace("\"True\"", "\"False\"")));
    assert_eq!(mesh.programmed(&[]), "NoProxies");
}

const BOUND: &str = "---\napiVersion: v1\nkind: Service\n\
                     metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: WAY}}\n\
                     spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n\
                     ---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\n\
                     spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
                     status: {addresses: [{value: 10.96.0.9}]}\n";

#[test]
fn what_moves_to_another_waypoint_is_in_force_once_that_has_it() {
    let policy = format!("{POLICY}spec: {{targetRefs: [{{kind: Service, group: \"\", name: web}}]}}\n");
    let bound = |to: &str| format!("{policy}{BOUND}{}", BOUND.replace("name: way,", "name: new,")).replace("WAY", to);
    let mut mesh = Mesh::new();
    mesh.apply(&bound("way"));
    let way = mesh.proxy(Some("way"));
    assert_eq!(mesh.programmed(std::slice::from_ref(&way)), "Programmed");
    mesh.apply(&bound("new"));
    let late = Client { id: "late".to_owned(), gateway: Some(("shop".to_owned(), "new".to_owned())), ..way.clone() };
    assert_eq!(mesh.programmed(&[way.clone(), late]), "Pending");
    let new = mesh.proxy(Some("new"));
    assert_eq!(mesh.programmed(&[way.clone(), new.clone()]), "Programmed");
    // Nothing stands before it any more.
    mesh.apply(&bound("none"));
    assert_eq!(mesh.programmed(&[way, new]), "NoProxies");
}

#[test]
fn a_rule_of_destinations_is_in_force_where_endpoints_are_used() {
    let rule = |namespace: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: it, namespace: {namespace}}}\n\
             spec: {{host: web.shop.svc.cluster.local, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}}}}}}}\n"
        )
    };
    let mut mesh = Mesh::new();
    mesh.apply(&format!("{}{}", rule("shop"), BOUND.replace("WAY", "way")));
    assert_eq!(mesh.programmed(&[]), "NoProxies");
    let way = mesh.proxy(Some("way"));
    assert_eq!(mesh.programmed(std::slice::from_ref(&way)), "Programmed");
    // That of a client is for clients of its namespace, which know the service by its waypoint.
    mesh.apply(&format!("{}{}", rule("other"), BOUND.replace("WAY", "way")));
    assert_eq!(mesh.programmed(std::slice::from_ref(&way)), "NoProxies");
    let client = Client { gateway: None, namespace: "other".to_owned(), ..mesh.proxy(Some("way")) };
    assert_eq!(mesh.programmed(&[client]), "Programmed");
}

#[test]
fn a_version_that_is_refused_is_not_in_force_while_the_one_before_it_is() {
    let mut mesh = Mesh::new();
    for spec in ["spec: {}", "spec: {action: MAYBE}", "spec: {}", "spec: {akt: DENY}", "spec: {}"] {
        mesh.apply(&format!("{POLICY}{spec}\n"));
        let expected = if spec == "spec: {}" { "Programmed" } else { "Invalid" };
        assert_eq!(mesh.programmed(&[mesh.proxy(None)]), expected, "{spec}");
    }
}
