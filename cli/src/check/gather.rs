//! Gathers facts: asks every part for its pages, the API server for its kinds, and the objects for what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use fairway_controller::translate::Settings;
use fairway_core::source::Kind;
use fairway_core::source::labels::WAYPOINT_CLASS;
use fairway_lab::control::Page;
use fairway_lab::prerequisites;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Api as KubeApi;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

use super::facts::{Agent, Api, Asked, Certificate, Controller, Facts, Node, NodeProxy};
use crate::analyze;
use crate::mesh::{Mesh, Part, Where};
use crate::metrics;
use crate::objects::{Cluster, Objects};
use crate::proxy_status;

/// Kinds that not every cluster has to have: Gateway API's experimental ones. Without them there are no such objects.
const OPTIONAL: [Kind; 3] = [Kind::TCPRoute, Kind::TLSRoute, Kind::BackendTLSPolicy];
/// Service accounts of what runs on nodes, as the chart names them.
const ON_NODES: [&str; 2] = ["ztunnel", "fairway-cni"];
/// Label of nodes that only stand for something else that runs pods, as the virtual kubelet sets it.
const VIRTUAL: (&str, &str) = ("type", "virtual-kubelet");
/// What an installation creates, by group and plural.
const INSTALLED: [(&str, &str); 7] = [
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
];

/// What is known before anything is installed.
pub(super) fn before(place: &Where) -> Facts {
    let mut facts = nothing(place);
    facts.api = match place.objects() {
        Ok(Objects::Cluster(cluster)) => Some(api(&cluster)),
        Ok(Objects::Directory(_)) => None,
        Err(error) => Some(Err(error.to_string())),
    };
    facts.is_lab = matches!(place.lab(), Ok(Some(_)));
    if facts.is_lab {
        let path = prerequisites::search_path(None, &std::env::var("PATH").unwrap_or_default());
        facts.machine = Some(prerequisites::check(&path).map_err(|error| error.to_string()));
    }
    facts
}

/// What is known of a mesh that runs. What cannot be asked is a fact, too.
pub(super) fn running(place: &Where, mesh: &Mesh) -> Facts {
    let mut facts = nothing(place);
    facts.is_lab = mesh.lab().is_some();
    facts.components = mesh.status.components.clone();
    let objects = place.objects();
    let not_ours = match &objects {
        Ok(Objects::Cluster(cluster)) if !facts.is_lab => nodes_without_mesh(cluster, &facts.mesh_namespace),
        _ => BTreeSet::new(),
    };
    let names = mesh.status.nodes.iter().map(|node| node.name.clone()).filter(|name| !not_ours.contains(name));
    let node = |name: String| Node { proxy: node_proxy(mesh, &name), agent: agent(mesh, &name), name };
    facts.nodes = names.map(node).collect();
    match objects {
        Ok(objects) => {
            if let Objects::Cluster(cluster) = &objects {
                facts.api = Some(api(cluster));
            }
            let settings = Settings {
                root_namespace: facts.mesh_namespace.clone(),
                trust_domain: trust_domain(&facts.nodes),
                ..Settings::default()
            };
            let loaded = objects.loaded().map_err(|error| error.to_string());
            // Where none answers nothing hangs on it, as the trust domain is not known then.
            let clients_count =
                facts.nodes.iter().filter_map(|node| node.proxy.as_ref().ok()).all(|it| it.clients_count);
            facts.objects = loaded.map(|loaded| analyze::look(loaded, &settings, clients_count));
        }
        Err(error) => facts.objects = Err(error.to_string()),
    }
    facts.controllers = mesh.replicas().into_iter().map(|name| (name.clone(), controller(mesh, &name))).collect();
    facts.proxies = proxy_status::proxies(mesh).map_err(|error| error.to_string());
    facts
}

/// The trust domain that the proxies agree on; empty when they do not, or none could be asked.
pub(super) fn trust_domain(nodes: &[Node]) -> String {
    let known = nodes.iter().filter_map(|node| Some(node.proxy.as_ref().ok()?.trust_domain.as_str()));
    let known: BTreeSet<&str> = known.filter(|domain| !domain.is_empty()).collect();
    if known.len() == 1 { known.into_iter().collect() } else { String::new() }
}

/// Nodes that the mesh is not meant for. When nobody says so, it is meant for all.
fn nodes_without_mesh(cluster: &Cluster, namespace: &str) -> BTreeSet<String> {
    let nodes: KubeApi<KubeNode> = KubeApi::all(cluster.client());
    let sets: KubeApi<DaemonSet> = KubeApi::namespaced(cluster.client(), namespace);
    let all = ListParams::default();
    let nodes = cluster.run(nodes.list(&all)).map(|list| list.items).unwrap_or_default();
    let sets = cluster.run(sets.list(&all)).map(|list| list.items).unwrap_or_default();
    without_mesh(&nodes, &sets)
}

