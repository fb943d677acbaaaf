//! Tests of the dump: one resource of each type as Envoy's readers expect it, and what was refused.

use std::time::{Duration, SystemTime};

use fairway_core::io::admin::Request;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use super::*;

const NAME: &str = "web.shop:80";

fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

const MOMENT: &str = "1970-01-01T00:00:01.000Z";

/// One of each, the second route refused, and a cluster that never was good.
fn held() -> (Held, [(Kind, Value); 4]) {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let listener = json!({
        "name": NAME,
        "api_listener": {"api_listener": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": {"config_source": {"ads": {}}, "route_config_name": NAME},
        }},
    });
    let route = json!({
        "name": NAME,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "route": {"cluster": NAME, "timeout": "5s"},
            "request_headers_to_add": [{
                "header": {"key": "Authorization", "value": "Basic c2VjcmV0"},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }],
        }]}],
    });
    let cluster = json!({
        "name": NAME, "type": "EDS", "connect_timeout": "0.250s",
        "circuit_breakers": {"thresholds": [{"max_requests": 7}]},
    });
    let address = json!({"socket_address": {"address": "10.0.0.1", "port_value": 8080}});
    let endpoints =
        json!({"cluster_name": NAME, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]});
    let all =
        [(Kind::Listener, listener), (Kind::Routes, route), (Kind::Cluster, cluster), (Kind::Endpoints, endpoints)];
    let held = Held::at(moment);
    for (kind, value) in &all {
        let descriptor = pool.get_message_by_name(kind.url().rsplit('/').next().unwrap()).unwrap();
        let bytes = DynamicMessage::deserialize(descriptor, value).unwrap().encode_to_vec();
        held.take(*kind, NAME, "v1", &bytes);
    }
    held.refuse(Kind::Routes, NAME, "v2", "virtual_hosts[0].x: is not understood");
    held.refuse(Kind::Cluster, "never", "v1", "type: is not understood");
    (held, all)
}

fn asked(query: &str) -> Result<Asked, String> {
    let page = Request {
        method: http::Method::GET,
        path: "/config_dump".to_owned(),
        query: Some(query.to_owned()),
        headers: http::HeaderMap::new(),
        peer: ([127, 0, 0, 1], 1).into(),
    };
    Asked::read(&page).map_err(|error| error.to_string())
}

fn shown(held: &Held, query: &str) -> Value {
    let node = Node { id: "waypoint~10.0.0.9~way.shop~shop".to_owned(), ..Node::default() };
    let besides = Map::from_iter([("workload".to_owned(), "way".into())]);
    let dump = Dump { held: held.clone(), node, certificates: Vec::new(), besides };
    let mut written = Vec::new();
    dump.write(&asked(query).unwrap(), &mut written).unwrap();
    serde_json::from_slice(&written).unwrap()
}

/// As it is shown: with its type, and without credentials.
fn typed(kind: Kind, value: &Value) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().insert("@type".to_owned(), kind.url().into());
    redact(&mut value);
    value
}

#[test]
fn credentials_are_not_shown_where_they_are_written_nor_where_they_are_compared() {
    let shown = |mut value: Value| {
        redact(&mut value);
        value
    };
    for name in ["Authorization", "cookie", "x-auth-token", "x-api-key"] {
        assert_eq!(shown(json!({"key": name, "value": "s3"})), json!({"key": name, "value": REDACTED}));
        let compared = json!({"name": name, "string_match": {"exact": "s3"}, "invert_match": true});
        assert_eq!(shown(compared), json!({"name": name, "string_match": REDACTED, "invert_match": true}));
    }
    for value in [json!({"key": "x-team", "value": "a"}), json!({"name": "x-team", "string_match": {"exact": "a"}})] {
        assert_eq!(shown(value.clone()), value);
    }
}

