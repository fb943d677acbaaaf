//! What a Telemetry says of metrics and of connections that nobody looks into, scraped and read where users do.

use std::net::IpAddr;

use fairway_core::source::directory::load;
use fairway_core::source::{Kind, ObjectKey};
use fairway_lab::Lab;

use super::super::labs;
use super::super::shop::Conversation;
use super::{CLIENT, WAYPOINT, ask};

const TELEMETRY: &str = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: counted, namespace: shop}\nspec:\n  \
    targetRefs: [{group: \"\", kind: Service, name: web}]\n  accessLogging: [{providers: [{name: envoy}]}]\n  metrics:\n  - overrides:\n    \
    - match: {metric: REQUEST_COUNT}\n      tagOverrides: {host: {value: request.host}, source_app: {operation: REMOVE}}\n    \
    - {match: {metric: REQUEST_SIZE}, disabled: true}\n    \
    - {match: {metric: TCP_SENT_BYTES}, tagOverrides: {to_port: {value: destination.port}}}\n";

/// Samples of a metric that the waypoint has, with all of `parts`: each line's value.
fn samples(lab: &Lab, metric: &str, parts: &[&str]) -> Vec<(String, f64)> {
    let page = labs::output(lab, WAYPOINT, &["curl", "-sS", "http://127.0.0.1:15020/metrics"]);
    let lines = page.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{')));
    let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| Some((line.to_owned(), line.rsplit_once(' ')?.1.parse().ok()?))).collect()
}

fn total(lab: &Lab, metric: &str) -> f64 {
    samples(lab, metric, &["destination_service_name=\"web\""]).iter().map(|(_, value)| value).sum()
}

/// What the waypoint's container has written, on either output.
pub(super) fn written(lab: &Lab) -> String {
    std::fs::read_to_string(lab.layout().container_log("shop", "waypoint-0", "waypoint")).unwrap()
}

/// The last line since so many bytes that has all of `parts`.
fn line_since(lab: &Lab, start: usize, parts: &[&str]) -> Option<String> {
    let log = written(lab);
    let mut lines = log.get(start..).unwrap_or_default().lines().rev();
    lines.find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
}

/// Waits until the condition of the Telemetry is this: whether it is accepted, why, and how the message begins.
fn is_told(lab: &Lab, wanted: (&str, &str, &str)) {
    lab.wait_until("the Telemetry's condition", || {
        let objects = load(&lab.layout().manifests(), None).objects;
        let object = objects.telemetries.get(&ObjectKey::new(Kind::Telemetry, "shop", "counted"));
        let status = object.and_then(|object| object.status.clone()).unwrap_or_default();
        let said = status["conditions"].as_array().into_iter().flatten().find(|it| it["type"] == "Accepted");
        let text = |field: &str| said.and_then(|said| said[field].as_str()).unwrap_or_default();
        let (holds, reason, message) = wanted;
        let is_so = (text("status"), text("reason")) == (holds, reason) && text("message").starts_with(message);
        if is_so { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

/// One policy that audits, and one in dry run that would refuse everything; and a request that is answered.
pub(super) fn what_decides_nothing_is_told(lab: &Lab) {
    let policy = |name: &str, dry_run: bool, action: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop, \
             annotations: {{istio.io/dry-run: \"{dry_run}\"}}}}\nspec:\n  \
             targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  action: {action}\n  rules: [{{}}]\n"
        )
    };
    let policies = format!("{}---\n{}", policy("watched", false, "AUDIT"), policy("tried", true, "DENY"));
    let start = written(lab).len();
    lab.apply(&policies).unwrap();
    lab.wait_until("a request to be told of", || {
        let answer = ask(lab, CLIENT, "http://web/", &[]);
        assert!(answer.starts_with("200 "), "nothing is refused: {answer}");
        let parts = ["request complete", "audited_by=\"shop/watched\"", "dry_run=\"deny shop/tried\""];
        line_since(lab, start, &parts).map(drop).ok_or(answer)
    })
    .unwrap();
    for (metric, parts) in [
        ("fairway_policy_audit_matches_total", &["policy=\"shop/watched\""][..]),
        ("fairway_policy_dry_run_matches_total", &["policy=\"shop/tried\"", "action=\"deny\""]),
    ] {
        assert!(samples(lab, metric, parts).iter().any(|(_, count)| *count >= 1.0), "{metric}");
    }
    lab.delete(&policies).unwrap();
}

pub(super) fn as_telemetry_says(lab: &Lab, address: IpAddr) {
    // Of what is not understood the condition says so, and of what is that it is.
    lab.apply(&TELEMETRY.replace("request.host", "request.hosts(")).unwrap();
    is_told(lab, ("False", "UnsupportedValue", "spec.metrics[0].overrides[0].tagOverrides[host].value: "));
    lab.apply(TELEMETRY).unwrap();
    is_told(lab, ("True", "Accepted", "accepted as written, for waypoints"));
    let asked = || ask(lab, CLIENT, "http://web/", &[]);
    let found = lab.wait_until("a series with the label that is asked for", || {
        let answer = asked();
        samples(lab, "istio_requests_total", &["host=\"web\""]).pop().ok_or(answer)
    });
    let (line, _) = found.unwrap();
    assert!(!line.contains("source_app=") && line.contains("source_workload=\"client\""), "{line}");

    let (sizes, durations) =
        (total(lab, "istio_request_bytes_count"), total(lab, "istio_request_duration_milliseconds_count"));
    for _ in 0..3 {
        assert!(asked().starts_with("200 "));
    }
    lab.wait_until("requests to be counted", || {
        let now = total(lab, "istio_request_duration_milliseconds_count");
        if now >= durations + 3.0 { Ok(()) } else { Err(format!("{durations} and then {now}")) }
    })
    .unwrap();
    assert!((total(lab, "istio_request_bytes_count") - sizes).abs() < 0.5, "a metric that is off stays as it was");

    let start = written(lab).len();
    let mut conversation = Conversation::open(lab, CLIENT, address, 7000);
    assert!(conversation.says("one that is told"));
    drop(conversation);
    lab.wait_until("a line about a connection", || {
        let line = line_since(lab, start, &["\"- - -\" 0 - ", " web.shop.svc.cluster.local:7000 ", ":7000 "]);
        line.map(drop).ok_or_else(|| written(lab).get(start..).unwrap_or_default().to_owned())
    })
    .unwrap();
    assert_eq!(line_since(lab, start, &["connection complete"]), None, "in no other form");
    assert!(!samples(lab, "istio_tcp_sent_bytes_total", &["to_port=\"7000\""]).is_empty());
    assert!(samples(lab, "istio_tcp_received_bytes_total", &["to_port="]).is_empty(), "nothing is said of this one");

    lab.delete(TELEMETRY).unwrap();
    let start = written(lab).len();
    lab.wait_until("the waypoint's own log again", || {
        let answer = asked();
        line_since(lab, start, &["request complete", "dst.service=\"web.shop.svc.cluster.local\""]).ok_or(answer)
    })
    .unwrap();
    let counted = total(lab, "istio_request_bytes_count");
    lab.wait_until("the metric to be on again", || {
        let answer = asked();
        if total(lab, "istio_request_bytes_count") > counted { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}
