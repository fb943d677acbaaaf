//! What is done in which order, and what is whose; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fairway_manifests::{MANAGED_BY, PART_OF};
use serde_json::Value;

/// A step of an installation; each is ready before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The kinds that the mesh reads.
    Definitions,
    /// The namespace, accounts, roles, services: what programs need to start.
    Foundation,
    /// Knows what the others ask for.
    Controller,
    /// Before proxies: an older proxy understands a newer agent, and pods stay captured without one.
    Agents,
    /// Last of the programs: connections go through it.
    Proxies,
    /// What makes the API server ask the controller, or controllers work: once they can.
    Switches,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Definitions => "definitions of kinds",
            Self::Foundation => "namespace, accounts, roles, services",
            Self::Controller => "controller",
            Self::Agents => "agents of nodes",
            Self::Proxies => "proxies of nodes",
            Self::Switches => "webhook and class of waypoints",
        })
    }
}

/// Kinds of objects that the chart has or ever had, besides definitions and the namespace: what is looked through for what is
/// to go, in the order in which it goes.
pub(super) const KINDS: [(&str, &str); 13] = [
    // First, so that nothing of what follows is asked about.
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("gateway.networking.k8s.io/v1", "GatewayClass"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("v1", "ServiceAccount"),
    // Last, as one of them says which namespace a removal that was interrupted goes on in.
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
];
/// Name of the controller, and of the binding of its cluster-wide rights.
pub(super) const CONTROLLER: &str = "fairway-controller";

/// When an object is applied.
pub(super) fn stage(object: &Value) -> Stage {
    match (object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or_default()) {
        ("CustomResourceDefinition", _) => Stage::Definitions,
        ("Deployment", _) => Stage::Controller,
        ("DaemonSet", "fairway-cni") => Stage::Agents,
        ("DaemonSet", _) => Stage::Proxies,
        ("ValidatingWebhookConfiguration" | "GatewayClass", _) => Stage::Switches,
        _ => Stage::Foundation,
    }
}

/// Before others of its stage: what they are in, who they run as.
fn rank(object: &Value) -> u8 {
    match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => 0,
        "ServiceAccount" => 1,
        "ClusterRole" | "Role" => 2,
        _ => 3,
    }
}

/// In the order in which they are applied.
pub(super) fn sort(objects: &mut [Value]) {
    objects.sort_by_key(|object| (stage(object), rank(object)));
}

/// By stage, in order.
pub(super) fn stages(mut objects: Vec<Value>) -> BTreeMap<Stage, Vec<Value>> {
    sort(&mut objects);
    let mut stages: BTreeMap<Stage, Vec<Value>> = BTreeMap::new();
    for object in objects {
        stages.entry(stage(&object)).or_default().push(object);
    }
    stages
}

/// Who looks after an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    /// This command.
    Ours,
    /// It is of the mesh, and somebody else installed it.
    Managed(String),
    /// It is not of the mesh.
    Foreign,
}

/// Who looks after an object, as its labels say; definitions of kinds have no manager and are ours if they are the mesh's.
pub(super) fn ownership(object: &Value, manager: &str) -> Ownership {
    let labels = &object["metadata"]["labels"];
    if labels[PART_OF.0] != PART_OF.1 {
        return Ownership::Foreign;
    }
    match labels[MANAGED_BY].as_str() {
        Some(by) if by != manager => Ownership::Managed(by.to_owned()),
        _ => Ownership::Ours,
    }
}

/// The namespace of a mesh, whoever installed it, as the binding of its controller's rights says. Cluster-wide objects have
/// fixed names, so there is one on a cluster.
pub(super) fn home(binding: &Value) -> Option<&str> {
    let is_of_a_mesh = binding["metadata"]["labels"][PART_OF.0] == PART_OF.1;
    binding["subjects"][0]["namespace"].as_str().filter(|_| is_of_a_mesh)
}

/// Whether `namespace` has something of ours. Of cluster-wide objects the binding alone says where they belong.
pub(super) fn is_installed(present: &[Value], namespace: &str, manager: &str) -> bool {
    present.iter().filter(|object| ownership(object, manager) == Ownership::Ours).any(|object| {
        let (kind, place, name) = fairway_manifests::key(object);
        let is_binding = kind == "ClusterRoleBinding" && name == CONTROLLER;
        place == namespace || (is_binding && home(object) == Some(namespace))
    })
}

/// An object that somebody else made, as it is applied: without what says that it is ours, and goes with us.
pub(super) fn unclaimed(mut object: Value) -> Value {
    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
        labels.remove(PART_OF.0);
        labels.remove(MANAGED_BY);
    }
    object
}

/// Of what is there, what is ours and not wanted any more. Another installation's objects are not: it has another namespace.
pub(super) fn leftovers(present: Vec<Value>, wanted: &[Value], namespace: &str, manager: &str) -> Vec<Value> {
    let wanted: BTreeSet<_> = wanted.iter().map(fairway_manifests::key).collect();
    let is_left = |object: &Value| {
        let key = fairway_manifests::key(object);
        let is_here = key.1.is_empty() || key.1 == namespace;
        is_here && !wanted.contains(&key) && ownership(object, manager) == Ownership::Ours
    };
    present.into_iter().filter(is_left).collect()
}

