//! Stock Envoy in the place of a waypoint: takes the listeners that stand before services, and refuses what policies refuse.
//!
//! Which service a connection is for is said by a PROXY header, as Envoy has no tunnels here; so no peer has an identity.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::envoy::{Envoy, backend, exchange, parts, start, type_of};
use super::{Mesh, environment};
use crate::{PATIENCE, token};

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
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: guarded}]
  jwtRules:
  - {issuer: users.example, audiences: [web], jwks: 'KEYS', outputClaimToHeaders: [{header: x-subject, claim: sub}]}
  - {issuer: lost.example, jwksUri: "http://127.0.0.1:1/keys"}
---
apiVersion: v1
kind: Service
metadata: {name: judge, namespace: shop}
spec: {clusterIP: 10.96.0.4, selector: {app: web}, ports: [{name: http, port: 80, targetPort: PORT}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec: {clusterIP: 10.96.0.5, selector: {app: none}, ports: [{name: grpc, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: free}]
  action: CUSTOM
  provider: {name: judge}
  rules: [{to: [{operation: {paths: [/asked], ports: ["80"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-nobody, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: free}]
  action: CUSTOM
  provider: {name: nobody}
  rules: [{to: [{operation: {paths: [/lost], ports: ["80"]}}]}]
---
apiVersion: fairway.dev/v1alpha1
kind: RateLimit
metadata: {name: each, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: free}]
  limits:
  - {requests: 2, period: 24h, by: [{type: Header, name: x-user}]}
  - {requests: 1000000, period: 1s, by: [{type: Client}, {type: Address}]}
---
apiVersion: fairway.dev/v1alpha1
kind: RateLimit
metadata: {name: shared, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: odd}]
  global: {provider: limiter, descriptors: [{entries: [{key: plan, value: free}, {key: user, from: {type: Header, name: x-count}}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: seen, namespace: shop, labels: {istio.io/use-waypoint: client}}
spec: {clusterIP: 10.96.0.6, selector: {app: web}, ports: [{name: http, port: 80, targetPort: PORT}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: seen, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: seen}], rules: [{matches: [{path: {value: /seen}}], backendRefs: [{name: seen, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: unseen, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: seen}], rules: [{backendRefs: [{name: seen, port: 80}]}]}
---
apiVersion: fairway.dev/v1alpha1
kind: ExternalProcessor
metadata: {name: seen, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: seen}]
  provider: processor
  processingMode: {requestBody: BUFFERED, responseBody: STREAMED, responseTrailers: SEND}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: odd, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: odd}]
  tracing: [{providers: [{name: collector}], randomSamplingPercentage: 12.5, customTags: {a: {literal: {value: b}}, c: {header: {name: x-c}}}}]
  accessLogging: [{filter: {expression: "connection.mtls && response.code >= 400"}}]
  metrics: [{overrides: [{tagOverrides: {host: {value: source.workload.name}, source_app: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE}, disabled: true}]}]
---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop, labels: {istio.io/use-waypoint: client}}
spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{name: http, port: 80, targetPort: PORT}, {name: tls, port: 443, targetPort: PORT}, {name: tcp, port: 81, targetPort: PORT}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: odd, namespace: shop}
spec:
  hosts: [odd]
  http:
  - match: [{uri: {prefix: /fails}}]
    fault: {delay: {fixedDelay: 0.01s, percentage: {value: 100}}, abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: odd}}]
  - match: [{uri: {prefix: /pages}}]
    corsPolicy: {allowOrigins: [{exact: "https://a.example"}], allowMethods: [GET], unmatchedPreflights: IGNORE}
    route: [{destination: {host: odd}}]
  - match: [{uri: {prefix: /says}}]
    directResponse: {status: 203, body: {string: itself}}
  - route: [{destination: {host: odd, subset: web}, weight: 1}, {destination: {host: odd, subset: none}, weight: 0}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: odd, namespace: shop}
spec:
  host: odd
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 9, connectTimeout: 1s, maxConnectionDuration: 1h, idleTimeout: 1h, tcpKeepalive: {time: 60s, interval: 5s, probes: 2}}, http: {idleTimeout: 60s, maxRequestsPerConnection: 10, maxRetries: 1}}
    outlierDetection: {consecutive5xxErrors: 4, consecutiveGatewayErrors: 0, interval: 1s, splitExternalLocalOriginErrors: true, minHealthPercent: 10}
    loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {}}}
  subsets:
  - {name: web, labels: {app: web}, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 1h, path: /}, ringHash: {minimumRingSize: 16}}}}}
  - {name: none, labels: {app: none}, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}
  - {name: any, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: odd, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: odd, port: 443}], hostnames: [a.example, "*.a.example"], rules: [{backendRefs: [{name: free, port: 81}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: odd, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: odd, port: 81}], rules: [{backendRefs: [{name: free, port: 81, weight: 2}, {name: odd, port: 81}]}]}
"#;

