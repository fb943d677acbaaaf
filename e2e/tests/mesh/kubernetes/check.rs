//! What `fairway check` finds of an API server.

use std::path::Path;
use std::process::Command;

use fairway_lab::Lab;

use super::super::check::{found, well};
use super::super::labs;
use super::{cluster, kubectl};

const KIND: &str = "ratelimits";

#[test]
fn a_kind_that_is_not_defined_is_found_and_defined_again() {
    let Some(lab) = cluster("defined", true) else { return };
    well(&lab);
    kubectl(&lab, &["delete", "crd", &format!("{KIND}.fairway.dev")]);
    let hint = found(&lab, "kinds-defined");
    assert!(hint.contains("kubectl create -f"), "{hint}");
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("manifests");
    let folders = [manifests.join("chart/crds"), manifests.join("crds")];
    let definition = folders.map(|folder| folder.join(format!("{KIND}.yaml"))).into_iter().find(|file| file.is_file());
    kubectl(&lab, &["create", "-f", &definition.unwrap().to_string_lossy()]);
    well(&lab);
    objects_are_judged_through_the_api_server(&lab);
}

/// As on any cluster: by its kubeconfig, and not as a lab.
fn objects_are_judged_through_the_api_server(lab: &Lab) {
    let kubeconfig = lab.layout().kubeconfig();
    let fairway = |arguments: &[&str]| {
        let mut command = Command::new(labs::binaries().join("fairway"));
        let output = command.args(arguments).arg("--kubeconfig").arg(&kubeconfig).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = fairway(&["analyze"]);
    assert_eq!((code, text.as_str()), (Some(0), "Nothing is wrong.\n"));
    kubectl(lab, &["label", "namespace", "default", "istio.io/use-waypoint=none-such"]);
    kubectl(lab, &["create", "service", "clusterip", "web", "--tcp=80"]);
    let (code, text) = fairway(&["analyze", "-n", "default"]);
    assert!(code == Some(2) && text.contains("error FW0301 WaypointMissing Service default/web"), "{code:?} {text}");
    let (code, text) = fairway(&["check", "--pre"]);
    assert!(code == Some(0) && text.contains("✓ Gateway API is there for waypoints and routes"), "{code:?} {text}");
    // Nodes of a lab have no kubelet that would forward a port: that is told of, with the right that it takes.
    let (code, text) = fairway(&["ztunnel-config", "workloads", "--node", "node-1"]);
    let told =
        text.contains("asking fairway-system/ztunnel-node-1 for /config_dump") && text.contains("pods/portforward");
    assert!(code == Some(1) && told, "{code:?} {text}");
}
