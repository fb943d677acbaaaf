//! One AuthorizationPolicy means the same to both evaluators: the node proxy's (`core/src/authz.rs`), as a policy for workloads, and
//! the waypoint's (`waypoint/src/rbac.rs`), as a policy with targets. Each policy goes through both translations and onto both wires.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::net::SocketAddr;
use std::sync::Arc;

use fairway_controller::l7::authorizers::Authorizers;
use fairway_controller::l7::authz;
use fairway_controller::l7::proxies::Proxies;
use fairway_controller::l7::render::listener::{Before, Heard, http, tcp};
use fairway_controller::l7::tokens::KeySets;
use fairway_controller::translate::policy::outcome;
use fairway_core::facts::ConnectionFacts;
use fairway_core::ident::Identity;
use fairway_core::policy::Policy;
use fairway_core::snapshot::{Update, World};
use fairway_core::source::istio::AuthorizationPolicy;
use fairway_core::upgrade::Upgrades;
use fairway_core::workload::Workload;
use fairway_proto::security::Authorization;
use fairway_waypoint::config::{Listener, Rules, listener};
use fairway_waypoint::facts::{Facts, Head};
use fairway_waypoint::rbac;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

const NAMESPACE: &str = "shop";
const ROOT: &str = "fairway-system";

/// Who asks, as both know it.
#[derive(Clone, Debug)]
struct Connection {
    identity: Identity,
    source: SocketAddr,
    destination: SocketAddr,
}

fn connection(identity: (&str, &str, &str), source: &str, destination: &str) -> Connection {
    let (domain, namespace, account) = identity;
    let identity = Identity::new(domain, namespace, account).unwrap();
    Connection { identity, source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// What both make of policies.
struct Both {
    node: Vec<Authorization>,
    waypoint: Vec<Arc<authz::Policy>>,
}

/// The same policies, once for workloads and once for a service; nothing where they cannot be read, which both must find.
fn translated(specs: &[Value]) -> Option<Both> {
    let read = |spec: &Value, index: usize| {
        let metadata = json!({"name": format!("p{index}"), "namespace": NAMESPACE});
        let policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec
        });
        let policy: AuthorizationPolicy = serde_json::from_value(policy).unwrap();
        outcome(&policy, ROOT, &Authorizers::default())
    };
    let mut both = Some(Both { node: Vec::new(), waypoint: Vec::new() });
    for (index, spec) in specs.iter().enumerate() {
        let mut attached = spec.clone();
        attached["targetRefs"] = json!([{"kind": "Service", "group": "", "name": "web"}]);
        let (node, waypoint) = (read(spec, index), read(&attached, index));
        assert_eq!(node.is_ok(), waypoint.is_ok(), "both can read it, or neither: {node:?}, {waypoint:?}");
        let (Ok(node), Ok(waypoint)) = (node, waypoint) else {
            both = None;
            continue;
        };
        if let Some(both) = &mut both {
            both.node.push(node.enforced.expect("is for node proxies").0);
            both.waypoint.push(waypoint.attached.expect("is for waypoints"));
        }
    }
    both
}

/// Whether the node proxy of the workload that is dialled lets it pass.
fn node_allows(policies: &[Authorization], connection: &Connection) -> bool {
    let pod = fairway_proto::workload::Workload {
        uid: "Kubernetes//Pod/shop/web".into(),
        name: "web".into(),
        namespace: NAMESPACE.into(),
        ..Default::default()
    };
    let mut updates = vec![Update::from(Workload::try_from(pod).unwrap())];
    for message in policies {
        // Over the wire.
        let message = Authorization::decode(message.encode_to_vec().as_slice()).unwrap();
        updates.push(Update::from(Policy::try_from(message).expect("what the controller says is understood")));
    }
    let snapshot = World::complete().apply(updates);
    let facts = ConnectionFacts {
        source: connection.source,
        source_identity: Some(connection.identity.clone()),
        original: None,
        destination: connection.destination,
        http: None,
    };
    let pod = snapshot.workloads().next().unwrap();
    fairway_core::authz::decide(&snapshot.view_of(pod), &facts).is_allowed()
}

