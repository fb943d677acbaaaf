//! The chart against the real API server: it takes every object, pods pass the security level they claim, and the mesh can be
//! put on a cluster, changed and removed with one command each.

use std::process::Command;

use nix::sys::signal::Signal;

use super::{Lab, SHOP, Value, apply, binaries, cluster, json, kubectl, labs, pods, rolled_out, try_kubectl};

/// Values for which every object of the chart is there.
const VALUES: [&[&str]; 4] = [
    &["--profile", "demo"],
    &["--profile", "production", "--set", "ca.secretName=cacerts,mesh.network=n1,controller.listenAddress=[::]"],
    &["--profile", "minimal", "-n", "elsewhere", "--set", MESH_CONFIG],
    &["--set", "ztunnel.onDemand=true,cni.dnsCapture=false,cni.cleanupOnExit=true,controller.maxUnavailable=50%"],
];

/// A mesh configuration, as one sets it.
const MESH_CONFIG: &str = "mesh.config.defaultProviders.accessLogging={log}";

/// A cluster whose nodes nobody can run our agents on: those of a lab have their own.
const NO_NODES: &str = "cni.nodeSelector.nowhere=yes,ztunnel.nodeSelector.nowhere=yes,controller.replicas=1";

/// Runs `fairway` against the lab's API server as against any cluster: what it printed, or its complaint.
fn fairway(lab: &Lab, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(labs::binaries().join("fairway"));
    // As kubectl is told.
    let kubectl = lab.kubectl(&[]).unwrap();
    for (name, value) in kubectl.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn the_api_server_takes_the_chart_and_fairway_puts_it_on_changes_it_and_removes_it() {
    let Some(lab) = cluster("install", false) else { return };
    what_is_missing_is_said(&lab);
    every_object_is_accepted(&lab);
    pods_pass_the_level_they_claim(&lab);
    what_is_in_the_way_is_said(&lab);
    installed(&lab);
    another_namespace_is_refused(&lab);
    changed(&lab);
    // After the webhook went: the API server of a lab does not reach Services, and would wait for it each time.
    samples_are_accepted(&lab);
    samples_are_understood(&lab);
    removed(&lab);
    what_was_there_before_stays(&lab);
}

/// The agents of this lab are its own, and capture real pods: they keep them until they are told, and lose the right to say
/// anything of them when their role goes.
#[test]
fn the_mesh_is_removed_when_no_pod_is_captured_any_more() {
    let Some(lab) = cluster("uninstall", true) else { return };
    apply(&lab, SHOP);
    rolled_out(&lab);
    kubectl(&lab, &["label", "namespace", "shop", "istio.io/dataplane-mode=ambient"]);
    let captured = || {
        let pods = [pods(&lab, "server"), pods(&lab, "client")].concat();
        pods.iter().filter(|pod| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled").count()
    };
    lab.wait_for("all pods to be captured", || captured() == 3).unwrap();
    // A lab's webhook is somewhere else than a cluster's.
    let values = format!("{NO_NODES},webhook.create=false");
    fairway(&lab, &["install", "--force-conflicts", "--timeout", "2m", "--set", &values]).unwrap();
    assert_eq!(captured(), 3, "an installation changes nothing for pods");
    // Agents that stand still let nobody go, and so nothing that pods need may go.
    let agents = ["agent-node-1", "agent-node-2"];
    agents.iter().for_each(|agent| lab.signal(agent, Signal::SIGSTOP).unwrap());
    let refused = fairway(&lab, &["uninstall", "--yes", "--timeout", "2s"]);
    agents.iter().for_each(|agent| lab.signal(agent, Signal::SIGCONT).unwrap());
    let refused = refused.unwrap_err();
    assert!(refused.contains("waiting for pods to be released") && refused.contains("shop/client-"), "{refused}");
    kubectl(&lab, &["get", "clusterrole", "fairway-cni"]);
    kubectl(&lab, &["-n", "fairway-system", "get", "deployment", "fairway-controller"]);
    fairway(&lab, &["uninstall", "--yes", "--timeout", "2m"]).unwrap();
    assert_eq!(captured(), 0);
    try_kubectl(&lab, &["get", "clusterrole", "fairway-cni"], "").unwrap_err();
}

/// The cluster is as new; then it gets Gateway API, as a user would give it.
fn what_is_missing_is_said(lab: &Lab) {
    let refused = fairway(lab, &["install"]).unwrap_err();
    assert!(refused.contains("Gateway API") && refused.contains("waypoints.enabled=false"), "{refused}");
    let refused = fairway(lab, &["upgrade"]).unwrap_err();
    assert!(refused.contains("fairway install"), "{refused}");
    let refused = fairway(lab, &["install", "--set", "controler.replicas=1"]).unwrap_err();
    assert!(refused.contains("there is no controler"), "{refused}");
    try_kubectl(lab, &["get", "namespace", "fairway-system"], "").unwrap_err();
    let definitions = binaries::kubernetes().unwrap().with_file_name("gateway-api");
    kubectl(lab, &["apply", "--server-side", "-f", definitions.to_str().unwrap()]);
}

fn every_object_is_accepted(lab: &Lab) {
    for namespace in ["fairway-system", "elsewhere"] {
        kubectl(lab, &["create", "namespace", namespace]);
    }
    for values in VALUES {
        let objects = fairway(lab, &[&["install", "--dry-run"], values].concat()).unwrap();
        let said =
            try_kubectl(lab, &["apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-"], &objects);
        let said = said.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        let applied = said.lines().filter(|line| line.ends_with("(server dry run)")).count();
        let rendered = objects.lines().filter(|line| *line == "---").count();
        assert!(applied == rendered && rendered > 20, "{applied} of {rendered} with {values:?}: {said}");
    }
    // The installation that follows makes its namespace itself.
    kubectl(lab, &["delete", "namespace", "fairway-system"]);
}

/// The samples, as far as kinds are known to the API server.
fn samples_are_accepted(lab: &Lab) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    // What samples are about is in their namespace.
    kubectl(lab, &["create", "namespace", "harbour"]);
    for file in files {
        let said = try_kubectl(lab, &["apply", "--dry-run=server", "-f", file.to_str().unwrap()], "");
        said.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// Pods as they come from the templates, in namespaces of each level of the Pod Security Standards.
fn pods_pass_the_level_they_claim(lab: &Lab) {
    let templates = fairway(lab, &["install", "--dry-run", "-n", "level"]).unwrap();
    for level in ["restricted", "baseline"] {
        let name = format!("level-{level}");
        kubectl(lab, &["create", "namespace", &name]);
        kubectl(lab, &["label", "namespace", &name, &format!("pod-security.kubernetes.io/enforce={level}")]);
        for account in ["fairway-controller", "fairway-cni", "ztunnel"] {
            kubectl(lab, &["-n", &name, "create", "serviceaccount", account]);
        }
    }
    let pod = |part: &str, namespace: &str| -> Result<String, String> {
        let documents = templates.split("---\n").filter(|document| document.contains("kind:"));
        let objects = documents.map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
        let mut programs = objects.filter(|object| object["spec"]["template"].is_object());
        let found = programs.find(|object| object["metadata"]["name"] == part).unwrap();
        let spec = &found["spec"]["template"]["spec"];
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it", "namespace": namespace}, "spec": spec});
        try_kubectl(lab, &["apply", "--dry-run=server", "-f", "-"], &pod.to_string())
    };
    pod("fairway-controller", "level-restricted").unwrap();
    for part in ["fairway-cni", "ztunnel"] {
        let refused = pod(part, "level-baseline").unwrap_err();
        assert!(refused.contains("violates PodSecurity"), "{part}: {refused}");
    }
    // The chart's namespace is labelled so that they may run there.
    let namespace = templates.split("---\n").find(|document| document.contains("kind: Namespace")).unwrap();
    assert!(namespace.contains("pod-security.kubernetes.io/enforce: privileged"), "{namespace}");
}

fn what_is_in_the_way_is_said(lab: &Lab) {
    kubectl(lab, &["create", "clusterrole", "fairway-cni", "--verb=get", "--resource=pods"]);
    let refused = fairway(lab, &["install", "--set", NO_NODES]).unwrap_err();
    assert!(refused.contains("--force-conflicts"), "{refused}");
}

/// The controller really runs in its pod, with the chart's rights, and signs.
fn installed(lab: &Lab) {
    let said = fairway(lab, &["install", "--force-conflicts", "--timeout", "2m", "--set", NO_NODES]).unwrap();
    for words in ["controller: 1 applied", "proxies of nodes: 1 applied", "kubectl label namespace"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let controller = json(lab, &["-n", "fairway-system", "get", "deployment", "fairway-controller"]);
    assert_eq!(controller["status"]["readyReplicas"], 1);
    kubectl(lab, &["-n", "fairway-system", "get", "secret", "fairway-ca"]);
    kubectl(lab, &["-n", "fairway-system", "wait", "--for=create", "configmap/istio-ca-root-cert", "--timeout=60s"]);
    // Again, as after a time-out.
    fairway(lab, &["install", "--timeout", "2m", "--set", NO_NODES]).unwrap();
    let refused = fairway(lab, &["install"]).unwrap_err();
    assert!(refused.contains("other values") && refused.contains("fairway upgrade --set"), "{refused}");
}

/// Nothing is done to the mesh of a cluster by who has its namespace wrong.
fn another_namespace_is_refused(lab: &Lab) {
    for arguments in [
        &["install", "--force-conflicts", "--set", NO_NODES][..],
        &["upgrade"],
        &["uninstall", "--yes"],
        &["uninstall", "--yes", "--purge"],
        &["uninstall", "--dry-run"],
    ] {
        let refused = fairway(lab, &[arguments, &["-n", "elsewhere"]].concat()).unwrap_err();
        assert!(refused.contains("-n fairway-system"), "{arguments:?}: {refused}");
    }
    kubectl(lab, &["get", "validatingwebhookconfiguration,clusterrole", "fairway-controller"]);
    let binding = json(lab, &["get", "clusterrolebinding", "fairway-controller"]);
    assert_eq!(binding["subjects"][0]["namespace"], "fairway-system");
}

/// What the controller says of the samples' policies and routes.
fn samples_are_understood(lab: &Lab) {
    kubectl(lab, &["apply", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples")]);
    kubectl(lab, &["-n", "harbour", "label", "service", "pilots", "ships", "istio.io/use-waypoint=waypoint"]);
    for kind in [
        "authorizationpolicies",
        "httproutes",
        "peerauthentications",
        "ratelimits",
        "requestauthentications",
        "virtualservices",
    ] {
        lab.wait_until("the samples to be accepted", || {
            let told = json(lab, &["-n", "harbour", "get", kind]);
            let items = told["items"].as_array().unwrap();
            assert!(!items.is_empty(), "there is no sample of {kind}");
            match items.iter().find(|item| !is_accepted(item)) {
                None => Ok(()),
                Some(item) => Err(item.to_string()),
            }
        })
        .unwrap();
    }
}

/// Whether some condition says that an object is accepted, and none that it is not.
fn is_accepted(object: &Value) -> bool {
    let status = &object["status"];
    let lists = [&status["parents"], &status["ancestors"]].into_iter().filter_map(Value::as_array).flatten();
    let conditions = lists.chain([status]).filter_map(|one| one["conditions"].as_array()).flatten();
    let accepted: Vec<_> = conditions
        .filter(|condition| condition["type"].as_str().is_some_and(|kind| kind.ends_with("Accepted")))
        .map(|condition| condition["status"] == "True")
        .collect();
    !accepted.is_empty() && accepted.into_iter().all(|is_true| is_true)
}

fn changed(lab: &Lab) {
    let planned = fairway(lab, &["upgrade", "--dry-run", "--set", "webhook.create=false"]).unwrap();
    assert!(planned.contains("# would be deleted: ValidatingWebhookConfiguration fairway-controller"), "{planned}");
    kubectl(lab, &["get", "validatingwebhookconfiguration", "fairway-controller"]);
    let bad = "mesh.config.extensionProviders=none";
    let refused = fairway(lab, &["upgrade", "--set", bad]).unwrap_err();
    assert!(refused.contains("mesh.config"), "{refused}");
    let chosen = format!("webhook.create=false,log.level=debug,{MESH_CONFIG}");
    let said = fairway(lab, &["upgrade", "--timeout", "2m", "--set", &chosen]).unwrap();
    assert!(said.contains("not used any more: ValidatingWebhookConfiguration fairway-controller"), "{said}");
    try_kubectl(lab, &["get", "validatingwebhookconfiguration", "fairway-controller"], "").unwrap_err();
    let controller = json(lab, &["-n", "fairway-system", "get", "deployment", "fairway-controller"]);
    assert_eq!(controller["spec"]["replicas"], 1, "what was chosen before holds");
    let arguments = controller["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("--log=debug,kube_client=off"), "{arguments}");
    let map = json(lab, &["-n", "fairway-system", "get", "configmap", "fairway-mesh"]);
    let config: Value = serde_json::from_str(map["data"]["mesh"].as_str().unwrap()).unwrap();
    assert_eq!(config["defaultProviders"]["accessLogging"][0], "log", "{map}");
    let record = json(lab, &["-n", "fairway-system", "get", "configmap", "fairway-installation"]);
    assert!(record["data"]["version"].is_string(), "it has come to its end: {record}");
    assert_eq!(record["data"]["version"], record["data"]["target"]);
}

fn removed(lab: &Lab) {
    kubectl(lab, &["label", "namespace", "elsewhere", "istio.io/dataplane-mode=ambient"]);
    let refused = fairway(lab, &["uninstall"]).unwrap_err();
    assert!(refused.contains("--yes"), "{refused}");
    let planned = fairway(lab, &["uninstall", "--dry-run"]).unwrap();
    assert!(planned.contains("would be taken out of the mesh: Namespace elsewhere"), "{planned}");
    kubectl(lab, &["-n", "fairway-system", "get", "deployment", "fairway-controller"]);
    let said = fairway(lab, &["uninstall", "--yes", "--timeout", "2m"]).unwrap();
    assert!(said.contains("Fairway is removed."), "{said}");
    let namespace = json(lab, &["get", "namespace", "elsewhere"]);
    assert!(namespace["metadata"]["labels"].get("istio.io/dataplane-mode").is_none(), "{namespace}");
    let ours = [
        "deployments,daemonsets,services,roles,clusterroles",
        "-A",
        "-l",
        "app.kubernetes.io/managed-by=fairway",
        "-o",
        "name",
    ];
    assert_eq!(kubectl(lab, &[&["get"], &ours[..]].concat()).trim(), "");
    // What cannot be had again is still there, until that is said.
    kubectl(lab, &["-n", "fairway-system", "get", "secret", "fairway-ca"]);
    kubectl(lab, &["get", "customresourcedefinition", "ratelimits.fairway.dev"]);
    let refused = fairway(lab, &["uninstall", "--yes"]).unwrap_err();
    assert!(refused.contains("nothing of Fairway is installed"), "{refused}");
    fairway(lab, &["uninstall", "--yes", "--purge", "--timeout", "2m"]).unwrap();
    try_kubectl(lab, &["get", "namespace", "fairway-system"], "").unwrap_err();
    lab.wait_for("the definitions to be gone", || {
        try_kubectl(lab, &["get", "customresourcedefinition", "ratelimits.fairway.dev"], "").is_err()
    })
    .unwrap();
}

/// A namespace that others made is not removed with the mesh; the root in it is.
fn what_was_there_before_stays(lab: &Lab) {
    // Definitions that are on their way out cannot be made again.
    let definitions = ["get", "customresourcedefinitions", "-l", "app.kubernetes.io/part-of=fairway", "-o", "name"];
    lab.wait_for("all definitions to be gone", || kubectl(lab, &definitions).trim().is_empty()).unwrap();
    kubectl(lab, &["create", "namespace", "kept"]);
    fairway(lab, &["install", "-n", "kept", "--timeout", "2m", "--set", NO_NODES]).unwrap();
    let level = |namespace: &Value| {
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].as_str().map(str::to_owned)
    };
    assert_eq!(level(&json(lab, &["get", "namespace", "kept"])).as_deref(), Some("privileged"));
    kubectl(lab, &["-n", "kept", "get", "secret", "fairway-ca"]);
    let said = fairway(lab, &["uninstall", "-n", "kept", "--yes", "--purge", "--timeout", "2m"]).unwrap();
    assert!(said.contains("left, as it was there before: Namespace kept"), "{said}");
    kubectl(lab, &["get", "namespace", "kept"]);
    try_kubectl(lab, &["-n", "kept", "get", "secret", "fairway-ca"], "").unwrap_err();
}
