//! The lab itself, without a mesh: pods reach each other, services balance, and nothing is left behind.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use fairway_lab::binaries::Build;
use fairway_lab::layout::Layout;
use fairway_lab::{Lab, Options, manage};

/// One server on each node, behind one service, and a client on node-1.
const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  nodeName: node-1
  containers: [{name: main, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: shop, labels: {app: server}}
spec:
  nodeName: node-1
  containers:
    - name: main
      command: [fairway, lab, tool, http-server, --port, "8080", --text, i am near]
      ports: [{name: web, containerPort: 8080}]
      readinessProbe: {httpGet: {port: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, labels: {app: server}}
spec:
  nodeName: node-2
  containers:
    - name: main
      command: [fairway, lab, tool, http-server, --port, "8080", --text, i am far]
      ports: [{name: web, containerPort: 8080}]
      readinessProbe: {httpGet: {port: web}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: web}]}
"#;

/// Why labs cannot run here; said once per test, so that a skip is seen.
fn cannot_run() -> Option<String> {
    let path = fairway_lab::prerequisites::search_path(None, &env::var("PATH").unwrap_or_default());
    let reason = fairway_lab::prerequisites::check(&path).err()?;
    println!("SKIPPED: {reason}");
    Some(reason.to_string())
}

fn options(test: &str) -> Options {
    Options {
        name: format!("t{}-{test}", std::process::id()),
        mesh: false,
        build: Build::WhenMissing,
        ..Options::default()
    }
}

fn lab(test: &str) -> Lab {
    let lab = Lab::up(options(test)).unwrap();
    lab.apply(WORLD).unwrap();
    lab.wait_ready().unwrap();
    lab
}

fn get(lab: &Lab, pod: &str, url: &str) -> String {
    let output = lab.exec(pod, &["fairway", "lab", "tool", "http-get", url]).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pods_reach_each_other_directly_and_through_the_service_in_both_families() {
    if cannot_run().is_some() {
        return;
    }
    let lab = lab("reach");
    let status = lab.status().unwrap();
    let far = status.pods.iter().find(|pod| pod.name == "far").unwrap();
    let service = &status.services[0];
    assert_eq!((far.addresses.len(), service.addresses.len(), service.endpoints), (2, 2, 2));
    for (direct, vip) in far.addresses.iter().zip(&service.addresses) {
        let host = |address: &str| if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let answer = get(&lab, "shop/client", &format!("http://{}:8080/", host(direct)));
        let client = if direct.contains(':') { "i am far to [fd00:100:1::" } else { "i am far to 10.101.0." };
        assert!(answer.contains(client), "the far server sees the client's own address: {answer}");
        for wanted in ["i am near", "i am far"] {
            lab.wait_for(wanted, || get(&lab, "shop/client", &format!("http://{}/", host(vip))).contains(wanted))
                .unwrap();
        }
        // A server that reaches itself through the service: needs masquerading.
        lab.wait_for("a hairpin", || get(&lab, "shop/near", &format!("http://{}/", host(vip))).contains("i am near"))
            .unwrap();
    }
    assert!(get(&lab, "shop/client", "http://server.shop.svc.cluster.local/").starts_with("200 i am"));
    let page = lab.http("node-1", &format!("http://{}:8080/", far.addresses[0])).unwrap();
    assert!(page.status == 200 && page.body.contains("10.99.0.11"), "{page:?}");
}

#[test]
fn a_deleted_pod_leaves_the_service_and_its_node() {
    if cannot_run().is_some() {
        return;
    }
    let lab = lab("delete");
    let far = WORLD.split("---").find(|document| document.contains("name: far")).unwrap();
    lab.delete(far).unwrap();
    lab.wait_for("the pod to be gone", || lab.status().unwrap().pods.len() == 2).unwrap();
    let links = lab.exec_node("node-2", &["ip", "-brief", "link"]).unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("veth"), "{links:?}");
    for _ in 0..8 {
        assert!(get(&lab, "shop/client", "http://server/").contains("i am near"));
    }
    let near = WORLD.split("---").find(|document| document.contains("name: near")).unwrap();
    lab.delete(near).unwrap();
    lab.wait_for("refusal, now that nobody serves", || get(&lab, "shop/client", "http://server/").contains("refused"))
        .unwrap();
}

