//! Whom the mesh configuration names, asked and told by a waypoint, and what else than plain requests goes through it: gRPC's
//! own Python on all ends.

use std::path::Path;

use fairway_lab::Lab;

use super::{CLIENT, ask, labs};

const WORLD: &str = include_str!("services.yaml");
const MESH: &str = "defaultProviders: {tracing: [collector]}\nextensionProviders:\n\
    - {name: authorizer, envoyExtAuthzGrpc: {service: provider.shop.svc.cluster.local, port: 9000, timeout: 10s}}\n\
    - {name: collector, opentelemetry: {service: provider.shop.svc.cluster.local, port: 9000}}\n\
    - {name: limiter, fairwayRateLimitGrpc: {service: provider.shop.svc.cluster.local, port: 9000, domain: shop, timeout: 10s, failOpen: false}}\n\
    - {name: processor, fairwayExternalProcessorGrpc: {service: provider.shop.svc.cluster.local, port: 9000, messageTimeout: 10s}}\n";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What a peer prints in the client's pod.
fn peer(lab: &Lab, python: &Path, script: &Path, arguments: &[&str]) -> String {
    let command = [&[python.to_str().unwrap(), script.to_str().unwrap()][..], arguments].concat();
    let output = lab.exec(CLIENT, &command).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { text(&output.stdout) } else { text(&output.stderr) }
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
    let world = WORLD.replace("PYTHON", python.to_str().unwrap()).replace("PEER", script.to_str().unwrap());
    let Some(lab) = labs::mesh_configured(test, MESH, &world) else { return };
    lab.wait_captured(&[(CLIENT, true), ("shop/web", true), ("shop/provider", true)]).unwrap();
    let peer = |arguments: &[&str]| peer(&lab, &python, &script, arguments);
    let hears = |more: &[&str], path: &str, parts: &[&str]| {
        let url = format!("http://web{path}");
        lab.wait_until(&format!("{parts:?} from {path}"), || {
            let answer = ask(&lab, CLIENT, &url, more);
            if parts.iter().all(|part| answer.contains(part)) { Ok(answer) } else { Err(answer) }
        })
        .unwrap()
    };

    hears(&[], "/asked", &["403 ", "authorizer_refused"]);
    hears(&["-H", "x-token: open sesame"], "/asked", &["200 ", "web to "]);
    hears(&["-H", "x-user: greedy"], "/", &["429 ", "rate_limited"]);
    hears(&["-H", "x-user: modest"], "/", &["200 "]);

    hears(&["-H", "x-user: unwelcome"], "/", &["402 ", "processor_answered"]);
    hears(&["-i"], "/", &["200 ", "x-processed: yes", "web to "]);

    let answer = hears(&[], "/", &["200 ", "traceparent: 00-", "-00"]);
    assert!(!answer.contains(TRACE), "{answer}");
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let answer = hears(&["-H", &parent], "/seen", &["200 ", TRACE]);
    let span = answer.split_once(TRACE).unwrap().1.get(1..17).unwrap().to_owned();
    let told = lab.wait_until("the collector to be told", || {
        let told = peer(&["call", "provider.shop.svc.cluster.local:9000", "/peer.Told/All", ""]);
        if told.contains(TRACE) && told.contains(&span) { Ok(told) } else { Err(told) }
    });
    let hexadecimal = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let told = told.unwrap();
    for part in
        ["waypoint.shop", "web.shop.svc.cluster.local:80/*", "/seen", "spiffe://cluster.local/ns/shop/sa/client"]
    {
        assert!(told.contains(&hexadecimal(part)), "{part}");
    }

    let address = "web.shop.svc.cluster.local:9000";
    assert_eq!(peer(&["call", address, "/peer.Echo/Once", "hello"]), "['hello'] of one StatusCode.OK");
    let said = peer(&["call", address, "/peer.Echo/Each", "one", "two", "three"]);
    assert_eq!(said, "['one', 'two', 'three'] of 3 StatusCode.OK");
    let said = peer(&["talk", "web.shop.svc.cluster.local", "9001", "hello", "again"]);
    assert_eq!(said, "101 ['HELLO', 'AGAIN']");
}
