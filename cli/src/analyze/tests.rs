//! What is told of manifests, by code.

use fairway_controller::translate::Settings;
use fairway_lab::apply::Input;

use super::*;

fn messages(files: &[&str]) -> Vec<Message> {
    let inputs: Vec<Input> = files
        .iter()
        .enumerate()
        .map(|(index, text)| Input { name: format!("file-{index}.yaml"), text: (*text).to_owned() })
        .collect();
    let mut messages = look(input::load(&inputs).unwrap(), &Settings::default(), false);
    for message in &mut messages {
        message.location = message.location.take().map(|location| input::as_written(&location, &inputs));
    }
    messages
}

#[track_caller]
fn codes_of(manifests: &str) -> Vec<(&'static str, String)> {
    messages(&[manifests]).into_iter().map(|it| (it.code, it.object.unwrap_or_default())).collect()
}

const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
---
";

#[test]
fn what_is_well_is_not_told_of() {
    assert_eq!(codes_of(SHOP), []);
    assert_eq!(shown(&[], false), "Nothing is wrong.\n");
}

#[test]
fn each_trouble_has_its_code() {
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let route = |spec: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let network = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let waypoint = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\n\
                    spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\n";
    let behind = |policy: String| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: api, namespace: shop, labels: {{istio.io/use-waypoint: way}}}}\n\
             spec: {{clusterIP: 10.96.0.2, selector: {{app: api}}, ports: [{{port: 80}}]}}\n---\n{waypoint}{policy}"
        )
    };
    let principals = |list: &str| {
        policy(&format!(
            "{{selector: {{matchLabels: {{app: api}}}}, rules: [{{from: [{{source: {{principals: [{list}]}}}}]}}]}}"
        ))
    };
    let virtual_service = |host: &str, gateways: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: it, namespace: shop}}\n\
             spec: {{{gateways}hosts: [{host}], http: [{{route: [{{destination: {{host: {host}}}}}]}}]}}\n"
        )
    };
    let destination_rule = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: it, namespace: shop}}\n\
             spec: {{host: {host}, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}}}}}}}\n"
        )
    };
    let way = "cluster.local/ns/shop/sa/way";
    let pod = |ready: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: way-0, namespace: shop, labels: {{gateway.networking.k8s.io/gateway-name: way}}}}\n\
             spec: {{containers: []}}\nstatus: {{podIP: 10.0.0.9, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
        )
    };
    let authentication = |said: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: it, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: \"\", kind: Service, name: web}}], jwtRules: [{{issuer: a, jwksUri: \"https://a.example/k\"}}]}}\n\
             status: {{conditions: [{{type: WaypointAccepted, status: \"False\", message: \"{said}\"}}]}}\n"
        )
    };
    let it = "AuthorizationPolicy shop/it";
    let route_it = "HTTPRoute shop/it";
    let to_web = "parentRefs: [{group: \"\", kind: Service, name: web}]";
    for (manifests, code, object) in [
        (policy("{action: MAYBE}"), "FW0001", it),
        (
            "apiVersion: networking.istio.io/v1\nkind: EnvoyFilter\nmetadata: {name: it, namespace: shop}\nspec: {}\n".to_owned(),
            "FW0002",
            "EnvoyFilter it",
        ),
        (policy("{rules: [{to: [{operation: {ports: [http]}}]}]}"), "FW0101", it),
        (policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}"), "FW0102", it),
        (policy("{targetRefs: [{group: \"\", kind: Service, name: web}]}"), "FW0103", it),
        (policy("{action: AUDIT, rules: [{}]}"), "FW0104", it),
        (behind(principals("cluster.local/ns/shop/sa/client")), "FW0105", it),
        (route("{parentRefs: [{group: \"\", kind: Service, name: none}]}"), "FW0201", route_it),
        (route(&format!("{{{to_web}, rules: [{{backendRefs: [{{name: none, port: 80}}]}}]}}")), "FW0203", route_it),
        (route(&format!("{{{to_web}, rules: [{{filters: [{{type: ExtensionRef}}]}}]}}")), "FW0204", route_it),
        (route(&format!("{{{to_web}}}")), "FW0206", route_it),
        (virtual_service("web", ""), "FW0206", "VirtualService shop/it"),
        (virtual_service("web.shop.svc.cluster.local", "gateways: [edge, mesh], "), "FW0206", "VirtualService shop/it"),
        (destination_rule("web"), "FW0206", "DestinationRule shop/it"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop, labels: {istio.io/use-waypoint: none-such}}\n\
             spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n".to_owned(),
            "FW0301",
            "Service shop/api",
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: it, namespace: shop}\n\
             spec: {targetRefs: [{group: \"\", kind: Service, name: web}]}\n"
                .to_owned(),
            "FW0302",
            "BackendTLSPolicy shop/it",
        ),
        // The pods are those that the Deployment will make.
        (network("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}"), "FW0401", "NetworkPolicy shop/it"),
        (
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: agent, namespace: shop}\n\
             spec: {template: {metadata: {labels: {app: agent}}, spec: {hostNetwork: true, containers: []}}}\n".to_owned(),
            "FW0501",
            "Pod shop/agent",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: street, labels: {istio.io/dataplane-mode: ambiant}}\n".to_owned(),
            "FW0502",
            "Namespace street",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: street, labels: {istio.io/dataplane-mode: ambient, istio-injection: enabled}}\n"
                .to_owned(),
            "FW0503",
            "Namespace street",
        ),
        (policy("{rules: [{from: [{source: {namespaces: [gone]}}]}]}"), "FW0504", it),
        (format!("{waypoint}{}", pod("False")), "FW0303", "Gateway shop/way"),
        (waypoint.replace("fairway-waypoint", "fairway-wapoint"), "FW0304", "Gateway shop/way"),
        (authentication("10.0.0.1: Connection refused; tokens of this issuer are refused"), "FW0106", "RequestAuthentication shop/it"),
    ] {
        let told = codes_of(&format!("{SHOP}{manifests}"));
        assert!(told.contains(&(code, object.to_owned())), "{code} is not told: {told:?} of {manifests}");
    }
    // The negative twins of what is decided here.
    for (manifests, code) in [
        (behind(principals(&format!("cluster.local/ns/shop/sa/client, {way}"))), "FW0105"),
        (behind(principals("\"*\"")), "FW0105"),
        (network("{podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 15008}]}]}"), "FW0401"),
        (network("{podSelector: {matchLabels: {app: other}}}"), "FW0401"),
        (behind(virtual_service("api", "")), "FW0206"),
        (behind(destination_rule("api")), "FW0206"),
        // As the mesh does it anyway.
        (
            destination_rule("web").replace("connectionPool: {tcp: {maxConnections: 1}}", "tls: {mode: ISTIO_MUTUAL}"),
            "FW0206",
        ),
        (virtual_service("web", "gateways: [edge], "), "FW0206"),
        // No file says that its waypoint is ready.
        (behind(virtual_service("api", "")), "FW0301"),
        (policy("{rules: [{from: [{source: {namespaces: [shop, \"other-*\"]}}]}]}"), "FW0504"),
        (format!("{waypoint}{}", pod("True")), "FW0303"),
        (waypoint.to_owned(), "FW0303"),
        (waypoint.to_owned(), "FW0304"),
        (waypoint.replace("fairway-waypoint", "istio-waypoint"), "FW0304"),
        (waypoint.replace("fairway-waypoint", "istio-remote"), "FW0304"),
        (authentication("accepted as written, for enforcement at waypoints"), "FW0106"),
    ] {
        let told = codes_of(&format!("{SHOP}{manifests}"));
        assert!(!told.iter().any(|(known, _)| *known == code), "{code} is told: {told:?} of {manifests}");
    }
}

