//! What the chart becomes: its promises, and that its files are complete.

use std::collections::BTreeSet;
use std::path::Path;
use std::{env, fs};

use super::*;

fn rendered(values: &Value) -> Vec<Value> {
    render(values, NAMESPACE, "test").unwrap().objects
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn chart() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("chart")
}

#[test]
fn every_file_of_the_chart_is_embedded() {
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(chart().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let names =
        |files: &[(&str, &str)]| -> BTreeSet<String> { files.iter().map(|(name, _)| (*name).to_owned()).collect() };
    assert_eq!(names(files::TEMPLATES), listed("templates"));
    assert_eq!(names(files::DEFINITIONS), listed("crds"));
    assert_eq!(profiles().map(|name| format!("{name}.yaml")).collect::<BTreeSet<_>>(), listed("profiles"));
}

#[test]
fn the_chart_installs_this_version() {
    assert_eq!(version().unwrap(), env!("CARGO_PKG_VERSION"));
    let chart = of_chart("", files::CHART).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_schema_knows_exactly_the_values_there_are() {
    fn walk(path: &str, schema: &Value, value: &Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            // Helm's own, and what Kubernetes says of resources.
            if ["global", "claims", "limits"].contains(&name.as_str()) {
                continue;
            }
            assert!(value.get(name).is_some(), "values.yaml does not say what {path}.{name} is");
            walk(&format!("{path}.{name}"), field, &value[name]);
        }
    }
    fn keywords(schema: &Value) {
        for (name, inner) in schema.as_object().into_iter().flatten() {
            assert!(schema::KEYWORDS.contains(&name.as_str()), "{name} is not understood");
            if name == "properties" {
                inner.as_object().into_iter().flatten().for_each(|(_, inner)| keywords(inner));
            } else if name == "additionalProperties" || name == "items" {
                keywords(inner);
            }
        }
    }
    let (schema, values) = (of_chart("", files::SCHEMA).unwrap(), of_chart("", files::VALUES).unwrap());
    keywords(&schema);
    walk("", &schema, &values);
    schema::check(&schema, &values).unwrap();
}

#[test]
fn what_is_wrong_with_values_is_said() {
    let said = |values: Value| render(&values, NAMESPACE, "test").unwrap_err().to_string();
    assert_eq!(said(json!({"controler": {}})), "values: there is no controler");
    assert_eq!(said(json!({"controller": {"replicas": 0}})), "values: controller.replicas must be at least 1");
    let on_demand = said(json!({"ztunnel": {"onDemand": true}}));
    assert!(on_demand.starts_with("ztunnel.yaml:2: ") && on_demand.contains("cni.dnsCapture=false"), "{on_demand}");
    rendered(&json!({"ztunnel": {"onDemand": true}, "cni": {"dnsCapture": false}}));
    let none = profile("none").unwrap_err().to_string();
    assert_eq!(none, "there is no profile \"none\"; there are: demo minimal production");
}

#[test]
fn every_profile_can_be_rendered_and_no_object_is_there_twice() {
    for name in profiles() {
        let objects = rendered(&profile(name).unwrap());
        let keys: BTreeSet<_> = objects.iter().map(key).collect();
        assert_eq!(keys.len(), objects.len(), "{name}");
        for object in &objects {
            assert_eq!(object["metadata"]["labels"][PART_OF.0], PART_OF.1, "{:?} of {name}", key(object));
            assert_eq!(object["metadata"]["labels"][MANAGED_BY], "test", "{:?} of {name}", key(object));
        }
    }
    for object in definitions().unwrap() {
        assert_eq!(object["metadata"]["labels"][PART_OF.0], PART_OF.1, "{:?}", key(&object));
    }
}

#[test]
fn another_namespace_is_said_everywhere() {
    let rendered = render(&json!({"namespace": {"create": true}}), "mesh", "test").unwrap();
    for object in &rendered.objects {
        let text = object.to_string();
        assert!(!text.contains(NAMESPACE), "{text}");
    }
    assert!(!rendered.notes.contains(NAMESPACE), "{}", rendered.notes);
    let controller = find(&rendered.objects, "Deployment", "fairway-controller").to_string();
    for argument in
        ["--root-namespace=mesh", "--trusted-node-accounts=mesh/ztunnel", "--tls-san=fairway-controller.mesh.svc"]
    {
        assert!(controller.contains(argument), "{argument}");
    }
}

/// What Pod Security Standards call restricted, as far as pods can break it.
fn is_restricted(pod: &Value) -> bool {
    let spec = &pod["spec"]["template"]["spec"];
    let container = &spec["containers"][0]["securityContext"];
    spec["securityContext"]["runAsNonRoot"] == true
        && spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        && container["allowPrivilegeEscalation"] == false
        && container["capabilities"] == json!({"drop": ["ALL"]})
        && spec["hostNetwork"].is_null()
        && spec["volumes"].as_array().into_iter().flatten().all(|volume| volume["hostPath"].is_null())
}

#[test]
fn only_what_is_on_nodes_has_rights_there() {
    let objects = rendered(&json!({}));
    assert!(is_restricted(find(&objects, "Deployment", "fairway-controller")));
    for (name, host_network) in [("fairway-cni", true), ("ztunnel", false)] {
        let part = find(&objects, "DaemonSet", name);
        assert!(!is_restricted(part), "{name}");
        let spec = &part["spec"]["template"]["spec"];
        assert_eq!(spec["hostNetwork"] == true, host_network, "{name}");
        let rights = &spec["containers"][0]["securityContext"];
        assert_eq!((&rights["privileged"], &rights["readOnlyRootFilesystem"]), (&json!(false), &json!(true)), "{name}");
        assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]), "{name}");
        // Nodes never run pods before capture: whatever keeps other pods away does not keep these.
        assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]), "{name}");
        assert_eq!(spec["priorityClassName"], "system-node-critical", "{name}");
    }
    let ztunnel = &find(&objects, "DaemonSet", "ztunnel")["spec"]["template"]["spec"];
    assert_eq!(ztunnel["automountServiceAccountToken"], false, "it asks the API server for nothing");
}

