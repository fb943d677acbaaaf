//! What the `fairway` command puts in, takes out, and shows of a mesh.

use std::process::Command;

use fairway_lab::Lab;
use serde_json::Value;

use super::labs;
use super::shop::{self, CLIENT, LONER, SERVER, VISITOR};

/// Runs the command on a lab: whether it succeeded, and what it printed.
pub(crate) fn fairway(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(labs::binaries().join("fairway"));
    let output = command.args(arguments).args(["--lab", &lab.layout().name()]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// What it prints when it succeeds.
#[track_caller]
pub(crate) fn said(lab: &Lab, arguments: &[&str]) -> String {
    let (succeeded, text) = fairway(lab, arguments);
    assert!(succeeded, "{arguments:?}: {text}");
    text
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let text = said(lab, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Items of a list whose `key` is `name`.
fn named<'a>(list: &'a Value, key: &str, name: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().filter(|item| item[key] == name).collect()
}

#[test]
fn namespaces_are_put_in_looked_at_and_taken_out() {
    let Some(lab) = labs::mesh_with("look", shop::MANIFESTS) else { return };
    let (succeeded, text) = fairway(&lab, &["namespace", "add", "shpo"]);
    assert!(!succeeded && text.contains("there is no namespace shpo"), "{text}");
    let (succeeded, text) = fairway(&lab, &["waypoint", "delete", "nix", "-n", "shop"]);
    assert!(!succeeded && text.contains("there is no waypoint nix in shop"), "{text}");
    let text = said(&lab, &["namespace", "add", "shop", "--wait"]);
    assert!(text.starts_with("Namespace shop labeled\n") && text.ends_with(" pods are in the mesh\n"), "{text}");
    lab.wait_captured(&[(CLIENT, true), (SERVER, true), (LONER, false), (VISITOR, false)]).unwrap();
    let namespaces = json(&lab, &["namespace", "list"]);
    assert_eq!(named(&namespaces, "name", "shop")[0]["enrolled"], true, "{namespaces}");
    shop::mutual_tls(&lab);

    holds_what_proxies_hold(&lab);
    tells_what_is_wrong(&lab);
    makes_a_waypoint(&lab);

    said(&lab, &["namespace", "remove", "shop"]);
    lab.wait_captured(&[(CLIENT, false), (SERVER, false)]).unwrap();
}

fn holds_what_proxies_hold(lab: &Lab) {
    let workloads = json(lab, &["ztunnel-config", "workloads", "-n", "shop"]);
    let server = named(&workloads, "name", "server");
    assert_eq!((server.len(), &server[0]["protocol"]), (1, &"HBONE".into()), "{workloads}");
    assert_eq!(server[0]["heldBy"].as_array().unwrap().len(), 2, "{workloads}");
    let services = said(lab, &["ztunnel-config", "services", "--node", "node-1"]);
    assert!(services.lines().any(|line| line.starts_with("shop") && line.contains("1/1")), "{services}");
    let certificates = said(lab, &["ztunnel-config", "certificates", "-n", "shop"]);
    assert!(certificates.contains(shop::SERVER_IDENTITY) && certificates.contains("Available"), "{certificates}");
    let (succeeded, text) = fairway(lab, &["ztunnel-config", "policies", "--node", "node-9"]);
    assert!(!succeeded && text.contains("there are: node-1 node-2"), "{text}");
    lab.wait_until("every proxy to have what was sent last", || {
        let proxies = said(lab, &["proxy-status"]);
        let synced = proxies.lines().skip(1).filter(|line| line.contains("2 of 2")).count();
        if synced == 2 { Ok(()) } else { Err(proxies) }
    })
    .unwrap();
    assert!(said(lab, &["proxy-status"]).contains(env!("CARGO_PKG_VERSION")), "proxies say their version");
}

fn tells_what_is_wrong(lab: &Lab) {
    lab.wait_until("nothing to be wrong", || {
        let status = said(lab, &["status"]);
        if status.contains("Nothing is wrong.") { Ok(()) } else { Err(status) }
    })
    .unwrap();
    let broken = lab.layout().manifests().join("broken.yaml");
    std::fs::write(&broken, "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n").unwrap();
    lab.wait_until("the broken manifest to be told of", || {
        let status = json(lab, &["status"]);
        let told = status["trouble"].as_array().unwrap().iter().any(|line| line.to_string().contains("broken.yaml"));
        if told { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
    std::fs::remove_file(&broken).unwrap();
}

fn makes_a_waypoint(lab: &Lab) {
    let made = said(lab, &["waypoint", "apply", "--namespace", "shop", "--wait"]);
    assert!(made.contains("waypoint shop/waypoint created") && made.contains("shop/waypoint runs"), "{made}");
    assert_eq!(said(lab, &["waypoint", "generate", "--name", "w"]).matches("fairway-waypoint").count(), 1);
    let list = said(lab, &["waypoint", "list", "-A"]);
    let row: Vec<&str> = list.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["shop", "waypoint", "service", "True"], "{list}");
    let status = said(lab, &["waypoint", "status", "waypoint", "-n", "shop"]);
    assert!(status.contains("Programmed"), "{status}");
    let (succeeded, text) = fairway(lab, &["waypoint", "status", "other", "-n", "shop"]);
    assert!(!succeeded && text.contains("there is no waypoint other in shop"), "{text}");
    assert_eq!(said(lab, &["waypoint", "delete", "waypoint", "-n", "shop"]), "waypoint shop/waypoint deleted\n");
}
