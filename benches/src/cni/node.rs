//! One node for `cni`: a network namespace, directories, agent, node proxy, and the container runtime's few lines.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fairway_lab::Error;
use fairway_lab::cni::runtime::{self, AgentPlaces, Described};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// Where Debian's plugins are.
const PLUGINS: &str = "/usr/lib/cni";
/// Ends a run in which something never happens.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often that is looked at; a measurement is at most this much too long.
const PERIOD: Duration = Duration::from_millis(2);
/// Where the agent serves its pages.
const AGENT: &str = "127.0.0.1:15114";
const PLUGIN: &str = "fairway-cni";

pub(super) struct Pod {
    namespace: String,
    name: String,
    uid: String,
}

pub(super) struct Node {
    name: String,
    root: PathBuf,
    bare: Value,
    agent: Option<Child>,
    proxy: Option<Child>,
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running ip")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

/// Lets addresses be used at once: the second in which IPv6 looks for duplicates would drown everything else.
fn still(network: &str) -> Result<()> {
    ip(&["netns", "exec", network, "sysctl", "-q", "-w", "net.ipv6.conf.default.accept_dad=0"])
}

impl Node {
    pub(super) fn start(programs: &Path) -> Result<Self> {
        let name = format!("fwbench-{}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        for directory in ["net.d", "bin", "run", "manifests", "netns", "world"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let bare = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "ptp", "ipam": {"type": "host-local", "dataDir": root.join("addresses"),
                "ranges": [[{"subnet": "10.240.0.0/16"}], [{"subnet": "fd00:240::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        let mut node = Self { name, root, bare, agent: None, proxy: None };
        ip(&["netns", "add", &node.name])?;
        ip(&["-n", &node.name, "link", "set", "lo", "up"])?;
        still(&node.name)?;
        fs::write(node.path("net.d/10-pods.conflist"), node.bare.to_string())?;
        // In a directory of its own: the proxy follows all that happens around it, and is not to be woken by logs.
        fs::write(node.path("world/local.yaml"), "workloads: []\n")?;
        let places = AgentPlaces {
            node_socket: node.path("ztunnel.sock"),
            namespaces: node.path("netns"),
            run: node.path("run"),
            configurations: node.path("net.d"),
            programs: node.path("bin"),
            results: node.path("cache"),
        };
        let mut agent = Command::new(programs.join("fairway-cni-agent"));
        agent.args(places.arguments()).arg("--manifests").arg(node.path("manifests"));
        agent.args(["--node-name", "node-1", "--plugin-program"]).arg(programs.join(PLUGIN));
        node.agent = Some(node.begin(agent, "agent")?);
        node.wait("the agent", |node| node.path("ztunnel.sock").exists() && node.chain().to_string().contains(PLUGIN))?;
        let mut proxy = Command::new(programs.join("ztunnel"));
        proxy.env("INPOD_UDS", node.path("ztunnel.sock")).env("XDS_ADDRESS", "").env("FAKE_CA", "true");
        proxy.env("FAKE_CA_ROOT", node.path("ca.pem")).env("LOCAL_XDS_PATH", node.path("world/local.yaml"));
        node.proxy = Some(node.begin(proxy, "proxy")?);
        node.wait_count("ztunnel_connected", 1)?;
        Ok(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn begin(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = File::create(self.path(log))?;
        command.env("NODE_NAME", "node-1").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.within(move || command.spawn())?.context("starting a program")
    }

    /// Runs `work` on a thread in the node's network namespace.
    fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let file = File::open(Path::new("/run/netns").join(&self.name))?;
        let thread: JoinHandle<Result<T>> = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("a thread died"))?
    }

    /// The agent's process.
    pub(super) fn agent(&self) -> i32 {
        self.agent.as_ref().and_then(|child| i32::try_from(child.id()).ok()).unwrap_or_default()
    }

    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let started = Instant::now();
        while !condition(self) {
            if started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.path("agent")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(5).collect();
                bail!("waited {PATIENCE:?} for {what}; the agent said last: {}", end.join(" | "));
            }
            std::thread::sleep(PERIOD);
        }
        Ok(())
    }

    fn page(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let read = move || -> std::io::Result<String> {
            let address: SocketAddr = AGENT.parse().map_err(std::io::Error::other)?;
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.within(read).ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Waits until a metric of the agent has this value.
    pub(super) fn wait_count(&self, metric: &str, count: usize) -> Result<()> {
        let line = format!("{metric} {count}");
        self.wait(&line, |node| node.page("/metrics").lines().any(|found| found == line))
    }

    pub(super) fn wait_seen(&self, pod: &Pod) -> Result<()> {
        self.wait("the agent to see a pod", |node| node.page("/debug/pods").contains(&format!("\"{}\"", pod.uid)))
    }

    pub(super) fn bare(&self) -> &Value {
        &self.bare
    }

    /// Writes the configuration anew without the plugin, as another CNI does, and waits until the plugin is in it again.
    pub(super) fn rewrite(&self, round: usize) -> Result<Duration> {
        let mut list = self.bare.clone();
        list["round"] = json!(round);
        let started = Instant::now();
        fs::write(self.path("net.d/10-pods.conflist"), list.to_string())?;
        self.wait("the plugin to be back", |node| {
            let chain = node.chain();
            chain["round"] == list["round"] && chain.to_string().contains(PLUGIN)
        })?;
        Ok(started.elapsed())
    }

    /// The chain as it is now.
    pub(super) fn chain(&self) -> Value {
        let text = fs::read(self.path("net.d/10-pods.conflist")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn enrol(&self, namespace: &str) -> Result<()> {
        let manifest = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"istio.io/dataplane-mode": "ambient"}}});
        self.manifest(&format!("ns-{namespace}"), &manifest)
    }

    fn manifest(&self, name: &str, manifest: &Value) -> Result<()> {
        let partial = self.path(&format!("manifests/.{name}"));
        fs::write(&partial, manifest.to_string())?;
        Ok(fs::rename(partial, self.path(&format!("manifests/{name}.yaml")))?)
    }

    /// A pod with a namespace and nothing but loopback in it.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let uid = format!("{namespace}-{name}");
        let network = format!("{}-{uid}", self.name);
        ip(&["netns", "add", &network])?;
        still(&network)?;
        // What the loopback plugin does.
        ip(&["-n", &network, "link", "set", "lo", "up"])?;
        symlink(Path::new("/run/netns").join(&network), self.path("netns").join(&uid))?;
        Ok(Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }

    /// Declares it as its scheduler leaves it.
    pub(super) fn declare(&self, pod: &Pod) -> Result<()> {
        self.manifest(&pod.uid, &object(pod, json!({"phase": "Pending"})))
    }

    /// Lets it run without a runtime's help, with an address of its own.
    pub(super) fn run(&self, pod: &Pod, number: usize) -> Result<()> {
        let address = format!("10.241.{}.{}", number / 250, number % 250 + 1);
        let network = format!("{}-{}", self.name, pod.uid);
        ip(&["-n", &network, "addr", "add", &format!("{address}/32"), "dev", "lo"])?;
        self.manifest(
            &pod.uid,
            &object(pod, json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]})),
        )
    }

