//! Waypoints in a real cluster: a Gateway becomes objects, these are repaired, its pods do what they are for, and all of it goes
//! when it goes.

use serde_json::Value;

use super::{Lab, SHOP, admission, apply, cluster, json, kubectl, labs, only_pod, rolled_out, told, try_kubectl};
use crate::mesh::look::{fairway, said};
use crate::mesh::shop::AMBIENT;

/// What names the gateway on everything that is made of it.
const MADE: &str = "gateway.networking.k8s.io/gateway-name=waypoint";
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
const LISTENERS: &str = "listeners: [{name: mesh, port: 15008, protocol: HBONE}]";

/// A policy of the shop's service that only its waypoint can enforce.
const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: server}]
  action: DENY
  rules: [{to: [{operation: {paths: [/admin]}}]}]
";

fn gateway(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  gatewayClassName: fairway-waypoint\n  {spec}\n"
    )
}

#[test]
fn a_gateway_becomes_a_waypoint_which_is_repaired_and_goes_with_it() {
    let Some(lab) = cluster("kubernetes-waypoints", true) else { return };
    if try_kubectl(&lab, &["get", "gatewayclasses"], "").is_err() {
        labs::skip("kubernetes-waypoints", "Gateway API's definitions are not there; `./dev setup` gets them");
        return;
    }
    kubectl(&lab, &["wait", "--for=condition=Accepted", "gatewayclass/fairway-waypoint", "--timeout=60s"]);
    apply(&lab, NAMESPACE);
    apply(&lab, &gateway("waypoint", LISTENERS));
    made(&lab);
    told_when_it_is_ready(&lab);
    the_command_shows_and_makes_waypoints(&lab);
    repaired(&lab);
    does_what_it_is_for(&lab);
    told::of_troubles(&lab);
    admission::answers(&lab);
    as_annotated(&lab);
    others_are_left_alone(&lab);
    refused_by_field(&lab);
    kubectl(&lab, &["-n", "shop", "delete", "gateway", "waypoint"]);
    nothing_is_left(&lab);
    made_while_it_is_needed(&lab);
}

fn nothing_is_left(lab: &Lab) {
    lab.wait_until("everything of the waypoint to be gone", || {
        let left =
            kubectl(lab, &["-n", "shop", "get", "deployments,services,serviceaccounts,pods", "-l", MADE, "-o", "name"]);
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .unwrap();
}

/// Waits until `kubectl get WHAT` in the shop, as JSON, is as `wanted` says.
pub(super) fn wait(lab: &Lab, what: &[&str], why: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    lab.wait_until(why, || {
        let text = try_kubectl(lab, &[&["-n", "shop", "get"], what, &["-o", "json"]].concat(), "")?;
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if wanted(&value) { Ok(value) } else { Err(text) }
    })
    .unwrap()
}

/// A namespace that asks for it has a waypoint exactly while a policy needs one.
fn made_while_it_is_needed(lab: &Lab) {
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicies,httproutes", "--all"]);
    kubectl(lab, &["-n", "shop", "label", "service", "server", "istio.io/use-waypoint-"]);
    kubectl(lab, &["label", "namespace", "shop", "fairway.dev/waypoint=automatic"]);
    apply(lab, POLICY);
    wait(lab, &["gateway", "waypoint"], "the waypoint to be made", |gateway| {
        says(gateway, "Programmed", "True", "its pods are ready")
    });
    kubectl(
        lab,
        &["-n", "shop", "wait", "--for=condition=Programmed", "authorizationpolicy/no-admin", "--timeout=60s"],
    );
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "no-admin"]);
    kubectl(lab, &["-n", "shop", "wait", "--for=delete", "gateway/waypoint", "--timeout=120s"]);
    nothing_is_left(lab);
}

fn made(lab: &Lab) {
    let all = ["deployments,services,serviceaccounts", "-l", MADE];
    let list = wait(lab, &all, "deployment, service and account", |list| {
        list["items"].as_array().is_some_and(|items| items.len() == 3)
    });
    let uid = json(lab, &["-n", "shop", "get", "gateway", "waypoint"])["metadata"]["uid"].clone();
    for item in list["items"].as_array().unwrap() {
        assert_eq!(item["metadata"]["ownerReferences"][0]["uid"], uid, "{item}");
    }
}

fn condition<'a>(gateway: &'a Value, kind: &str) -> Option<&'a Value> {
    gateway["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn says(gateway: &Value, kind: &str, status: &str, words: &str) -> bool {
    condition(gateway, kind).is_some_and(|condition| {
        condition["status"] == status && condition["message"].as_str().is_some_and(|message| message.contains(words))
    })
}

fn told_when_it_is_ready(lab: &Lab) {
    let gateway = wait(lab, &["gateway", "waypoint"], "the gateway to say that its pod is ready", |gateway| {
        says(gateway, "Accepted", "True", "") && says(gateway, "Programmed", "True", "its pods are ready")
    });
    assert_eq!(gateway["status"]["addresses"][0]["value"], "waypoint.shop.svc.cluster.local", "{gateway}");
    assert_eq!(gateway["status"]["listeners"][0]["name"], "mesh", "{gateway}");
}

