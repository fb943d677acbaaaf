//! Endpoints in several zones: shares of places, the nearest first, the next ones when those fail, and how often is tried again.

use fairway_lab::Lab;

use super::super::labs;
use super::{CLIENT, WAYPOINT, ask};

const WORLD: &str = include_str!("places.yaml");
/// Requests in a row that show that something always holds.
const REQUESTS: usize = 20;

/// How endpoints are used.
fn policy(said: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: places, namespace: shop}}\n\
         spec: {{host: places, trafficPolicy: {{{said}}}}}\n"
    )
}

/// How often is tried again.
const RETRIES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: places, namespace: shop}\n\
    spec: {hosts: [places], http: [{retries: {attempts: 1, retryOn: \"connect-failure,refused-stream,5xx\"}, route: [{destination: {host: places}}]}]}\n";
const NO_RETRIES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: places, namespace: shop}\n\
    spec: {hosts: [places], http: [{retries: {attempts: 0}, route: [{destination: {host: places}}]}]}\n";

fn answer(lab: &Lab) -> String {
    ask(lab, CLIENT, "http://places/", &[])
}

/// Waits until so many answers in a row are as wanted; clients whose connections are kept see changes a little later.
fn always(lab: &Lab, what: &str, wanted: impl Fn(&str) -> bool) {
    lab.wait_until(what, || {
        let other = (0..REQUESTS).map(|_| answer(lab)).find(|answer| !wanted(answer));
        other.map_or(Ok(()), Err)
    })
    .unwrap();
}

/// Waits until some of the answers are as each of these wants.
fn sometimes(lab: &Lab, what: &str, wanted: [&str; 2]) {
    lab.wait_until(what, || {
        let answers: Vec<String> = (0..REQUESTS).map(|_| answer(lab)).collect();
        let is_there = |part: &&str| answers.iter().any(|answer| answer.contains(*part));
        if wanted.iter().all(is_there) { Ok(()) } else { Err(answers.join("; ")) }
    })
    .unwrap();
}

fn run(lab: &Lab, pod: &str, command: &[&str]) {
    let done = lab.exec(pod, command).unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// The pod's port refuses connections.
fn breaks(lab: &Lab, pod: &str) {
    run(lab, pod, &["nft", "add table inet broken"]);
    run(lab, pod, &["nft", "add chain inet broken input { type filter hook input priority -300; }"]);
    run(lab, pod, &["nft", "add rule inet broken input tcp dport 8080 reject with tcp reset"]);
}

pub(super) fn decide(lab: &Lab) {
    lab.apply(WORLD).unwrap();
    lab.wait_ready().unwrap();
    let is_in_one = labs::pod(lab, WAYPOINT).node.as_deref() == Some("node-1");
    let (near, far) = if is_in_one { ("one", "two") } else { ("two", "one") };
    let (in_near, in_far) = (format!("in-{near}"), format!("in-{far}"));
    sometimes(lab, "both places to answer where nothing is said", [&in_near, &in_far]);

    let shares = |near_share: u32, far_share: u32| {
        let to = format!("\"r/{near}/*\": {near_share}, \"r/{far}/*\": {far_share}");
        policy(&format!(
            "loadBalancer: {{localityLbSetting: {{distribute: [{{from: \"r/{near}/*\", to: {{{to}}}}}]}}}}"
        ))
    };
    lab.apply(&shares(0, 100)).unwrap();
    always(lab, "the other place to get its whole share", |answer| answer.contains(&in_far));
    lab.apply(&shares(50, 50)).unwrap();
    sometimes(lab, "both places to get their shares", [&in_near, &in_far]);

    let nearest = "outlierDetection: {consecutive5xxErrors: 50}";
    lab.apply(&policy(nearest)).unwrap();
    always(lab, "the nearest place alone", |answer| answer.contains(&in_near));
    let off = format!("{nearest}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}");
    lab.apply(&policy(&off)).unwrap();
    sometimes(lab, "both places where nearness is switched off", [&in_near, &in_far]);

    budgets_bound_what_is_tried_again(lab, &format!("shop/place-{near}"));

    let outliers =
        "outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 3600s, maxEjectionPercent: 100}";
    lab.apply(&format!("{}---\n{NO_RETRIES}", policy(outliers))).unwrap();
    always(lab, "the place that works, after the nearer one has failed", |answer| answer.contains(&in_far));
    let page = labs::output(lab, WAYPOINT, &["curl", "-sS", "http://127.0.0.1:15020/metrics"]);
    let left_out = page.lines().find(|line| line.starts_with("fairway_waypoint_endpoints_left_out_total "));
    assert!(left_out.is_some_and(|line| !line.ends_with(" 0")), "{left_out:?}");
    run(lab, &format!("shop/place-{near}"), &["nft", "delete table inet broken"]);
    assert!(answer(lab).contains(&in_far), "who has failed is left out for an hour, however well it is");
    lab.delete(&format!("{}---\n{NO_RETRIES}---\n{WORLD}", policy(""))).unwrap();
}

/// One of two endpoints fails: a request is tried again at the other one, as far as the budget goes.
fn budgets_bound_what_is_tried_again(lab: &Lab, broken: &str) {
    let with = |budget: &str| format!("{}---\n{RETRIES}", policy(&format!("retryBudget: {{{budget}}}")));
    lab.apply(&with("percent: 100, minRetryConcurrency: 10")).unwrap();
    breaks(lab, broken);
    always(lab, "every request to be answered by one of the two", |answer| answer.starts_with("200 "));
    lab.apply(&with("percent: 0, minRetryConcurrency: 0")).unwrap();
    sometimes(lab, "nothing to be tried again", ["200 ", "503 "]);
    lab.apply(&with("percent: 100, minRetryConcurrency: 10")).unwrap();
    always(lab, "failures to be tried again", |answer| answer.starts_with("200 "));
}
