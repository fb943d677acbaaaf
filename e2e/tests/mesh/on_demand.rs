//! Node proxies that ask for what their pods talk to, instead of holding all of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use fairway_lab::Lab;
use nix::sys::signal::Signal;

use super::labs;
use super::observe::config_dump;
use super::shop::{self, CLIENT, LONER};

/// On the other node, and nobody talks to it until the end.
const STRANGER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: shop}
spec:
  nodeName: node-2
  containers:
    - name: http
      command: [fairway, lab, tool, http-server, --port, \"8080\", --text, the stranger]
      readinessProbe: {tcpSocket: {port: 8080}}
";

#[test]
fn a_proxy_learns_what_its_pods_talk_to_and_nothing_else() {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let ztunnel = BTreeMap::from([
        setting("XDS_ON_DEMAND", "true"),
        setting("XDS_DEMAND_WAIT", "500ms"),
        setting("ISTIO_META_DNS_CAPTURE", "false"),
    ]);
    let agent = BTreeMap::from([setting("AMBIENT_DNS_CAPTURE", "false")]);
    let environment = BTreeMap::from([("ztunnel".to_owned(), ztunnel), ("agent".to_owned(), agent)]);
    let Some(lab) = labs::mesh_in("on-demand", environment) else { return };
    lab.apply(shop::MANIFESTS).unwrap();
    lab.apply(STRANGER).unwrap();
    lab.wait_ready().unwrap();
    shop::enrol(&lab);

    // Its own pods, and what the client's service brought; not what nobody asked for.
    assert_eq!(known(&lab), names(&["client", "visitor", "server"]));
    let stranger = format!("http://{}:8080/", shop::address(&lab, "shop/stranger"));
    assert!(labs::get(&lab, CLIENT, &stranger).starts_with("200 "));
    assert_eq!(known(&lab), names(&["client", "visitor", "server", "stranger"]));

    // Without a controller, what is known goes on; what is not is refused in time, and reached when it is back.
    let loner = format!("http://{}:8080/", shop::address(&lab, LONER));
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    for url in ["http://server/", &stranger] {
        assert!(labs::get(&lab, CLIENT, url).starts_with("200 "), "{url}");
    }
    assert!(!lab.ztunnel_log("node-1").contains("destination_unknown"));
    assert!(labs::get(&lab, CLIENT, &loner).starts_with("error:"));
    assert!(lab.ztunnel_log("node-1").contains("destination_unknown"));
    lab.signal("controller", Signal::SIGCONT).unwrap();
    lab.wait_for("what was not known to be reached", || labs::get(&lab, CLIENT, &loner).starts_with("200 ")).unwrap();
    assert_eq!(known(&lab), names(&["client", "visitor", "server", "stranger", "loner"]));
}

/// Names of the workloads that the proxy of the client's node knows, besides the mesh's own.
fn known(lab: &Lab) -> BTreeSet<String> {
    let dump = config_dump(lab, "node-1").unwrap();
    let name = |workload: &serde_json::Value| workload["name"].as_str().unwrap().to_owned();
    let ours = |workload: &&serde_json::Value| ["shop", "street"].contains(&workload["namespace"].as_str().unwrap());
    dump["workloads"].as_array().unwrap().iter().filter(ours).map(name).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}