#[test]
fn what_is_switched_off_is_not_there() {
    let kinds = |values: Value| -> BTreeSet<String> { rendered(&values).iter().map(|object| key(object).0).collect() };
    let all = kinds(json!({"namespace": {"create": true}}));
    for (values, kind) in [
        (json!({}), "Namespace"),
        (json!({"namespace": {"create": true}, "webhook": {"create": false}}), "ValidatingWebhookConfiguration"),
        (json!({"namespace": {"create": true}, "waypoints": {"enabled": false}}), "GatewayClass"),
        (json!({"namespace": {"create": true}, "networkPolicies": {"create": false}}), "NetworkPolicy"),
    ] {
        let mut expected = all.clone();
        assert!(expected.remove(kind), "{kind}");
        assert_eq!(kinds(values), expected);
    }
}

#[test]
fn the_mesh_configuration_is_a_file_of_the_controller() {
    let config = json!({"extensionProviders": [{"name": "log", "envoyFileAccessLog": {"path": "/dev/stdout"}}]});
    for (values, expected) in [(json!({}), json!({})), (json!({"mesh": {"config": config}}), config.clone())] {
        let objects = rendered(&values);
        let map = find(&objects, "ConfigMap", "fairway-mesh");
        let written: Value = serde_saphyr::from_str(map["data"]["mesh"].as_str().unwrap()).unwrap();
        assert_eq!(written, expected);
        let pod = &find(&objects, "Deployment", "fairway-controller")["spec"]["template"]["spec"];
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["configMap"].is_object()).unwrap();
        assert_eq!(volume["configMap"]["name"], map["metadata"]["name"]);
        let container = &pod["containers"][0];
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
        // What is mounted by subPath is never brought up to date, and the controller follows the file.
        assert!(mount["subPath"].is_null(), "{mount}");
        let flag = json!(format!("--mesh-config={}/mesh", mount["mountPath"].as_str().unwrap()));
        assert!(container["args"].as_array().unwrap().contains(&flag), "{container}");
    }
}
