//! What the lab holds: a client, a server, and for each waypoint a service bound to it and one with routes and policies.

use std::net::{IpAddr, Ipv4Addr};

use super::authority::ISSUER;
use super::stage::NAMES;
use crate::sink::{BODIES_PORT, BODIES2_PORT, ECHO_PORT, HTTP_PORT, HTTP2_PORT};

/// The namespace of all.
pub(super) const NAMESPACE: &str = "mesh";
/// Ports of services: requests over HTTP/1.1 and HTTP/2, gRPC calls, and bytes that nobody looks into.
pub(super) const HTTP: u16 = 80;
/// See [`HTTP`].
pub(super) const HTTP2: u16 = 81;
/// See [`HTTP`].
pub(super) const GRPC: u16 = 82;
/// See [`HTTP`].
pub(super) const ECHO: u16 = 83;
/// Port of the service with routes and policies, over HTTP/1.1.
pub(super) const RICH: u16 = 84;
/// Ports for long bodies, over HTTP/1.1 and HTTP/2, and over HTTP/1.1 with a route that has failed requests tried again.
pub(super) const BODIES: u16 = 85;
/// See [`BODIES`].
pub(super) const BODIES2: u16 = 86;
/// See [`BODIES`].
pub(super) const RETRIED: u16 = 87;
/// Where each port leads.
pub(super) const TARGETS: [(u16, &str, u16); 8] = [
    (HTTP, "http", HTTP_PORT),
    (HTTP2, "http2", HTTP2_PORT),
    (GRPC, "grpc", HTTP2_PORT),
    (ECHO, "tcp", ECHO_PORT),
    (RICH, "http-rich", HTTP_PORT),
    (BODIES, "http-bodies", BODIES_PORT),
    (BODIES2, "http2-bodies", BODIES2_PORT),
    (RETRIED, "http-retried", BODIES_PORT),
];
/// Port of each of many services.
pub(super) const CROWD_PORT: u16 = 80;
/// Rules of routes: of ten routes, ten each.
pub(super) const ROUTES: usize = 100;
/// How often a request is tried again where it is.
pub(super) const ATTEMPTS: u32 = 3;
/// Policies that deny, and as many that allow.
pub(super) const POLICIES: usize = 10;
/// What the last of the routes and the last of the policies is for.
pub(super) const LAST_PATH: &str = "/route-99/item";

/// Name of the service of a waypoint, and of its service with routes and policies.
pub(super) fn service(waypoint: &str, port: u16) -> String {
    if port == RICH { format!("{waypoint}-rich") } else { waypoint.to_owned() }
}

/// Client, server and services.
pub(super) fn world(bench: &str, keys: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{istio.io/dataplane-mode: ambient}}}}\n"
    );
    text.push_str(&pod("client", "node-1", "", "command: [sleep, infinity]"));
    text.push_str(&pod("server", "node-2", "", &format!("command: [\"{bench}\", sink]")));
    for waypoint in NAMES {
        for (name, is_rich) in [(service(waypoint, HTTP), false), (service(waypoint, RICH), true)] {
            let ports: Vec<String> = TARGETS
                .iter()
                .filter(|(port, ..)| (*port == RICH) == is_rich)
                .map(|(port, name, target)| format!("{{name: {name}, port: {port}, targetPort: {target}}}"))
                .collect();
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Service\n\
                 metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{istio.io/use-waypoint: {waypoint}}}}}\n\
                 spec: {{selector: {{app: server}}, ports: [{}]}}\n",
                ports.join(", ")
            ));
        }
    }
    let name = service(NAMES[1], RETRIED);
    text.push_str(&format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: retried, namespace: {NAMESPACE}}}\n\
         spec: {{parentRefs: [{{group: \"\", kind: Service, name: {name}, port: {RETRIED}}}], \
         rules: [{{retry: {{attempts: {ATTEMPTS}, codes: [503]}}, backendRefs: [{{name: {name}, port: {RETRIED}}}]}}]}}\n"
    ));
    let name = service(NAMES[1], RICH);
    for route in 0..ROUTES / 10 {
        let rules: Vec<String> = (route * 10..route * 10 + 10)
            .map(|rule| {
                format!(
                    "{{matches: [{{path: {{type: PathPrefix, value: /route-{rule}}}}}], backendRefs: [{{name: {name}, port: {RICH}}}]}}"
                )
            })
            .collect();
        text.push_str(&format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: route-{route}, namespace: {NAMESPACE}}}\n\
             spec: {{parentRefs: [{{group: \"\", kind: Service, name: {name}}}], rules: [{}]}}\n",
            rules.join(", ")
        ));
    }
    for number in 0..POLICIES {
        let deny = format!("{{to: [{{operation: {{paths: [\"/secret-{number}/*\"], methods: [PUT, DELETE]}}}}]}}");
        let allow = format!(
            "{{from: [{{source: {{requestPrincipals: [\"{ISSUER}/*\"]}}}}], to: [{{operation: {{paths: [\"/route-{number}*\"]}}}}]}}"
        );
        for (action, rule) in [("DENY", deny), ("ALLOW", allow)] {
            text.push_str(&format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: {}-{number}, namespace: {NAMESPACE}}}\n\
                 spec: {{targetRefs: [{{group: \"\", kind: Service, name: {name}}}], action: {action}, rules: [{rule}]}}\n",
                action.to_lowercase()
            ));
        }
    }
    text.push_str(&format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: users, namespace: {NAMESPACE}}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: {name}}}], \
         jwtRules: [{{issuer: {ISSUER}, forwardOriginalToken: true, jwks: '{keys}'}}]}}\n"
    ));
    text
}

