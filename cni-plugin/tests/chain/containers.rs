//! Real containers: containerd and runc start pods as a kubelet asks them to, with our plugin behind Debian's.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::cri::{self, Runtime};
use super::node::{Node, capture, skip, succeeds};

/// The one image there is: a statically linked busybox, for the sandbox itself and for its containers.
const IMAGE: &str = "fairway.test/busybox:1";
/// A uid in the form of a kubelet's, by which a pod's control group is known.
const UID: &str = "1b9a3c7e-0000-4000-8000-0123456789ab";
const OTHER_UID: &str = "2c9a3c7e-0000-4000-8000-0123456789ab";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// containerd on a node, with directories of its own; everything it started ends with it.
struct Containerd {
    process: Child,
    socket: PathBuf,
    groups: String,
}

impl Containerd {
    /// Nothing where it is not installed, or containers cannot run.
    fn start(node: &Node) -> Option<Self> {
        let root = node.path("containerd");
        let rootfs = root.join("rootfs/bin");
        fs::create_dir_all(&rootfs).unwrap();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let programs = ["containerd", "ctr", "runc"].iter().all(|program| succeeds(program, &["--version"]));
        let copied = busybox.is_some_and(|busybox| fs::copy(busybox, rootfs.join("busybox")).is_ok());
        let rootfs = root.join("rootfs");
        // Only one that needs no libraries runs there.
        if !programs || !copied || !succeeds("chroot", &[&rootfs.to_string_lossy(), "/bin/busybox", "true"]) {
            skip("real containers", "root and the packages containerd, runc and busybox-static");
            return None;
        }
        for plugin in ["bridge", "host-local", "portmap", "loopback"] {
            symlink(Path::new("/usr/lib/cni").join(plugin), node.path("bin").join(plugin)).unwrap();
        }
        let socket = root.join("s");
        // The score is restricted, as it cannot be lowered where these tests run in a container themselves.
        let configuration = format!(
            "version = 2\ndisabled_plugins = [\"io.containerd.internal.v1.opt\"]\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
             [grpc]\naddress = \"{root}/s\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{bin}\"\nconf_dir = \"{net}\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
            root = root.display(),
            bin = node.path("bin").display(),
            net = node.path("net.d").display(),
        );
        let file = root.join("config.toml");
        fs::write(&file, configuration).unwrap();
        let log = File::create(root.join("log")).unwrap();
        // Not by `ip netns exec`, which hides the control groups.
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.name))
            .args(["containerd", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { process, socket, groups: format!("fairway-{}", node.name) };
        node.wait("containerd answers", || containerd.has_answered());
        containerd.load_image(&root);
        Some(containerd)
    }

    fn has_answered(&self) -> bool {
        succeeds("ctr", &["--address", &self.socket.to_string_lossy(), "version"])
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        run("ctr", &[&["--address", &self.socket.to_string_lossy(), "--namespace", "k8s.io"], arguments].concat())
    }

    /// Packs the root file system as `docker save` does, so that no registry is needed.
    fn load_image(&self, root: &Path) {
        let (archive, layer) = (root.join("archive"), root.join("archive/layer.tar"));
        fs::create_dir(&archive).unwrap();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        run("tar", &["-C", &text(&root.join("rootfs")), "-cf", &text(&layer), "."]);
        let digest = run("sha256sum", &[&text(&layer)]);
        let digest = digest.split(' ').next().unwrap();
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": machine, "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "sleep", "86400"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
        fs::write(archive.join("config.json"), config.to_string()).unwrap();
        let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        fs::write(archive.join("manifest.json"), manifest.to_string()).unwrap();
        let image = root.join("image.tar");
        run("tar", &["-C", &text(&archive), "-cf", &text(&image), "manifest.json", "config.json", "layer.tar"]);
        self.ctr(&["images", "import", &text(&image)]);
    }

    /// The first process of a sandbox.
    fn process_of(&self, sandbox: &str) -> String {
        let tasks = self.ctr(&["tasks", "list"]);
        let line = tasks.lines().find(|line| line.starts_with(sandbox)).ok_or(&tasks).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    fn control_group(&self, uid: &str) -> String {
        format!("/{}/pod{uid}", self.groups)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let socket = self.socket.to_string_lossy().into_owned();
        let base = ["--address", &socket, "--namespace", "k8s.io"];
        let listed = |what: &str| {
            let output = Command::new("ctr").args(base).args([what, "list", "--quiet"]).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        // None is left unless the test failed.
        for task in listed("tasks") {
            succeeds("ctr", &[&base[..], &["tasks", "delete", "--force", &task]].concat());
        }
        for container in listed("containers") {
            succeeds("ctr", &[&base[..], &["containers", "delete", &container]].concat());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Each controller has a tree of its own in the older hierarchy.
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let groups = root.join(&self.groups);
            for pod in fs::read_dir(&groups).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(pod.path());
            }
            let _ = fs::remove_dir(groups);
        }
    }
}

#[test]
fn containers_of_containerd_and_runc_start_captured_and_wait_for_an_agent_that_is_away() {
    let Some(node) = Node::start("cri", "1.0.0") else { return };
    let Some(containerd) = Containerd::start(&node) else { return };
    let runtime = Runtime::connect(&containerd.socket);
    let proxy = node.enrol_shop();
    node.declare("shop", "web", UID);
    let web = cri::sandbox("shop", "web", UID, &containerd.control_group(UID));
    // The runtime reads its configuration when it changes; until then it has none, or one without us.
    let mut sandbox = String::new();
    node.wait("a sandbox with us in its chain", || {
        let id = match runtime.run_sandbox(&web) {
            Ok(id) => id,
            Err(error) => {
                assert!(error.contains("cni"), "{error}");
                return false;
            }
        };
        if proxy.has_heard(UID) {
            sandbox = id;
            return true;
        }
        runtime.stop_sandbox(&id).unwrap();
        runtime.remove_sandbox(&id).unwrap();
        false
    });
    let process = containerd.process_of(&sandbox);
    let rules = || run("nsenter", &["--target", &process, "--net", "nft", "list", "ruleset"]);
    assert!(capture(&rules()) && rules().contains("redirect to :15006"), "{}", rules());
    assert!(node.status("shop", "web").contains("enabled"));
    let group = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    assert!(group.contains(&format!("pod{UID}")), "the pod is known by its control group: {group}");
    let container = runtime.start(&sandbox, &web, IMAGE, &["/bin/busybox", "sleep", "86400"]).unwrap();
    let addresses = runtime.execute(&container, &["/bin/busybox", "ip", "-o", "addr", "show", "eth0"]).unwrap();
    assert!(addresses.contains("10.240.0.") && addresses.contains("fd00:240::"), "{addresses}");

    // Another pod that claims this namespace is refused: the processes in it are not its own.
    let address = first_address(&addresses);
    let claimed = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "thief", "namespace": "shop", "uid": OTHER_UID},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
    symlink(format!("/proc/{process}/ns/net"), node.path("netns").join(OTHER_UID)).unwrap();
    node.write_manifest("thief", &claimed);
    node.wait("the theft is found out", || node.page("/debug/pods").contains(&format!("the pod with uid {UID}")));
    assert!(!proxy.has_heard(OTHER_UID));

    // Without an agent it can end, and neither it nor another of its namespace can start.
    node.kill_agent();
    drop(proxy);
    runtime.stop_sandbox(&sandbox).unwrap();
    runtime.remove_sandbox(&sandbox).unwrap();
    let error = runtime.run_sandbox(&web).unwrap_err();
    assert!(error.contains("must not run before it is captured"), "{error}");
    let till = cri::sandbox("bank", "till", OTHER_UID, &containerd.control_group(OTHER_UID));
    let other = runtime.run_sandbox(&till).unwrap();
    runtime.stop_sandbox(&other).unwrap();
    runtime.remove_sandbox(&other).unwrap();
}

/// The IPv4 address in what `ip addr` prints.
fn first_address(text: &str) -> String {
    text.split_whitespace().find_map(|word| word.split_once("/24")).unwrap().0.to_owned()
}
