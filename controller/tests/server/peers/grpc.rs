//! gRPC's own xDS client, without any proxy: resolves, balances, splits, retries and fails over by what the controller says.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Mesh, Process, count, environment, route, service, until};

const ECHO: &str = "xds:///echo.shop.svc.cluster.local:7070";

/// A client in a pod of this namespace and zone.
fn client(mesh: &Mesh, namespace: &str, zone: &str) -> Process {
    let root = Path::new(&mesh.path("state/ca/root-cert.pem")).to_str().unwrap().to_owned();
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": format!("127.0.0.1:{}", mesh.port),
            "channel_creds": [{"type": "tls", "config": {"ca_certificate_file": root}}],
            "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": mesh.token(namespace)}}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": format!("client.{namespace}.{zone}"), "locality": {"region": "r", "zone": zone}},
    });
    let mut command: Command = mesh.python();
    command.arg("call").env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
    command.env("GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS", "true");
    Process::start(&mut command)
}

fn calls(client: &mut Process, method: &str, calls: u32) -> Value {
    client.order(&json!({"target": ECHO, "method": method, "calls": calls}))
}

fn say(client: &mut Process, number: u32) -> Value {
    calls(client, "/echo.Echo/Say", number)
}

/// Two versions: three pods of the first and one of the second.
fn versions() -> String {
    service("echo", "", &[(1, "one-a", "z1"), (2, "one-b", "z1"), (3, "one-c", "z2")])
        + &service("echo-two", "", &[(4, "two", "z1")])
}

const PODS: [(u8, &str); 4] = [(1, "one-a"), (2, "one-b"), (3, "one-c"), (4, "two")];

#[test]
fn a_client_of_grpc_resolves_and_balances() {
    let Some(environment) = environment("gRPC resolves and balances") else { return };
    let mesh = Mesh::start(environment, &versions());
    let _servers = mesh.serve(&PODS);
    let mut client = client(&mesh, "shop", "z1");
    // Connections come up one by one.
    let all = |counts: &Value| ["one-a", "one-b", "one-c"].iter().all(|name| count(counts, name) == 10);
    until(|| say(&mut client, 30), all);
    // A pod goes, another stays.
    mesh.apply("mesh.yaml", &service("echo", "", &[(2, "one-b", "z1")]));
    until(|| say(&mut client, 10), |counts| count(counts, "one-b") == 10);
}

#[test]
fn a_client_of_grpc_splits_by_weight_and_matches() {
    let Some(environment) = environment("gRPC splits by weight") else { return };
    let mesh = Mesh::start(environment, &versions());
    let _servers = mesh.serve(&PODS);
    let mut client = client(&mesh, "shop", "z1");
    until(|| say(&mut client, 10), |counts| count(counts, "two") == 0 && count(counts, "UNAVAILABLE") == 0);
    let split = "  - matches: [{headers: [{name: x-version, value: two}]}]\n    \
                 backendRefs: [{name: echo-two, port: 7070}]\n  \
                 - matches: [{method: {service: echo.Echo, method: Broken}}]\n    \
                 backendRefs: [{name: echo-two, port: 7070, weight: 1}, {name: missing, port: 1, weight: 1}]\n  \
                 - backendRefs: [{name: echo, port: 7070, weight: 3}, {name: echo-two, port: 7070, weight: 1}]\n";
    mesh.apply("route.yaml", &route("GRPCRoute", "shop", split));
    until(|| say(&mut client, 40), |counts| count(counts, "two") > 0);
    // Of 400 by chance one in four: five standard deviations (8.7) are 56 to 144.
    let counts = say(&mut client, 400);
    assert!((56..=144).contains(&count(&counts, "two")) && count(&counts, "UNAVAILABLE") == 0, "{counts}");
    let order = json!({"target": ECHO, "method": "/echo.Echo/Say", "calls": 20, "metadata": {"x-version": "two"}});
    assert_eq!(client.order(&order), json!({"two": 20}));
    // The share of a backend that does not exist is refused, and never goes to the other.
    let counts = calls(&mut client, "/echo.Echo/Broken", 200);
    assert!((64..=136).contains(&count(&counts, "UNAVAILABLE")), "{counts}");
    assert_eq!(count(&counts, "UNAVAILABLE") + count(&counts, "two"), 200, "{counts}");
}

