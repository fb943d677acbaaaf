//! Batches in any cut and order give the world a naive model gives; lookups follow their rules of precedence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fairway_proto::{security, workload as proto};
use proptest::prelude::*;

use super::{Dump, PodRef, RefusedResource, Snapshot, Update, World};
use crate::{
    addr::NetworkAddress,
    policy::{Applied, Policy, PolicyKey, RejectedPolicy, Scope},
    service::{Service, ServiceKey},
    testing::{
        exact, gateway_by_hostname, network_address, pod, policy, policy_message, presence, service, service_message,
        serving, workload,
    },
    workload::{NetworkMode, Protocol, Workload, WorkloadType},
};

fn address(ip: &str) -> NetworkAddress {
    NetworkAddress::new("", ip.parse().unwrap())
}

fn world(updates: Vec<Update>) -> Arc<Snapshot> {
    World::complete().apply(updates)
}

#[test]
fn conflicting_owners_of_an_address_are_ranked() {
    let kinds = [
        ("other", proto::WorkloadType::Deployment, proto::TunnelProtocol::None),
        ("hbone", proto::WorkloadType::Deployment, proto::TunnelProtocol::Hbone),
        ("pod", proto::WorkloadType::Pod, proto::TunnelProtocol::None),
        ("pod-hbone", proto::WorkloadType::Pod, proto::TunnelProtocol::Hbone),
    ];
    let mut world = World::new();
    for (name, kind, tunnel) in kinds {
        let mut message = pod(name, &["10.0.0.1"]);
        message.workload_type = kind.into();
        message.tunnel_protocol = tunnel.into();
        let snapshot = world.apply(vec![workload(message).into()]);
        assert_eq!(&*snapshot.workload_by_address(&address("10.0.0.1")).unwrap().name, name);
    }
    // And back, as the better ones go.
    for (name, next) in [("pod-hbone", Some("pod")), ("pod", Some("hbone")), ("hbone", Some("other")), ("other", None)]
    {
        let snapshot = world.apply(vec![Update::RemoveAddress(format!("Kubernetes//Pod/shop/{name}"))]);
        assert_eq!(snapshot.workload_by_address(&address("10.0.0.1")).map(|owner| &*owner.name), next);
    }
}

#[test]
fn host_network_workloads_are_not_found_by_address() {
    let mut message = serving(pod("agent", &["10.0.0.1"]), "agents", &[(80, 80)]);
    message.network_mode = proto::NetworkMode::HostNetwork.into();
    let snapshot = world(vec![workload(message).into()]);
    assert_eq!(snapshot.workload_by_address(&address("10.0.0.1")), None);
    assert_eq!(snapshot.endpoints(&ServiceKey::new("shop", "agents")).len(), 1);
}

#[test]
fn addresses_belong_to_their_network() {
    let mut message = pod("web", &["10.0.0.1"]);
    message.network = "east".into();
    let snapshot = world(vec![workload(message).into()]);
    assert_eq!(snapshot.workload_by_address(&address("10.0.0.1")), None);
    assert!(snapshot.workload_by_address(&NetworkAddress::new("east", "10.0.0.1".parse().unwrap())).is_some());
    assert!(snapshot.workload_at(&"east".into(), "::ffff:10.0.0.1".parse().unwrap()).is_some());
}

#[test]
fn an_update_replaces_everything() {
    let mut world = World::new();
    world.apply(vec![workload(serving(pod("web", &["10.0.0.1"]), "old", &[(80, 80)])).into()]);
    let mut message = serving(pod("web", &["10.0.0.2"]), "new", &[(80, 80)]);
    message.node = "n2".into();
    let snapshot = world.apply(vec![workload(message).into()]);
    assert_eq!(snapshot.workload_by_address(&address("10.0.0.1")), None);
    assert!(snapshot.workload_by_address(&address("10.0.0.2")).is_some());
    assert!(snapshot.endpoints(&ServiceKey::new("shop", "old")).is_empty());
    assert_eq!(snapshot.endpoints(&ServiceKey::new("shop", "new")).len(), 1);
    assert!(snapshot.workloads_on("n1").is_empty());
    assert_eq!(snapshot.workloads_on("n2").len(), 1);
    assert_eq!(snapshot.counts().workloads, 1);
}