/// Nodes that no DaemonSet of the mesh selects, such as those with Windows, and those that are none.
pub(super) fn without_mesh(nodes: &[KubeNode], sets: &[DaemonSet]) -> BTreeSet<String> {
    let pods = sets.iter().filter_map(|set| set.spec.as_ref()?.template.spec.as_ref());
    let ours = pods.filter(|pod| pod.service_account_name.as_deref().is_some_and(|it| ON_NODES.contains(&it)));
    let selectors: Vec<BTreeMap<String, String>> =
        ours.map(|pod| pod.node_selector.clone().unwrap_or_default()).collect();
    let is_ours = |node: &KubeNode| {
        let has = |key: &str, value: &str| {
            node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|it| it == value)
        };
        let is_selected = selectors.iter().any(|selector| selector.iter().all(|(key, value)| has(key, value)));
        !has(VIRTUAL.0, VIRTUAL.1) && (selectors.is_empty() || is_selected)
    };
    nodes.iter().filter(|node| !is_ours(node)).filter_map(|node| node.metadata.name.clone()).collect()
}

fn nothing(place: &Where) -> Facts {
    Facts {
        now: now(),
        is_lab: false,
        mesh_namespace: place.mesh_namespace().to_owned(),
        machine: None,
        api: None,
        components: Vec::new(),
        controllers: Vec::new(),
        proxies: Ok(Vec::new()),
        nodes: Vec::new(),
        objects: Ok(Vec::new()),
    }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// How many seconds the clock of who answered just now is ahead of ours.
fn ahead(date: Option<&str>) -> Option<i64> {
    let date = OffsetDateTime::parse(&date?.replace("GMT", "+0000"), &Rfc2822).ok()?;
    Some(date.unix_timestamp() - now())
}

fn controller(mesh: &Mesh, name: &str) -> Asked<Controller> {
    let part = Part::Replica(name);
    let Page { date, .. } = mesh.page(part, "/ready").map_err(|error| error.to_string())?;
    let clock = ahead(date.as_deref());
    let page = mesh.metrics(part).map_err(|error| error.to_string())?;
    let gauge = |name: &str| metrics::value(&page, name).unwrap_or_default();
    let ends = |of: &str| {
        let mut samples = metrics::read(&page);
        let found = samples.find(|it| it.name == "fairway_authority_expiry_timestamp_seconds" && it.label("of") == of);
        found.map(|sample| whole(sample.value)).filter(|end| *end > 0)
    };
    Ok(Controller {
        clock,
        signer_ends: ends("signer"),
        root_ends: ends("root"),
        authority_refused: gauge("fairway_authority_refused") > 0.0,
        stale_seconds: u64::try_from(whole(gauge("fairway_source_stale_seconds"))).unwrap_or_default(),
        mesh_config_refused: gauge("fairway_mesh_config_refused") > 0.0,
        policies_lost: gauge("fairway_kept_policies_lost") > 0.0,
    })
}

/// A gauge that counts seconds: far below where a double has no whole numbers any more.
#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970 fit; what does not is cut off at the ends")]
fn whole(value: f64) -> i64 {
    value as i64
}

fn node_proxy(mesh: &Mesh, node: &str) -> Asked<NodeProxy> {
    let page = mesh.page(Part::Proxy(node), "/config_dump").map_err(|error| error.to_string())?;
    let dump: Value = serde_json::from_str(&page.body).map_err(|error| format!("its dump cannot be read: {error}"))?;
    Ok(NodeProxy { clock: ahead(page.date.as_deref()), ..read_dump(&dump) })
}

fn list<'a>(dump: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    dump.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// What is looked at of `/config_dump` of a node proxy.
pub(super) fn read_dump(dump: &Value) -> NodeProxy {
    let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let told = list(dump, "workloads").filter_map(|workload| text(workload, "/trustDomain"));
    let told: BTreeSet<String> = told.filter(|domain| !domain.is_empty()).collect();
    let certificate = |it: &Value| {
        let time = |pointer: &str| {
            let parsed = OffsetDateTime::parse(it.pointer(pointer)?.as_str()?, &Rfc3339).ok()?;
            Some(parsed.unix_timestamp())
        };
        Certificate {
            identity: text(it, "/identity").unwrap_or_default(),
            holds: time("/certChain/0/validFrom").zip(time("/certChain/0/expirationTime")),
            error: text(it, "/lastError").or_else(|| text(it, "/state").filter(|state| state != "Available")),
        }
    };
    let states = dump.get("workloadState").and_then(Value::as_object).into_iter().flatten();
    let pending = states.filter_map(|(_, state)| {
        let (namespace, name) = (text(state, "/info/namespace")?, text(state, "/info/name")?);
        Some((format!("{namespace}/{name}"), text(state, "/error")?))
    });
    NodeProxy {
        clock: None,
        trust_domain: text(dump, "/config/trustDomain").unwrap_or_default(),
        told_trust_domains: told.into_iter().collect(),
        clients_count: analyze::clients_count_at(dump),
        is_connected: dump.pointer("/configuration/connected").and_then(Value::as_bool),
        silent_seconds: dump.pointer("/configuration/secondsSinceContact").and_then(Value::as_u64),
        certificates: list(dump, "certificates").map(certificate).collect(),
        pending: pending.collect(),
    }
}

fn agent(mesh: &Mesh, node: &str) -> Asked<Agent> {
    let part = Part::Agent(node);
    let pods: Value = mesh.ask(part, "/debug/pods").map_err(|error| error.to_string())?;
    let page = mesh.metrics(part).map_err(|error| error.to_string())?;
    Ok(Agent {
        is_installed: metrics::value(&page, "istio_cni_install_ready").map(|ready| ready > 0.0),
        not_captured: not_captured(&pods),
    })
}

/// Of `/debug/pods` of an agent, those that should be captured and are not.
pub(super) fn not_captured(pods: &Value) -> Vec<(String, Option<String>)> {
    let text = |pod: &Value, key: &str| pod.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let missing =
        list(pods, "pods").filter(|pod| text(pod, "desired") == "captured" && text(pod, "actual") != "captured");
    let told = |pod: &Value| {
        let error = pod.get("error").and_then(Value::as_str).map(str::to_owned);
        (format!("{}/{}", text(pod, "namespace"), text(pod, "name")), error)
    };
    missing.map(told).collect()
}

/// What the API server has and lets this user do.
fn api(cluster: &Cluster) -> Asked<Api> {
    let client = cluster.client();
    let version = async {
        let request = http::Request::get("/version").body(kube::client::Body::empty());
        let request = request.map_err(|error| error.to_string())?;
        let response = client.send(request).await.map_err(|error| error.to_string())?;
        let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let version = client.apiserver_version().await.map_err(|error| error.to_string())?;
        Ok::<_, String>((version.git_version, ahead(date.as_deref())))
    };
    let (version, clock) = cluster.run(version)?;
    let missing = cluster.run(missing_kinds(&client));
    let has_waypoint_class = cluster.run(has_waypoint_class(&client));
    let denied = cluster.run(denied(&client));
    Ok(Api { version, clock, missing_kinds: missing, has_waypoint_class, denied })
}

/// Where the kind itself is missing, so is the class.
async fn has_waypoint_class(client: &kube::Client) -> bool {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass");
    let kind = ApiResource::from_gvk_with_plural(&kind, "gatewayclasses");
    let classes: KubeApi<DynamicObject> = KubeApi::all_with(client.clone(), &kind);
    classes.get_opt(WAYPOINT_CLASS).await.is_ok_and(|class| class.is_some())
}

/// Kinds that the mesh reads in no version that the server has.
async fn missing_kinds(client: &kube::Client) -> Vec<String> {
    let mut missing = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.group().is_empty() && !OPTIONAL.contains(kind)) {
        let mut is_there = false;
        for version in kind.versions() {
            let resources = client.list_api_group_resources(&format!("{}/{version}", kind.group())).await;
            is_there |= resources.is_ok_and(|list| list.resources.iter().any(|it| it.name == kind.plural()));
        }
        if !is_there {
            missing.push(format!("{}.{}", kind.plural(), kind.group()));
        }
    }
    missing
}

/// What an installation creates and this user may not.
async fn denied(client: &kube::Client) -> Vec<String> {
    let reviews: KubeApi<SelfSubjectAccessReview> = KubeApi::all(client.clone());
    let mut denied = Vec::new();
    for (group, resource) in INSTALLED {
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        // Where nobody can be asked, the installation will tell.
        let answer = reviews.create(&PostParams::default(), &review).await.ok();
        if answer.and_then(|answer| answer.status).is_some_and(|status| !status.allowed) {
            denied.push(resource.to_owned());
        }
    }
    denied
}
