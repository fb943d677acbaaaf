//! The mesh in a real cluster: users change it with kubectl, are told what became of it, and it carries on when the API
//! server is gone.

use nix::sys::signal::Signal;

use super::{Lab, SHOP, apply, cluster, json, kubectl, labs, only_pod, pods, rolled_out, try_kubectl};
use crate::mesh::observe::{Cursor, field, restarts};
use crate::mesh::shop::{AMBIENT, Conversation};

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
";
/// A policy that only a waypoint could enforce.
const ROUTES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-posts, namespace: shop}
spec:
  selector: {matchLabels: {app: nobody}}
  action: DENY
  rules: [{to: [{operation: {methods: [POST]}}]}]
";
/// A pod of an enrolled namespace that can never be captured.
const HOST_NETWORK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: outsider, namespace: shop}
spec:
  hostNetwork: true
  nodeName: node-1
  containers: [{name: idle, image: host, command: [sleep, infinity]}]
";
/// Port of the server's echo.
const ECHO: u16 = 7000;

#[test]
fn kubectl_enrols_and_denies_and_the_loss_of_the_api_server_changes_nothing() {
    let Some(lab) = cluster("kubernetes-mesh", true) else { return };
    apply(&lab, SHOP);
    rolled_out(&lab);
    kubectl(&lab, &["label", "namespace", "shop", AMBIENT]);
    captured(&lab);
    mutual_tls(&lab);
    denied_on_an_open_connection(&lab);
    conditions(&lab);
    events_tell_who_is_not_captured(&lab);
    parts_may_do_no_more_than_they_need(&lab);
    without_api_server(&lab);
    released(&lab);
}

/// A connection of the client to one of the servers.
fn talk(lab: &Lab) -> Conversation {
    let address = pods(lab, "server")[0]["status"]["podIP"].as_str().unwrap().parse().unwrap();
    let mut conversation = Conversation::open(lab, &only_pod(lab, "client"), address, ECHO);
    assert!(conversation.says("open"));
    conversation
}

fn denied_on_an_open_connection(lab: &Lab) {
    let mut open = talk(lab);
    apply(lab, DENY);
    answers(lab, false);
    lab.wait_for("the open connection to be cut", || !open.says("still here")).unwrap();
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "no-client"]);
    answers(lab, true);
}

/// Users hear of every policy whether it is in force, and what is missing.
fn conditions(lab: &Lab) {
    let wait = |condition: &str, name: &str| {
        kubectl(lab, &["-n", "shop", "wait", &format!("--for=condition={condition}"), name, "--timeout=60s"])
    };
    apply(lab, DENY);
    wait("ZtunnelAccepted", "authorizationpolicy/no-client");
    answers(lab, false);
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "no-client"]);
    apply(lab, ROUTES);
    wait("ZtunnelAccepted=false", "authorizationpolicy/no-posts");
    let policy = json(lab, &["-n", "shop", "get", "authorizationpolicy", "no-posts"]);
    let condition = &policy["status"]["conditions"][0];
    assert_eq!(condition["observedGeneration"], policy["metadata"]["generation"], "{policy}");
    assert!(condition["message"].as_str().unwrap().contains("methods"), "{policy}");
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "no-posts"]);
    answers(lab, true);
}

/// A pod that opts in and is not captured shows among the Events, once, however often agents say it.
fn events_tell_who_is_not_captured(lab: &Lab) {
    apply(lab, HOST_NETWORK);
    let events = || {
        let list = json(lab, &["-n", "shop", "get", "events", "--field-selector=involvedObject.name=outsider"]);
        let items = list["items"].as_array().unwrap().clone();
        items.into_iter().filter(|event| event["reason"] == "CannotBeCaptured").collect::<Vec<_>>()
    };
    lab.wait_for("an Event", || !events().is_empty()).unwrap();
    let lines = kubectl(lab, &["-n", "shop", "get", "events"]);
    let line = lines.lines().find(|line| line.contains("pod/outsider") && line.contains("CannotBeCaptured"));
    assert!(line.is_some_and(|line| line.contains("Warning") && line.contains("hostNetwork")), "{lines}");
    ends_and_comes_back(lab, "agent-node-1");
    lab.wait_for("the agent's successor to say it again", || events()[0]["series"]["count"] == 2).unwrap();
    let [event] = &events()[..] else { panic!("it is there more than once: {:?}", events()) };
    let pod = json(lab, &["-n", "shop", "get", "pod", "outsider"]);
    assert_eq!(event["involvedObject"]["uid"], pod["metadata"]["uid"]);
    kubectl(lab, &["-n", "shop", "delete", "pod", "outsider", "--timeout=60s"]);
}