#[test]
fn what_changes_nothing_keeps_snapshot_and_pointers() {
    let mut world = World::new();
    let updates = || -> Vec<Update> {
        vec![
            workload(pod("web", &["10.0.0.1"])).into(),
            service(service_message("web", &["10.96.0.1"], &[(80, 80)])).into(),
            policy(policy_message("p", security::Scope::Namespace, security::Action::Allow, vec![])).into(),
        ]
    };
    let first = world.apply(updates());
    let again = world.apply(updates());
    assert!(Arc::ptr_eq(&first, &again));
    let gone =
        world.apply(vec![Update::RemoveAddress("nobody".into()), Update::RemovePolicy(PolicyKey::new("a", "b"))]);
    assert!(Arc::ptr_eq(&first, &gone));
    // Something else changes: what did not is still the same object.
    let next = world.apply(vec![workload(pod("other", &["10.0.0.2"])).into()]);
    assert_eq!(next.version(), first.version() + 1);
    let web = |snapshot: &Snapshot| snapshot.workload_by_uid("Kubernetes//Pod/shop/web").unwrap().clone();
    assert!(Arc::ptr_eq(&web(&first), &web(&next)));
    // And the old snapshot is as it was.
    assert_eq!(first.counts().workloads, 1);
    assert_eq!(first.workload_by_address(&address("10.0.0.2")), None);
}

#[test]
fn what_is_staged_is_seen_when_it_is_published_and_not_before() {
    let mut world = World::new();
    let first = world.apply(vec![workload(pod("web", &["10.0.0.1"])).into()]);
    world.stage(workload(pod("other", &["10.0.0.2"])).into());
    world.stage(Update::RemoveAddress("Kubernetes//Pod/shop/web".into()));
    assert!(Arc::ptr_eq(&world.snapshot(), &first));
    let second = world.publish();
    assert_eq!((second.version(), second.counts().workloads), (first.version() + 1, 1));
    assert_eq!(second.workloads_on("n1").len(), 1);
    world.stage(workload(pod("third", &["10.0.0.3"])).into());
    world.discard();
    assert!(Arc::ptr_eq(&world.publish(), &second));
}

#[test]
fn equal_parts_are_shared() {
    let snapshot = world(vec![workload(pod("a", &["10.0.0.1"])).into(), workload(pod("b", &["10.0.0.2"])).into()]);
    let [a, b] = snapshot.workloads_on("n1") else { panic!("two workloads") };
    assert!(Arc::ptr_eq(&a.node, &b.node));
    assert!(Arc::ptr_eq(&a.cluster_id, &b.cluster_id));
    assert_eq!(a.identity.as_str().as_ptr(), b.identity.as_str().as_ptr());
}

#[test]
fn removal_takes_the_workload_first_and_then_the_service() {
    let mut world = World::new();
    let mut confusing = pod("web", &["10.0.0.1"]);
    confusing.uid = "shop/web".into();
    world.apply(vec![workload(confusing).into(), service(service_message("web", &["10.96.0.1"], &[])).into()]);
    let snapshot = world.apply(vec![Update::RemoveAddress("shop/web".into())]);
    assert_eq!((snapshot.counts().workloads, snapshot.counts().services), (0, 1));
    let snapshot = world.apply(vec![Update::RemoveAddress("shop/web".into())]);
    assert_eq!(snapshot.counts().services, 0);
    assert_eq!(snapshot.service_by_vip(&address("10.96.0.1"), "shop"), None);
}

