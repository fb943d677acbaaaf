//! What the controller has no word for, because it is nobody's fault alone: objects that do not fit together.

use std::collections::{BTreeMap, BTreeSet};

use fairway_controller::l7;
use fairway_controller::l7::tokens::TOKENS_REFUSED;
use fairway_controller::translate::Settings;
use fairway_core::source::istio::{Action, AuthorizationPolicy, Source};
use fairway_core::source::istio_destination::{DestinationRule, Tls, TrafficPolicy};
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE, HasLabels, NONE, USE_WAYPOINT, WAYPOINT_CLASS};
use fairway_core::source::route::ParentReference;
use fairway_core::source::{Kind, Loaded, MeshPod, ObjectKey, Objects};
use serde_json::Value;

use super::{Message, codes, message, never, waypoints};

/// API groups whose objects are meant for a mesh.
const OF_MESHES: [&str; 6] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "fairway.dev",
];
/// Kinds of those that are read by others, or need not be.
const OF_OTHERS: [&str; 1] = ["GatewayClass"];
/// Labels of namespaces that ask for sidecars.
const INJECTION: [&str; 2] = ["istio-injection", "istio.io/rev"];
/// Label of a namespace that has its waypoint made for it.
const AUTOMATIC: &str = "fairway.dev/waypoint";

/// All of it.
pub(super) fn look(loaded: &Loaded, settings: &Settings, clients_count: bool) -> Vec<Message> {
    let objects = &loaded.objects;
    let mut messages = unknown_kinds(loaded);
    messages.extend(enrolment(objects));
    messages.extend(on_their_nodes(objects));
    messages.extend(without_waypoint(objects, settings));
    messages.extend(waypoints::look(objects));
    messages.extend(keys_missing(objects));
    messages.extend(never::look(objects));
    for (key, policy) in objects.authorization_policies.iter() {
        messages.extend(unknown_namespaces(objects, key, policy));
        if !clients_count {
            messages.extend(waypoint_left_out(objects, key, policy, settings));
        }
    }
    for message in &mut messages {
        let known = message.key.as_ref().and_then(|key| loaded.locate(key, ""));
        message.location = message.location.take().or_else(|| known.map(|location| location.to_string()));
    }
    messages
}

fn unknown_kinds(loaded: &Loaded) -> Vec<Message> {
    let meant = loaded.objects.unknown.iter().filter(|unknown| {
        let group = unknown.api_version.split('/').next().unwrap_or_default();
        OF_MESHES.contains(&group) && !OF_OTHERS.contains(&unknown.kind.as_str())
    });
    let told = |unknown: &fairway_core::source::UnknownKind| {
        let said =
            format!("nothing of {} {} has an effect: the mesh does not read this kind", unknown.kind, unknown.name);
        let mut told = message(codes::UNKNOWN_KIND, None, "kind", said, None);
        told.object = Some(format!("{} {}", unknown.kind, unknown.name));
        told.location = (!unknown.file.is_empty()).then(|| unknown.file.clone());
        told
    };
    meant.map(told).collect()
}

fn enrolment(objects: &Objects) -> Vec<Message> {
    let mut messages = Vec::new();
    let field = format!("metadata.labels[{DATAPLANE_MODE}]");
    let unknown = |key: &ObjectKey, mode: &str| {
        let said = format!("{mode:?} is neither {AMBIENT:?} nor {NONE:?}, so it is as if the label were not there");
        message(codes::UNKNOWN_MODE, Some(key.clone()), &field, said, None)
    };
    for (key, namespace) in objects.namespaces.iter() {
        let mode = namespace.metadata.label(DATAPLANE_MODE);
        if let Some(mode) = mode.filter(|mode| !is_mode(mode)) {
            messages.push(unknown(key, mode));
        }
        let injected = INJECTION
            .into_iter()
            .find(|label| namespace.metadata.label(label).is_some_and(|value| value != "disabled"));
        if let (Some(AMBIENT), Some(label)) = (mode, injected) {
            let said = "asks an injector for sidecars; pods that have one stay outside of this mesh".to_owned();
            messages.push(message(
                codes::SIDECARS_TOO,
                Some(key.clone()),
                &format!("metadata.labels[{label}]"),
                said,
                None,
            ));
        }
    }
    let odd = objects.pods.iter().filter_map(|(key, pod)| Some((key, pod.label(DATAPLANE_MODE)?)));
    messages.extend(odd.filter(|(_, mode)| !is_mode(mode)).map(|(key, mode)| unknown(key, mode)));
    messages
}

