//! Envoy as a waypoint, the way Istio configures it: a listener that ends tunnels, one inside for each port of the services, and
//! one inside that begins tunnels to the endpoint's node.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::authority::ISSUER;
use super::manifests::{
    ATTEMPTS, BODIES, BODIES2, CROWD_PORT, ECHO, GRPC, HTTP2, POLICIES, RETRIED, RICH, ROUTES, TARGETS, crowd_address,
    crowd_name,
};
use crate::sink::{BODIES_PORT, BODIES2_PORT, ECHO_PORT, HTTP_PORT, HTTP2_PORT};

/// Port of tunnels.
const HBONE: u16 = 15008;

/// Where tunnels to the endpoint lead.
const ENDS: [u16; 5] = [HTTP_PORT, HTTP2_PORT, ECHO_PORT, BODIES_PORT, BODIES2_PORT];

/// What Envoy is told.
pub(super) struct Given<'a> {
    /// The endpoint.
    pub(super) server: IpAddr,
    /// Keys that check tokens.
    pub(super) keys: &'a str,
    /// Files of its certificate, of the certificate's key, and of the mesh's root.
    pub(super) chain: String,
    pub(super) key: String,
    pub(super) root: String,
}

/// The bootstrap file; everything is in it.
pub(super) fn configuration(given: &Given<'_>) -> Value {
    let mut listeners = vec![terminate(given)];
    listeners.extend(TARGETS.iter().map(|(port, ..)| service(*port, given)));
    listeners.extend(ENDS.map(|port| originate(port, given.server)));
    let mut clusters: Vec<Value> = TARGETS.iter().map(|(port, ..)| inside(&format!("service-{port}"), false)).collect();
    clusters.extend(ENDS.map(|port| inside(&format!("originate-{port}"), matches!(port, HTTP2_PORT | BODIES2_PORT))));
    clusters.push(tunnel(given));
    json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "bootstrap_extensions": [internal_listeners()],
    })
}

/// A bootstrap file of many services and nothing else: one listener inside with a chain of filters for the address of each, as
/// Istio writes it, each with routes and a cluster of its own.
pub(super) fn crowd(server: IpAddr, services: u32) -> Value {
    let chain = |number: u32| {
        let name = crowd_name(number);
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name}});
        let manager = manager(json!({
            "stat_prefix": "service",
            "normalize_path": true,
            "merge_slashes": true,
            "access_log": [access_log()],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [router()],
        }));
        let range = json!({"address_prefix": crowd_address(number), "prefix_len": 32});
        json!({
            "name": name,
            "filter_chain_match": {"prefix_ranges": [range], "destination_port": CROWD_PORT},
            "filters": [manager],
        })
    };
    let cluster = |number: u32| {
        let name = crowd_name(number);
        let address = json!({"socket_address": {"address": server, "port_value": HTTP_PORT}});
        let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
        json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}})
    };
    let listener = json!({
        "name": "main_internal",
        "internal_listener": {},
        "filter_chains": (0..services).map(chain).collect::<Vec<_>>(),
    });
    json!({
        "static_resources": {
            "listeners": [listener],
            "clusters": (0..services).map(cluster).collect::<Vec<_>>(),
        },
        "bootstrap_extensions": [internal_listeners()],
    })
}

/// What lets Envoy have listeners inside.
fn internal_listeners() -> Value {
    json!({
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": of("bootstrap.internal_listener.v3.InternalListener")},
    })
}

/// The type of a part of Envoy.
fn of(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}

fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {"@type": of("filters.http.router.v3.Router")}})
}

fn manager(mut fields: Value) -> Value {
    fields["@type"] = json!(of("filters.network.http_connection_manager.v3.HttpConnectionManager"));
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": fields})
}

/// Both sides prove who they are, over TLS 1.3.
fn common_tls(given: &Given<'_>) -> Value {
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{"certificate_chain": {"filename": given.chain}, "private_key": {"filename": given.key}}],
        "validation_context": {"trusted_ca": {"filename": given.root}},
    })
}