#[test]
fn nothing_is_said_of_identities_while_the_trust_domain_is_unknown() {
    let manifests = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop, labels: {istio.io/use-waypoint: way}}\n\
        spec: {clusterIP: 10.96.0.2, selector: {app: api}, ports: [{port: 80}]}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\n\
        spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\n\
        apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: it, namespace: shop}\n\
        spec: {selector: {matchLabels: {app: api}}, rules: [{from: [{source: {principals: [td/ns/shop/sa/way]}}]}]}\n";
    let text = format!("{SHOP}{manifests}");
    // Where clients behind a waypoint count by themselves, it need not be named.
    for (trust_domain, clients_count, expected) in
        [("cluster.local", false, true), ("td", false, false), ("", false, false), ("cluster.local", true, false)]
    {
        let loaded = input::load(&[Input { name: "a.yaml".to_owned(), text: text.clone() }]).unwrap();
        let settings = Settings { trust_domain: trust_domain.to_owned(), ..Settings::default() };
        let is_said = look(loaded, &settings, clients_count).iter().any(|message| message.code == "FW0105");
        assert_eq!(is_said, expected, "{trust_domain:?} {clients_count}");
    }
}

#[test]
fn messages_name_file_line_and_field_as_the_user_knows_them() {
    let broken = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: it, namespace: shop}\nspec:\n  action: MAYBE\n";
    let told = messages(&[SHOP, broken]);
    // The second one says what holds in its place.
    let [message, _] = told.as_slice() else { panic!("{told:?}") };
    let location = message.location.as_deref().unwrap_or_default();
    assert!(location.starts_with("file-1.yaml:5"), "{location}");
    assert_eq!(message.field.as_deref(), Some("spec.action"));
    let text = shown(&told, false);
    assert!(text.contains("error FW0001 Unreadable AuthorizationPolicy shop/it\n    at file-1.yaml:5"), "{text}");
    assert!(text.contains("2 errors, 0 warnings, 0 notes; "), "{text}");
}