/// Lets routes of the other namespace send requests to the second version.
const GRANT: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\n\
                     metadata: {name: others, namespace: shop}\n\
                     spec: {from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: other}], \
                     to: [{group: \"\", kind: Service, name: echo-two}]}\n";

#[test]
fn clients_of_grpc_have_the_routes_of_their_own_namespace() {
    let Some(environment) = environment("gRPC consumer routes") else { return };
    let mesh = Mesh::start(environment, &versions());
    let _servers = mesh.serve(&PODS);
    let (mut shop, mut other) = (client(&mesh, "shop", "z1"), client(&mesh, "other", "z1"));
    let to_two = "  - backendRefs: [{name: echo-two, namespace: shop, port: 7070}]\n";
    mesh.apply("route.yaml", &route("GRPCRoute", "other", to_two));
    // Another service of the same namespace is not what its clients dialled.
    until(|| say(&mut other, 10), |counts| count(counts, "UNAVAILABLE") == 10);
    mesh.apply("grant.yaml", GRANT);
    until(|| say(&mut other, 10), |counts| count(counts, "two") == 10);
    let counts = say(&mut shop, 30);
    assert_eq!((count(&counts, "two"), count(&counts, "UNAVAILABLE")), (0, 0), "{counts}");
}

#[test]
fn a_client_of_grpc_retries() {
    let Some(environment) = environment("gRPC retries") else { return };
    let mesh = Mesh::start(environment, &service("echo", "", &[(1, "one", "z1"), (2, "two", "z1")]));
    let _servers = mesh.serve(&[(1, "one"), (2, "two")]);
    let mut client = client(&mesh, "shop", "z1");
    // `one` answers this method with UNAVAILABLE: without a retry every second call fails.
    let failing = |client: &mut Process| calls(client, "/echo.Echo/one", 20);
    until(|| failing(&mut client), |counts| count(counts, "UNAVAILABLE") == 10 && count(counts, "two") == 10);
    let retry = "  - retry: {codes: [503], attempts: 3, backoff: 1ms}\n    backendRefs: [{name: echo, port: 7070}]\n";
    mesh.apply("route.yaml", &route("HTTPRoute", "shop", retry));
    until(|| failing(&mut client), |counts| count(counts, "two") == 20);
}

#[test]
fn a_client_of_grpc_fails_over_to_another_zone() {
    let Some(environment) = environment("gRPC fails over") else { return };
    let close = "  trafficDistribution: PreferSameZone\n";
    let pods = [(1, "near", "z1"), (2, "far", "z2")];
    let mesh = Mesh::start(environment, &service("echo", close, &pods));
    let near = mesh.serve(&[(1, "near")]);
    let _far = mesh.serve(&[(2, "far")]);
    let (mut here, mut there) = (client(&mesh, "shop", "z1"), client(&mesh, "shop", "z2"));
    until(|| say(&mut here, 10), |counts| count(counts, "near") == 10);
    until(|| say(&mut there, 10), |counts| count(counts, "far") == 10);
    // The controller knows nothing of it: the client finds out.
    drop(near);
    until(|| say(&mut here, 10), |counts| count(counts, "far") == 10);
    let _near = mesh.serve(&[(1, "near")]);
    until(|| say(&mut here, 10), |counts| count(counts, "near") == 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_of_grpc_holds_is_known() {
    let Some(environment) = environment("gRPC's acknowledgements") else { return };
    let mesh = Mesh::start(environment, &versions());
    let _servers = mesh.serve(&PODS);
    let mut client = client(&mesh, "shop", "z1");
    say(&mut client, 3);
    let start = std::time::Instant::now();
    loop {
        let page = mesh.page("/debug/syncz").await;
        let types = &page["proxies"][0]["types"];
        let names = ["Listener", "RouteConfiguration", "Cluster", "ClusterLoadAssignment"];
        let is_synced = |name: &str| {
            types.as_object().into_iter().flatten().any(|(url, status)| {
                url.ends_with(&format!(".{name}")) && status["acked"] == status["sent"] && status["nacked"].is_null()
            })
        };
        if names.into_iter().all(is_synced) {
            return;
        }
        assert!(start.elapsed() < super::PATIENCE, "{page}");
    }
}