/// Ends tunnels; what they are for is in the port that was asked for.
fn terminate(given: &Given<'_>) -> Value {
    let hosts: Vec<Value> = TARGETS
        .iter()
        .map(|(port, ..)| {
            let action = json!({"cluster": format!("service-{port}"),
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]});
            json!({"name": port.to_string(), "domains": [format!("*:{port}")],
                "routes": [{"match": {"connect_matcher": {}}, "route": action}]})
        })
        .collect();
    let tls = json!({"@type": of("transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": common_tls(given), "require_client_certificate": true});
    let manager = manager(json!({
        "stat_prefix": "terminate",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": true, "max_concurrent_streams": 1024},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [router()],
    }));
    json!({
        "name": "terminate",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": HBONE}},
        "filter_chains": [{
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}, "filters": [manager],
        }],
    })
}

/// What stands before one port of the services.
fn service(port: u16, given: &Given<'_>) -> Value {
    let target = TARGETS.iter().find(|(known, ..)| *known == port).map_or(HTTP_PORT, |(_, _, target)| *target);
    let cluster = format!("originate-{target}");
    let filter = match port {
        ECHO => tcp("service", &cluster, &Value::Null),
        _ => {
            let (routes, filters) = match port {
                RICH => (rich_routes(&cluster), rich_filters(given.keys)),
                BODIES | BODIES2 | RETRIED => (vec![body_route(&cluster, port == RETRIED)], vec![router()]),
                _ => (vec![json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}})], vec![router()]),
            };
            manager(json!({
                "stat_prefix": "service",
                "codec_type": if matches!(port, HTTP2 | GRPC | BODIES2) { "HTTP2" } else { "AUTO" },
                "normalize_path": true,
                "merge_slashes": true,
                "generate_request_id": true,
                "use_remote_address": true,
                "access_log": [access_log()],
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                "http_filters": filters,
            }))
        }
    };
    json!({"name": format!("service-{port}"), "internal_listener": {}, "filter_chains": [{"filters": [filter]}]})
}

fn access_log() -> Value {
    json!({"name": "envoy.access_loggers.stdout",
        "typed_config": {"@type": of("access_loggers.stream.v3.StdoutAccessLog")}})
}

