//! What keeps objects from the mesh that their owners asked into it: found here, told as Kubernetes Events, by the replica that
//! leads. That a pod cannot be captured is told by the agent of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use fairway_core::source::cluster::events::{Announcer, Event};
use fairway_core::source::labels::USE_WAYPOINT;
use fairway_core::source::{Kind, MeshPod, ObjectKey, Objects};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::watch;

use crate::state::Published;
use crate::status::lease::Leadership;
use crate::translate::waypoint::selects as selected;

/// Who says it, among all that write Events.
const CONTROLLER: &str = "fairway.dev/controller";
/// Time between looks; Events are no alarm.
const LOOK: Duration = Duration::from_secs(10);
/// What lasts is said again after this time: API servers keep Events for an hour.
const AGAIN: Duration = Duration::from_secs(1_800);
/// Troubles told at a time; objects that have the same are told of together, so more are hardly ever different.
const MOST: usize = 256;
/// Port on which captured pods take tunnels.
const TUNNELS: i32 = 15_008;
/// Annotation of captured pods, with this value.
const REDIRECTION: (&str, &str) = ("ambient.istio.io/redirection", "enabled");

/// Tells of troubles while `leads` says so, until the drain starts.
pub async fn run(
    client: kube::Client,
    mut published: watch::Receiver<Arc<Published>>,
    mut leads: Leadership,
    replica: String,
    mut drain: Drain,
) {
    let announcer = Announcer::start(client, CONTROLLER, &replica);
    let mut said: BTreeMap<(ObjectKey, &str, String), Instant> = BTreeMap::new();
    loop {
        if leads.may_write() {
            let state = Arc::clone(&published.borrow_and_update());
            let now = Instant::now();
            let mut lasting = BTreeMap::new();
            for event in troubles(&state) {
                let key = (event.about.clone(), event.reason, event.message.clone());
                let before = said.get(&key).copied().filter(|before| now.duration_since(*before) < AGAIN);
                if before.is_none() {
                    announcer.say(event);
                }
                lasting.insert(key, before.unwrap_or(now));
            }
            said = lasting;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = drain.started() => return,
        }
        // Nothing new to look at, and nothing to say again for long.
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN) => {}
            _ = drain.started() => return,
        }
    }
}

/// What is to be told, each trouble once for all objects of a namespace that have it.
fn troubles(published: &Published) -> Vec<Event> {
    let objects = &published.loaded.objects;
    let mut all = waypoints(published);
    all.extend(network_policies(objects));
    all.truncate(MOST);
    all
}

/// Services and pods whose waypoint cannot be used.
fn waypoints(published: &Published) -> Vec<Event> {
    let field = format!("metadata.labels[{USE_WAYPOINT}]");
    let mut alike: BTreeMap<(&str, Kind, &str), BTreeSet<&ObjectKey>> = BTreeMap::new();
    for problem in published.problems.iter().filter(|problem| problem.field == field) {
        let key = &problem.object;
        if matches!(key.kind, Kind::Service | Kind::Pod) {
            alike.entry((&key.namespace, key.kind, &problem.message)).or_default().insert(key);
        }
    }
    let objects = &published.loaded.objects;
    let event = |((_, kind, message), keys): ((&str, Kind, &str), BTreeSet<&ObjectKey>)| {
        let first = *keys.first()?;
        let uid = match kind {
            Kind::Service => objects.services.get(first)?.metadata.uid.clone(),
            _ => objects.pods.get(first)?.uid().map(str::to_owned),
        };
        Some(Event {
            about: first.clone(),
            uid: uid.unwrap_or_default(),
            reason: "WaypointNotUsed",
            action: "Bind",
            is_warning: true,
            message: format!("{message}{}", others(keys.len(), "of this namespace")),
        })
    };
    alike.into_iter().filter_map(event).collect()
}

/// How many more there are than the one that is told of.
fn others(count: usize, which: &str) -> String {
    match count.saturating_sub(1) {
        0 => String::new(),
        more => format!(" (so it is with {more} more {which})"),
    }
}

