//! Our waypoint beside stock Envoy: the same resources of the same controller, the same requests, and every difference listed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use differences::{Both, Expected};
use fairway_lab::Lab;
use fairway_lab::layout::Layout;
use serde_json::Value;

use super::{CLIENT, labs, requests};

mod differences;

const WORLD: &str = include_str!("compare/world.yaml");
const ROWS: &str = include_str!("compare/requests.yaml");
/// Whom policies have asked: a server of the same world.
const MESH: &str = "extensionProviders:\n- name: judge\n  envoyExtAuthzHttp: {service: two.shop.svc.cluster.local, port: 80, \
    timeout: 10s, includeRequestHeadersInCheck: [x-origin], headersToUpstreamOnAllow: [x-by], headersToDownstreamOnDeny: [x-why]}\n";
const ENVOY: &str = "shop/envoy";
/// Those that have proxies before them.
const BEHIND_PROXIES: [&str; 2] = ["shop/envoy-one", "shop/envoy-two"];
/// Where a lab's controller is.
const CONTROLLER: &str = "https://10.99.0.1:15012";
/// In the lab's directory.
const FILE: &str = "requests.json";

/// Python with the peers in it, and what it runs.
struct Peer {
    python: PathBuf,
    script: PathBuf,
}

impl Peer {
    fn found() -> Self {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
        let script = checkout.join("e2e/tests/mesh/waypoint/compare/peer.py");
        Self { python: target.join("peers/bin/python"), script }
    }

    /// What it prints in a pod.
    fn run(&self, lab: &Lab, pod: &str, arguments: &[&str]) -> String {
        let command = [&[self.python.to_str().unwrap(), self.script.to_str().unwrap()][..], arguments].concat();
        labs::output(lab, pod, &command)
    }

    /// What both waypoints answer to each of these requests, by name. Most come from the client, and some from other pods.
    fn ask(&self, lab: &Lab, rows: &[Value]) -> BTreeMap<String, Both> {
        let address = labs::pod(lab, ENVOY).addresses[0].to_string();
        let others = BEHIND_PROXIES.map(|pod| (pod, labs::pod(lab, pod).addresses[0].to_string()));
        let file = Layout::inside().root().join(FILE);
        let rows: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut row = row.clone();
                if let Some((_, address)) = others.iter().find(|(pod, _)| row["beside"] == *pod) {
                    row["envoy"] = address.as_str().into();
                }
                row
            })
            .collect();
        let mut from = BTreeMap::<&str, Vec<&Value>>::new();
        for row in &rows {
            from.entry(row["from"].as_str().unwrap_or(CLIENT)).or_default().push(row);
        }
        let ask = |(pod, rows): (&str, Vec<&Value>)| -> BTreeMap<String, Both> {
            std::fs::write(lab.layout().root().join(FILE), serde_json::to_string(&rows).unwrap()).unwrap();
            serde_json::from_str(&self.run(lab, pod, &["ask", file.to_str().unwrap(), &address])).unwrap()
        };
        from.into_iter().flat_map(ask).collect()
    }
}

/// The requests, with tokens in them.
fn rows() -> Vec<Value> {
    let forged = format!("{}A{}", &requests::TOKEN[..60], &requests::TOKEN[61..]);
    let text = [
        ("$GOOD_TOKEN", requests::TOKEN),
        ("$OTHER_TOKEN", requests::TOKEN_FOR_OTHERS),
        ("$OLD_TOKEN", requests::OLD_TOKEN),
        ("$FORGED_TOKEN", &forged),
    ]
    .iter()
    .fold(ROWS.to_owned(), |text, (name, token)| text.replace(name, token));
    serde_saphyr::from_str(&text).unwrap()
}

/// What ours is to answer, by the request's name.
fn expected(rows: &[Value]) -> Expected {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().map(|row| (text(&row["name"]), text(&row["answer"]))).collect()
}

/// The first request from each pod to each port of each service: when all are answered alike, both waypoints have what they need.
fn first_ones(rows: &[Value]) -> Vec<Value> {
    let mut first = BTreeMap::new();
    for row in rows {
        let key = ["to", "port", "by", "from"].map(|name| row[name].to_string());
        first.entry(key).or_insert(row.clone());
    }
    first.into_values().collect()
}

#[test]
fn envoy_answers_the_same_but_for_what_is_listed() {
    let test = "beside-envoy";
    let peer = Peer::found();
    if !peer.python.exists() {
        return labs::skip(test, &format!("{} is missing; run ./dev setup", peer.python.display()));
    }
    let world = WORLD
        .replace("PYTHON", peer.python.to_str().unwrap())
        .replace("PEER", peer.script.to_str().unwrap())
        .replace("CONTROLLER", CONTROLLER)
        .replace("AUTHORITY", Layout::inside().root_certificate().to_str().unwrap())
        .replace("KEYS", requests::KEYS);
    let Some(lab) = labs::mesh_configured(test, MESH, &world) else { return };
    lab.wait_captured(&[(CLIENT, true), ("shop/one", true), ("shop/two", true), (ENVOY, false)]).unwrap();
    lab.wait_captured(&BEHIND_PROXIES.map(|pod| (pod, false))).unwrap();

    let rows = rows();
    let expected = expected(&rows);
    let first = first_ones(&rows);
    lab.wait_until("both waypoints to have what they need", || {
        let different = differences::answered_differently(&peer.ask(&lab, &first), &expected);
        if different.is_empty() { Ok(()) } else { Err(different.join("\n")) }
    })
    .unwrap();
    for envoy in [&[ENVOY][..], &BEHIND_PROXIES].concat() {
        let refused: BTreeMap<String, u64> = serde_json::from_str(&peer.run(&lab, envoy, &["stats"])).unwrap();
        let is_pleased = !refused.is_empty() && refused.values().all(|count| *count == 0);
        assert!(is_pleased, "{envoy} refuses resources: {refused:?}");
    }

    let problems = differences::problems(&peer.ask(&lab, &rows), &expected, &differences::listed());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