fn is_mode(mode: &str) -> bool {
    mode == AMBIENT || mode == NONE
}

/// What the labels of a pod and of its namespace ask for.
fn wants_mesh(objects: &Objects, key: &ObjectKey, pod: &MeshPod) -> bool {
    let of_namespace = || objects.namespace(&key.namespace)?.metadata.label(DATAPLANE_MODE);
    pod.label(DATAPLANE_MODE).or_else(of_namespace) == Some(AMBIENT)
}

fn on_their_nodes(objects: &Objects) -> Vec<Message> {
    let stuck = objects
        .pods
        .iter()
        .filter(|(key, pod)| pod.is_host_network && !pod.is_terminal && wants_mesh(objects, key, pod));
    let told = |key: &ObjectKey| {
        let said = format!(
            "uses its node's network, where its traffic cannot be told from the node's: it stays outside the mesh; \
             take it off hostNetwork, or label it {DATAPLANE_MODE}={NONE} to say that it is meant so"
        );
        message(codes::HOST_NETWORK, Some(key.clone()), "spec.hostNetwork", said, None)
    };
    stuck.map(|(key, _)| told(key)).collect()
}

/// Issuers whose keys cannot be had: the controller alone knows, and says so in a condition.
fn keys_missing(objects: &Objects) -> Vec<Message> {
    let told = objects.request_authentications.iter().filter_map(|(key, authentication)| {
        let conditions = authentication.status.as_ref()?.get("conditions")?.as_array()?;
        let text = |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).map(str::to_owned);
        let is_missing = |condition: &&Value| text(condition, "message").is_some_and(|it| it.contains(TOKENS_REFUSED));
        let condition = conditions.iter().find(is_missing)?;
        let said = text(condition, "message")?;
        Some(message(codes::KEYS_MISSING, Some(key.clone()), "spec.jwtRules", said, None))
    });
    told.collect()
}

/// Whether traffic for a service goes through a waypoint, as far as labels ask for one.
fn has_waypoint(objects: &Objects, service: &ObjectKey) -> bool {
    let namespace = objects.namespace(&service.namespace).map(|namespace| &namespace.metadata);
    let own = match service.kind {
        Kind::ServiceEntry => objects.service_entries.get(service).map(|entry| &entry.metadata),
        _ => objects.services.get(service).map(|service| &service.metadata),
    };
    let label = own.and_then(|own| own.label(USE_WAYPOINT)).or_else(|| namespace?.label(USE_WAYPOINT));
    label.is_some_and(|label| label != NONE) || namespace.is_some_and(|it| it.label(AUTOMATIC).is_some())
}

/// Whether a rule says anything but that TLS is as the mesh has it anyway.
fn asks_for_anything(rule: &DestinationRule) -> bool {
    let is_as_ever = |policy: &TrafficPolicy| {
        let TrafficPolicy { tls, port_level_settings, .. } = policy;
        let is_plain = |tls: &Option<Tls>| {
            let mode = tls.as_ref().and_then(|tls| tls.mode.as_deref());
            matches!(mode, None | Some("DISABLE" | "ISTIO_MUTUAL"))
        };
        let says_more = |policy: &TrafficPolicy| {
            policy.connection_pool.is_some()
                || policy.load_balancer.is_some()
                || policy.outlier_detection.is_some()
                || policy.retry_budget.is_some()
        };
        let ports = port_level_settings.iter().map(|port| &port.policy);
        is_plain(tls) && !says_more(policy) && ports.into_iter().all(|it| is_plain(&it.tls) && !says_more(it))
    };
    let only_tls = rule.spec.traffic_policy.as_ref().is_some_and(is_as_ever) && rule.spec.subsets.is_empty();
    !only_tls
}