#[test]
fn services_that_share_an_address_are_ranked() {
    let in_namespace = |namespace: &str, canonical, visibility: proto::service::Visibility| {
        let mut message = service_message("web", &["10.96.0.1"], &[]);
        message.namespace = namespace.into();
        message.canonical = canonical;
        message.visibility = visibility.into();
        Update::from(service(message))
    };
    use proto::service::Visibility::{Namespace, Public};
    let snapshot = world(vec![
        in_namespace("a", false, Public),
        in_namespace("b", true, Public),
        in_namespace("c", false, Public),
        in_namespace("0", true, Namespace),
    ]);
    let found = |client: &str| snapshot.service_by_vip(&address("10.96.0.1"), client).unwrap().namespace().to_owned();
    assert_eq!(found("c"), "c");
    assert_eq!(found("other"), "b");
    assert_eq!(found("0"), "0");
    assert_eq!(snapshot.service_by_hostname("web", "c").unwrap().namespace(), "c");
    assert_eq!(snapshot.service_by_hostname("web", "other").unwrap().namespace(), "b");
    assert_eq!(snapshot.service_by_hostname("nothing", "other"), None);
}

#[test]
fn blocks_are_asked_after_addresses() {
    let with = |namespace: &str, hostname: &str, vip: &str, canonical| {
        let mut message = service_message(hostname, &[], &[]);
        message.namespace = namespace.into();
        message.addresses = vec![network_address(vip)];
        message.canonical = canonical;
        Update::from(service(message))
    };
    let mut world = World::new();
    let snapshot = world.apply(vec![
        with("a", "wide", "240.0.0.0/8", false),
        with("b", "narrow", "240.1.0.0/16", false),
        with("c", "narrow-canonical", "240.1.0.0/16", true),
        with("d", "exact", "240.1.0.1/32", false),
    ]);
    let found = |ip: &str, client: &str| {
        snapshot.service_by_vip(&address(ip), client).map(|service| service.hostname().to_owned())
    };
    assert_eq!(found("240.1.0.1", "a").as_deref(), Some("exact"));
    assert_eq!(found("240.1.0.2", "a").as_deref(), Some("wide"));
    assert_eq!(found("240.1.0.2", "b").as_deref(), Some("narrow"));
    assert_eq!(found("240.1.0.2", "x").as_deref(), Some("narrow-canonical"));
    assert_eq!(found("240.2.0.2", "x").as_deref(), Some("wide"));
    assert_eq!(found("241.0.0.1", "x"), None);
    let snapshot = world.apply(vec![Update::RemoveAddress("c/narrow-canonical".into())]);
    assert_eq!(snapshot.service_by_vip(&address("240.1.0.2"), "x").unwrap().hostname(), "narrow");
}

#[test]
fn pods_are_found_as_the_agent_names_them() {
    let snapshot = world(vec![workload(pod("web", &["10.0.0.1"])).into()]);
    let named = |node: Option<&str>, namespace: &str, name: &str, account: &str| PodRef {
        node: node.map(Into::into),
        namespace: namespace.into(),
        name: name.into(),
        service_account: account.into(),
    };
    assert!(snapshot.find_pod(&named(Some("n1"), "shop", "web", "default")).is_some());
    assert!(snapshot.find_pod(&named(None, "shop", "web", "default")).is_some());
    for wrong in [
        named(Some("n2"), "shop", "web", "default"),
        named(Some("n1"), "bank", "web", "default"),
        named(Some("n1"), "shop", "api", "default"),
        named(Some("n1"), "shop", "web", "admin"),
    ] {
        assert_eq!(snapshot.find_pod(&wrong), None, "{wrong:?}");
        assert_eq!(snapshot.view(&wrong).workload, None);
    }
}

