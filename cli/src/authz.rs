//! `fairway authz check`: the policies in force at a workload, in the order in which they are asked, from those who ask them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use fairway_core::why::Arrival;
use fairway_lab::Result;
use fairway_lab::render::{Cell, Tone, wide_table as table};
use fairway_lab::status::PodStatus;
use serde::Serialize;
use serde_json::Value;

use crate::analyze;
use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;

/// Some port of the pod, and a client: which policies apply does not hang on them.
const SOME_PORT: u16 = 80;
const SOME_CLIENT: &str = "192.0.2.1:40000";

/// Arguments of `authz`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the policies in force at a workload, in the order in which they are asked
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The workload: POD or NAMESPACE/POD
    pod: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    format: Format,
}

/// The whole answer; the schema of `-o json`.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    identity: String,
    node: String,
    /// What its node proxy asks of each connection, in this order.
    policies: Vec<Policy>,
    /// Services of the pod whose traffic comes through a waypoint, which decides before that; `*` for the pod itself.
    through_waypoints: Vec<String>,
    /// Whether the policies look at the clients for whom waypoints speak, and not at waypoints alone.
    clients_behind_waypoints: bool,
    /// What becomes of a connection that no rule matches.
    otherwise: &'static str,
}

/// A policy as the node proxy holds it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    name: String,
    action: String,
    scope: String,
    dry_run: bool,
    /// Why it refuses everything, where the proxy cannot use it.
    unusable: Option<String>,
    rules: Value,
}

