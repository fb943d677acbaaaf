//! A lab's state as tables for people.

use serde_json::Value;

use super::{ComponentStatus, ManifestError, PodStatus, Status};
use crate::render::{Cell, MAX_COLUMNS, Tone, table, wrap};

/// Everything.
#[must_use]
pub fn tables(status: &Status, colour: bool) -> String {
    let supervisor = status.supervisor.map_or_else(|| "not running".to_owned(), |pid| format!("pid {pid}"));
    let mut text = format!("lab {} ({supervisor}), state in {}\n", status.name, status.directory);
    let mut section = |title: &str, header: &[&str], rows: Vec<Vec<Cell>>| {
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}\n{}", table(header, &rows, colour)));
        }
    };
    section("Components", COMPONENT_HEADER, components(status));
    section("Nodes", &["NAME", "ADDRESSES", "PODS"], nodes(status));
    section("Pods", POD_HEADER, status.pods.iter().map(pod).collect());
    let notes: Vec<Vec<Cell>> = status.pods.iter().filter_map(note).collect();
    section("Notes", &["POD", "MESSAGE"], notes);
    section("Services", &["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "ENDPOINTS"], services(status));
    section(
        "Proxies",
        &["NAME", "NODE", "VERSION", "RESOURCES", "SENT", "ACKED", "REJECTED"],
        proxies(&status.proxies),
    );
    let unknown =
        status.unknown_kinds.iter().map(|object| vec![plain(&object.kind), plain(&object.name), plain(&object.file)]);
    section("Objects of unknown kinds", &["KIND", "NAME", "FILE"], unknown.collect());
    if !status.errors.is_empty() {
        text.push_str("\nManifest errors, each of which keeps what was there before\n");
    }
    for error in &status.errors {
        text.push_str(&describe(error, colour));
    }
    text
}

/// Components and pods only.
#[must_use]
pub fn brief(status: &Status, colour: bool) -> String {
    let components = table(COMPONENT_HEADER, &components(status), colour);
    let pods: Vec<Vec<Cell>> = status.pods.iter().map(pod).collect();
    format!("{components}\n{}", table(POD_HEADER, &pods, colour))
}

const COMPONENT_HEADER: &[&str] = &["COMPONENT", "PID", "READY", "RESTARTS", "MEMORY", "MESSAGE"];
const POD_HEADER: &[&str] = &["NAMESPACE", "POD", "NODE", "ADDRESSES", "PHASE", "READY", "MESH", "RESTARTS"];

fn plain(text: &str) -> Cell {
    Cell::from(text)
}

fn yes(holds: bool) -> Cell {
    if holds { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Doubtful) }
}

fn restarts(count: u32) -> Cell {
    Cell::toned(count.to_string(), if count == 0 { Tone::Plain } else { Tone::Doubtful })
}

fn components(status: &Status) -> Vec<Vec<Cell>> {
    let row = |component: &ComponentStatus| {
        vec![
            plain(&component.name),
            component.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()).into(),
            yes(component.ready),
            restarts(component.restarts),
            component.memory.map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes >> 20)).into(),
            plain(component.message.as_deref().unwrap_or_default()),
        ]
    };
    status.components.iter().map(row).collect()
}

fn nodes(status: &Status) -> Vec<Vec<Cell>> {
    status
        .nodes
        .iter()
        .map(|node| vec![plain(&node.name), node.addresses.join(" ").into(), node.pods.to_string().into()])
        .collect()
}

fn pod(pod: &PodStatus) -> Vec<Cell> {
    let phase = match pod.phase.as_str() {
        "Running" | "Succeeded" => Tone::Good,
        "Failed" => Tone::Bad,
        _ => Tone::Doubtful,
    };
    vec![
        plain(&pod.namespace),
        plain(&pod.name),
        plain(pod.node.as_deref().unwrap_or("-")),
        pod.addresses.join(" ").into(),
        Cell::toned(&pod.phase, phase),
        yes(pod.ready),
        if pod.captured { Cell::toned("yes", Tone::Good) } else { plain("no") },
        restarts(pod.restarts),
    ]
}

fn note(pod: &PodStatus) -> Option<Vec<Cell>> {
    Some(vec![format!("{}/{}", pod.namespace, pod.name).into(), plain(pod.message.as_deref()?)])
}

fn services(status: &Status) -> Vec<Vec<Cell>> {
    let row = |service: &super::ServiceStatus| {
        let tone = if service.endpoints == 0 { Tone::Doubtful } else { Tone::Plain };
        let addresses = if service.addresses.is_empty() { "headless".to_owned() } else { service.addresses.join(" ") };
        vec![
            plain(&service.namespace),
            plain(&service.name),
            addresses.into(),
            service.ports.join(",").into(),
            Cell::toned(service.endpoints.to_string(), tone),
        ]
    };
    status.services.iter().map(row).collect()
}

/// One row per proxy and type of resource.
fn proxies(proxies: &Value) -> Vec<Vec<Cell>> {
    let text = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    // `KIND~ADDRESS~NAME.NAMESPACE~DOMAIN` (interop §3.2).
    let called = |proxy: &Value| {
        let id = text(proxy, "id");
        id.split('~').nth(2).map_or_else(|| id.clone(), str::to_owned)
    };
    let mut rows = Vec::new();
    for proxy in proxies.as_array().into_iter().flatten() {
        for (name, kind) in proxy.get("types").and_then(Value::as_object).into_iter().flatten() {
            let short = name.rsplit('.').next().unwrap_or(name);
            let rejected = text(kind, "nacked");
            let tone = if rejected == "-" { Tone::Plain } else { Tone::Bad };
            rows.push(vec![
                called(proxy).into(),
                text(proxy, "node").into(),
                text(proxy, "version").into(),
                plain(short),
                text(kind, "sent").into(),
                text(kind, "acked").into(),
                Cell::toned(rejected, tone),
            ]);
        }
    }
    rows
}

/// Not cut like a table's cell: the end of the message may be what helps.
fn describe(error: &ManifestError, colour: bool) -> String {
    let place = [error.line, error.column].into_iter().flatten().map(|number| format!(":{number}"));
    let place = format!("{}{}", error.file, place.collect::<String>());
    let place = if colour { format!("\x1b[31m{place}\x1b[0m") } else { place };
    let field = error.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let message = wrap(&format!("{field}{}", error.message), MAX_COLUMNS - INDENT.len());
    let lines: Vec<String> = message.iter().map(|line| format!("{INDENT}{line}\n")).collect();
    format!("{place}\n{}", lines.concat())
}

const INDENT: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn proxies_show_what_they_rejected() {
        let value = json!([{"id": "ztunnel~10.99.0.11~ztunnel-node-1.fairway-system~d", "node": "node-1", "version": "1", "types": {
            "istio.workload.Address": {"sent": 7, "acked": 7, "nacked": null},
            "istio.security.Authorization": {"sent": 1, "acked": 0, "nacked": "no such field"}}}]);
        let status = Status { name: "t".into(), proxies: value, ..Status::default() };
        let text = tables(&status, false);
        assert!(
            text.contains("ztunnel-node-1.fairway-system  node-1  1        Address        7     7      -\n"),
            "{text}"
        );
        assert!(text.contains("no such field"), "{text}");
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let fault = ManifestError {
            file: "shop/pod_client.yaml".into(),
            line: Some(9),
            column: Some(3),
            field: Some("spec.containers".into()),
            message: "expected a list".into(),
        };
        let text = tables(&Status { errors: vec![fault], ..Status::default() }, false);
        assert!(text.contains("shop/pod_client.yaml:9:3\n  spec.containers: expected a list\n"), "{text}");
    }
}
