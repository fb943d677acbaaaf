//! Manifests that are wrong: file, line and field are named, what held before still holds, and the others are applied.

use std::fs;
use std::process::Command;

use fairway_lab::Lab;
use serde_json::Value;

use super::shop::{self, CLIENT, SERVER};
use super::{labs, observe};

/// In force before the file that holds it breaks.
const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-client
  namespace: shop
spec:
  action: DENY
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/shop/sa/client]
";
/// The same with a field nobody knows, in line 11.
const MISSPELT: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-client
  namespace: shop
spec:
  action: DENY
  rules:
    - from:
        - source:
            principal: [cluster.local/ns/shop/sa/client]
";
const UNKNOWN: &str = "apiVersion: example.com/v1\nkind: Spaceship\nmetadata: {name: enterprise, namespace: shop}\n";
const OTHER: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: another}\n";

/// Writes a manifest as an editor would, past the lab's own checks.
fn write(lab: &Lab, name: &str, text: &[u8]) {
    let beside = lab.layout().manifests().join(format!(".{name}.new"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, lab.layout().manifests().join(name)).unwrap();
}

fn refused(lab: &Lab) -> bool {
    labs::get(lab, CLIENT, &format!("http://{}:8080/", shop::address(lab, SERVER))).starts_with("error:")
}

fn status_text(lab: &Lab) -> String {
    let mut command = Command::new(labs::binaries().join("fairway"));
    command.args(["lab", "--lab", &lab.layout().name(), "status"]);
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// The problem that the controller has with `file`, once it has one.
fn problem(lab: &Lab, file: &str) -> Value {
    lab.wait_until(&format!("a problem with {file}"), || {
        let sources = observe::controller(lab, "/debug/sources");
        let found = sources["errors"].as_array().unwrap().iter().find(|error| error["file"] == file).cloned();
        found.ok_or_else(|| sources["errors"].to_string())
    })
    .unwrap()
}

#[test]
fn a_broken_manifest_is_named_and_changes_nothing() {
    let Some(lab) = shop::enrolled("manifests") else { return };
    write(&lab, "policy.yaml", DENY.as_bytes());
    lab.wait_for("the denial to be in force", || refused(&lab)).unwrap();
    write(&lab, "policy.yaml", MISSPELT.as_bytes());
    let found = problem(&lab, "policy.yaml");
    assert_eq!(found["line"], 11, "{found}");
    let names_it = |key: &str| found[key].as_str().is_some_and(|text| text.contains("principal"));
    assert!(names_it("field") || names_it("message"), "{found}");
    let status = status_text(&lab);
    assert!(status.contains("policy.yaml") && status.contains("11") && status.contains("principal"), "{status}");
    write(&lab, "unreadable.yaml", b"kind: [\xff\xfe");
    problem(&lab, "unreadable.yaml");
    write(&lab, "half.yaml", b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: [unclosed\n");
    assert!(problem(&lab, "half.yaml")["line"].as_u64().is_some_and(|line| line >= 4));
    // What is right beside it still comes through.
    write(&lab, "other.yaml", OTHER.as_bytes());
    write(&lab, "unknown.yaml", UNKNOWN.as_bytes());
    lab.wait_until("the unknown kind to be listed, and nothing else to be lost", || {
        let sources = observe::controller(&lab, "/debug/sources");
        let unknown = sources["unknownKinds"].as_array().unwrap();
        let listed = unknown.iter().any(|kind| kind["kind"] == "Spaceship" && kind["name"] == "enterprise");
        let namespaces = sources["objects"]["Namespace"].as_u64().unwrap();
        if listed && namespaces >= 3 { Ok(()) } else { Err(sources.to_string()) }
    })
    .unwrap();
    assert!(status_text(&lab).contains("Spaceship"), "{}", status_text(&lab));
    assert!(refused(&lab), "a broken file must leave in force what it gave before");
    // Repaired, by being taken away.
    fs::remove_file(lab.layout().manifests().join("policy.yaml")).unwrap();
    shop::mutual_tls(&lab);
    for file in ["unreadable.yaml", "half.yaml"] {
        fs::remove_file(lab.layout().manifests().join(file)).unwrap();
    }
    lab.wait_for("no problem to be left", || {
        observe::controller(&lab, "/debug/sources")["errors"].as_array().is_some_and(Vec::is_empty)
    })
    .unwrap();
    assert!(observe::restarts(&lab).values().all(|count| *count == 0));
}
