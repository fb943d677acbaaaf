//! What an operator can look at: what is under way, and the configuration as Envoy's readers know it.

use fairway_lab::Lab;
use serde_json::Value;

use super::super::look::said;
use super::super::shop;
use super::{CLIENT, WAYPOINT, ask};

/// The conversation that is open through the waypoint is shown, with what it has carried.
pub(super) fn what_is_under_way_is_shown(lab: &Lab) {
    let command = ["waypoint", "requests", "waypoint", "-n", "shop"];
    let json: Value = serde_json::from_str(&said(lab, &[&command[..], &["-o", "json"]].concat())).unwrap();
    let requests = json["requests"].as_array().unwrap();
    let row = requests.iter().find(|row| row["phase"] == "carrying").unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!((&row["pod"], &row["sourceIdentity"]), (&"waypoint-0".into(), &shop::CLIENT_IDENTITY.into()));
    assert!(row["receivedBytes"].as_u64() > Some(0) && row["dialled"].as_str().unwrap().ends_with(":7000"), "{row}");
    assert_eq!(json["silent"].as_array().unwrap().len(), 0, "{json:#}");
    let text = said(lab, &command);
    assert!(text.starts_with("AGE ") && text.contains(" carrying "), "{text}");
}

/// A page of the waypoint, as JSON.
fn dump(lab: &Lab, query: &str) -> Value {
    let answer = ask(lab, WAYPOINT, &format!("http://127.0.0.1:15000/config_dump{query}"), &[]);
    let (_, page) = answer.split_once('{').unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(&format!("{{{page}")).unwrap()
}

pub(super) fn the_configuration_is_shown_as_envoys_is(lab: &Lab) {
    let whole = dump(lab, "?include_eds");
    let part = |name: &str| {
        let url = format!("type.googleapis.com/envoy.admin.v3.{name}");
        let parts = whole["configs"].as_array().unwrap();
        parts
            .iter()
            .find(|part| part["@type"] == url.as_str())
            .unwrap_or_else(|| panic!("no {name} in {whole:#}"))
            .clone()
    };
    assert!(part("BootstrapConfigDump")["bootstrap"]["node"]["id"].as_str().unwrap().starts_with("waypoint~"));
    let listeners = part("ListenersConfigDump");
    let named = |entry: &&Value| entry["name"] == "web.shop.svc.cluster.local:80";
    let listener = listeners["dynamic_listeners"].as_array().unwrap().iter().find(named).unwrap().clone();
    assert_eq!(listener["client_status"], "ACKED", "{listener:#}");
    assert_eq!(listener["active_state"]["listener"]["@type"], "type.googleapis.com/envoy.config.listener.v3.Listener");
    for (name, list, each) in [
        ("ClustersConfigDump", "dynamic_active_clusters", "cluster"),
        ("RoutesConfigDump", "dynamic_route_configs", "route_config"),
        ("EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config"),
    ] {
        let entries = part(name)[list].as_array().unwrap().clone();
        let is_whole = |entry: &Value| entry[each]["@type"].is_string() && entry["version_info"].is_string();
        assert!(!entries.is_empty() && entries.iter().all(is_whole), "{entries:#?}");
    }
    let secrets = part("SecretsConfigDump")["dynamic_active_secrets"].clone();
    let own = &secrets[0]["secret"]["tls_certificate"];
    assert_eq!(own["private_key"]["inline_bytes"], "W3JlZGFjdGVkXQ==", "{secrets:#}");
    assert!(own["certificate_chain"]["inline_bytes"].as_str().unwrap().len() > 100, "{secrets:#}");
    let picked = dump(lab, "?resource=dynamic_listeners&name_regex=web%5C..*:80");
    assert_eq!((picked["configs"].as_array().unwrap().len(), &picked["configs"][0]["name"]), (1, &listener["name"]));
    assert!(ask(lab, WAYPOINT, "http://127.0.0.1:15000/config_dump?resource=x", &[]).starts_with("404 "));
}

/// A service's cluster, with its bounds, and its endpoints as they are asked.
pub(super) fn clusters_are_shown(lab: &Lab) {
    let answer = ask(lab, WAYPOINT, "http://127.0.0.1:15000/clusters", &[]);
    let (_, page) = answer.split_once('{').unwrap_or_else(|| panic!("{answer}"));
    let page: Value = serde_json::from_str(&format!("{{{page}")).unwrap();
    let cluster = &page["web.shop.svc.cluster.local:7000"];
    let (connections, endpoints) = (&cluster["connections"], cluster["endpoints"].as_array().unwrap());
    assert_eq!((&connections["now"], &connections["most"]), (&1.into(), &u32::MAX.into()), "one is open: {cluster:#}");
    let mut found: Vec<&str> = endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap()).collect();
    let mut expected = ["shop/web-v1", "shop/web-v2"].map(|pod| format!("{}:7000", shop::address(lab, pod)));
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{cluster:#}");
}

/// A pattern that the controller lets pass, and that takes a waypoint more memory than it gives to one.
const HEAVY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: heavy, namespace: shop}\nspec:\n  \
    parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n  \
    - matches: [{path: {type: RegularExpression, value: '/\\p{L}{900}'}}]\n    backendRefs: [{name: web-v1, port: 80}]\n";

/// What the waypoint refuses, the command says with the field; what was before it stays.
pub(super) fn what_is_refused_is_told(lab: &Lab) {
    let status = |what: &str, form: &str, is_right: &dyn Fn(&str) -> bool| {
        let waited = lab.wait_until(what, || {
            let status = said(lab, &["proxy-status", "-o", form]);
            if is_right(&status) { Ok(()) } else { Err(status) }
        });
        waited.unwrap();
    };
    lab.apply(HEAVY).unwrap();
    let parts = ["RDS REJECTED", "waypoint-0.shop refused", "web.shop.svc.cluster.local:80: "];
    status("the waypoint's refusal to be told", "text", &|text| parts.iter().all(|part| text.contains(part)));
    let field = "web.shop.svc.cluster.local:80: virtual_hosts[0].routes[0].match";
    status("the field that it is about to be told", "json", &|text| text.contains(field));
    let answer = ask(lab, CLIENT, "http://web/", &[]);
    assert!(answer.starts_with("200 "), "routes as they were: {answer}");
    lab.delete(HEAVY).unwrap();
    let is_well = |text: &str| text.contains("waypoint-0") && !text.contains("REJECTED");
    status("nothing to be refused any more", "text", &is_well);
}