#[test]
fn dump_has_the_shape_of_istio() {
    let mut client = serving(pod("web", &["10.0.0.1"]), "web", &[(80, 8080)]);
    client.waypoint = Some(gateway_by_hostname("waypoint"));
    client.authorization_policies = vec!["shop/p".into()];
    let entry = security::Match { principals: vec![exact("a"), presence()], ..Default::default() };
    let mut unfinished = service_message("bad", &[], &[]);
    unfinished.addresses = vec![network_address("240.0.0.0/8")];
    let mut broken = policy_message("broken", security::Scope::Global, security::Action::Deny, vec![]);
    broken.action = 7;
    let snapshot = world(vec![
        workload(client).into(),
        workload(serving(pod("staged", &["10.0.0.2"]), "not-here", &[(80, 80)])).into(),
        service(service_message("web", &["10.96.0.1"], &[(80, 8080), (81, 0)])).into(),
        service(unfinished).into(),
        policy(policy_message("p", security::Scope::WorkloadSelector, security::Action::Allow, vec![entry])).into(),
        Policy::try_from(broken).unwrap_err().into(),
    ]);
    let dump = serde_json::to_value(Dump(&snapshot)).unwrap();
    let web = &dump["workloads"][1];
    assert_eq!(web["uid"], "Kubernetes//Pod/shop/web");
    assert_eq!(web["workloadIps"], serde_json::json!(["10.0.0.1"]));
    assert_eq!(web["protocol"], "HBONE");
    assert_eq!(web["status"], "Healthy");
    assert_eq!(web["serviceAccount"], "default");
    assert_eq!(web["trustDomain"], "cluster.local");
    assert_eq!(web["waypoint"], serde_json::json!({"destination": "shop/waypoint", "hboneMtlsPort": 15008}));
    assert_eq!(web["services"], serde_json::json!(["shop/web"]));
    assert_eq!(web["authorizationPolicies"], serde_json::json!(["shop/p"]));
    assert_eq!(dump["services"][0]["cidrVips"], serde_json::json!(["/240.0.0.0/8"]));
    let service = &dump["services"][1];
    assert_eq!(service["vips"], serde_json::json!(["/10.96.0.1"]));
    assert_eq!(service["ports"], serde_json::json!({"80": 8080, "81": 0}));
    let endpoint = serde_json::json!(
        {"workloadUid": "Kubernetes//Pod/shop/web", "port": {"80": 8080}, "status": "Healthy"});
    assert_eq!(service["endpoints"], serde_json::json!({"Kubernetes//Pod/shop/web": endpoint}));
    assert!(dump["stagedServices"]["shop/not-here"].is_object());
    let rules = serde_json::json!([[[{"principals": [{"Exact": "a"}, {"Presence": null}]}]]]);
    assert_eq!(dump["policies"][0]["rules"], rules);
    assert_eq!(dump["policies"][0]["scope"], "WorkloadSelector");
    assert_eq!(dump["rejectedPolicies"][0]["name"], "broken");
}

/// The world as plain maps, searched from end to end.
#[derive(Default)]
struct Model {
    workloads: BTreeMap<String, Workload>,
    services: BTreeMap<ServiceKey, Service>,
    policies: BTreeMap<PolicyKey, Policy>,
    rejected: BTreeMap<PolicyKey, RejectedPolicy>,
    refused: BTreeMap<Arc<str>, RefusedResource>,
    complete: bool,
}

impl Model {
    fn apply(&mut self, update: Update) {
        match update {
            Update::Workload(workload) => {
                self.refused.remove(workload.uid.as_str());
                self.workloads.insert(workload.uid.to_string(), *workload);
            }
            Update::Service(service) => {
                self.refused.remove(service.key.as_str());
                self.services.insert(service.key.clone(), *service);
            }
            Update::RefusedAddress(resource) => drop(self.refused.insert(resource.name.clone(), *resource)),
            Update::Complete => self.complete = true,
            Update::Policy(policy) => {
                self.rejected.remove(&policy.key);
                self.policies.insert(policy.key.clone(), *policy);
            }
            Update::InvalidPolicy(rejected) => drop(self.rejected.insert(rejected.key.clone(), *rejected)),
            Update::RemoveAddress(name) => {
                self.refused.remove(name.as_str());
                if self.workloads.remove(&name).is_none() {
                    self.services.retain(|key, _| key.as_str() != name);
                }
            }
            Update::RemovePolicy(key) => {
                self.policies.remove(&key);
                self.rejected.remove(&key);
            }
        }
    }

