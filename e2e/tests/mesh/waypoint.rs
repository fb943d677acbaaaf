//! The waypoint as a process, with real controller, agents and node proxies on both sides of it.

use fairway_lab::Lab;

use super::observe::{Cursor, field};
use super::shop::{self, Conversation};
use super::{enter, labs};

mod admin;
mod behind;
mod bounded;
mod compare;
mod counted;
mod egress;
mod places;
mod requests;
mod services;
mod steady;
mod strangers;
mod who;

const WORLD: &str = include_str!("waypoint.yaml");
const CLIENT: &str = "shop/client";
const GUEST: &str = "shop/guest";
const WAYPOINT: &str = "shop/waypoint-0";
const WAYPOINT_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/waypoint";
/// Requests that show how weights are kept.
const REQUESTS: usize = 40;

/// Requests with a header go to the second version, and of the others this many of a hundred.
fn canary(weight: u32) -> String {
    let first = 100 - weight;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: canary, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: web}}]\n  rules:\n  \
         - matches: [{{headers: [{{name: x-canary, value: \"yes\"}}]}}]\n    backendRefs: [{{name: web-v2, port: 80}}]\n  \
         - backendRefs: [{{name: web-v1, port: 80, weight: {first}}}, {{name: web-v2, port: 80, weight: {weight}}}]\n"
    )
}

/// A policy of the service, enforced by its waypoint.
fn deny(name: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  action: DENY\n  rules: [{rule}]\n"
    )
}

/// A policy of the service's pods, enforced by their nodes: only the waypoint may come in.
const WAYPOINT_ONLY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: waypoint-only, namespace: shop}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: ALLOW\n  \
    rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/waypoint]}}]}]\n";