/// Network policies that keep tunnels from captured pods.
pub(crate) fn network_policies(objects: &Objects) -> Vec<Event> {
    let mut by_namespace: BTreeMap<&str, Vec<(&ObjectKey, &NetworkPolicy, &NetworkPolicySpec)>> = BTreeMap::new();
    for (key, policy) in objects.network_policies.iter() {
        if let Some(spec) = policy.spec.as_ref().filter(|spec| is_for_ingress(spec)) {
            by_namespace.entry(&key.namespace).or_default().push((key, policy, spec));
        }
    }
    if by_namespace.is_empty() {
        return Vec::new();
    }
    // By the policy that is told of: the first of those that select the pod.
    let mut blocked: BTreeMap<&ObjectKey, (&NetworkPolicy, Vec<&str>)> = BTreeMap::new();
    for (key, pod) in objects.pods.iter().filter(|(_, pod)| is_captured(pod)) {
        let policies = by_namespace.get(key.namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
        let selecting: Vec<_> = policies.iter().filter(|(_, _, spec)| selects(spec, pod)).collect();
        // What one of them admits is admitted.
        if let Some((policy_key, policy, _)) = selecting.first().filter(|_| !selecting.iter().any(|it| admits(it.2))) {
            blocked.entry(policy_key).or_insert_with(|| (policy, Vec::new())).1.push(&key.name);
        }
    }
    let event = |(key, (policy, pods)): (&ObjectKey, (&NetworkPolicy, Vec<&str>))| Event {
        about: key.clone(),
        uid: policy.metadata.uid.clone().unwrap_or_default(),
        reason: "BlocksTunnels",
        action: "Enrol",
        is_warning: true,
        message: format!(
            "pod {}{} takes tunnels on TCP port {TUNNELS}, which no ingress rule for it admits, so that nobody in the mesh \
             reaches it; admit that port, and say in an AuthorizationPolicy who may do what",
            pods.first().copied().unwrap_or_default(),
            others(pods.len(), "that it selects"),
        ),
    };
    blocked.into_iter().map(event).collect()
}

fn is_captured(pod: &MeshPod) -> bool {
    pod.annotation(REDIRECTION.0) == Some(REDIRECTION.1)
}

fn is_for_ingress(spec: &NetworkPolicySpec) -> bool {
    spec.policy_types.as_ref().is_none_or(|types| types.is_empty() || types.iter().any(|it| it == "Ingress"))
}

fn selects(spec: &NetworkPolicySpec, pod: &MeshPod) -> bool {
    spec.pod_selector.as_ref().is_none_or(|selector| selected(selector, pod))
}

/// Whether any rule admits tunnels, from wherever.
fn admits(spec: &NetworkPolicySpec) -> bool {
    let mut rules = spec.ingress.iter().flatten();
    rules.any(|rule| rule.ports.as_ref().is_none_or(|ports| ports.is_empty() || ports.iter().any(is_for_tunnels)))
}

fn is_for_tunnels(port: &NetworkPolicyPort) -> bool {
    let is_meant = match (&port.port, port.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), None) => *first == TUNNELS,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&TUNNELS),
        // A name of a container's port, which that of the tunnels has not.
        (Some(IntOrString::String(_)), _) => false,
    };
    is_meant && port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::Settings;

    fn told(manifests: &str) -> Vec<(String, &'static str, String)> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        assert_eq!(published.loaded.errors, []);
        troubles(&published).into_iter().map(|event| (event.about.to_string(), event.reason, event.message)).collect()
    }

    fn pod(name: &str, more: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  {{name: {name}, namespace: shop, uid: u-{name}, labels: {{app: {name}}}{more}}}\n\
             spec: {{containers: []}}\n"
        )
    }

    const CAPTURED: &str = ", annotations: {ambient.istio.io/redirection: enabled}";

    #[test]
    fn a_network_policy_that_keeps_tunnels_out_is_told_of() {
        let policy = |name: &str, spec: &str| {
            format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
            )
        };
        let web = "podSelector: {matchLabels: {app: web}}";
        let pods = format!("{}{}", pod("web", CAPTURED), pod("plain", ""));
        for (what, policies, expected) in [
            ("port of the application", policy("a", &format!("{{{web}, ingress: [{{ports: [{{port: 80}}]}}]}}")), true),
            ("nothing", policy("a", &format!("{{{web}}}")), true),
            ("all", policy("a", &format!("{{{web}, ingress: [{{}}]}}")), false),
            (
                "tunnels",
                policy("a", &format!("{{{web}, ingress: [{{ports: [{{port: 80}}, {{port: 15008}}]}}]}}")),
                false,
            ),
            ("a range", policy("a", &format!("{{{web}, ingress: [{{ports: [{{port: 1, endPort: 65535}}]}}]}}")), false),
            ("UDP", policy("a", &format!("{{{web}, ingress: [{{ports: [{{port: 15008, protocol: UDP}}]}}]}}")), true),
            ("egress", policy("a", &format!("{{{web}, policyTypes: [Egress]}}")), false),
            ("a pod outside", policy("a", "{podSelector: {matchLabels: {app: plain}}}"), false),
            (
                "another admits it",
                format!("{}{}", policy("a", &format!("{{{web}}}")), policy("b", "{podSelector: {}, ingress: [{}]}")),
                false,
            ),
        ] {
            let told = told(&format!("{pods}{policies}"));
            assert_eq!(told.len(), usize::from(expected), "{what}: {told:?}");
            if let Some((about, reason, message)) = told.first() {
                assert_eq!((about.as_str(), *reason), ("NetworkPolicy shop/a", "BlocksTunnels"));
                assert!(message.starts_with("pod web takes tunnels on TCP port 15008"), "{message}");
            }
        }
    }

    #[test]
    fn objects_of_a_namespace_with_the_same_trouble_are_told_of_together() {
        let service = |name: &str| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, uid: u, labels: {{istio.io/use-waypoint: way}}}}\n\
                 spec: {{clusterIP: 10.96.0.{}, ports: [{{port: 80}}]}}\n",
                name.len()
            )
        };
        let told = told(&format!("{}{}{}", service("a"), service("bb"), service("ccc")));
        let [(about, reason, message)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((about.as_str(), *reason), ("Service shop/a", "WaypointNotUsed"));
        assert!(message.contains("waypoint shop/way does not exist"), "{message}");
        assert!(message.ends_with("(so it is with 2 more of this namespace)"), "{message}");
    }
}