#[test]
fn each_type_is_shown_as_envoy_shows_it() {
    let (held, [listener, route, cluster, endpoints]) = held();
    let [listener, route, cluster, endpoints] =
        [listener, route, cluster, endpoints].map(|(kind, it)| typed(kind, &it));
    assert_eq!(route["virtual_hosts"][0]["routes"][0]["request_headers_to_add"][0]["header"]["value"], REDACTED);
    let of = |part: &str| format!("type.googleapis.com/envoy.admin.v3.{part}");
    let state = |field: &str, resource: &Value| json!({"version_info": "v1", field: resource, "last_updated": MOMENT});
    let taken = |field: &str, resource: &Value| {
        let mut state = state(field, resource);
        state["client_status"] = "ACKED".into();
        state
    };
    let failed = |kind: Kind, name: &str, version: &str, details: &str| {
        json!({
            "failed_configuration": {"@type": kind.url(), "name": name}, "last_update_attempt": MOMENT,
            "details": details, "version_info": version,
        })
    };
    let mut refused = state("route_config", &route);
    refused["client_status"] = "NACKED".into();
    refused["error_state"] = failed(Kind::Routes, NAME, "v2", "virtual_hosts[0].x: is not understood");
    let never = json!({
        "cluster": {"@type": Kind::Cluster.url(), "name": "never"}, "client_status": "NACKED",
        "error_state": failed(Kind::Cluster, "never", "v1", "type: is not understood"),
    });
    let bootstrap =
        json!({"@type": of("BootstrapConfigDump"), "bootstrap": {"node": {"id": "waypoint~10.0.0.9~way.shop~shop"}}});
    let clusters =
        json!({"@type": of("ClustersConfigDump"), "dynamic_active_clusters": [never, taken("cluster", &cluster)]});
    let listed = json!({"name": NAME, "active_state": state("listener", &listener), "client_status": "ACKED"});
    let listeners = json!({"@type": of("ListenersConfigDump"), "dynamic_listeners": [listed]});
    let routes = json!({"@type": of("RoutesConfigDump"), "dynamic_route_configs": [refused]});
    let secrets = json!({
        "@type": of("SecretsConfigDump"), "dynamic_active_secrets": [], "dynamic_warming_secrets": [],
    });
    assert_eq!(
        shown(&held, ""),
        json!({"configs": [bootstrap, clusters, listeners, routes, secrets], "workload": "way"})
    );
    let part =
        json!({"@type": of("EndpointsConfigDump"), "dynamic_endpoint_configs": [taken("endpoint_config", &endpoints)]});
    assert_eq!(shown(&held, "include_eds")["configs"][2], part);
    let mut one = taken("endpoint_config", &endpoints);
    one["@type"] = of("EndpointsConfigDump.DynamicEndpointConfig").into();
    assert_eq!(shown(&held, "resource=dynamic_endpoint_configs"), json!({"configs": [one]}));
}

#[test]
fn a_listener_that_never_was_good_has_a_name_and_an_error_alone() {
    let held = Held::at(moment);
    held.refuse(Kind::Listener, NAME, "v1", "filter_chains: is missing");
    let listener = &shown(&held, "")["configs"][2]["dynamic_listeners"][0];
    assert_eq!((&listener["name"], listener.get("active_state")), (&NAME.into(), None));
    assert_eq!(listener["error_state"]["details"], "filter_chains: is missing");
}

#[test]
fn what_is_asked_for_is_shown_and_nothing_else() {
    let held = Held::default();
    let count = 3 * AT_A_TIME + 1;
    for number in 0..count {
        held.take(Kind::Cluster, &format!("c{number}"), "1", b"");
    }
    let clusters = |query: &str| shown(&held, &format!("resource=dynamic_active_clusters{query}"))["configs"].clone();
    for (query, expected) in
        [("", count), ("&name_regex=c1", 1), ("&name_regex=c1%7Cc2", 2), ("&name_regex=1", 0), ("&name_regex=c.", 10)]
    {
        assert_eq!(clusters(query).as_array().unwrap().len(), expected, "{query}");
    }
    for (query, problem) in [
        ("resource=static_listeners", "there are: dynamic_active_clusters"),
        ("mask=bootstrap", "mask is \"bootstrap\": fields are not picked"),
        ("name_regex=(", "name_regex is \"(\""),
        ("name_regex=(a{500}){500}", "name_regex"),
    ] {
        let error = asked(query).unwrap_err();
        assert!(error.contains(problem), "{query}: {error}");
    }
}

/// A reader that leaves ends the work.
#[test]
fn nobody_writes_for_a_reader_that_has_left() {
    struct Left;
    impl Write for Left {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dump = Dump { held: held().0, node: Node::default(), certificates: Vec::new(), besides: Map::new() };
    assert!(dump.write(&Asked::default(), &mut Left).is_err());
}