/// Whether the waypoint before the service that is dialled lets it pass: a connection, or a request on it.
fn waypoint_allows(policies: &[Arc<authz::Policy>], connection: &Connection, request: Option<Head<'_>>) -> bool {
    let policies: Vec<&authz::Policy> = policies.iter().map(Arc::as_ref).collect();
    let addresses = [connection.destination.ip()];
    let keys = KeySets::default();
    let message = match request {
        None => tcp("web:80", (&addresses[..], 80), &policies, (&[], false), None, Heard::default()),
        Some(_) => {
            let before = Before {
                policies: &policies,
                proxies: &Proxies::default(),
                authorizers: &Authorizers::default(),
                tokens: &[],
                keys: &keys,
                rates: &[],
                limiter: None,
                sees: None,
                traced: None,
                logged: None,
                counted: None,
                upgrades: &Upgrades::usual(),
            };
            http("web:80", &addresses, 80, before, std::iter::empty())
        }
    };
    let read = listener(&message.expect("a service has addresses").encode_to_vec())
        .expect("what the controller says is understood");
    let rules: Vec<Rules> = match read {
        Listener::Http(http) => http.policies,
        Listener::Opaque(opaque) => opaque.chain(None).unwrap().policies.clone(),
    };
    let facts = Facts::of(&connection.identity, connection.source.ip(), connection.destination);
    let facts = match request {
        None => facts,
        // There are no proxies before it.
        Some(head) => facts.of_request(head, Some(connection.source.ip())),
    };
    rbac::judge(&rules, &facts).is_ok()
}

/// Verdicts: of the node proxy, of the waypoint on a connection, and of the waypoint on `GET /a` of `web.shop`.
fn verdicts(both: &Both, connection: &Connection) -> [bool; 3] {
    let headers = http::HeaderMap::from_iter([("x-a".parse().unwrap(), http::HeaderValue::from_static("b"))]);
    let head =
        Head { method: "GET", authority: "web.shop", path: Some("/a"), query: None, headers: &headers, claims: None };
    [
        node_allows(&both.node, connection),
        waypoint_allows(&both.waypoint, connection, None),
        waypoint_allows(&both.waypoint, connection, Some(head)),
    ]
}