/// Asks, and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Command::Check(check) = &arguments.command;
    check.format.follow(|| {
        let mesh = arguments.place.mesh()?;
        let pod = mesh.pod(&check.pod, &check.namespace)?;
        let answer = ask(&mesh, pod)?;
        check.format.print(&answer, |colour| shown(&answer, colour))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn ask(mesh: &Mesh, pod: &PodStatus) -> Result<Answer> {
    let proxy = Part::Proxy(pod.node.as_deref().unwrap_or_default());
    let address = pod.addresses.first().map(String::as_str).unwrap_or_default();
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let question =
        format!("/why/arrival?pod={}/{}&address={address}:{SOME_PORT}&source={SOME_CLIENT}", pod.namespace, pod.name);
    let arrival: Arrival = mesh.ask(proxy, &question)?;
    let dump: Value = mesh.ask(proxy, "/config_dump")?;
    Ok(answer(&arrival, &dump))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(dump: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    dump.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// What the proxy asks, beside how it describes it.
fn answer(arrival: &Arrival, dump: &Value) -> Answer {
    let key = |item: &Value| format!("{}/{}", text(item, "namespace"), text(item, "name"));
    let policy = |name: &String| {
        let held = items(dump, "policies").find(|item| key(item) == *name);
        let rejected = items(dump, "rejectedPolicies").find(|item| key(item) == *name);
        let unusable = match (held, rejected) {
            (_, Some(rejected)) => Some(text(rejected, "error").to_owned()),
            (None, None) => Some("it has not arrived yet".to_owned()),
            (Some(_), None) => None,
        };
        Policy {
            name: name.clone(),
            action: held.map_or("DENY", |held| text(held, "action")).to_uppercase(),
            scope: held.map_or("-", |held| text(held, "scope")).to_owned(),
            dry_run: held.and_then(|held| held.get("dryRun")?.as_bool()).unwrap_or_default(),
            unusable,
            rules: held.and_then(|held| held.get("rules")).cloned().unwrap_or_default(),
        }
    };
    let policies: Vec<Policy> = arrival.policies.iter().map(policy).collect();
    let party = &arrival.workload;
    let own = items(dump, "workloads")
        .find(|item| text(item, "namespace") == party.namespace && text(item, "name") == party.name);
    let is_bound = |item: &Value| item.get("waypoint").is_some_and(|waypoint| !waypoint.is_null());
    let uid = own.map(|own| text(own, "uid")).unwrap_or_default();
    let serves = |service: &&Value| service.get("endpoints").is_some_and(|endpoints| endpoints.get(uid).is_some());
    let services = items(dump, "services").filter(|service| is_bound(service)).filter(serves);
    let itself = own.filter(|own| is_bound(own)).map(|_| "*".to_owned());
    let through_waypoints =
        itself.into_iter().chain(services.map(|service| text(service, "hostname").to_owned())).collect();
    let allows = policies.iter().any(|policy| policy.action == "ALLOW" && !policy.dry_run);
    Answer {
        pod: format!("{}/{}", party.namespace, party.name),
        identity: party.identity.clone(),
        node: party.node.clone(),
        otherwise: if allows { "refused" } else { "allowed" },
        policies,
        through_waypoints,
        clients_behind_waypoints: analyze::clients_count_at(dump),
    }
}

/// A rule in few words: how many ways in it has; `-o json` has all of it.
fn rules(policy: &Policy) -> String {
    if let Some(why) = &policy.unusable {
        return format!("refuses everything: {why}");
    }
    match policy.rules.as_array().map_or(0, Vec::len) {
        0 if policy.action == "ALLOW" => "none: it lets nobody in".to_owned(),
        0 => "none: it refuses nobody".to_owned(),
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    }
}

fn shown(answer: &Answer, colour: bool) -> String {
    let mut text = format!("{} on {} is {}\n", answer.pod, answer.node, answer.identity);
    for service in &answer.through_waypoints {
        let what = if service == "*" { "the pod" } else { service };
        text.push_str(&format!("{what} is behind a waypoint, which decides first\n"));
    }
    if answer.policies.is_empty() {
        text.push_str("no policy applies at its node proxy: everybody may connect\n");
        return text;
    }
    if !answer.through_waypoints.is_empty() {
        text.push_str(match answer.clients_behind_waypoints {
            true => "policies look at the waypoint, and at the client for whom it speaks\n",
            false => "policies look at the waypoint alone, and not at its clients\n",
        });
    }
    let row = |(index, policy): (usize, &Policy)| -> Vec<Cell> {
        let tone = if policy.action == "ALLOW" { Tone::Good } else { Tone::Bad };
        let mode = if policy.dry_run { "dry run" } else { "enforced" };
        vec![
            (index + 1).to_string().into(),
            Cell::toned(policy.action.as_str(), tone),
            policy.name.as_str().into(),
            policy.scope.as_str().into(),
            mode.into(),
            rules(policy).into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = answer.policies.iter().enumerate().map(row).collect();
    text.push_str(&format!("\n{}", table(&["ORDER", "ACTION", "POLICY", "SCOPE", "MODE", "RULES"], &rows, colour)));
    text.push_str(&format!("\na connection that none of them matches is {}\n", answer.otherwise));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_are_shown_in_the_order_of_the_proxy_with_what_it_holds() {
        let arrival: Arrival = serde_json::from_value(json!({
            "workload": {"namespace": "shop", "name": "web", "node": "node-1", "identity": "spiffe://d/ns/shop/sa/web"},
            "destination": "10.0.0.1:80", "allowedBy": null, "refused": null, "dryRun": [],
            "policies": ["shop/no", "shop/broken", "shop/yes"],
        }))
        .unwrap();
        let dump = json!({
            "config": {"clientsBehindWaypoints": true},
            "policies": [
                {"namespace": "shop", "name": "yes", "action": "Allow", "scope": "Namespace", "dryRun": false, "rules": [[], []]},
                {"namespace": "shop", "name": "no", "action": "Deny", "scope": "WorkloadSelector", "dryRun": true, "rules": []},
            ],
            "rejectedPolicies": [{"namespace": "shop", "name": "broken", "error": "odd"}],
            "workloads": [{"namespace": "shop", "name": "web", "uid": "c//Pod/shop/web"}],
            "services": [
                {"hostname": "web.shop", "waypoint": {"destination": "/10.0.0.9"}, "endpoints": {"c//Pod/shop/web": {}}},
                {"hostname": "plain.shop", "endpoints": {"c//Pod/shop/web": {}}},
                {"hostname": "other.shop", "waypoint": {"destination": "/10.0.0.9"}, "endpoints": {}},
            ],
        });
        let answer = answer(&arrival, &dump);
        assert_eq!(answer.otherwise, "refused");
        assert_eq!(answer.through_waypoints, ["web.shop"]);
        let text = shown(&answer, false);
        assert!(text.contains("\npolicies look at the waypoint, and at the client for whom it speaks\n"), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().skip(5).take(3).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows[0],
            ["1", "DENY", "shop/no", "WorkloadSelector", "dry", "run", "none:", "it", "refuses", "nobody"]
        );
        assert_eq!(rows[1], ["2", "DENY", "shop/broken", "-", "enforced", "refuses", "everything:", "odd"]);
        assert_eq!(rows[2], ["3", "ALLOW", "shop/yes", "Namespace", "enforced", "2", "rules"]);
        assert!(text.ends_with("a connection that none of them matches is refused\n"), "{text}");
    }

    #[test]
    fn without_policies_everybody_may() {
        let arrival: Arrival = serde_json::from_value(json!({
            "workload": {"namespace": "shop", "name": "web", "node": "n", "identity": "i"}, "policies": [],
            "destination": "10.0.0.1:80", "allowedBy": null, "refused": null, "dryRun": [],
        }))
        .unwrap();
        let answer = answer(&arrival, &json!({}));
        assert_eq!((answer.otherwise, answer.policies.len()), ("allowed", 0));
    }
}