#[test]
fn the_link_can_be_captured_and_shows_what_is_not_encrypted() {
    if cannot_run().is_some() {
        return;
    }
    let lab = lab("capture");
    let capture = lab.capture("node-1").unwrap();
    let far = lab.status().unwrap().pods.iter().find(|pod| pod.name == "far").unwrap().addresses[0].clone();
    assert!(get(&lab, "shop/client", &format!("http://{far}:8080/secret")).contains("i am far"));
    let segments = capture.finish().unwrap();
    let seen = |text: &str| {
        segments.iter().any(|segment| segment.payload.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    assert!(seen("GET /secret") && seen("i am far"), "{} segments", segments.len());
    assert!(segments.iter().all(|segment| !segment.is_on_port(15008)));
}

#[test]
fn connections_can_be_held_and_commands_fail_as_they_do_in_a_shell() {
    if cannot_run().is_some() {
        return;
    }
    let lab = lab("exec");
    assert_eq!(lab.exec("shop/client", &["sh", "-c", "exit 7"]).unwrap().status.code(), Some(7));
    assert_eq!(lab.exec("shop/client", &["no-such-program"]).unwrap().status.code(), Some(127));
    assert!(!lab.exec("shop/nobody", &["true"]).unwrap().status.success());
    let mut echo = lab.spawn("shop/near", &["fairway", "lab", "tool", "echo", "--port", "7000"]).unwrap();
    let mut said = BufReader::new(echo.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "listening on 7000");
    let near = lab.status().unwrap().pods.iter().find(|pod| pod.name == "near").unwrap().addresses[0].clone();
    let address = format!("{near}:7000");
    let mut held = lab.spawn("shop/client", &["fairway", "lab", "tool", "hold", &address, "--count", "50"]).unwrap();
    let mut events = BufReader::new(held.stdout.take().unwrap()).lines();
    assert_eq!(events.next().unwrap().unwrap(), r#"{"connections":50,"event":"open"}"#);
    drop(echo);
    let ends = (0..50).map(|_| events.next().unwrap().unwrap());
    assert!(ends.into_iter().all(|event| event.contains(r#""event":"closed""#)));
    assert_eq!(held.finish().unwrap(), "");
}

#[test]
fn two_labs_share_nothing_and_a_killed_one_leaves_nothing() {
    if cannot_run().is_some() {
        return;
    }
    let (one, two) = (lab("one"), lab("two"));
    let supervisor = one.status().unwrap().supervisor.unwrap();
    let killed = Command::new("kill").args(["-9", &supervisor.to_string()]).status().unwrap();
    assert!(killed.success());
    let root = one.layout().root().to_owned();
    two.wait_for("every process of the killed lab to end", || processes_mentioning(&root) == 0).unwrap();
    assert!(get(&two, "shop/client", "http://server/").starts_with("200 "));
    let layout = one.layout().clone();
    drop(one);
    assert!(!layout.root().exists());
    manage::down(&layout).unwrap();
    assert!(get(&two, "shop/client", "http://server/").starts_with("200 "));
}

fn processes_mentioning(path: &Path) -> usize {
    let wanted = path.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mentions = |entry: &fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&wanted)
    };
    processes.filter(mentions).count()
}

#[test]
fn an_unprivileged_user_can_have_a_lab() {
    if cannot_run().is_some() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: every other test here already runs unprivileged");
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let nobody = 65534;
    std::os::unix::fs::chown(base.path(), Some(nobody), Some(nobody)).unwrap();
    let fairway = fairway_lab::binaries::resolve(&options("unused"), &mut |_| {}).unwrap().fairway;
    let run = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&fairway)
            .arg("lab")
            .args(arguments);
        command.env("FAIRWAY_LAB_DIR", base.path()).stdin(Stdio::null()).output().unwrap()
    };
    let up = run(&["up", "--no-mesh", "--no-build"]);
    let complaint = String::from_utf8_lossy(&up.stderr).into_owned();
    // The second: this checkout, or setpriv, is out of nobody's reach.
    if complaint.contains("user namespaces") || up.status.code().is_some_and(|code| code >= 126) {
        println!("SKIPPED: {complaint}");
        return;
    }
    assert!(up.status.success(), "{complaint}");
    let inside = run(&["exec", "--node", "node-1", "--", "ip", "route", "get", "10.102.0.2"]);
    let down = run(&["down"]);
    assert!(down.status.success(), "{down:?}");
    assert!(inside.status.success(), "{inside:?}");
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    assert!(!Layout::at(base.path().join("default")).root().exists());
}
