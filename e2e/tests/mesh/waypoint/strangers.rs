//! Programs of others at all ends of a waypoint: nginx answers, nghttp2's h2load and curl ask, Prometheus counts.

use std::path::{Path, PathBuf};

use fairway_lab::Lab;
use serde_json::Value;

use super::super::shop;
use super::{CLIENT, WAYPOINT, ask, labs};

const WORLD: &str = include_str!("strangers.yaml");
const PROMETHEUS: &str = "shop/prometheus";
/// What Prometheus' reader does not like, and whose names are not ours.
const KNOWN: [&str; 2] = ["istio_request_duration_milliseconds", "tokio_worker_total_busy_duration_seconds_total"];
/// Large enough for every window and buffer on the way to be full many times.
const HUGE_BYTES: usize = 4 << 20;
/// What nginx is told, with the directory of its files.
const NGINX: &str = "\
daemon off;
user root;
worker_processes 1;
pid FILES/nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_max_body_size 16m;
  client_body_temp_path FILES/body;
  proxy_temp_path FILES/proxy;
  fastcgi_temp_path FILES/fastcgi;
  uwsgi_temp_path FILES/uwsgi;
  scgi_temp_path FILES/scgi;
  server {
    listen [::]:8080 ipv6only=off;
    listen [::]:8081 ipv6only=off http2;
    location / { return 200 \"nginx by $server_protocol for $http_x_forwarded_client_cert\\n\"; }
    location /files/ { alias FILES/; }
  }
}
";
/// What Prometheus is told; whom it asks is in a file.
const SCRAPES: &str = "\
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: waypoint, file_sd_configs: [{files: [FILES/targets.json]}]}]
";

/// Where `./dev setup` unpacks Debian's packages of these programs.
fn tools() -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), Into::into);
    target.join("strangers")
}

/// Lets h2load ask so often, and everything must be answered with 200.
fn load(lab: &Lab, tools: &Path, count: u32, arguments: &[&str]) {
    let libraries = std::fs::read_to_string(tools.join("libraries")).unwrap();
    let libraries = format!("LD_LIBRARY_PATH={}", tools.join(libraries.trim()).display());
    let program = tools.join("usr/bin/h2load");
    let count = count.to_string();
    let command = [&["env", &libraries, program.to_str().unwrap(), "-n", &count][..], arguments].concat();
    let said = labs::output(lab, CLIENT, &command);
    let all = [format!("{count} succeeded, 0 failed, 0 errored, 0 timeout"), format!("status codes: {count} 2xx")];
    assert!(all.iter().all(|part| said.contains(part)), "{arguments:?}: {said}");
}

/// What Prometheus makes of an expression.
fn sum(lab: &Lab, expression: &str) -> Option<f64> {
    let query = format!("query={expression}");
    let command = ["curl", "-sS", "-G", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &query];
    let answer: Value = serde_json::from_str(&labs::output(lab, PROMETHEUS, &command)).unwrap();
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

#[test]
fn programs_of_others_work_through_a_waypoint() {
    let (test, tools) = ("programs", tools());
    if !tools.join("libraries").exists() {
        return labs::skip(test, &format!("{} is missing; run ./dev setup", tools.display()));
    }
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().to_str().unwrap();
    for (name, text) in [("nginx.conf", NGINX), ("prometheus.yaml", SCRAPES)] {
        std::fs::write(directory.path().join(name), text.replace("FILES", files)).unwrap();
    }
    let huge: Vec<u8> = (0..HUGE_BYTES).map(|place| u8::try_from(place % 251).unwrap()).collect();
    std::fs::write(directory.path().join("huge"), &huge).unwrap();
    let world = WORLD.replace("TOOLS", tools.to_str().unwrap()).replace("FILES", files);
    let Some(lab) = labs::mesh_with(test, &world) else { return };
    lab.wait_captured(&[(CLIENT, true), ("shop/web", true), (WAYPOINT, false)]).unwrap();
    for (port, version) in [(80, "nginx by HTTP/1.1"), (81, "nginx by HTTP/2.0")] {
        lab.wait_until(&format!("{version} to answer"), || {
            let answer = ask(&lab, CLIENT, &format!("http://web:{port}/"), &[]);
            let parts = ["200 ", version, shop::CLIENT_IDENTITY];
            if parts.iter().all(|part| answer.contains(part)) { Ok(()) } else { Err(answer) }
        })
        .unwrap();
    }

    let target = format!("{}:15020", shop::address(&lab, WAYPOINT));
    let targets = serde_json::json!([{"targets": [target]}]).to_string();
    // Not written in place: what is read half is not read again.
    std::fs::write(directory.path().join("targets.new"), targets).unwrap();
    std::fs::rename(directory.path().join("targets.new"), directory.path().join("targets.json")).unwrap();
    let requests = "sum(istio_requests_total{destination_service_name=\"web\",response_code=\"200\"})";
    let wait_for = |what: &str, is_right: &dyn Fn(f64) -> bool| {
        let waited = lab.wait_until(what, || {
            let found = sum(&lab, requests);
            found.filter(|count| is_right(*count)).ok_or(format!("{found:?}, up: {:?}", sum(&lab, "up")))
        });
        waited.unwrap()
    };
    let before = wait_for("Prometheus to have found the waypoint", &|_| true);

    // HTTP/2 and HTTP/1.1 of clients, to both of servers.
    load(&lab, &tools, 400, &["-c", "4", "-m", "20", "http://web:80/"]);
    load(&lab, &tools, 400, &["-c", "4", "-m", "20", "http://web:81/"]);
    load(&lab, &tools, 200, &["-c", "4", "--h1", "http://web:80/"]);
    load(&lab, &tools, 200, &["-c", "4", "--h1", "http://web:81/"]);
    load(&lab, &tools, 8, &["-c", "2", "-m", "4", "http://web:81/files/huge"]);
    let output = lab.exec(CLIENT, &["curl", "-sS", "-m", "30", "http://web/files/huge"]).unwrap();
    assert!(output.stdout == huge, "the file, byte by byte, and not {} bytes of something", output.stdout.len());
    wait_for("Prometheus to have counted each of them", &|count| (count - before - 1209.0).abs() < 0.5);

    // Prometheus' own reader has nothing to say about names and types, but for those of Istio and of the runtime.
    let page = labs::output(&lab, WAYPOINT, &["curl", "-sS", "http://127.0.0.1:15020/metrics"]);
    std::fs::write(directory.path().join("page"), page).unwrap();
    let check = format!("{}/usr/bin/promtool check metrics < {files}/page", tools.display());
    let checked = lab.exec(PROMETHEUS, &["sh", "-c", &check]).unwrap();
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    let is_known = |line: &&str| KNOWN.iter().any(|metric| line.starts_with(metric));
    assert!(said.lines().filter(|line| !is_known(line)).count() == 0 && said.contains(KNOWN[0]), "{said}");
}
