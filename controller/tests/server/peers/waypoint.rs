//! Stock Envoy in the place of a waypoint: takes the listeners that stand before services, and refuses what policies refuse.
//!
//! Which service a connection is for is said by a PROXY header, as Envoy has no tunnels here; so no peer has an identity.

use std::time::Instant;

use serde_json::{Value, json};

use super::envoy::{Envoy, backend, exchange, parts, start, type_of};
use super::{Mesh, environment};
use crate::PATIENCE;

const MANIFESTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: client, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{value: 10.96.0.9}]}
---
apiVersion: v1
kind: Service
metadata: {name: guarded, namespace: shop, labels: {istio.io/use-waypoint: client}}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: PORT}, {name: tcp, port: 81, targetPort: PORT}]
---
apiVersion: v1
kind: Service
metadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: client}}
spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{name: tcp, port: 81, targetPort: PORT}, {name: http, port: 80, targetPort: PORT}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: uid-web, labels: {app: web}}
spec: {nodeName: z1, containers: [{name: c, image: none}]}
status: {phase: Running, podIP: PREFIX.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: guarded}]
  rules:
  - to: [{operation: {methods: [GET], paths: ["/open/*", "/items/{*}/price"]}}]
  - to: [{operation: {paths: [/role]}}]
    when: [{key: "request.headers[x-role]", values: [admin]}]
  - to: [{operation: {paths: [/host], hosts: [ANY.example]}}, {operation: {paths: [/other], hosts: [other.example]}}]
  - from: [{source: {principals: ["*"]}}]
    to: [{operation: {paths: [/peer]}}]
  - from: [{source: {requestPrincipals: ["*"]}}]
    to: [{operation: {paths: [/token]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: shop}
spec:
  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: client}]
  action: DENY
  rules: [{from: [{source: {notIpBlocks: [0.0.0.0/0]}}], to: [{operation: {notPorts: ["80"]}}]}, {to: [{operation: {paths: [/open/secret], ports: ["80"]}}]}]
"#;

/// A listener that hands connections on to who stands at the address in their PROXY header.
fn listener() -> Value {
    let nowhere =
        json!({"@type": type_of("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "in", "cluster": "none"});
    json!({
        "name": "in", "use_original_dst": true,
        "listener_filters": [{
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": {"@type": type_of("filters.listener.proxy_protocol.v3.ProxyProtocol")},
        }],
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": nowhere}]}],
    })
}

/// Status and body of the answer to a request to a service; nothing where the connection ends without one.
async fn ask(envoy: &Envoy, to: &str, port: u16, request: &str, headers: &str) -> Option<(u16, String)> {
    let text = format!(
        "PROXY TCP4 10.0.0.7 {to} 4000 {port}\r\n{request} HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n{headers}\r\n"
    );
    let (status, _, body) = parts(&exchange(envoy.listener, &text).await?)?;
    Some((status, body))
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_stands_before_services_and_enforces_their_policies() {
    let Some(environment) = environment("Envoy") else { return };
    let mesh = Mesh::start(environment, MANIFESTS);
    backend(format!("{}.1:{}", mesh.prefix, mesh.pod_port), "web").await;
    let envoy = start(&mesh, "waypoint~10.0.0.1~client.shop~shop.svc.cluster.local", listener());
    let start = Instant::now();
    loop {
        let found = ask(&envoy, "10.96.0.2", 80, "GET /", "").await;
        if matches!(found, Some((200, _))) {
            break;
        }
        let log = || std::fs::read_to_string(mesh.path("envoy.log")).unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "Envoy does not serve: {found:?}\n{}", log());
        tokio::task::yield_now().await;
    }
    let table = [
        ("allowed", "GET /open/a?b=c", "", 200),
        ("slashes are one", "GET //open/a", "", 200),
        ("another method", "POST /open/a", "", 403),
        ("another path", "GET /openly", "", 403),
        ("a template", "GET /items/7/price", "", 200),
        ("no template", "GET /items/7/8/price", "", 403),
        ("refused", "GET /open/secret", "", 403),
        ("refused by any of its names", "GET /open/x/../secret", "", 403),
        ("out of what is allowed", "GET /open/../role", "", 403),
        ("a header", "GET /role", "x-role: admin\r\n", 200),
        ("another header", "GET /role", "x-role: user\r\n", 403),
        ("no header", "GET /role", "", 403),
        ("a host", "GET /host", "", 200),
        ("another host", "GET /other", "", 403),
        ("nobody", "GET /peer", "", 403),
        ("no token", "GET /token", "", 403),
    ];
    for (what, request, headers, expected) in table {
        let (status, body) = ask(&envoy, "10.96.0.1", 80, request, headers).await.unwrap();
        assert_eq!(status, expected, "{what}: {body}");
        assert!(status == 200 || body.contains("RBAC: access denied"), "{what}: {body}");
    }
    // Who is not looked into is allowed nothing that a request would have to show.
    assert_eq!(ask(&envoy, "10.96.0.1", 81, "GET /open/a", "").await, None);
    assert!(matches!(ask(&envoy, "10.96.0.2", 81, "GET /a", "").await, Some((200, _))));
    assert_eq!(envoy.stat("update_rejected").await, 0);
    let page = mesh.page("/debug/syncz").await;
    let types = page["proxies"][0]["types"].as_object().unwrap();
    assert!(types.len() >= 4 && types.values().all(|status| status["nacked"].is_null()), "{page}");
}
