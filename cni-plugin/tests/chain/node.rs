//! A node made for one test: namespaces, directories, Debian's plugins, and the real agent in it.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use fairway_lab::cni::runtime::{self as cni, AgentPlaces};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::proxy::Proxy;
use super::runtime::{self, INTERFACE, Sandbox, container};

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";
/// Ends a test that has failed already.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) name: String,
    root: tempfile::TempDir,
    agent: Mutex<Option<Child>>,
    /// Further flags of the agent.
    flags: Vec<String>,
}

pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Says that a check could not be made, past the test harness, so that it shows without --nocapture.
pub(crate) fn skip(what: &str, needs: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: needs {needs}");
}

/// Whether these rules redirect to the node proxy what a pod sends.
pub(crate) fn capture(rules: &str) -> bool {
    rules.contains("redirect to :15001")
}

impl Node {
    /// Nothing, with a line that says so, where it cannot run.
    pub(crate) fn start(purpose: &str, version: &str) -> Option<Self> {
        Self::start_with(purpose, version, &[])
    }

    pub(crate) fn start_with(purpose: &str, version: &str, flags: &[&str]) -> Option<Self> {
        let node = Self::prepare(purpose, version, flags)?;
        node.start_agent();
        Some(node)
    }

    /// A node where the namespace "shop" is enrolled, with the agent, the plugin and a proxy at work.
    pub(crate) fn enrolled(purpose: &str) -> Option<(Self, Proxy)> {
        let node = Self::start(purpose, "1.0.0")?;
        let proxy = node.enrol_shop();
        Some((node, proxy))
    }

    /// The same on a node that was started already.
    pub(crate) fn enrol_shop(&self) -> Proxy {
        self.enrol("shop");
        let proxy = Proxy::start(self);
        self.wait_installed();
        proxy
    }

