//! `fairway status`: the whole mesh at a glance, and what is wrong with it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use fairway_controller::translate::waypoint::is_class;
use fairway_core::source::gateway::Gateway;
use fairway_lab::Result;
use fairway_lab::render::{Cell, Tone, wide_table as table, wrap};
use fairway_lab::status::PodStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;
use crate::proxy_status::{self, Proxy, State};

/// Certificates that end sooner are told of: proxies renew them at half of their time, which is a day.
const EXPIRES_SOON: Duration = Duration::hours(2);
/// A proxy that has not heard from the controller for longer is told of, in seconds.
const SILENT_FOR: u64 = 60;
/// Widest line of what is wrong.
const LINE: usize = 96;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// The mesh; the schema of `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview {
    components: Vec<Component>,
    namespaces: BTreeMap<String, Namespace>,
    proxies: Vec<Proxy>,
    /// What is wrong, worst first.
    trouble: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    name: String,
    ready: bool,
    restarts: u32,
    memory: Option<u64>,
}

/// Pods of a namespace, as the agents of their nodes say.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Namespace {
    pods: usize,
    /// To be captured.
    wanted: usize,
    captured: usize,
}

/// `/debug/pods` of an agent.
#[derive(Debug, Deserialize)]
struct Pods {
    pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    namespace: String,
    name: String,
    desired: String,
    actual: String,
    error: Option<String>,
}

/// What is looked at of `/debug/sources` of the controller.
#[derive(Debug, Deserialize)]
struct Sources {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    #[serde(default, rename = "meshConfigError")]
    mesh_config_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    file: String,
    object: Option<String>,
    field: Option<String>,
    message: String,
}

/// Looks at everything and prints it. What cannot be asked is trouble, not a failure.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| {
        let mesh = arguments.place.mesh()?;
        // Without Gateway API there are none; `fairway check` says what cannot be read.
        let gateways = arguments.place.objects().and_then(|objects| objects.gateways(None)).unwrap_or_default();
        let overview = look(&mesh, &gateways, SystemTime::now())?;
        arguments.format.print(&overview, |colour| shown(&overview, colour))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn look(mesh: &Mesh, gateways: &[Gateway], now: SystemTime) -> Result<Overview> {
    let mut trouble = Vec::new();
    let mut namespaces = BTreeMap::new();
    let components = mesh.status.components.iter().map(|component| {
        if !component.ready {
            let why = component.message.as_deref().unwrap_or("it does not say why");
            trouble.push(format!("{} is not ready: {why}", component.name));
        }
        let (name, ready) = (component.name.clone(), component.ready);
        Component { name, ready, restarts: component.restarts, memory: component.memory }
    });
    let components = components.collect();
    for node in mesh.nodes(None)? {
        match mesh.ask::<Pods>(Part::Agent(&node), "/debug/pods") {
            Ok(pods) => pods.pods.iter().for_each(|pod| count(pod, &mut namespaces, &mut trouble)),
            Err(error) => trouble.push(format!("which pods of {node} are captured is not known: {error}")),
        }
        match mesh.ask::<Value>(Part::Proxy(&node), "/config_dump") {
            Ok(dump) => trouble.extend(of_dump(&node, &dump, now)),
            Err(error) => trouble.push(format!("what the proxy of {node} holds is not known: {error}")),
        }
    }
    let proxies = proxy_status::proxies(mesh).unwrap_or_else(|error| {
        trouble.push(format!("how far the proxies are is not known: {error}"));
        Vec::new()
    });
    trouble.extend(proxies.iter().flat_map(behind));
    trouble.extend(of_waypoints(gateways, &proxies, &mesh.status.pods));
    match mesh.ask::<Sources>(Part::Controller, "/debug/sources") {
        Ok(sources) => {
            trouble.extend(sources.mesh_config_error.as_deref().map(of_mesh_config));
            trouble.extend(sources.errors.iter().chain(&sources.warnings).map(told));
        }
        Err(error) => trouble.push(format!("what is wrong with the objects is not known: {error}")),
    }
    Ok(Overview { components, namespaces, proxies, trouble })
}

fn count(pod: &Pod, namespaces: &mut BTreeMap<String, Namespace>, trouble: &mut Vec<String>) {
    let namespace = namespaces.entry(pod.namespace.clone()).or_default();
    let (wanted, captured) = (pod.desired == "captured", pod.actual == "captured");
    namespace.pods += 1;
    namespace.wanted += usize::from(wanted);
    namespace.captured += usize::from(captured);
    if wanted != captured {
        let what = if wanted { "is not in the mesh, and should be" } else { "is still in the mesh" };
        let why = pod.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        trouble.push(format!("pod {}/{} {what}{why}", pod.namespace, pod.name));
    }
}

