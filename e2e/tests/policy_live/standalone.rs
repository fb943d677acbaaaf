//! Two proxies of one workload each, with a configuration file and nobody else: no controller, no agent. What the
//! file says reaches connections that are open, and a broken file reaches nobody.
//!
//! The files are those of `docs/guides/standalone.md`, with this lab's addresses.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fairway_lab::binaries::Build;
use fairway_lab::lab::Running;
use fairway_lab::{Lab, Options};
use serde_json::Value;

use super::held::Held;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop}
spec:
  nodeName: node-2
  containers:
    - name: main
      command: [fairway, lab, tool, echo, --port, "7000"]
      readinessProbe: {tcpSocket: {port: 7000}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-1, containers: [{name: main, command: [sleep, infinity]}]}
"#;
const CONFIGURATION: &str = include_str!("../../../docs/guides/standalone/local.yaml");
const CAPTURE: &str = include_str!("../../../docs/guides/standalone/capture.nft");
const DENY: &str = "policies:\n- name: close\n  namespace: shop\n  scope: Namespace\n  action: Deny\n  rules:\n  \
                    - - - principals: [{Exact: cluster.local/ns/shop/sa/client}]\n";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
/// Connections held open.
const CONNECTIONS: usize = 3;

/// The two workloads, their proxies and the file both follow.
struct Pair {
    lab: Lab,
    directory: tempfile::TempDir,
    server: String,
    configuration: String,
    _proxies: Vec<Running>,
}

impl Pair {
    fn up() -> Option<Self> {
        let path = fairway_lab::prerequisites::search_path(None, &std::env::var("PATH").unwrap_or_default());
        if let Err(reason) = fairway_lab::prerequisites::check(&path) {
            println!("SKIPPED: {reason}");
            return None;
        }
        let name = format!("pl{}-standalone", std::process::id());
        let lab = Lab::up(Options { name, mesh: false, build: Build::WhenMissing, ..Options::default() }).unwrap();
        lab.apply(PODS).unwrap();
        lab.wait_ready().unwrap();
        let (client, server) = (address(&lab, "client"), address(&lab, "server"));
        let configuration = CONFIGURATION.replace("10.77.0.1]", &format!("{client}]"));
        let configuration = configuration.replace("10.77.0.2]", &format!("{server}]"));
        let mut pair =
            Self { lab, directory: tempfile::tempdir().unwrap(), server, configuration, _proxies: Vec::new() };
        pair.write(&pair.configuration);
        let rules = pair.directory.path().join("capture.nft");
        fs::write(&rules, CAPTURE).unwrap();
        for workload in ["client", "server"] {
            let proxy = pair.start(workload);
            pair._proxies.push(proxy);
        }
        for workload in ["client", "server"] {
            pair.lab
                .wait_for(&format!("the proxy of {workload}"), || pair.page(workload, "15021/healthz/ready") == "ready")
                .unwrap();
            let output = pair.lab.exec(&format!("shop/{workload}"), &["nft", "-f", &rules.to_string_lossy()]).unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        Some(pair)
    }

    fn start(&self, workload: &str) -> Running {
        let ztunnel = binary("ztunnel");
        let file = |name: &str| self.directory.path().join(name).to_string_lossy().into_owned();
        let command = format!(
            "exec {} --proxy-mode dedicated --proxy-workload-info shop/{workload}/{workload} --packet-mark 1337 \
             --xds-address= --local-xds-path {} --fake-ca true --fake-ca-root {} 2>{}",
            ztunnel.display(),
            file("local.yaml"),
            file("root.pem"),
            file(&format!("{workload}.log")),
        );
        self.lab.spawn(&format!("shop/{workload}"), &["sh", "-c", &command]).unwrap()
    }

    /// Puts a version of the file in place, whole; gives the moment.
    fn write(&self, text: &str) -> Instant {
        let draft = self.directory.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, self.directory.path().join("local.yaml")).unwrap();
        Instant::now()
    }

    fn log(&self, workload: &str) -> String {
        fs::read_to_string(self.directory.path().join(format!("{workload}.log"))).unwrap()
    }

    /// A page of a proxy's own ports.
    fn page(&self, workload: &str, page: &str) -> String {
        let url = format!("http://127.0.0.1:{page}");
        let output = self.lab.exec(&format!("shop/{workload}"), &["fairway", "lab", "tool", "http-get", &url]).unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        answer.strip_prefix("200 ").map(str::to_owned).unwrap_or(answer)
    }

    fn is_let_in(&self) -> bool {
        let to = format!("{}:7000", self.server);
        let output = self.lab.exec("shop/client", &["fairway", "lab", "tool", "send", &to]).unwrap();
        output.status.success()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for workload in ["client", "server"] {
                println!("{workload}:\n{}", self.log(workload));
            }
        }
    }
}

fn binary(name: &str) -> PathBuf {
    let running = std::env::current_exe().unwrap().canonicalize().unwrap();
    running.parent().and_then(Path::parent).unwrap().join(name)
}

fn address(lab: &Lab, pod: &str) -> String {
    let pods = lab.status().unwrap().pods;
    let pod = pods.into_iter().find(|status| status.name == pod).unwrap();
    pod.addresses.into_iter().find(|text| text.parse::<IpAddr>().unwrap().is_ipv4()).unwrap()
}

#[test]
fn a_file_is_all_that_two_proxies_need() {
    let Some(pair) = Pair::up() else { return };
    let mut held = Held::open(&pair.lab, "shop/client", &format!("{}:7000", pair.server), CONNECTIONS, 0);
    held.assert_works();
    // Mutual TLS, with an identity at each end that the other has checked.
    let page = pair.page("server", "15000/connections");
    let connections: Vec<Value> = page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(connections.len(), CONNECTIONS, "{connections:?}");
    for connection in &connections {
        let shown = connection.to_string();
        assert!(shown.contains(CLIENT) && shown.contains(SERVER), "{shown}");
    }
    assert!(pair.page("server", "15020/metrics").contains("istio_build{component=\"ztunnel\""));
    // A file that is broken changes nothing, and says where it is broken.
    pair.write(&pair.configuration.replace("protocol: HBONE", "protocol: SPDY"));
    pair.lab.wait_for("the complaint", || pair.log("server").contains("workloads[0].protocol")).unwrap();
    assert!(pair.page("server", "15020/metrics").contains("fairway_local_file_rejected 1"));
    held.assert_works();
    // A policy in the file reaches the connections that are open.
    let written = pair.write(&pair.configuration.replace("policies: []\n", DENY));
    held.assert_cut(written, "the policy in the file");
    pair.lab.wait_for("the reason in the log", || pair.log("server").contains("shop/close")).unwrap();
    assert!(!pair.is_let_in());
    // And its end those that want to be.
    pair.write(&pair.configuration);
    pair.lab.wait_for("the client to be let in again", || pair.is_let_in()).unwrap();
}