    /// A node whose agent has not been started.
    pub(crate) fn prepare(purpose: &str, version: &str, flags: &[&str]) -> Option<Self> {
        let name = format!("fwchain-{}-{purpose}", std::process::id());
        let plugins =
            ["bridge", "host-local", "portmap", "loopback"].iter().all(|name| Path::new(PLUGINS).join(name).exists());
        if !plugins || !succeeds("nft", &["--version"]) || !succeeds("ip", &["netns", "add", &name]) {
            skip("the real CNI chain", "root, ip, nft and the package containernetworking-plugins");
            return None;
        }
        let root = tempfile::tempdir().unwrap();
        for directory in ["net.d", "bin", "run", "manifests", "netns", "ipam"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        let node =
            Self { name, root, agent: Mutex::new(None), flags: flags.iter().map(|flag| (*flag).to_owned()).collect() };
        assert!(node.exec(&["ip", "link", "set", "lo", "up"]).is_empty());
        fs::write(node.path("net.d/10-bridge.conflist"), format!("{:#}", node.primary(version))).unwrap();
        Some(node)
    }

    fn primary(&self, version: &str) -> Value {
        json!({
            "cniVersion": version, "name": "pods",
            "plugins": [
                {
                    "type": "bridge", "bridge": "cni0", "isGateway": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.path("ipam"),
                        "ranges": [[{"subnet": "10.240.0.0/24"}], [{"subnet": "fd00:240::/64"}]],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn node_socket(&self) -> PathBuf {
        self.path("ztunnel.sock")
    }

    pub(crate) fn agent_command(&self) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_fairway-cni-agent"), "--node-name", "node-1"]);
        let places = AgentPlaces {
            node_socket: self.node_socket(),
            namespaces: self.path("netns"),
            run: self.path("run"),
            configurations: self.path("net.d"),
            programs: self.path("bin"),
            results: self.path("cache"),
        };
        command.args(places.arguments()).arg("--manifests").arg(self.path("manifests"));
        command.args(["--plugin-program", env!("CARGO_BIN_EXE_fairway-cni")]);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn start_agent(&self) {
        self.start_agent_with(&[]);
    }

    /// The agent's log so far, of all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub(crate) fn start_agent_with(&self, environment: &[(&str, &str)]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("agent.log")).unwrap();
        let mut command = self.agent_command();
        command.args(&self.flags).envs(environment.iter().copied());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        *self.agent.lock().unwrap() = Some(child);
    }

    fn end_agent(&self, signal: Signal) {
        if let Some(mut child) = self.agent.lock().unwrap().take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = kill(pid, signal);
            let _ = child.wait();
        }
    }

    pub(crate) fn stop_agent(&self) {
        self.end_agent(Signal::SIGTERM);
    }

    pub(crate) fn kill_agent(&self) {
        self.end_agent(Signal::SIGKILL);
    }

    pub(crate) fn uninstall(&self) -> Result<(), String> {
        let output = self.agent_command().arg("--uninstall").output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Waits for a condition, and shows the agent's log when it does not come.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "{what}: never\n{}", self.log());
            std::thread::yield_now();
        }
    }

    pub(crate) fn enrol(&self, namespace: &str) {
        let manifest = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"istio.io/dataplane-mode": "ambient"}}});
        fs::write(self.path(&format!("manifests/ns-{namespace}.yaml")), manifest.to_string()).unwrap();
        let state = self.path("net.d/fairway-cni/enrolled.json");
        self.wait("the agent wrote the namespace down", || {
            fs::read_to_string(&state).is_ok_and(|text| text.contains(&format!("\"{namespace}\"")))
        });
    }

    pub(crate) fn wait_installed(&self) {
        self.wait("the plugin is installed", || self.configuration().contains("fairway-cni"));
        self.wait("the agent answers", || self.path("run/pluginevent.sock").exists());
    }

    /// Declares a pod as its scheduler leaves it: on this node, without an address.
    pub(crate) fn declare(&self, namespace: &str, pod: &str, uid: &str) {
        self.write_pod(namespace, pod, uid, json!([]));
    }

    pub(crate) fn declare_probed(&self, namespace: &str, pod: &str, uid: &str, port: u16) {
        let containers = json!([{"name": "c", "image": "x", "readinessProbe": {"tcpSocket": {"port": port}}}]);
        self.write_pod(namespace, pod, uid, containers);
    }

    fn write_pod(&self, namespace: &str, pod: &str, uid: &str, containers: Value) {
        let manifest = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": namespace, "uid": uid},
            "spec": {"nodeName": "node-1", "containers": containers}, "status": {"phase": "Pending"}});
        self.write_manifest(&format!("pod-{uid}"), &manifest);
    }

    /// Says of a pod what a kubelet does once it runs; and lets its namespace be found without its runtime, as by the
    /// processes in it.
    pub(crate) fn run_on(&self, namespace: &str, pod: &str, uid: &str) {
        self.run_at(namespace, pod, uid, &self.address_of(uid));
    }

    fn run_at(&self, namespace: &str, pod: &str, uid: &str, address: &str) {
        let manifest = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": namespace, "uid": uid},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.write_manifest(&format!("pod-{uid}"), &manifest);
        std::os::unix::fs::symlink(Path::new("/run/netns").join(self.netns(uid)), self.path("netns").join(uid))
            .unwrap();
    }

    /// Pods that run, each in a namespace of its own with nothing but an address in it.
    pub(crate) fn run_without_a_chain(&self, namespace: &str, uids: &[String]) {
        let batch = self.path("batch");
        let lines: Vec<String> = uids.iter().map(|uid| format!("netns add {}\n", self.netns(uid))).collect();
        fs::write(&batch, lines.concat()).unwrap();
        assert!(succeeds("ip", &["-batch", &batch.to_string_lossy()]));
        for (number, uid) in uids.iter().enumerate() {
            let address = format!("10.241.{}.{}", number / 250, number % 250 + 1);
            assert!(succeeds("ip", &["-n", &self.netns(uid), "link", "set", "lo", "up"]));
            assert!(succeeds("ip", &["-n", &self.netns(uid), "address", "add", &format!("{address}/32"), "dev", "lo"]));
            self.run_at(namespace, uid, uid, &address);
        }
    }

    pub(crate) fn write_manifest(&self, name: &str, manifest: &Value) {
        fs::write(self.path(&format!("manifests/{name}.yaml")), manifest.to_string()).unwrap();
    }

    /// A page of the agent; empty while it has none.
    pub(crate) fn page(&self, path: &str) -> String {
        self.exec(&["curl", "-s", &format!("http://127.0.0.1:15114{path}")])
    }

    /// Waits until the agent has seen the pod `uid`.
    pub(crate) fn wait_seen(&self, uid: &str) {
        self.wait("the agent sees the pod", || self.page("/debug/pods").contains(&format!("\"{uid}\"")));
    }

    /// What the agent says of the pod; empty when it says nothing.
    pub(crate) fn status(&self, namespace: &str, pod: &str) -> String {
        let file = format!("manifests/.status/cni-agent.node-1/Pod_{namespace}_{pod}.yaml");
        fs::read_to_string(self.path(&file)).unwrap_or_default()
    }

    pub(crate) fn configuration(&self) -> String {
        fs::read_to_string(self.path("net.d/10-bridge.conflist")).unwrap()
    }

    pub(crate) fn configuration_without_us(&self) -> String {
        self.primary("1.0.0").to_string()
    }

    fn remembered(&self, list: &Value, uid: &str) -> PathBuf {
        self.path("cache/results").join(cni::remembered_as(list, &container(uid), INTERFACE))
    }

    pub(crate) fn has_program(&self) -> bool {
        self.path("bin/fairway-cni").exists()
    }

    /// As a kubelet does it: again and again, each time with another sandbox, until the pod starts.
    pub(crate) fn add_until_it_starts(&self, namespace: &str, pod: &str, uid: &str) -> Value {
        let started = Instant::now();
        loop {
            match self.add(namespace, pod, uid) {
                Ok(result) => return result,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}\n{}", self.log()),
            }
            self.del(namespace, pod, uid).unwrap();
        }
    }

    pub(crate) fn netns(&self, uid: &str) -> String {
        format!("{}-{uid}", self.name)
    }

    /// As a kubelet does it: the sandbox's namespace, loopback, then the network.
    pub(crate) fn add(&self, namespace: &str, pod: &str, uid: &str) -> Result<Value, String> {
        self.add_with(&self.configuration(), namespace, pod, uid)
    }

    pub(crate) fn add_with(&self, configuration: &str, namespace: &str, pod: &str, uid: &str) -> Result<Value, String> {
        let name = self.netns(uid);
        succeeds("ip", &["netns", "del", &name]);
        assert!(succeeds("ip", &["netns", "add", &name]));
        // This node's share of the machine's namespaces, named as runtimes do: not by the uid.
        let link = self.path("netns").join(format!("cni-{uid}"));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(Path::new("/run/netns").join(&name), link).unwrap();
        let loopback = json!({"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]});
        self.run(&loopback, "ADD", namespace, pod, uid, None)?;
        let list: Value = serde_json::from_str(configuration).unwrap();
        // libcni remembers what a sandbox was made with, also when that failed halfway.
        fs::create_dir_all(self.path("cache/results")).unwrap();
        let remembered = cni::remembered(&list, &container(uid), INTERFACE, None);
        fs::write(self.remembered(&list, uid), remembered.to_string()).unwrap();
        self.run(&list, "ADD", namespace, pod, uid, None)
    }

    pub(crate) fn del(&self, namespace: &str, pod: &str, uid: &str) -> Result<(), String> {
        self.del_with(&self.configuration(), namespace, pod, uid)
    }

    pub(crate) fn del_with(&self, configuration: &str, namespace: &str, pod: &str, uid: &str) -> Result<(), String> {
        let list: Value = serde_json::from_str(configuration).unwrap();
        self.run(&list, "DEL", namespace, pod, uid, None)?;
        succeeds("ip", &["netns", "del", &self.netns(uid)]);
        // Gone already at the second DEL.
        let _ = fs::remove_file(self.remembered(&list, uid));
        Ok(())
    }

    pub(crate) fn call(
        &self,
        command: &str,
        namespace: &str,
        pod: &str,
        uid: &str,
        previous: Option<&Value>,
    ) -> Result<Value, String> {
        let list: Value = serde_json::from_str(&self.configuration()).unwrap();
        self.run(&list, command, namespace, pod, uid, previous)
    }

    fn run(
        &self,
        list: &Value,
        command: &str,
        namespace: &str,
        pod: &str,
        uid: &str,
        previous: Option<&Value>,
    ) -> Result<Value, String> {
        let netns = Path::new("/run/netns").join(self.netns(uid));
        self.run_in(list, command, &Sandbox { namespace, pod, uid, netns: &netns }, previous)
    }

    pub(crate) fn run_in(
        &self,
        list: &Value,
        command: &str,
        sandbox: &Sandbox<'_>,
        previous: Option<&Value>,
    ) -> Result<Value, String> {
        let directories = [self.path("bin"), PLUGINS.into()];
        runtime::run(&self.name, &directories, list, command, sandbox, previous)
    }

    /// Runs our plugin alone, for what is about no single sandbox.
    pub(crate) fn tell_our_plugin(&self, verb: &str, input: &Value) -> Result<(), String> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(self.path("bin/fairway-cni"))
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
    }

    pub(crate) fn exec(&self, command: &[&str]) -> String {
        exec(&self.name, command)
    }

    /// Runs a command in a pod; what it says.
    pub(crate) fn in_pod(&self, uid: &str, command: &[&str]) -> String {
        exec(&self.netns(uid), command)
    }

    /// The rules in a pod.
    pub(crate) fn rules(&self, uid: &str) -> String {
        self.in_pod(uid, &["nft", "list", "ruleset"])
    }

    pub(crate) fn is_captured(&self, uid: &str) -> bool {
        capture(&self.rules(uid))
    }

    pub(crate) fn address_of(&self, uid: &str) -> String {
        let text = self.in_pod(uid, &["ip", "-4", "-o", "addr", "show", "eth0"]);
        text.split_whitespace().find_map(|word| word.split_once("/24")).unwrap().0.to_owned()
    }

    pub(crate) fn second_address_of(&self, uid: &str) -> String {
        let text = self.in_pod(uid, &["ip", "-6", "-o", "addr", "show", "eth0", "scope", "global"]);
        text.split_whitespace().find_map(|word| word.split_once("/64")).unwrap().0.to_owned()
    }

    /// Listens in a pod, on both families; says where each connection came from, and on which port it came.
    pub(crate) fn serve_in_pod(&self, uid: &str, ports: &[u16]) -> mpsc::Receiver<(IpAddr, u16)> {
        let (said, heard) = mpsc::channel();
        for &port in ports {
            let listener = within(&self.netns(uid), move || TcpListener::bind(("::", port)).unwrap());
            let said = said.clone();
            std::thread::spawn(move || {
                while let Ok((_, peer)) = listener.accept() {
                    if said.send((peer.ip().to_canonical(), port)).is_err() {
                        return;
                    }
                }
            });
        }
        heard
    }

    /// A connection from another place of the node to a pod, and the pod's end of it.
    pub(crate) fn converse(&self, uid: &str, port: u16) -> (TcpStream, TcpStream) {
        let listener = within(&self.netns(uid), move || TcpListener::bind(("0.0.0.0", port)).unwrap());
        let target: SocketAddr = format!("{}:{port}", self.address_of(uid)).parse().unwrap();
        let near = within(&self.name, move || TcpStream::connect(target).unwrap());
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        (near, far)
    }

    pub(crate) fn connects_from_node(&self, address: &str, port: u16) -> bool {
        let target = SocketAddr::new(address.parse().unwrap(), port);
        within(&self.name, move || TcpStream::connect_timeout(&target, Duration::from_secs(5)).is_ok())
    }
}

fn exec(namespace: &str, command: &[&str]) -> String {
    let output = Command::new("ip").args(["netns", "exec", namespace]).args(command).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `work` on a thread in a network namespace.
fn within<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = fs::File::open(Path::new("/run/netns").join(namespace)).unwrap();
    let entered = move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::spawn(entered).join().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end_agent(Signal::SIGKILL);
        let names = Command::new("ip").args(["netns", "list"]).output().map(|output| output.stdout).unwrap_or_default();
        for line in String::from_utf8_lossy(&names).lines() {
            let name = line.split(' ').next().unwrap_or_default();
            if name == self.name || name.starts_with(&format!("{}-", self.name)) {
                succeeds("ip", &["netns", "del", name]);
            }
        }
    }
}