/// The public half of a key as a set of keys (RFC 7518 §6.2.1).
fn keys(key: &KeyPair) -> String {
    let point = key.public_key_raw();
    let half = |from: usize| URL_SAFE_NO_PAD.encode(&point[from..from + 32]);
    json!({"keys": [{"kty": "EC", "crv": "P-256", "x": half(1), "y": half(33)}]}).to_string()
}

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
    let key = KeyPair::generate().unwrap();
    let mesh = Mesh::start(environment, &MANIFESTS.replace("KEYS", &keys(&key)));
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
    // Every listener is taken, or Envoy's log says which is not.
    let log = std::fs::read_to_string(mesh.path("envoy.log")).unwrap_or_default();
    assert_eq!(envoy.stat("update_rejected").await, 0, "{log}");
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
    let bearer = |change: &dyn Fn(&mut Value)| {
        let token = token(&key, |claims| {
            (claims["iss"], claims["aud"]) = (json!("users.example"), json!(["web"]));
            change(claims);
        });
        format!("Authorization: Bearer {token}\r\nx-subject: forged\r\n")
    };
    for (what, headers, expected) in [
        ("a token", bearer(&|_| {}), 200),
        ("for others", bearer(&|claims| claims["aud"] = json!("other")), 403),
        ("by others", bearer(&|claims| claims["iss"] = json!("nobody.example")), 401),
        ("by who has no keys", bearer(&|claims| claims["iss"] = json!("lost.example")), 401),
        ("too late", bearer(&|claims| claims["exp"] = json!(1)), 401),
        ("no token at all", "Authorization: Bearer a.b.c\r\n".to_owned(), 401),
    ] {
        let (status, body) = ask(&envoy, "10.96.0.1", 80, "GET /token", &headers).await.unwrap();
        assert_eq!(status, expected, "{what}: {body}");
        assert!(
            status != 200 || body.contains("\"x-subject\":\"system:") && !body.contains("Bearer"),
            "{what}: {body}"
        );
    }
    // A forged claim goes nowhere, token or not.
    let (_, body) = ask(&envoy, "10.96.0.1", 80, "GET /open/a", "x-subject: forged\r\n").await.unwrap();
    assert!(!body.contains("forged"), "{body}");
    for (what, request, headers, expected, words) in [
        ("a failure on purpose", "GET /fails", "", 418, ""),
        ("an answer of its own", "GET /says", "", 203, "itself"),
        ("what is asked of one part", "GET /other", "", 200, "web"),
        (
            "another origin",
            "OPTIONS /pages",
            "Origin: https://b.example\r\nAccess-Control-Request-Method: GET\r\n",
            200,
            "",
        ),
    ] {
        let (status, body) = ask(&envoy, "10.96.0.3", 80, request, headers).await.unwrap();
        assert_eq!(status, expected, "{what}: {body}");
        assert!(body.contains(words), "{what}: {body}");
    }
    let trace = "00-0af7651916cd43dd8448eb211c80319c";
    let parent = format!("{trace}-00f067aa0ba902b7-00");
    let (status, body) = ask(&envoy, "10.96.0.3", 80, "GET /", &format!("traceparent: {parent}\r\n")).await.unwrap();
    assert!(status == 200 && body.contains(trace) && !body.contains(&parent), "a trace goes on: {body}");
    let counted = ask(&envoy, "10.96.0.3", 80, "GET /", "x-count: a\r\n").await.unwrap();
    assert_eq!(counted.0, 503, "nobody counts: {}", counted.1);
    for (path, expected) in [("/seen", 502), ("/unseen", 200)] {
        let (status, body) = ask(&envoy, "10.96.0.6", 80, &format!("GET {path}"), "").await.unwrap();
        assert_eq!(status, expected, "{path}, which nobody is there to see: {body}");
    }
    for (user, expected) in [("a", 200), ("a", 200), ("a", 429), ("b", 200), ("b", 200), ("b", 429)] {
        let headers = format!("x-user: {user}\r\n");
        let (status, body) = ask(&envoy, "10.96.0.2", 80, "GET /", &headers).await.unwrap();
        assert_eq!(status, expected, "{user}, counted by itself: {body}");
    }
    assert!(matches!(ask(&envoy, "10.96.0.2", 80, "GET /", "").await, Some((200, _))), "no limit is about it");
    for (path, expected) in [("/asked", 200), ("/lost", 403)] {
        let (status, body) = ask(&envoy, "10.96.0.2", 80, &format!("GET {path}"), "").await.unwrap();
        assert_eq!(status, expected, "{path}: {body}");
        assert!(!body.contains("RBAC"), "it is no rule that refuses {path}: {body}");
    }
    assert!(matches!(ask(&envoy, "10.96.0.3", 81, "GET /a", "").await, Some((200, _))));
    assert_eq!(ask(&envoy, "10.96.0.3", 443, "GET /a", "").await, None, "who asks for no name");
    // Who is not looked into is allowed nothing that a request would have to show.
    assert_eq!(ask(&envoy, "10.96.0.1", 81, "GET /open/a", "").await, None);
    assert!(matches!(ask(&envoy, "10.96.0.2", 81, "GET /a", "").await, Some((200, _))));
    assert_eq!(envoy.stat("update_rejected").await, 0);
    let page = mesh.page("/debug/syncz").await;
    let types = page["proxies"][0]["types"].as_object().unwrap();
    assert!(types.len() >= 4 && types.values().all(|status| status["nacked"].is_null()), "{page}");
}