    fn owner(&self, ip: &NetworkAddress) -> Option<&Workload> {
        let rank = |workload: &Workload| {
            let pod = workload.workload_type == WorkloadType::Pod;
            let hbone = workload.protocol == Protocol::Hbone;
            (!pod, !hbone, workload.uid.clone())
        };
        let owns = |workload: &&Workload| {
            workload.network_mode == NetworkMode::Standard
                && workload.network == ip.network
                && workload.addresses.contains(&ip.ip)
        };
        self.workloads.values().filter(owns).min_by_key(|workload| rank(workload))
    }

    fn vip(&self, ip: &NetworkAddress) -> Option<&Service> {
        let has = |service: &&Service| service.vips.contains(ip);
        self.services.values().filter(has).min_by_key(|service| (!service.canonical, service.key.clone()))
    }

    fn endpoints(&self, key: &ServiceKey) -> Vec<&str> {
        let serves = |workload: &&Workload| workload.services.iter().any(|service| service.key == *key);
        self.workloads.values().filter(serves).map(|workload| workload.uid.as_str()).collect()
    }

    /// Keys of the policies that apply to a workload, and whether each is a refusal and for what.
    fn applied(&self, workload: &Workload) -> BTreeSet<(String, Option<bool>)> {
        let covers = |key: &PolicyKey, scope: Option<Scope>| match scope {
            Some(Scope::Global) => true,
            Some(Scope::Namespace) | None => key.namespace() == workload.namespace(),
            Some(Scope::WorkloadSelector) => false,
        };
        let listed = |key: &PolicyKey| workload.authorization_policies.contains(key);
        let mut applied = BTreeSet::new();
        for (key, policy) in &self.policies {
            if covers(key, Some(policy.scope)) || listed(key) {
                applied.insert((key.to_string(), None));
            }
        }
        for (key, rejected) in &self.rejected {
            if !self.policies.contains_key(key) && !rejected.dry_run && (covers(key, rejected.scope) || listed(key)) {
                applied.insert((key.to_string(), Some(true)));
            }
        }
        for key in workload.authorization_policies.iter() {
            if !self.policies.contains_key(key) && !self.rejected.contains_key(key) {
                applied.insert((key.to_string(), Some(false)));
            }
        }
        applied
    }

