//! What the other commands of `fairway` tell of a mesh that works.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fairway_lab::Lab;
use serde_json::Value;

use super::labs;
use super::look::{fairway, said};
use super::shop::{self, CLIENT, SERVER};

const POLICIES: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-client, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-street, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [street]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-reader, namespace: shop}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
";
const ROUTED: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: straight, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: server, port: 80}]
  rules: [{backendRefs: [{name: server, port: 80}]}]
";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn policies_objects_and_traffic_are_told_from_live_data() {
    let Some(lab) = shop::enrolled("tools") else { return };
    traffic_is_told(&lab);
    policies_are_told_in_order(&lab);
    who_holds_what_is_told(&lab);
    what_is_wrong_with_objects_is_told(&lab);
    a_report_has_everything(&lab);
    pages_are_served_here(&lab);
}

fn pages_are_served_here(lab: &Lab) {
    let name = lab.layout().name();
    let mut dashboard = Command::new(labs::binaries().join("fairway"));
    let mut serving =
        dashboard.args(["dashboard", "ztunnel", "node-1", "--lab", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(serving.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let ask = |path: &str, more: &[&str]| {
        let page = format!("{}{path}", url.trim());
        let output = Command::new("curl").args(["-sS", "-m", "20", "-w", " %{http_code}", &page]).args(more).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let (index, dump) = (ask("", &[]), ask("config_dump", &[]));
    let rows = [
        (index, "href=\"config_dump\"", "200"),
        (dump, "\"workloads\"", "200"),
        (ask("metrics", &[]), "istio_build", "200"),
        (ask("nothing", &[]), "no such page", "502"),
        (ask("quitquitquit", &["-X", "POST"]), "only GET", "405"),
        (ask("config_dump", &["-H", "host: evil.example"]), "as localhost", "403"),
    ];
    serving.kill().unwrap();
    serving.wait().unwrap();
    for (page, words, status) in rows {
        assert!(page.contains(words) && page.ends_with(status), "{words}, {status}: {page}");
    }
    let (succeeded, text) = fairway(lab, &["dashboard", "agent"]);
    assert!(!succeeded && text.contains("name one of: node-1 node-2"), "{text}");
    let (succeeded, text) = fairway(lab, &["dashboard", "grafana"]);
    assert!(!succeeded && text.contains("a lab has no Grafana"), "{text}");
}

fn policies_are_told_in_order(lab: &Lab) {
    assert!(
        said(lab, &["authz", "check", SERVER]).contains("no policy applies at its node proxy"),
        "there is none yet"
    );
    lab.apply(POLICIES).unwrap();
    let told = lab.wait_until("all policies to be in force at the server", || {
        let told = json(&said(lab, &["authz", "check", SERVER, "-o", "json"]));
        if told["policies"].as_array().unwrap().len() == 3 { Ok(told) } else { Err(told.to_string()) }
    });
    let told = told.unwrap();
    assert_eq!(
        (&told["policies"][0]["name"], &told["policies"][0]["action"]),
        (&"shop/no-street".into(), &"DENY".into())
    );
    assert_eq!(told["otherwise"], "refused");
    let text = said(lab, &["authz", "check", "client", "-n", "shop"]);
    assert!(text.contains("shop/no-street") && !text.contains("only-client"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

fn who_holds_what_is_told(lab: &Lab) {
    let text = said(lab, &["trace-config", "service/server", "-n", "shop"]);
    assert!(text.contains("2 of 2 proxies that could hold Service shop/server do."), "{text}");
    let text = said(lab, &["trace-config", "ap/shop/no-street"]);
    assert!(text.contains("2 of 2") && text.contains("SYNCED"), "{text}");
    let (succeeded, text) = fairway(lab, &["trace-config", "service/shop/none"]);
    assert!(!succeeded && text.contains("there is no Service shop/none"), "{text}");
    let (succeeded, text) = fairway(lab, &["trace-config", "secret/x"]);
    assert!(!succeeded && text.contains("secret is no kind that a mesh reads"), "{text}");

    said(lab, &["waypoint", "apply", "--namespace", "shop", "--enroll-namespace", "--wait"]);
    lab.apply(ROUTED).unwrap();
    lab.wait_until("the waypoint to hold the route", || {
        let text = said(lab, &["trace-config", "httproute/straight", "-n", "shop"]);
        if text.contains("1 of 1 proxies") { Ok(()) } else { Err(text) }
    })
    .unwrap();
}

fn what_is_wrong_with_objects_is_told(lab: &Lab) {
    let (succeeded, text) = fairway(lab, &["analyze"]);
    assert!(succeeded, "warnings are no failure: {text}");
    assert!(text.contains("warning FW0102 RuleNeedsWaypoint AuthorizationPolicy shop/no-reader"), "{text}");
    assert!(!text.contains("FW0105"), "who is named gets in through the waypoint: {text}");
    assert!(!fairway(lab, &["analyze", "--fail-on", "warning"]).0);
    assert!(fairway(lab, &["analyze", "--fail-on", "warning", "-S", "FW0102"]).0);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("route.yaml");
    std::fs::write(&file, ROUTED.replace("backendRefs: [{name: server", "backendRefs: [{name: none-such")).unwrap();
    let file = file.to_string_lossy();
    let (succeeded, text) = fairway(lab, &["analyze", "-f", &file, "--with-mesh"]);
    assert!(!succeeded && text.contains("error FW0203 ReferenceNotFound HTTPRoute shop/straight"), "{text}");
}

fn a_report_has_everything(lab: &Lab) {
    let text = said(lab, &["bug-report", "--dry-run"]);
    for path in [
        "check.json",
        "controller/controller/debug-syncz.json",
        "nodes/node-2/proxy/config_dump.json",
        "nodes/node-1/agent/debug-pods.json",
        "nodes/node-1/proxy/metrics.txt",
        "waypoints/shop/",
        "logs/ztunnel-node-1.log",
        "objects/AuthorizationPolicy.json",
    ] {
        assert!(text.contains(path), "{path} is not in:\n{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.tar.gz");
    let written = said(lab, &["bug-report", "--file", &file.to_string_lossy()]);
    assert!(written.contains("report.tar.gz has") && std::fs::metadata(&file).unwrap().len() > 10_000, "{written}");
}

fn traffic_is_told(lab: &Lab) {
    // The shop's client asks all the time.
    let told = lab.wait_until("the client's requests to be counted", || {
        let told = json(&said(lab, &["top", "-o", "json"]));
        let row = told
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["source"] == CLIENT && row["destination"] == SERVER)
            .cloned();
        row.ok_or_else(|| told.to_string())
    });
    let told = told.unwrap();
    assert!(told["opened"].as_f64().unwrap() > 0.0 && told["sentBytes"].as_f64().unwrap() > 0.0, "{told}");
    let text = said(lab, &["top", "-n", "street"]);
    assert!(text.contains("no traffic"), "{text}");
    // Each of those is over long before anybody looks again.
    let told =
        said(lab, &["tap", "client", "-n", "shop", "--to", SERVER, "--max", "8", "--duration", "60", "-o", "json"]);
    let events: Vec<Value> = told.lines().map(json).collect();
    // What is open at the end need not be over; of any other one both are told, in this order.
    let opened = events.iter().enumerate().filter(|(_, event)| event["event"] == "opened");
    let mut closed = opened.filter_map(|(at, opened)| {
        events[at..].iter().find(|event| event["id"] == opened["id"] && event["event"] == "closed")
    });
    let closed = closed.next().unwrap_or_else(|| panic!("of no connection both are told: {told}"));
    assert!(closed["bytesToDestination"].as_u64() > Some(0), "{closed}");
    let held = lab.spawn(CLIENT, &["fairway", "lab", "tool", "hold", &format!("{}:7000", shop::address(lab, SERVER))]);
    let _held = held.unwrap();
    let text = said(
        lab,
        &["tap", "client", "-n", "shop", "--to", ":7000", "--all", "--max", "1", "--duration", "30", "-o", "json"],
    );
    let event = json(&text);
    assert_eq!((&event["direction"], &event["mutualTls"]), (&"outbound".into(), &true.into()), "{event}");
}

/// As in `fairway completion bash | head -1`, and where nobody hears a complaint.
#[test]
fn a_command_whose_output_nobody_reads_ends_quietly() {
    labs::build();
    let spawned = |arguments: &[&str]| {
        let mut command = Command::new(labs::binaries().join("fairway"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).env("FAIRWAY_LAB", "none-such");
        command.spawn().unwrap()
    };
    for arguments in [&["completion", "bash"][..], &["analyze", "--list"], &["install", "--dry-run"], &["--help"]] {
        let mut child = spawned(arguments);
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    let mut child = spawned(&["status"]);
    drop(child.stderr.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1), "there is no such lab");
}