#[test]
fn clients_behind_waypoints_count_where_all_node_proxies_say_so() {
    let says = |domain: &str, counts: bool| {
        Some(serde_json::json!({"config": {"trustDomain": domain, "clientsBehindWaypoints": counts}}))
    };
    let older = || Some(serde_json::json!({"config": {"trustDomain": "td"}}));
    let rows = [
        (vec![], None),
        (vec![None, None], None),
        (vec![says("td", true), None, says("td", true)], Some(("td", true))),
        (vec![says("td", true), says("td", false)], Some(("td", false))),
        (vec![None, says("td", true), older()], Some(("td", false))),
        // What says no trust domain says nothing.
        (vec![says("", false), says("td", true)], Some(("td", true))),
        (vec![None, None, None, says("td", true)], None),
    ];
    for (dumps, expected) in rows {
        let found = said_by_all(dumps.clone());
        assert_eq!(found.as_ref().map(|(domain, counts)| (domain.as_str(), *counts)), expected, "{dumps:?}");
    }
}

#[test]
fn files_beside_a_mesh_see_what_it_has_and_take_its_place() {
    let mesh = input::load(&[Input { name: "mesh".to_owned(), text: SHOP.to_owned() }]).unwrap();
    let route = |backend: &str| Input {
        name: "route.yaml".to_owned(),
        text: format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: it, namespace: shop}}\n\
             spec: {{parentRefs: [{{group: \"\", kind: Service, name: web}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}\n"
        ),
    };
    for (backend, expected) in [("web", false), ("none", true)] {
        let loaded = input::beside(mesh.clone(), &[route(backend)]);
        let found = look(loaded, &Settings::default(), true).iter().any(|message| message.code == "FW0203");
        assert_eq!(found, expected, "{backend}");
    }
}

#[test]
fn a_waypoint_that_the_mesh_has_is_as_it_is_there() {
    let waypoint = |status: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: way, namespace: shop}}\n\
             spec: {{gatewayClassName: fairway-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n{status}"
        )
    };
    let bound = SHOP
        .replace("{name: web, namespace: shop}", "{name: web, namespace: shop, labels: {istio.io/use-waypoint: way}}");
    let input = |text: String| Input { name: "a.yaml".to_owned(), text };
    for (status, expected) in [("", true), ("status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}\n", false)] {
        let mesh = input::load(&[input(bound.clone())]).unwrap();
        // As a controller reads it, and not as files are.
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.yaml"), format!("{bound}{}", waypoint(status))).unwrap();
        let live = fairway_core::source::directory::load(directory.path(), None);
        let missing =
            |loaded: Loaded| look(loaded, &Settings::default(), true).iter().any(|message| message.code == "FW0301");
        assert_eq!(missing(input::beside(live, &[input(waypoint(""))])), expected, "{status:?}");
        assert!(!missing(input::beside(mesh, &[input(waypoint(""))])), "it will be made");
    }
}

