//! A service outside of the mesh that is known by name, behind a waypoint: its name is resolved there, policies hold, and TLS
//! is begun on behalf of clients; and two of which nobody knows what is said to them.

use std::path::Path;
use std::process::Stdio;

use fairway_lab::Lab;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::super::look::fairway;
use super::{CLIENT, ask, labs};

const WORLD: &str = include_str!("egress.yaml");
const WAYPOINT: &str = "shop/egress-0";
/// The address that the world gives the name in the mesh.
const VIRTUAL: &str = "192.0.2.7";
/// Where the origin is: outside of the cluster, and reached from every pod.
const OUTSIDE: &str = "10.99.0.1";
/// Answers with the name that TLS asked for, the host and the path.
const ORIGIN: &str = "\
import http.server, ssl, sys
class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        text = f'asked {self.connection.asked} for {self.headers[\"host\"]} {self.path}\\n'.encode()
        self.send_response(200)
        self.send_header('content-length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
def name(socket, name, context):
    socket.asked = name
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.sni_callback = name
server = http.server.ThreadingHTTPServer((sys.argv[3], 8443), Origin)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

/// Greets with the name that TLS asked for, and repeats what it hears. With roots it takes only clients of theirs.
const DATABASE: &str = "\
import socketserver, ssl, sys
class Database(socketserver.BaseRequestHandler):
    def handle(self):
        connection = context.wrap_socket(self.request, server_side=True)
        connection.sendall(f'asked {connection.asked}\\n'.encode())
        while heard := connection.recv(4096):
            connection.sendall(heard)
        connection.unwrap()
def name(socket, name, context):
    socket.asked = name
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.sni_callback = name
if len(sys.argv) > 5:
    context.load_verify_locations(sys.argv[5])
    context.verify_mode = ssl.CERT_REQUIRED
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((sys.argv[3], int(sys.argv[4])), Database).serve_forever()
";
/// Where the databases are: a name that leads to an endpoint of a service behind a waypoint is not followed.
const DATABASES: &str = "10.99.0.77";
/// The addresses that the world gives the databases in the mesh.
const DB: &str = "192.0.2.8";
const VAULT: &str = "192.0.2.9";
/// Says `ping` to a database in clear text, and what it hears until that ends.
const QUERY: &str = "\
import socket, sys
connection = socket.create_connection((sys.argv[1], 5432), 10)
connection.sendall(b'ping\\n')
connection.shutdown(socket.SHUT_WR)
while heard := connection.recv(4096):
    print(heard.decode(), end='')
";

/// Root, certificate of `names` and its key, as files in `directory`.
fn certificates(directory: &Path, names: &[&str]) -> [String; 3] {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    // Of the same name as its issuer it would be taken for one that has signed itself.
    params.distinguished_name.push(DnType::CommonName, "leaf");
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let files = [("root.pem", root.pem()), ("chain.pem", certificate.pem()), ("key.pem", key.serialize_pem())];
    files.map(|(file, pem)| {
        std::fs::write(directory.join(file), pem).unwrap();
        directory.join(file).to_str().unwrap().to_owned()
    })
}

/// Waits until the client hears what contains all of `parts` from `path` of the service.
fn hears(lab: &Lab, path: &str, parts: &[&str]) -> String {
    let resolved = format!("api.example:80:{VIRTUAL}");
    lab.wait_until(&format!("{parts:?} from {path}"), || {
        let answer = ask(lab, CLIENT, &format!("http://api.example{path}"), &["--resolve", &resolved]);
        if parts.iter().all(|part| answer.contains(part)) { Ok(answer) } else { Err(answer) }
    })
    .unwrap()
}

fn metrics(lab: &Lab) -> String {
    let page = lab.exec(WAYPOINT, &["curl", "-s", "http://127.0.0.1:15020/metrics"]).unwrap().stdout;
    String::from_utf8_lossy(&page).into_owned()
}

/// Waits until the client hears from the database what is `expected`.
fn queries(lab: &Lab, database: &str, expected: impl Fn(&str) -> bool) {
    lab.wait_until(&format!("an answer of {database}"), || {
        let output = lab.exec(CLIENT, &["python3", "-c", QUERY, database]).map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if expected(&said) { Ok(()) } else { Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))) }
    })
    .unwrap();
}