/// What a proxy's own dump says is wrong.
fn of_dump(node: &str, dump: &Value, now: SystemTime) -> Vec<String> {
    let mut trouble = Vec::new();
    let silent = dump.pointer("/configuration/secondsSinceContact").and_then(Value::as_u64);
    if dump.pointer("/configuration/connected").and_then(Value::as_bool) == Some(false) {
        let since = silent.map_or_else(|| "since it started".to_owned(), |seconds| format!("for {seconds} s"));
        trouble.push(format!("the proxy of {node} has no connection to the controller {since}; it serves what it has"));
    } else if let Some(seconds) = silent.filter(|seconds| *seconds > SILENT_FOR) {
        trouble.push(format!("the proxy of {node} has not heard from the controller for {seconds} s"));
    }
    let list = |key: &str| dump.get(key).and_then(Value::as_array).into_iter().flatten();
    for rejected in list("rejectedPolicies") {
        let text = |key: &str| rejected.get(key).and_then(Value::as_str).unwrap_or_default();
        trouble.push(format!(
            "the proxy of {node} cannot read policy {}/{}: {}",
            text("namespace"),
            text("name"),
            text("error")
        ));
    }
    let soon = OffsetDateTime::from(now) + EXPIRES_SOON;
    for certificate in list("certificates") {
        let text = |pointer: &str| certificate.pointer(pointer).and_then(Value::as_str);
        let identity = text("/identity").unwrap_or_default();
        match text("/certChain/0/expirationTime").map(|time| OffsetDateTime::parse(time, &Rfc3339)) {
            Some(Ok(end)) if end < soon => {
                let why = text("/lastError").map(|error| format!(": {error}")).unwrap_or_default();
                trouble.push(format!("the certificate of {identity} on {node} ends at {end} and is not renewed{why}"));
            }
            Some(Ok(_)) => {}
            _ => trouble
                .push(format!("{identity} has no certificate on {node}: {}", text("/state").unwrap_or("not known"))),
        }
    }
    trouble
}

fn behind(proxy: &Proxy) -> Vec<String> {
    let of = |(name, sent): (&String, &proxy_status::Sent)| match sent.state() {
        State::Synced => None,
        State::Stale => Some(format!("proxy {} has not taken the last {name} yet", proxy.name)),
        State::Rejected => {
            Some(format!("proxy {} refused {name}: {}", proxy.name, sent.rejection().unwrap_or_default()))
        }
    };
    proxy.types.iter().filter_map(of).collect()
}

/// Waypoints that nobody can come through, and pods of others that are not ready.
fn of_waypoints(gateways: &[Gateway], proxies: &[Proxy], pods: &[PodStatus]) -> Vec<String> {
    let down = gateways.iter().filter(|gateway| is_class(&gateway.spec.gateway_class_name)).filter_map(|gateway| {
        let mut conditions = gateway.status.conditions.iter();
        let said = conditions.find(|it| it.type_ == "Programmed" && it.status == "False")?;
        let metadata = &gateway.metadata;
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        Some(format!("waypoint {}/{} is down: {}", name(&metadata.namespace), name(&metadata.name), said.message))
    });
    let silent = proxies.iter().filter(|proxy| proxy.kind == "waypoint").filter_map(|proxy| {
        let (name, namespace) = proxy.name.rsplit_once('.')?;
        let pod = pods.iter().find(|pod| pod.name == name && pod.namespace == namespace && !pod.ready)?;
        let why = pod.message.as_deref().unwrap_or("it does not say why");
        Some(format!("waypoint pod {namespace}/{name} is not ready, and gets no requests: {why}"))
    });
    down.chain(silent).collect()
}

fn of_mesh_config(error: &str) -> String {
    format!("the mesh configuration cannot be used, and the last good one is in force, or none: {error}")
}

