//! Helm and `fairway install` make the same of the chart: object by object, for several sets of values.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use fairway_manifests::{by_key, documents, merge, profile, render};
use serde_json::{Value, json};

/// Who looks after the objects, as Helm says it.
const HELM: &str = "Helm";
/// A version of Kubernetes that the chart takes; without a cluster Helm assumes an old one.
const KUBERNETES: &str = "1.33.0";

/// Helm as `./dev setup` builds it into the target directory, or whatever `FAIRWAY_HELM` names.
fn helm() -> Option<PathBuf> {
    let named = env::var_os("FAIRWAY_HELM").map(PathBuf::from);
    let built = env::current_exe().ok()?.ancestors().nth(3)?.join("helm/helm");
    named.or(Some(built)).filter(|path| path.is_file())
}

/// What Helm renders; what it complains of.
fn with_helm(helm: &Path, namespace: &str, values: &Value, definitions: bool) -> Result<Vec<Value>, String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("chart");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, values.to_string()).unwrap();
    let mut command = Command::new(helm);
    command.args(["template", "fairway", "--namespace", namespace, "--kube-version", KUBERNETES, "--values"]);
    command.arg(&file).arg(chart).env("HOME", folder.path());
    if definitions {
        command.arg("--include-crds");
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(documents("helm", &String::from_utf8(output.stdout).unwrap()).unwrap())
}

fn cases() -> Vec<(&'static str, &'static str, Value)> {
    let profile = |name| profile(name).unwrap();
    let with = |name, more: Value| {
        let mut values = profile(name);
        merge(&mut values, &more);
        values
    };
    vec![
        ("defaults", "fairway-system", json!({})),
        ("demo", "fairway-system", with("demo", json!({"namespace": {"create": true}}))),
        ("minimal", "mesh", profile("minimal")),
        ("production", "fairway-system", profile("production")),
        (
            "everything set",
            "elsewhere",
            json!({
                "image": {"registry": "registry.example:5000/mesh", "tag": "v9", "pullPolicy": "Always", "pullSecrets": ["one", "two"]},
                "namespace": {"create": true},
                "mesh": {"trustDomain": "example.org", "clusterId": "east", "clusterDomain": "example.local", "network": "n1", "config": {
                    "extensionProviders": [
                        {"name": "judge", "envoyExtAuthzHttp": {"service": "judge.shop.svc.cluster.local", "port": 8000, "timeout": "0.5s",
                            "includeRequestHeadersInCheck": ["x-user", "cookie"], "failOpen": false}},
                        {"name": "log", "envoyFileAccessLog": {"path": "/dev/stdout", "logFormat": {"text": "a <b> & \"c\" %RESPONSE_CODE%\n"}}},
                        {"name": "none", "opentelemetry": {}, "list": [], "share": 0.5, "large": 1_048_576_i64, "é": null},
                    ],
                    "defaultProviders": {"accessLogging": ["log"]},
                }},
                "log": {"format": "plain", "level": "debug"},
                "labels": {"team": "net", "cost": "12"},
                "podAnnotations": {"example.org/note": "true: \"yes\""},
                "prometheus": {"annotations": false},
                "ca": {"secretName": "cacerts"},
                "controller": {
                    "replicas": 5, "maxUnavailable": "50%", "priorityClassName": "", "listenAddress": "[::]",
                    "tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}],
                    "nodeSelector": {"kubernetes.io/arch": "arm64"}, "jwksHosts": "*.example.org,keys.example.com",
                    "env": {"FAIRWAY_WRITE_STATUS": false, "NUMBER": 7},
                },
                "ztunnel": {"onDemand": true, "stateDirectory": "", "env": {"SECRET_TTL": "1h"}, "terminationGracePeriodSeconds": 99},
                "cni": {
                    "dnsCapture": false, "ipv6": false, "cleanupOnExit": true, "excludeNamespaces": ["kube-system", "other"],
                    "confDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d", "netnsDir": "/run/netns", "tolerations": [],
                    "monitoringListen": "[::]:15114", "env": {"CNI_CONF_NAME": "10-x.conflist"},
                },
                "waypoints": {"resources": {"cpu": "1", "memory": "1Gi"}},
            }),
        ),
        (
            "taken away",
            "fairway-system",
            json!({"controller": {"nodeSelector": {"kubernetes.io/os": null, "a": "b"}, "resources": {"limits": null}}, "webhook": {"create": false}}),
        ),
    ]
}

#[test]
fn helm_renders_the_same_objects() {
    let Some(helm) = helm() else {
        eprintln!("SKIPPED: the chart beside Helm: there is none; `./dev setup` builds it where Go is installed");
        return;
    };
    for (name, namespace, values) in cases() {
        let theirs =
            by_key(with_helm(&helm, namespace, &values, true).unwrap_or_else(|error| panic!("{name}: {error}")));
        let mut ours = render(&values, namespace, HELM).unwrap_or_else(|error| panic!("{name}: {error}")).objects;
        ours.extend(fairway_manifests::definitions().unwrap());
        let ours = by_key(ours);
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (key, object) in &ours {
            assert_eq!(object, &theirs[key], "{key:?} with {name}: what we make of it, and what Helm does");
        }
    }
}

#[test]
fn helm_refuses_the_same_values() {
    let Some(helm) = helm() else { return };
    for values in [
        json!({"controler": {}}),
        json!({"controller": {"replicas": 0}}),
        json!({"cni": {"fail": "maybe"}}),
        json!({"image": {"registry": ""}}),
        json!({"ztunnel": {"onDemand": true}}),
        json!({"labels": {"a": 1}}),
    ] {
        let ours = render(&values, "fairway-system", HELM);
        let theirs = with_helm(&helm, "fairway-system", &values, false);
        assert!(ours.is_err() && theirs.is_err(), "{values}: {ours:?} and {theirs:?}");
    }
}