#[test]
fn a_service_outside_is_reached_by_its_name() {
    let test = "egress";
    let path = fairway_lab::prerequisites::search_path(None, &std::env::var("PATH").unwrap_or_default());
    for program in ["dnsmasq", "python3"] {
        if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
            return labs::skip(test, &format!("{program} is not installed; see ./dev setup"));
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let [root, chain, key] = certificates(directory.path(), &["api.example", "db.example", "vault.example"]);
    let world = WORLD.replace("ROOTS", &root).replace("CHAIN", &chain).replace("KEY", &key);
    let Some(lab) = labs::mesh_with(test, &world) else { return };
    lab.wait_captured(&[(CLIENT, true), (WAYPOINT, false)]).unwrap();
    let _origin = lab.spawn_node("underlay", &["python3", "-c", ORIGIN, &chain, &key, OUTSIDE]).unwrap();
    let placed = lab.exec_node("underlay", &["ip", "address", "add", &format!("{DATABASES}/32"), "dev", "lo"]).unwrap();
    assert!(placed.status.success(), "{placed:?}");
    let _db = lab.spawn_node("underlay", &["python3", "-c", DATABASE, &chain, &key, DATABASES, "8444"]).unwrap();
    let _vault =
        lab.spawn_node("underlay", &["python3", "-c", DATABASE, &chain, &key, DATABASES, "8445", &root]).unwrap();
    queries(&lab, DB, |said| said == "asked db.example\nping\n");
    queries(&lab, VAULT, |said| said == "asked vault.example\nping\n");

    // Nobody can say where it is.
    hears(&lab, "/forecast/today", &["503 ", "dns_failed"]);
    let (_, told) = fairway(&lab, &["why", CLIENT, &format!("{VIRTUAL}:80"), "--path", "/forecast/today"]);
    assert!(told.contains("dns_failed"), "{told}");
    // What policy refuses is not asked about.
    hears(&lab, "/admin", &["403 ", "policy_not_allowed"]);

    let record = format!("--host-record=api.example,{OUTSIDE}");
    // It gives up what it may do, and with that the signal that would end it, so it is told to end by the end of its input.
    let until_told = ["sh", "-c", "\"$@\" </dev/null & read -r _; kill $!; wait", "name-server"];
    let name_server = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"];
    let more =
        ["--user=root", "--pid-file=", "--log-facility=-", "--listen-address=127.0.0.1", "--local-ttl=1", &record];
    let mut prepared = lab.command(WAYPOINT, &[&until_told[..], &name_server, &more].concat());
    let mut running = prepared.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let expected = ["200 ", "asked api.example for api.example /forecast/today"];
    hears(&lab, "/forecast/today", &expected);
    hears(&lab, "/admin", &["403 ", "policy_not_allowed"]);
    let (succeeded, told) = fairway(&lab, &["why", CLIENT, &format!("{VIRTUAL}:80"), "--path", "/forecast/today"]);
    assert!(succeeded && told.contains(&format!("{OUTSIDE}:8443")), "{told}");

    // Without a name server, what it has said last holds.
    drop(running.stdin.take());
    running.wait().unwrap();
    let failed = "fairway_waypoint_name_lookups_total{result=\"failed\"}";
    let failures = || {
        let page = metrics(&lab);
        let line = page.lines().find_map(|line| line.strip_prefix(failed)).unwrap_or("0");
        line.trim().parse::<f64>().unwrap()
    };
    let before = failures();
    lab.wait_for("a resolution to fail", || failures() > before).unwrap();
    hears(&lab, "/forecast/today", &expected);

    // Somebody else's certificate is not believed, and nothing is sent.
    lab.apply(&world.replace("sni: api.example", "sni: other.example")).unwrap();
    hears(&lab, "/forecast/today", &["503 ", "tls_handshake_failed"]);
    let wrong = world.replace("{mode: SIMPLE, caCertificates", "{mode: SIMPLE, sni: other.example, caCertificates");
    lab.apply(&wrong.replace(&format!("clientCertificate: {chain}"), "clientCertificate: /nowhere")).unwrap();
    let page = || metrics(&lab);
    for (database, flag) in [(DB, "\"TLS_FAILURE\""), (VAULT, "\"IDENTITY_ERROR\"")] {
        let is_told = |line: &str| line.starts_with("istio_tcp_connections_closed_total") && line.contains(flag);
        queries(&lab, database, |said| said.is_empty() && page().lines().any(is_told));
    }
}