fn told(problem: &Problem) -> String {
    let Problem { file, object, field, message } = problem;
    let named = object.as_deref().or(Some(file)).filter(|name| !name.is_empty());
    let parts = [named, field.as_deref(), Some(message)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

fn shown(overview: &Overview, colour: bool) -> String {
    let yes = |holds: bool| if holds { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) };
    let components: Vec<Vec<Cell>> = (overview.components.iter())
        .map(|component| {
            let memory = component.memory.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
            vec![
                component.name.as_str().into(),
                yes(component.ready),
                component.restarts.to_string().into(),
                memory.into(),
            ]
        })
        .collect();
    let namespaces: Vec<Vec<Cell>> = (overview.namespaces.iter())
        .map(|(name, namespace)| {
            let tone = if namespace.wanted == namespace.captured { Tone::Plain } else { Tone::Bad };
            vec![
                name.as_str().into(),
                namespace.pods.to_string().into(),
                namespace.wanted.to_string().into(),
                Cell::toned(namespace.captured.to_string(), tone),
            ]
        })
        .collect();
    let synced = overview.proxies.iter().filter(|proxy| behind(proxy).is_empty()).count();
    let mut text = table(&["COMPONENT", "READY", "RESTARTS", "MEMORY"], &components, colour);
    text.push_str(&format!("\n{}", table(&["NAMESPACE", "PODS", "ENROLLED", "CAPTURED"], &namespaces, colour)));
    text.push_str(&format!("\n{synced} of {} proxies have what the controller sent last.\n", overview.proxies.len()));
    if overview.trouble.is_empty() {
        text.push_str("Nothing is wrong.\n");
    } else {
        text.push_str("\nWhat is wrong:\n");
    }
    for trouble in &overview.trouble {
        for (number, line) in wrap(trouble, LINE).into_iter().enumerate() {
            text.push_str(&format!("{} {line}\n", if number == 0 { "-" } else { " " }));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_dump_says_is_wrong_is_told() {
        let now = SystemTime::UNIX_EPOCH;
        let certificate =
            |end: &str| json!({"identity": "spiffe://d/ns/a/sa/b", "certChain": [{"expirationTime": end}]});
        let dump = |silent: u64, connected: bool, certificates: Value| {
            json!({"configuration": {"connected": connected, "secondsSinceContact": silent},
                "certificates": certificates, "rejectedPolicies": []})
        };
        let rows = [
            (dump(3, true, json!([certificate("1970-01-01T03:00:00Z")])), None),
            (dump(3, true, json!([certificate("1970-01-01T01:00:00Z")])), Some("is not renewed")),
            (
                dump(3, true, json!([{"identity": "x", "certChain": [], "state": "Unavailable: no"}])),
                Some("Unavailable: no"),
            ),
            (dump(90, true, json!([])), Some("for 90 s")),
            (dump(3, false, json!([])), Some("no connection")),
            (json!({"rejectedPolicies": [{"namespace": "shop", "name": "p", "error": "odd"}]}), Some("shop/p: odd")),
        ];
        for (dump, wanted) in rows {
            let found = of_dump("node-1", &dump, now);
            assert_eq!(found.len(), usize::from(wanted.is_some()), "{found:?}");
            assert!(wanted.is_none_or(|wanted| found.iter().any(|line| line.contains(wanted))), "{found:?}");
        }
    }

    #[test]
    fn a_waypoint_that_is_down_is_told_and_so_is_a_pod_of_one_that_is_not_ready() {
        let gateway = |class: &str, programmed: &str| -> Gateway {
            let time = "2026-01-01T00:00:00Z";
            let condition = json!({"type": "Programmed", "status": programmed, "reason": "r",
                "message": "none of 1 pods is ready", "lastTransitionTime": time});
            serde_json::from_value(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                "metadata": {"name": "way", "namespace": "shop"}, "spec": {"gatewayClassName": class},
                "status": {"conditions": [condition]}}))
            .unwrap()
        };
        for (class, programmed, is_told) in
            [("fairway-waypoint", "False", true), ("fairway-waypoint", "True", false), ("edge", "False", false)]
        {
            let told = of_waypoints(&[gateway(class, programmed)], &[], &[]);
            let wanted = "waypoint shop/way is down: none of 1 pods is ready".to_owned();
            assert_eq!(told, if is_told { vec![wanted] } else { vec![] }, "{class} {programmed}");
        }
        let proxy: Proxy = serde_json::from_value(
            json!({"name": "way-0.shop", "kind": "waypoint", "node": "n", "version": "", "types": {}}),
        )
        .unwrap();
        let pod = |ready: bool| -> PodStatus {
            serde_json::from_value(json!({"namespace": "shop", "name": "way-0", "uid": "u", "node": "n",
                "addresses": [], "phase": "Running", "ready": ready, "pids": [], "restarts": 0, "captured": false,
                "message": "its probe fails"}))
            .unwrap()
        };
        assert_eq!(of_waypoints(&[], std::slice::from_ref(&proxy), &[pod(true)]), Vec::<String>::new());
        let told = of_waypoints(&[], &[proxy], &[pod(false)]);
        assert_eq!(told, ["waypoint pod shop/way-0 is not ready, and gets no requests: its probe fails"]);
    }

    #[test]
    fn a_pod_that_is_not_as_it_should_be_is_told() {
        let pod = |name: &str, desired: &str, actual: &str, error: Option<&str>| Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            desired: desired.to_owned(),
            actual: actual.to_owned(),
            error: error.map(str::to_owned),
        };
        let (mut namespaces, mut trouble) = (BTreeMap::new(), Vec::new());
        for pod in [
            pod("in", "captured", "captured", None),
            pod("out", "excluded", "absent", None),
            pod("late", "captured", "pending", Some("no proxy")),
        ] {
            count(&pod, &mut namespaces, &mut trouble);
        }
        assert_eq!(namespaces["shop"], Namespace { pods: 3, wanted: 2, captured: 1 });
        assert_eq!(trouble, ["pod shop/late is not in the mesh, and should be: no proxy"]);
    }
}