/// What requests show, only waypoints see, and only of requests: of a connection each takes the part that it cannot know for one
/// that refuses. All else is the same everywhere.
#[test]
fn policies_mean_the_same_everywhere() {
    let web = connection(("cluster.local", "shop", "web"), "10.0.0.1:4000", "10.96.0.1:80");
    let from = |source: Value| json!({"rules": [{"from": [{"source": source}]}]});
    let to = |operation: Value| json!({"rules": [{"to": [{"operation": operation}]}]});
    let deny = |mut spec: Value| {
        spec["action"] = "DENY".into();
        spec
    };
    let (yes, no) = ([true; 3], [false; 3]);
    let seen_by_requests = [false, false, true];
    let rows = [
        ("no rules", json!({}), Some(no)),
        ("no rules that refuse", json!({"action": "DENY"}), Some(yes)),
        ("an empty rule", json!({"rules": [{}]}), Some(yes)),
        ("an empty rule that refuses", json!({"action": "DENY", "rules": [{}]}), Some(no)),
        ("an empty source", from(json!({})), None),
        ("an empty operation", to(json!({})), None),
        ("no source in from", json!({"rules": [{"from": [{}]}]}), None),
        ("a condition of nothing", json!({"rules": [{"when": [{"key": "source.ip"}]}]}), None),
        ("a key that nobody knows", json!({"rules": [{"when": [{"key": "source.name", "values": ["a"]}]}]}), None),
        ("principal", from(json!({"principals": ["cluster.local/ns/shop/sa/web"]})), Some(yes)),
        ("another principal", from(json!({"principals": ["cluster.local/ns/shop/sa/we"]})), Some(no)),
        ("start of a principal", from(json!({"principals": ["cluster.local/ns/shop/*"]})), Some(yes)),
        ("end of a principal", from(json!({"principals": ["*/sa/web"]})), Some(yes)),
        ("all of a principal as its end", from(json!({"principals": ["*cluster.local/ns/shop/sa/web"]})), Some(yes)),
        ("more than a principal as its end", from(json!({"principals": ["*/cluster.local/ns/shop/sa/web"]})), Some(no)),
        ("the scheme as the end", from(json!({"principals": ["*//cluster.local/ns/shop/sa/web"]})), Some(no)),
        ("a principal with its scheme", from(json!({"principals": ["spiffe://cluster.local/ns/shop/sa/web"]})), None),
        ("the scheme as a start", from(json!({"principals": ["spiffe:*"]})), Some(no)),
        ("any principal", from(json!({"principals": ["*"]})), Some(yes)),
        ("not the principal", from(json!({"notPrincipals": ["*/sa/web"]})), Some(no)),
        ("namespace", from(json!({"namespaces": ["shop"]})), Some(yes)),
        ("start of a namespace", from(json!({"namespaces": ["sh*"]})), Some(yes)),
        ("end of a namespace", from(json!({"namespaces": ["*op"]})), Some(yes)),
        ("any namespace", from(json!({"namespaces": ["*"]})), Some(yes)),
        ("more than a namespace", from(json!({"namespaces": ["shop/sa/*"]})), Some(no)),
        ("end of what is before a namespace", from(json!({"namespaces": ["*/ns/shop"]})), Some(no)),
        ("not the namespace", from(json!({"notNamespaces": ["other", "shop"]})), Some(no)),
        ("not other namespaces", from(json!({"notNamespaces": ["shop-2"]})), Some(yes)),
        ("service account", from(json!({"serviceAccounts": ["web"]})), Some(yes)),
        ("service account elsewhere", from(json!({"serviceAccounts": ["other/web"]})), Some(no)),
        ("service account with a dot", from(json!({"serviceAccounts": ["w.b"]})), Some(no)),
        ("not the service account", from(json!({"notServiceAccounts": ["shop/web"]})), Some(no)),
        ("trust domain", from(json!({"trustDomains": ["cluster.local"]})), Some(yes)),
        ("start of a trust domain", from(json!({"trustDomains": ["cluster*"]})), Some(yes)),
        ("half a trust domain", from(json!({"trustDomains": ["cluster"]})), Some(no)),
        ("end of a trust domain", from(json!({"trustDomains": ["*local"]})), None),
        ("not the trust domain", from(json!({"notTrustDomains": ["cluster.local"]})), Some(no)),
        ("trust domain and principal", from(json!({"trustDomains": ["a"], "principals": ["b"]})), None),
        ("address", from(json!({"ipBlocks": ["10.0.0.1"]})), Some(yes)),
        ("block of addresses", from(json!({"ipBlocks": ["10.9.9.9/8"]})), Some(yes)),
        ("block of IPv6", from(json!({"ipBlocks": ["::/0"]})), Some(no)),
        ("mapped block", from(json!({"ipBlocks": ["::ffff:10.0.0.0/104"]})), Some(yes)),
        ("mapped block elsewhere", from(json!({"ipBlocks": ["::ffff:10.1.0.0/112"]})), Some(no)),
        ("not the block", from(json!({"notIpBlocks": ["10.0.0.0/8"]})), Some(no)),
        ("no block", from(json!({"ipBlocks": ["10.0.0.0/33"]})), None),
        ("two of one source", from(json!({"namespaces": ["shop"], "ipBlocks": ["10.1.0.0/16"]})), Some(no)),
        ("port", to(json!({"ports": ["80"]})), Some(yes)),
        ("another port", to(json!({"ports": ["8080"]})), Some(no)),
        ("not the port", to(json!({"notPorts": ["80"]})), Some(no)),
        ("no port", to(json!({"ports": ["0"]})), None),
        // What requests show.
        ("method", to(json!({"methods": ["GET"]})), Some(seen_by_requests)),
        ("another method", to(json!({"methods": ["PUT"]})), Some(no)),
        ("not another method", to(json!({"notMethods": ["PUT"]})), Some(seen_by_requests)),
        ("refuse a method", deny(to(json!({"methods": ["GET"]}))), Some(no)),
        ("refuse another method", deny(to(json!({"methods": ["PUT"]}))), Some(seen_by_requests)),
        ("refuse all but a method", deny(to(json!({"notMethods": ["GET"]}))), Some(seen_by_requests)),
        ("refuse a path of another port", deny(to(json!({"paths": ["/a"], "ports": ["81"]}))), Some(yes)),
        (
            "refuse another path of the port",
            deny(to(json!({"paths": ["/b"], "ports": ["80"]}))),
            Some(seen_by_requests),
        ),
        (
            "refuse a path or a port",
            deny(json!({"rules": [{"to": [{"operation": {"paths": ["/b"]}}, {"operation": {"ports": ["81"]}}]}]})),
            Some(seen_by_requests),
        ),
        (
            "a header",
            json!({"rules": [{"when": [{"key": "request.headers[x-a]", "values": ["b"]}]}]}),
            Some(seen_by_requests),
        ),
        ("a principal of a request", from(json!({"requestPrincipals": ["a/b"]})), Some(no)),
        ("refuse who has no token", deny(from(json!({"notRequestPrincipals": ["*"]}))), Some(no)),
        ("address before a proxy", from(json!({"remoteIpBlocks": ["10.0.0.0/8"]})), Some(seen_by_requests)),
        ("another address before a proxy", from(json!({"remoteIpBlocks": ["10.1.0.0/16"]})), Some(no)),
        ("not an address before a proxy", from(json!({"notRemoteIpBlocks": ["10.1.0.0/16"]})), Some(seen_by_requests)),
        ("refuse an address before a proxy", deny(from(json!({"remoteIpBlocks": ["10.0.0.0/8"]}))), Some(no)),
        (
            "refuse another address before a proxy",
            deny(from(json!({"remoteIpBlocks": ["10.1.0.0/16"]}))),
            Some(seen_by_requests),
        ),
        (
            "a condition of the address before a proxy",
            json!({"rules": [{"when": [{"key": "remote.ip", "values": ["10.0.0.1"]}]}]}),
            Some(seen_by_requests),
        ),
        (
            "refuse an address before a proxy, elsewhere",
            deny(from(json!({"remoteIpBlocks": ["10.1.0.0/16"], "namespaces": ["other"]}))),
            Some(yes),
        ),
        // Requests come without TLS; elsewhere nobody looks for it.
        ("name of TLS", json!({"rules": [{"when": [{"key": "connection.sni", "values": ["a"]}]}]}), Some(no)),
        (
            "not the name of TLS",
            json!({"rules": [{"when": [{"key": "connection.sni", "notValues": ["a"]}]}]}),
            Some(seen_by_requests),
        ),
        (
            "refuse a name of TLS",
            deny(json!({"rules": [{"when": [{"key": "connection.sni", "values": ["a"]}]}]})),
            Some(seen_by_requests),
        ),
        // What nobody can tell.
        (
            "metadata of a filter",
            json!({"rules": [{"when": [{"key": "experimental.envoy.filters.network.mysql_proxy[db]", "values": ["a"]}]}]}),
            Some(no),
        ),
        // Conditions.
        (
            "all conditions",
            json!({"rules": [{"when": [
                {"key": "source.namespace", "values": ["shop"]}, {"key": "source.principal", "notValues": ["*/sa/other"]},
                {"key": "source.trustDomain", "values": ["cluster.local"]}, {"key": "source.serviceAccount", "values": ["web"]},
                {"key": "source.ip", "values": ["10.0.0.0/24"]}, {"key": "destination.port", "values": ["80"]},
                {"key": "destination.ip", "values": ["10.96.0.0/16"], "notValues": ["10.96.0.2"]}
            ]}]}),
            Some(yes),
        ),
        (
            "a condition and its opposite",
            json!({"rules": [{"when": [{"key": "source.namespace", "values": ["shop"], "notValues": ["sh*"]}]}]}),
            Some(no),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, spec, expected) in rows {
        let found = translated(&[spec]).map(|both| verdicts(&both, &web));
        if found != expected {
            wrong.push(format!("{name}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Values near those of the connections below, so that they are met about as often as not.
fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(values), 0..3)
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/*",
    "cluster.local*",
    "*/sa/web",
    "*web",
    "*/cluster.local/ns/shop/sa/web",
    "other.example/*",
];
const NAMESPACES: &[&str] = &["*", "shop", "shop*", "sh*", "*op", "*-2", "other", "default"];
const ACCOUNTS: &[&str] = &["web", "shop/web", "other/web", "shop-2/web-2"];
const DOMAINS: &[&str] = &["*", "cluster.local", "cluster*", "other.example"];
const BLOCKS: &[&str] = &["10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::1", "::ffff:10.0.0.1"];
const PORTS: &[&str] = &["80", "8080", "443"];

/// What only requests show, in any part of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Connections,
    Requests,
}

fn put(object: &mut Value, name: &str, values: &[&str]) {
    if !values.is_empty() {
        object[name] = values.into();
    }
}

fn source(shows: Shows) -> impl Strategy<Value = Value> {
    let names = (some(PRINCIPALS), some(PRINCIPALS), some(NAMESPACES), some(NAMESPACES), some(DOMAINS), some(DOMAINS));
    let others = (some(ACCOUNTS), some(ACCOUNTS), some(BLOCKS), some(BLOCKS), any::<bool>(), any::<[bool; 2]>());
    (names, others).prop_map(move |(names, others)| {
        let mut source = json!({});
        let (yes, not, in_it, not_in_it, domain, not_domain) = names;
        let (account, not_account, block, not_block, by_account, unseen) = others;
        if by_account {
            put(&mut source, "serviceAccounts", &account);
            put(&mut source, "notServiceAccounts", &not_account);
        } else {
            put(
                &mut source,
                if domain.is_empty() { "principals" } else { "namespaces" },
                if domain.is_empty() { &yes } else { &in_it },
            );
            put(&mut source, "notPrincipals", &not);
            put(&mut source, "notNamespaces", &not_in_it);
            put(&mut source, "trustDomains", &domain);
        }
        put(&mut source, "notTrustDomains", &not_domain);
        put(&mut source, "ipBlocks", &block);
        put(&mut source, "notIpBlocks", &not_block);
        if shows == Shows::Requests {
            put(&mut source, "requestPrincipals", if unseen[0] { &["*"] } else { &[] });
            put(&mut source, "notRemoteIpBlocks", if unseen[1] { &["10.0.0.0/8"] } else { &[] });
        }
        source
    })
}

fn operation(shows: Shows) -> impl Strategy<Value = Value> {
    (some(PORTS), some(PORTS), some(&["GET", "PUT", "*"]), some(&["/a", "/b*", "*"]), some(&["*.shop", "other"]))
        .prop_map(move |(port, not_port, method, not_path, host)| {
            let mut operation = json!({});
            put(&mut operation, "ports", &port);
            put(&mut operation, "notPorts", &not_port);
            if shows == Shows::Requests {
                put(&mut operation, "methods", &method);
                put(&mut operation, "notPaths", &not_path);
                put(&mut operation, "hosts", &host);
            }
            operation
        })
}

fn condition(shows: Shows) -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        ("source.principal", PRINCIPALS),
        ("source.namespace", NAMESPACES),
        ("source.trustDomain", DOMAINS),
        ("source.serviceAccount", ACCOUNTS),
        ("source.ip", BLOCKS),
        ("destination.ip", &["10.96.0.1", "10.96.0.0/16", "fd00:96::/64"][..]),
        ("destination.port", PORTS),
        ("request.headers[x-a]", &["b", "c", "*"][..]),
        ("remote.ip", BLOCKS),
        ("connection.sni", &["a", "*.b", "*"][..]),
    ]);
    keys.prop_filter("only requests show it", move |(key, _)| {
        shows == Shows::Requests || !(key.starts_with("re") || *key == "connection.sni")
    })
    .prop_flat_map(|(key, values)| (Just(key), some(values), some(values)))
    .prop_map(|(key, values, not_values)| {
        let mut condition = json!({"key": key});
        put(&mut condition, "values", &values);
        put(&mut condition, "notValues", &not_values);
        condition
    })
}