    /// Starts its network as a runtime does; how long our plugin took of it, if it was in the chain.
    pub(super) fn add(&self, list: &Value, pod: &Pod) -> Result<Option<Duration>> {
        let mut part = None;
        runtime::run(list, "ADD", None, |input| {
            let started = Instant::now();
            let output = self.call("ADD", input, pod)?;
            if input["type"] == PLUGIN {
                part = Some(started.elapsed());
            }
            Ok(output)
        })?;
        Ok(part)
    }

    /// Takes it down, and the pod with it.
    pub(super) fn delete(&self, list: &Value, pod: &Pod) -> Result<()> {
        runtime::run(list, "DEL", None, |input| self.call("DEL", input, pod))?;
        // Missing for a pod that nobody was told of.
        let _ = fs::remove_file(self.path(&format!("manifests/{}.yaml", pod.uid)));
        fs::remove_file(self.path("netns").join(&pod.uid))?;
        ip(&["netns", "del", &format!("{}-{}", self.name, pod.uid)])
    }

    fn call(&self, verb: &str, input: &Value, pod: &Pod) -> fairway_lab::Result<String> {
        let name = input["type"].as_str().unwrap_or_default();
        let Pod { namespace, name: pod_name, uid } = pod;
        let netns = Path::new("/run/netns").join(format!("{}-{uid}", self.name));
        let sandbox = Described { container: uid, namespace, pod: pod_name, uid, netns: &netns, interface: "eth0" };
        let directories = [self.path("bin"), PLUGINS.into()];
        let mut command = Command::new(runtime::program(name, &directories)?);
        command
            .envs(runtime::environment(verb, &sandbox))
            .env("CNI_PATH", format!("{}:{PLUGINS}", self.path("bin").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed = |why: String| Error::new(format!("{name} {verb}: {why}"));
        let child = self.within(move || command.spawn()).map_err(|error| failed(error.to_string()))?;
        let mut child = child.map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that fails at once does not read.
            let _ = stdin.write_all(input.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(failed(format!("{text} {}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// A pod as most are: one container, probed.
fn object(pod: &Pod, status: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
            "labels": {"app": pod.namespace, "pod-template-hash": "5c68b23984"}},
        "spec": {"nodeName": "node-1", "serviceAccountName": pod.namespace, "containers": [{
            "name": "server", "image": "registry.example/shop/server:1.2.3", "args": ["--port", "8080"],
            "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
        }]}, "status": status})
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in [&mut self.proxy, &mut self.agent].into_iter().flatten() {
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if name == self.name || name.starts_with(&format!("{}-", self.name)) {
                let _ = ip(&["netns", "del", &name]);
            }
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}