/// `fairway waypoint` and `fairway namespace`, on the API server.
fn the_command_shows_and_makes_waypoints(lab: &Lab) {
    let list = said(lab, &["waypoint", "list", "-n", "shop"]);
    let row: Vec<&str> = list.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["shop", "waypoint", "service", "True"], "{list}");
    let mine = ["waypoint", "apply", "--name", "mine", "-n", "shop", "--for", "none"];
    assert_eq!(said(lab, &mine), "waypoint shop/mine created\n");
    assert_eq!(said(lab, &["waypoint", "delete", "mine", "-n", "shop"]), "waypoint shop/mine deleted\n");
    let (succeeded, text) = fairway(lab, &["waypoint", "delete", "mine", "-n", "shop"]);
    assert!(!succeeded && text.contains("there is no waypoint mine in shop"), "{text}");
    assert_eq!(said(lab, &["namespace", "add", "shop"]), "Namespace shop labeled\n");
    assert_eq!(said(lab, &["namespace", "add", "shop"]), "Namespace shop unchanged\n");
    let namespaces = said(lab, &["namespace", "list"]);
    let row = namespaces.lines().find(|line| line.starts_with("shop ")).unwrap_or_default();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["shop", "yes", "-"], "{namespaces}");
    let (succeeded, text) = fairway(lab, &["namespace", "add", "nowhere"]);
    assert!(!succeeded && text.contains("reading Namespace nowhere"), "{text}");
    said(lab, &["namespace", "remove", "shop"]);
}

fn repaired(lab: &Lab) {
    kubectl(lab, &["-n", "shop", "scale", "deployment/waypoint", "--replicas=3"]);
    wait(lab, &["deployment", "waypoint"], "its number of pods to be repaired", |it| it["spec"]["replicas"] == 1);
    kubectl(lab, &["-n", "shop", "set", "image", "deployment/waypoint", "waypoint=elsewhere/other:1"]);
    wait(lab, &["deployment", "waypoint"], "its image to be repaired", |it| {
        it["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .is_some_and(|image| image.contains("waypoint"))
    });
    kubectl(lab, &["-n", "shop", "delete", "service", "waypoint"]);
    wait(lab, &["service", "waypoint"], "its service to be made again", |it| it["spec"]["ports"][0]["port"] == 15008);
}

/// What the guides say: the namespace is enrolled, the service labelled, and a policy of requests is in force.
fn does_what_it_is_for(lab: &Lab) {
    apply(lab, SHOP);
    rolled_out(lab);
    kubectl(lab, &["label", "namespace", "shop", AMBIENT]);
    kubectl(lab, &["-n", "shop", "label", "service", "server", "istio.io/use-waypoint=waypoint"]);
    apply(lab, POLICY);
    let client = only_pod(lab, "client");
    let status = |path: &str| {
        let url = format!("http://server{path}");
        let asked = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", &url];
        String::from_utf8_lossy(&lab.exec(&client, &asked).unwrap().stdout).into_owned()
    };
    lab.wait_until("the policy to be in force at the waypoint, and nothing else refused", || {
        let answers = (status("/admin"), status("/"));
        if answers == ("403".to_owned(), "200".to_owned()) { Ok(()) } else { Err(format!("{answers:?}")) }
    })
    .unwrap();
    let policy = json(lab, &["-n", "shop", "get", "authorizationpolicy", "no-admin"]);
    assert!(says(&policy, "WaypointAccepted", "True", ""), "{policy}");
}

fn as_annotated(lab: &Lab) {
    let annotate =
        |more: [&str; 2]| kubectl(lab, &[&["-n", "shop", "annotate", "gateway", "waypoint"], &more[..]].concat());
    let count = |wanted: usize| {
        wait(
            lab,
            &["horizontalpodautoscalers,poddisruptionbudgets", "-l", MADE],
            "what is annotated to be so",
            |list| list["items"].as_array().is_some_and(|items| items.len() == wanted),
        )
    };
    annotate(["fairway.dev/autoscale=2-4", "fairway.dev/min-available=1"]);
    count(2);
    annotate(["fairway.dev/autoscale-", "fairway.dev/min-available-"]);
    count(0);
}

fn others_are_left_alone(lab: &Lab) {
    kubectl(lab, &["-n", "shop", "create", "service", "clusterip", "taken", "--tcp=80:80"]);
    apply(lab, &gateway("taken", LISTENERS));
    wait(lab, &["gateway", "taken"], "the gateway to say whose service is in the way", |gateway| {
        says(gateway, "Programmed", "False", "Service taken belongs to somebody else")
    });
    let service = json(lab, &["-n", "shop", "get", "service", "taken"]);
    assert_eq!(service["spec"]["ports"][0]["port"], 80);
    assert!(service["metadata"]["ownerReferences"].is_null(), "{service}");
    // Once it is out of the way, the gateway has its own.
    kubectl(lab, &["-n", "shop", "delete", "service", "taken"]);
    wait(lab, &["service", "taken"], "a service of its own", |it| it["spec"]["ports"][0]["port"] == 15008);
    kubectl(lab, &["-n", "shop", "delete", "gateway", "taken"]);
}

fn refused_by_field(lab: &Lab) {
    apply(lab, &gateway("web", "listeners: [{name: web, port: 80, protocol: HTTP}]"));
    wait(lab, &["gateway", "web"], "the gateway to name its field", |gateway| {
        says(gateway, "Accepted", "False", "spec.listeners[0]")
    });
    let made = kubectl(
        lab,
        &["-n", "shop", "get", "deployments", "-l", "gateway.networking.k8s.io/gateway-name=web", "-o", "name"],
    );
    assert!(made.trim().is_empty(), "{made}");
}
