//! Tables of what node proxies hold, with the columns of `istioctl ztunnel-config` where they fit.

use std::time::SystemTime;

use fairway_lab::render::{Cell, Tone, wide_table as table};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::What;
use super::held::Held;

/// The text at a place in an item (RFC 6901), or a dash.
fn text(item: &Value, pointer: &str) -> String {
    match item.pointer(pointer) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    }
}

fn list<'a>(item: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    item.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn map_values<'a>(item: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    item.get(key).and_then(Value::as_object).into_iter().flat_map(serde_json::Map::values)
}

/// Addresses as they are dialled: the name of the own network before them is empty.
fn addresses(item: &Value, key: &str) -> String {
    let all: Vec<&str> =
        list(item, key).filter_map(Value::as_str).map(|address| address.trim_start_matches('/')).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

/// Namespace and name out of `CLUSTER//Pod/NAMESPACE/NAME`.
fn of_uid(uid: &str) -> String {
    let parts: Vec<&str> = uid.split('/').collect();
    match parts.as_slice() {
        [_, _, _, namespace, name, ..] => format!("{namespace}/{name}"),
        _ => uid.to_owned(),
    }
}

fn waypoint(item: &Value) -> String {
    let named = text(item, "/waypoint/destination");
    // `NAMESPACE/NAME.NAMESPACE.svc.DOMAIN` is what is said twice.
    match named.split_once('/') {
        Some((namespace, rest)) => match rest.split_once('.') {
            Some((name, _)) => format!("{namespace}/{name}"),
            None => named,
        },
        None => named,
    }
}

fn holders(held: &Held, nodes: usize) -> Cell {
    if held.held_by.len() == nodes { "all".into() } else { Cell::toned(held.held_by.join(" "), Tone::Doubtful) }
}

/// Whether an item is to be shown when only one namespace is asked for.
pub(super) fn is_of(what: What, item: &Value, namespace: &str) -> bool {
    let mentions =
        |key: &str, part: &str| item.get(key).and_then(Value::as_str).is_some_and(|text| text.contains(part));
    match what {
        What::Certificates => mentions("identity", &format!("/ns/{namespace}/")),
        What::Connections => {
            let part = format!("/Pod/{namespace}/");
            mentions("sourceWorkload", &part) || mentions("destinationWorkload", &part)
        }
        What::Workloads | What::Services | What::Policies | What::All => {
            item.get("namespace").and_then(Value::as_str) == Some(namespace)
        }
    }
}

pub(super) fn workloads(items: &[Held], nodes: usize, colour: bool) -> String {
    let header = ["NAMESPACE", "NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL", "HELD BY"];
    let row = |held: &Held| {
        let item = &held.item;
        let address = list(item, "workloadIps").next().and_then(Value::as_str).unwrap_or("-");
        vec![
            text(item, "/namespace").into(),
            text(item, "/name").into(),
            address.into(),
            text(item, "/node").into(),
            waypoint(item).into(),
            text(item, "/protocol").into(),
            holders(held, nodes),
        ]
    };
    table(&header, &items.iter().map(row).collect::<Vec<_>>(), colour)
}

pub(super) fn services(items: &[Held], nodes: usize, colour: bool) -> String {
    let header = ["NAMESPACE", "NAME", "VIP", "WAYPOINT", "ENDPOINTS", "HELD BY"];
    let row = |held: &Held| {
        let item = &held.item;
        let all = map_values(item, "endpoints").count();
        let healthy = map_values(item, "endpoints").filter(|endpoint| text(endpoint, "/status") == "Healthy").count();
        let tone = if healthy == all { Tone::Plain } else { Tone::Doubtful };
        vec![
            text(item, "/namespace").into(),
            text(item, "/name").into(),
            addresses(item, "vips").into(),
            waypoint(item).into(),
            Cell::toned(format!("{healthy}/{all}"), tone),
            holders(held, nodes),
        ]
    };
    table(&header, &items.iter().map(row).collect::<Vec<_>>(), colour)
}

pub(super) fn policies(items: &[Held], nodes: usize, colour: bool) -> String {
    let header = ["NAMESPACE", "NAME", "ACTION", "SCOPE", "DRY RUN", "HELD BY"];
    let row = |held: &Held| {
        let item = &held.item;
        let is_dry = item.get("dryRun").and_then(Value::as_bool) == Some(true);
        vec![
            text(item, "/namespace").into(),
            text(item, "/name").into(),
            text(item, "/action").into(),
            text(item, "/scope").into(),
            if is_dry { "yes" } else { "no" }.into(),
            holders(held, nodes),
        ]
    };
    table(&header, &items.iter().map(row).collect::<Vec<_>>(), colour)
}

/// The certificate an identity is proved with now: the first of its chain.
pub(super) fn certificates(items: &[Held], now: SystemTime, colour: bool) -> String {
    let header = ["NODE", "IDENTITY", "STATUS", "VALID", "NOT AFTER"];
    let row = |held: &Held| {
        let item = &held.item;
        let leaf = list(item, "certChain").next().unwrap_or(&Value::Null);
        let is_valid = is_within(leaf, now);
        vec![
            held.held_by.join(" ").into(),
            text(item, "/identity").into(),
            text(item, "/state").into(),
            if is_valid { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) },
            text(leaf, "/expirationTime").into(),
        ]
    };
    table(&header, &items.iter().map(row).collect::<Vec<_>>(), colour)
}