    fn agrees_with(&self, snapshot: &Snapshot) -> Result<(), TestCaseError> {
        prop_assert_eq!(snapshot.is_complete(), self.complete);
        for last in 0..4_u8 {
            let ip = address(&format!("10.0.0.{last}"));
            let refused = self.refused.values().find(|resource| resource.addresses.contains(&ip));
            prop_assert_eq!(snapshot.refused_address(&ip).map(|resource| &**resource), refused);
        }
        let counts = snapshot.counts();
        prop_assert_eq!(
            (counts.workloads, counts.services, counts.policies, counts.rejected_policies),
            (self.workloads.len(), self.services.len(), self.policies.len(), self.rejected.len())
        );
        for network in ["", "east"] {
            for last in 0..4 {
                let ip = NetworkAddress::new(network, format!("10.0.0.{last}").parse().unwrap());
                prop_assert_eq!(snapshot.workload_by_address(&ip).map(|found| &**found), self.owner(&ip));
                prop_assert_eq!(snapshot.service_by_vip(&ip, "nobody").map(|found| &**found), self.vip(&ip));
            }
        }
        for hostname in ["s0", "s1", "s2"] {
            let key = ServiceKey::new("shop", hostname);
            prop_assert_eq!(snapshot.service(&key).map(|found| &**found), self.services.get(&key));
            let endpoints: Vec<_> =
                snapshot.endpoints(&key).iter().map(|endpoint| endpoint.workload.uid.as_str()).collect();
            prop_assert_eq!(endpoints, self.endpoints(&key));
            for endpoint in snapshot.endpoints(&key) {
                prop_assert_eq!(endpoint.service().map(|service| &service.key), Some(&key));
                prop_assert_eq!(Some(&*endpoint.workload), self.workloads.get(endpoint.workload.uid.as_str()));
            }
        }
        for node in ["n0", "n1"] {
            let on: Vec<_> = snapshot.workloads_on(node).iter().map(|workload| workload.uid.as_str()).collect();
            let expected: Vec<_> = self
                .workloads
                .values()
                .filter(|workload| &*workload.node == node)
                .map(|workload| workload.uid.as_str())
                .collect();
            prop_assert_eq!(on, expected);
        }
        for (uid, expected) in &self.workloads {
            let found = snapshot.workload_by_uid(uid).unwrap();
            prop_assert_eq!(&**found, expected);
            let view = snapshot.view_of(found);
            let applied: BTreeSet<_> = view
                .policies
                .iter()
                .map(|applied| match applied {
                    Applied::Known(policy) => (policy.key.to_string(), None),
                    Applied::Refusing { key, invalid } => (key.to_string(), Some(*invalid)),
                })
                .collect();
            prop_assert_eq!(applied.len(), view.policies.len(), "a policy is there twice");
            prop_assert_eq!(applied, self.applied(expected));
        }
        Ok(())
    }
}

fn some_workload() -> impl Strategy<Value = Update> {
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), any::<bool>());
    let lists = (
        prop::collection::btree_set(0..4_u8, 0..3),
        prop::collection::btree_set(0..3_u8, 0..3),
        prop::collection::btree_set(0..5_u8, 0..3),
    );
    (0..5_u8, flags, lists).prop_map(|(name, (is_pod, hbone, host, east, second), (ips, services, policies))| {
        let ips: Vec<String> = ips.into_iter().map(|last| format!("10.0.0.{last}")).collect();
        let mut message = pod(&format!("w{name}"), &ips.iter().map(String::as_str).collect::<Vec<_>>());
        for service in services {
            message = serving(message, &format!("s{service}"), &[(80, 8080)]);
        }
        if !is_pod {
            message.workload_type = proto::WorkloadType::Deployment.into();
        }
        if !hbone {
            message.tunnel_protocol = proto::TunnelProtocol::None.into();
        }
        if host {
            message.network_mode = proto::NetworkMode::HostNetwork.into();
        }
        if east {
            message.network = "east".into();
        }
        message.node = if second { "n1" } else { "n0" }.into();
        message.authorization_policies = policies.into_iter().map(|policy| format!("shop/p{policy}")).collect();
        workload(message).into()
    })
}

fn some_service() -> impl Strategy<Value = Update> {
    (0..3_u8, prop::collection::btree_set(0..4_u8, 0..3), any::<bool>()).prop_map(|(name, vips, canonical)| {
        let vips: Vec<String> = vips.into_iter().map(|last| format!("10.0.0.{last}")).collect();
        let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
        let mut message = service_message(&format!("s{name}"), &vips, &[(80, 8080)]);
        message.canonical = canonical;
        service(message).into()
    })
}

