//! Tests of the configuration file: what it means, what is refused and where, and that it means what a controller's
//! messages mean.

use proptest::prelude::*;

use super::*;
use crate::authz;
use crate::facts::ConnectionFacts;
use crate::policy::{Action, Scope};
use crate::snapshot::World;
use crate::testing::{identity, socket};
use crate::workload::Protocol;

fn defaults() -> Defaults {
    Defaults { trust_domain: "example.org".to_owned(), cluster_id: "edge".to_owned() }
}

fn parse(text: &str) -> Result<LocalConfig, LocalError> {
    LocalConfig::parse(text, &defaults())
}

const WHOLE: &str = r#"
workloads:
- uid: edge//Pod/shop/web
  name: web
  namespace: shop
  serviceAccount: web
  trustDomain: cluster.local
  workloadIps: ["10.0.0.1", "fd00::1"]
  protocol: HBONE
  node: here
  network: lan
  waypoint: {destination: shop/gate.example, hboneMtlsPort: 15008}
  networkGateway: {destination: wan/192.0.2.1, hboneMtlsPort: 15009}
  networkMode: Standard
  workloadName: web
  workloadType: deployment
  canonicalName: web-app
  canonicalRevision: v2
  hostname: ""
  nativeTunnel: false
  applicationTunnel: {protocol: PROXY, port: 8443}
  authorizationPolicies: [shop/only-clients]
  status: Unhealthy
  clusterId: far
  locality: {region: r, zone: z, subzone: s}
  capacity: 3
  services:
    shop/web.example: {80: 8080, 443: 8443}
- name: client
  namespace: shop
  workloadIps: [10.0.0.2]
