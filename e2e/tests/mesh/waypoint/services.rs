//! Whom the mesh configuration names, asked and told by a waypoint, and what else than plain requests goes through it: gRPC's
//! own Python on all ends.

use std::path::{Path, PathBuf};

use fairway_lab::Lab;
use fairway_lab::layout::Layout;

use super::{CLIENT, ask, labs};

mod keys;
mod told;
mod ways;

const WORLD: &str = include_str!("services.yaml");
const MESH: &str = "defaultProviders: {tracing: [collector]}\nextensionProviders:\n\
    - {name: authorizer, envoyExtAuthzGrpc: {service: provider.shop.svc.cluster.local, port: 9000, timeout: 10s}}\n\
    - {name: collector, opentelemetry: {service: provider.shop.svc.cluster.local, port: 9000}}\n\
    - {name: limiter, fairwayRateLimitGrpc: {service: provider.shop.svc.cluster.local, port: 9000, domain: shop, timeout: 10s, failOpen: false}}\n\
    - {name: processor, fairwayExternalProcessorGrpc: {service: provider.shop.svc.cluster.local, port: 9000, messageTimeout: 10s}}\n\
    - {name: lines, envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {code: \"%RESPONSE_CODE%\", path: \"%REQ(:PATH)%\", who: \"%DOWNSTREAM_PEER_URI_SAN%\"}}}}\n\
    - {name: records, envoyOtelAls: {service: provider.shop.svc.cluster.local, port: 9000, logFormat: {text: \"told of %REQ(:PATH)%\"}}}\n";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The mesh with its peers.
struct Shop {
    lab: Lab,
    python: PathBuf,
    script: PathBuf,
}

impl Shop {
    /// What a peer prints in the client's pod.
    fn peer(&self, arguments: &[&str]) -> String {
        let command = [&[self.python.to_str().unwrap(), self.script.to_str().unwrap()][..], arguments].concat();
        let output = self.lab.exec(CLIENT, &command).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { text(&output.stdout) } else { text(&output.stderr) }
    }

    /// Waits until the client hears what contains all of `parts` from a path of the service.
    fn hears(&self, more: &[&str], path: &str, parts: &[&str]) -> String {
        let url = format!("http://web{path}");
        self.lab
            .wait_until(&format!("{parts:?} from {path}"), || {
                let answer = ask(&self.lab, CLIENT, &url, more);
                if parts.iter().all(|part| answer.contains(part)) { Ok(answer) } else { Err(answer) }
            })
            .unwrap()
    }

    /// What the collector has been told, in hexadecimal, once it has all of `parts`.
    fn told(&self, parts: &[&str]) -> String {
        self.lab
            .wait_until(&format!("the collector to be told {parts:?}"), || {
                let told = self.peer(&["call", "provider.shop.svc.cluster.local:9000", "/peer.Told/All", ""]);
                if parts.iter().all(|part| told.contains(part)) { Ok(told) } else { Err(told) }
            })
            .unwrap()
    }
}

fn hexadecimal(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_the_mesh_configuration_names_is_asked_and_told() {
    let test = "providers";
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), Into::into);
    let (python, script) = (target.join("peers/bin/python"), checkout.join("e2e/tests/mesh/waypoint/peer.py"));
    if !python.exists() {
        return labs::skip(test, &format!("{} is missing; run ./dev setup", python.display()));
    }
    let world = WORLD
        .replace("PYTHON", python.to_str().unwrap())
        .replace("PEER", script.to_str().unwrap())
        .replace("KEYS", Layout::inside().root().join(keys::DIRECTORY).to_str().unwrap());
    let Some(lab) = labs::mesh_configured(test, MESH, &world) else { return };
    lab.wait_captured(&[(CLIENT, true), ("shop/web", true), ("shop/guarded", true), ("shop/provider", true)]).unwrap();
    let shop = Shop { lab, python, script };

    shop.hears(&[], "/asked", &["403 ", "authorizer_refused"]);
    shop.hears(&["-H", "x-token: open sesame"], "/asked", &["200 ", "web to "]);
    shop.hears(&["-H", "x-user: greedy"], "/", &["429 ", "rate_limited"]);
    shop.hears(&["-H", "x-user: modest"], "/", &["200 "]);

    shop.hears(&["-H", "x-user: unwelcome"], "/", &["402 ", "processor_answered"]);
    shop.hears(&["-i"], "/", &["200 ", "x-processed: yes", "web to "]);

    told::of_what_clients_trace(&shop);
    told::of_a_share_of_what_nobody_traces(&shop);
    told::of_requests_that_have_ended(&shop);
    keys::are_fetched(&shop);
    ways::are_found(&shop);

    let address = "web.shop.svc.cluster.local:9000";
    assert_eq!(shop.peer(&["call", address, "/peer.Echo/Once", "hello"]), "['hello'] of one StatusCode.OK");
    let said = shop.peer(&["call", address, "/peer.Echo/Each", "one", "two", "three"]);
    assert_eq!(said, "['one', 'two', 'three'] of 3 StatusCode.OK");
    let said = shop.peer(&["talk", "web.shop.svc.cluster.local", "9001", "hello", "again"]);
    assert_eq!(said, "101 ['HELLO', 'AGAIN']");
}