/// A policy; what cannot be read in it is left out of it, so that few are.
fn policy(shows: Shows) -> impl Strategy<Value = Value> {
    let from = prop::collection::vec(source(shows), 0..3);
    let to = prop::collection::vec(operation(shows), 0..3);
    let when = prop::collection::vec(condition(shows), 0..2);
    let rule = (from, to, when).prop_map(|(from, to, when)| {
        let is_empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        let listed = |list: Vec<Value>, name: &str| -> Vec<Value> {
            list.into_iter().filter(|it| !is_empty(it)).map(|it| json!({ name: it })).collect()
        };
        let when: Vec<Value> = when.into_iter().filter(|it| it.as_object().is_some_and(|it| it.len() > 1)).collect();
        json!({"from": listed(from, "source"), "to": listed(to, "operation"), "when": when})
    });
    (any::<bool>(), prop::collection::vec(rule, 0..3))
        .prop_map(|(denies, rules)| json!({"action": if denies { "DENY" } else { "ALLOW" }, "rules": rules}))
}

fn some_connection() -> impl Strategy<Value = Connection> {
    let identity = prop::sample::select(vec![
        ("cluster.local", "shop", "web"),
        ("cluster.local", "shop", "default"),
        ("cluster.local", "shop-2", "web-2"),
        ("cluster.local.example", "shop", "web"),
        ("other.example", "other", "web"),
    ]);
    let source = prop::sample::select(vec!["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "192.0.2.1:1", "[fd00::1]:1"]);
    let destination = prop::sample::select(vec!["10.96.0.1:80", "[fd00:96::1]:443", "[::ffff:10.96.0.1]:8080"]);
    (identity, source, destination).prop_map(|(identity, from, to)| connection(identity, from, to))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_connections_show_is_decided_in_the_same_way(
        specs in prop::collection::vec(policy(Shows::Connections), 0..4), connection in some_connection()
    ) {
        if let Some(both) = translated(&specs) {
            let [node, opaque, request] = verdicts(&both, &connection);
            prop_assert_eq!((node, node), (opaque, request), "node, waypoint's connection and request: {:?}", specs);
        }
    }

    /// Whoever sees requests knows more, and so never refuses what may pass unseen.
    #[test]
    fn what_requests_show_never_widens_access_where_they_are_not_seen(
        specs in prop::collection::vec(policy(Shows::Requests), 0..4), connection in some_connection()
    ) {
        if let Some(both) = translated(&specs) {
            let [node, opaque, request] = verdicts(&both, &connection);
            prop_assert_eq!(node, opaque, "node and waypoint's connection: {:?}", &specs);
            prop_assert!(!node || request, "a request is refused where a connection is not: {:?}", specs);
        }
    }
}