services:
- name: web
  namespace: shop
  hostname: web.example
  vips: ["/10.1.0.1", "lan/fd00:1::1"]
  cidrVips: [lan/10.2.0.0/16]
  ports: {80: 8080, 443: 0}
  subjectAltNames: ["spiffe://cluster.local/ns/shop/sa/web"]
  weightedWaypoints: [{destination: {destination: shop/gate.example, hboneMtlsPort: 15008}, weight: 2}]
  loadBalancer: {routingPreferences: [Region, Zone], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: Dual
  canonical: true
  visibility: Namespace
  endpoints: {}
policies:
- name: only-clients
  namespace: shop
  scope: WorkloadSelector
  action: Allow
  rules:
  - - - principals: [{Exact: spiffe://cluster.local/ns/shop/sa/client}, {Prefix: spiffe://a}, {Suffix: z}, {Presence: []}]
        notNamespaces: [{Exact: street}]
        sourceIps: [10.0.0.0/8]
        notDestinationPorts: [22]
        serviceAccounts: [{namespace: shop, serviceAccount: client}]
"#;

#[test]
fn every_field_arrives() {
    let config = parse(WHOLE).unwrap();
    let [web, client] = &config.workloads[..] else { panic!("{config:?}") };
    assert_eq!(web.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(web.addresses.len(), 2);
    assert_eq!(web.protocol, Protocol::Hbone);
    assert_eq!(web.waypoint.as_ref().unwrap().destination.to_string(), "shop/gate.example");
    assert_eq!(web.network_gateway.as_ref().unwrap().destination.to_string(), "wan/192.0.2.1");
    assert_eq!(web.application_tunnel.unwrap().port, Some(8443));
    assert_eq!((web.capacity, &*web.cluster_id, &*web.canonical_name), (3, "far", "web-app"));
    assert_eq!(web.services[0].target_port(443), Some(8443));
    let as_dumped = serde_json::to_value(web).unwrap();
    for (field, expected) in [("status", "Unhealthy"), ("workloadType", "deployment"), ("network", "lan")] {
        assert_eq!(as_dumped[field], expected, "{as_dumped}");
    }
    // What the file leaves out comes from the proxy's settings.
    assert_eq!(client.identity.to_string(), "spiffe://example.org/ns/shop/sa/default");
    assert_eq!((client.uid.as_str(), client.protocol), ("edge//Pod/shop/client", Protocol::Tcp));
    let service = &config.services[0];
    let as_dumped = serde_json::to_value(service).unwrap();
    assert_eq!(as_dumped["vips"], serde_json::json!(["/10.1.0.1", "lan/fd00:1::1"]));
    assert_eq!(as_dumped["cidrVips"], serde_json::json!(["lan/10.2.0.0/16"]));
    assert_eq!(as_dumped["loadBalancer"]["mode"], "Failover");
    assert_eq!(as_dumped["visibility"], "Namespace");
    assert!(service.has_waypoint() && service.canonical);
    let policy = &config.policies[0];
    assert_eq!((policy.scope, policy.action), (Scope::WorkloadSelector, Action::Allow));
    assert_eq!(policy.rules[0].clauses[0].matches[0].principals.len(), 4);
}

/// The form Istio's own example has.
#[test]
fn a_policy_decides() {
    let text = "workloads: [{name: web, namespace: shop, workloadIps: [10.0.0.1], protocol: HBONE}]\n\
                policies: [{name: p, namespace: shop, scope: Namespace, action: Allow, rules: [[[{notDestinationPorts: [9999]}]]]}]\n";
    let mut world = World::complete();
    let snapshot = world.apply(parse(text).unwrap().updates());
    let view = snapshot.view_of(snapshot.workload_by_uid("edge//Pod/shop/web").unwrap());
    for (port, allowed) in [(80, true), (9999, false)] {
        let facts = ConnectionFacts {
            source: socket("10.0.0.2:40000"),
            source_identity: Some(identity("shop", "client")),
            original: None,
            destination: socket(&format!("10.0.0.1:{port}")),
            http: None,
        };
        assert_eq!(matches!(authz::decide(&view, &facts), authz::Decision::Allow { .. }), allowed, "{port}");
    }
}

#[test]
fn faults_are_named_with_their_place() {
    let workload = "workloads:\n- name: a\n  namespace: n\n  workloadIps: [10.0.0.1]\n";
    let policy = "policies:\n- name: p\n  namespace: n\n  scope: Global\n  action: Deny\n";
    let service = "services:\n- name: s\n  namespace: n\n  hostname: h\n";
    let rows: [(String, Option<u32>, &str, &str); 25] = [
        (String::new(), None, "", "it is empty"),
        ("- a\n".into(), Some(1), "", "each a list"),
        ("just text".into(), Some(1), "", "each a list"),
        ("workloads: []\n---\nworkloads: []\n".into(), Some(3), "", "one document"),
        ("workloads: {}\n".into(), Some(1), "workloads", "must be a list"),
        ("workload: []\n".into(), Some(1), "workload", "unknown"),
        ("workloads: [\n".into(), Some(1), "", "not valid YAML"),
        ("workloads:\n- name: a\n  name: b\n".into(), Some(3), "", "duplicate"),
        ("workloads:\n- name: a\n  workloadIps: []\n".into(), Some(2), "workloads[0]", "namespace"),
        (workload.replace("namespace: n", "namespace: ''"), Some(3), "workloads[0].namespace", "empty"),
        (workload.replace("10.0.0.1", "10.0.0"), Some(4), "workloads[0].workloadIps[0]", "invalid IP"),
        (format!("{workload}  colour: red\n"), Some(5), "workloads[0].colour", "unknown field"),
        (format!("{workload}  protocol: SPDY\n"), Some(5), "workloads[0].protocol", "unknown variant"),
        (format!("{workload}  serviceAccount: 'a b'\n"), Some(5), "workloads[0].serviceAccount", "identity"),
        (format!("{workload}  trustDomain: A\n"), Some(5), "workloads[0].trustDomain", "identity"),
        (
            format!("{workload}  authorizationPolicies: [p]\n"),
            Some(5),
            "workloads[0].authorizationPolicies[0]",
            "slash",
        ),
        (format!("{workload}  services: {{n/h: {{0: 80}}}}\n"), Some(5), "services", "port 0"),
        (format!("{workload}  services:\n    n/h: {{80: 70000}}\n"), Some(6), "services", "70000"),
        (format!("{workload}- name: a\n  namespace: n\n  workloadIps: []\n"), Some(5), "workloads[1]", "before"),
        (format!("{service}  vips: [10.0.0.1]\n"), Some(5), "services[0].vips[0]", "network/ip"),
        (format!("{service}  endpoints: {{a: {{}}}}\n"), Some(5), "services[0].endpoints", "workloads"),
        (
            format!("{service}  waypoint: {{destination: x, hboneMtlsPort: 1}}\n"),
            Some(5),
            "services[0].waypoint",
            "neither",
        ),
        (
            format!("{service}  waypoint: {{destination: n/x, hboneMtlsPort: 0}}\n"),
            Some(5),
            "services[0].waypoint.hboneMtlsPort",
            "port 0",
        ),
        (
            format!("{policy}  rules: [[[{{sourceIps: [10.0.0.0/33]}}]]]\n"),
            Some(6),
            "policies[0].rules[0][0][0].sourceIps[0]",
            "invalid",
        ),
        (
            format!("{policy}  rules:\n  - - - destinationPorts: [0]\n"),
            Some(7),
            "policies[0].rules[0][0][0].destinationPorts[0]",
            "port 0",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, line, field, message) in rows {
        let error = parse(&text).map(|_| ()).unwrap_err();
        let named = error.field.as_deref().unwrap_or_default();
        let in_field = named == field || (!field.is_empty() && named.contains(field));
        if error.line != line || !in_field || !error.to_string().contains(message) {
            wrong.push(format!("{text}\n  gives {error}\n  expected {line:?} {field:?} {message:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_written_as_nothing() {
    assert_eq!(parse("{}"), Ok(LocalConfig::default()));
    assert_eq!(parse("workloads: []\n"), Ok(LocalConfig::default()));
}

proptest! {
    /// Whatever bytes are in the file: it is understood, or it is refused with words.
    #[test]
    fn no_text_panics(text in "[a-zA-Z0-9 :{}\\[\\],/.\\n'-]{0,200}") {
        if let Err(error) = parse(&text) {
            prop_assert!(!error.message.is_empty());
        }
    }

    /// A file cut short anywhere, as a reader may see it, is refused or says less, and never says something else.
    #[test]
    fn a_truncated_file_is_refused_or_says_less(end in 0..WHOLE.len()) {
        let whole = parse(WHOLE).unwrap();
        if let Ok(part) = parse(&WHOLE[..end]) {
            prop_assert!(part.workloads.len() <= whole.workloads.len());
            prop_assert!(part.services.len() <= whole.services.len());
            prop_assert!(part.policies.len() <= whole.policies.len());
        }
    }

    /// Every place an error names is in the file.
    #[test]
    fn places_are_in_the_file(line in 1..45_usize, garbage in "[a-z]{1,4}: [a-z]{1,4}") {
        let mut lines: Vec<&str> = WHOLE.lines().collect();
        lines.insert(line.min(lines.len()), &garbage);
        let text = lines.join("\n");
        if let Err(error) = parse(&text) {
            let count = u32::try_from(lines.len()).unwrap();
            prop_assert!(error.line.is_none_or(|line| (1..=count + 1).contains(&line)), "{error}");
        }
    }
}

/// A reading of the file is published once it is complete, and a broken one as its fault.
#[tokio::test]
async fn changes_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("local.yaml");
    let mut readings = watch(&path, defaults());
    assert!(readings.borrow().config.as_ref().unwrap_err().to_string().contains("cannot be read"));
    let replace = |text: &str| {
        let draft = directory.path().join("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(&draft, &path).unwrap();
    };
    let steps = [("{}", None), ("workloads: 1", Some("must be a list")), (WHOLE, None), ("", Some("it is empty"))];
    for (text, fault) in steps {
        replace(text);
        let seen = |reading: &Reading| reading.text.as_deref().is_ok_and(|read| read == text);
        let reading = tokio::time::timeout(std::time::Duration::from_secs(30), readings.wait_for(seen)).await;
        let reading = reading.unwrap().unwrap();
        match (&reading.config, fault) {
            (Ok(_), None) => {}
            (Err(error), Some(fault)) => assert!(error.to_string().contains(fault), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