/// The pods of both waypoints, the first of which is Envoy.
pub(super) fn waypoints(envoy: &str, configuration: &str, controller: &str, root: &str) -> String {
    let [envoy_name, own] = NAMES;
    let uncaptured = ", istio.io/dataplane-mode: none";
    let ready = "readinessProbe: {tcpSocket: {port: 15008}}";
    let command = format!(
        "command: [\"{envoy}\", --config-path, {configuration}, --use-dynamic-base-id, --concurrency, \"1\", --log-level, warn]\n    {ready}"
    );
    let variable = |name: &str, value: &str| format!("{{name: {name}, value: \"{value}\"}}");
    let field = |name: &str, path: &str| format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}");
    let variables = [
        variable("XDS_ADDRESS", controller),
        variable("XDS_ROOT_CA", root),
        variable("CA_ROOT_CA", root),
        variable("AUTH_TOKEN", "/var/run/secrets/token/token"),
        variable("GATEWAY_NAME", own),
        variable("SERVICE_ACCOUNT", own),
        variable("POD_NAMESPACE", NAMESPACE),
        variable("WAYPOINT_WORKER_THREADS", "1"),
        field("POD_NAME", "metadata.name"),
        field("NODE_NAME", "spec.nodeName"),
        field("INSTANCE_IP", "status.podIP"),
    ];
    let container = format!(
        "image: fairway/waypoint\n    env: [{}]\n    \
         readinessProbe: {{httpGet: {{path: /healthz/ready, port: 15021}}}}\n    \
         volumeMounts: [{{name: token, mountPath: /var/run/secrets/token}}]\n  \
         volumes: [{{name: token, projected: {{sources: [{{serviceAccountToken: {{audience: istio-ca, expirationSeconds: 43200, path: token}}}}]}}}}]",
        variables.join(", ")
    );
    let labels = |name: &str| format!("{uncaptured}, gateway.networking.k8s.io/gateway-name: {name}");
    [pod(envoy_name, "node-2", &labels(envoy_name), &command), pod(own, "node-2", &labels(own), &container)].concat()
}

/// The waypoints as such, of a class whose pods are not made by the controller.
pub(super) fn gateways(addresses: &[(&str, IpAddr)]) -> String {
    let gateway = |(name, address): &(&str, IpAddr)| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
             metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{istio.io/waypoint-for: service}}}}\n\
             spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n\
             status: {{addresses: [{{type: IPAddress, value: {address}}}]}}\n"
        )
    };
    addresses.iter().map(gateway).collect()
}

/// Name of one of many services.
pub(super) fn crowd_name(number: u32) -> String {
    format!("crowd-{number}")
}

/// Its address, which nothing else in a lab has.
pub(super) fn crowd_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + number)
}

/// So many services of our waypoint. They are entries with addresses of their own: for Services each node of the lab would write
/// rules of what stands for kube-proxy, which is not what is measured.
pub(super) fn crowd(services: u32) -> String {
    let waypoint = NAMES[1];
    (0..services)
        .map(|number| {
            let (name, address) = (crowd_name(number), crowd_address(number));
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
                 metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{istio.io/use-waypoint: {waypoint}}}}}\n\
                 spec:\n  hosts: [{name}.example.com]\n  addresses: [{address}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
                 ports: [{{name: http, number: {CROWD_PORT}, protocol: HTTP, targetPort: {HTTP_PORT}}}]\n  \
                 workloadSelector: {{labels: {{app: server}}}}\n"
            )
        })
        .collect()
}

fn pod(name: &str, node: &str, labels: &str, container: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         ---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{app: {name}{labels}}}}}\n\
         spec:\n  nodeName: {node}\n  serviceAccountName: {name}\n  containers:\n  - name: main\n    {container}\n"
    )
}