fn some_policy() -> impl Strategy<Value = Update> {
    (0..5_u8, 0..4_i32, any::<bool>(), prop::bool::weighted(0.4), prop::bool::weighted(0.2)).prop_map(
        |(name, scope, deny, broken, dry_run)| {
            let action = if deny { security::Action::Deny } else { security::Action::Allow };
            let mut message = policy_message(&format!("p{name}"), security::Scope::Global, action, vec![]);
            // Scope 3 does not exist, so that the policy is invalid.
            message.scope = scope;
            message.dry_run = dry_run;
            if broken {
                message.rules[0].clauses[0].matches =
                    vec![security::Match { destination_ports: vec![0], ..Default::default() }];
            }
            match Policy::try_from(message) {
                Ok(policy) => policy.into(),
                Err(rejected) => rejected.into(),
            }
        },
    )
}

fn some_update() -> impl Strategy<Value = Update> {
    prop_oneof![
        4 => some_workload(),
        2 => some_service(),
        3 => some_policy(),
        1 => (0..5_u8, 0..4_u8).prop_map(|(name, last)| {
            let message = pod("refused", &[&format!("10.0.0.{last}")]);
            let name = format!("Kubernetes//Pod/shop/w{name}");
            Update::RefusedAddress(Box::new(RefusedResource::workload(&name, &message)))
        }),
        1 => Just(Update::Complete),
        1 => (0..5_u8).prop_map(|name| Update::RemoveAddress(format!("Kubernetes//Pod/shop/w{name}"))),
        1 => (0..3_u8).prop_map(|name| Update::RemoveAddress(format!("shop/s{name}"))),
        1 => (0..5_u8).prop_map(|name| Update::RemovePolicy(PolicyKey::new("shop", &format!("p{name}")))),
    ]
}

/// What an update is about: only updates about different objects may change places.
fn subject(update: &Update) -> String {
    match update {
        Update::Workload(workload) => workload.uid.to_string(),
        Update::Service(service) => service.key.to_string(),
        Update::Policy(policy) => format!("policy {}", policy.key),
        Update::InvalidPolicy(rejected) => format!("policy {}", rejected.key),
        Update::RefusedAddress(resource) => resource.name.to_string(),
        Update::RemoveAddress(name) => name.clone(),
        Update::RemovePolicy(key) => format!("policy {key}"),
        Update::Complete => "complete".into(),
    }
}