/// What the accounts of controller and agent may not do; that they may do what they need shows everywhere else.
fn parts_may_do_no_more_than_they_need(lab: &Lab) {
    for (account, verb, what) in [
        ("fairway-controller", "list", "secrets"),
        ("fairway-controller", "delete", "pods"),
        ("fairway-controller", "update", "authorizationpolicies.security.istio.io"),
        ("fairway-cni", "list", "services"),
        ("fairway-cni", "patch", "pods"),
        ("fairway-cni", "list", "events.events.k8s.io"),
        ("fairway-cni", "delete", "events.events.k8s.io"),
        ("ztunnel", "list", "pods"),
    ] {
        let user = format!("--as=system:serviceaccount:fairway-system:{account}");
        let answer = try_kubectl(lab, &["auth", "can-i", verb, what, "--all-namespaces", &user], "");
        assert!(answer.is_err(), "{account} may {verb} {what}: {answer:?}");
    }
}

/// Waits until the API server knows that every pod is captured.
fn captured(lab: &Lab) {
    lab.wait_until("pods of the labelled namespace to be captured", || {
        let all = [pods(lab, "server"), pods(lab, "client")].concat();
        let outside: Vec<String> = all
            .iter()
            .filter(|pod| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] != "enabled")
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        if outside.is_empty() { Ok(()) } else { Err(outside.join(", ")) }
    })
    .unwrap();
}

fn mutual_tls(lab: &Lab) {
    let client = only_pod(lab, "client");
    let logs = ["ztunnel-node-1", "ztunnel-node-2"].map(|name| Cursor::at_end(lab, name));
    lab.wait_until("an answer over mutual TLS", || {
        let answer = labs::get(lab, &client, "http://server/");
        let lines = logs.iter().flat_map(|log| log.lines(lab, &["connection complete", "direction=\"inbound\""]));
        let proven = |line: &String| field(line, "src.identity") == Some("spiffe://cluster.local/ns/shop/sa/client");
        if answer.starts_with("200 ") && lines.into_iter().any(|line| proven(&line)) { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Waits until the client is answered, or is not.
fn answers(lab: &Lab, expected: bool) {
    let client = only_pod(lab, "client");
    lab.wait_until("policy to be enforced as applied", || {
        let answer = labs::get(lab, &client, "http://server/");
        if answer.starts_with("200 ") == expected { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Neither the end of the API server nor that of the controller, nor both at once, is heard of by who talks.
fn without_api_server(lab: &Lab) {
    let client = only_pod(lab, "client");
    let before = labs::pod(lab, &client);
    let mut open = talk(lab);
    ends_and_comes_back(lab, "kube-apiserver");
    assert!(open.says("without an API server"));
    ends_and_comes_back(lab, "controller");
    assert!(open.says("without a controller"));
    // It stands still, so controller and agents start without one.
    let starts = restarts(lab);
    lab.signal("kube-apiserver", Signal::SIGSTOP).unwrap();
    for name in ["controller", "agent-node-1", "agent-node-2"] {
        lab.kill(name).unwrap();
        lab.wait_for("it to run again", || restarts(lab)[name] > starts[name]).unwrap();
    }
    assert!(open.says("without both"));
    assert!(labs::get(lab, &client, "http://server/").starts_with("200 "));
    lab.signal("kube-apiserver", Signal::SIGCONT).unwrap();
    lab.wait_ready().unwrap();
    assert!(open.says("with both"));
    let now = labs::pod(lab, &client);
    assert_eq!((now.pids, now.restarts), (before.pids, before.restarts));
    // What is applied afterwards is heard again.
    apply(lab, DENY);
    answers(lab, false);
    lab.wait_for("the open connection to be cut", || !open.says("still here")).unwrap();
}

/// Without its label the namespace is out again, and its pods say so.
fn released(lab: &Lab) {
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "no-client"]);
    kubectl(lab, &["label", "namespace", "shop", "istio.io/dataplane-mode-"]);
    lab.wait_until("no pod to say that it is captured", || {
        let marks = kubectl(lab, &["-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].metadata.annotations}"]);
        if marks.contains("istio.io") { Err(marks) } else { Ok(()) }
    })
    .unwrap();
    answers(lab, true);
}

/// Kills a component and asks the server all the time until everything is as before.
fn ends_and_comes_back(lab: &Lab, component: &str) {
    let client = only_pod(lab, "client");
    let before = restarts(lab);
    lab.kill(component).unwrap();
    let started = |lab: &Lab| restarts(lab)[component] > before[component];
    let ready = |lab: &Lab| {
        let components = lab.status().unwrap().components;
        components.iter().any(|known| known.name == component && known.ready)
    };
    let mut asked = 0;
    lab.wait_for("it to be back, with every question answered meanwhile", || {
        let answer = labs::get(lab, &client, "http://server/");
        assert!(answer.starts_with("200 "), "without {component}: {answer}");
        asked += 1;
        started(lab) && ready(lab)
    })
    .unwrap();
    assert!(asked > 1, "{component} was never away");
    lab.wait_ready().unwrap();
}