/// Whether `ours` may replace `theirs`: not with something older, which may not understand what the newer one has written.
pub(super) fn may_replace(theirs: &str, ours: &str) -> bool {
    let parts = |version: &str| -> Vec<u64> {
        let release = version.split(['-', '+']).next().unwrap_or_default();
        release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    parts(theirs) <= parts(ours)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, namespace: &str, name: &str, by: &str) -> Value {
        let labels = json!({PART_OF.0: PART_OF.1, MANAGED_BY: by});
        json!({"kind": kind, "metadata": {"namespace": namespace, "name": name, "labels": labels}})
    }

    #[test]
    fn everything_that_the_chart_has_can_be_found_again() {
        let rendered = fairway_manifests::render(&json!({}), "n", "m").unwrap();
        for object in rendered.objects {
            let kind = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
            assert!(KINDS.contains(&kind), "{kind:?} would stay for ever");
        }
    }

    #[test]
    fn programs_come_after_what_they_need_and_proxies_last() {
        let mut objects = fairway_manifests::definitions().unwrap();
        objects.extend(fairway_manifests::render(&json!({"namespace": {"create": true}}), "n", "m").unwrap().objects);
        sort(&mut objects);
        let at = |kind: &str, name: &str| {
            let found =
                objects.iter().position(|it| it["kind"] == kind && (name.is_empty() || it["metadata"]["name"] == name));
            found.unwrap_or_else(|| panic!("{kind} {name}"))
        };
        let order = [
            at("CustomResourceDefinition", ""),
            at("Namespace", ""),
            at("ServiceAccount", ""),
            at("ClusterRole", ""),
            at("ClusterRoleBinding", ""),
            at("Deployment", ""),
            at("DaemonSet", "fairway-cni"),
            at("DaemonSet", "ztunnel"),
            at("ValidatingWebhookConfiguration", ""),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn only_what_is_ours_and_not_wanted_goes() {
        let present = vec![
            object("Service", "n", "kept", "fairway"),
            object("Service", "n", "old", "fairway"),
            object("ClusterRole", "", "old", "fairway"),
            object("Service", "other", "old", "fairway"),
            object("Service", "n", "helms", "Helm"),
            json!({"kind": "Service", "metadata": {"namespace": "n", "name": "theirs"}}),
        ];
        let wanted = [object("Service", "n", "kept", "fairway")];
        let left = leftovers(present, &wanted, "n", "fairway");
        let keys: Vec<_> = left.iter().map(fairway_manifests::key).collect();
        let key = |kind: &str, namespace: &str| (kind.to_owned(), namespace.to_owned(), "old".to_owned());
        assert_eq!(keys, [key("Service", "n"), key("ClusterRole", "")]);
    }

    fn binding(namespace: &str, by: &str) -> Value {
        let mut binding = object("ClusterRoleBinding", "", CONTROLLER, by);
        binding["subjects"] = json!([{"kind": "ServiceAccount", "name": CONTROLLER, "namespace": namespace}]);
        binding
    }

    #[test]
    fn a_mesh_is_where_the_chart_binds_the_controllers_rights() {
        let rendered = fairway_manifests::render(&json!({}), "n", "m").unwrap();
        let homes: Vec<_> = rendered
            .objects
            .iter()
            .filter(|object| object["kind"] == "ClusterRoleBinding" && object["metadata"]["name"] == CONTROLLER)
            .map(home)
            .collect();
        assert_eq!(homes, [Some("n")]);
        let theirs = json!({"metadata": {"name": CONTROLLER}, "subjects": [{"namespace": "n"}]});
        assert_eq!(home(&theirs), None, "a binding of that name that is not of a mesh");
    }

    #[test]
    fn cluster_wide_objects_alone_are_no_installation_in_a_namespace() {
        let role = || object("ClusterRole", "", "fairway-cni", "fairway");
        for (present, expected) in [
            (vec![], false),
            (vec![role(), binding("other", "fairway"), object("Service", "other", "a", "fairway")], false),
            (vec![object("Service", "n", "a", "Helm"), binding("n", "Helm")], false),
            // What an interrupted removal leaves.
            (vec![role(), object("ServiceAccount", "n", "ztunnel", "fairway")], true),
            (vec![role(), binding("n", "fairway")], true),
        ] {
            assert_eq!(is_installed(&present, "n", "fairway"), expected, "{present:?}");
        }
    }

    #[test]
    fn a_namespace_of_others_gets_the_levels_of_pods_and_stays_theirs() {
        let values = json!({"namespace": {"create": true}});
        let objects = fairway_manifests::render(&values, "n", "fairway").unwrap().objects;
        let namespace = objects.into_iter().find(|object| object["kind"] == "Namespace").unwrap();
        assert_eq!(ownership(&namespace, "fairway"), Ownership::Ours);
        let applied = unclaimed(namespace);
        assert_eq!(ownership(&applied, "fairway"), Ownership::Foreign);
        assert_eq!(applied["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    }

    #[test]
    fn owners() {
        assert_eq!(ownership(&object("A", "", "a", "fairway"), "fairway"), Ownership::Ours);
        assert_eq!(ownership(&object("A", "", "a", "Helm"), "fairway"), Ownership::Managed("Helm".to_owned()));
        assert_eq!(ownership(&json!({"metadata": {}}), "fairway"), Ownership::Foreign);
        let definition = fairway_manifests::definitions().unwrap().remove(0);
        assert_eq!(ownership(&definition, "fairway"), Ownership::Ours);
    }

    #[test]
    fn versions_go_up() {
        for (theirs, ours, may) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.0", "0.2.0", true),
            ("0.9.0", "0.10.0", true),
            ("0.2.0", "0.1.9", false),
            ("1.0.0-rc.1", "1.0.0", true),
        ] {
            assert_eq!(may_replace(theirs, ours), may, "{theirs} {ours}");
        }
    }
}