/// Another order of the updates that keeps those about one object in theirs.
fn reorder(updates: &[Update], priorities: &[u32]) -> Vec<Update> {
    let mut slots: Vec<usize> = (0..updates.len()).collect();
    slots.sort_by_key(|index| priorities.get(*index).copied().unwrap_or(0));
    let mut queues: BTreeMap<String, std::collections::VecDeque<Update>> = BTreeMap::new();
    for update in updates {
        queues.entry(subject(update)).or_default().push_back(update.clone());
    }
    slots.into_iter().map(|index| queues.get_mut(&subject(&updates[index])).unwrap().pop_front().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_order_and_batching_gives_the_same_world(
        updates in prop::collection::vec(some_update(), 0..40),
        priorities in prop::collection::vec(any::<u32>(), 40),
        cuts in prop::collection::vec(1..8_usize, 40),
    ) {
        let mut model = Model::default();
        for update in updates.clone() {
            model.apply(update);
        }
        let mut at_once = World::new();
        let one_batch = at_once.apply(updates.clone());
        model.agrees_with(&one_batch)?;

        let mut world = World::new();
        let mut rest = reorder(&updates, &priorities);
        for cut in cuts {
            let batch: Vec<_> = rest.drain(..cut.min(rest.len())).collect();
            world.apply(batch);
        }
        model.agrees_with(&world.apply(rest))?;
    }

    #[test]
    fn snapshots_never_change(
        before in prop::collection::vec(some_update(), 0..20), after in prop::collection::vec(some_update(), 0..20)
    ) {
        let mut world = World::new();
        let old = world.apply(before.clone());
        world.apply(after);
        let mut model = Model::default();
        for update in before {
            model.apply(update);
        }
        model.agrees_with(&old)?;
    }

    #[test]
    fn views_differ_exactly_when_what_decides_differs(
        updates in prop::collection::vec(some_update(), 0..30), last in some_update()
    ) {
        let mut world = World::new();
        let old = world.apply(updates);
        let new = world.apply(vec![last]);
        for workload in new.workloads() {
            let Some(before) = old.workload_by_uid(workload.uid.as_str()) else { continue };
            let (old_view, new_view) = (old.view_of(before), new.view_of(workload));
            let same = **before == **workload
                && old_view.waypoints == new_view.waypoints
                && old_view.policies.len() == new_view.policies.len()
                && old_view.policies.iter().zip(new_view.policies.iter()).all(|(left, right)| left == right);
            prop_assert_eq!(old_view == new_view, same);
        }
    }
}

#[test]
fn pods_are_found_once_the_world_is_complete() {
    let pod_ref =
        PodRef { node: None, namespace: "shop".into(), name: "web".into(), service_account: "default".into() };
    let mut world = World::new();
    let early = world.apply(vec![workload(pod("web", &["10.0.0.1"])).into()]);
    assert!(!early.is_complete() && early.workload_by_address(&address("10.0.0.1")).is_some());
    assert_eq!((early.find_pod(&pod_ref), early.view(&pod_ref)), (None, crate::view::PodView::unknown()));
    let complete = world.apply(vec![Update::Complete]);
    assert!(complete.is_complete() && complete.version() > early.version());
    assert!(complete.find_pod(&pod_ref).is_some());
    assert!(world.apply(vec![workload(pod("other", &["10.0.0.2"])).into()]).is_complete());
}

#[test]
fn rejected_resources_keep_their_addresses_refused_until_they_are_replaced_or_removed() {
    let uid = "Kubernetes//Pod/shop/web";
    let refused =
        |snapshot: &Snapshot, ip: &str| snapshot.refused_address(&address(ip)).map(|one| one.name.to_string());
    let update = |resource| Update::RefusedAddress(Box::new(resource));
    let mut message = pod("web", &["10.0.0.1"]);
    message.addresses.push(vec![1]);
    let mut on_node = pod("agent", &["10.99.0.1"]);
    on_node.network_mode = proto::NetworkMode::HostNetwork.into();
    let mut block = service_message("wide", &["10.96.0.1"], &[]);
    block.addresses.push(network_address("240.0.0.0/8"));
    let mut world = World::complete();
    let snapshot = world.apply(vec![
        update(RefusedResource::workload(uid, &message)),
        update(RefusedResource::workload("agent", &on_node)),
        update(RefusedResource::service("shop/wide", &block)),
    ]);
    assert_eq!(refused(&snapshot, "10.0.0.1").as_deref(), Some(uid));
    assert_eq!(refused(&snapshot, "10.99.0.1"), None);
    assert_eq!(refused(&snapshot, "10.96.0.1").as_deref(), Some("shop/wide"));
    assert_eq!(refused(&snapshot, "240.1.2.3").as_deref(), Some("shop/wide"));
    let again = world.apply(vec![update(RefusedResource::workload(uid, &message))]);
    assert!(Arc::ptr_eq(&snapshot, &again));

    let snapshot = world.apply(vec![
        workload(pod("web", &["10.0.0.1"])).into(),
        Update::RemoveAddress("shop/wide".into()),
        Update::RemoveAddress("agent".into()),
    ]);
    for ip in ["10.0.0.1", "10.96.0.1", "240.1.2.3"] {
        assert_eq!(refused(&snapshot, ip), None, "{ip}");
    }
    // A rejected update leaves the earlier version in use, and speaks for the addresses that are new.
    message.addresses.push(vec![10, 0, 0, 7]);
    let snapshot = world.apply(vec![update(RefusedResource::workload(uid, &message))]);
    assert!(snapshot.workload_by_uid(uid).is_some());
    assert_eq!(refused(&snapshot, "10.0.0.7").as_deref(), Some(uid));
}
