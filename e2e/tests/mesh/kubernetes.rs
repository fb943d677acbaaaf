//! A lab with a Kubernetes of its own: the real API server, scheduler and controllers, and the lab in place of kubelets.

mod admission;
mod check;
mod install;
mod live;
mod told;
mod waypoints;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fairway_lab::{Lab, Options, binaries};
use serde_json::Value;

use super::labs;

const SHOP: &str = include_str!("kubernetes/shop.yaml");
/// How long a control plane may take to start on a machine that does much else.
const START: Duration = Duration::from_secs(240);

/// A lab with Kubernetes, everything ready; `None` when none can run here.
fn cluster(test: &str, mesh: bool) -> Option<Lab> {
    if !labs::can_run(test) {
        return None;
    }
    let Some(kubernetes) = binaries::kubernetes() else {
        labs::skip(test, "there is no API server; `./dev setup` builds it where Go is installed");
        return None;
    };
    labs::build();
    let mut options = Options { kubernetes: true, mesh, ..labs::options(test) };
    options.binaries.kubernetes = Some(kubernetes);
    let lab = Lab::up(options).unwrap();
    let started = Instant::now();
    while let Err(error) = lab.wait_ready() {
        assert!(started.elapsed() < START, "{error}\n{}", lab.log("supervisor"));
    }
    Some(lab)
}

/// Runs kubectl on the host; its output, or its complaint.
fn try_kubectl(lab: &Lab, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = lab.kubectl(arguments).unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn kubectl(lab: &Lab, arguments: &[&str]) -> String {
    try_kubectl(lab, arguments, "").unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
}

fn apply(lab: &Lab, manifests: &str) {
    try_kubectl(lab, &["apply", "-f", "-"], manifests).unwrap();
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&kubectl(lab, &[arguments, &["-o", "json"]].concat())).unwrap()
}

/// The pods of an app in the shop, as the API server has them.
fn pods(lab: &Lab, app: &str) -> Vec<Value> {
    let list = json(lab, &["-n", "shop", "get", "pods", "-l", &format!("app={app}")]);
    list["items"].as_array().unwrap().clone()
}

/// Name of the only pod of an app, as `NAMESPACE/POD`.
fn only_pod(lab: &Lab, app: &str) -> String {
    let pods = pods(lab, app);
    assert_eq!(pods.len(), 1, "{pods:?}");
    format!("shop/{}", pods[0]["metadata"]["name"].as_str().unwrap())
}

/// Waits until the shop's Deployments say that they are complete.
fn rolled_out(lab: &Lab) {
    for name in ["deployment/server", "deployment/client"] {
        kubectl(lab, &["-n", "shop", "rollout", "status", name, "--timeout=120s"]);
    }
}

#[test]
fn pods_of_a_deployment_are_scheduled_run_and_end_as_in_any_cluster() {
    let Some(lab) = cluster("kubernetes", false) else { return };
    kubectl(&lab, &["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]);
    let nodes = json(&lab, &["get", "nodes"]);
    assert_eq!(nodes["items"].as_array().unwrap().len(), 2);
    apply(&lab, SHOP);
    rolled_out(&lab);
    scheduled_and_reported(&lab);
    services_lead_to_pods(&lab);
    tokens_are_real(&lab);
    deleted_pods_are_replaced(&lab);
    kubectl(&lab, &["-n", "shop", "scale", "deployment/server", "deployment/client", "--replicas=0"]);
    kubectl(&lab, &["-n", "shop", "wait", "--for=delete", "pods", "--all", "--timeout=60s"]);
    lab.wait_for("no pod to be left in the lab", || lab.status().unwrap().pods.is_empty()).unwrap();
}

fn scheduled_and_reported(lab: &Lab) {
    let servers = pods(lab, "server");
    let nodes: BTreeSet<&str> = servers.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    assert_eq!(nodes, BTreeSet::from(["node-1", "node-2"]), "the scheduler spreads replicas");
    for pod in &servers {
        assert_eq!(pod["status"]["phase"], "Running");
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);
        let name = format!("shop/{}", pod["metadata"]["name"].as_str().unwrap());
        let known = labs::pod(lab, &name);
        assert_eq!(pod["status"]["podIP"].as_str(), known.addresses.first().map(String::as_str));
        assert_eq!(pod["metadata"]["uid"].as_str(), Some(known.uid.as_str()));
    }
}

fn services_lead_to_pods(lab: &Lab) {
    let expected: BTreeSet<String> =
        pods(lab, "server").iter().map(|pod| pod["status"]["podIP"].as_str().unwrap().to_owned()).collect();
    lab.wait_until("endpoint slices with both pods", || {
        let slices = json(lab, &["-n", "shop", "get", "endpointslices"]);
        let endpoints =
            slices["items"].as_array().into_iter().flatten().flat_map(|slice| slice["endpoints"].as_array());
        let found: BTreeSet<String> =
            endpoints.flatten().filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned())).collect();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .unwrap();
    let client = only_pod(lab, "client");
    lab.wait_until("an answer over the service's address", || {
        let answer = labs::get(lab, &client, "http://server/");
        if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// A pod asks the API server as its service account, and RBAC answers.
fn tokens_are_real(lab: &Lab) {
    let client = only_pod(lab, "client");
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount && cat namespace && echo && \
        curl -sS --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" \
        \"https://kubernetes.default.svc:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/shop/pods\"";
    let ask = || labs::output(lab, &client, &["bash", "-c", script]);
    let refused = ask();
    assert!(refused.starts_with("shop\n"), "{refused}");
    assert!(refused.contains("\\\"system:serviceaccount:shop:client\\\" cannot list resource"), "{refused}");
    kubectl(
        lab,
        &["-n", "shop", "create", "rolebinding", "view", "--clusterrole=view", "--serviceaccount=shop:client"],
    );
    lab.wait_for("RBAC to let the client see pods", || ask().contains("\"kind\": \"PodList\"")).unwrap();
}

fn deleted_pods_are_replaced(lab: &Lab) {
    let before = only_pod(lab, "client");
    kubectl(lab, &["-n", "shop", "delete", "pod", before.trim_start_matches("shop/"), "--timeout=60s"]);
    rolled_out(lab);
    assert_ne!(only_pod(lab, "client"), before);
}