fn tcp(prefix: &str, cluster: &str, tunneling: &Value) -> Value {
    let mut fields =
        json!({"@type": of("filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": prefix, "cluster": cluster});
    if !tunneling.is_null() {
        fields["tunneling_config"] = tunneling.clone();
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": fields})
}

/// Without Envoy's timeout of 15 s, as Istio has it; failed requests are tried again as those of an HTTPRoute are.
fn body_route(cluster: &str, is_retried: bool) -> Value {
    let mut action = json!({"cluster": cluster, "timeout": "0s"});
    if is_retried {
        let on = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
        action["retry_policy"] = json!({"retry_on": on, "num_retries": ATTEMPTS, "retriable_status_codes": [503]});
    }
    json!({"match": {"prefix": "/"}, "route": action})
}

fn rich_routes(cluster: &str) -> Vec<Value> {
    (0..ROUTES)
        .map(|number| {
            let prefix = format!("/route-{number}");
            json!({"match": {"path_separated_prefix": prefix}, "route": {"cluster": cluster}})
        })
        .collect()
}

fn rich_filters(keys: &str) -> Vec<Value> {
    let provider = json!({"issuer": ISSUER, "local_jwks": {"inline_string": keys}, "forward": true,
        "payload_in_metadata": "token"});
    let any = json!({"requires_any": {"requirements": [{"provider_name": "users"}, {"allow_missing": {}}]}});
    let tokens = json!({"@type": of("filters.http.jwt_authn.v3.JwtAuthentication"), "providers": {"users": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": any}]});
    let path = |prefix: String| json!({"url_path": {"path": {"prefix": prefix}}});
    let method = |name: &str| json!({"header": {"name": ":method", "string_match": {"exact": name}}});
    let deny = (0..POLICIES).map(|number| {
        let methods = json!({"or_rules": {"rules": [method("PUT"), method("DELETE")]}});
        let rules = json!([path(format!("/secret-{number}/")), methods]);
        (number, json!({"permissions": [{"and_rules": {"rules": rules}}], "principals": [{"any": true}]}))
    });
    let issued = json!({"metadata": {"filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "token"}, {"key": "iss"}], "value": {"string_match": {"exact": ISSUER}}}});
    let allow = (0..POLICIES)
        .map(|number| (number, json!({"permissions": [path(format!("/route-{number}"))], "principals": [issued]})));
    let rbac = |action: &str, policies: Value| {
        json!({"name": "envoy.filters.http.rbac", "typed_config": {"@type": of("filters.http.rbac.v3.RBAC"),
            "rules": {"action": action, "policies": policies}}})
    };
    let named = |policies: &mut dyn Iterator<Item = (usize, Value)>| -> Value {
        policies.map(|(number, policy)| (format!("policy-{number}"), policy)).collect::<serde_json::Map<_, _>>().into()
    };
    vec![
        json!({"name": "envoy.filters.http.jwt_authn", "typed_config": tokens}),
        rbac("DENY", named(&mut { deny })),
        rbac("ALLOW", named(&mut { allow })),
        router(),
    ]
}

/// A listener inside, as a cluster.
fn inside(listener: &str, http2: bool) -> Value {
    let address = json!({"envoy_internal_address": {"server_listener_name": listener}});
    let mut cluster = json!({
        "name": listener,
        "type": "STATIC",
        "load_assignment": {"cluster_name": listener, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "circuit_breakers": unbounded(),
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = speaking_http2();
    }
    cluster
}

/// Bounds that no load runs into.
fn unbounded() -> Value {
    let most = u32::MAX;
    json!({"thresholds": [{"max_connections": most, "max_pending_requests": most, "max_requests": most}]})
}

fn speaking_http2() -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": of("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1024}},
    }})
}

/// Begins tunnels to one port of the endpoint.
fn originate(port: u16, server: IpAddr) -> Value {
    let filter = tcp("originate", "tunnel", &json!({"hostname": format!("{server}:{port}")}));
    json!({"name": format!("originate-{port}"), "internal_listener": {}, "filter_chains": [{"filters": [filter]}]})
}

/// The endpoint's node, which ends tunnels.
fn tunnel(given: &Given<'_>) -> Value {
    let tls =
        json!({"@type": of("transport_sockets.tls.v3.UpstreamTlsContext"), "common_tls_context": common_tls(given)});
    let address = json!({"socket_address": {"address": given.server, "port_value": HBONE}});
    json!({
        "name": "tunnel",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "tunnel", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "circuit_breakers": unbounded(),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "typed_extension_protocol_options": speaking_http2(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::manifests::LAST_PATH;
    use super::*;

    #[test]
    fn every_port_leads_from_tunnel_to_tunnel() {
        let given = Given {
            server: [10, 0, 0, 1].into(),
            keys: "{}",
            chain: "/c".to_owned(),
            key: "/k".to_owned(),
            root: "/r".to_owned(),
        };
        let resources = &configuration(&given)["static_resources"];
        let names = |kind: &str| -> Vec<&str> {
            resources[kind].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
        };
        let (listeners, clusters) = (names("listeners"), names("clusters"));
        // Every cluster but the tunnels is a listener inside, and every listener inside has one.
        assert_eq!(listeners[1..], clusters[..clusters.len() - 1]);
        for (port, _, target) in TARGETS {
            assert!(
                clusters.contains(&&*format!("service-{port}")) && clusters.contains(&&*format!("originate-{target}"))
            );
        }
        let place = listeners.iter().position(|name| *name == format!("service-{RICH}")).unwrap();
        let rich = &resources["listeners"][place]["filter_chains"][0]["filters"][0]["typed_config"];
        assert_eq!(rich["route_config"]["virtual_hosts"][0]["routes"].as_array().unwrap().len(), ROUTES);
        assert_eq!(rich["http_filters"].as_array().unwrap().len(), 4);
        assert!(LAST_PATH.starts_with(&format!("/route-{}/", ROUTES - 1)));
    }
}