/// Whether a certificate is valid at `now`, as far as its dates say.
fn is_within(certificate: &Value, now: SystemTime) -> bool {
    let now = OffsetDateTime::from(now);
    let date = |key: &str| OffsetDateTime::parse(certificate.get(key)?.as_str()?, &Rfc3339).ok();
    date("validFrom").is_some_and(|from| from <= now) && date("expirationTime").is_some_and(|to| now < to)
}

pub(super) fn connections(items: &[Held], colour: bool) -> String {
    let header = ["NODE", "DIRECTION", "SOURCE", "DESTINATION", "TLS", "AGE", "OUT", "IN"];
    let end = |item: &Value, workload: &str, address: &str| match item.get(workload).and_then(Value::as_str) {
        Some(uid) => of_uid(uid),
        None => text(item, address),
    };
    let row = |held: &Held| {
        let item = &held.item;
        let has_tls = item.get("mutualTls").and_then(Value::as_bool) == Some(true);
        vec![
            held.held_by.join(" ").into(),
            text(item, "/direction").into(),
            end(item, "sourceWorkload", "/source").into(),
            end(item, "destinationWorkload", "/destination").into(),
            if has_tls { Cell::toned("yes", Tone::Good) } else { "no".into() },
            format!("{}s", text(item, "/ageSeconds")).into(),
            text(item, "/bytesToDestination").into(),
            text(item, "/bytesToSource").into(),
        ]
    };
    table(&header, &items.iter().map(row).collect::<Vec<_>>(), colour)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(item: Value, nodes: &[&str]) -> Held {
        Held { held_by: nodes.iter().map(|node| (*node).to_owned()).collect(), item }
    }

    /// The second line of a table, word by word.
    fn words(table: &str) -> Vec<&str> {
        table.lines().nth(1).unwrap_or_default().split_whitespace().collect()
    }

    #[test]
    fn columns() {
        let workload = json!({"namespace": "shop", "name": "web", "workloadIps": ["10.1.0.2", "fd00::2"], "node": "node-1",
            "waypoint": {"destination": "shop/way.shop.svc.cluster.local"}, "protocol": "HBONE"});
        let table = workloads(&[at(workload, &["node-1", "node-2"])], 2, false);
        assert_eq!(words(&table), ["shop", "web", "10.1.0.2", "node-1", "shop/way", "HBONE", "all"]);
        let service = json!({"namespace": "shop", "name": "web", "vips": ["/10.96.0.1"],
            "endpoints": {"a": {"status": "Healthy"}, "b": {"status": "Unhealthy"}}});
        let table = services(&[at(service, &["node-2"])], 2, false);
        assert_eq!(words(&table), ["shop", "web", "10.96.0.1", "-", "1/2", "node-2"]);
        let policy = json!({"namespace": "shop", "name": "no", "action": "Deny", "scope": "Namespace", "dryRun": true});
        assert_eq!(
            words(&policies(&[at(policy, &["node-1"])], 1, false)),
            ["shop", "no", "Deny", "Namespace", "yes", "all"]
        );
        let connection = json!({"direction": "inbound", "source": "10.9.9.9:1", "sourceWorkload": null, "mutualTls": false,
            "destination": "10.1.0.2:80", "destinationWorkload": "Kubernetes//Pod/shop/web", "ageSeconds": 3,
            "bytesToDestination": 4, "bytesToSource": 5});
        let table = connections(&[at(connection, &["node-1"])], false);
        assert_eq!(words(&table), ["node-1", "inbound", "10.9.9.9:1", "shop/web", "no", "3s", "4", "5"]);
    }

    #[test]
    fn a_certificate_is_valid_between_its_dates() {
        let certificate = json!({"validFrom": "1970-01-01T00:01:00Z", "expirationTime": "1970-01-01T00:02:00Z"});
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let rows = [(59, false), (60, true), (119, true), (120, false)];
        for (seconds, wanted) in rows {
            assert_eq!(is_within(&certificate, at(seconds)), wanted, "{seconds}");
        }
        assert!(!is_within(&Value::Null, at(90)), "nothing is known of it");
    }
}