#[test]
fn nothing_is_wrong_with_the_samples() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/samples"));
    let all = input::read(&[folder.to_string_lossy().into_owned()]).unwrap();
    let (base, samples): (Vec<_>, Vec<_>) = all.into_iter().partition(|input| input.name.ends_with("harbour.yaml"));
    assert!(base.len() == 1 && samples.len() > 5, "{samples:?}");
    // As their README says.
    let bound = |input: &Input| {
        let text = ["pilots", "ships"].iter().fold(input.text.clone(), |text, name| {
            let head = format!("kind: Service\nmetadata: {{name: {name}, namespace: harbour, labels: {{");
            assert!(text.contains(&head), "{text}");
            text.replace(&head, &format!("{head}istio.io/use-waypoint: waypoint, "))
        });
        Input { name: input.name.clone(), text }
    };
    for (files, worst) in [
        ([&base[..], &samples].concat(), Threshold::Error),
        ([vec![bound(&base[0])], samples.clone()].concat(), Threshold::Warning),
    ] {
        let told = look(input::load(&files).unwrap(), &Settings::default(), false);
        assert!(!told.iter().any(|message| worst.is_met_by(message.severity)), "{}", shown(&told, false));
    }
}

#[test]
fn every_code_is_unique_and_has_a_section() {
    let page = include_str!("../../../docs/guides/analyze.md");
    let mut seen = BTreeSet::new();
    for code in codes::ALL {
        assert!(seen.insert(code.code), "{} is there twice", code.code);
        let section = format!("\n### {}\n", code.code);
        assert!(page.contains(&section), "{PAGE} has no section {}", code.code);
        let about = page.split(&section).nth(1).unwrap_or_default().split("\n#").next().unwrap_or_default();
        assert!(about.contains(code.name), "{PAGE} does not call {} {}", code.code, code.name);
    }
}

#[test]
fn the_exit_code_follows_the_threshold() {
    for (threshold, severity, expected) in [
        (Threshold::Error, Severity::Error, true),
        (Threshold::Error, Severity::Warning, false),
        (Threshold::Warning, Severity::Warning, true),
        (Threshold::Warning, Severity::Info, false),
        (Threshold::Info, Severity::Info, true),
        (Threshold::Never, Severity::Error, false),
    ] {
        assert_eq!(threshold.is_met_by(severity), expected, "{threshold:?} {severity:?}");
    }
}

#[test]
fn a_mesh_configuration_that_cannot_be_used_is_told_and_so_is_a_part_of_one() {
    let odd = mesh::read("extensionProviders: [{name: a, envoyExtAuthzGrp: {service: a.b, port: 1}}]").unwrap();
    for (mesh, broken, expected) in [
        (mesh::Mesh::default(), None, None),
        (mesh::Mesh::default(), Some("no YAML".to_owned()), Some(("FW0003", "no YAML"))),
        (odd, None, Some(("FW0004", "envoyExtAuthzGrp"))),
    ] {
        let told = of_mesh(&mesh, broken);
        let told: Vec<_> = told.iter().map(|it| (it.code, it.message.as_str())).collect();
        match expected {
            None => assert_eq!(told, []),
            Some((code, part)) => assert!(told.len() == 1 && told[0].0 == code && told[0].1.contains(part), "{told:?}"),
        }
    }
}