/// What is said about requests and connections to services that have no waypoint, and of which only waypoints know.
fn without_waypoint(objects: &Objects, settings: &Settings) -> Vec<Message> {
    let http = objects.http_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    let grpc = objects.grpc_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    let parents = http.chain(grpc).flat_map(|(key, parents)| {
        let services = parents.iter().map(|parent| attached(&key.namespace, parent)).enumerate();
        services.filter_map(move |(index, service)| Some((key, format!("spec.parentRefs[{index}]"), service?)))
    });
    let meant = |key: &ObjectKey, host: &str| l7::named(objects, settings, &key.namespace, host);
    // Between workloads, unless gateways alone are named.
    let is_of_mesh = |gateways: &[String]| gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh");
    let services = objects.virtual_services.iter().filter(|(_, it)| is_of_mesh(&it.spec.gateways));
    let hosts = services.flat_map(|(key, service)| {
        let hosts = service.spec.hosts.iter().enumerate();
        hosts.filter_map(move |(index, host)| Some((key, format!("spec.hosts[{index}]"), meant(key, host)?)))
    });
    let rules = objects.destination_rules.iter().filter(|(_, rule)| asks_for_anything(rule));
    let rules = rules.filter_map(|(key, rule)| Some((key, "spec.host".to_owned(), meant(key, &rule.spec.host)?)));
    let mut messages = Vec::new();
    for (key, field, service) in parents.chain(hosts).chain(rules) {
        // One that is not there is told of by the controller.
        let is_there = objects.services.contains_key(&service) || objects.service_entries.contains_key(&service);
        if is_there && !has_waypoint(objects, &service) {
            let said = format!(
                "{service} has no waypoint, so only clients that route by themselves (gRPC with xDS) follow it; \
                 fairway waypoint apply -n {} --enroll-namespace makes one",
                service.namespace
            );
            messages.push(message(codes::ROUTE_NEEDS_WAYPOINT, Some(key.clone()), &field, said, None));
        }
    }
    messages
}

/// The Service or ServiceEntry that a route is attached to by this reference.
fn attached(namespace: &str, parent: &ParentReference) -> Option<ObjectKey> {
    let kind = match (parent.group.as_deref(), parent.kind.as_deref()) {
        (Some("" | "core"), Some("Service")) => Kind::Service,
        (Some("networking.istio.io"), Some("ServiceEntry")) => Kind::ServiceEntry,
        _ => return None,
    };
    Some(ObjectKey::new(kind, parent.namespace.as_deref().unwrap_or(namespace), &*parent.name))
}

fn sources(policy: &AuthorizationPolicy) -> impl Iterator<Item = (usize, usize, &Source)> {
    policy.spec.rules.iter().enumerate().flat_map(|(rule, it)| {
        let sources = it.from.iter().enumerate();
        sources.filter_map(move |(from, it)| Some((rule, from, it.source.as_ref()?)))
    })
}

/// Namespaces that are named word for word and that nobody has. Without any, whoever looks has files alone.
fn unknown_namespaces(objects: &Objects, key: &ObjectKey, policy: &AuthorizationPolicy) -> Vec<Message> {
    let known: BTreeSet<&str> = objects.namespaces.iter().map(|(key, _)| key.name.as_str()).collect();
    if known.is_empty() {
        return Vec::new();
    }
    let mut messages = Vec::new();
    for (rule, from, source) in sources(policy) {
        let by_account = source.service_accounts.iter().filter_map(|account| Some(account.split_once('/')?.0));
        let by_principal = source.principals.iter().filter_map(|principal| {
            let (_, rest) = principal.split_once("/ns/")?;
            Some(rest.split_once('/')?.0)
        });
        let named = source.namespaces.iter().map(String::as_str).chain(by_account).chain(by_principal);
        let missing: BTreeSet<&str> = named.filter(|name| !name.contains('*') && !known.contains(name)).collect();
        for name in missing {
            let said = format!("there is no namespace {name}, so nobody comes from there");
            let field = format!("spec.rules[{rule}].from[{from}].source");
            messages.push(message(codes::UNKNOWN_NAMESPACE, Some(key.clone()), &field, said, None));
        }
    }
    messages
}

