//! The world all these tests share, and how policies are put into it and taken out again.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fairway_lab::binaries::Build;
use fairway_lab::{Lab, Options};

use super::held::Held;

/// A server in an enrolled namespace, its clients on both nodes, a second enrolled namespace whose pods have the same
/// labels, and a visitor who is not enrolled.
const WORLD: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: depot, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec: {selector: {app: server}, ports: [{name: one, port: 7000}, {name: two, port: 7001}]}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: depot}
spec: {selector: {app: server}, ports: [{port: 7000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, labels: {app: server}}
spec:
  nodeName: node-2
  serviceAccountName: server
  containers:
    - name: one
      command: [fairway, lab, tool, echo, --port, "7000"]
      readinessProbe: {tcpSocket: {port: 7000}}
    - name: two
      command: [fairway, lab, tool, echo, --port, "7001"]
      readinessProbe: {tcpSocket: {port: 7001}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {nodeName: node-1, serviceAccountName: client, containers: [{name: main, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: shop, labels: {app: client}}
spec: {nodeName: node-2, serviceAccountName: client, containers: [{name: main, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
spec: {nodeName: node-1, serviceAccountName: other, containers: [{name: main, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: store, namespace: depot, labels: {app: server}}
spec:
  nodeName: node-2
  serviceAccountName: store
  containers:
    - name: one
      command: [fairway, lab, tool, echo, --port, "7000"]
      readinessProbe: {tcpSocket: {port: 7000}}
---
apiVersion: v1
kind: Pod
metadata: {name: worker, namespace: depot}
spec: {nodeName: node-1, serviceAccountName: worker, containers: [{name: main, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: street}
spec: {nodeName: node-1, containers: [{name: main, command: [sleep, infinity]}]}
"#;

pub(crate) const SERVER: &str = "server.shop:7000";
pub(crate) const SERVER_TWO: &str = "server.shop:7001";
pub(crate) const STORE: &str = "store.depot:7000";
pub(crate) const CLIENT: &str = "cluster.local/ns/shop/sa/client";
pub(crate) const OTHER: &str = "cluster.local/ns/shop/sa/other";
/// The node all servers are on: its ztunnel enforces.
pub(crate) const NODE: &str = "node-2";
pub(crate) const AUTHORIZATION: &str = "AuthorizationPolicy";
pub(crate) const PEER: &str = "PeerAuthentication";

/// Lines of each log that a failing test shows.
const LINES_SHOWN: usize = 12;

/// Labs share the machine's processors, and the times printed should be those of one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A lab with the world in it.
pub(crate) struct World {
    pub(crate) lab: Lab,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// Brings the world up; none where labs cannot run, which is said.
    pub(crate) fn up(test: &str) -> Option<Self> {
        let path = fairway_lab::prerequisites::search_path(None, &std::env::var("PATH").unwrap_or_default());
        if let Err(reason) = fairway_lab::prerequisites::check(&path) {
            println!("SKIPPED: {reason}");
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("pl{}-{test}", std::process::id());
        let options = Options { name, build: Build::WhenMissing, ..Options::default() };
        let lab = Lab::up(options).unwrap();
        lab.apply(WORLD).unwrap();
        lab.wait_ready().unwrap();
        let captured = ["shop/server", "shop/client", "shop/near", "shop/other", "depot/store", "depot/worker"];
        let mut expected = captured.map(|pod| (pod, true)).to_vec();
        expected.push(("street/visitor", false));
        lab.wait_captured(&expected).unwrap();
        let world = Self { lab, _turn: turn };
        for (pod, to) in [("shop/client", SERVER), ("shop/near", SERVER), ("depot/worker", STORE)] {
            world.wait_let_in(pod, to);
        }
        Some(world)
    }

    pub(crate) fn hold(&self, pod: &str, to: &str) -> Held {
        Held::open(&self.lab, pod, to, 1, 0)
    }

    /// Puts an AuthorizationPolicy in place; `spec` is YAML on one line.
    pub(crate) fn authorize(&self, key: &str, spec: &str) -> Instant {
        self.put(AUTHORIZATION, key, &manifest(AUTHORIZATION, key, spec))
    }

    /// Denies connections of a principal, in `NAMESPACE/NAME` without a selector.
    pub(crate) fn deny(&self, key: &str, principal: &str) -> Instant {
        self.authorize(key, &format!("{{action: DENY, rules: [{}]}}", from(principal)))
    }

    /// Puts a file in place, valid or not, as `fairway lab apply` would: under another name first. Says when.
    pub(crate) fn put(&self, kind: &str, key: &str, text: &str) -> Instant {
        let path = self.path(kind, key);
        let hidden = path.with_file_name(".policy.partial");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&hidden, text).unwrap();
        let moment = Instant::now();
        fs::rename(&hidden, &path).unwrap();
        moment
    }

    pub(crate) fn remove(&self, kind: &str, key: &str) {
        fs::remove_file(self.path(kind, key)).unwrap();
    }

    fn path(&self, kind: &str, key: &str) -> PathBuf {
        let (namespace, name) = key.split_once('/').unwrap();
        self.lab.layout().manifests().join(namespace).join(format!("{}_{name}.yaml", kind.to_lowercase()))
    }

    /// One exchange over a connection of its own.
    pub(crate) fn send(&self, pod: &str, to: &str) -> Output {
        self.lab.exec(pod, &["fairway", "lab", "tool", "send", to]).unwrap()
    }

    pub(crate) fn is_let_in(&self, pod: &str, to: &str) -> bool {
        self.send(pod, to).status.success()
    }

    pub(crate) fn wait_let_in(&self, pod: &str, to: &str) {
        self.lab.wait_for(&format!("{to} to let {pod} in"), || self.is_let_in(pod, to)).unwrap();
    }

    /// A refused connection ends in a reset, not in an empty answer.
    pub(crate) fn assert_refused(&self, pod: &str, to: &str) {
        let output = self.send(pod, to);
        let said = String::from_utf8_lossy(&output.stdout);
        // Some resets overtake the program: `connect` itself tells of them.
        assert!(!output.status.success() && said.contains("reset by peer"), "{pod} to {to}: {said}");
    }

    /// The log of the ztunnel that enforces, as it is now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.lab.ztunnel_log(NODE).len())
    }

    /// Access-log lines since `mark` of connections that `reason` ended, in the name of `policy` or of nobody.
    pub(crate) fn ended(&self, mark: &Mark, reason: &str, policy: Option<&str>) -> Vec<String> {
        let reason = format!(" reason=\"{reason}\"");
        let policy = policy.map(|policy| format!(" policy=\"{policy}\""));
        let log = self.lab.ztunnel_log(NODE);
        let fits = |line: &&str| {
            line.contains("connection complete")
                && line.contains("direction=\"inbound\"")
                && line.contains(&reason)
                && match &policy {
                    Some(policy) => line.contains(policy),
                    None => !line.contains(" policy="),
                }
        };
        log.get(mark.0..).unwrap_or_default().lines().filter(fits).map(str::to_owned).collect()
    }

    /// Waits until at least `count` such lines are there.
    pub(crate) fn wait_ended(&self, mark: &Mark, count: usize, reason: &str, policy: Option<&str>) {
        let what = format!("{count} lines with reason {reason} and policy {policy:?} in the access log");
        self.lab
            .wait_until(&what, || {
                let found = self.ended(mark, reason, policy).len();
                if found >= count {
                    return Ok(());
                }
                let log = self.lab.ztunnel_log(NODE);
                let tail: Vec<&str> = log.get(mark.0..).unwrap_or_default().lines().rev().take(5).collect();
                Err(format!("{found} there; the log ends with\n{}", tail.join("\n")))
            })
            .unwrap();
    }

    /// Waits until the controller has looked at the file `key` and complained.
    pub(crate) fn wait_complaint(&self, mark: usize, name: &str) {
        let complaint = |line: &str| line.contains("in error") && line.contains(name);
        self.lab
            .wait_until(&format!("the controller to complain about {name}"), || {
                let log = self.lab.log("controller");
                let new = log.get(mark..).unwrap_or_default();
                if new.lines().any(complaint) { Ok(()) } else { Err(new.to_owned()) }
            })
            .unwrap();
    }
}

/// A test that fails shows what the mesh had to say.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for component in ["controller", "ztunnel-node-1", "ztunnel-node-2"] {
            let log = self.lab.log(component);
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default() {
                println!("{component} | {line}");
            }
        }
    }
}

/// A place in a log.
pub(crate) struct Mark(usize);

pub(crate) fn manifest(kind: &str, key: &str, spec: &str) -> String {
    let (namespace, name) = key.split_once('/').unwrap();
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// A rule that matches one principal.
pub(crate) fn from(principal: &str) -> String {
    format!("{{from: [{{source: {{principals: [\"{principal}\"]}}}}]}}")
}