/// What a pod hears from a URL: the status, the answer's reason if it has one, and its text; or why there is no answer.
fn ask(lab: &Lab, pod: &str, url: &str, more: &[&str]) -> String {
    let form = "%{stderr}%{http_code} %header{proxy-status} ";
    let output = lab.exec(pod, &[&["curl", "-sS", "-m", "10", "-w", form, url][..], more].concat()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', " ");
    format!("{} {}", text(&output.stderr), text(&output.stdout))
}

/// Waits until a pod hears what contains all of `parts`.
fn hears(lab: &Lab, pod: &str, more: &[&str], parts: &[&str]) -> String {
    lab.wait_until(&format!("{pod} to hear {parts:?}"), || {
        let answer = ask(lab, pod, "http://web/", more);
        if parts.iter().all(|part| answer.contains(part)) { Ok(answer) } else { Err(answer) }
    })
    .unwrap()
}

/// Which versions answer many requests, all of which came through the waypoint.
fn versions(lab: &Lab) -> (usize, usize) {
    let answers: Vec<String> = (0..REQUESTS).map(|_| ask(lab, CLIENT, "http://web/", &[])).collect();
    assert!(answers.iter().all(|answer| answer.contains(WAYPOINT_IDENTITY)), "{answers:?}");
    let of = |version: &str| answers.iter().filter(|answer| answer.contains(version)).count();
    (of(" v1 to "), of(" v2 to "))
}

#[test]
fn requests_go_through_the_waypoint_as_routes_and_policies_say() {
    let Some(lab) = labs::mesh_with("waypoint", WORLD) else { return };
    lab.wait_captured(&[
        (CLIENT, true),
        (GUEST, true),
        ("shop/web-v1", true),
        ("shop/web-v2", true),
        (WAYPOINT, false),
    ])
    .unwrap();
    the_endpoint_learns_who_asked(&lab);
    let address =
        lab.status().unwrap().services.iter().find(|it| it.name == "web").unwrap().addresses[0].parse().unwrap();
    let mut conversation = Conversation::open(&lab, CLIENT, address, 7000);
    assert!(conversation.says("through the waypoint"));
    admin::what_is_under_way_is_shown(&lab);
    admin::clusters_are_shown(&lab);
    admin::the_configuration_is_shown_as_envoys_is(&lab);
    admin::what_is_refused_is_told(&lab);
    requests::tokens_decide(&lab);
    requests::failures_and_origins_are_told(&lab);
    requests::rates_are_limited(&lab);
    requests::rates_of_a_route_are_limited(&lab);
    requests::clients_come_back(&lab);
    counted::what_decides_nothing_is_told(&lab);
    counted::as_telemetry_says(&lab, address);
    places::decide(&lab);
    routes_decide(&lab);
    policies_decide(&lab);
    who::decides(&lab);
    assert!(conversation.says("routes and policies have come and gone"));
    node_policies_still_hold(&lab);
    drop(conversation);
    the_destination_lets_nobody_around(&lab);
    without_it_there_is_no_way(&lab);
}

fn the_endpoint_learns_who_asked(lab: &Lab) {
    let answer = hears(lab, CLIENT, &["-H", "x-forwarded-client-cert: URI=spiffe://forged"], &["200 ", " to "]);
    let expected = format!("By={WAYPOINT_IDENTITY};URI={}", shop::CLIENT_IDENTITY);
    assert!(answer.contains(&expected) && !answer.contains("forged"), "{answer}");
}

fn routes_decide(lab: &Lab) {
    lab.apply(&canary(0)).unwrap();
    hears(lab, CLIENT, &["-H", "x-canary: yes"], &["200 ", " v2 to "]);
    lab.wait_until("the first version alone to answer", || match versions(lab) {
        (REQUESTS, 0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    lab.apply(&canary(50)).unwrap();
    lab.wait_until("both versions to answer", || match versions(lab) {
        (first, second) if first > 0 && second > 0 && first + second == REQUESTS => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

fn policies_decide(lab: &Lab) {
    let admin = deny("no-admin", "{to: [{operation: {ports: [\"80\"], methods: [DELETE], paths: [/admin*]}}]}");
    let guests = deny("no-guests", "{from: [{source: {principals: [cluster.local/ns/shop/sa/guest]}}]}");
    lab.apply(&format!("{admin}---\n{guests}")).unwrap();
    let refused = ["403 ", "policy_denied", "RBAC: access denied"];
    hears(lab, GUEST, &[], &refused);
    let admin = |method: &str, path: &str| ask(lab, CLIENT, &format!("http://web{path}"), &["-X", method]);
    lab.wait_until("requests of the client to be told apart", || {
        let answer = admin("DELETE", "/admin/users");
        if refused.iter().all(|part| answer.contains(part)) { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    for (method, path) in [("GET", "/admin/users"), ("DELETE", "/users")] {
        let answer = admin(method, path);
        assert!(answer.starts_with("200 "), "{method} {path}: {answer}");
    }
    // A second spelling of the same path is the same path.
    assert!(admin("DELETE", "/x/..//admin/users").starts_with("403 "));
    lab.delete(&guests).unwrap();
    hears(lab, GUEST, &[], &["200 "]);
}

/// Policies of the pods are the nodes' business, who see the waypoint beside its clients.
fn node_policies_still_hold(lab: &Lab) {
    let direct = format!("http://{}:8080/", shop::address(lab, "shop/web-v1"));
    assert!(ask(lab, CLIENT, &direct, &[]).starts_with("200 "), "a service's waypoint is not asked for its pods");
    lab.apply(WAYPOINT_ONLY).unwrap();
    lab.wait_until("the pod to refuse who comes directly", || {
        let answer = ask(lab, CLIENT, &direct, &[]);
        if answer.starts_with("200 ") { Err(answer) } else { Ok(()) }
    })
    .unwrap();
    hears(lab, CLIENT, &["-H", "x-canary: yes"], &["200 ", WAYPOINT_IDENTITY]);
    let (first, second) = versions(lab);
    assert_eq!(first + second, REQUESTS);
    lab.delete(WAYPOINT_ONLY).unwrap();
}

/// A node that does not hear that a pod has got a waypoint sends straight to the pod, whose own node knows better.
fn the_destination_lets_nobody_around(lab: &Lab) {
    let direct = format!("http://{}:8080/", shop::address(lab, "shop/web-v1"));
    let cut_off = |change: &str| {
        let done = lab.exec_node("underlay", &["ip", "route", change, "blackhole", "10.99.0.11/32"]).unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let pod = WORLD.split("---").find(|document| document.contains("{name: web-v1, namespace: shop, labels")).unwrap();
    cut_off("add");
    let log = Cursor::at_end(lab, "ztunnel-node-2");
    lab.apply(&pod.replace("version: v1}", "version: v1, istio.io/use-waypoint: waypoint}")).unwrap();
    lab.wait_until("the pod's node to refuse who went around", || {
        let answer = ask(lab, CLIENT, &direct, &[]);
        let parts = ["direction=\"inbound\"", "reason=\"waypoint_bypassed\"", shop::CLIENT_IDENTITY];
        if log.lines(lab, &parts).is_empty() { Err(answer) } else { Ok(()) }
    })
    .unwrap();
    cut_off("del");
    let log = Cursor::at_end(lab, "ztunnel-node-2");
    lab.wait_until("the pod to be reached through its waypoint", || {
        let answer = ask(lab, CLIENT, &direct, &[]);
        let came = log.lines(lab, &["direction=\"inbound\"", "reason=\"ok\"", WAYPOINT_IDENTITY]);
        if answer.starts_with("200 ") && !came.is_empty() { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    lab.apply(pod).unwrap();
}

/// Without a waypoint there is no way to what is bound to it, and there is one again as soon as it is back.
fn without_it_there_is_no_way(lab: &Lab) {
    let killed = labs::pod(lab, WAYPOINT).pids[0].to_string();
    assert!(lab.exec_node("underlay", &["kill", "-9", &killed]).unwrap().status.success());
    lab.wait_until("the waypoint to be back", || {
        let answer = ask(lab, CLIENT, "http://web/", &[]);
        assert!(!answer.starts_with("200 ") || answer.contains(WAYPOINT_IDENTITY), "around the waypoint: {answer}");
        let is_new = labs::pod(lab, WAYPOINT).pids.first().is_some_and(|pid| pid.to_string() != killed);
        if is_new && answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    let gateway = WORLD.split("---").find(|document| document.contains("kind: Gateway")).unwrap();
    lab.delete(gateway).unwrap();
    let log = Cursor::at_end(lab, "ztunnel-node-1");
    lab.wait_for("the waypoint to be gone", || lab.status().unwrap().pods.iter().all(|pod| pod.name != "waypoint-0"))
        .unwrap();
    lab.wait_until("traffic to be refused for want of a waypoint", || {
        let answer = ask(lab, CLIENT, "http://web/", &[]);
        assert!(!answer.starts_with("200 ") || answer.contains(WAYPOINT_IDENTITY), "around the waypoint: {answer}");
        let lines = log.lines(lab, &["connection", "direction=\"outbound\"", "reason=\"unknown_waypoint\""]);
        lines.last().and_then(|line| field(line, "reason").map(str::to_owned)).ok_or(answer)
    })
    .unwrap();
    lab.apply(gateway).unwrap();
    hears(lab, CLIENT, &[], &["200 ", WAYPOINT_IDENTITY]);
}