/// An ALLOW policy of workloads all of whose traffic comes through a waypoint, and that lets the waypoint in nowhere.
fn waypoint_left_out(
    objects: &Objects,
    key: &ObjectKey,
    policy: &AuthorizationPolicy,
    settings: &Settings,
) -> Option<Message> {
    let spec = &policy.spec;
    let is_attached = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    if spec.action != Action::Allow || is_attached || spec.rules.is_empty() {
        return None;
    }
    // Nobody knows the trust domain, so nobody knows the identity of a waypoint.
    if settings.trust_domain.is_empty() {
        return None;
    }
    // Rules that take anybody take waypoints; only exact principals say surely that one is left out.
    let by_name = |source: &Source| {
        !source.principals.is_empty()
            && source.namespaces.is_empty()
            && source.service_accounts.is_empty()
            && source.principals.iter().all(|principal| !principal.contains('*'))
    };
    let every = spec
        .rules
        .iter()
        .all(|rule| !rule.from.is_empty() && rule.from.iter().all(|from| from.source.as_ref().is_some_and(by_name)));
    if !every {
        return None;
    }
    let labels = spec.selector.as_ref().map(|selector| &selector.match_labels);
    let waypoints = waypoints_before(objects, &key.namespace, labels, settings);
    let allowed: BTreeSet<&str> = sources(policy).flat_map(|(_, _, it)| &it.principals).map(String::as_str).collect();
    let principal = |name: &str| format!("{}/ns/{}/sa/{name}", settings.trust_domain, key.namespace);
    let left_out = waypoints.into_iter().map(|name| principal(&name)).find(|it| !allowed.contains(it.as_str()))?;
    let said = format!(
        "traffic comes through a waypoint, whose identity {left_out} is not among the principals: all that comes through it is \
         refused, as node proxies do not look at clients behind it (FAIRWAY_CLIENTS_BEHIND_WAYPOINTS); add it, or attach the policy \
         to the service with targetRefs"
    );
    Some(message(codes::WAYPOINT_NOT_ALLOWED, Some(key.clone()), "spec.rules", said, None))
}

/// Names of the waypoints of this namespace before services whose pods a policy selects.
fn waypoints_before(
    objects: &Objects,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
    settings: &Settings,
) -> BTreeSet<String> {
    // A policy of the root namespace selects everywhere; which waypoints that are is not said here.
    if namespace == settings.root_namespace {
        return BTreeSet::new();
    }
    let of_namespace = objects.namespace(namespace).and_then(|it| it.metadata.label(USE_WAYPOINT));
    let meant = objects.services.iter().filter(|(key, service)| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let fits = |selector: &BTreeMap<String, String>| {
            labels.is_none_or(|labels| labels.iter().all(|(key, value)| selector.get(key) == Some(value)))
        };
        key.namespace == namespace && selector.is_some_and(fits)
    });
    let named = meant.filter_map(|(_, service)| service.metadata.label(USE_WAYPOINT).or(of_namespace));
    let is_ours = |name: &&str| {
        let gateway = objects.gateways.get(&ObjectKey::new(Kind::Gateway, namespace, *name));
        gateway.is_some_and(|gateway| gateway.spec.gateway_class_name == WAYPOINT_CLASS)
    };
    named.filter(is_ours).map(str::to_owned).collect()
}
